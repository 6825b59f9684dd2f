"""Slots become objects whose masks, labels, areas and boxes agree with each other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genesis_core.ops import mask_operations
from genesis_core.perception import draw_overlay
from genesis_core.perception.scene_objects import SceneObjects, find_objects

HEIGHT, WIDTH = 60, 80
# Every slot, and of the rules for background only that of the border.
ALL = {
    "min_area": 0.0,
    "mask_floor": 0.0,
    "background_border": 0.2,
    "background_span": 1.0,
    "clutter_score": 0.0,
}


@pytest.fixture(autouse=True, params=["compiled", "not compiled"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with and without a C++ compiler."""
    if request.param == "compiled":
        request.getfixturevalue("compiler")
    else:
        monkeypatch.setattr(mask_operations, "_library", lambda: None)


@dataclass
class Scene:
    """What find_objects reads of a genesis_core.Scene."""

    masks: np.ndarray
    labels: np.ndarray = field(init=False)
    latent_mean: np.ndarray = field(init=False)
    latent_std: np.ndarray = field(init=False)
    scores: np.ndarray = field(init=False)
    kinds: np.ndarray | None = None

    def __post_init__(self) -> None:
        seen = self.masks.sum(axis=0) > 0.5
        self.labels = np.where(seen, self.masks.argmax(axis=0), -1)
        slots = np.arange(len(self.masks), dtype=np.float32)
        self.latent_mean = slots[:, None] * np.ones((1, 8), np.float32)
        self.latent_std = self.latent_mean + 1
        self.scores = slots / 10


