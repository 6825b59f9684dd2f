"""Picture of the objects over the camera image, for people (RViz, rqt_image_view, Foxglove)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from genesis_core.kinds import ROBOT
from genesis_core.ops.mask_operations import equal
from genesis_core.perception.palette import colour
from genesis_core.perception.scene_objects import SceneObject, SceneObjects

_GREY = (128, 128, 128)


def draw_overlay(
    image: npt.NDArray[np.uint8],
    found: SceneObjects,
    alpha: float,
    track_ids: Sequence[int] | npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.uint8]:
    """RGB image (H, W, 3) with each object tinted, outlined and numbered.

    Background keeps its own colours, and what the model did not see is dark; the robot is grey and
    has no number. A number stands at its object's centroid, or where that lies outside of the
    object, as of a ring, deep inside of it.

    Args:
        image: (H, W, 3) RGB.
        found: its objects.
        alpha: strength of the tint, 0..1.
        track_ids: one per object. It gives number and colour, so that both stay with the object.
            Without track_ids, or where an id is 0, the label does.
    """
    if track_ids is None:
        track_ids = [0] * len(found.objects)
    numbers = {
        item.label: track_id or item.label
        for item, track_id in zip(found.objects, track_ids, strict=True)
        if not item.background
    }
    robot = {item.label for item in found.objects if item.kind == ROBOT}
    visible = np.zeros(256, np.uint8)
    palette = np.zeros((256, 1, 3), np.uint8)
    for label, number in numbers.items():
        visible[label] = label
        palette[label] = _GREY if label in robot else colour(number)
    labels = np.asarray(cv2.LUT(found.labels, visible), np.uint8)
    # applyColorMap reads its table as BGR and writes it as it stands: RGB stays RGB.
    colours = cv2.applyColorMap(labels, palette)
    overlay = np.array(image, order="C")  # OpenCV draws on no other
    if found.objects and cv2.countNonZero(found.labels) < found.labels.size:
        cv2.copyTo(overlay // 2, equal(found.labels, 0), overlay)
    tinted = cv2.addWeighted(overlay, 1.0 - alpha, colours, alpha, 0.0)
    cv2.copyTo(tinted, labels, overlay)
    edges = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    cv2.copyTo(np.full_like(overlay, 255), edges, overlay)
    _number(
        overlay,
        [
            (str(numbers[item.label]), _middle(item, found.labels))
            for item in found.objects
            if item.label in numbers and item.label not in robot
        ],
    )
    return overlay


def _middle(item: SceneObject, labels: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """x, y of the centroid if it lies on the object, else of the pixel furthest from its border."""
    x, y = item.centroid
    if labels[round(y), round(x)] == item.label:
        return x, y
    own = np.pad(equal(labels[item.own_box.slices], item.label), 1)
    depth = cv2.distanceTransform(own, cv2.DIST_L2, cv2.DIST_MASK_3)
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return item.own_box.x + int(column) - 1, item.own_box.y + int(row) - 1


def _number(overlay: npt.NDArray[np.uint8], texts: list[tuple[str, tuple[float, float]]]) -> None:
    scale = max(overlay.shape[0] / 480, 0.3) * 0.6
    for text, (x, y) in texts:
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        origin = (round(x - width / 2), round(y + height / 2))
        for shade, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                overlay, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, shade, thickness,
                cv2.LINE_AA,
            )  # fmt: skip
