"""Which images count as nearly the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.datasets.likeness import Seen, are_alike, thumbnail

MIN_CHANGE = 12.0


@pytest.fixture
def scene() -> np.ndarray:
    """A blurred pattern, RGB (256, 256, 3)."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (12, 12, 3), np.uint8)
    return cv2.resize(rough, (256, 256), interpolation=cv2.INTER_CUBIC)


def alike(first: np.ndarray, second: np.ndarray) -> bool:
    return are_alike(thumbnail(first), thumbnail(second), MIN_CHANGE)


def test_noise_and_compression_change_nothing(scene: np.ndarray) -> None:
    noise = np.random.default_rng(1).normal(0, 12, scene.shape)
    noisy = (scene + noise).clip(0, 255).astype(np.uint8)
    stored = cv2.imdecode(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1)
    assert alike(scene, stored)


def test_a_small_thing_that_moves_changes_an_image(scene: np.ndarray) -> None:
    def with_thing(x: int) -> np.ndarray:
        return cv2.rectangle(scene.copy(), (x, 100), (x + 12, 112), (255, 255, 255), -1)

    assert not alike(with_thing(100), with_thing(130))
    assert not alike(scene, np.roll(scene, 8, axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["varied", "still"])
def test_pairs_are_found_among_many(kind: str) -> None:
    """As by comparing every pair; "still": a camera that does not move, and small things do."""
    rng = np.random.default_rng(2)

    def thumbnails(count: int) -> np.ndarray:
        if kind == "varied":
            return rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        found = np.full((count, 16, 16, 3), 90, np.uint8)
        found += rng.integers(0, 4, found.shape, np.uint8)
        for one in found:
            row, column = rng.integers(0, 15, 2)
            one[row : row + 2, column : column + 2] = rng.integers(60, 140, 3)
        return found

    seen, others = thumbnails(3000), thumbnails(60)
    others[:20] = np.clip(seen[::150].astype(int) + rng.integers(-9, 10, seen[::150].shape), 0, 255)
    expected = [any(are_alike(a, b, MIN_CHANGE) for b in seen) for a in others]
    assert all(expected[:20]) and (kind == "still" or not any(expected[20:]))
    np.testing.assert_array_equal(Seen(seen).like(others, MIN_CHANGE), expected)


def test_nothing_is_like_nothing() -> None:
    none = np.empty((0, 16, 16, 3), np.uint8)
    some = np.zeros((2, 16, 16, 3), np.uint8)
    assert not Seen(none).like(some, MIN_CHANGE).any()
    assert Seen(some).like(none, MIN_CHANGE).shape == (0,)
