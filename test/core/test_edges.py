"""Masks that follow the edges of their image."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from genesis_core.ops.edges import _array_follow, _native_follow, follow_edges

Follow = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _in_arrays(masks: np.ndarray, image: np.ndarray) -> np.ndarray:
    colours = image.astype(np.float32) / 255
    height, width = masks.shape[1:]
    small = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    return _array_follow(masks, small, colours)


WAYS = [pytest.param(follow_edges, id="usual"), pytest.param(_in_arrays, id="arrays")]


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.0).astype(np.float32)
    return np.clip(4 * (smooth - 128) + 128, 0, 255).astype(np.uint8)


def _masks(slots: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width, slots)).astype(np.float32)
    smooth = 40 * cv2.GaussianBlur(noise, (0, 0), 3.0).reshape(height, width, slots)
    shares = np.exp(smooth - smooth.max(axis=2, keepdims=True))
    return np.ascontiguousarray((shares / shares.sum(axis=2, keepdims=True)).transpose(2, 0, 1))


@pytest.mark.parametrize("follow", WAYS)
@pytest.mark.parametrize("edge", [38, 39, 41, 42])
def test_a_border_moves_to_the_edge_beside_it(follow: Follow, edge: int) -> None:
    """The masks part at pixel 40 of 80; the image's colours do a pixel or two beside it."""
    image = np.full((60, 80, 3), (200, 60, 50), np.uint8)
    image[:, edge:] = (90, 80, 160)
    left = np.clip(0.5 - 0.25 * (np.arange(40) + 0.5 - 20), 0, 1).astype(np.float32)
    masks = np.stack([np.tile(left, (30, 1)), np.tile(1 - left, (30, 1))])
    found = follow(masks, image)
    assert found.shape == (2, 60, 80)
    np.testing.assert_array_equal(found[0] > 0.5, np.tile(np.arange(80) < edge, (60, 1)))
    # And it is sharper there: linear interpolation takes four pixels of the grid.
    assert found[0, :, edge - 2].min() > found[0, :, edge + 1].max() + 0.4


@pytest.mark.parametrize("follow", WAYS)
def test_where_the_image_shows_nothing_masks_are_interpolated(follow: Follow) -> None:
    """So that small things which depth alone shows are not lost."""
    masks = _masks(5, 24, 24)
    masks[:4, :, :12] = 0
    masks[4, :, :12] = 1
    masks[:, 5:8, 5:8] = np.array([1, 0, 0, 0, 0], np.float32).reshape(5, 1, 1)
    found = follow(masks, np.full((48, 48, 3), 120, np.uint8))
    expected = np.stack([cv2.resize(mask, (48, 48)) for mask in masks])
    np.testing.assert_allclose(found, expected, atol=0.04)  # but for traces
    np.testing.assert_allclose(found[0, :, :20], expected[0, :, :20], atol=1e-4)


@pytest.mark.parametrize("follow", WAYS)
def test_what_the_colours_explain_is_computed_by_hand(follow: Follow) -> None:
    """A step of a grey image, and of a mask beside it, across the five columns of one window."""
    image = np.zeros((5, 5, 3), np.uint8)
    image[:, 3:] = 255
    masks = np.zeros((2, 5, 5), np.float32)
    masks[0, :, 2:] = 1
    masks[1] = 1 - masks[0]
    found = follow(masks, image)

    def window(first: int, last: int) -> tuple[float, float, float]:
        """Slope, offset and how much is explained, from one of the three equal colours."""
        colour = np.array([0, 0, 0, 1, 1.0])[first:last]
        mask = np.array([1, 1, 0, 0, 0.0])[first:last]
        shared = (colour * mask).mean() - colour.mean() * mask.mean()
        slope = shared / (3 * colour.var() + 1e-4)  # of each
        explained = min(1.0, 3 * 3 * slope * shared / (mask.var() + 1e-5))
        return slope * explained, explained * (mask.mean() - 3 * slope * colour.mean()), explained

    windows = np.array([window(max(0, x - 2), min(5, x + 3)) for x in range(5)])
    means = np.array([windows[max(0, x - 2) : x + 3].mean(axis=0) for x in range(5)])
    other = np.array([1, 1, 0, 0, 0.0])
    expected = 3 * means[:, 0] * np.array([0, 0, 0, 1, 1]) + means[:, 1] + (1 - means[:, 2]) * other
    # The second mask is the smaller one; the first gets the rest.
    np.testing.assert_allclose(found[1], np.tile(np.clip(expected, 0, 1), (5, 1)), atol=2e-3)


@pytest.mark.parametrize("slots", [1, 2, 16])
@pytest.mark.parametrize(
    "sizes",
    [
        ((96, 96), (192, 192)),
        ((12, 20), (12, 20)),
        ((7, 9), (20, 31)),
        ((1, 3), (2, 6)),
        ((1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("grey", [False, True])
def test_in_c_and_in_arrays_it_is_the_same(
    grey: bool, slots: int, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    masks, image = _masks(slots, *sizes[0]), _picture(*sizes[1])
    if grey:
        image[:] = 255 * (image[..., :1] > 128)
    found = follow_edges(masks, image)
    np.testing.assert_allclose(found, _in_arrays(masks, image), atol=2e-3)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("follow", WAYS)
def test_traces_far_from_a_mask_go_to_the_largest(follow: Follow) -> None:
    """Also where another one reaches as far."""
    masks = np.full((3, 40, 40), 0.02, np.float32)
    masks[0, 15:25, 15:25] = 0.9
    masks[1, 30:36, 30:36] = 0.8
    masks[2] = 1 - masks[0] - masks[1]
    found = follow(masks, _picture(80, 80))
    assert found[0, :10].max() == found[1, :40].max() == 0
    assert (found[2, :10] == 1).all()
    assert found[0, 36:44, 36:44].min() > 0.7 and found[1, 64:68, 64:68].min() > 0.6


@pytest.mark.parametrize("follow", WAYS)
def test_an_object_that_is_traced_in_all_corners_does_not_get_the_rest(follow: Follow) -> None:
    masks = np.zeros((3, 40, 40), np.float32)
    masks[0, 15:25, 15:25] = 0.9
    masks[0, [0, 0, -1, -1], [0, -1, 0, -1]] = 0.04
    masks[1, 5:8, 5:8] = 0.025
    masks[2] = 1 - masks[0] - masks[1]
    found = follow(masks, _picture(80, 80))
    assert found[0, 10:20, 10:20].max() < 0.01 and found[2, 10:20, 10:20].min() > 0.99


def test_masks_that_are_not_finite_are_an_error() -> None:
    masks = _masks(3, 8, 8)
    masks[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="masks are not finite"):
        follow_edges(masks, _picture(16, 16))


def test_there_is_a_compiler_where_tests_run() -> None:
    """Else the comparisons above compare one way with itself."""
    masks, image = _masks(2, 8, 8), _picture(8, 8).astype(np.float32)
    assert _native_follow(masks, image, image) is not None
