"""Contact sheets and videos of image and overlay."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from genesis_ros.demo.pairs import Pair, PairSampler, PairVideo, contact_sheet, fit, write_image

RED, BLUE = (220, 20, 20), (20, 20, 220)


def filled(colour: tuple[int, int, int], height: int = 40, width: int = 60) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def pair(index: int) -> Pair:
    return Pair(filled((index % 256, index // 256, 0)), filled(BLUE), f"frame {index}")


def test_fit_keeps_proportions() -> None:
    framed = fit(filled(RED, 10, 20), 40, 40)
    assert framed.shape == (40, 40, 3)
    rows = np.all(framed == RED, axis=(1, 2))
    np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(10, 30))
    assert not framed[~rows].any()


def test_sheet_shows_image_beside_overlay_row_by_row() -> None:
    pairs = [Pair(filled(RED), filled(BLUE), "first"), Pair(filled(RED), filled(RED), "")]
    sheet = contact_sheet([*pairs, pairs[0]], columns=2)
    red, blue = np.all(sheet == RED, axis=2), np.all(sheet == BLUE, axis=2)
    assert red.sum() == 4 * 40 * 60
    assert blue.sum() == 2 * 40 * 60
    top = sheet.shape[0] // 2
    np.testing.assert_array_equal([red[:top].sum(), blue[:top].sum()], [3 * 40 * 60, 40 * 60])
    assert np.argwhere(red[:top])[:, 1].min() < np.argwhere(blue)[:, 1].min()
    # The first caption, in dark ink, is above the first image.
    assert (sheet[: np.argwhere(red)[:, 0].min()] < 100).any()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([])


@pytest.mark.parametrize("count", [1, 5, 12, 13, 1000])
def test_sampler_spreads_a_bounded_number_of_pairs(count: int) -> None:
    sampler = PairSampler(limit=12, width=30)
    for index in range(count):
        sampler.add(pair(index))
    captions = [int(kept.caption.split()[1]) for kept in sampler.pairs()]
    assert len(captions) == min(12, count)
    assert captions == sorted(set(captions))
    assert captions[0] == 0
    assert captions[-1] >= 0.9 * (count - 1)
    if count > 12:
        steps = np.diff(captions)
        assert steps.max() <= 2 * max(1, steps.min())
    assert {kept.image.shape for kept in sampler.pairs()} == {(20, 30, 3)}


@pytest.mark.parametrize("shape", [(4, 5000), (5000, 1)])
def test_sampler_keeps_strips_that_a_sheet_can_show(shape: tuple[int, int]) -> None:
    sampler = PairSampler(limit=2, width=30)
    sampler.add(Pair(filled(RED, *shape), filled(BLUE, *shape), "strip"))
    (kept,) = sampler.pairs()
    assert 1 <= kept.image.shape[0] <= 120 and kept.image.shape[1] == 30
    assert contact_sheet([kept]).any()


def test_sampler_leaves_out_images_it_has_seen() -> None:
    sampler = PairSampler()
    for index in range(50):
        sampler.add(pair(index % 3))
    assert [kept.caption for kept in sampler.pairs()] == ["frame 0", "frame 1", "frame 2"]


def test_video_takes_frames_of_every_size(tmp_path: Path) -> None:
    with PairVideo(tmp_path / "clip", rate=10.0) as video:
        video.add(Pair(filled(RED, 39, 61), filled(BLUE, 39, 61), ""))
        video.add(Pair(filled(RED, 100, 20), filled(BLUE, 100, 20), ""))
    assert video.path is not None
    capture = cv2.VideoCapture(str(video.path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    assert len(frames) == 2
    height, width = frames[0].shape[:2]
    assert abs(height - 39) <= 1
    assert abs(width - 122) <= 2
    np.testing.assert_allclose(frames[0][height // 2, width // 4], RED, atol=25)
    np.testing.assert_allclose(frames[0][height // 2, width * 3 // 4], BLUE, atol=25)


def test_images_are_written_in_rgb_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    write_image(path, filled(RED))
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], filled(RED))
