"""Every parameter is described and checked, and a refusal names the parameter and the way out."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_ros.node.parameters import PER_CAMERA, RULES, NodeSettings, ParameterError, check

ROOT = Path(__file__).resolve().parents[2]

BAD_VALUES = [
    ("autostart", 1, "expected true or false"),
    ("checkpoint", 3, "expected a text"),
    ("device", "gpu", "expected auto, cpu, cuda or cuda:n"),
    ("device", "cuda:x", "expected auto, cpu, cuda or cuda:n"),
    ("threads", -1, "expected 0 to 256"),
    ("threads", 1.5, "expected an integer"),
    ("precision", "int8", "expected one of auto, fp32, bf16, fp16"),
    ("precision", True, "expected a text"),
    ("max_slots", -1, "expected 0 to 64"),
    ("max_slots", 65, "expected 0 to 64"),
    ("max_slots", 1, "a single slot"),
    ("max_slots", 7.0, "expected an integer"),
    ("max_slots", True, "expected an integer"),
    ("stop_threshold", -0.5, "expected 0 to 4096"),
    ("stop_threshold", -2.0, "expected -1 to 4096"),
    ("stop_threshold", math.nan, "expected -1 to 4096"),
    ("stop_threshold", math.inf, "expected -1 to 4096"),
    ("stop_threshold", "20", "expected a number"),
    ("mask_source", "encoder", "expected one of auto, decoder, attention"),
    ("fit", "stretch", "expected one of resize, crop"),
    ("image_topics", [], "expected 1 to 16 topics"),
    ("image_topics", [f"/camera_{number}" for number in range(17)], "expected 1 to 16 topics"),
    ("image_topics", ["/a", "/b", "/a"], "a topic is listed twice"),
    ("image_topics", ["/a", ""], "must not be empty"),
    ("image_topics", ["/x/compressedDepth"], "/x/compressedDepth carries depth, not images"),
    (
        "image_topics",
        ["/a/image_raw", "/b", "/a/image_raw/compressed"],
        "/a/image_raw and /a/image_raw/compressed are the same camera",
    ),
    ("image_topics", ["/camera/image raw"], "topic name must not contain"),
    ("image_topics", [3], "expected a list of texts"),
    ("image_topics", "/camera/image_raw", "expected a list of texts"),
    ("camera_names", ["left camera"], "'left camera' cannot be part of a topic"),
    ("camera_names", ["left", "left"], "a name is listed twice"),
    ("depth_topics", ["/camera/depth image"], "topic name must not contain"),
    (
        "depth_topics",
        ["/a/image_raw", "/a/image_raw/compressedDepth"],
        "/a/image_raw and /a/image_raw/compressedDepth are the same depth camera",
    ),
    ("depth_topics", ["/a", "/a/compressed"], "/a and /a/compressed are the same depth camera"),
    ("camera_info_topics", ["/a/compressedDepth"], "name the topic of their camera_info"),
    ("regions", ["0.2 0.3 0.9 0.5"], "region is '0.2', '0.3', '0.9', '0.5'; expected x, y"),
    ("regions", ["0.2 0.3 0.6"], "region is '0.2', '0.3', '0.6'; expected x, y, width and height"),
    ("regions", ["", "left"], "region is 'left'; expected x, y"),
    ("regions", ["0 nan 1 1"], "region is '0', 'nan', '1', '1'; expected"),
    ("depth_unit", -0.001, "expected 0 to 1"),
    ("depth_unit", math.inf, "expected 0 to 1"),
    ("camera_info_topics", ["", "/camera info"], "topic name must not contain"),
    ("depth_tolerance", -0.1, "expected 0 to 10"),
    ("image_transport", "theora", "expected one of auto, raw, compressed"),
    ("qos_reliability", "best effort", "expected one of auto, best_effort, reliable"),
    ("use_depth", "always", "expected one of auto, never"),
    ("stretch_16bit", "always", "expected one of auto, never"),
    ("colour_order", "gbr", "expected one of bgr, rgb"),
    ("use_projection", "P", "expected one of auto, always, never"),
    ("target_frame", "/base_link", "frames of tf2 do not begin with /"),
    ("target_frame", "base link", "without blanks"),
    ("min_area", 1.5, "expected 0 to 1"),
    ("mask_floor", -0.1, "expected 0 to 1"),
    ("background_border", 2, "expected 0 to 1"),
    ("background_span", -0.1, "expected 0 to 1"),
    ("clutter_score", 1.1, "expected 0 to 1"),
    ("tracking", "yes", "expected true or false"),
    ("track_max_age", -1.0, "expected 0 to 3600"),
    ("track_min_similarity", 1.5, "expected 0 to 1"),
    ("overlay_alpha", 1.01, "expected 0 to 1"),
    ("diagnostics_period", 0, "expected 0.1 to 60"),
    ("stale_timeout", 0.0, "expected 0.1 to 3600"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_VALUES)
def test_bad_value_is_refused_by_name(name: str, value: object, expected: str) -> None:
    with pytest.raises(ParameterError) as error:
        check(name, value)
    assert str(error.value).startswith(f"parameter {name} is {value!r}; ")
    assert expected in str(error.value)


def test_every_parameter_has_bad_values_here() -> None:
    assert {name for name, *_ in BAD_VALUES} == set(RULES)


def test_defaults_are_allowed_and_described() -> None:
    for name, value in vars(NodeSettings()).items():
        assert check(name, value) == value
        assert RULES[name].description.endswith((".", "]"))


def test_an_integer_serves_as_a_number() -> None:
    value = check("stop_threshold", 20)
    assert value == 20.0 and isinstance(value, float)


def test_a_list_becomes_a_tuple() -> None:
    assert check("image_topics", ["/camera/image_raw"]) == ("/camera/image_raw",)


@pytest.mark.parametrize("name", PER_CAMERA)
def test_one_item_per_camera(name: str) -> None:
    topics = ("/left/image_raw", "/right/image_raw")
    assert NodeSettings(image_topics=topics).per_camera(name) == ("", "")
    given = NodeSettings(image_topics=topics, **{name: ("", "b")})  # type: ignore[arg-type]
    assert given.per_camera(name) == ("", "b")
    with pytest.raises(ParameterError, match=f"parameter {name} has 3 items, image_topics 2"):
        NodeSettings(image_topics=topics, **{name: ("a", "b", "c")})  # type: ignore[arg-type]


def test_a_topic_carries_images_or_depth() -> None:
    topics = ("/left/image_raw", "/right/image_raw")
    with pytest.raises(ParameterError, match="depth_topics has /left/image_raw, which is in image"):
        NodeSettings(image_topics=topics, depth_topics=("", "/left/image_raw"))


@pytest.mark.parametrize("topics", [("/d/image_raw/compressedDepth",), ("/d", "/d"), ("", "/d")])
def test_depth_topics(topics: tuple[str, ...]) -> None:
    """Compressed ones are read; several cameras may share one."""
    assert check("depth_topics", topics) == topics


@pytest.mark.slow
def test_reference_and_parameter_file_are_up_to_date() -> None:
    """`make docs` would change neither docs/parameters.md nor config/perception.yaml."""
    result = subprocess.run(
        [sys.executable, "-m", "scripts.parameter_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str) -> None:
    assert check("device", device) == device
