"""What a depth camera makes of perfect depth: structured light and stereo, with their errors.

Both compare two views a baseline apart, so their error is one of disparity: it grows with the
square of the distance, comes in steps, and what only one of the two views sees has no depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from genesis_sim.frame import Frame

Rng = np.random.Generator
Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
#: Width in pixels of the sensor's own image, to which errors of disparity refer.
_SENSOR_WIDTH = 640.0


class Material(IntEnum):
    """How a surface answers a depth camera."""

    DULL = 0
    SHINY = 1
    CLEAR = 2


@dataclass(frozen=True, slots=True)
class DepthSensor:
    """Parameters of one depth camera; the defaults measure perfectly.

    Lengths are metres, disparities pixels of a 640 pixel wide image, reaches fractions of the
    image's width, shares 0 to 1.
    """

    #: From the projector or second camera to the first one, to the right if positive.
    baseline: float = 0.0
    disparity_step: float = 0.0
    #: Standard deviations of the disparity: pixel by pixel, and smooth over `grain`.
    white_noise: float = 0.0
    smooth_noise: float = 0.0
    grain: float = 0.02
    #: How far from an edge depth is lost, and in which share of the places.
    edge_reach: float = 0.0
    edge_share: float = 0.0
    #: Share of edge pixels measured between the near and the far surface.
    flying_share: float = 0.0
    #: Grey value (0..1) below which surfaces reflect too little; steep ones are lost likewise.
    dark: float = 0.0
    steep: float = math.inf
    #: Share of shiny surfaces that is lost, and of the whole image in blobs.
    shiny_share: float = 0.0
    blob_share: float = 0.0
    #: Clear surfaces: the share seen through (what is behind is measured); the rest is lost.
    see_through: float = 1.0
    #: Displacement against the colour image, in fractions of the width.
    shift: tuple[float, float] = (0.0, 0.0)
    near: float = 0.0
    far: float = math.inf
    #: The matching window: the reach of its smoothing, up to which step of the disparity it melts
    #: surfaces together, how much it thickens what is near, and how ragged it leaves outlines.
    window: float = 0.0
    melt: float = 1.0
    thicken: float = 0.0
    ragged: float = 0.0
    #: Whether what lies outside of the second view is lost.
    one_sided: bool = False

    def measure(
        self,
        depth: Depth,
        image: Image,
        focal: float,
        rng: Rng,
        *,
        materials: Image | None = None,
        behind: Depth | None = None,
    ) -> Depth:
        """The depth image that this camera would give.

        Args:
            depth: true distance along the optical axis (H, W), metres.
            image: what is seen there, RGB uint8 (H, W, 3).
            focal: horizontal focal length in pixels of the image.
            rng: makes the noise.
            materials: a Material for each pixel (H, W); all dull if left out.
            behind: true depth (H, W) with the clear things taken away, for clear pixels.

        Returns:
            Metres, float32 (H, W), 0 where nothing was measured.
        """
        width = depth.shape[1]
        truth = depth.astype(np.float32)
        lost = np.zeros(depth.shape, bool)
        if materials is not None and behind is not None:
            clear = materials == Material.CLEAR
            seen = _blobs(rng, depth.shape, 0.08 * width) < self.see_through
            truth = np.where(clear, behind, truth).astype(np.float32)
            lost |= clear & ~seen
        if self.thicken * width >= 0.5:
            kernel = np.ones((2 * round(self.thicken * width) + 1,) * 2, np.uint8)
            truth = np.asarray(cv2.erode(truth, kernel), np.float32)
        if self.ragged > 0:
            truth = _ragged(rng, truth, self.ragged * width)
        if self.baseline:
            lost |= _shadowed(truth, focal * self.baseline, outside=self.one_sided)
        edges, low, high = _edges(truth, max(1, round(self.edge_reach * width)))
        if self.edge_share > 0:
            lost |= edges & (_blobs(rng, depth.shape, 0.02 * width) < self.edge_share)
        if self.dark > 0:
            grey = (image @ _LUMA) / 255.0
            lost |= grey < self.dark * (0.4 + 1.2 * _blobs(rng, depth.shape, 0.05 * width))
        if materials is not None and self.shiny_share > 0:
            holes = _blobs(rng, depth.shape, 0.04 * width) < self.shiny_share
            lost |= (materials == Material.SHINY) & holes
        if math.isfinite(self.steep):
            lost |= _slope(truth, focal) > self.steep * (
                0.7 + 0.6 * _blobs(rng, depth.shape, 0.03 * width)
            )
        if self.blob_share > 0:
            lost |= _blobs(rng, depth.shape, 0.04 * width) < self.blob_share
        measured = self._disturb(truth, focal * _SENSOR_WIDTH / width, rng)
        if self.flying_share > 0:
            flying = edges & (rng.random(depth.shape) < self.flying_share)
            mix = rng.random(depth.shape, dtype=np.float32)
            measured = np.where(flying, mix * low + (1 - mix) * high, measured)
        lost |= (measured < self.near) | (measured > self.far)
        measured = np.where(lost, 0.0, measured).astype(np.float32)
        dx, dy = (round(value * width) for value in self.shift)
        if dx or dy:
            measured = _moved(measured, dx, dy)
        return np.asarray(measured, np.float32)

    def _disturb(self, depth: Depth, focal: float, rng: Rng) -> Depth:
        """Noise and steps of the disparity; focal in pixels of the sensor's own image."""
        if not self.baseline:
            return depth
        shape = depth.shape
        scale = np.float32(focal * abs(self.baseline))
        disparity = scale / np.maximum(depth, np.float32(1e-3))
        if self.window * shape[1] > 0.3:
            smooth = cv2.GaussianBlur(disparity, (0, 0), self.window * shape[1])
            # Not across high edges: there the window follows one surface or the other.
            near = np.abs(smooth - disparity) < self.melt
            disparity = np.where(near, smooth, disparity)
        if self.smooth_noise > 0:
            disparity = disparity + np.float32(self.smooth_noise) * _smooth(
                rng, shape, self.grain * shape[1]
            )
        if self.white_noise > 0:
            white = rng.standard_normal(shape, dtype=np.float32)
            disparity = disparity + np.float32(self.white_noise) * white
        if self.disparity_step > 0:
            step = np.float32(self.disparity_step)
            disparity = np.rint(disparity / step) * step
        return np.asarray(scale / np.maximum(disparity, np.float32(1e-3)), np.float32)


