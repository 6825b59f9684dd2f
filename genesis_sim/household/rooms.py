"""What things stand on and in, and the room around it. All of it is background."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from genesis_sim.geometry import (
    IDENTITY,
    Quaternion,
    Vector,
    align_z,
    axis_angle,
    multiply,
    to_matrix,
    yaw,
)
from genesis_sim.household.bank import TextureBank
from genesis_sim.household.kit import Kit, Palette
from genesis_sim.household.things import random_thing
from genesis_sim.objects import muted_colour, random_colour
from genesis_sim.scene import Colour, Finish, Pose, Shape, Solid, Triple, place

Rng = np.random.Generator

#: Most solids of the surroundings.
MAX_SOLIDS = 260
#: How far from the middle of a shelf's partitions, and from its back, things are clear of what
#: lines them [m].
_LINED = 0.046


@dataclass(slots=True)
class Setting:
    """Where things are: their support's surface is the plane z = 0 around the origin."""

    name: str
    solids: list[Solid]
    support: Finish
    #: Half extents of the area for things, and of what the room must keep clear of.
    reach: tuple[float, float]
    extent: tuple[float, float]
    #: Height of the room's floor.
    ground: float
    #: How steeply (degrees) and from how far (metres) a camera looks, and from which side.
    pitch: tuple[float, float] = (20.0, 75.0)
    distance: tuple[float, float] = (0.5, 1.4)
    azimuth: tuple[float, float] = (0.0, 2 * math.pi)
    #: What holds things in when they are dropped; empty for a bare plane.
    walls: list[Solid] = field(default_factory=list)
    #: Share of the scenes that are settled by physics.
    heap: float = 0.2
    #: Whether light comes in from the camera's side only.
    enclosed: bool = False
    #: Free half depth, half width and height of a shelf's compartment.
    compartment: tuple[float, float, float] | None = None
    #: How far from it, along y, the compartments at its left and right are.
    next_door: float = 0.0


def plate(
    x: float,
    y: float,
    top: float,
    half: tuple[float, float],
    finish: Finish,
    thickness: float = 0.01,
    turn: float = 0.0,
) -> Solid:
    """A horizontal plate whose upper face is at a height; flat textures lie in it."""
    return Solid(
        Shape.BOX,
        (half[0], half[1], 0.5 * thickness),
        (float(x), float(y), top - 0.5 * thickness),
        finish,
        yaw(turn),
    )


def upright(
    x: float, y: float, z: float, half: tuple[float, float], angle: float, finish: Finish
) -> Solid:
    """A standing panel, half[0] wide and half[1] high, its normal in the plane at `angle`."""
    stand = multiply(yaw(angle + math.pi / 2), axis_angle((1.0, 0.0, 0.0), math.pi / 2))
    return Solid(
        Shape.BOX, (half[0], half[1], 0.006), (float(x), float(y), float(z)), finish, stand
    )


def _box(half: Triple, at: Triple, finish: Finish, turn: Quaternion = IDENTITY) -> Solid:
    return Solid(Shape.BOX, half, at, finish, turn)


def _rod(a: Vector, b: Vector, radius: float, finish: Finish) -> Solid:
    x, y, z = (float(v) for v in 0.5 * (a + b))
    half = 0.5 * float(np.linalg.norm(b - a))
    return Solid(Shape.CYLINDER, (radius, half, 0.0), (x, y, z), finish, align_z(b - a))


def strong_colour(rng: Rng) -> Colour:
    """A colour of large surfaces that is neither grey nor as strong as a toy's."""
    colour = np.array(random_colour(rng))
    mix = float(rng.uniform(0.0, 0.6))
    r, g, b = (float(v) for v in mix * float(colour.mean()) + (1 - mix) * colour)
    return (r, g, b)


def _scaled(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(1.0, factor * c) for c in colour)
    return (r, g, b)


def _polished(rng: Rng, finish: Finish, share: float) -> Finish:
    """The finish, in a share of the cases with a faint mirror image of what stands on it.

    Cloth has none.
    """
    if not finish.specular or rng.random() >= share:
        return finish
    return replace(finish, reflectance=float(rng.uniform(0.04, 0.35)))


