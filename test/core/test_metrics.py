"""Metrics against hand-computed values, scikit-learn's documented ones and the golden file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genesis_core.metrics import (
    adjusted_rand_index,
    count_components,
    mean_segment_covering,
    objects_found,
    scaled_segment_covering,
    slot_count_error,
)

Golden = Callable[[str], tuple[Path, dict[str, Any]]]


def row(*labels: int) -> NDArray[np.int64]:
    """One image of one row."""
    return np.array(labels).reshape(1, 1, -1)


@pytest.mark.parametrize(
    ("true", "pred", "expected"),
    [
        # The examples in the documentation of sklearn.metrics.adjusted_rand_score.
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 1, 1), (1, 1, 0, 0), 1.0),
        ((0, 0, 1, 2), (0, 0, 1, 1), 0.5714285714285714),
        ((0, 0, 1, 1), (0, 0, 1, 2), 0.5714285714285714),
        ((0, 0, 0, 0), (0, 1, 2, 3), 0.0),
        ((0, 0, 1, 1), (0, 1, 0, 1), -0.5),
        # sklearn's user guide on clustering.
        ((0, 0, 0, 1, 1, 1), (0, 0, 1, 1, 2, 2), 0.24242424242424243),
        # One segment on both sides is the same partition.
        ((0, 0, 0, 0), (3, 3, 3, 3), 1.0),
        # Every pixel a segment of its own on both sides, too.
        ((0, 1, 2, 3), (7, 1, 5, 2), 1.0),
    ],
)
def test_ari_has_the_values_sklearn_documents(
    true: tuple[int, ...], pred: tuple[int, ...], expected: float
) -> None:
    assert adjusted_rand_index(row(*true), row(*pred)) == pytest.approx([expected], abs=1e-12)


def test_ari_fg_ignores_the_background() -> None:
    true = row(0, 0, 0, 0, 1, 1, 2, 2)
    pred = row(0, 1, 2, 3, 5, 5, 6, 6)
    assert adjusted_rand_index(true, pred, foreground_only=True) == pytest.approx([1.0])
    assert adjusted_rand_index(true, pred)[0] < 0.7


def test_an_image_without_foreground_has_ari_fg_one_and_msc_fg_zero() -> None:
    true, pred = row(0, 0, 0, 0), row(0, 1, 2, 3)
    assert adjusted_rand_index(true, pred, foreground_only=True).tolist() == [1.0]
    assert mean_segment_covering(true, pred, foreground_only=True).tolist() == [0.0]
    assert scaled_segment_covering(true, pred, foreground_only=True).tolist() == [0.0]


def test_covering_by_hand() -> None:
    # Background 0: best IoU is with label 8, 3 of 4 pixels. Object 1: with label 9, 1 of 2.
    # Object 2: label 9 shares none, label 7 covers it exactly.
    true = row(0, 0, 0, 0, 1, 2, 2, 2)
    pred = row(8, 8, 8, 9, 9, 7, 7, 7)
    msc = (3 / 4 + 1 / 2 + 1) / 3
    msc_fg = (1 / 2 + 1) / 2
    scaled = (4 * 3 / 4 + 1 * 1 / 2 + 3 * 1) / 8
    scaled_fg = (1 * 1 / 2 + 3 * 1) / 4
    assert mean_segment_covering(true, pred) == pytest.approx([msc])
    assert mean_segment_covering(true, pred, foreground_only=True) == pytest.approx([msc_fg])
    assert scaled_segment_covering(true, pred) == pytest.approx([scaled])
    assert scaled_segment_covering(true, pred, foreground_only=True) == pytest.approx([scaled_fg])


def test_covering_restricted_to_foreground_still_counts_spilled_predictions() -> None:
    # One object of 2 pixels whose mask also takes 2 background pixels.
    true, pred = row(0, 0, 0, 0, 1, 1), row(0, 0, 1, 1, 1, 1)
    assert mean_segment_covering(true, pred, foreground_only=True) == pytest.approx([0.5])


def test_components_and_slot_count_error() -> None:
    true = np.concatenate([row(0, 0, 0, 0), row(0, 4, 4, 9), row(1, 2, 3, 3)])
    assert count_components(true).tolist() == [1, 3, 4]
    assert slot_count_error(true, [7, 3, 2]).tolist() == [6.0, 0.0, 2.0]


def test_images_of_a_batch_are_scored_independently() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, (6, 9, 11))
    true[0], true[3] = 0, true[3] * 40  # labels that other images lack
    pred = rng.integers(-1, 7, (6, 9, 11))
    for metric in (adjusted_rand_index, mean_segment_covering, scaled_segment_covering):
        for foreground_only in (False, True):
            batched = metric(true, pred, foreground_only)
            single = [
                metric(t[None], p[None], foreground_only)[0]
                for t, p in zip(true, pred, strict=True)
            ]
            assert batched == pytest.approx(single, abs=1e-12)


def test_narrow_integers_and_tensors_give_the_same_values() -> None:
    rng = np.random.default_rng(1)
    true, pred = rng.integers(0, 200, (2, 40, 40)), rng.integers(0, 200, (2, 40, 40))
    expected = adjusted_rand_index(true, pred)
    narrow = adjusted_rand_index(true.astype(np.uint8), torch.from_numpy(pred))
    assert narrow.dtype == np.float64
    assert narrow.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("true", "pred", "message"),
    [
        (np.zeros((2, 4, 4), int), np.zeros((2, 8, 8), int), r"\(2, 4, 4\).*\(2, 8, 8\)"),
        (np.zeros((4, 4), int), np.zeros((4, 4), int), r"true.*\(4, 4\).*\(B, H, W\)"),
        (np.zeros((0, 4, 4), int), np.zeros((0, 4, 4), int), r"true.*\(0, 4, 4\)"),
        (np.zeros((1, 4, 4), int), np.zeros((1, 4, 4)), "pred holds float64.*argmax"),
    ],
)
def test_unusable_label_maps_are_refused(
    true: NDArray[np.int64], pred: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adjusted_rand_index(true, pred)


def test_slot_counts_of_another_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*3 images"):
        slot_count_error(np.zeros((3, 4, 4), int), [1, 2])


def test_objects_found_are_counted_per_image() -> None:
    """IoUs of 2/4 and 2/2 in the first image; the second one has no object."""
    true = np.concatenate([row(1, 1, 2, 2, 0, 0), row(0, 0, 0, 0, 0, 0)])
    pred = np.concatenate([row(5, 5, 6, 6, 5, 5), row(1, 2, 3, 3, 3, 3)])
    for threshold, expected in ((0.5, 2), (0.51, 1), (1.0, 1)):
        found, objects = objects_found(true, pred, threshold)
        assert (found.tolist(), objects.tolist()) == ([expected, 0], [2, 0])


@pytest.mark.parametrize(
    ("key", "metric", "foreground_only"),
    [
        ("ari", adjusted_rand_index, False),
        ("ari_fg", adjusted_rand_index, True),
        ("msc", mean_segment_covering, False),
        ("msc_fg", mean_segment_covering, True),
        ("sc_scaled", scaled_segment_covering, False),
        ("sc_scaled_fg", scaled_segment_covering, True),
    ],
)
def test_agrees_with_the_reference(
    golden: Golden, key: str, metric: Callable[..., NDArray[np.float64]], foreground_only: bool
) -> None:
    _, expected = golden("metrics.npz")
    pred = expected["log_masks"].argmax(1)
    values = metric(expected["ground_truth"], pred, foreground_only)
    assert np.abs(values - expected[key]).max() < 1e-6
