"""Static surroundings: Sketchy's basket, plain tables, totes and shelf bins, and loose cables.

Everything here is background (label 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from genesis_sim.geometry import (
    IDENTITY,
    Quaternion,
    Vector,
    align_z,
    axis_angle,
    multiply,
    yaw,
)
from genesis_sim.objects import muted_colour, random_colour
from genesis_sim.scene import Colour, Finish, Shape, Solid, Triple
from genesis_sim.textures import pick

Rng = np.random.Generator

#: Most solids an environment is made of, cables included.
MAX_SOLIDS = 230

# Measured from real Sketchy frames: half width of the basket's opening, its floor, its depth, and
# the distance of the rails (the four basket corners of both front cameras, 0.8 pixels rms).
OPENING, FLOOR, DEPTH, RAIL = 0.26, 0.195, 0.0543, 0.474


@dataclass(frozen=True, slots=True)
class Environment:
    solids: list[Solid]
    floor_height: float
    reach: tuple[float, float]


def _slab(
    x: float,
    y: float,
    z: float,
    half: tuple[float, float],
    finish: Finish,
    thickness: float = 0.004,
) -> Solid:
    """A horizontal plate whose top is at height z."""
    return Solid(
        Shape.BOX, (half[0], half[1], thickness), (float(x), float(y), z - thickness), finish
    )


class _Side:
    """One of four sides: takes what is described for the +x side there, by k quarter turns."""

    def __init__(self, k: int) -> None:
        self._turn = yaw(k * math.pi / 2)
        self._cos, self._sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[k]
        self.normal: Vector = np.array([self._cos, self._sin, 0.0])

    def solid(
        self,
        position: Triple,
        half: Triple,
        finish: Finish,
        rotation: Quaternion = IDENTITY,
    ) -> Solid:
        out, along, z = position
        x, y = self._cos * out - self._sin * along, self._sin * out + self._cos * along
        return Solid(Shape.BOX, half, (x, y, z), finish, multiply(self._turn, rotation))


def _sign(rng: Rng) -> int:
    return 1 if rng.random() < 0.5 else -1


def _shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (channel * factor for channel in colour)
    return (r, g, b)


def _upright(
    x: float, y: float, z: float, half: tuple[float, float], angle: float, finish: Finish
) -> Solid:
    """A wall panel: half[0] wide, half[1] high, its normal horizontal at `angle`."""
    # The slab's flat texture lies in its own xy plane, so the plate is stood up, not made tall.
    stand: Quaternion = multiply(yaw(angle + math.pi / 2), axis_angle((1.0, 0.0, 0.0), math.pi / 2))
    return Solid(Shape.BOX, (half[0], half[1], 0.004), (x, y, z), finish, stand)


def _room(
    rng: Rng, camera: Vector, sketchy: bool, walls: tuple[float, float, float, float]
) -> list[Solid]:
    """Walls at the given distances (+x, +y, -x, -y), further off where the camera stands."""
    if sketchy:
        # Above 1: daylight shines through the curtains, which are the brightest thing in view.
        shade = float(rng.uniform(0.75, 1.9))
        colour: Colour = (shade, shade, shade)
    else:
        base = random_colour(rng) if rng.random() < 0.5 else (0.8, 0.8, 0.8)
        mix = rng.uniform(0.0, 0.6)
        grey = rng.uniform(0.3, 0.95)
        colour = tuple(float(mix * c + (1 - mix) * grey) for c in base)  # type: ignore[assignment]
    solids = []
    for k, distance in enumerate(walls):
        angle = k * math.pi / 2
        normal = np.array([math.cos(angle), math.sin(angle)])
        away = max(distance, float(camera[:2] @ normal) + 0.25)
        kinds = (
            ("folds",) if sketchy or rng.random() < 0.4 else ("folds", "clutter", "speckle", "wood")
        )
        finish = Finish(
            _shade(colour, float(rng.uniform(0.82, 1.08))),
            pick(rng, *kinds),
            repeat=float(rng.uniform(0.5, 1.6)),
            specular=0.0,
        )
        x, y = away * normal
        solids.append(_upright(float(x), float(y), 0.9, (3.0, 1.6), angle, finish))
    ground = Finish(
        (float(rng.uniform(0.1, 0.6)),) * 3, pick(rng, "speckle", "tiles"), specular=0.0
    )
    solids.append(_slab(0, 0, -0.7, (4, 4), ground))
    solids.append(_slab(0, 0, 2.6, (4, 4), Finish((0.85, 0.85, 0.83))))
    return solids


def basket(rng: Rng, camera: Vector, *, sketchy: bool) -> Environment:
    """Sketchy's sunken basket: sloped sides, seams, slots, aluminium rails, curtains."""
    scale = 1.0 if sketchy else float(rng.uniform(0.75, 1.25))
    opening, floor = OPENING * scale, FLOOR * scale
    depth = DEPTH * (float(rng.uniform(0.9, 1.1)) if sketchy else float(rng.uniform(0.3, 2.0)))
    if sketchy:
        grey = float(rng.uniform(0.36, 0.50))
        tone: Colour = (
            grey,
            grey * float(rng.uniform(0.98, 1.02)),
            grey * float(rng.uniform(0.95, 1.02)),
        )
    else:
        tone = muted_colour(rng)
    kinds = (
        ("scratched", "speckle") if sketchy else ("scratched", "speckle", "wood", "weave", "tiles")
    )
    texture = pick(rng, *kinds)
    gloss = float(rng.uniform(0.0, 0.25))

    def finish(low: float, high: float) -> Finish:
        return Finish(
            _shade(tone, float(rng.uniform(low, high))),
            texture,
            repeat=float(rng.uniform(1.2, 3.5)),
            specular=gloss,
            shininess=float(rng.uniform(0.05, 0.5)),
        )

    solids = [_slab(0, 0, -depth, (opening, opening), finish(0.9, 1.08))]
    deck = finish(0.95, 1.2)
    dark = Finish(_shade(tone, float(rng.uniform(0.15, 0.75))), alpha=float(rng.uniform(0.35, 1.0)))
    seam = float(rng.uniform(0.0006, 0.0018))
    wide = 0.5 * (1.2 - opening)
    middle = 0.5 * (opening + floor)
    tilt = axis_angle((0.0, 1.0, 0.0), -math.atan2(depth, opening - floor))
    slope = (0.5 * math.hypot(opening - floor, depth), opening, 0.002)
    corner = np.array([floor - opening, floor - opening, -depth])
    corner_size = (seam, seam, 0.5 * float(np.linalg.norm(corner)))
    for k in range(4):
        side = _Side(k)
        solids += [
            side.solid((middle, 0, -0.5 * depth - 0.002), slope, finish(0.8, 1.08), tilt),
            side.solid((opening + wide, 0, -0.004), (wide, opening + 2 * wide, 0.004), deck),
            # Seams: rim, foot of the slope, and the corner between two slopes.
            side.solid((opening, 0, 0), (seam, opening, 0.0006), dark),
            side.solid((floor, 0, -depth), (seam, floor, 0.0008), dark),
            side.solid((middle, middle, -0.5 * depth), corner_size, dark, align_z(corner)),
        ]
        if sketchy or rng.random() < 0.5:
            groove = Finish(
                _shade(tone, (0.45, 0.6, 1.25)[int(rng.integers(3))]),
                alpha=float(rng.uniform(0.3, 0.9)),
            )
            for _ in range(2):
                x, y = opening + float(rng.uniform(0.03, 0.18)), float(rng.uniform(-1, 1)) * opening
                half = (0.0012, float(rng.uniform(0.01, 0.055)), 0.0004)
                turn = yaw(float(rng.integers(2)) * math.pi / 2 + float(rng.normal(0, 0.05)))
                solids.append(side.solid((x, y, 0), half, groove, turn))
            y = _sign(rng) * floor * float(rng.uniform(0.6, 0.9))
            half = (float(rng.uniform(0.008, 0.025)), 0.0012, 0.0004)
            solids.append(side.solid((middle, y, -0.5 * depth + 0.0004), half, groove, tilt))
    solids += _debris(rng, floor, opening, depth)
    solids += _smears(rng, floor, depth)
    if sketchy or rng.random() < 0.6:
        solids += _rails(rng, camera, RAIL * scale)
    near = float(rng.uniform(0.53, 0.75)) * scale if sketchy else float(rng.uniform(0.6, 1.8))
    back = float(rng.uniform(1.3, 1.9))
    solids += _room(rng, camera, sketchy, (back, near, max(near, 0.9), near))
    margin = 0.8 if sketchy else 0.85
    return Environment(solids, -depth, (margin * floor, margin * floor))


