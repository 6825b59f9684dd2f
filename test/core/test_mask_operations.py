"""Masks of camera images in C++ against OpenCV and NumPy, and what happens without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from genesis_core.ops import mask_operations
from genesis_core.ops.mask_operations import (
    NOBODY,
    Enlarged,
    Settled,
    _array_drop_small,
    _array_enlarge,
    _array_join_pieces,
    _array_settle,
    _native_drop_small,
    _native_enlarge,
    _native_join_pieces,
    _native_settle,
    drop_small,
    join_pieces,
    settle,
)
from genesis_core.perception.scene import to_scene
from genesis_core.perception.scene_objects import find_objects

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.usefixtures("compiler")


def soft_masks(slots: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Probabilities (K, H, W), most of them near 0 or 1."""
    logits = 4 * np.random.default_rng(seed).normal(size=(slots, height, width))
    masks = np.exp(logits - logits.max(axis=0))
    return (masks / masks.sum(axis=0)).astype(np.float32)


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("slots", "source", "size"),
    [
        (8, (128, 128), (480, 640)),
        (5, (64, 64), (37, 53)),  # smaller
        (3, (16, 16), (1, 1)),
        (2, (1, 1), (5, 7)),
        (1, (8, 8), (200, 3)),
        (4, (32, 32), (32, 32)),
        (255, (2, 3), (9, 4)),
    ],
)
def test_enlarged_masks_are_opencvs(
    slots: int, source: tuple[int, int], size: tuple[int, int]
) -> None:
    height, width = size
    masks = soft_masks(slots, *source)
    expected = 255 * np.stack([cv2.resize(mask, (width, height)) for mask in masks])
    found = _native_enlarge(masks, height, width)
    assert found is not None, "there is no C++ compiler"
    assert found.masks.dtype == found.winners.dtype == np.uint8
    np.testing.assert_allclose(found.masks, expected - 0.5, atol=0.51)
    np.testing.assert_array_equal(found.winners, found.masks.argmax(axis=0))
    assert (found.masks.sum(axis=0, dtype=int) <= 255).all()
    for slot, mean in enumerate(found.means):
        own = found.masks[slot][found.winners == slot]
        assert mean == pytest.approx(own.mean() / 255 if own.size else 0.0)


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("size", [(12, 8), (48, 40), (7, 100)])
def test_slots_of_a_few_rows(size: tuple[int, int]) -> None:
    """Rows where a slot is nowhere, or just below or above 1 of 255, also beside each other."""
    masks = np.zeros((5, 12, 8), np.float32)
    masks[1, 2:5, 1:4] = 0.7
    masks[2, 4, 6] = 0.9
    masks[3] = (np.linspace(0.8, 1.2, 12) / 255)[:, None]
    masks[4, 8:, 3:] = 0.5
    masks[0] = 1 - masks[1:].sum(axis=0)
    masks[0, 5] = masks[3, 5] = 0  # nobody's
    expected = 255 * np.stack([cv2.resize(mask, size[::-1]) for mask in masks])
    found = _native_enlarge(masks, *size)
    assert found is not None, "there is no C++ compiler"
    np.testing.assert_allclose(found.masks, expected - 0.5, atol=0.51)
    np.testing.assert_array_equal(found.winners, found.masks.argmax(axis=0))
    for slot, mean in enumerate(found.means):
        own = found.masks[slot][found.winners == slot]
        assert mean == pytest.approx(own.mean() / 255 if own.size else 0.0)