def table_finish(rng: Rng, bank: TextureBank) -> Finish:
    """A table top or floor: wood most often, white and black laminate, cloth, stone."""
    kind = rng.random()
    specular = float(rng.uniform(0, 0.5) ** 1.5)
    shine = float(rng.uniform(0.05, 0.9))
    repeat = float(rng.uniform(0.8, 3.0))
    if kind < 0.34:
        tone = float(rng.uniform(0.35, 1.0))
        warm = (tone, tone * float(rng.uniform(0.82, 1.0)), tone * float(rng.uniform(0.6, 1.0)))
        texture = bank.pick(rng, "table wood", "table wood", "planks")
        return Finish(warm, texture, repeat, specular, shine)
    if kind < 0.56:  # laminate
        low, high = ((0.75, 1.0), (0.02, 0.2), (0.3, 0.75))[int(rng.integers(3))]
        tint = np.clip(rng.uniform(low, high) * np.exp(rng.normal(0, 0.03, 3)), 0, 1)
        texture = bank.pick(rng, "speckle", "concrete", "granite") if rng.random() < 0.5 else -1
        return Finish(
            (float(tint[0]), float(tint[1]), float(tint[2])), texture, repeat, specular, shine
        )
    if kind < 0.72:
        colour = muted_colour(rng) if rng.random() < 0.75 else strong_colour(rng)
        return Finish(colour, bank.pick(rng, "cloth", "weave", "folds"), repeat, 0.0)
    if kind < 0.82:
        shade = float(rng.uniform(0.7, 1.0))
        return Finish(
            (shade, shade, shade), bank.pick(rng, "checkerboard", "tiles"), repeat, specular, shine
        )
    texture = bank.pick(
        rng, "marble", "granite", "concrete", "plaster", "metal", "scratched", "carpet"
    )
    return Finish(muted_colour(rng), texture, repeat, specular, shine)


def floor_finish(rng: Rng, bank: TextureBank) -> Finish:
    """Carpet, boards, tiles, concrete, most often grey, brown or blue."""
    kind = rng.random()
    colour = strong_colour(rng) if rng.random() < 0.12 else muted_colour(rng)
    if rng.random() < 0.35:
        dark = float(rng.uniform(0.15, 0.5))
        colour = (dark, dark * float(rng.uniform(1, 1.15)), dark * float(rng.uniform(1, 1.4)))
    tone = float(rng.uniform(0.15, 1.0))
    repeat = float(rng.uniform(0.6, 2.5))
    if kind < 0.45:
        return Finish(colour, bank.pick(rng, "carpet"), repeat, 0.0)
    if kind < 0.7:
        warm = (tone, tone * 0.92, tone * 0.8)
        return Finish(warm, bank.pick(rng, "planks", "table wood"), repeat, 0.1)
    texture = bank.pick(rng, "tiles", "concrete", "granite", "speckle", "checkerboard")
    return Finish(colour, texture, repeat, 0.1)


def _table(rng: Rng, bank: TextureBank) -> Setting:
    finish = _polished(rng, table_finish(rng, bank), 0.4)
    half = (float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.25, 0.6)))
    off = tuple(float(rng.uniform(-0.5, 0.5)) * max(0.0, side - 0.25) for side in half)
    thick = float(rng.uniform(0.015, 0.06))
    ground = -float(rng.uniform(0.4, 0.9))
    solids = [plate(off[0], off[1], 0.0, half, finish, thick)]
    edge = Finish(_scaled(finish.colour, float(rng.uniform(0.4, 1.0))), specular=0.1)
    rim = 0.5 * thick - 0.001
    for sx, sy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        at = (off[0] + sx * half[0], off[1] + sy * half[1], -0.5 * thick)
        strip = (0.003, half[1] + 0.002, rim) if sx else (half[0] + 0.002, 0.003, rim)
        solids.append(_box(strip, at, edge))
    solids += _legs(rng, off, half, ground, thick, edge)
    if rng.random() < 0.15:
        mat = Finish(muted_colour(rng), bank.pick(rng, "weave", "cloth", "speckle"), 3.0)
        if rng.random() < 0.4:  # a board with markers, which fills it once
            mat = Finish((0.95, 0.95, 0.95), bank.pick(rng, "tags", "sheet"), 2.2)
        size = (float(rng.uniform(0.15, 0.3)), float(rng.uniform(0.12, 0.25)))
        solids.append(plate(0, 0, 0.0015, size, mat, 0.003, float(rng.uniform(0, 6.3))))
    reach = (
        min(half[0] - abs(off[0]) - 0.05, float(rng.uniform(0.15, 0.42))),
        min(half[1] - abs(off[1]) - 0.05, float(rng.uniform(0.13, 0.32))),
    )
    extent = (half[0] + abs(off[0]), half[1] + abs(off[1]))
    solids += _on_the_desk(rng, bank, half, off, reach)
    return Setting("table", solids, finish, reach, extent, ground)