def _debris(rng: Rng, floor: float, opening: float, depth: float) -> list[Solid]:
    """Specks of dirt: along the foot of the slopes, and anywhere."""
    solids = []
    count = int(rng.integers(0, 26))
    numbers = rng.random((count, 7)).tolist()
    for where, side, along, shade, long, wide, turn in numbers:
        if where < 0.6:
            edge = floor if side < 0.5 else -floor
            x, y = (edge, (2 * along - 1) * floor)
            if where < 0.3:
                x, y = y, x
            z = -depth
        else:
            x, y = 0.9 * side - 0.45, 0.9 * along - 0.45
            z = -depth if max(abs(x), abs(y)) < floor else 0.0
            if floor < max(abs(x), abs(y)) < opening:
                continue
        grey = (0.15, 0.3, 0.7, 0.9)[int(4 * shade)]
        colour = (grey, grey, 0.85 * grey) if rng.random() < 0.8 else random_colour(rng)
        half = (0.0008 + 0.0042 * long, 0.0006 + 0.001 * wide, 0.0006)
        solids.append(Solid(Shape.BOX, half, (x, y, z), Finish(colour), yaw(3.2 * turn)))
    return solids


def _smears(rng: Rng, floor: float, depth: float) -> list[Solid]:
    """Faint coloured patches on floor and deck: worn-off paint, dull reflections."""
    solids = []
    for k in range(int(rng.integers(0, 5))):
        colour = (0.8, 0.25, 0.22) if rng.random() < 0.4 else random_colour(rng)
        x, y = (float(v) for v in rng.uniform(-1.6, 1.6, 2) * floor)
        z = -depth if max(abs(x), abs(y)) < floor else 0.0
        half = (float(rng.uniform(0.01, 0.08)), float(rng.uniform(0.005, 0.03)), 0.001)
        look = Finish(colour, alpha=float(rng.uniform(0.04, 0.16)), specular=0.0)
        turn = yaw(float(rng.uniform(0, 3.2)))
        solids.append(Solid(Shape.ELLIPSOID, half, (x, y, z + 0.0002 * k), look, turn))
    return solids


