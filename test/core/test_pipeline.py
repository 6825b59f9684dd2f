"""Perception in one call: what the node, segment_bag and the benchmarks share. No ROS."""

from __future__ import annotations

import gc
import inspect
import math
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genesis_core import (
    DepthImage,
    GenesisV2,
    GenesisV2Config,
    Perceived,
    Perception,
    PerceptionSettings,
    Region,
    Segmenter,
    View,
    pipeline,
    save_model,
)
from genesis_core.perception import Tracker, find_objects
from genesis_core.perception.lens import Distortion
from genesis_core.perception.scene import Scene

HEIGHT, WIDTH = 48, 64
INTRINSICS = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])


@pytest.fixture(scope="module")
def perception(tmp_path_factory: pytest.TempPathFactory) -> Perception:
    torch.manual_seed(3)
    model = GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, num_slots=4))
    path = tmp_path_factory.mktemp("pipeline") / "tiny.safetensors"
    save_model(model, path)
    # Otherwise the untrained model's slots are all background.
    settings = PerceptionSettings(
        str(path), "cpu", background_border=1.0, background_span=1.0, clutter_score=0.0
    )
    return Perception(settings)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def depth(value: float = 0.8, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> DepthImage:
    return DepthImage(np.full(shape, value, np.float32), INTRINSICS, "/eye/depth")


def only(outcomes: Iterator[Perceived | Exception]) -> Perceived:
    (outcome,) = outcomes
    assert isinstance(outcome, Perceived), outcome
    return outcome


def test_waiting_is_no_processor_time(
    perception: Perception, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(perception([View(image())]))  # what the first pass makes ready is not counted
    segment = Segmenter.__call__

    def wait_and_segment(*given: Any, **options: Any) -> list[Scene]:
        time.sleep(0.5)
        return segment(*given, **options)

    monkeypatch.setattr(Segmenter, "__call__", wait_and_segment)
    seen = only(perception([View(image())]))
    assert seen.inference > 0.5
    assert 0 < seen.processor < 0.4


def test_defaults_are_those_of_the_parts() -> None:
    """A library user who takes the parts gets what the node gets."""
    settings = asdict(PerceptionSettings())
    for function, prefix in ((find_objects, ""), (Tracker, "track_")):
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.default is not parameter.empty:
                assert settings[prefix + name] == parameter.default, name


def test_the_parts_and_the_whole_agree(perception: Perception) -> None:
    seen = only(perception([View(image(), depth())]))
    scene = perception.segmenter(image(), quantised=True)
    found = find_objects(scene, background_border=1.0, background_span=1.0, clutter_score=0.0)
    np.testing.assert_array_equal(seen.found.labels, found.labels)
    assert [item.score for item in seen.found.objects] == [item.score for item in found.objects]
    assert (seen.track_ids, seen.slots, seen.depth_problem) == ([0] * len(found.objects), 4, None)
    for item, measured in zip(seen.found.objects, seen.measurements, strict=True):
        assert (measured is None) == item.background
        if measured is not None:
            assert measured.position[2] == pytest.approx(0.8)
    assert any(seen.measurements)


def test_objects_are_found_in_the_region_alone(perception: Perception) -> None:
    region = Region(0.25, 0.5, 0.5, 0.5)
    inside = only(perception([View(image(), region=region)]))
    rows, columns = region.window(HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[rows, columns] = True
    np.testing.assert_array_equal(inside.found.labels > 0, expected)
    cut = only(perception([View(np.ascontiguousarray(image()[rows, columns]))]))
    np.testing.assert_array_equal(inside.found.labels[rows, columns], cut.found.labels)
    for item, other in zip(inside.found.objects, cut.found.objects, strict=True):
        x, y = other.centroid
        assert item.centroid == pytest.approx((x + columns.start, y + rows.start), abs=1e-3)


def test_another_region_begins_ids_anew(perception: Perception) -> None:
    tracker, region = Tracker(), Region(0.3, 0.4, 0.2, 0.2)

    def ids(stamp: float, part: Region | None) -> Sequence[int]:
        return only(perception([View(image(), None, tracker, stamp, part)])).track_ids

    first = ids(1.0, region)
    assert len(first) > 0 and ids(2.0, region) == first
    whole = ids(3.0, None)
    assert not set(whole) & set(first)
    assert ids(4.0, None) == whole


def test_ids_belong_to_a_tracker(perception: Perception) -> None:
    left, right = Tracker(), Tracker()
    first, second, third = perception(
        [View(image(), tracker=tracker, stamp=1.0) for tracker in (left, right, left)]
    )
    assert isinstance(first, Perceived)
    assert isinstance(second, Perceived)
    assert isinstance(third, Perceived)
    assert tuple(first.track_ids) == tuple(second.track_ids) == tuple(third.track_ids)
    assert all(first.track_ids)


def test_settings_change_from_the_next_call_on(perception: Perception) -> None:
    before = perception._settings
    tracker = Tracker()
    try:
        perception.configure(
            PerceptionSettings(before.checkpoint, "cpu", max_slots=2, tracking=False)
        )
        seen = only(perception([View(image(), tracker=tracker, stamp=1.0)]))
        assert seen.slots == 2
        assert set(seen.track_ids) == {0}
        with pytest.raises(ValueError, match="max_slots is 1"):
            perception.configure(PerceptionSettings(before.checkpoint, "cpu", max_slots=1))
        assert only(perception([View(image())])).slots == 2
    finally:
        perception.configure(before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"use_depth": "Auto"}, "use_depth is 'Auto'; expected one of auto, never"),
        ({"use_depth": True}, "use_depth is True"),
        ({"min_area": 2.0}, "min_area is 2.0; expected a share, 0 to 1"),
        ({"mask_floor": math.nan}, "mask_floor is nan"),
        ({"background_border": -0.1}, "background_border is -0.1"),
        ({"background_span": 70.0}, "background_span is 70.0"),
        ({"clutter_score": 50.0}, "clutter_score is 50.0"),
        ({"tracking": "no"}, "tracking is 'no'; expected True or False"),
        ({"track_max_age": -1.0}, "track_max_age is -1.0; expected seconds, 0 or more"),
        ({"track_min_similarity": 3.0}, "track_min_similarity is 3.0; expected 0 to 1"),
        ({"max_slots": 255}, "max_slots is 255; expected at most 254"),
        ({"fit": "pad"}, "fit is 'pad'"),
    ],
)
def test_bad_settings_are_refused_by_name(
    wrong: dict[str, Any], message: str, perception: Perception
) -> None:
    """At once, and the former ones stay."""
    before = perception._settings
    settings = replace(before, **{"max_slots": 2, **wrong})
    for use in (perception.check, perception.configure, Perception):
        with pytest.raises(ValueError, match=message):
            use(settings)
    assert perception._settings is before
    assert only(perception([View(image())])).slots == 4


