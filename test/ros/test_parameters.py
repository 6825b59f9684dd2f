"""Every parameter is described and checked, and a refusal names the parameter and the way out."""

from __future__ import annotations

import math

import pytest

from genesis_ros.parameters import RULES, ParameterError, Settings, check

BAD_VALUES = [
    ("autostart", 1, "expected true or false"),
    ("checkpoint", 3, "expected a text"),
    ("device", "gpu", "expected auto, cpu, cuda or cuda:n"),
    ("device", "cuda:x", "expected auto, cpu, cuda or cuda:n"),
    ("precision", "int8", "expected one of auto, fp32, bf16, fp16"),
    ("max_slots", -1, "expected 0 to 64"),
    ("max_slots", 65, "expected 0 to 64"),
    ("max_slots", 1, "a single slot"),
    ("max_slots", 7.0, "expected an integer"),
    ("max_slots", True, "expected an integer"),
    ("stop_threshold", -0.5, "expected 0 to 4096"),
    ("stop_threshold", math.nan, "expected 0 to 4096"),
    ("stop_threshold", math.inf, "expected 0 to 4096"),
    ("stop_threshold", "20", "expected a number"),
    ("mask_source", "encoder", "expected one of auto, decoder, attention"),
    ("fit", "stretch", "expected one of resize, crop"),
    ("image_topics", [], "expected exactly one image topic"),
    ("image_topics", ["/a", "/b"], "expected exactly one image topic"),
    ("image_topics", [""], "must not be empty"),
    ("image_topics", ["/camera/image raw"], "topic name must not contain"),
    ("image_topics", [3], "expected a list of texts"),
    ("image_topics", "/camera/image_raw", "expected a list of texts"),
    ("image_transport", "theora", "expected one of auto, raw, compressed"),
    ("qos_reliability", "best effort", "expected one of auto, best_effort, reliable"),
    ("min_area", 1.5, "expected 0 to 1"),
    ("mask_floor", -0.1, "expected 0 to 1"),
    ("background_border", 2, "expected 0 to 1"),
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
    for name, value in vars(Settings()).items():
        assert check(name, value) == value
        assert RULES[name].description.endswith((".", "]"))


def test_an_integer_serves_as_a_number() -> None:
    value = check("stop_threshold", 20)
    assert value == 20.0 and isinstance(value, float)


def test_a_list_becomes_a_tuple() -> None:
    assert check("image_topics", ["/camera/image_raw"]) == ("/camera/image_raw",)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device: str) -> None:
    assert check("device", device) == device