def _rails(rng: Rng, camera: Vector, distance: float) -> list[Solid]:
    """Aluminium profiles around the deck, with a groove and dark brackets."""
    bright = float(rng.uniform(0.6, 0.85))
    metal = Finish((bright, bright, 0.97 * bright), specular=0.4, shininess=0.5)
    groove = Finish((0.5 * bright,) * 3)
    bracket = Finish((float(rng.uniform(0.12, 0.35)),) * 3)
    half = float(rng.uniform(0.015, 0.021))
    lift = float(rng.uniform(0.0, 0.012))
    solids = []
    middle = distance + half
    for k in range(4):
        side = _Side(k)
        if camera @ side.normal > distance - 0.06:
            continue  # it would stand between the camera and the basket
        bar = (half, distance + 2 * half, half)
        solids += [
            side.solid((middle, 0, lift + half), bar, metal),
            side.solid((distance, 0, lift + half), (0.0008, distance, 0.22 * half), groove),
            side.solid((middle, 0, lift + 2 * half), (0.2 * half, distance, 0.0008), groove),
        ]
        for _ in range(int(rng.integers(1, 4))):
            along = float(rng.uniform(-0.9, 0.9)) * distance
            size = (0.006, 0.006, half + 0.004)
            solids.append(side.solid((distance - 0.004, along, half), size, bracket))
    if rng.random() < 0.6:
        height = 0.6
        x, y = distance + half, float(rng.uniform(-0.5, 0.5))
        solids.append(Solid(Shape.BOX, (half, half, height), (x, y, height), metal))
        solids.append(Solid(Shape.BOX, (0.0008, 0.2 * half, height), (x - half, y, height), groove))
    return solids