def sample_sensor(rng: Rng) -> DepthSensor:
    """A random depth camera: structured light, stereo, or one that is nearly perfect."""
    side = 1.0 if rng.random() < 0.5 else -1.0
    shift = rng.normal(0, 0.004, 2) if rng.random() < 0.4 else np.zeros(2)
    kind = rng.random()
    if kind < 0.15:
        return DepthSensor(
            baseline=0.05 * side,
            white_noise=float(rng.uniform(0, 0.05)),
            edge_share=float(rng.uniform(0, 0.2)),
            see_through=float(rng.uniform(0, 1)),
        )
    structured = kind < 0.55
    blobs = float(rng.uniform(0, 0.06)) if rng.random() < 0.25 else 0.0
    return DepthSensor(
        baseline=side * float(rng.uniform(0.06, 0.08) if structured else rng.uniform(0.018, 0.06)),
        disparity_step=0.125 if structured else float(rng.choice([0.0, 1 / 32, 1 / 16])),
        white_noise=float(rng.uniform(0.02, 0.12) if structured else rng.uniform(0.0, 0.08)),
        smooth_noise=float(rng.uniform(0.02, 0.12) if structured else rng.uniform(0.04, 0.25)),
        grain=float(rng.uniform(0.01, 0.06)),
        edge_reach=float(rng.uniform(0.0, 0.015)),
        edge_share=float(rng.uniform(0.1, 0.9)),
        flying_share=float(rng.uniform(0, 0.15) if structured else rng.uniform(0, 0.5)),
        dark=float(rng.uniform(0.02, 0.12)) if rng.random() < 0.5 else 0.0,
        steep=float(rng.uniform(3, 12)),
        shiny_share=float(rng.uniform(0, 0.8)),
        blob_share=blobs,
        see_through=float(rng.uniform(0, 1)),
        shift=(float(shift[0]), float(shift[1])),
        near=float(rng.uniform(0.1, 0.4)) if rng.random() < 0.5 else 0.0,
        far=float(np.exp(rng.uniform(math.log(1.3), math.log(8.0)))),
        window=float(rng.uniform(0, 0.006) if structured else rng.uniform(0.002, 0.014)),
        melt=1.0 if structured else float(rng.uniform(1.0, 5.0)),
        thicken=0.0 if structured else float(rng.uniform(0.0, 0.008)),
        ragged=float(rng.uniform(0.0, 0.004) if structured else rng.uniform(0.0, 0.009)),
        one_sided=not structured and bool(rng.random() < 0.4),
    )


