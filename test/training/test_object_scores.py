"""Measures of unseen-object segmentation against values computed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.object_scores import (
    KindScores,
    ObjectScores,
    score_kinds,
    score_objects,
    summarise,
    summarise_kinds,
)

Labels = NDArray[np.int64]
HEIGHT, WIDTH = 10, 20


def blocks(*columns: tuple[int, int, int], shape: tuple[int, int] = (HEIGHT, WIDTH)) -> Labels:
    """Labels, each over whole columns from one to before another, 0 elsewhere."""
    labels = np.zeros(shape, np.int64)
    for label, start, stop in columns:
        labels[:, start:stop] = label
    return labels


def score(truth: Labels, found: Labels, slots: Labels | None = None) -> ObjectScores:
    result = score_objects(truth, found if slots is None else slots, found)
    assert result is not None
    return result


def test_perfect_masks_score_one_whatever_their_labels() -> None:
    truth = blocks((1, 2, 5), (2, 8, 12))
    result = score(truth, blocks((2, 2, 5), (1, 8, 12)))
    assert (result.objects, result.segments) == (2, 2)
    assert result.ious.tolist() == [1, 1]
    assert result.ari_fg == 1
    for matched in (result.overlap, result.boundary):
        assert (matched.precision, matched.recall, matched.f) == (1, 1, 1)
    assert (result.on_background, result.lost, result.merged, result.split) == (0, 0, 0, 0)


def test_objects_are_matched_one_to_one() -> None:
    """Found: 6 columns over 4 of the first object and 2 of the second, and 1 column of that."""
    truth = blocks((1, 0, 4), (2, 4, 8))
    result = score(truth, blocks((1, 0, 6), (2, 6, 7)))
    # Matched: 40 pixels of the first and 10 of the second, of 70 found and 80 true ones.
    assert result.overlap.precision == pytest.approx(50 / 70)
    assert result.overlap.recall == pytest.approx(50 / 80)
    assert result.overlap.f == pytest.approx(2 * 50 / 150)
    # Best IoUs: 40 of 60; of the second object 20 of 80 with the first segment, 10 of 40 with the
    # second one.
    assert result.ious.tolist() == pytest.approx([4 / 6, 2 / 8])


def test_the_pairing_has_the_largest_sum_of_f_not_the_largest_overlap_each() -> None:
    # Overlaps in columns: found 1 has 5 of object 1 and 4 of object 2; found 2 has 1 of object 1.
    # F of 1-1 is 10/15, of 1-2 8/13, of 2-1 2/7: the sum is larger the other way round.
    truth = blocks((1, 0, 6), (2, 6, 10))
    result = score(truth, blocks((2, 0, 1), (1, 1, 10)))
    assert result.overlap.precision == pytest.approx((1 + 4) / 10)


def test_best_segments_may_be_the_backgrounds() -> None:
    """IoU and ARI look at all segments, lost objects at the background's alone."""
    truth = blocks((1, 0, 10), (2, 12, 14))
    found = blocks((1, 12, 14))
    result = score(truth, found)
    assert result.ious.tolist() == pytest.approx([10 / 18, 1])
    assert (result.lost, result.merged) == (1, 0)
    assert result.ari_fg == 1
    assert result.overlap.recall == pytest.approx(2 / 12)


def test_lost_merged_and_split() -> None:
    # Object 1 is two thirds background; 2 and 3 are one segment; 4 is halved.
    truth = blocks((1, 0, 3), (2, 4, 6), (3, 6, 8), (4, 10, 14))
    result = score(truth, blocks((1, 2, 3), (2, 4, 8), (3, 10, 12), (4, 12, 14)))
    assert (result.lost, result.merged, result.split) == (1, 2, 1)


def test_segments_on_the_background_are_counted() -> None:
    truth = blocks((1, 0, 4))
    result = score(truth, blocks((1, 0, 4), (2, 10, 12), (3, 3, 6)))
    assert result.on_background == 2  # 2 of 3 columns of the last one, too
    assert result.segments == 3


def test_nothing_found() -> None:
    result = score(blocks((1, 0, 4)), blocks())
    assert (result.overlap.precision, result.overlap.recall, result.overlap.f) == (0, 0, 0)
    assert (result.boundary.precision, result.boundary.recall) == (0, 0)
    assert (result.segments, result.lost, result.split) == (0, 1, 0)
    assert result.ari_fg is None  # one object


def test_everything_found_without_background() -> None:
    result = score(blocks((1, 0, 4)), blocks((1, 0, 20)))
    assert result.overlap.precision == pytest.approx(4 / 20)
    assert result.overlap.recall == 1
    assert (result.lost, result.on_background) == (0, 1)