def table(rng: Rng, camera: Vector) -> Environment:
    """A plain table top in a room, now and then with a mat on it."""
    finish = Finish(
        muted_colour(rng),
        pick(rng, "wood", "scratched", "speckle", "weave", "tiles"),
        repeat=float(rng.uniform(0.8, 4.0)),
        specular=float(rng.uniform(0, 0.3)),
        shininess=float(rng.uniform(0.05, 0.8)),
    )
    half = (float(rng.uniform(0.35, 1.2)), float(rng.uniform(0.35, 1.2)))
    solids = [_slab(0, 0, 0, half, finish, 0.015)]
    if rng.random() < 0.3:
        mat = Finish(muted_colour(rng), pick(rng, "weave", "speckle", "tiles"), repeat=3.0)
        size = (float(rng.uniform(0.15, 0.4)), float(rng.uniform(0.15, 0.4)))
        solids.append(_slab(0, 0, 0.001, size, mat))
    walls = rng.uniform(0.6, 2.0, 4)
    solids += _room(rng, camera, False, (walls[0] + 0.8, walls[1], walls[2], walls[3]))
    return Environment(solids, 0.001, (0.17, 0.17))


def tote(rng: Rng, camera: Vector) -> Environment:
    """An open box with upright walls."""
    x, y = (float(v) for v in rng.uniform(0.14, 0.26, 2))
    height = float(rng.uniform(0.04, 0.15))
    colour = muted_colour(rng)
    finish = Finish(colour, pick(rng, "speckle", "scratched", "weave"), repeat=3.0, specular=0.15)
    rim = Finish(_shade(colour, float(rng.uniform(0.7, 1.4))))
    solids = [_slab(0, 0, 0, (x, y), finish)]
    for sx, sy, half in ((1, 0, y), (-1, 0, y), (0, 1, x), (0, -1, x)):
        size = (0.004, half, 0.5 * height) if sx else (half, 0.004, 0.5 * height)
        edge = (0.007, half + 0.01, 0.004) if sx else (half + 0.01, 0.007, 0.004)
        solids.append(Solid(Shape.BOX, size, (sx * x, sy * y, 0.5 * height), finish))
        solids.append(Solid(Shape.BOX, edge, (sx * x, sy * y, height), rim))
    floor = Finish(
        muted_colour(rng), pick(rng, "wood", "speckle", "scratched", "tiles"), repeat=1.5
    )
    solids.append(_slab(0, 0, -0.005, (1.0, 1.0), floor))
    solids += _room(rng, camera, False, (1.8, 1.4, 1.4, 1.4))
    return Environment(solids, 0.0, (x - 0.045, y - 0.045))


