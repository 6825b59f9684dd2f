"""How well objects are found in one image, as papers on unseen objects measure it, and summed up.

Overlap and boundary precision, recall and F are those of UOIS-Net (Xie et al., 2020) and UCN (Xiang
et al., 2020), after Dave et al. (2019): predicted and true objects are matched one to one so that
the sum of their F is largest. What is lost, merged and split says how the rest fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from genesis_core.kinds import KINDS, OBJECT, ROBOT, SURROUNDINGS
from genesis_core.metrics import adjusted_rand_index
from training.datasets.layout import IGNORED

BOUNDARY_TOLERANCE = 0.003
"""How far boundaries may lie apart: the share of the image's diagonal, as in UOIS-Net."""
MIN_AREA = 0.0005
"""Smaller segments, as a share of the image, are no objects: as in the node."""
SPLIT_LARGEST, SPLIT_SECOND = 0.75, 0.15

Labels = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Matched:
    """Precision, recall and F of matched objects; 0 where nothing is predicted.

    UCN's evaluation has precision 1 there, which would reward a model that finds nothing.
    """

    precision: float
    recall: float

    @property
    def f(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


@dataclass(frozen=True)
class ObjectScores:
    """Of one image with at least one object.

    Attributes:
        objects: number of true objects.
        segments: number of predicted ones.
        ious: (objects,) the best IoU of each true object with any segment, the background's too.
        ari_fg: adjusted Rand index over the objects' pixels; None with one object only.
        overlap, boundary: precision and recall of the matched objects' pixels and boundaries.
        on_background: predicted objects that lie on background for more than half of their pixels.
        lost: true objects most of whose pixels are predicted as background.
        merged: true objects whose most frequent segment is another one's most frequent, too.
        split: true objects of which the largest segment holds less than 75% and a second one at
            least 15%.
    """

    objects: int
    segments: int
    ious: NDArray[np.float64]
    ari_fg: float | None
    overlap: Matched
    boundary: Matched
    on_background: int
    lost: int
    merged: int
    split: int


def score_objects(truth: Labels, slots: Labels, found: Labels) -> ObjectScores | None:
    """Score one image; None if it holds no object to find.

    Args:
        truth: (H, W), 0 = background, 1.. = objects, 255 = not scored.
        slots: (H, W), the segment of each pixel, background included; 0 or more.
        found: (H, W), the predicted objects: 0 = background, 1.. = objects.

    Raises:
        ValueError: the arrays differ in shape.
    """
    if not truth.shape == slots.shape == found.shape:
        raise ValueError(
            f"truth, slots and found have shapes {truth.shape}, {slots.shape} and {found.shape}; "
            "expected the same (H, W) of all"
        )
    scored = truth != IGNORED
    true = truth[scored].astype(np.int64)
    if not true.any():
        return None
    ids, by_slot = _table(true, slots[scored].astype(np.int64))
    _, by_object = _table(true, found[scored].astype(np.int64))
    if by_object.labels[0] != 0:  # no background is predicted
        by_object = _Table(np.r_[0, by_object.labels], np.pad(by_object.counts, ((0, 0), (1, 0))))
    foreground = ids > 0
    sizes = by_slot.counts.sum(1)
    overlaps = by_object.counts[foreground][:, 1:]
    predicted = by_object.counts[:, 1:].sum(0)
    pairs = _match(overlaps, sizes[foreground], predicted)
    matched = int(overlaps[pairs].sum())
    own = by_object.counts[foreground].argmax(1)
    return ObjectScores(
        objects=int(foreground.sum()),
        segments=len(predicted),
        ious=_best_ious(by_slot.counts, foreground),
        ari_fg=_ari_fg(true, slots[scored]) if foreground.sum() > 1 else None,
        overlap=Matched(_ratio(matched, predicted.sum()), _ratio(matched, sizes[foreground].sum())),
        boundary=_boundary(truth, found, ids[foreground], by_object.labels[1:], pairs),
        on_background=int((predicted - overlaps.sum(0) > 0.5 * predicted).sum()),
        lost=int((own == 0).sum()),
        merged=int(sum(1 for column in own if column and (own == column).sum() > 1)),
        split=_count_split(overlaps, sizes[foreground]),
    )


@dataclass(frozen=True)
class _Table:
    """Pixels by true label (rows) and predicted label (columns, named by ``labels``)."""

    labels: Counts
    counts: Counts


def _table(true: Counts, predicted: Counts) -> tuple[Counts, _Table]:
    """The true labels, and how many pixels have which true and which predicted label."""
    ids, rows = np.unique(true, return_inverse=True)
    labels, columns = np.unique(predicted, return_inverse=True)
    flat = np.bincount(rows * len(labels) + columns, minlength=len(ids) * len(labels))
    return ids, _Table(labels, flat.reshape(len(ids), len(labels)))


def _match(overlaps: Counts, true: Counts, predicted: Counts) -> tuple[Counts, Counts]:
    """Rows and columns of matched true and predicted objects: the largest sum of F."""
    f = 2 * overlaps / (true[:, None] + predicted[None])
    rows, columns = linear_sum_assignment(f, maximize=True)
    return rows, columns


def _best_ious(counts: Counts, foreground: NDArray[np.bool_]) -> NDArray[np.float64]:
    unions = counts.sum(1)[:, None] + counts.sum(0)[None] - counts
    ious: NDArray[np.float64] = (counts / unions)[foreground].max(1)
    return ious


def _ari_fg(true: Counts, slots: Labels) -> float:
    return float(adjusted_rand_index(true[None, None], slots[None, None], foreground_only=True)[0])


def _count_split(overlaps: Counts, sizes: Counts) -> int:
    if overlaps.shape[1] < 2:
        return 0
    parts = np.sort(overlaps, axis=1)[:, ::-1]
    split = (parts[:, 0] < SPLIT_LARGEST * sizes) & (parts[:, 1] >= SPLIT_SECOND * sizes)
    return int(split.sum())


def _boundary(
    truth: Labels,
    found: Labels,
    true_ids: Counts,
    found_ids: Counts,
    pairs: tuple[Counts, Counts],
) -> Matched:
    """Boundaries of matched objects that lie within the tolerance of each other."""
    height, width = truth.shape
    tolerance = math.ceil(BOUNDARY_TOLERANCE * math.hypot(height, width))
    scored = _inside(truth != IGNORED)
    true = [_edges(truth == label) & scored for label in true_ids]
    predicted = [_edges(found == label) & scored for label in found_ids]
    right, covered = 0, 0
    for row, column in zip(*pairs, strict=True):
        right += _near(predicted[column], true[row], tolerance)
        covered += _near(true[row], predicted[column], tolerance)
    return Matched(
        _ratio(right, sum(int(edge.sum()) for edge in predicted)),
        _ratio(covered, sum(int(edge.sum()) for edge in true)),
    )


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that differ from their right, lower or lower right neighbour: lines 1 pixel wide."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, lower, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    edges: NDArray[np.bool_] = (mask != right) | (mask != lower) | (mask != diagonal)
    return edges


def _inside(scored: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where no edge is due to pixels that are not scored."""
    return scored & ~_edges(scored)


def _near(edges: NDArray[np.bool_], others: NDArray[np.bool_], tolerance: float) -> int:
    """How many edge pixels lie within the tolerance, in pixels, of another edge."""
    if not others.any():
        return 0
    distances = cv2.distanceTransform(
        (~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return int(np.count_nonzero(distances[edges] <= tolerance + 1e-3))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


# Over images

MEANS: dict[str, Callable[[ObjectScores], float]] = {
    "msc_fg": lambda score: float(score.ious.mean()),
    "segments": lambda score: score.segments,
    "objects": lambda score: score.objects,
    "precision": lambda score: score.overlap.precision,
    "recall": lambda score: score.overlap.recall,
    "f": lambda score: score.overlap.f,
    "boundary_precision": lambda score: score.boundary.precision,
    "boundary_recall": lambda score: score.boundary.recall,
    "boundary_f": lambda score: score.boundary.f,
    "on_background": lambda score: score.on_background,
}
"""Means over the images."""
SHARES: dict[str, Callable[[ObjectScores], float]] = {
    "r50": lambda score: float((score.ious >= 0.5).sum()),
    "r75": lambda score: float((score.ious >= 0.75).sum()),
    "lost": lambda score: score.lost,
    "merged": lambda score: score.merged,
    "split": lambda score: score.split,
}
"""Shares of the objects of all images."""

Summary = dict[str, float | None]


def summarise(scores: Sequence[ObjectScores]) -> Summary:
    """Over at least one image: ``MEANS``, ``SHARES``, ``images`` (their number) and ``ari_fg``.

    The last is the mean over the images with two objects or more; None if there are none.
    """
    objects = sum(score.objects for score in scores)
    aris = [score.ari_fg for score in scores if score.ari_fg is not None]
    return {
        "images": len(scores),
        "ari_fg": fmean(aris) if aris else None,
        **{name: fmean(map(value, scores)) for name, value in MEANS.items()},
        **{name: sum(map(value, scores)) / objects for name, value in SHARES.items()},
    }


# Kinds


class KindScores(NamedTuple):
    """Numbers of slots; they add up over images.

    slots: that were scored. right: of the right kind. things: objects or robot in truth. told: of
    these, called robot if and only if they are. robots: robot in truth. robots_found: of these,
    called robot.
    """

    slots: int = 0
    right: int = 0
    things: int = 0
    told: int = 0
    robots: int = 0
    robots_found: int = 0


def score_kinds(
    truth: Labels,
    slots: Labels,
    kinds: Sequence[str],
    robot: Collection[int],
    min_area: float = 0.0,
) -> KindScores:
    """Compare each slot's kind with what most of its pixels show.

    Args:
        truth: (H, W), 0 = surroundings, 1.. = objects and robot, 255 = not scored.
        slots: (H, W), the slot of each pixel.
        kinds: what each slot is said to be: object, robot or surroundings.
        robot: the labels of the robot in ``truth``.
        min_area: slots that win a smaller share of the image are left out.
    """
    shown = np.where(truth > 0, KINDS.index(OBJECT), KINDS.index(SURROUNDINGS))
    shown[np.isin(truth, list(robot))] = KINDS.index(ROBOT)
    true: list[str] = []
    said: list[str] = []
    for slot, kind in enumerate(kinds):
        own = shown[(slots == slot) & (truth != IGNORED)]
        if own.size and own.size >= min_area * truth.size:
            true.append(KINDS[int(np.bincount(own, minlength=3).argmax())])
            said.append(kind)
    pairs = list(zip(true, said, strict=True))
    things = [(t, s) for t, s in pairs if t != SURROUNDINGS]
    return KindScores(
        slots=len(pairs),
        right=sum(t == s for t, s in pairs),
        things=len(things),
        told=sum((t == ROBOT) == (s == ROBOT) for t, s in things),
        robots=sum(t == ROBOT for t, _ in things),
        robots_found=sum(t == s == ROBOT for t, s in things),
    )


def kind_ratios(scores: Sequence[KindScores]) -> dict[str, tuple[int, int]]:
    """Numbers of slots over all images, and of those that they are a share of.

    ``kind_accuracy``: slots of the right kind. ``robot_told``: slots on objects or the robot, in
    images with a robot, that are called robot if and only if they are. ``robot_recall``: slots on
    the robot that are called so.
    """
    total = KindScores(*(sum(values) for values in zip(*scores, strict=True)))
    with_robot = [score for score in scores if score.robots]
    return {
        "kind_accuracy": (total.right, total.slots),
        "robot_told": (sum(s.told for s in with_robot), sum(s.things for s in with_robot)),
        "robot_recall": (total.robots_found, total.robots),
    }


def summarise_kinds(scores: Sequence[KindScores]) -> Summary:
    """Shares over all images, see ``kind_ratios``; None where there is nothing to share."""
    ratios = kind_ratios(scores).items()
    return {name: part / whole if whole else None for name, (part, whole) in ratios}
