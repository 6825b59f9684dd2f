"""Print: packaging, labels, papers, marker boards, keyboards and screens."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from genesis_sim.household.patterns import SURFACE, noise, to_bytes

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator
Floats = npt.NDArray[np.float32]
#: Of a brand; red, green and blue from 0 to 1 each.
Colours = list[list[float]]

#: Side of a face of a printed box, in pixels.
FACE = 96
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
    return _from_hsv(hue, saturation, value)


def _from_hsv(hue: float, saturation: float, value: float) -> list[float]:
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
    widths = [thick + 2, thick] if rng.random() < 0.4 else [thick]  # with an outline, or without
    for width in widths:
        # Drawn apart: OpenCV 5 writes into images of 8 bits only.
        ink = np.zeros(image.shape[:2], np.uint8)
        cv2.putText(ink, text, place, font, scale, 255, width, cv2.LINE_AA)
        share = ink[..., None] / np.float32(255)
        image += share * (np.array(_vivid(rng), np.float32) - image)


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


def _print_face(rng: Rng, colours: Colours, front: bool) -> Floats:
    size = FACE
    face = np.empty((size, size, 3), np.float32)
    face[:] = colours[0]
    if rng.random() < 0.35:
        ramp = np.linspace(rng.uniform(0.6, 1), 1.0, size, dtype=np.float32)
        face *= ramp[:, None, None]
    if rng.random() < 0.5:  # a band or a half in another colour
        edge = int(size * rng.uniform(0.15, 0.6))
        face[:edge] = colours[1]
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


def print_box(rng: Rng, colours: Colours) -> Image:
    """Cube texture of a printed box of a brand; opposite faces alike, as packaging has them.

    Some are plain cartons with a sticker, and some sober, in one colour with a few words. The
    others are as loud as food is sold, with photographs, badges and curves, so that no colour tells
    where a box ends.
    """
    plain = rng.random() < 0.12
    if plain:
        tone = rng.uniform(0.6, 0.8)
        colours = [[tone, 0.78 * tone, 0.56 * tone], *colours[1:]]
    loud = not plain and rng.random() < 0.7
    fronts = int(rng.integers(3))
    faces = []
    for axis in range(3):
        for _ in range(2):
            front = axis == fronts or rng.random() < 0.15
            face = (_loud_face if loud else _print_face)(rng, colours, front)
            turns = 0 if front else int(rng.choice([0, 0, 1, 3]))  # print along the box
            faces.append(np.rot90(face, turns))
    return to_bytes(np.concatenate(faces))


def brand(rng: Rng) -> Colours:
    """The colours of a brand: ground, second, accent, and what its product looks like."""
    return [_vivid(rng), _vivid(rng), _vivid(rng), _edible(rng)]


def _edible(rng: Rng) -> list[float]:
    # Brown, golden, red and now and then green: most of what is pictured is food.
    if rng.random() < 0.25:
        return _vivid(rng)
    hue = rng.normal((0.02, 0.09, 0.12, 0.3)[int(rng.integers(4))], 0.03) % 1.0
    return _from_hsv(hue, rng.uniform(0.4, 0.95), rng.uniform(0.35, 0.95))


def _ground(rng: Rng, image: Floats, colours: Colours) -> None:
    """What all else is printed on: colours that run or bend into one another."""
    high, wide = image.shape[:2]
    ours, other = (np.array(colours[k], np.float32) for k in rng.permutation(3)[:2])
    y, x = np.mgrid[0:high, 0:wide].astype(np.float32)
    x, y = x / wide - 0.5, y / high - 0.5
    angle = float(rng.uniform(0, 2 * math.pi))
    along = x * math.cos(angle) + y * math.sin(angle)
    kind = rng.random()
    if kind < 0.25:  # one colour
        share = np.zeros_like(x)
    elif kind < 0.45:  # one runs into the other
        share = np.clip(along + 0.5, 0, 1)
    elif kind < 0.6:  # a glow
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        share = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / rng.uniform(0.03, 0.2))
    elif kind < 0.85:  # a bent edge
        bend = rng.uniform(0, 0.25) * np.sin(
            rng.uniform(3, 9) * (x * math.sin(angle) - y * math.cos(angle)) + rng.uniform(0, 6)
        )
        share = (along + bend > rng.uniform(-0.25, 0.25)).astype(np.float32)
    else:  # a landscape, water, steam
        share = 1 / (1 + np.exp(-2 * noise(rng, (high, wide), float(rng.uniform(10, 40)))))
    image[:] = ours + share[..., None].astype(np.float32) * (other - ours)


def _curves(rng: Rng, image: Floats, colours: Colours) -> None:
    """Broad bands that swing across a face."""
    high, wide = image.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        x = np.linspace(-10, wide + 10, 24)
        y = high * (rng.uniform(0.1, 0.9) + rng.uniform(-0.5, 0.5) * (x / wide - 0.5))
        y = y + high * rng.uniform(0, 0.2) * np.sin(
            rng.uniform(2, 7) * x / wide + rng.uniform(0, 6)
        )
        points = np.stack([x, y], 1).astype(np.int32)
        colour = colours[int(rng.integers(3))] if rng.random() < 0.7 else _vivid(rng)
        thick = max(1, int(min(high, wide) * rng.uniform(0.02, 0.2)))
        cv2.polylines(image, [points], False, colour, thick, cv2.LINE_AA)


def _photograph(
    rng: Rng, image: Floats, box: tuple[int, int, int, int], colour: list[float]
) -> None:
    """The product: a plate or heap of pieces of a kind, lit, one upon the other."""
    x, y, wide, high = box
    middle = (x + wide // 2, y + high // 2)
    if rng.random() < 0.4:  # on a plate, in a bowl
        dish = [float(rng.uniform(0.75, 1))] * 3 if rng.random() < 0.6 else _vivid(rng)
        cv2.ellipse(image, middle, (wide // 2, high // 2), 0, 0, 360, dish, -1, cv2.LINE_AA)
    size = max(1.5, min(wide, high) * float(rng.uniform(0.04, 0.2)))
    count = int(np.clip(0.6 * wide * high / size**2, 5, 110))
    flat = float(rng.uniform(0.35, 1.0))
    thick = max(1, round(0.4 * size)) if rng.random() < 0.2 else -1  # rings, or filled
    for _ in range(count):
        reach, angle = math.sqrt(rng.random()) * 0.45, float(rng.uniform(0, 2 * math.pi))
        place = (
            int(middle[0] + wide * reach * math.cos(angle)),
            int(middle[1] + high * reach * math.sin(angle)),
        )
        light = np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.06, 3))
        lit = [float(v) for v in np.clip(np.array(colour) * light, 0, 1)]
        dark = [0.4 * v for v in lit]
        axes = (max(1, round(size)), max(1, round(size * flat)))
        turn = float(rng.uniform(0, 180))
        shade = (place[0] + 1, place[1] + 1)
        cv2.ellipse(image, shade, axes, turn, 0, 360, dark, thick, cv2.LINE_AA)
        cv2.ellipse(image, place, axes, turn, 0, 360, lit, thick, cv2.LINE_AA)
        if thick < 0 and size > 3:
            shine = [min(1.0, 1.35 * v + 0.05) for v in lit]
            glint = (max(1, axes[0] // 2), max(1, axes[1] // 2))
            cv2.ellipse(
                image, (place[0] - 1, place[1] - 1), glint, turn, 0, 360, shine, -1, cv2.LINE_AA
            )


def _badge(rng: Rng, image: Floats) -> None:
    """A round or star-shaped badge with a word or a number on it."""
    high, wide = image.shape[:2]
    radius = int(min(high, wide) * rng.uniform(0.07, 0.2))
    x, y = int(rng.uniform(0.1, 0.9) * wide), int(rng.uniform(0.1, 0.9) * high)
    points = int(rng.integers(8, 16)) * 2
    angles = np.linspace(0, 2 * math.pi, points, endpoint=False)
    reach = radius * (1.0 if rng.random() < 0.5 else 1 - 0.25 * (np.arange(points) % 2))
    outline = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1)
    cv2.fillPoly(image, [outline.astype(np.int32)], _vivid(rng), cv2.LINE_AA)
    text = word(rng)[:5] if rng.random() < 0.5 else f"{int(rng.integers(2, 99))}"
    _write(rng, image, text, (x - int(0.7 * radius), y - radius // 2, int(1.4 * radius), radius))


def _loud_face(rng: Rng, colours: Colours, front: bool) -> Floats:
    size = FACE
    face = np.empty((size, size, 3), np.float32)
    _ground(rng, face, colours)
    if rng.random() < 0.5:
        _curves(rng, face, colours)
    if rng.random() < (0.8 if front else 0.35):
        w, h = int(size * rng.uniform(0.4, 1.1)), int(size * rng.uniform(0.3, 0.75))
        x, y = int(rng.integers(-8, size - w // 2)), int(rng.integers(size // 4, size - h // 2))
        _photograph(rng, face, (x, y, w, h), colours[3])
    if front:
        top = int(size * rng.uniform(0.04, 0.3))
        box = (5, top, size - 10, int(size * rng.uniform(0.18, 0.4)))
        if rng.random() < 0.35:  # the brand on a field of its own
            field = (5, top - 2, size - 10, box[3] + 4)
            cv2.rectangle(face, field, colours[int(rng.integers(3))], -1)
        _write(rng, face, word(rng), box)
        for _ in range(int(rng.integers(0, 3))):
            at = (int(rng.integers(2, size // 2)), int(rng.uniform(0.4, 0.85) * size))
            _write(rng, face, word(rng), (*at, size // 2, int(rng.integers(6, 14))))
    else:
        for _ in range(int(rng.integers(0, 3))):
            w, h = int(size * rng.uniform(0.3, 0.9)), int(size * rng.uniform(0.15, 0.5))
            x, y = int(rng.integers(1, size - w)), int(rng.integers(1, size - h))
            _small_print(rng, face, (x, y, w, h))
        if rng.random() < 0.6:
            top = int(size * rng.uniform(0.05, 0.7))
            _write(rng, face, word(rng), (6, top, size - 12, int(rng.integers(10, 28))))
    for _ in range(int(rng.integers(0, 3 if front else 2))):
        _badge(rng, face)
    return face


def wrap(rng: Rng) -> Floats:
    """What goes around a can or bottle: bare ends, a printed label between them (u, v)."""
    high, wide = _LABEL
    image = np.ones((high, wide, 3), np.float32)
    if rng.random() < 0.5:
        image[:] = _vivid(rng)
    low = int(high * rng.uniform(0.05, 0.4))
    top = int(high * rng.uniform(0.55, 0.85))
    colours, loud = brand(rng), rng.random() < 0.6
    if loud:
        label = image[low:top]
        _ground(rng, label, colours)
        _curves(rng, label, colours)
    else:
        image[low:top] = _vivid(rng)
        if rng.random() < 0.5:
            edge = low + int((top - low) * rng.uniform(0.2, 0.8))
            image[low:edge] = _vivid(rng)
    for start in (0, wide // 2):
        if loud:
            place = (start + 8, low + (top - low) // 3, wide // 2 - 16, 2 * (top - low) // 3)
            _photograph(rng, image[:top], place, colours[3])
        else:
            _motif(rng, image, (start + 10, low, wide // 2 - 20, top - low))
        box = (start + 8, low + 4, wide // 2 - 16, max(10, int(0.35 * (top - low))))
        _write(rng, image, word(rng), box)
        if rng.random() < 0.7:
            _small_print(rng, image, (start + 80, low + (top - low) // 2, 40, (top - low) // 3))
    # The profile runs upwards and so does v, whose first row lies at the bottom: text upright.
    return np.ascontiguousarray(image)


def sheet(rng: Rng) -> Floats:
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


def tags(rng: Rng) -> Floats:
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


def keyboard(rng: Rng) -> Floats:
    """The keys of a keyboard."""
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


def screen(rng: Rng) -> Floats:
    """A monitor: off, or showing windows."""
    image = np.full((SURFACE, SURFACE, 3), 0.04, np.float32)
    if rng.random() < 0.35:
        return np.asarray(
            image + 0.02 * noise(rng, (SURFACE, SURFACE), 80.0)[..., None], np.float32
        )
    image[:] = np.array(_vivid(rng), np.float32) * 0.6
    for _ in range(int(rng.integers(1, 4))):
        w, h = int(rng.uniform(80, 220)), int(rng.uniform(60, 180))
        x, y = int(rng.integers(0, SURFACE - w)), int(rng.integers(0, SURFACE - h))
        cv2.rectangle(image, (x, y), (x + w, y + h), [float(rng.choice([0.1, 0.95]))] * 3, -1)
        _small_print(rng, image, (x + 6, y + 12, w - 12, h - 18))
    return image
