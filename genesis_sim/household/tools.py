"""Tools, toys, fruit, stationery and other small things."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np

from genesis_sim.geometry import axis_angle, to_matrix, yaw
from genesis_sim.household.kit import Kit
from genesis_sim.household.parts import (
    QUARTER_X,
    QUARTER_Y,
    between,
    box,
    rod,
    solid_mesh,
    thing,
    turned,
)
from genesis_sim.mesh import band, blob, prism, swept, turned_profile
from genesis_sim.scene import Finish, ObjectModel, Shape, Solid, Triple

Rng = np.random.Generator


def block(rng: Rng, kit: Kit) -> ObjectModel:
    """A small block, cube or board."""
    scale = between(rng, 0.012, 0.05)
    half = np.clip(scale * np.exp(rng.normal(0, 0.4, 3)), 0.006, 0.08)
    finish = kit.wood(rng) if rng.random() < 0.25 else kit.any(rng)
    return thing("block", [box(half.tolist(), finish)])


def banana(rng: Rng, kit: Kit) -> ObjectModel:
    """A banana, cucumber, chilli or sausage."""
    length, bend = rng.uniform(0.07, 0.12), rng.uniform(0.0, 1.1)
    t = np.linspace(-1, 1, 10)
    radius = rng.uniform(0.009, 0.02) * np.clip(1.15 - np.abs(t) ** 4, 0.25, 1)
    path = np.stack([length * t, -0.5 * length * bend * t**2, 0 * t], 1)
    natural = rng.random() < 0.7
    colour = colorsys.hsv_to_rgb(
        rng.uniform(0.02, 0.35), rng.uniform(0.5, 0.95), rng.uniform(0.4, 1)
    )
    texture = kit.bank.pick(rng, "worn") if rng.random() < 0.5 else -1
    finish = Finish(colour, texture, specular=0.15) if natural else kit.plain(rng)
    return thing("banana", [solid_mesh(swept(path, radius, sides=9), finish)])


def fruit(rng: Rng, kit: Kit) -> ObjectModel:
    """An apple, lemon, potato, egg or stone."""
    scale = between(rng, 0.016, 0.048)
    half = scale * np.exp(rng.normal(0, 0.15, 3))
    colour = colorsys.hsv_to_rgb(
        rng.uniform(0.0, 0.36), rng.uniform(0.15, 0.95), rng.uniform(0.3, 1)
    )
    texture = kit.bank.pick(rng, "worn", "grain", "speckle", "blotches")
    finish = Finish(colour, texture, specular=0.2) if rng.random() < 0.7 else kit.plain(rng)
    return thing(
        "fruit", [solid_mesh(blob(rng, half.tolist(), float(rng.uniform(0, 0.12))), finish)]
    )


def ball(rng: Rng, kit: Kit) -> ObjectModel:
    """A ball or marble."""
    radius = between(rng, 0.012, 0.045)
    return thing("ball", [Solid(Shape.SPHERE, (radius,) * 3, (0, 0, 0), kit.any(rng))])


def tissue(rng: Rng, kit: Kit) -> ObjectModel:
    """A crumpled cloth, glove or plush lump."""
    half = (rng.uniform(0.03, 0.07), rng.uniform(0.03, 0.06), rng.uniform(0.012, 0.04))
    mesh = blob(rng, half, float(rng.uniform(0.12, 0.3)))
    return thing("cloth", [solid_mesh(mesh, kit.any(rng))])


def pen(rng: Rng, kit: Kit) -> ObjectModel:
    """A pen, marker, brush or tube, lying."""
    radius = between(rng, 0.004, 0.011)
    half = float(rng.uniform(0.05, 0.08))
    body, cap = kit.plain(rng), kit.plain(rng)
    share = float(rng.uniform(0.15, 0.5))
    solids = [
        rod(radius, half * (1 - share), body, (-half * share, 0, 0), QUARTER_Y),
        rod(radius * 1.12, half * share, cap, (half * (1 - share), 0, 0), QUARTER_Y),
    ]
    if rng.random() < 0.4:
        solids.append(rod(0.35 * radius, 0.008, kit.dark(rng), (-half - 0.005, 0, 0), QUARTER_Y))
    return thing("pen", solids)


def scissors(rng: Rng, kit: Kit) -> ObjectModel:
    """Scissors or pliers, more or less open, lying."""
    size = float(rng.uniform(0.06, 0.1))
    spread = float(rng.uniform(0.05, 0.3))
    grip, blade = kit.plain(rng), kit.metal(rng)
    t = np.linspace(0, 2 * math.pi, 18, endpoint=False)
    ring = np.stack([0.26 * size * np.cos(t), 0.17 * size * np.sin(t)], 1)
    solids = []
    for side in (-1, 1):
        turn = yaw(side * spread)
        rotation = to_matrix(turn)
        at = rotation @ np.array([-0.62 * size, side * 0.11 * size, 0.0])
        position = (float(at[0]), float(at[1]), 0.001 * side)
        solids.append(
            solid_mesh(band(ring, 0.07 * size, 0.09 * size, closed=True), grip, position, turn)
        )
        path = [(-0.38 * size, side * 0.05 * size), (0.1 * size, 0.0), (size, -side * 0.02 * size)]
        solids.append(
            solid_mesh(
                band(path, [0.1 * size, 0.13 * size, 0.02 * size], 0.003),
                blade,
                (0, 0, 0.0015 * side),
                turn,
            )
        )
    solids.append(rod(0.05 * size, 0.004, blade))
    return thing("scissors", solids)


def clamp(rng: Rng, kit: Kit) -> ObjectModel:
    """A spring clamp: two bent jaws with holes between them."""
    size = float(rng.uniform(0.05, 0.11))
    body, tips = kit.plain(rng), kit.plain(rng)
    gap = float(rng.uniform(0.12, 0.35)) * size
    solids = []
    for side in (-1, 1):
        path = np.array([(-1.0, 0.55), (-0.45, 0.28), (0.0, 0.16), (0.45, 0.36), (0.85, 0.22)])
        path = path * size * np.array([1, side])
        path[[0, 1], 1] += side * 0.3 * gap
        solids.append(solid_mesh(band(path, [0.12 * size] * 5, 0.16 * size), body))
        solids.append(
            box((0.12 * size, 0.04 * size, 0.09 * size), tips, (0.88 * size, side * 0.14 * size, 0))
        )
    solids.append(rod(0.14 * size, 0.11 * size, kit.metal(rng), (0, 0, 0)))
    return thing("clamp", solids)


def drill(rng: Rng, kit: Kit) -> ObjectModel:
    """A power drill with its battery, standing or lying."""
    s = float(rng.uniform(0.7, 1.1))
    body, grip, metal = kit.plain(rng), kit.dark(rng), kit.metal(rng)
    lean = axis_angle((0, 1, 0), 0.2)
    solids = [
        rod(0.028 * s, 0.055 * s, body, (0, 0, 0.17 * s), QUARTER_Y),
        rod(0.022 * s, 0.02 * s, grip, (0.07 * s, 0, 0.17 * s), QUARTER_Y),
        rod(0.012 * s, 0.018 * s, metal, (0.1 * s, 0, 0.17 * s), QUARTER_Y),
        rod(0.029 * s, 0.012 * s, grip, (-0.06 * s, 0, 0.17 * s), QUARTER_Y),
        box((0.02 * s, 0.016 * s, 0.055 * s), body, (-0.03 * s, 0, 0.095 * s), lean),
        box((0.045 * s, 0.03 * s, 0.02 * s), grip, (-0.035 * s, 0, 0.022 * s)),
        box((0.008 * s, 0.01 * s, 0.018 * s), grip, (0.002 * s, 0, 0.125 * s)),
    ]
    model = thing("drill", solids)
    return turned(model, QUARTER_X) if rng.random() < 0.6 else model


def hammer(rng: Rng, kit: Kit) -> ObjectModel:
    """A hammer, axe or mallet, lying."""
    half = float(rng.uniform(0.07, 0.13))
    handle = kit.wood(rng) if rng.random() < 0.5 else kit.plain(rng)
    head = kit.metal(rng) if rng.random() < 0.7 else kit.dark(rng)
    radius = float(rng.uniform(0.007, 0.012))
    wide = float(rng.uniform(0.03, 0.05))
    return thing(
        "hammer",
        [
            rod(radius, half, handle, (0, 0, 0), QUARTER_Y),
            rod(1.6 * radius, 0.45 * wide, head, (half, 0.4 * wide, 0), QUARTER_X),
            box((1.1 * radius, wide, 1.1 * radius), head, (half, 0, 0)),
        ],
    )


def screwdriver(rng: Rng, kit: Kit) -> ObjectModel:
    """A screwdriver, brush, or whisk-like tool, lying."""
    half = float(rng.uniform(0.03, 0.05))
    radius = float(rng.uniform(0.008, 0.015))
    handle, shaft = kit.plain(rng), kit.metal(rng)
    profile = [
        (0, 0),
        (0.7 * radius, 0),
        (radius, 0.3 * half),
        (0.75 * radius, half),
        (radius, 1.5 * half),
        (0.5 * radius, 2 * half),
        (0, 2 * half),
    ]
    length = float(rng.uniform(0.03, 0.07))
    solids = [
        solid_mesh(turned_profile(profile, 12), handle),
        rod(float(rng.uniform(0.0018, 0.004)), length, shaft, (0, 0, 2 * half + length)),
    ]
    if rng.random() < 0.25:
        end = 2 * half + 2 * length
        solids.append(
            Solid(Shape.ELLIPSOID, (1.4 * radius, 0.8 * radius, 0.025), (0, 0, end), kit.any(rng))
        )
    return turned(thing("screwdriver", solids), QUARTER_Y)


def wrench(rng: Rng, kit: Kit) -> ObjectModel:
    """A spanner, key or hook cut from a plate, lying."""
    size = float(rng.uniform(0.05, 0.1))
    thick = float(rng.uniform(0.003, 0.008))
    finish = kit.metal(rng) if rng.random() < 0.7 else kit.plain(rng)
    t = np.linspace(0.5, 2 * math.pi - 0.5, 12)
    jaw = np.stack([size + 0.16 * size - 0.16 * size * np.cos(t), 0.16 * size * np.sin(t)], 1)
    jaw[:, 0] = 2 * size - jaw[:, 0] + 0.32 * size
    solids = [
        solid_mesh(band([(-size, 0), (0, 0.0), (size, 0)], 0.16 * size, thick), finish),
        solid_mesh(band(jaw, 0.12 * size, thick), finish),
    ]
    ring = np.linspace(0, 2 * math.pi, 16, endpoint=False)
    eye = np.stack([-1.14 * size + 0.15 * size * np.cos(ring), 0.15 * size * np.sin(ring)], 1)
    solids.append(solid_mesh(band(eye, 0.1 * size, thick, closed=True), finish))
    return thing("wrench", solids)


def spoon(rng: Rng, kit: Kit) -> ObjectModel:
    """A spoon, spatula or ladle, lying."""
    half = float(rng.uniform(0.06, 0.11))
    kind = rng.random()
    finish = kit.metal(rng) if kind < 0.4 else kit.wood(rng) if kind < 0.6 else kit.plain(rng)
    t = np.linspace(-1, 1, 7)
    path = np.stack([half * t, 0 * t, 0.06 * half * np.sin(2.5 * t)], 1)
    wide = float(rng.uniform(0.012, 0.03))
    head = (float(rng.uniform(0.018, 0.035)), wide, float(rng.uniform(0.003, 0.008)))
    end = (half + 0.6 * head[0], 0.0, 0.0)
    tip = (
        Solid(Shape.ELLIPSOID, head, end, finish)
        if rng.random() < 0.6
        else box((head[0], wide, 0.002), finish, end)
    )
    return thing(
        "spoon",
        [solid_mesh(swept(path, float(rng.uniform(0.003, 0.006)), flatten=0.6), finish), tip],
    )


def ring(rng: Rng, kit: Kit) -> ObjectModel:
    """A roll of tape, bracelet, doughnut or gasket."""
    outer = between(rng, 0.02, 0.055)
    inner, height = float(outer * rng.uniform(0.45, 0.85)), float(outer * rng.uniform(0.15, 1.0))
    profile = [(inner, 0), (outer, 0), (outer, height), (inner, height), (inner, 0)]
    return thing("ring", [solid_mesh(turned_profile(profile, 26), kit.any(rng))])


def gadget(rng: Rng, kit: Kit) -> ObjectModel:
    """A phone, remote control, calculator or drive, lying."""
    half = (rng.uniform(0.03, 0.085), rng.uniform(0.018, 0.04), rng.uniform(0.004, 0.014))
    body = kit.dark(rng) if rng.random() < 0.5 else kit.plain(rng)
    face = Finish((0.95, 0.95, 0.95), kit.bank.pick(rng, "screen", "keyboard"), 8.0, specular=0.6)
    if rng.random() < 0.3:
        face = kit.dark(rng)
    top = (0.9 * half[0], 0.88 * half[1], 0.0006)
    return thing("gadget", [box(half, body), box(top, face, (0, 0, float(half[2])))])


def mouse(rng: Rng, kit: Kit) -> ObjectModel:
    """A computer mouse, soap or toy car."""
    half = (rng.uniform(0.035, 0.055), rng.uniform(0.02, 0.032), rng.uniform(0.012, 0.022))
    body = solid_mesh(
        blob(rng, half, 0.03, power=2.6), kit.dark(rng) if rng.random() < 0.4 else kit.plain(rng)
    )
    if rng.random() < 0.6:
        return thing("mouse", [body])
    wheel = kit.dark(rng)
    wheels = [
        rod(
            0.5 * half[2],
            0.15 * half[1],
            wheel,
            (float(0.55 * x * half[0]), float(0.9 * y * half[1]), float(-0.7 * half[2])),
            QUARTER_X,
        )
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return thing("toy car", [body, *wheels])


def bricks(rng: Rng, kit: Kit) -> ObjectModel:
    """A toy brick with studs."""
    unit = float(rng.uniform(0.008, 0.018))
    columns, rows = int(rng.integers(2, 5)), int(rng.integers(1, 3))
    finish = kit.plain(rng)
    high = float(unit * rng.uniform(0.6, 1.3))
    solids = [box((columns * unit, rows * unit, high), finish)]
    for x in range(columns):
        for y in range(rows):
            at = ((2 * x - columns + 1) * unit, (2 * y - rows + 1) * unit, high + 0.2 * unit)
            solids.append(rod(0.6 * unit, 0.3 * unit, finish, at))
    return thing("toy brick", solids)


def figure(rng: Rng, kit: Kit) -> ObjectModel:
    """A plush animal or doll, sitting."""
    s = float(rng.uniform(0.025, 0.05))
    fur = kit.any(rng)
    other = kit.plain(rng) if rng.random() < 0.5 else fur

    def lump(half: Sequence[float], at: Triple, finish: Finish) -> Solid:
        size = (float(half[0]) * s, float(half[1]) * s, float(half[2]) * s)
        return Solid(Shape.ELLIPSOID, size, (at[0] * s, at[1] * s, at[2] * s), finish)

    solids = [
        lump((0.8, 0.75, 1.0), (0, 0, 1.0), fur),
        lump((0.65, 0.65, 0.6), (0.1, 0, 2.3), fur),
        lump((0.3, 0.25, 0.2), (0.65, 0, 2.2), other),
    ]
    for y in (-1, 1):
        solids.append(lump((0.75, 0.25, 0.28), (0.6, 0.5 * y, 0.3), fur))
        solids.append(lump((0.3, 0.5, 0.25), (0.2, 0.85 * y, 1.3), other))
        solids.append(lump((0.12, 0.25, 0.28), (0.0, 0.5 * y, 2.85), other))
    return thing("plush toy", solids)


def cutout(rng: Rng, kit: Kit) -> ObjectModel:
    """A plate with a random outline: toy letter, biscuit, gear, part."""
    n = int(rng.choice([5, 6, 8, 10, 12, 24]))
    t = np.linspace(0, 2 * math.pi, n, endpoint=False)
    radius = between(rng, 0.018, 0.05) * np.where(np.arange(n) % 2, rng.uniform(0.5, 1), 1)
    radius = radius * np.exp(rng.normal(0, 0.08, n))
    outline = np.stack([radius * np.cos(t), rng.uniform(0.5, 1) * radius * np.sin(t)], 1)
    mesh = prism(outline, float(rng.uniform(0.006, 0.03)), float(rng.uniform(0, 0.08)))
    return thing("cut-out", [solid_mesh(mesh, kit.any(rng))])


def bulb(rng: Rng, kit: Kit) -> ObjectModel:
    """A light bulb, shuttlecock, bell or chess piece."""
    r = float(rng.uniform(0.012, 0.03))
    heights = np.linspace(0, 1, 9)
    radii = r * np.clip(
        0.3 + 0.7 * np.abs(np.sin(heights * rng.uniform(2, 6) + rng.uniform(0, 3))), 0.1, 1
    )
    length = r * rng.uniform(2, 5)
    profile = [
        (0.0, 0.0),
        *((float(a), float(length * h)) for a, h in zip(radii, heights, strict=True)),
        (0.0, float(length)),
    ]
    return thing(
        "turned piece", [solid_mesh(turned_profile(profile, 16), kit.glass(rng, kit.any(rng)))]
    )