def measure_frame(frame: Frame, rng: Rng) -> Depth:
    """What a random depth camera gives of a rendered image: metres (H, W), 0 = not measured."""
    return sample_sensor(rng).measure(
        frame.depth,
        frame.image,
        frame.intrinsics[0, 0],
        rng,
        materials=frame.materials,
        behind=frame.behind,
    )


def _shadowed(depth: Depth, scale: float, *, outside: bool) -> npt.NDArray[np.bool_]:
    """Pixels (H, W) that the second view does not see.

    Args:
        depth: (H, W).
        scale: focal length times baseline.
        outside: count those beyond the second view's left or right end.
    """
    columns = np.arange(depth.shape[1], dtype=np.float32)
    # Where each pixel lies in the second view; to the left of it for a view from the right.
    there = columns - np.float32(scale) / np.maximum(depth, np.float32(1e-3))
    hidden = (there < 0) | (there > columns[-1]) if outside else np.zeros(depth.shape, bool)
    if scale > 0:
        nearest = np.minimum.accumulate(there[:, ::-1], axis=1)[:, ::-1]
        hidden[:, :-1] |= nearest[:, 1:] < there[:, :-1]
    else:
        nearest = np.maximum.accumulate(there, axis=1)
        hidden[:, 1:] |= nearest[:, :-1] > there[:, 1:]
    return hidden


def _ragged(rng: Rng, depth: Depth, amplitude: float) -> Depth:
    """The depth image (H, W) with its outlines displaced to and fro by about so many pixels."""
    grain = max(2.0, 2.5 * amplitude)
    rows, columns = np.indices(depth.shape, np.float32)
    columns = columns + np.float32(amplitude) * _smooth(rng, depth.shape, grain)
    rows = rows + np.float32(amplitude) * _smooth(rng, depth.shape, grain)
    moved = cv2.remap(depth, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    # Only outlines: surfaces keep the depth that they have at the place itself.
    jump = np.abs(moved - depth) > 0.015 * depth
    return np.where(jump, moved, depth).astype(np.float32)


def _edges(depth: Depth, reach: int) -> tuple[npt.NDArray[np.bool_], Depth, Depth]:
    """Pixels within `reach` of a jump in depth, and the nearest and farthest depth around each."""
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    low = np.asarray(cv2.erode(depth, kernel), np.float32)
    high = np.asarray(cv2.dilate(depth, kernel), np.float32)
    # A slanted table is no jump: its depth changes by a fraction of this per pixel.
    jump = 0.02 + 0.02 * reach
    return high - low > jump * low, low, high


def _slope(depth: Depth, focal: float) -> Depth:
    """Tangent of the angle between the surface's normal and the line of sight, about (H, W)."""
    dy, dx = np.gradient(depth)
    return np.asarray(np.hypot(dx, dy) * focal / np.maximum(depth, 1e-3), np.float32)


def _smooth(rng: Rng, shape: tuple[int, ...], scale: float) -> Depth:
    """Smooth noise (H, W) of deviation about 1.

    Args:
        rng: makes the noise.
        shape: H, W.
        scale: the size of a blotch in pixels.
    """
    rows, columns = (max(2, round(side / max(scale, 1.0))) for side in shape[:2])
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC), np.float32)


def _blobs(rng: Rng, shape: tuple[int, ...], scale: float) -> Depth:
    """Smooth noise (H, W) spread about evenly over 0..1: below s for about a share s of it."""
    return np.asarray(1 / (1 + np.exp(-2.2 * _smooth(rng, shape, scale))), np.float32)


def _moved(depth: Depth, dx: int, dy: int) -> Depth:
    """The depth image displaced by whole pixels; what comes in from outside is unknown."""
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    size = (depth.shape[1], depth.shape[0])
    return np.asarray(cv2.warpAffine(depth, matrix, size, flags=cv2.INTER_NEAREST), np.float32)