def shelf(rng: Rng, camera: Vector) -> Environment:
    """A shelf bin seen from the front (the -x side), as on the APC rig."""
    width, height = float(rng.uniform(0.15, 0.24)), float(rng.uniform(0.2, 0.34))
    back = float(rng.uniform(0.14, 0.26))
    front = -0.16
    length = 0.5 * (back - front)
    middle = 0.5 * (back + front)
    shade = float(rng.uniform(0.4, 0.9))
    card = (shade, 0.78 * shade, 0.58 * shade) if rng.random() < 0.7 else random_colour(rng)
    side = Finish(card, pick(rng, "speckle", "wood", "scratched"), repeat=2.0, specular=0.02)
    metal_shade = float(rng.uniform(0.1, 0.6))
    metal = Finish((metal_shade,) * 3, pick(rng, "scratched", "speckle"), specular=0.3)
    edge = Finish((float(rng.uniform(0.5, 0.9)),) * 3, specular=0.4)
    solids = [
        _slab(middle, 0, 0, (length, width), metal),
        Solid(Shape.BOX, (length, width, 0.004), (middle, 0, height), metal),
        _upright(back, 0, 0.5 * height, (width, 0.5 * height), 0.0, side),
        _upright(middle, width, 0.5 * height, (length, 0.5 * height), math.pi / 2, side),
        _upright(middle, -width, 0.5 * height, (length, 0.5 * height), -math.pi / 2, side),
        Solid(Shape.BOX, (0.004, 3 * width, 0.014), (front, 0, -0.012), edge),
        Solid(Shape.BOX, (0.004, 3 * width, 0.014), (front, 0, height + 0.012), edge),
    ]
    for sign in (-1, 1):  # neighbouring bins
        other = Finish(_shade(card, float(rng.uniform(0.3, 0.9))), pick(rng, "clutter"), repeat=3.0)
        solids.append(
            Solid(
                Shape.BOX,
                (0.01, 0.4 * width, 0.5 * height),
                (front + 0.08, sign * 1.6 * width, 0.5 * height),
                other,
            )
        )
    if rng.random() < 0.4:
        dark = Finish((float(rng.uniform(0.03, 0.15)),) * 3, pick(rng, "speckle"))
        y = _sign(rng) * width
        solids.append(Solid(Shape.BOX, (0.02, 0.05, 0.06), (front - 0.04, y, height), dark))
    solids += _room(rng, camera, False, (1.0, 1.2, 1.6, 1.2))
    return Environment(solids, 0.0, (0.09, width - 0.05))


def cables(rng: Rng, *, near: Vector | None = None) -> list[Solid]:
    """Black cables hanging through the scene, some with a blue sleeve.

    Args:
        rng: makes the choices.
        near: the point that they start from; a random one if left out.
    """
    solids = []
    shade = float(rng.uniform(0.03, 0.12))
    black = Finish((shade, shade, shade), specular=0.2)
    sleeve = Finish((0.16, 0.15, float(rng.uniform(0.3, 0.5))), specular=0.1)
    start = near if near is not None else _hanging_point(rng)
    end = _hanging_point(rng)
    for _ in range(int(rng.integers(1, 5))):
        a = start + rng.normal(0, 0.04, 3)
        b = end + rng.normal(0, 0.06, 3)
        sag = 0.5 * (a + b) - np.array([0, 0, rng.uniform(0.02, 0.35)]) + rng.normal(0, 0.06, 3)
        sag[2] = max(float(sag[2]), 0.02)
        radius = float(rng.uniform(0.0025, 0.005))
        t = np.linspace(0, 1, 11)[:, None]
        points = (1 - t) ** 2 * a + 2 * t * (1 - t) * sag + t**2 * b
        covered = int(rng.integers(1, 9)) if rng.random() < 0.45 else -9
        runs, middles = np.diff(points, axis=0), (0.5 * (points[1:] + points[:-1])).tolist()
        lengths = np.sqrt((runs**2).sum(1)).tolist()
        for k, (run, length, (x, y, z)) in enumerate(zip(runs, lengths, middles, strict=True)):
            inside = covered <= k <= covered + 1
            thick = 0.9 * radius * (1.9 if inside else 1.0)
            # Boxes: a few pixels wide they look like round ones and cost a tenth.
            size = (thick, thick, 0.5 * length + 0.3 * thick)
            look = sleeve if inside else black
            solids.append(Solid(Shape.BOX, size, (x, y, z), look, align_z(run)))
    return solids


def _hanging_point(rng: Rng) -> Vector:
    return np.array([rng.uniform(0.05, 0.65), rng.uniform(-0.5, 0.5), rng.uniform(0.05, 0.45)])
