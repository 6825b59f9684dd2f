"""One rendered image with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TrueObject:
    """Ground truth of one object; it may be outside the image or hidden."""

    label: int
    name: str
    #: Centre in the camera's optical frame (x right, y down, z forward), metres (3,).
    position: npt.NDArray[np.float64]
    #: Full extents along the object's own axes, metres (3,).
    size: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Frame:
    """One rendered image with its ground truth."""

    #: RGB, uint8 (H, W, 3).
    image: npt.NDArray[np.uint8]
    #: Instance labels, uint8 (H, W): 0 background, 1 robot, 2.. objects.
    labels: npt.NDArray[np.uint8]
    #: Distance along the optical axis in metres, float32 (H, W).
    depth: npt.NDArray[np.float32]
    #: Pinhole matrix (3, 3) in pixels; pixel (0, 0) has its centre at (0, 0), as in OpenCV and ROS.
    intrinsics: npt.NDArray[np.float64]
    objects: list[TrueObject]
    #: How each pixel's surface answers a depth camera, a depth_sensor.Material, uint8 (H, W); None
    #: where everything is dull.
    materials: npt.NDArray[np.uint8] | None = None
    #: Depth (H, W) with the clear things taken away; None where there are none.
    behind: npt.NDArray[np.float32] | None = None