def _legs(
    rng: Rng,
    off: tuple[float, ...],
    half: tuple[float, float],
    ground: float,
    thick: float,
    finish: Finish,
) -> list[Solid]:
    radius = float(rng.uniform(0.012, 0.04))
    inset = float(rng.uniform(0.03, 0.12))
    solids = []
    metal = Finish((float(rng.uniform(0.05, 0.7)),) * 3, specular=0.3)
    look = finish if rng.random() < 0.5 else metal
    high = 0.5 * (-thick - ground)
    for sx in (-1, 1):
        for sy in (-1, 1):
            x = off[0] + sx * (half[0] - inset)
            y = off[1] + sy * (half[1] - inset)
            at = (x, y, ground + high)
            if rng.random() < 0.5:
                solids.append(_box((radius, radius, high), at, look))
            else:
                solids.append(Solid(Shape.CYLINDER, (radius, high, 0.0), at, look))
    return solids


def _on_the_desk(
    rng: Rng,
    bank: TextureBank,
    half: tuple[float, float],
    off: tuple[float, ...],
    reach: tuple[float, float],
) -> list[Solid]:
    """Fixtures of a work place beyond the things: screens, keyboards, paper, cables, profiles."""
    solids: list[Solid] = []

    def spot() -> tuple[float, float] | None:
        for _ in range(8):
            x = off[0] + float(rng.uniform(-1, 1)) * half[0]
            y = off[1] + float(rng.uniform(-1, 1)) * half[1]
            if abs(x) > reach[0] + 0.12 or abs(y) > reach[1] + 0.12:
                return x, y
        return None

    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.6 else 0):
        place_at = spot()
        if place_at is None:
            break
        x, y = place_at
        kind = rng.random()
        turn = float(rng.uniform(0, 2 * math.pi))
        if kind < 0.25:
            shade = float(rng.uniform(0.03, 0.2)) if rng.random() < 0.7 else 0.9
            board = Finish((0.9, 0.9, 0.9), bank.pick(rng, "keyboard"), 4.0)
            if rng.random() < 0.3:
                board = Finish((shade, shade, shade))
            solids.append(plate(x, y, 0.018, (0.21, 0.07), board, 0.016, turn))
        elif kind < 0.5:
            solids += _monitor(rng, bank, x, y, 0.0, turn)
        elif kind < 0.75:
            paper = Finish((0.95, 0.95, 0.95), bank.pick(rng, "sheet", "sheet", "tags"), 4.0)
            solids.append(plate(x, y, 0.0012, (0.105, 0.148), paper, 0.002, turn))
        else:
            bar = Finish((float(rng.uniform(0.5, 0.8)),) * 3, specular=0.5)
            high = float(rng.uniform(0.15, 0.6))
            solids.append(_box((0.02, 0.02, high), (x, y, high), bar, yaw(turn)))
    if rng.random() < 0.3:
        solids += cable(rng, np.array([*rng.uniform(-half[0], half[0], 1), half[1], 0.004]))
    return solids


