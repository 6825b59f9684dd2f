"""Procedural grey and coloured patterns, the same in every process.

Textures multiply a finish's colour, so they are light: mostly 0.6..1. All are made once from a
fixed seed and stay on the GPU; scenes vary which one is used, its tint, scale and place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

FLAT_SIZE = 256
CUBE_SIZE = 64


def _noise(rng: Rng, size: int, scale: float, amplitude: float) -> npt.NDArray[np.float32]:
    """Smooth noise (size, size) around 1; `scale` is the size of a blotch in pixels."""
    cells = max(2, round(size / scale))
    grid = rng.standard_normal((cells, cells)).astype(np.float32)
    noise = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1.0 + amplitude * noise, dtype=np.float32)


def _image(grey: npt.NDArray[np.float32], tint: tuple[float, float, float] = (1, 1, 1)) -> Image:
    coloured = grey[..., None] * np.array(tint, np.float32) if grey.ndim == 2 else grey
    return np.asarray(np.clip(coloured * 255.0, 0, 255), dtype=np.uint8)


def _scratched(rng: Rng, size: int = FLAT_SIZE, strength: float = 1.0) -> Image:
    """Worn plate: blotches, fine grain, scratches and specks, as on Sketchy's basket."""
    grey = 0.86 * _noise(rng, size, size / 4, 0.03) * _noise(rng, size, 12, 0.015)
    grey *= _noise(rng, size, 1.5, 0.02)
    for _ in range(int(70 * strength)):
        start = rng.uniform(0, size, 2)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.35) * size
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        layer = np.zeros_like(grey)
        cv2.line(layer, start.astype(int).tolist(), end.astype(int).tolist(), 1.0, 1, cv2.LINE_AA)
        grey += layer * rng.uniform(-0.05, 0.10) * strength
    for _ in range(int(40 * strength)):
        centre = rng.integers(0, size, 2).tolist()
        cv2.circle(grey, centre, int(rng.integers(0, 2)), float(rng.uniform(0.5, 1.2)), -1)
    return _image(grey)


def _wood(rng: Rng) -> Image:
    rows = _noise(rng, FLAT_SIZE, 40, 1.0) * 14 + np.linspace(0, 40, FLAT_SIZE)[:, None]
    grain = 0.82 + 0.1 * np.sin(rows * rng.uniform(0.6, 2.5)) * _noise(rng, FLAT_SIZE, 30, 0.3)
    fine = cv2.resize(
        rng.standard_normal((FLAT_SIZE, 6)).astype(np.float32), (FLAT_SIZE, FLAT_SIZE)
    )
    return _image((grain + 0.03 * fine).astype(np.float32), (1.0, 0.93, 0.84))


def _weave(rng: Rng) -> Image:
    t = np.arange(FLAT_SIZE) * 2 * np.pi / rng.integers(4, 12)
    wave = 0.85 + 0.1 * np.sin(t)[:, None] * np.sin(t)[None, :]
    return _image((wave * _noise(rng, FLAT_SIZE, 50, 0.06)).astype(np.float32))


def _tiles(rng: Rng) -> Image:
    n = int(rng.choice([2, 4, 8]))
    cell = FLAT_SIZE // n
    y, x = np.mgrid[:FLAT_SIZE, :FLAT_SIZE]
    checks = ((x // cell + y // cell) % 2).astype(np.float32)
    grey = 0.9 - rng.uniform(0.0, 0.45) * checks
    grey[(x % cell < 3) | (y % cell < 3)] *= rng.uniform(0.5, 1.0)
    return _image(grey * _noise(rng, FLAT_SIZE, 40, 0.03))


def _speckle(rng: Rng) -> Image:
    grey = 0.85 * _noise(rng, FLAT_SIZE, 2.0, rng.uniform(0.02, 0.14))
    return _image(grey * _noise(rng, FLAT_SIZE, 60, 0.05))


def _folds(rng: Rng) -> Image:
    """Hanging curtain: soft vertical folds with a slight slant."""
    x = np.linspace(0, 1, FLAT_SIZE)[None, :]
    y = np.linspace(0, 1, FLAT_SIZE)[:, None]
    grey: npt.NDArray[np.float64] = np.full((FLAT_SIZE, FLAT_SIZE), 0.9)
    for _ in range(6):
        frequency = rng.integers(2, 14)
        phase = rng.uniform(0, 6.3) + rng.normal(0, 1.0) * y
        grey = grey + 0.025 * rng.uniform(0.3, 1) * np.sin(2 * np.pi * frequency * x + phase)
    return _image((grey * _noise(rng, FLAT_SIZE, 90, 0.02)).astype(np.float32))


def _clutter(rng: Rng) -> Image:
    """Coloured rectangles and lines: printed matter, or a room out of focus."""
    image = np.full((FLAT_SIZE, FLAT_SIZE, 3), rng.uniform(0.4, 0.9), np.float32)
    for _ in range(int(rng.integers(8, 30))):
        low, high = np.sort(rng.integers(0, FLAT_SIZE, (2, 2)), axis=0).tolist()
        colour = (rng.uniform(0.15, 1.0) * rng.uniform(0.6, 1.0, 3)).tolist()
        cv2.rectangle(image, low, high, colour, -1)
    soft = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.8, 10)))
    return _image(np.asarray(soft, np.float32))


