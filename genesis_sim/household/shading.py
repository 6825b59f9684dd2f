"""What MuJoCo's lights leave out of an image: soft shadows, glare, uneven light, exposure.

All work on a rendered image and its depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Image = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Directions and reaches (shares of the whole one) at which the surroundings are looked at.
_DIRECTIONS, _REACHES = 5, (0.3, 0.65, 1.0)


@dataclass(frozen=True, slots=True)
class Shading:
    """How light falls; the defaults change nothing.

    Lengths across the image are fractions of its width.
    """

    #: Strength of the soft shadow in corners and at contacts, and its reach in metres.
    occlusion: float = 0.0
    reach: float = 0.05
    #: A soft reflection on the support: its middle (x, y), radius, and share of full white.
    glare: float = 0.0
    glare_at: tuple[float, float] = (0.5, 0.5)
    glare_radius: float = 0.2
    #: Change of brightness across the image (x, y) and per metre of distance, as exponents.
    slant: tuple[float, float] = (0.0, 0.0)
    fall: float = 0.0
    #: Mean grey value (0..1) that automatic exposure aims at; 0 leaves the exposure.
    exposure: float = 0.0

    def apply(self, image: Image, depth: Depth, focal: float, support: Mask) -> Image:
        """The image as it is lit.

        Args:
            image: (H, W, 3).
            depth: (H, W).
            focal: focal length in pixels.
            support: (H, W), where a glare would be seen.

        Returns:
            (H, W, 3).
        """
        height, width = depth.shape
        light = np.ones(depth.shape, np.float32)
        if self.occlusion > 0:
            light -= np.float32(self.occlusion) * occlusion(depth, focal, self.reach)
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None]
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :]
        bright = np.float32(self.slant[0]) * x + np.float32(self.slant[1]) * y
        if self.fall:
            bright = bright + np.float32(self.fall) * np.clip(depth - np.median(depth), -1, 2)
        lit = image * (light * np.exp(bright))[..., None]
        if self.glare > 0:
            dx = x + 0.5 - np.float32(self.glare_at[0])
            dy = y + 0.5 - np.float32(self.glare_at[1])
            spot = np.exp(-(dx * dx + dy * dy) / np.float32(2 * self.glare_radius**2))
            lit += (255 * np.float32(self.glare) * spot * support)[..., None]
        if self.exposure > 0:
            mean = max(float(lit.mean()) / 255.0, 0.02)
            # Most of the way: cameras do not lift all darkness.
            lit *= np.float32(np.clip((self.exposure / mean) ** 0.8, 0.4, 4.0))
        return np.asarray(np.clip(lit, 0, 255), np.uint8)


def occlusion(depth: Depth, focal: float, reach: float) -> Depth:
    """How much the surroundings hide of the sky (H, W), 0 to 1: at contacts, in corners.

    Depth stands in for the scene. Points on both sides of a pixel are looked at in pairs, so that a
    slanted plane hides nothing; what is nearer by more than one and a half is another thing.
    """
    height, width = depth.shape
    pixels = reach * focal / float(np.median(depth))
    margin = max(1, math.ceil(pixels))
    if margin > min(height, width) // 2:
        margin = min(height, width) // 2
    padded = cv2.copyMakeBorder(depth, *(margin,) * 4, cv2.BORDER_REPLICATE)
    hidden = np.zeros(depth.shape, np.float32)
    limit = np.float32(1.5 * reach)

    def toward(dx: int, dy: int) -> Depth:
        there = padded[margin + dy : margin + dy + height, margin + dx : margin + dx + width]
        rise = depth - there
        rise[np.abs(rise) > limit] = 0
        return np.asarray(np.clip(rise, -reach, reach), np.float32)

    for share in _REACHES:
        radius = min(max(1.0, share * pixels), float(margin))
        for k in range(_DIRECTIONS):
            angle = math.pi * (k + share) / _DIRECTIONS
            dx, dy = round(radius * math.cos(angle)), round(radius * math.sin(angle))
            hidden += np.maximum(toward(dx, dy) + toward(-dx, -dy), 0)
    hidden /= np.float32(len(_REACHES) * _DIRECTIONS * reach)
    return np.asarray(np.clip(1.8 * cv2.GaussianBlur(hidden, (0, 0), 0.7), 0, 1), np.float32)


def sample_shading(rng: Rng) -> Shading:
    """Random light."""
    u, v = rng.uniform(0.1, 0.9, 2)
    sx, sy = rng.normal(0, 0.25, 2)
    return Shading(
        occlusion=float(rng.uniform(0.15, 0.65)),
        reach=float(rng.uniform(0.02, 0.06)),
        glare=float(rng.uniform(0.05, 0.4)) if rng.random() < 0.25 else 0.0,
        glare_at=(float(u), float(v)),
        glare_radius=float(rng.uniform(0.05, 0.25)),
        slant=(float(sx), float(sy)),
        fall=float(rng.normal(-0.05, 0.2)),
        exposure=float(np.clip(0.46 * np.exp(rng.normal(0, 0.28)), 0.15, 0.85)),
    )