def test_images_without_objects_have_no_score() -> None:
    assert score_objects(blocks(), blocks(), blocks((1, 0, 4))) is None
    assert score_objects(blocks((255, 0, 4)), blocks(), blocks()) is None


def test_pixels_that_are_not_scored_do_not_count() -> None:
    truth = blocks((1, 0, 4), (255, 4, 20))
    result = score(truth, blocks((1, 0, 8), (2, 10, 12)))
    assert (result.overlap.precision, result.overlap.recall) == (1, 1)
    assert result.segments == 1
    assert result.ious.tolist() == [1]
    # The edge between the object and what is not scored is no boundary, on neither side.
    assert (result.boundary.precision, result.boundary.recall) == (0, 0)


@pytest.mark.parametrize(("shift", "matched"), [(0, 160), (3, 160), (4, 86)])
def test_boundaries_may_lie_three_pixels_apart_at_640x480(shift: int, matched: int) -> None:
    """0.003 of the diagonal of 800 pixels, rounded up; a square of 40 has 4 * 40 edge pixels.

    4 pixels apart, the upper and lower edges match but for a corner each (2 * 40), and of the other
    ones 3 pixels beside the upper or lower edge at either end of one side.
    """
    truth, found = np.zeros((480, 640), np.int64), np.zeros((480, 640), np.int64)
    truth[100:140, 200:240] = 1
    found[100:140, 200 + shift : 240 + shift] = 1
    boundary = score(truth, found).boundary
    assert boundary.precision == pytest.approx(matched / 160)
    assert boundary.recall == pytest.approx(matched / 160)


def test_shapes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes \(10, 20\), \(10, 20\) and \(2, 2\)"):
        score_objects(blocks(), blocks(), np.zeros((2, 2), np.int64))


def test_a_summary_takes_means_over_images_and_shares_of_all_objects() -> None:
    truth = blocks((1, 0, 4), (2, 4, 8), (3, 8, 12))
    perfect, nothing = score(truth, truth), score(blocks((1, 0, 4)), blocks())
    summary = summarise([perfect, nothing])
    assert summary["images"] == 2
    assert (summary["f"], summary["boundary_f"], summary["objects"]) == (0.5, 0.5, 2)
    assert summary["ari_fg"] == 1  # of the image with more than one object
    # The best IoU of the object that was not found is 4 of 20 columns.
    assert summary["msc_fg"] == pytest.approx((1 + 0.2) / 2)
    assert summary["r50"] == summary["r75"] == 0.75
    assert summary["lost"] == 0.25
    assert summarise([nothing])["ari_fg"] is None


def test_thresholds_of_the_best_iou_are_inclusive() -> None:
    half = score(blocks((1, 0, 8)), blocks((1, 0, 4)))
    assert half.ious.tolist() == [0.5]
    summary = summarise([half])
    assert (summary["r50"], summary["r75"]) == (1, 0)


# Kinds


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["surroundings", "object", "robot"], (3, 3, 2, 2, 1, 1)),
        (["surroundings", "robot", "robot"], (3, 2, 2, 1, 1, 1)),
        (["surroundings", "surroundings", "object"], (3, 1, 2, 1, 1, 0)),
        (["object", "object", "robot"], (3, 2, 2, 2, 1, 1)),
    ],
)
def test_a_slots_kind_is_what_most_of_its_pixels_show(
    kinds: list[str], expected: tuple[int, ...]
) -> None:
    truth = blocks((1, 0, 4), (2, 10, 14), (255, 18, 20))
    slots = blocks((1, 0, 6), (2, 9, 14))
    assert score_kinds(truth, slots, kinds, robot={2}) == expected


def test_small_slots_and_those_that_win_nothing_have_no_kind() -> None:
    kinds: list[Any] = ["surroundings", "object", "robot"]
    truth = blocks((1, 0, 1))
    slots = blocks((1, 0, 1))  # 10 of 200 pixels
    assert score_kinds(truth, slots, kinds, robot=()).slots == 2
    assert score_kinds(truth, slots, kinds, robot=(), min_area=0.06).slots == 1


def test_shares_of_kinds_are_of_all_images() -> None:
    summary = summarise_kinds([KindScores(4, 4, 2, 2, 1, 1), KindScores(4, 2, 3, 2, 1, 0)])
    assert summary == {"kind_accuracy": 6 / 8, "robot_told": 4 / 5, "robot_recall": 1 / 2}
    without = summarise_kinds([KindScores(4, 3, 2, 2, 0, 0)])
    assert without == {"kind_accuracy": 3 / 4, "robot_told": None, "robot_recall": None}