def _monitor(rng: Rng, bank: TextureBank, x: float, y: float, z: float, turn: float) -> list[Solid]:
    wide, high = float(rng.uniform(0.16, 0.3)), float(rng.uniform(0.11, 0.18))
    frame = Finish((float(rng.uniform(0.02, 0.12)),) * 3, specular=0.3)
    screen = Finish((1.0, 1.0, 1.0), bank.pick(rng, "screen"), 2.0, specular=0.3)
    lift = z + 0.1 + high
    out = np.array([math.cos(turn), math.sin(turn)])
    front = np.array([x, y]) + 0.012 * out
    return [
        upright(x, y, lift, (wide, high), turn, frame),
        upright(float(front[0]), float(front[1]), lift, (0.95 * wide, 0.93 * high), turn, screen),
        _box(
            (0.02, 0.03, 0.06),
            (x - 0.02 * float(out[0]), y - 0.02 * float(out[1]), z + 0.06),
            frame,
        ),
        plate(x, y, z + 0.012, (0.08, 0.1), frame, 0.012, turn),
    ]


def cable(rng: Rng, start: Vector) -> list[Solid]:
    """A cable lying about."""
    shade = float(rng.uniform(0.02, 0.15)) if rng.random() < 0.7 else float(rng.uniform(0.6, 0.95))
    look = Finish((shade, shade, shade) if rng.random() < 0.8 else strong_colour(rng), specular=0.2)
    radius = float(rng.uniform(0.002, 0.005))
    direction = float(rng.uniform(0, 2 * math.pi))
    point = start.astype(float)
    solids = []
    for _ in range(int(rng.integers(6, 14))):
        direction += float(rng.normal(0, 0.5))
        step = np.array([math.cos(direction), math.sin(direction), 0.0]) * 0.06
        solids.append(_rod(point, point + step, radius, look))
        point = point + 0.97 * step
    return solids


def _floor(rng: Rng, bank: TextureBank) -> Setting:
    finish = floor_finish(rng, bank)
    reach = (float(rng.uniform(0.18, 0.5)), float(rng.uniform(0.18, 0.5)))
    extent = (reach[0] + 0.15, reach[1] + 0.15)
    return Setting("floor", [], finish, reach, extent, 0.0, (25, 80), (0.6, 1.5))


def _bin(rng: Rng, bank: TextureBank) -> Setting:
    """A tote or carton from above; other ones may stand beside it."""
    x, y = float(rng.uniform(0.13, 0.3)), float(rng.uniform(0.1, 0.22))
    depth = float(rng.uniform(0.06, 0.26))
    colour = muted_colour(rng) if rng.random() < 0.65 else strong_colour(rng)
    carton = rng.random() < 0.2
    if carton:
        tone = float(rng.uniform(0.5, 0.85))
        colour = (tone, 0.77 * tone, 0.56 * tone)
    texture = (
        bank.pick(rng, "speckle", "scratched", "concrete", "weave") if rng.random() < 0.6 else -1
    )
    gloss = float(rng.uniform(0, 0.4))
    finish = Finish(colour, texture, 3.0, gloss)
    inside = Finish(_scaled(colour, float(rng.uniform(0.75, 1.0))), texture, 3.0, gloss)
    solids, walls = _tote(rng, bank, (x, y), depth, finish, inside)
    on_table = rng.random() < 0.6
    ground = -0.02 if rng.random() < 0.3 else -float(rng.uniform(0.3, 0.8))
    below = table_finish(rng, bank) if on_table else floor_finish(rng, bank)
    if on_table and ground < -0.1:
        size = (x + float(rng.uniform(0.05, 0.5)), y + float(rng.uniform(0.05, 0.5)))
        solids.append(plate(0, 0, -0.012, size, below, 0.03))
    if rng.random() < 0.45:  # its neighbours
        for sign in (-1, 1):
            if rng.random() < 0.6:
                shift = Pose(np.array([0.0, sign * (2 * y + float(rng.uniform(0.05, 0.12))), 0.0]))
                other = finish if rng.random() < 0.6 else Finish(strong_colour(rng), texture, 3.0)
                more, _ = _tote(rng, bank, (x, y), depth, other, other)
                solids += [place(solid, shift) for solid in more]
    return Setting(
        "bin",
        solids,
        inside,
        (x - 0.035, y - 0.03),
        (x + 0.1, y + 0.1),
        ground,
        (50, 88),
        (0.45, 1.1),
        walls=walls,
        heap=0.75,
    )


