"""Segmentation metrics, evaluated per image in float64 for a whole batch at once.

Every function takes integer label maps of shape (B, H, W): ``true`` holds the ground-truth instance
of each pixel (0 is the background, positive labels are the foreground objects) and ``pred`` the
predicted one (usually the argmax over the slots). The values of the labels do not matter otherwise:
they need not be consecutive nor agree between the two maps. NumPy arrays and CPU tensors are both
accepted; the result is always one float64 NumPy value per image, to be averaged by the caller.

Sources: ARI is Hubert and Arabie (1985); segmentation covering is Arbelaez et al. (2011), in the
unweighted form (MSC) of Engelcke et al. (2020), "GENESIS". The paper (section 4) scores the
foreground, but all pixels of data with a single object per image, such as APC.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


def adjusted_rand_index(
    true: ArrayLike, pred: ArrayLike, foreground_only: bool = False
) -> FloatArray:
    """Adjusted Rand index of two segmentations: 1 for the same partition, about 0 for chance.

    Args:
        true: (B, H, W) ground-truth labels, 0 = background.
        pred: (B, H, W) predicted labels.
        foreground_only: count only the pixels whose ground truth is foreground (ARI-FG).

    Returns:
        (B,) values in [-0.5, 1]. Degenerate images score as in scikit-learn: two identical
        partitions are 1 whatever they are, which includes one segment on both sides and (ARI-FG)
        an image without any foreground pixel; one segment against several is 0.

    Raises:
        ValueError: the maps differ in shape, are not (B, H, W), or are not integers.
    """
    table, true_labels = _contingency(true, pred)
    if foreground_only:
        table = table[:, true_labels > 0]
    # Ordered pairs of pixels by "together in true" x "together in pred", as in scikit-learn's pair
    # confusion matrix: exact integers in float64 as long as H * W < 2 ** 26.
    total = table.sum((1, 2))
    same_both = (table**2).sum((1, 2))
    same_true = (table.sum(2) ** 2).sum(1)
    same_pred = (table.sum(1) ** 2).sum(1)
    both = same_both - total
    only_true = same_true - same_both
    only_pred = same_pred - same_both
    neither = total**2 - same_true - same_pred + same_both
    identical = (only_true == 0) & (only_pred == 0)
    numerator = 2.0 * (both * neither - only_true * only_pred)
    denominator = (both + only_true) * (only_true + neither) + (both + only_pred) * (
        only_pred + neither
    )
    result: FloatArray = np.ones_like(total)
    np.divide(numerator, denominator, out=result, where=~identical)
    return result


def mean_segment_covering(
    true: ArrayLike, pred: ArrayLike, foreground_only: bool = False
) -> FloatArray:
    """Mean segmentation covering (MSC): best IoU of each true segment, unweighted mean over them.

    Args:
        true: (B, H, W) ground-truth labels, 0 = background.
        pred: (B, H, W) predicted labels, never restricted to the foreground: a prediction that
            spills over into the background loses IoU.
        foreground_only: average over the foreground segments only (MSC-FG).

    Returns:
        (B,) values in [0, 1]. An image without a segment to average over (MSC-FG without any
        foreground) is 0.

    Raises:
        ValueError: the maps differ in shape, are not (B, H, W), or are not integers.
    """
    best_iou, sizes = _covering(true, pred, foreground_only)
    return _weighted_mean(best_iou, (sizes > 0).astype(np.float64))


def scaled_segment_covering(
    true: ArrayLike, pred: ArrayLike, foreground_only: bool = False
) -> FloatArray:
    """Segmentation covering (SC): as `mean_segment_covering`, segments weighted by their area."""
    best_iou, sizes = _covering(true, pred, foreground_only)
    return _weighted_mean(best_iou, sizes)


def objects_found(
    true: ArrayLike, pred: ArrayLike, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many foreground objects have a predicted segment of at least this IoU, and all of them.

    Args:
        true: (B, H, W) ground-truth labels, 0 = background.
        pred: (B, H, W) predicted labels.
        threshold: in (0, 1]; a common one is 0.5, above which a segment is one object's at most.

    Returns:
        (B,) and (B,), to be summed up over images.

    Raises:
        ValueError: the maps differ in shape, are not (B, H, W), or are not integers.
    """
    best_iou, sizes = _covering(true, pred, foreground_only=True)
    present = sizes > 0
    found: NDArray[np.int64] = ((best_iou >= threshold) & present).sum(1, dtype=np.int64)
    return found, present.sum(1, dtype=np.int64)