def test_a_pass_that_ran_out_of_memory_holds_none_while_the_next_is_tried(
    perception: Perception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors would be kept by the frames of the error's traceback."""
    segment, held = Segmenter.__call__, weakref.WeakSet[torch.Tensor]()
    before: list[int] = []

    def run_out(self: Segmenter, images: Any, *given: Any, **options: Any) -> list[Scene]:
        gc.collect()
        before.append(len(held))
        activations = torch.zeros(1000)
        held.add(activations)
        if len(images) > 1 or len(before) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return segment(self, images, *given, **options)

    monkeypatch.setattr(Segmenter, "__call__", run_out)
    lost, seen = perception([View(image()), View(image())])
    assert isinstance(lost, torch.OutOfMemoryError) and isinstance(seen, Perceived)
    assert before == [0, 0, 0]


def test_a_lens_in_a_list_costs_no_view(perception: Perception) -> None:
    lens = Distortion("plumb_bob", [0.1, 0.0, 0.0, 0.0, 0.0])
    seen = only(perception([View(image(), depth()._replace(distortion=lens))]))
    assert seen.depth_problem is None and any(seen.measurements)


def test_one_views_trouble_does_not_cost_the_others(perception: Perception) -> None:
    def absent() -> DepthImage:
        raise ValueError("no depth image yet on /eye/depth")

    def broken() -> DepthImage:
        raise RuntimeError("a bug")

    outcomes = list(
        perception(
            [
                View(image(), depth()),
                View(image()[..., 0]),  # grey
                View(image(), absent),
                View(image(), broken),
                View(image(), depth(shape=(HEIGHT, HEIGHT))),
            ]
        )
    )
    assert isinstance(outcomes[1], ValueError)
    assert "expected (H, W, 3)" in str(outcomes[1])
    assert isinstance(outcomes[3], RuntimeError)
    good, missing, square = outcomes[0], outcomes[2], outcomes[4]
    assert isinstance(good, Perceived)
    assert isinstance(missing, Perceived)
    assert isinstance(square, Perceived)
    assert good.depth_problem is None and any(good.measurements)
    assert missing.depth_problem == "no depth image yet on /eye/depth"
    assert not any(missing.measurements)
    assert square.depth_problem is not None
    assert square.depth_problem.startswith("/eye/depth: the depth is 48x48, the image 64x48")
    assert list(perception([])) == []


class SeesDepth(Segmenter):
    """Notes the depth that it is given; everything else is the model's."""

    uses_depth = True

    def __call__(self, images, depth=None, intrinsics=None, **options):  # type: ignore
        depth, intrinsics = depth or [None] * len(images), intrinsics or [None] * len(images)
        self.seen = list(zip(depth, intrinsics, strict=True))
        return super().__call__(images, **options)


@pytest.fixture
def with_depth(perception: Perception, monkeypatch: pytest.MonkeyPatch) -> Perception:
    monkeypatch.setattr(pipeline, "Segmenter", SeesDepth)
    return Perception(perception._settings)


def test_images_with_depth_and_without_share_a_pass(with_depth: Perception) -> None:
    """Depth reaches the model at the image's size, in metres, unknown depth as it comes."""
    half = np.full((HEIGHT // 2, WIDTH // 2), 0.8, np.float32)
    half[:4, 0], half[4, 0] = (np.nan, np.inf, -1.0, 0.0), 2.0
    matrix = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])

    def late() -> Iterator[DepthImage]:
        yield depth()

    arrived = late()

    def provider() -> DepthImage:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ValueError("no depth image yet")
        return next(arrived)

    calls = 0
    first, second, third, fourth = with_depth(
        [
            View(image(), DepthImage(half, matrix)),
            View(image()),
            View(image(), provider),
            View(image(), depth(1000.0)),
        ]
    )
    segmenter = with_depth.segmenter
    assert isinstance(segmenter, SeesDepth)
    (fitted, scaled), *others = segmenter.seen
    assert others == [(None, None)] * 3
    np.testing.assert_array_equal(fitted[:8, 0], np.repeat([np.nan, np.inf, -1, 0], 2))
    np.testing.assert_array_equal(fitted[8:10, :2], 2.0)
    assert fitted.shape == (HEIGHT, WIDTH) and fitted.dtype == np.float32
    np.testing.assert_allclose(scaled, [[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])
    assert isinstance(first, Perceived)
    assert isinstance(second, Perceived)
    assert isinstance(third, Perceived)
    assert isinstance(fourth, Perceived)
    assert [item.used_depth for item in (first, second, third, fourth)] == [True] + [False] * 3
    # Depth that comes while the model works is too late for it, but not for positions.
    assert calls == 2 and third.depth_problem is None and any(third.measurements)
    assert fourth.depth_problem is not None and "millimetres" in fourth.depth_problem
    assert not any(fourth.measurements) and not any(second.measurements)


def test_depth_stays_out_of_the_model_if_it_shall(with_depth: Perception) -> None:
    with_depth.configure(replace(with_depth._settings, use_depth="never"))
    assert not with_depth.takes_depth
    seen = only(with_depth([View(image(), depth())]))
    assert not seen.used_depth and any(seen.measurements)
    assert with_depth.segmenter.seen == [(None, None)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("carried", "given", "flexible"),
    [
        ({}, -1.0, False),
        ({"stop_threshold": 4000}, -1.0, True),
        ({"stop_threshold": 4000}, 0.0, False),
        ({}, 4000.0, True),
    ],
)
def test_the_checkpoint_may_carry_a_stop_threshold(
    tmp_path: Path, carried: dict[str, float], given: float, flexible: bool
) -> None:
    """In pixels at 64x64: hardly a slot is that large."""
    model = GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, num_slots=4))
    path = tmp_path / "tiny.safetensors"
    save_model(model, path, metadata=carried)
    perception = Perception(PerceptionSettings(str(path), "cpu", stop_threshold=given))
    assert (only(perception([View(image())])).slots < 4) == flexible