def _tote(
    rng: Rng,
    bank: TextureBank,
    half: tuple[float, float],
    depth: float,
    finish: Finish,
    inside: Finish,
) -> tuple[list[Solid], list[Solid]]:
    """The solids of an open box with sloped walls and a lip, and thick walls for physics."""
    x, y = half
    slope = math.radians(float(rng.uniform(0, 10)))
    lip = float(rng.uniform(0.006, 0.025))
    solids = [plate(0, 0, 0.0, (x, y), inside, 0.008)]
    walls = []
    high = 0.5 * depth
    out = high * math.tan(slope)
    for k in range(4):
        turn = k * math.pi / 2
        distance, wide = (x, y) if k % 2 == 0 else (y, x)
        direction = np.array([math.cos(turn), math.sin(turn)])
        cx, cy = (float(v) for v in (distance + out) * direction)
        lean = multiply(yaw(turn), axis_angle((0.0, 1.0, 0.0), slope))
        length = high / math.cos(slope)
        shade = Finish(
            _scaled(inside.colour, float(rng.uniform(0.8, 1.1))),
            inside.texture,
            inside.repeat,
            inside.specular,
        )
        solids.append(_box((0.003, wide + 2 * out, length), (cx, cy, high), shade, lean))
        rx, ry = (float(v) for v in (distance + 2 * out + 0.5 * lip) * direction)
        solids.append(
            _box((0.5 * lip, wide + 2 * out + lip, 0.004), (rx, ry, depth), finish, yaw(turn))
        )
        wx, wy = (float(v) for v in (distance + 0.05) * direction)
        walls.append(_box((0.05, wide + 0.1, 0.5), (wx, wy, 0.5), finish, yaw(turn)))
        if rng.random() < 0.3:  # a label or a handle
            note = Finish((0.95, 0.95, 0.95), bank.pick(rng, "sheet"), 6.0)
            hx, hy = (float(v) for v in (distance + out - 0.004) * direction)
            solids.append(upright(hx, hy, high, (0.04, 0.4 * high), turn, note))
    return solids, walls


def _shelf(rng: Rng, bank: TextureBank) -> Setting:
    """A shelf's compartment seen from the front, with its neighbours."""
    width, height = float(rng.uniform(0.13, 0.32)), float(rng.uniform(0.2, 0.36))
    depth = float(rng.uniform(0.1, 0.22))
    shade = float(rng.uniform(0.25, 0.95))
    tone = muted_colour(rng) if rng.random() < 0.8 else strong_colour(rng)
    if rng.random() < 0.5:
        tone = (shade, 0.82 * shade, 0.62 * shade)
    texture = (
        bank.pick(rng, "table wood", "speckle", "planks", "metal") if rng.random() < 0.7 else -1
    )
    board = Finish(tone, texture, 2.0, 0.1)
    support = _polished(rng, board, 0.6)
    if rng.random() < 0.3:
        support = _sheet_metal(rng, bank)
        board = replace(support, reflectance=0.0) if rng.random() < 0.6 else board
    partition = board
    lined = rng.random() < 0.5
    if lined or rng.random() < 0.2:  # cardboard or other boards part its compartments
        brown = float(rng.uniform(0.3, 0.9))
        tone = (brown, 0.78 * brown, 0.6 * brown) if rng.random() < 0.7 else muted_colour(rng)
        texture = bank.pick(rng, "speckle", "concrete", "plaster") if rng.random() < 0.6 else -1
        partition = Finish(tone, texture, 2.0, 0.05)
    back = replace(partition, colour=_scaled(partition.colour, float(rng.uniform(0.5, 1.0))))
    edge = Finish((float(rng.uniform(0.2, 0.9)),) * 3, specular=0.3)
    solids = []
    levels = (-1, 0, 1)
    cells = (-1, 0, 1)
    lip = float(rng.uniform(0.006, 0.025))
    for level in (*levels, 2):
        top = level * height
        finish = board if level else support
        solids.append(plate(0, 0, top, (depth, 3.2 * width), finish, 0.014))
        solids.append(_box((0.004, 3.2 * width, lip), (-depth, 0.0, top + 0.004 - lip), edge))
    for cell in (*cells, 2):
        y = (2 * cell - 1) * width
        solids.append(upright(0, y, 0.5 * height, (depth, 1.5 * height), math.pi / 2, partition))
    if lined:
        for cell in cells:
            solids += _lining(rng, (depth, width, height), 2 * cell * width, partition, back)
    if not lined or rng.random() < 0.5:
        at = depth + 0.03 if lined else depth
        solids.append(upright(at, 0, 0.5 * height, (3.2 * width, 1.5 * height), 0.0, back))
    if rng.random() < 0.35:  # padded posts
        dark = float(rng.uniform(0.02, 0.25))
        foam = Finish((dark,) * 3, bank.pick(rng, "speckle", "carpet", "weave"), 3.0, 0.0)
        wide = float(rng.uniform(0.08, 0.25)) * width
        for y in (-width, width):
            if rng.random() < 0.8:
                high = float(rng.uniform(0.2, 0.6)) * height
                z = float(rng.choice([high, height - high]))
                solids.append(upright(-depth - 0.007, y, z, (wide, high), math.pi, foam))
    clear = _LINED if lined else 0.006
    walls = [
        _box((0.05, 1.0, 0.5), (depth + 0.05, 0.0, 0.5), board),
        _box((1.0, 0.05, 0.5), (0.0, width + 0.05, 0.5), board),
        _box((1.0, 0.05, 0.5), (0.0, -width - 0.05, 0.5), board),
    ]
    return Setting(
        "shelf",
        solids,
        support,
        (depth - 0.03, width - 0.03),
        (depth, 3.2 * width),
        -float(rng.uniform(0.5, 1.2)),
        (2, 32),
        (0.4, 0.9),
        (math.pi - 0.45, math.pi + 0.45),
        walls=walls,
        heap=0.0,
        enclosed=True,
        compartment=(depth - clear, width - clear, height - 0.014),
        next_door=2 * width,
    )


