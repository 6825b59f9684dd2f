"""Patterns of surfaces: wood, carpet, stone, cloth, brick, walls full of things."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

#: Side of the textures of surfaces, in pixels.
SURFACE = 256


def to_bytes(image: Floats) -> Image:
    """Values 0..1, grey (H, W) or RGB (H, W, 3), as an RGB image."""
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return np.asarray(np.clip(image * 255.0, 0, 255), np.uint8)


def noise(rng: Rng, shape: tuple[int, int], scale: tuple[float, float] | float) -> Floats:
    """Smooth noise (H, W) of deviation about 1.

    Args:
        rng: makes the noise.
        shape: H, W.
        scale: size of a blotch in pixels, (y, x).
    """
    sy, sx = scale if isinstance(scale, tuple) else (scale, scale)
    cells = (max(2, round(shape[0] / sy)), max(2, round(shape[1] / sx)))
    grid = rng.standard_normal(cells).astype(np.float32)
    # Wrapped around, so that the pattern can be repeated.
    grid = np.pad(grid, 2, mode="wrap")
    margin = (math.ceil(2 * shape[0] / cells[0]), math.ceil(2 * shape[1] / cells[1]))
    size = (shape[1] + 2 * margin[1], shape[0] + 2 * margin[0])
    large = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(
        large[margin[0] : margin[0] + shape[0], margin[1] : margin[1] + shape[1]], np.float32
    )


def _square(rng: Rng, scale: tuple[float, float] | float) -> Floats:
    return noise(rng, (SURFACE, SURFACE), scale)


def _tinted(grey: Floats, tint: npt.ArrayLike) -> Floats:
    return np.asarray(grey[..., None] * np.asarray(tint, np.float32), np.float32)


def _wood_tint(rng: Rng) -> npt.NDArray[np.float64]:
    tone = rng.uniform(0.0, 1.0)
    return (1 - tone) * np.array([1.0, 0.86, 0.68]) + tone * np.array([1.0, 0.78, 0.58])


def _grain(rng: Rng, rows: int, columns: int) -> Floats:
    """Wood grain along x, around 1."""
    shape = (rows, columns)
    warp = noise(rng, shape, (rows / 2, columns / 2)) * rng.uniform(1, 5)
    y = np.arange(rows, dtype=np.float32)[:, None]
    rings = np.sin((y + warp) * rng.uniform(0.15, 0.7)) * rng.uniform(0.01, 0.08)
    streaks = noise(rng, shape, (rng.uniform(1.0, 2.5), columns / 3)) * rng.uniform(0.02, 0.07)
    return np.asarray(1 + rings + streaks, np.float32)


def _table_wood(rng: Rng) -> Floats:
    return np.clip(_tinted(0.86 * _grain(rng, SURFACE, SURFACE), _wood_tint(rng)), 0, 1)


def _planks(rng: Rng) -> Floats:
    image = np.empty((SURFACE, SURFACE, 3), np.float32)
    count = int(rng.choice([3, 4, 6, 8]))
    tint, gap = _wood_tint(rng), rng.uniform(0.35, 0.9)
    edges = np.linspace(0, SURFACE, count + 1).astype(int)
    for top, bottom in pairwise(edges):
        seam = int(rng.integers(0, SURFACE))
        board = _tinted(_grain(rng, bottom - top, SURFACE), tint)
        board[:, :seam] *= np.float32(rng.uniform(0.75, 0.95))
        board[:, seam:] *= np.float32(rng.uniform(0.75, 0.95))
        board[:1] *= np.float32(gap)
        board[:, seam : seam + 2] *= np.float32(gap)
        image[top:bottom] = board
    return np.clip(image, 0, 1)


def _carpet(rng: Rng) -> Floats:
    grey = 0.72 + 0.10 * _square(rng, 1.2) + 0.05 * _square(rng, 5.0)
    if rng.random() < 0.6:  # strips of yarn, as office carpet tiles have them
        grey += rng.uniform(0.04, 0.16) * _square(rng, (rng.uniform(3, 40), rng.uniform(1, 3)))
    image = _tinted(grey, (1, 1, 1))
    if rng.random() < 0.6:
        image += (0.14 * np.sign(_square(rng, (20.0, 3.0)))[..., None]) * rng.normal(0, 0.6, 3)
    return np.clip(np.asarray(image, np.float32), 0, 1)


def _checkerboard(rng: Rng) -> Floats:
    cells = int(rng.choice([4, 6, 8]))
    index = np.arange(SURFACE) * cells // SURFACE
    odd = (index[:, None] + index[None, :]) % 2
    light = _tinted(_grain(rng, SURFACE, SURFACE), rng.uniform(0.85, 1.0, 3))
    dark = _tinted(_grain(rng, SURFACE, SURFACE), rng.uniform(0.05, 0.4) * rng.uniform(0.6, 1, 3))
    return np.clip(np.where(odd[..., None] == 1, dark, light), 0, 1).astype(np.float32)


def _marble(rng: Rng) -> Floats:
    veins = np.abs(_square(rng, 60.0) + 0.4 * _square(rng, 20.0))
    grey = 0.92 - rng.uniform(0.05, 0.3) * np.exp(-(veins**2) * 40) + 0.02 * _square(rng, 8.0)
    return np.asarray(np.clip(grey, 0, 1), np.float32)


def _granite(rng: Rng) -> Floats:
    image = np.repeat(0.75 + 0.05 * _square(rng, 30.0)[..., None], 3, 2)
    for _ in range(3):
        spots = _square(rng, rng.uniform(1.5, 5)) > rng.uniform(1.0, 1.8)
        image[spots] = rng.uniform(0.15, 1.0) * rng.uniform(0.85, 1.0, 3)
    return np.asarray(image, np.float32)


def _concrete(rng: Rng) -> Floats:
    grey = 0.8 + 0.05 * _square(rng, 70.0) + 0.04 * _square(rng, 14.0) + 0.03 * _square(rng, 1.5)
    return np.asarray(np.clip(grey, 0, 1), np.float32)


def _cloth(rng: Rng) -> Floats:
    """A tablecloth: plain weave, stripes, a tartan or printed dots, with soft folds."""
    image = np.ones((SURFACE, SURFACE, 3), np.float32) * 0.9
    colours = rng.uniform(0.25, 1.0, (3, 3)).astype(np.float32)
    kind = int(rng.integers(4))
    t = np.arange(SURFACE)
    if kind == 0:
        period = int(rng.integers(8, 64))
        image[(t // period) % 2 == 0] = colours[0]
    elif kind == 1:
        for colour in colours:
            period, wide = int(rng.integers(16, 64)), int(rng.integers(4, 16))
            image[t % period < wide] *= colour
            image[:, t % period < wide] *= colour
    elif kind == 2:
        step = int(rng.choice([16, 32, 64]))
        for y in range(step // 2, SURFACE, step):
            for x in range(step // 2, SURFACE, step):
                cv2.circle(image, (x, y), step // 5, colours[0].tolist(), -1)
    weave = 0.04 * (np.sin(t * 1.6)[:, None] * np.sin(t * 1.6)[None, :])
    shade = 1 + weave + 0.04 * _square(rng, 60.0)
    return np.clip(image * shade[..., None], 0, 1).astype(np.float32)


def _bricks(rng: Rng) -> Floats:
    image = np.ones((SURFACE, SURFACE, 3), np.float32) * np.float32(rng.uniform(0.5, 0.9))
    rows = int(rng.choice([8, 12]))
    high = SURFACE // rows
    tint = np.array([1.0, rng.uniform(0.5, 1.0), rng.uniform(0.4, 1.0)])
    for row in range(rows):
        for column in range(-1, 5):
            x = column * 64 + (32 if row % 2 else 0)
            colour = (rng.uniform(0.6, 0.95) * tint).tolist()
            cv2.rectangle(
                image, (x + 2, row * high + 2), (x + 61, (row + 1) * high - 3), colour, -1
            )
    return np.clip(image * (1 + 0.06 * _square(rng, 3.0))[..., None], 0, 1).astype(np.float32)


def _photo(rng: Rng) -> Floats:
    """A wall of things: shelves with boxes and books, pictures, cables, in many colours."""
    image = np.full((SURFACE, SURFACE, 3), rng.uniform(0.2, 0.95), np.float32)
    image *= rng.uniform(0.8, 1.0, 3).astype(np.float32)
    y = 0
    while y < SURFACE - 20:
        high = int(rng.integers(28, 90))
        bottom = min(y + high, SURFACE - 1)
        x = int(rng.integers(0, 20))
        while x < SURFACE:
            wide = int(rng.integers(4, 50))
            if rng.random() < 0.8:
                top = bottom - int(rng.uniform(0.3, 0.95) * (bottom - y))
                colour = (rng.uniform(0.1, 1.0) * rng.uniform(0.3, 1.0, 3)).tolist()
                cv2.rectangle(image, (x, top), (x + wide, bottom), colour, -1)
                if wide > 14 and rng.random() < 0.6:
                    inner = rng.uniform(0.2, 1.0, 3).tolist()
                    cv2.rectangle(image, (x + 3, top + 6), (x + wide - 3, top + 14), inner, -1)
            x += wide + int(rng.integers(0, 14))
        shelf = (rng.uniform(0.3, 0.8) * np.ones(3)).tolist()
        cv2.rectangle(image, (0, bottom), (SURFACE, bottom + 3), shelf, -1)
        y = bottom + 4
    soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.6, 3)))
    return np.clip(np.asarray(soft, np.float32), 0, 1)


SURFACES: list[tuple[str, Callable[[Rng], Floats], int]] = [
    ("table wood", _table_wood, 10),
    ("planks", _planks, 8),
    ("carpet", _carpet, 10),
    ("checkerboard", _checkerboard, 5),
    ("marble", _marble, 3),
    ("granite", _granite, 4),
    ("concrete", _concrete, 4),
    ("cloth", _cloth, 10),
    ("bricks", _bricks, 3),
    ("photo", _photo, 12),
]