@needs_compiler
@pytest.mark.parametrize("way", [_native_enlarge, _array_enlarge])
@pytest.mark.parametrize("size", [(6, 9), (333, 777), (1080, 1920)])
def test_certain_masks_stay_certain(size: tuple[int, int], way: Callable[..., Enlarged]) -> None:
    masks = np.zeros((2, 128, 128), np.float32)
    masks[1] = 1
    found = way(masks, *size)
    assert found is not None
    assert (found.masks[0] == 0).all() and (found.masks[1] == 255).all()
    assert found.means.tolist() == [0.0, 1.0]


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threshold", [-1, 0, 25, 254])
@pytest.mark.parametrize("size", [(1, 1), (17, 40), (64, 33)])
@pytest.mark.parametrize("way", [_native_settle, _array_settle])
def test_settled_masks_sum_to_255(
    way: Callable[..., Settled], size: tuple[int, int], threshold: int
) -> None:
    """Slot 1 is not kept, and the left edge is nobody's."""
    masks = np.floor(255 * soft_masks(4, *size)).astype(np.uint8)
    kept = [0, 2, 3]
    winners = np.array(kept, np.uint8)[masks[kept].argmax(axis=0)]
    if size[1] > 1:
        winners[:, 0] = 255
        masks[:, :, 0] = 0
    kept = [slot for slot in kept if (winners == slot).any()]
    before, given = masks.copy(), winners.copy()
    found = way(masks, winners, kept, threshold)
    assert found is not None, "there is no C++ compiler"

    floored = np.where(before[kept].astype(int) > threshold, before[kept], 0)
    rest = 255 - floored.sum(axis=0)
    mine = winners == np.array(kept)[:, None, None]
    expected = floored + mine * rest
    np.testing.assert_array_equal(masks[kept], expected)
    np.testing.assert_array_equal(masks[1], before[1])
    np.testing.assert_array_equal(winners, given)
    labels = (mine * np.arange(1, len(kept) + 1)[:, None, None]).sum(axis=0)
    np.testing.assert_array_equal(found.labels, labels)
    for index in range(len(kept)):
        assert found.boxes[index].tolist() == box_of(expected[index])
        assert found.own_boxes[index].tolist() == box_of(mine[index])
        rows, columns = np.nonzero(mine[index])
        assert found.areas[index] == len(rows)
        assert found.centroids[index] == pytest.approx((columns.mean(), rows.mean()))
        share = expected[index][mine[index]].sum() / expected[index].sum()
        assert found.own_shares[index] == pytest.approx(share)


