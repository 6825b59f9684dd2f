"""Camera intrinsics with the lens's distortion, for positions.

genesis_bags/decoding/intrinsics.py chooses the matrix, for training as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.intrinsics import choose_matrix, is_distorted
from genesis_bags.decoding.pixels import ImageError, shown
from genesis_core.perception.lens import COEFFICIENTS, Distortion, describe_models


class Intrinsics(NamedTuple):
    """The camera of an image.

    Attributes:
        matrix: pinhole matrix (3, 3) [px], of the image's own size.
        distortion: None: the image is rectified, or the lens has none.
        choice: which of the CameraInfo's matrices this is and why, for people.
    """

    matrix: npt.NDArray[np.float64]
    distortion: Distortion | None
    choice: str


def read_intrinsics(
    info: CameraInfo, height: int, width: int, *, topic: str = "", use_projection: str = "auto"
) -> Intrinsics:
    """The camera of an image of this size, from its CameraInfo.

    Args:
        topic: of the image.
        use_projection: "always", "never" or "auto", see ``choose_matrix``.

    Raises:
        ImageError: the CameraInfo holds no usable intrinsics for this image. Its kind is
            "intrinsics" or "info size".
    """
    chosen = choose_matrix(info, height, width, topic=topic, use_projection=use_projection)
    distortion = _distortion(info) if chosen.has_distortion else None
    corrected = f", {distortion.model} distortion corrected" if distortion else ""
    return Intrinsics(chosen.matrix, distortion, f"{chosen.text}{corrected}")


def _distortion(info: CameraInfo) -> Distortion | None:
    """That of the sensor's own images.

    Raises:
        ImageError: it is not one that can be corrected.
    """
    if not is_distorted(info):
        return None
    coefficients = tuple(float(value) for value in info.d)
    if (
        len(coefficients) not in COEFFICIENTS.get(info.distortion_model, ())
        or not np.isfinite(coefficients).all()
    ):
        raise ImageError(
            "intrinsics",
            f"the distortion of the camera info cannot be corrected: model "
            f"{shown(info.distortion_model)} with {len(coefficients)} coefficients; expected "
            f"{describe_models()}. Rectify the images (use_projection: always says that they are)",
        )
    return Distortion(info.distortion_model, coefficients)