def _sheet_metal(rng: Rng, bank: TextureBank) -> Finish:
    """A shelf board of steel, painted or bare, in which what stands there is mirrored."""
    grey = float(rng.uniform(0.03, 0.2) if rng.random() < 0.6 else rng.uniform(0.2, 0.7))
    tint = np.clip(grey * np.exp(rng.normal(0, 0.05, 3)), 0, 1)
    texture = bank.pick(rng, "metal", "scratched", "speckle") if rng.random() < 0.6 else -1
    return Finish(
        (float(tint[0]), float(tint[1]), float(tint[2])),
        texture,
        2.0,
        specular=float(rng.uniform(0.1, 0.6)),
        shininess=float(rng.uniform(0.3, 0.9)),
        reflectance=float(rng.uniform(0.05, 0.45)),
    )


def _lining(rng: Rng, size: Triple, y: float, partition: Finish, back: Finish) -> list[Solid]:
    """Sheets of cardboard in a compartment around (0, y): askew, with gaps, not up to its ceiling.

    Args:
        size: the compartment's half depth, half width and height.
    """
    depth, width, height = size
    solids = []
    for sign in (-1, 1):
        high = 0.5 * height * float(rng.uniform(0.7, 0.98))
        at = y + sign * (width - float(rng.uniform(0.012, 0.03)))
        askew = float(rng.uniform(-0.04, 0.04))
        shade = replace(partition, colour=_scaled(partition.colour, float(rng.uniform(0.7, 1.1))))
        solids.append(upright(0.0, at, high, (0.98 * depth, high), askew + math.pi / 2, shade))
        rim = replace(partition, colour=_scaled(partition.colour, float(rng.uniform(0.6, 1.6))))
        front = at - 0.98 * depth * math.sin(askew)
        solids.append(_box((0.002, 0.007, high), (-0.98 * depth, front, high), rim, yaw(askew)))
    parts = int(rng.integers(1, 4))
    shares = rng.dirichlet(np.full(parts, 6.0))
    left = y - width
    for share in shares:
        wide = width * float(share)
        high = 0.5 * height * float(rng.uniform(0.7, 0.98))
        gap = float(rng.uniform(0.0, 0.005)) if rng.random() < 0.7 else 0.01
        shade = replace(back, colour=_scaled(back.colour, float(rng.uniform(0.85, 1.1))))
        x = depth - float(rng.uniform(0.008, 0.02))
        angle = float(rng.uniform(-0.06, 0.06))
        half = (max(wide - gap, 0.002), high)
        solids.append(upright(x, left + wide, high, half, angle, shade))
        left += 2 * wide
    return solids


