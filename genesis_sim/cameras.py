"""Where the camera stands: Sketchy's two front cameras with their crops, and random ones."""

from __future__ import annotations

import math

import numpy as np

from genesis_sim.geometry import Vector, look_at
from genesis_sim.scene import Camera

Rng = np.random.Generator

# Both front cameras, fitted to the basket's corners in real 960x600 frames (see environments.py).
_FOCAL, _CENTRE = 670.0, (480.0, 300.0)
_DISTANCE, _HEIGHT, _PITCH = 0.585, 0.215, math.radians(-23.7)
#: Azimuth of left and right camera as seen from the basket's centre; the robot stands at 0.
_AZIMUTH = (math.radians(135), math.radians(-135))
#: First row of the 448 rows that are used, left and right (crops [71:-81] and [91:-61]).
_FIRST_ROW = (71, 91)
_FIRST_COLUMN = 144


def _sketchy_crop(rng: Rng, side: int, aspect: float) -> tuple[float, float, float, float]:
    """A crop (x, y, width, height) of the full frame, in its pixels."""
    top = _FIRST_ROW[side]
    kind = rng.random()
    if kind < 0.2:
        x, y, size = _FIRST_COLUMN + 112.0, float(top), 448.0
    elif kind < 0.65:
        x = float(_FIRST_COLUMN + 160 * rng.integers(3))
        y = float(top + 96 * rng.integers(2))
        size = 352.0
    else:
        size = float(rng.uniform(230, 560))
        x = float(rng.uniform(80, 880 - size))
        y = float(rng.uniform(30, 600 - size))
    return x + 0.5 * size * (1 - aspect), y, size * aspect, size


def front_camera(rng: Rng, width: int, height: int, *, whole: bool = False) -> Camera:
    """One of Sketchy's front cameras, slightly displaced, with one of the crops.

    Args:
        rng: makes the choices.
        width, height: of the image in pixels.
        whole: show the whole workspace instead of a crop (moving scenes).
    """
    side = int(rng.integers(2))
    azimuth = _AZIMUTH[side] + rng.normal(0, 0.05)
    distance = _DISTANCE + rng.normal(0, 0.02)
    position = np.array(
        [distance * math.cos(azimuth), distance * math.sin(azimuth), _HEIGHT + rng.normal(0, 0.015)]
    )
    pitch = _PITCH + rng.normal(0, 0.02)
    heading = azimuth + math.pi + rng.normal(0, 0.025)
    forward = np.array(
        [math.cos(heading) * math.cos(pitch), math.sin(heading) * math.cos(pitch), math.sin(pitch)]
    )
    rotation = look_at(position, position + forward, roll=float(rng.normal(0, 0.012)))
    aspect = width / height
    if whole:
        size = float(rng.uniform(500, 590))
        x, y = 480 - 0.5 * size * aspect, float(rng.uniform(0, 600 - size))
        crop = (x, y, size * aspect, size)
    else:
        crop = _sketchy_crop(rng, side, aspect)
    zoom = height / crop[3]
    focal = _FOCAL * math.exp(rng.normal(0, 0.03)) * zoom
    centre = ((_CENTRE[0] - crop[0]) * zoom, (_CENTRE[1] - crop[1]) * zoom)
    return Camera(position, rotation, focal, centre)


def orbit_camera(
    rng: Rng, width: int, height: int, target: Vector, *, wide: bool = False
) -> Camera:
    """A camera anywhere around a point except behind the robot.

    Args:
        rng: makes the choices.
        width, height: of the image in pixels.
        target: the point.
        wide: show the whole workspace.
    """
    azimuth = float(rng.uniform(math.radians(40), math.radians(320)))
    elevation = float(rng.uniform(math.radians(12), math.radians(78)))
    span = float(
        rng.uniform(0.45, 0.75) if wide else np.exp(rng.uniform(math.log(0.16), math.log(0.8)))
    )
    view = math.radians(float(rng.uniform(28, 62)))
    distance = max(0.28, 0.5 * span / math.tan(0.5 * view))
    direction = np.array(
        [
            math.cos(azimuth) * math.cos(elevation),
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
        ]
    )
    focal = 0.5 * min(width, height) * distance / (0.5 * span)
    position = target + distance * direction
    rotation = look_at(position, target, roll=float(rng.normal(0, 0.05)))
    return Camera(position, rotation, focal, (0.5 * width, 0.5 * height))


def bin_camera(rng: Rng, width: int, height: int) -> Camera:
    """A camera in front of a shelf bin, about level with it."""
    position = np.array([rng.uniform(-0.75, -0.42), rng.uniform(-0.2, 0.2), rng.uniform(0.06, 0.3)])
    target = np.array([0.0, rng.uniform(-0.05, 0.05), rng.uniform(0.04, 0.12)])
    span = float(rng.uniform(0.25, 0.55))
    distance = float(np.linalg.norm(target - position))
    focal = 0.5 * min(width, height) * distance / (0.5 * span)
    rotation = look_at(position, target, roll=float(rng.normal(0, 0.04)))
    return Camera(position, rotation, focal, (0.5 * width, 0.5 * height))
