"""The textures of household scenes: printed packaging, materials, and those of an asset pack.

All are made once from a fixed seed, the same in every process, and stay on the GPU; scenes choose
among them, tint and scale them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from genesis_sim import textures
from genesis_sim.assets import AssetPack

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

#: Side of the textures of surfaces, and of a face of a printed box, in pixels.
SURFACE, FACE = 256, 96
_LABEL = (128, 256)
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
_SYLLABLES = [
    "ka",
    "lo",
    "mi",
    "su",
    "ra",
    "ten",
    "bo",
    "cri",
    "na",
    "po",
    "we",
    "xi",
    "fu",
    "zor",
    "al",
    "tic",
    "men",
    "da",
    "spa",
    "gi",
    "no",
    "vel",
]


@dataclass(slots=True)
class TextureBank:
    """Textures by number, and which numbers belong to a kind."""

    images: list[Image] = field(default_factory=list)
    kinds: dict[str, list[int]] = field(default_factory=dict)

    def add(self, kind: str, image: Image) -> int:
        """Add a texture; returns its number."""
        self.images.append(image)
        self.kinds.setdefault(kind, []).append(len(self.images) - 1)
        return len(self.images) - 1

    def is_flat(self, number: int) -> bool:
        """Whether a texture is flat; the others are cubes, six faces above one another."""
        height, width = self.images[number].shape[:2]
        return height != 6 * width

    def pick(self, rng: Rng, *kinds: str) -> int:
        """A random texture of one of the kinds; -1 (none) where there is none."""
        options = [number for kind in kinds for number in self.kinds.get(kind, ())]
        return options[int(rng.integers(len(options)))] if options else -1


def make_bank(pack: AssetPack | None) -> TextureBank:
    """The bank without or with the textures of an asset pack."""
    bank = TextureBank()
    for kind, image in _own_textures():
        bank.add(kind, image)
    if pack is not None:
        for kind, image in pack.surfaces:
            bank.add(kind, image)
    return bank


@lru_cache(maxsize=1)
def _own_textures() -> list[tuple[str, Image]]:
    rng = np.random.default_rng(20260)
    made: list[tuple[str, Image]] = []
    for name, numbers in textures.KINDS.items():
        bank = [*textures.flat_textures(), *textures.cube_textures()]
        made += [(name, bank[number]) for number in numbers]
    for kind, make, count in _SURFACES:
        made += [(kind, _bytes(make(rng))) for _ in range(count)]
    made += [("print", _print_box(rng)) for _ in range(48)]
    made += [("wrap", _bytes(_wrap(rng))) for _ in range(48)]
    made += [("sheet", _bytes(_sheet(rng))) for _ in range(8)]
    made += [("tags", _bytes(_tags(rng))) for _ in range(4)]
    made += [("keyboard", _bytes(_keyboard(rng))) for _ in range(3)]
    made += [("screen", _bytes(_screen(rng))) for _ in range(6)]
    return made


def _bytes(image: Floats) -> Image:
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return np.asarray(np.clip(image * 255.0, 0, 255), np.uint8)


def noise(rng: Rng, shape: tuple[int, int], scale: tuple[float, float] | float) -> Floats:
    """Smooth noise (H, W) of deviation about 1; scale: size of a blotch in pixels, (y, x)."""
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


_SURFACES: list[tuple[str, Callable[[Rng], Floats], int]] = [
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


def word(rng: Rng) -> str:
    """A made-up brand name."""
    text = "".join(_SYLLABLES[i] for i in rng.integers(0, len(_SYLLABLES), rng.integers(1, 4)))
    return text.upper() if rng.random() < 0.6 else text.capitalize()


def _vivid(rng: Rng) -> list[float]:
    # Packaging is loud: red, yellow and blue, strong and bright, or white and black.
    hue = rng.normal((0.0, 0.13, 0.6)[int(rng.integers(3))], 0.05) % 1.0
    if rng.random() < 0.4:
        hue = rng.random()
    saturation, value = rng.uniform(0.35, 1) ** 0.5, rng.uniform(0.35, 1) ** 0.6
    if rng.random() < 0.3:
        saturation, value = 0.0, float(rng.choice([0.05, 0.5, 1.0, 1.0]))
    pixel = np.array([[[360 * hue, saturation, value]]], np.float32)
    return [float(v) for v in cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0]]


def _write(rng: Rng, image: Floats, text: str, box: tuple[int, int, int, int]) -> None:
    """Text filling a box (x, y, width, height)."""
    x, y, wide, high = box
    font = _FONTS[int(rng.integers(len(_FONTS)))]
    (w, h), base = cv2.getTextSize(text, font, 1.0, 2)
    scale = min(wide / max(w, 1), high / max(h + base, 1))
    thick = max(1, round(scale * rng.uniform(1.5, 5)))
    place = (x, y + round(scale * h))
    if rng.random() < 0.4:
        cv2.putText(image, text, place, font, scale, _vivid(rng), thick + 2, cv2.LINE_AA)
    cv2.putText(image, text, place, font, scale, _vivid(rng), thick, cv2.LINE_AA)


def _small_print(rng: Rng, image: Floats, box: tuple[int, int, int, int]) -> None:
    """Lines of text too small to read, or a table of nutrition facts, or a bar code."""
    x, y, wide, high = box
    kind = rng.random()
    ink, paper = _vivid(rng), _vivid(rng)
    if kind < 0.45:
        step = int(rng.integers(3, 7))
        for row in range(y + 2, y + high - 2, step):
            end = x + int(wide * rng.uniform(0.5, 1.0))
            for start in range(x, end, 9):
                cv2.line(image, (start, row), (min(start + int(rng.integers(3, 9)), end), row), ink)
        return
    if kind < 0.75:
        cv2.rectangle(image, (x, y), (x + wide, y + high), [1.0, 1.0, 1.0], -1)
        cv2.rectangle(image, (x, y), (x + wide, y + high), [0.0, 0.0, 0.0], 1)
        for row in range(y + 4, y + high - 2, 5):
            cv2.line(image, (x + 3, row), (x + wide - 3, row), [0.2, 0.2, 0.2], 1)
        return
    cv2.rectangle(image, (x, y), (x + wide, y + high), paper, -1)
    for column in range(x + 3, x + wide - 3, 2):
        if rng.random() < 0.5:
            cv2.line(image, (column, y + 3), (column, y + high - 5), [0.0, 0.0, 0.0], 1)


def _motif(rng: Rng, image: Floats, box: tuple[int, int, int, int]) -> None:
    """A picture of the product: a few soft ellipses and polygons."""
    x, y, wide, high = box
    for _ in range(int(rng.integers(2, 8))):
        centre = (x + int(wide * rng.uniform(0.2, 0.8)), y + int(high * rng.uniform(0.2, 0.8)))
        if rng.random() < 0.7:
            axes = (
                max(1, int(wide * rng.uniform(0.05, 0.35))),
                max(1, int(high * rng.uniform(0.05, 0.35))),
            )
            cv2.ellipse(
                image,
                centre,
                axes,
                float(rng.uniform(0, 180)),
                0,
                360,
                _vivid(rng),
                -1,
                cv2.LINE_AA,
            )
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 8))))
            reach = 0.3 * min(wide, high)
            points = np.stack([np.cos(angles), np.sin(angles)], 1) * reach + np.array(centre)
            cv2.fillPoly(image, [points.astype(np.int32)], _vivid(rng), cv2.LINE_AA)


def _print_face(rng: Rng, palette: list[list[float]], front: bool) -> Floats:
    size = FACE
    face = np.empty((size, size, 3), np.float32)
    face[:] = palette[0]
    if rng.random() < 0.35:
        ramp = np.linspace(rng.uniform(0.6, 1), 1.0, size, dtype=np.float32)
        face *= ramp[:, None, None]
    if rng.random() < 0.5:  # a band or a half in another colour
        edge = int(size * rng.uniform(0.15, 0.6))
        face[:edge] = palette[1]
    if front:
        _motif(rng, face, (8, int(0.4 * size), size - 16, int(0.55 * size)))
        _write(rng, face, word(rng), (6, 8, size - 12, int(size * rng.uniform(0.2, 0.35))))
        if rng.random() < 0.6:
            _write(rng, face, word(rng), (10, int(0.42 * size), size // 2, 12))
    else:
        kind = rng.random()
        if kind < 0.6:
            for _ in range(int(rng.integers(1, 3))):
                w, h = int(size * rng.uniform(0.3, 0.8)), int(size * rng.uniform(0.2, 0.5))
                x, y = int(rng.integers(2, size - w - 1)), int(rng.integers(2, size - h - 1))
                _small_print(rng, face, (x, y, w, h))
        if kind > 0.3:
            _write(rng, face, word(rng), (6, int(size * rng.uniform(0.05, 0.6)), size - 12, 20))
    return face


def _print_box(rng: Rng) -> Image:
    """Cube texture of a printed box; opposite faces alike, as packaging has them."""
    palette = [_vivid(rng) for _ in range(3)]
    if rng.random() < 0.12:  # a plain carton with a sticker
        tone = rng.uniform(0.6, 0.8)
        palette[0] = [tone, 0.78 * tone, 0.56 * tone]
    faces = []
    fronts = int(rng.integers(3))
    for axis in range(3):
        for _ in range(2):
            faces.append(_print_face(rng, palette, axis == fronts or rng.random() < 0.15))
    return _bytes(np.concatenate(faces))


def _wrap(rng: Rng) -> Floats:
    """What goes around a can or bottle: bare ends, a printed label between them (u, v)."""
    high, wide = _LABEL
    image = np.ones((high, wide, 3), np.float32)
    if rng.random() < 0.5:
        image[:] = _vivid(rng)
    low = int(high * rng.uniform(0.05, 0.4))
    top = int(high * rng.uniform(0.55, 0.85))
    image[low:top] = _vivid(rng)
    if rng.random() < 0.5:
        edge = low + int((top - low) * rng.uniform(0.2, 0.8))
        image[low:edge] = _vivid(rng)
    for start in (0, wide // 2):
        _motif(rng, image, (start + 10, low, wide // 2 - 20, top - low))
        box = (start + 8, low + 4, wide // 2 - 16, max(10, int(0.35 * (top - low))))
        _write(rng, image, word(rng), box)
        if rng.random() < 0.7:
            _small_print(rng, image, (start + 80, low + (top - low) // 2, 40, (top - low) // 3))
    # The profile runs upwards and so does v, whose first row lies at the bottom: text upright.
    return np.ascontiguousarray(image)


def _sheet(rng: Rng) -> Floats:
    """A printed page, a leaflet, or a calibration board."""
    image = np.full((SURFACE, SURFACE, 3), rng.uniform(0.85, 1.0), np.float32)
    if rng.random() < 0.25:
        cells = 8
        index = np.arange(SURFACE) * cells // SURFACE
        image[(index[:, None] + index[None, :]) % 2 == 1] = 0.05
        return image
    _write(rng, image, word(rng), (20, 16, int(rng.uniform(80, 200)), 24))
    for _ in range(int(rng.integers(2, 6))):
        w, h = int(rng.uniform(60, 200)), int(rng.uniform(30, 90))
        x, y = int(rng.integers(8, SURFACE - w - 8)), int(rng.integers(50, SURFACE - h - 8))
        (_small_print if rng.random() < 0.7 else _motif)(rng, image, (x, y, w, h))
    return image


def _tags(rng: Rng) -> Floats:
    """A board of square markers, by which cameras are located."""
    image = np.full((SURFACE, SURFACE, 3), 1.0, np.float32)
    count = int(rng.integers(2, 6))
    step = SURFACE // count
    cell = max(2, int(0.7 * step) // 8)
    for row in range(count):
        for column in range(count):
            bits = np.zeros((8, 8), np.float32)
            bits[1:7, 1:7] = rng.random((6, 6)) < 0.5
            tag = np.kron(bits, np.ones((cell, cell), np.float32))
            y, x = row * step + (step - 8 * cell) // 2, column * step + (step - 8 * cell) // 2
            image[y : y + 8 * cell, x : x + 8 * cell] = tag[..., None]
    return image


def _keyboard(rng: Rng) -> Floats:
    image = np.full((SURFACE, SURFACE, 3), rng.uniform(0.02, 0.2), np.float32)
    key = float(rng.uniform(0.08, 0.35))
    for row in range(6):
        y = 8 + row * 41
        x = 6
        while x < SURFACE - 14:
            wide = 13 if rng.random() < 0.85 else int(rng.integers(20, 60))
            cv2.rectangle(image, (x, y), (min(x + wide, SURFACE - 6), y + 34), [key] * 3, -1)
            if wide == 13:
                cv2.line(image, (x + 4, y + 10), (x + 8, y + 10), [0.8] * 3, 2)
            x += wide + 4
    return image


def _screen(rng: Rng) -> Floats:
    """A monitor: off, or showing windows."""
    image = np.full((SURFACE, SURFACE, 3), 0.04, np.float32)
    if rng.random() < 0.35:
        return np.asarray(image + 0.02 * _square(rng, 80.0)[..., None], np.float32)
    image[:] = np.array(_vivid(rng), np.float32) * 0.6
    for _ in range(int(rng.integers(1, 4))):
        w, h = int(rng.uniform(80, 220)), int(rng.uniform(60, 180))
        x, y = int(rng.integers(0, SURFACE - w)), int(rng.integers(0, SURFACE - h))
        cv2.rectangle(image, (x, y), (x + w, y + h), [float(rng.choice([0.1, 0.95]))] * 3, -1)
        _small_print(rng, image, (x + 6, y + 12, w - 12, h - 18))
    return image