def count_components(true: ArrayLike) -> NDArray[np.int64]:
    """Number of scene components per image: its foreground objects plus one for the background.

    Args:
        true: (B, H, W) ground-truth labels, 0 = background. Several background segments (walls,
            floor) have to be merged into label 0 beforehand.

    Returns:
        (B,) integers; 1 for an image without any foreground.
    """
    counts, labels = _label_areas(_label_maps(true, "true"))
    present: NDArray[np.int64] = (counts[:, labels > 0] > 0).sum(1, dtype=np.int64)
    return present + 1


def slot_count_error(true: ArrayLike, num_slots: ArrayLike) -> FloatArray:
    """Absolute difference between the slots used and the scene's components (mean of it: MAE).

    Args:
        true: (B, H, W) ground-truth labels, 0 = background.
        num_slots: (B,) number of slots that the model used in each image.

    Raises:
        ValueError: not one number of slots per image.
    """
    components = count_components(true)
    slots = np.asarray(num_slots, dtype=np.float64)
    if slots.shape != components.shape:
        raise ValueError(
            f"num_slots has the shape {slots.shape}, expected one number for each of the "
            f"{components.size} images"
        )
    return np.abs(slots - components)


def _covering(
    true: ArrayLike, pred: ArrayLike, foreground_only: bool
) -> tuple[FloatArray, FloatArray]:
    """Best IoU over the predicted segments and area in pixels of each true segment, both (B, T)."""
    table, true_labels = _contingency(true, pred)
    true_sizes = table.sum(2)
    pred_sizes = table.sum(1)
    union = true_sizes[:, :, None] + pred_sizes[:, None, :] - table
    # The union of a label that an image lacks with a prediction that it lacks too is empty.
    best_iou: FloatArray = (table / np.maximum(union, 1.0)).max(2)
    if foreground_only:
        best_iou, true_sizes = best_iou[:, true_labels > 0], true_sizes[:, true_labels > 0]
    return best_iou, true_sizes


def _weighted_mean(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean over the last axis, 0 where all the weights are 0."""
    total = weights.sum(-1)
    result: FloatArray = np.zeros_like(total)
    np.divide((values * weights).sum(-1), total, out=result, where=total > 0)
    return result


def _contingency(true: ArrayLike, pred: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    """Pixels by true and predicted label, (B, T, P), and the T true labels in ascending order.

    T and P count the labels of the whole batch, so an image may lack some of them (rows of 0).
    """
    true_map, pred_map = _label_maps(true, "true"), _label_maps(pred, "pred")
    if true_map.shape != pred_map.shape:
        raise ValueError(
            f"true has the shape {true_map.shape} but pred has {pred_map.shape}: resize the "
            "predicted masks to the ground truth (or the other way round) first"
        )
    true_labels, true_index = np.unique(true_map, return_inverse=True)
    pred_labels, pred_index = np.unique(pred_map, return_inverse=True)
    joint_index = true_index * pred_labels.size + pred_index
    table = _count(joint_index.reshape(true_map.shape), true_labels.size * pred_labels.size)
    return table.reshape(-1, true_labels.size, pred_labels.size), true_labels


def _label_areas(label_map: NDArray[np.int64]) -> tuple[FloatArray, NDArray[np.int64]]:
    """Pixels of each label in each image (B, L) and the L labels of the batch, ascending."""
    labels, index = np.unique(label_map, return_inverse=True)
    return _count(index.reshape(label_map.shape), labels.size), labels


def _count(index: NDArray[np.int64], size: int) -> FloatArray:
    """How often each of 0..size-1 occurs in each image of ``index`` (B, H, W), as (B, size)."""
    batch = index.shape[0]
    offset = np.arange(batch)[:, None] * size
    counts = np.bincount((index.reshape(batch, -1) + offset).ravel(), minlength=batch * size)
    return counts.reshape(batch, size).astype(np.float64)


def _label_maps(labels: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(labels)
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"{name} has the shape {array.shape}, expected label maps (B, H, W)")
    if array.dtype.kind not in "iub":
        raise ValueError(
            f"{name} holds {array.dtype}, expected integer labels: take the argmax over the slots "
            "if these are masks"
        )
    return array.astype(np.int64)