def _face(rng: Rng, kind: str, palette: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """One face (CUBE_SIZE, CUBE_SIZE, 3) of an object's cube texture, values 0..1."""
    size = CUBE_SIZE
    face = np.ones((size, size, 3), np.float32)
    if kind == "worn":
        face *= (0.9 * _noise(rng, size, 20, 0.04) * _noise(rng, size, 2, 0.02))[..., None]
        for _ in range(int(rng.integers(2, 14))):
            centre = rng.integers(0, size, 2).tolist()
            axes = rng.integers(1, 6, 2).tolist()
            shade = float(rng.uniform(0.75, 1.25))
            layer = np.zeros((size, size), np.float32)
            cv2.ellipse(layer, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
            face *= 1 + (shade - 1) * cv2.GaussianBlur(layer, (0, 0), 0.7)[..., None]
    elif kind == "stripes":
        period = int(rng.integers(8, 33))
        index = (np.arange(size) // period) % 2
        face *= palette[index][:, None] if rng.random() < 0.5 else palette[index][None, :]
    elif kind == "checks":
        period = int(rng.integers(8, 33))
        y, x = np.mgrid[:size, :size] // period
        face *= palette[(x + y) % 2]
    elif kind == "dots":
        face *= palette[0]
        for _ in range(int(rng.integers(4, 20))):
            colour = palette[int(rng.integers(1, 4))].tolist()
            centre = rng.integers(0, size, 2).tolist()
            cv2.circle(face, centre, int(rng.integers(2, 10)), colour, -1)
    elif kind == "label":
        face *= palette[0]
        low = rng.integers(4, 20, 2)
        high = size - rng.integers(4, 20, 2)
        cv2.rectangle(face, low.tolist(), high.tolist(), palette[1].tolist(), -1)
        for _ in range(int(rng.integers(2, 7))):
            y = int(rng.integers(low[1], high[1]))
            x = np.sort(rng.integers(low[0], high[0], 2))
            colour = palette[int(rng.integers(2, 4))].tolist()
            cv2.line(face, (int(x[0]), y), (int(x[1]), y), colour, int(rng.integers(1, 5)))
    elif kind == "blotches":
        mask = _noise(rng, size, float(rng.uniform(6, 24)), 1.0) > 1.0
        face *= np.where(mask[..., None], palette[0], palette[1])
    else:  # "grain"
        face *= (0.88 * _noise(rng, size, 1.5, float(rng.uniform(0.01, 0.08))))[..., None]
    return face


def _cube(rng: Rng, kind: str) -> Image:
    """Cube texture (6 * CUBE_SIZE, CUBE_SIZE, 3): six faces above one another."""
    palette = np.clip(rng.uniform(0.3, 1.1, (4, 1)) * rng.uniform(0.5, 1.1, (4, 3)), 0.1, 1)
    palette[0] = rng.uniform(0.8, 1.0)  # the object's own colour stays the main one
    faces = [_face(rng, kind, palette.astype(np.float32)) for _ in range(6)]
    return _image(np.concatenate(faces))


_FLAT: list[tuple[str, Callable[[Rng], Image], int]] = [
    ("scratched", _scratched, 6),
    ("wood", _wood, 4),
    ("weave", _weave, 3),
    ("tiles", _tiles, 4),
    ("speckle", _speckle, 4),
    ("folds", _folds, 5),
    ("clutter", _clutter, 5),
]
_CUBE: list[tuple[str, int]] = [
    ("worn", 8),
    ("grain", 4),
    ("stripes", 5),
    ("checks", 4),
    ("dots", 4),
    ("label", 8),
    ("blotches", 4),
]


@lru_cache(maxsize=1)
def flat_textures() -> list[Image]:
    """Textures (256, 256, 3) for floors and walls, in bank order."""
    rng = np.random.default_rng(20210)
    return [make(rng) for _, make, count in _FLAT for _ in range(count)]


@lru_cache(maxsize=1)
def cube_textures() -> list[Image]:
    """Textures (384, 64, 3) for objects, in bank order after the flat ones."""
    rng = np.random.default_rng(20211)
    return [_cube(rng, kind) for kind, count in _CUBE for _ in range(count)]


def _index() -> dict[str, range]:
    ranges: dict[str, range] = {}
    start = 0
    for name, count in [(name, count) for name, _, count in _FLAT] + _CUBE:
        ranges[name] = range(start, start + count)
        start += count
    return ranges


#: Bank positions by kind; Finish.texture holds one of these.
KINDS: dict[str, range] = _index()


def pick(rng: Rng, *kinds: str) -> int:
    """Bank position of a random texture of one of the kinds."""
    options = KINDS[kinds[int(rng.integers(len(kinds)))]]
    return int(rng.integers(options.start, options.stop))
