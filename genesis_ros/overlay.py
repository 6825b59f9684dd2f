"""Picture of the objects over the camera image, for people (RViz, rqt_image_view, Foxglove)."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
import numpy.typing as npt

from genesis_ros.objects import SceneObjects


def _palette() -> npt.NDArray[np.uint8]:
    """A colour per label, (256, 1, 3) RGB; neighbouring labels differ well, 0 is black."""
    golden_ratio = 0.618034
    hues = [(label * golden_ratio) % 1.0 for label in range(256)]
    colours = [colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues]
    palette = np.array(colours)[:, np.newaxis] * 255
    palette[0] = 0
    return palette.astype(np.uint8)


_PALETTE = _palette()


def draw_overlay(
    image: npt.NDArray[np.uint8], found: SceneObjects, alpha: float
) -> npt.NDArray[np.uint8]:
    """RGB image (H, W, 3) with each object tinted, outlined and numbered by its label.

    Background keeps its own colours. alpha: strength of the tint, 0..1.
    """
    objects = [item for item in found.objects if not item.background]
    visible = np.zeros(256, np.uint8)
    for item in objects:
        visible[item.label] = item.label
    labels = np.asarray(cv2.LUT(found.labels, visible), np.uint8)
    # applyColorMap reads its table as BGR and writes it as it stands: RGB stays RGB.
    colours = cv2.applyColorMap(labels, _PALETTE)
    overlay = np.array(image)
    tinted = cv2.addWeighted(overlay, 1.0 - alpha, colours, alpha, 0.0)
    cv2.copyTo(tinted, labels, overlay)
    edges = cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    cv2.copyTo(np.full_like(overlay, 255), edges, overlay)
    _number(overlay, [(str(item.label), item.centroid) for item in objects])
    return overlay


def _number(overlay: npt.NDArray[np.uint8], texts: list[tuple[str, tuple[float, float]]]) -> None:
    scale = max(overlay.shape[0] / 480, 0.3) * 0.6
    for text, (x, y) in texts:
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        origin = (round(x - width / 2), round(y + height / 2))
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                overlay, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness,
                cv2.LINE_AA,
            )  # fmt: skip