def test_what_is_published_about_the_model(perception: Perception) -> None:
    assert perception.model_name == "tiny"
    assert perception.checkpoint == Path(perception.checkpoint)
    assert perception.latents_are_trained


def test_depth_that_has_another_unit_at_the_images_size(with_depth: Perception) -> None:
    """Of a unit's check only samples are taken: these two see other pixels."""
    large = np.full((2 * HEIGHT, 2 * WIDTH), 1000.0, np.float32)
    large[::2, ::2] = 0.8
    seen = only(with_depth([View(image(), DepthImage(large, INTRINSICS, "/eye/depth"))]))
    assert not seen.used_depth and not any(seen.measurements)
    assert seen.depth_problem is not None and "millimetres" in seen.depth_problem
    assert with_depth.segmenter.seen == [(None, None)]  # type: ignore[attr-defined]


def test_want_of_memory_for_one_depth_costs_one_view(
    with_depth: Perception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = pipeline._fit

    def fit_small(depth: DepthImage, shape: tuple[int, ...]) -> DepthImage:
        if depth.source == "/large":
            raise MemoryError("cannot allocate")
        return fit(depth, shape)

    monkeypatch.setattr(pipeline, "_fit", fit_small)
    metres, matrix, _ = depth()[:3]
    small, large = with_depth(
        [View(image(), depth()), View(image(), DepthImage(metres, matrix, "/large"))]
    )
    assert isinstance(small, Perceived) and small.used_depth
    assert isinstance(large, MemoryError)


def test_depth_that_the_model_cannot_use_costs_the_depth_only(with_depth: Perception) -> None:
    metres, matrix, source = depth()[:3]
    double, unusable = with_depth(
        [
            View(image(), DepthImage(metres.astype(np.float64), matrix, source)),  # type: ignore[arg-type]
            View(image(), DepthImage(metres, np.zeros((3, 3)), source)),
        ]
    )
    assert isinstance(double, Perceived) and double.used_depth
    assert isinstance(unusable, Perceived) and not unusable.used_depth
    assert unusable.depth_problem is not None and "no camera's" in unusable.depth_problem


@pytest.mark.parametrize(
    ("place", "number"),
    [
        ((0, 0), 3e38),
        ((1, 1), 1e-30),
        ((1, 1), -1.0),
        ((0, 2), math.inf),
        ((1, 2), -1e30),
        ((0, 0), 1.0),
    ],
)
def test_intrinsics_of_no_camera_give_no_positions(
    place: tuple[int, int], number: float, with_depth: Perception
) -> None:
    """They would give positions that are no numbers."""
    given = depth()
    matrix = given.intrinsics.copy()
    matrix[place] = number
    (found,) = with_depth([View(image(), given._replace(intrinsics=matrix))])
    assert isinstance(found, Perceived)
    assert found.depth_problem is not None and "no camera's" in found.depth_problem
    assert not any(found.measurements)