_SETTINGS: tuple[tuple[Callable[[Rng, TextureBank], Setting], float], ...] = (
    (_table, 0.54),
    (_floor, 0.07),
    (_bin, 0.19),
    (_shelf, 0.20),
)


def random_setting(rng: Rng, bank: TextureBank) -> Setting:
    """A table, a floor, a bin or a shelf."""
    index = int(rng.choice(len(_SETTINGS), p=[share for _, share in _SETTINGS]))
    return _SETTINGS[index][0](rng, bank)


def room(rng: Rng, kit: Kit, setting: Setting, camera: Vector) -> list[Solid]:
    """Floor, walls and furniture around a setting; nothing between it and the camera."""
    bank = kit.bank
    floor = setting.support if setting.name == "floor" else floor_finish(rng, bank)
    solids = [plate(0, 0, setting.ground, (6, 6), floor, 0.05, float(rng.uniform(0, 6.3)))]
    if setting.name == "floor":
        solids = [plate(0, 0, 0.0, (6, 6), floor, 0.05, float(rng.uniform(0, 6.3)))]
    view = math.atan2(-camera[1], -camera[0])
    turn = view + float(rng.normal(0, 0.35))
    base = strong_colour(rng) if rng.random() < 0.15 else (0.85, 0.85, 0.83)
    grey, mix = float(rng.uniform(0.2, 1.0)), float(rng.uniform(0, 0.5))
    colour = (
        mix * base[0] + (1 - mix) * grey,
        mix * base[1] + (1 - mix) * grey,
        mix * base[2] + (1 - mix) * grey,
    )
    away = max(setting.extent) + 0.05
    for k in range(4):
        angle = turn + k * math.pi / 2
        normal = np.array([math.cos(angle), math.sin(angle)])
        distance = float(away + rng.gamma(1.6, 0.7)) if k == 0 else float(rng.uniform(1.2, 4))
        distance = max(distance, float(camera[:2] @ normal) + 0.5, away)
        kind = rng.random()
        if kind < 0.35:
            texture = -1
        elif kind < 0.6:
            texture = bank.pick(rng, "plaster", "speckle", "concrete", "bricks", "table wood")
        elif kind < 0.78:
            texture = bank.pick(rng, "folds")
        else:
            texture = bank.pick(rng, "photo", "clutter")
        shade = 1.0 if k == 0 else float(rng.uniform(0.6, 1.05))
        finish = Finish(_scaled(colour, shade), texture, float(rng.uniform(0.3, 1.2)), specular=0.0)
        x, y = (float(v) for v in distance * normal)
        solids.append(upright(x, y, setting.ground + 1.4, (4.0, 1.4), angle, finish))
    solids.append(plate(0, 0, setting.ground + 2.8, (6, 6), Finish((0.9, 0.9, 0.88)), 0.02))
    count = int(rng.integers(1, 10)) if rng.random() < 0.85 else 0
    for _ in range(count):
        if len(solids) + len(setting.solids) > MAX_SOLIDS - 40:
            break
        angle = view + float(rng.uniform(-1.5, 1.5))
        distance = away + float(rng.gamma(1.5, 0.35)) + 0.15
        at = distance * np.array([math.cos(angle), math.sin(angle)])
        if setting.name in ("shelf", "bin") and distance < away + 0.25:
            continue
        solids += _furniture(rng, kit, float(at[0]), float(at[1]), setting.ground)
    return solids


