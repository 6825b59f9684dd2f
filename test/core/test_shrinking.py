"""Averaging camera images down, against the areas worked out one pixel at a time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from genesis_core.ops import shrinking
from genesis_core.ops.shrinking import shrink


def _image(height: int, width: int) -> NDArray[np.uint8]:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _share(source: int, target: int) -> NDArray[np.float64]:
    """(target, source), how much of each target pixel every source pixel covers."""
    scale = source / target
    begins = scale * np.arange(target)[:, None]
    first = np.arange(source)[None]
    return np.clip(np.minimum(begins + scale, first + 1) - np.maximum(begins, first), 0, 1) / scale


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (480, 640, (192, 192)),
        (48, 64, (48, 20)),  # only across
        (64, 48, (21, 48)),  # only down
        (33, 7, (1, 1)),
        (100, 100, (100, 100)),
        (99, 101, (98, 100)),
        (720, 1280, (128, 128)),
    ],
)
def test_each_pixel_is_the_mean_of_its_area(height: int, width: int, size: tuple[int, int]) -> None:
    image = _image(height, width)
    across = np.einsum("tw,hwc->htc", _share(width, size[1]), image)
    means = np.einsum("sh,htc->stc", _share(height, size[0]), across)
    shrunk = shrink(image, *size)
    assert shrunk.shape == (*size, 3) and shrunk.dtype == np.uint8
    assert np.abs(shrunk - means).max() <= 0.5 + 1e-3


def test_a_window_of_an_image_and_other_layouts_give_the_same() -> None:
    image = _image(60, 90)
    window = image[10:50, 20:70]
    expected = shrink(window.copy(), 16, 16)
    np.testing.assert_array_equal(shrink(window, 16, 16), expected)
    np.testing.assert_array_equal(shrink(np.asfortranarray(window), 16, 16), expected)
    bgr = np.ascontiguousarray(window[..., ::-1])
    np.testing.assert_array_equal(shrink(bgr[..., ::-1], 16, 16), expected)
    upside_down = np.ascontiguousarray(window[::-1])
    np.testing.assert_array_equal(shrink(upside_down[::-1], 16, 16), expected)


def test_without_a_compiler_opencv_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    image = _image(480, 640)
    native = shrink(image, 192, 192)
    monkeypatch.setattr(shrinking, "native_library", lambda *_: None)
    plain = shrink(image, 192, 192)
    np.testing.assert_array_equal(
        plain, cv2.resize(image, (192, 192), interpolation=cv2.INTER_AREA)
    )
    assert np.abs(native.astype(int) - plain).max() <= 1


def test_what_cannot_be_shrunk_is_refused() -> None:
    image = _image(8, 8)
    for wrong in (image[..., 0], image[..., :1], image.astype(np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            shrink(wrong, 4, 4)
    for size in ((9, 8), (0, 4)):
        with pytest.raises(ValueError, match="cannot shrink"):
            shrink(image, *size)