def random_scene(seed: int, num_slots: int = 6, sharpness: float = 3.0) -> Scene:
    """Soft, blotchy masks that sum to 1."""
    scores = np.random.default_rng(seed).normal(size=(num_slots, HEIGHT // 10, WIDTH // 10))
    logits = sharpness * scores.repeat(10, axis=1).repeat(10, axis=2)
    masks = np.exp(logits)
    return Scene((masks / masks.sum(axis=0)).astype(np.float32))


def table_scene() -> Scene:
    """Slot 0 is a table, slot 1 a 20x10 box on it (rows 10-19, columns 30-49), slot 2 nothing."""
    masks = np.zeros((3, HEIGHT, WIDTH), np.float32)
    masks[1, 10:20, 30:50] = 1
    masks[0] = 1 - masks[1]
    return Scene(masks)


def full_masks(found: SceneObjects) -> np.ndarray:
    full = np.zeros((len(found.objects), *found.labels.shape), np.uint8)
    for mask, item in zip(full, found.objects, strict=True):
        mask[item.box.slices] = item.mask
    return full


def test_known_box() -> None:
    found = find_objects(table_scene(), **ALL)
    table, box = found.objects
    assert (table.slot, table.background, table.area) == (0, True, HEIGHT * WIDTH - 200)
    assert (box.slot, box.background, box.area) == (1, False, 200)
    assert box.centroid == (39.5, 14.5)
    assert box.box == (30, 10, 20, 10)
    assert box.mask.shape == (10, 20) and (box.mask == 255).all()
    assert box.score == pytest.approx(0.1)
    assert box.latent_mean.tolist() == [1.0] * 8 and box.latent_std.tolist() == [2.0] * 8
    expected = np.ones((HEIGHT, WIDTH))
    expected[10:20, 30:50] = 2
    np.testing.assert_array_equal(found.labels, expected)


def test_the_smallest_area_is_a_share_of_what_the_model_saw() -> None:
    """A box of 200 pixels, in a part of 60x30."""
    masks = table_scene().masks
    masks[:, :, 60:] = masks[:, 30:] = 0
    share = 200 / (60 * 30)
    found = find_objects(Scene(masks), min_area=0.99 * share)
    assert [item.slot for item in found.objects] == [0, 1]
    assert found.seen == (0, 0, 60, 30)
    found = find_objects(Scene(masks.copy()), min_area=1.01 * share)
    assert [item.slot for item in found.objects] == [0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("floor", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("min_area", [0.0, 0.12, 0.3])
def test_everything_agrees(seed: int, floor: float, min_area: float) -> None:
    scene = random_scene(seed)
    found = find_objects(scene, min_area=min_area, mask_floor=floor, background_border=0.2)
    masks = full_masks(found)
    won = np.bincount(scene.labels.ravel(), minlength=6)
    kept = [slot for slot in range(6) if won[slot] >= max(1, min_area * HEIGHT * WIDTH)]
    assert [item.slot for item in found.objects] == kept
    assert [item.label for item in found.objects] == list(range(1, len(kept) + 1))
    if not kept:
        assert not found.labels.any()
        return
    assert (masks.sum(axis=0, dtype=int) == 255).all()
    np.testing.assert_array_equal(found.labels, masks.argmax(axis=0) + 1)
    for mask, item in zip(masks, found.objects, strict=True):
        rows, columns = np.nonzero(found.labels == item.label)
        assert item.area == len(rows)
        assert item.own_box[:2] == (columns.min(), rows.min())
        assert item.own_box[2:] == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert item.centroid == pytest.approx((columns.mean(), rows.mean()))
        rows, columns = np.nonzero(mask)
        assert item.box[:2] == (columns.min(), rows.min())
        assert item.box[2:] == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        own = scene.masks[item.slot]
        untouched = (found.labels != item.label) & (own > floor + 1 / 255)
        np.testing.assert_allclose(mask[untouched] / 255, own[untouched], atol=1 / 255)
        assert not mask[(found.labels != item.label) & (own < floor - 1 / 255)].any()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_a_quantised_scene_has_the_same_objects(seed: int, floor: float) -> None:
    scene = random_scene(seed)
    scene.masks[:, :, :8] = 0
    scene = Scene(scene.masks)
    quantised = Scene(scene.masks)
    quantised.masks = np.maximum(np.rint(scene.masks * 255 - 0.4999), 0).astype(np.uint8)
    quantised.labels = scene.labels.astype(np.uint8)
    options = {"min_area": 0.12, "mask_floor": floor, "background_border": 0.2}
    expected = find_objects(scene, **options)
    actual = find_objects(quantised, **options)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    for one, other in zip(actual.objects, expected.objects, strict=True):
        for name, value, same in zip(one._fields, one, other, strict=True):
            np.testing.assert_array_equal(value, same, err_msg=name)


def test_pixels_of_a_small_slot_go_to_the_next_best() -> None:
    masks = np.zeros((3, HEIGHT, WIDTH), np.float32)
    masks[0] = 1
    masks[:, 5:7, 5:7] = np.array([0.1, 0.3, 0.6], np.float32)[:, None, None]
    masks[:, 20:40, 20:40] = np.array([0.2, 0.8, 0.0], np.float32)[:, None, None]
    found = find_objects(Scene(masks), min_area=0.001, mask_floor=0.0, background_border=0.2)
    assert [item.slot for item in found.objects] == [0, 1]  # slot 2 had 4 of 4800 pixels
    assert (found.labels[5:7, 5:7] == 2).all()
    assert found.objects[1].area == 404


def test_floor_shrinks_the_crops() -> None:
    scene = table_scene()
    scene.masks[1] += 0.01 * scene.masks[0]
    scene.masks[0] *= 0.99
    loose = find_objects(scene, **ALL)
    tight = find_objects(scene, **{**ALL, "mask_floor": 0.02})
    assert loose.objects[1].box == (0, 0, WIDTH, HEIGHT)
    assert tight.objects[1].box == (30, 10, 20, 10)


def test_nothing_outside_what_the_model_saw() -> None:
    scene = random_scene(0)
    scene.masks[:, :, :10] = 0
    scene.masks[:, :, -10:] = 0
    found = find_objects(Scene(scene.masks), **ALL)
    assert not found.labels[:, :10].any() and not found.labels[:, -10:].any()
    assert found.labels[:, 10:-10].all()
    sums = full_masks(found).sum(axis=0, dtype=int)
    assert (sums[:, 10:-10] == 255).all() and not sums[:, :10].any() and not sums[:, -10:].any()


@pytest.mark.parametrize(("columns", "background"), [(40, True), (4, False)])
def test_background_covers_enough_of_the_border(columns: int, background: bool) -> None:
    """A slot at the left edge: over the full height, and as a box that touches the edge."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.float32)
    masks[1, 20:40, :columns] = 1
    if background:
        masks[1, :, :columns] = 1
    masks[0] = 1 - masks[1]
    found = find_objects(Scene(masks), **ALL)
    assert [item.background for item in found.objects] == [True, background]


def test_background_border_of_a_crop_is_the_crops() -> None:
    masks = np.zeros((2, HEIGHT, WIDTH), np.float32)
    masks[0, :, 10:70] = 1
    masks[1, 20:40, 30:50] = 1
    masks[0] -= masks[1]
    found = find_objects(Scene(masks), **ALL)
    assert [item.background for item in found.objects] == [True, False]


def test_masks_that_are_not_numbers_are_refused() -> None:
    scene = random_scene(0)
    scene.masks[2, 5, 7] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        find_objects(scene, **ALL)


def test_masks_that_are_not_to_be_changed_stay_as_they_are(tmp_path: Path) -> None:
    scene = random_scene(0)
    expected = find_objects(scene, min_area=0.12, mask_floor=0.3)
    quantised = np.maximum(np.rint(scene.masks * 255 - 0.4999), 0).astype(np.uint8)
    np.save(tmp_path / "masks.npy", quantised)
    scene.masks = np.load(tmp_path / "masks.npy", mmap_mode="r")
    found = find_objects(scene, min_area=0.12, mask_floor=0.3)
    np.testing.assert_array_equal(full_masks(found), full_masks(expected))
    np.testing.assert_array_equal(scene.masks, quantised)


@pytest.mark.parametrize(
    "turn", [np.asfortranarray, lambda array: array[..., ::-1], lambda array: array[..., ::2, ::2]]
)
def test_quantised_masks_may_be_a_view(turn: Callable[..., Any]) -> None:
    scene = random_scene(0)
    scene.masks = turn(np.maximum(np.rint(scene.masks * 255 - 0.4999), 0).astype(np.uint8))
    scene.labels = turn(scene.labels.astype(np.uint8))
    plain = random_scene(0)
    plain.masks, plain.labels = scene.masks.copy(order="C"), scene.labels.copy(order="C")
    found, expected = (find_objects(each, mask_floor=0.3) for each in (scene, plain))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(full_masks(found), full_masks(expected))


def test_an_object_that_is_kept_does_not_keep_the_masks_of_its_image() -> None:
    scene = random_scene(0)
    scene.masks = np.floor(scene.masks * 255).astype(np.uint8)
    for item in find_objects(scene, **ALL).objects:
        assert item.mask.base is None and not np.shares_memory(item.mask, scene.masks)


def test_labels_of_another_size_than_the_masks_are_refused() -> None:
    scene = random_scene(0)
    scene.labels = scene.labels[:-1]
    with pytest.raises(ValueError, match="expected the same height and width"):
        find_objects(scene)


def test_more_slots_than_labels_are_refused() -> None:
    masks = np.full((255, 4, 4), 1 / 255, np.float32)
    with pytest.raises(
        ValueError, match="255 slots; a mono8 label image holds at most 254 objects"
    ):
        find_objects(Scene(masks), **ALL)


def tray_scene() -> Scene:
    """Slot 0 is a table, slot 1 a tray in the middle (columns 8-71, rows 6-53), slot 2 a cup."""
    masks = np.zeros((3, HEIGHT, WIDTH), np.float32)
    masks[2, 20:40, 30:50] = 1
    masks[1, 6:54, 8:72] = 1 - masks[2, 6:54, 8:72]
    masks[0] = 1 - masks[1:].sum(axis=0)
    return Scene(masks)


@pytest.mark.parametrize(("span", "background"), [(0.79, True), (0.81, False), (1.0, False)])
def test_what_spans_the_image_is_background(span: float, background: bool) -> None:
    """The tray covers none of the border, but 0.8 of the width and of the height."""
    found = find_objects(tray_scene(), **{**ALL, "background_span": span})
    assert [item.background for item in found.objects] == [True, background, False]


def test_an_arm_across_the_image_is_no_background() -> None:
    """It reaches from the upper edge to the lower one, but only along one direction."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.float32)
    masks[1, :, 30:50] = 1
    masks[0] = 1 - masks[1]
    found = find_objects(Scene(masks), min_area=0.0, mask_floor=0.0)
    assert [item.background for item in found.objects] == [True, False]


def test_background_span_of_a_crop_is_the_crops() -> None:
    scene = tray_scene()
    scene.masks[:, :, :8] = 0
    scene.masks[:, :, 72:] = 0
    found = find_objects(Scene(scene.masks), **{**ALL, "background_span": 0.79})
    assert [item.background for item in found.objects] == [True, True, False]


@pytest.mark.parametrize(
    ("wins", "score", "clutter"),
    [(100, 0.4, True), (100, 0.6, False), (400, 0.4, False)],
    ids=["left over", "sure", "mostly its own"],
)
def test_clutter_is_unsure_and_lies_where_others_win(
    wins: int, score: float, clutter: bool
) -> None:
    """Slot 1 has a probability of 0.3 at 1000 pixels; it wins some of them with a bit more."""
    masks = np.zeros((2, HEIGHT, WIDTH), np.float32)
    masks[1].flat[WIDTH + 1 : WIDTH + 1001] = 0.3
    masks[1].flat[WIDTH + 1 : WIDTH + 1 + wins] = 0.6
    masks[0] = 1 - masks[1]
    scene = Scene(masks)
    scene.scores[:] = [1.0, score]
    found = find_objects(scene, **{**ALL, "clutter_score": 0.5})
    assert found.objects[1].area == wins
    assert [item.background for item in found.objects] == [True, clutter]
    found = find_objects(scene, **ALL)  # off
    assert not found.objects[1].background


def test_kinds_decide_where_the_model_tells_them() -> None:
    """A table that rules call an object, and a robot that they call the background."""
    scene = table_scene()
    scene.kinds = np.array(["robot", "surroundings", "object"])
    robot, table = find_objects(scene, **ALL).objects
    assert (robot.kind, robot.background) == ("robot", False)
    assert (table.kind, table.background) == ("surroundings", True)
    scene.kinds = None
    assert [(item.kind, item.background) for item in find_objects(scene, **ALL).objects] == [
        ("", True),
        ("", False),
    ]


@pytest.mark.parametrize(
    "given", [{"min_area": 50}, {"mask_floor": 20}, {"clutter_score": -0.1}, {"min_area": math.nan}]
)
def test_what_is_no_share_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(given))} is .*; expected a share, 0 to 1"):
        find_objects(table_scene(), **given)


@pytest.mark.parametrize("turn", [lambda image: np.rot90(image), np.asfortranarray])
def test_an_overlay_of_an_image_in_any_order_of_memory(turn: Callable[..., Any]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    given = turn(image)
    masks = np.ones((1, *given.shape[:2]), np.float32)
    found = find_objects(Scene(masks), **ALL)
    expected = draw_overlay(np.ascontiguousarray(given), found, 0.5)
    np.testing.assert_array_equal(draw_overlay(given, found, 0.5), expected)


def test_the_number_of_a_ring_stands_on_the_ring() -> None:
    """Its centroid lies in the middle, where another slot is."""
    image = np.random.default_rng(0).integers(60, 200, (240, 320, 3), np.uint8)
    masks = np.zeros((3, 240, 320), np.float32)
    masks[1, 20:220, 60:260] = 1
    masks[2, 60:180, 100:220] = 1
    masks[1] -= masks[2]
    masks[0] = 1 - masks[1] - masks[2]
    scene = Scene(masks)
    scene.kinds = np.array(["surroundings", "object", "surroundings"])
    overlay = draw_overlay(image, find_objects(scene), 0.0)
    changed = (overlay != image).any(axis=2)
    changed[:, 56:64] = changed[:, 256:264] = False  # outlines
    changed[16:24] = changed[216:224] = changed[56:64, 96:224] = changed[176:184, 96:224] = False
    changed[56:184, 96:104] = changed[56:184, 216:224] = False
    rows, columns = np.nonzero(changed)
    assert len(rows), "there is no number"
    assert (masks[1][rows, columns] == 1).all()


def test_what_the_model_did_not_see_is_dark() -> None:
    image = np.full((20, 30, 3), 201, np.uint8)
    masks = np.zeros((1, 20, 30), np.float32)
    masks[0, 5:15, 6:24] = 1
    scene = Scene(masks)
    scene.labels[masks[0] == 0] = -1
    scene.kinds = np.array(["surroundings"])
    overlay = draw_overlay(image, find_objects(scene), 0.5)
    assert (overlay[5:15, 6:24] == 201).all()
    outside = masks[0] == 0
    assert (overlay[outside] == 100).all()


def test_track_ids_may_be_an_array() -> None:
    image, found = np.zeros((HEIGHT, WIDTH, 3), np.uint8), find_objects(table_scene(), **ALL)
    expected = draw_overlay(image, found, 0.5, (7, 0))
    np.testing.assert_array_equal(draw_overlay(image, found, 0.5, np.array([7, 0])), expected)
    with pytest.raises(ValueError, match="shorter"):
        draw_overlay(image, found, 0.5, [])