def _furniture(rng: Rng, kit: Kit, x: float, y: float, ground: float) -> list[Solid]:
    """A cabinet, chair, shelf, box, screen, post or heap of things on the room's floor."""
    bank, kind = kit.bank, rng.random()
    turn = yaw(float(rng.uniform(0, 2 * math.pi)))
    colour = muted_colour(rng) if rng.random() < 0.6 else strong_colour(rng)
    if rng.random() < 0.4:
        colour = (float(rng.uniform(0.02, 0.2)),) * 3
    if kind < 0.22:
        half = (
            float(rng.uniform(0.1, 0.3)),
            float(rng.uniform(0.1, 0.3)),
            float(rng.uniform(0.1, 0.6)),
        )
        texture = bank.pick(rng, "print", "worn", "label", "checks") if rng.random() < 0.5 else -1
        return [_box(half, (x, y, ground + half[2]), Finish(colour, texture), turn)]
    if kind < 0.45:
        return _chair(rng, x, y, ground, Finish(colour, bank.pick(rng, "worn", "grain")), turn)
    if kind < 0.6:
        wide, high = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.5, 1.1))
        angle = float(rng.uniform(0, 2 * math.pi))
        front = Finish(
            (1.0, 1.0, 1.0), bank.pick(rng, "photo", "clutter"), float(rng.uniform(0.5, 1.4))
        )
        return [upright(x, y, ground + high, (wide, high), angle, front)]
    if kind < 0.72:
        stand = float(rng.uniform(0.2, 0.8))
        desk = Finish(colour, specular=0.1)
        return [
            _box((0.3, 0.25, 0.5 * stand), (x, y, ground + 0.5 * stand), desk, turn),
            *_monitor(rng, bank, x, y, ground + stand, float(rng.uniform(0, 6.3))),
        ]
    if kind < 0.82:
        radius, high = float(rng.uniform(0.015, 0.12)), float(rng.uniform(0.3, 1.2))
        at = (x, y, ground + high)
        return [Solid(Shape.CYLINDER, (radius, high, 0.0), at, Finish(colour, specular=0.3))]
    # Things as on the table, but far from it: they are surroundings.
    solids: list[Solid] = []
    stand = float(rng.uniform(0.05, 0.6))
    half_board = 0.25
    board = Finish(colour, specular=0.1)
    solids.append(_box((half_board, half_board, 0.5 * stand), (x, y, ground + 0.5 * stand), board))
    for _ in range(int(rng.integers(1, 5))):
        model = random_thing(rng, Kit(bank, Palette(), kit.pack, kit.skins))
        if any(solid.mesh is not None for solid in model.solids) and len(solids) > 6:
            continue
        dx, dy = (float(v) for v in rng.uniform(-0.18, 0.18, 2))
        height = ground + stand + model.half_size[2]
        pose = Pose(np.array([x + dx, y + dy, height]), yaw(float(rng.uniform(0, 6.3))))
        solids += [place(solid, pose) for solid in model.solids]
    return solids


def _chair(
    rng: Rng, x: float, y: float, ground: float, finish: Finish, turn: Quaternion
) -> list[Solid]:
    metal = Finish((float(rng.uniform(0.03, 0.6)),) * 3, specular=0.4)
    seat = float(rng.uniform(0.38, 0.5))
    rotation = to_matrix(turn)

    def at(dx: float, dy: float, z: float) -> Triple:
        shift = rotation @ np.array([dx, dy, 0.0])
        return (x + float(shift[0]), y + float(shift[1]), ground + z)

    solids = [
        _box((0.21, 0.21, 0.025), at(0, 0, seat), finish, turn),
        _box((0.02, 0.2, 0.2), at(-0.2, 0, seat + 0.28), finish, turn),
    ]
    if rng.random() < 0.5:
        solids += [
            Solid(Shape.CYLINDER, (0.015, 0.5 * seat, 0.0), at(dx, dy, 0.5 * seat), metal)
            for dx in (-0.18, 0.18)
            for dy in (-0.18, 0.18)
        ]
    else:  # on a column with feet
        solids.append(Solid(Shape.CYLINDER, (0.025, 0.5 * seat, 0.0), at(0, 0, 0.5 * seat), metal))
        for k in range(5):
            foot = multiply(turn, yaw(k * 2 * math.pi / 5))
            out = to_matrix(foot) @ np.array([0.14, 0.0, 0.0])
            solids.append(
                _box(
                    (0.14, 0.02, 0.015),
                    (x + float(out[0]), y + float(out[1]), ground + 0.06),
                    metal,
                    foot,
                )
            )
    return solids