@needs_compiler
@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "turn", [np.asfortranarray, lambda masks: masks[:, ::-1], lambda masks: masks[:, ::2, ::2]]
)
def test_masks_that_are_not_contiguous_are_settled_all_the_same(
    turn: Callable[..., np.ndarray], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(mask_operations, "_library", lambda: None)
    masks = turn(np.floor(255 * soft_masks(3, 24, 40)).astype(np.uint8))
    plain, winners = masks.copy(order="C"), masks.argmax(axis=0).astype(np.uint8)
    found, expected = (settle(each, winners, [0, 1, 2], 25) for each in (masks, plain))
    np.testing.assert_array_equal(masks, plain)
    assert (masks.sum(axis=0, dtype=int) == 255).all()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("min_pixels", [0.0, 100.0, 400.5, 1e6])
@pytest.mark.parametrize("way", [_native_drop_small, _array_drop_small, drop_small])
def test_small_slots_lose_their_pixels_to_the_next_best(
    way: Callable[..., list[int]], min_pixels: float
) -> None:
    """Slot 4 wins nothing, and the left edge is nobody's."""
    masks = np.floor(255 * soft_masks(5, 30, 50)).astype(np.uint8)
    masks[4] = 0
    masks[2] //= 2  # a small one
    winners = masks.argmax(axis=0).astype(np.uint8)
    winners[:, 0] = NOBODY
    if way is drop_small:  # not contiguous, which C++ cannot read
        masks, winners = np.asfortranarray(masks), np.asfortranarray(winners)
        assert _native_drop_small(masks, winners, min_pixels) is None
    given = winners.copy()
    kept = way(masks, winners, min_pixels)
    counts = [(given == slot).sum() for slot in range(5)]
    assert kept == [slot for slot in range(5) if counts[slot] >= max(1, min_pixels)]
    for y, x in np.ndindex(given.shape):
        if given[y, x] in (*kept, NOBODY):
            assert winners[y, x] == given[y, x]
        elif not kept:
            assert winners[y, x] == NOBODY
        else:
            assert winners[y, x] == kept[masks[kept, y, x].argmax()]
    assert len(kept) == {0.0: 4, 100.0: 4, 400.5: 2, 1e6: 0}[min_pixels], counts


@needs_compiler
@pytest.mark.parametrize("way", [_native_settle, _array_settle])
def test_nothing_kept(way: Callable[..., Settled]) -> None:
    masks = np.zeros((2, 3, 4), np.uint8)
    found = way(masks, np.full((3, 4), 255, np.uint8), [], 25)
    assert found is not None
    assert not found.labels.any() and found.labels.shape == (3, 4)
    assert len(found.boxes) == len(found.areas) == len(found.own_shares) == 0


@pytest.mark.slow
def test_without_a_compiler_images_are_segmented_all_the_same(tmp_path: Path) -> None:
    """One warning that says why, and the same masks, made by array operations."""
    script = """
import logging
import numpy as np
from genesis_core.ops.mask_operations import enlarge, settle
from genesis_core.perception.scene import to_scene
logging.basicConfig()
masks = np.full((2, 4, 4), 0.5, np.float32)
assert (enlarge(masks, 8, 8).masks == 127).all()
settled = settle(np.zeros((2, 8, 8), np.uint8), np.zeros((8, 8), np.uint8), [0], 25)
assert settled.areas == [64]
latents = np.zeros((2, 3), np.float32)
window = slice(0, 8), slice(0, 8)
scene = to_scene(masks, latents, latents, size=(8, 8), window=window, quantised=True)
assert (scene.masks == 127).all()
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "CXX": "not-a-compiler", "GENESIS_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr.count("masks of camera images will take longer") == 1, result.stderr
    assert "not-a-compiler" in result.stderr


JOINS = [join_pieces, _array_join_pieces]


def from_winners(winners: np.ndarray, slots: int) -> np.ndarray:
    """Masks (slots, H, W) of 0.8 where a slot wins, and of as much of the rest elsewhere."""
    masks = np.full((slots, *winners.shape), 0.2 / (slots - 1), np.float32)
    np.put_along_axis(masks, winners[None], 0.8, axis=0)
    return masks


@pytest.mark.parametrize("join", JOINS)
def test_a_small_piece_goes_to_the_slot_that_borders_on_it_most(join: Callable[..., None]) -> None:
    """Of slot 1: a block of 20 pixels with two more at its corner, three pixels in a row that have
    slot 2 below and at one end, slot 0 above and at the other, slot 3 nowhere, and four apart."""
    winners = np.zeros((12, 12), int)
    winners[1:5, 1:6] = 1
    winners[5, 6] = winners[6, 7] = 1  # touching corners: part of it
    winners[9:] = 2
    winners[8, 10:] = 2
    winners[8, 7:10] = 1
    winners[9, 7] = 0  # so that it is three edges and one more of slot 0, and three of slot 2
    winners[0, 8:12] = 1
    masks = from_winners(winners, 4)
    before = masks.copy()
    join(masks, [1], 0.15, 0.5, 0)  # 15% of 22 are more than 3 and less than 4
    expected = np.zeros((12, 12), bool)
    expected[8, 7:10] = True
    np.testing.assert_array_equal((masks != before).any(axis=0), expected)
    # Slot 0: three above, one at the left, one below. Slot 2: two below, one at the right.
    np.testing.assert_allclose(masks[:2, 8, 7:10].T, [[0.2 / 3 + 0.8, 0.0]] * 3, atol=1e-6)
    winners[7, 7:9] = 3
    winners[8, 6] = 3
    winners[9, 7] = 2
    masks = from_winners(winners, 4)
    join(masks, [1], 0.15, 0.5, 0)  # slot 0: one, slot 2: four, slot 3: three
    assert (masks.argmax(axis=0)[8, 7:10] == 2).all()
    join(masks, [1], 0.25, 0.5, 0)  # now the four are few, too
    assert (masks.argmax(axis=0)[0, 8:12] == 0).all()
    before = masks.copy()
    join(masks, [2], 0.9, 0.5, 0)  # of one piece
    np.testing.assert_array_equal(masks, before)


@pytest.mark.parametrize("join", JOINS)
def test_a_crumb_within_a_crumb_goes_where_that_goes(join: Callable[..., None]) -> None:
    winners = np.zeros((20, 20), int)
    winners[:8, :8], winners[:8, 12:] = 1, 2
    winners[14:17, 14:17] = 2
    winners[15, 15] = 1
    masks = from_winners(winners, 3)
    join(masks, [1, 2], 0.2, 0.5, 0)
    expected = winners.copy()
    expected[14:17, 14:17] = 0
    np.testing.assert_array_equal(masks.argmax(axis=0), expected)
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("join", JOINS)
def test_what_leads_to_no_piece_goes_to_the_winner(join: Callable[..., None]) -> None:
    """Slot 1 has a block, a weak halo around it, a crumb with a halo, and a weak ghost."""
    masks = np.zeros((2, 20, 20), np.float32)
    masks[1, 1:11, 1:11] = 0.3
    masks[1, 2:10, 2:10] = 0.9
    masks[1, 13:18, 13:18] = 0.3
    masks[1, 15, 15] = 0.9
    masks[1, 2:6, 15:19] = 0.2
    masks[1, 18, 2] = 0.05
    masks[0] = 1 - masks[1]
    expected = masks[1].copy()
    expected[13:18, 13:18] = expected[2:6, 15:19] = 0
    join(masks, [1], 0.1, 0.1, 0)
    np.testing.assert_array_equal(masks[1], expected)
    np.testing.assert_allclose(masks.sum(axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("join", JOINS)
def test_specks_within_another_slot_are_its_own(join: Callable[..., None]) -> None:
    """Of slot 0, the surroundings, in the object 1: three pixels that touch at corners, one at the
    image's border, four, and two that slot 2 touches at a corner. All of slot 3 is one pixel."""
    winners = np.zeros((20, 20), int)
    winners[:, 8:] = 1
    winners[2, 12] = winners[3, 13] = winners[2, 14] = 0
    winners[0, 17] = 0
    winners[6:8, 12:14] = 0
    winners[12, 12:14] = 0
    winners[13, 14:18] = 2
    winners[17, 12] = 3
    expected = winners.copy()
    expected[2:4, 12:15] = expected[0, 17] = 1
    masks = from_winners(winners, 4)
    join(masks, [1], 0.1, 0.5, 4)
    np.testing.assert_array_equal(masks.argmax(axis=0), expected)
    np.testing.assert_allclose(masks[:2, 3, 13], [0, 0.8 + 0.2 / 3], atol=1e-6)
    masks = from_winners(winners, 4)
    join(masks, [], 0.1, 0.5, 3)
    expected[2:4, 12:15] = winners[2:4, 12:15]
    np.testing.assert_array_equal(masks.argmax(axis=0), expected)


@pytest.mark.parametrize("join", JOINS)
def test_of_a_slot_in_specks_the_last_stays(join: Callable[..., None]) -> None:
    winners = np.zeros((9, 9), int)
    winners[1, 1] = winners[4, 4:6] = winners[7, 1] = 1
    masks = from_winners(winners, 2)
    join(masks, [], 0.1, 0.5, 4)
    expected = np.zeros((9, 9), int)
    expected[7, 1] = 1
    np.testing.assert_array_equal(masks.argmax(axis=0), expected)


def test_the_box_of_an_object_ends_where_its_crumbs_began() -> None:
    masks = np.zeros((2, 48, 48), np.float32)
    masks[1, 8:20, 8:20] = 0.9
    masks[1, 40:43, 40:43] = 0.3
    masks[1, 41, 41] = 0.9
    masks[0] = 1 - masks[1]

    def box() -> Any:
        latents, window = np.zeros((2, 3), np.float32), (slice(0, 96), slice(0, 96))
        kinds = np.array(["surroundings", "object"])
        scene = to_scene(masks, latents, latents, kinds=kinds, size=(96, 96), window=window,
                         quantised=True)  # fmt: skip
        return find_objects(scene).objects[1].box

    assert box().width > 60
    join_pieces(masks, [1], 0.1, 0.1, 0)
    assert box().width < 30


def test_more_slots_than_a_byte_counts_are_joined() -> None:
    winners = np.zeros((12, 12), int)
    winners[:6, :6] = winners[9, 9] = 258
    winners[9, 2] = 2
    masks = from_winners(winners, 260)
    other = masks.copy()
    for join, each in zip(JOINS, (masks, other), strict=True):
        join(each, [2, 258], 0.2, 0.1, 0)
        assert (each[:, 9, 9].argmax(), each[:, 9, 2].argmax()) == (0, 2)


def test_masks_that_are_not_contiguous_are_joined_all_the_same() -> None:
    masks = soft_masks(3, 24, 40, 1)
    masks = np.stack([cv2.blur(mask, (5, 5)) for mask in masks])
    apart = np.asfortranarray(masks)
    join_pieces(masks, [0, 1], 0.4, 0.2, 0)
    join_pieces(apart, [0, 1], 0.4, 0.2, 0)
    np.testing.assert_array_equal(masks, apart)


@needs_compiler
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("speck", [0, 1, 4, 9])
@pytest.mark.parametrize("size", [(40, 60), (96, 96), (1, 9), (3, 4), (1, 1)])
def test_pieces_are_the_same_in_array_operations(
    size: tuple[int, int], speck: int, seed: int
) -> None:
    masks = soft_masks(5, *size, seed)
    if size[0] > 1:  # larger pieces than of single pixels, and some of these
        blurred = np.stack([cv2.blur(mask, (7, 7)) for mask in masks])
        chosen = np.random.default_rng(seed).random(size) < 0.05
        masks = np.where(chosen, masks, blurred)
    other = masks.copy()
    assert _native_join_pieces(masks, [0, 2, 4], 0.4, 0.25, speck), "there is no C++ compiler"
    _array_join_pieces(other, [0, 2, 4], 0.4, 0.25, speck)
    np.testing.assert_array_equal(masks, other)
    if min(size) > 9:
        assert (masks == 0).any()
