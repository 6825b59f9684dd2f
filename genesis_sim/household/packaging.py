"""Boxes, cans, bottles, jars, tubs and bags, with what is printed on them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from genesis_sim.geometry import axis_angle
from genesis_sim.household.kit import Kit
from genesis_sim.household.parts import (
    QUARTER_Y,
    between,
    box,
    rod,
    solid_mesh,
    thing,
)
from genesis_sim.mesh import blob, from_grid, pillow, turned_profile
from genesis_sim.objects import random_colour
from genesis_sim.scene import Finish, ObjectModel

Rng = np.random.Generator


def carton(rng: Rng, kit: Kit) -> ObjectModel:
    """A printed box: cereal, crackers, tea, medicine."""
    height = between(rng, 0.05, 0.24)
    half = (
        0.5 * height * rng.uniform(0.5, 0.9),
        0.5 * height * rng.uniform(0.18, 0.5),
        0.5 * height,
    )
    finish = kit.printed(rng) if rng.random() < 0.8 else kit.any(rng)
    return thing("box", [box(half, finish)])


def book(rng: Rng, kit: Kit) -> ObjectModel:
    """A book, lying: cover and pages."""
    x, y, z = rng.uniform(0.05, 0.11), rng.uniform(0.07, 0.15), rng.uniform(0.004, 0.02)
    cover = kit.printed(rng)
    pages = Finish((0.9, 0.88, 0.8))
    return thing(
        "book",
        [box((x, y, z), cover), box((0.97 * x, 1.0 * y, 0.75 * z), pages, (0.035 * x, 0.003, 0))],
    )


def can(rng: Rng, kit: Kit) -> ObjectModel:
    """A food or drinks can with rims."""
    radius = between(rng, 0.024, 0.052)
    height = radius * rng.uniform(0.7, 3.6)
    rim = 0.95 * radius
    profile = [
        (0, 0.004),
        (rim * 0.9, 0.004),
        (rim, 0),
        (radius, 0.004),
        (radius, height - 0.006),
        (rim, height),
        (rim * 0.93, height),
        (rim * 0.9, height - 0.004),
        (0, height - 0.004),
    ]
    body = solid_mesh(turned_profile(profile), kit.wrapped(rng))
    return thing("can", [body, rod(0.88 * rim, 0.001, kit.metal(rng), (0, 0, height - 0.003))])


def bottle(rng: Rng, kit: Kit) -> ObjectModel:
    """A bottle of water, sauce, shampoo or medicine, with its cap."""
    radius = between(rng, 0.016, 0.045)
    body = radius * rng.uniform(1.6, 4.2)
    neck = radius * rng.uniform(0.25, 0.6)
    shoulder = radius * rng.uniform(0.2, 1.4)
    top = body + shoulder + radius * rng.uniform(0.1, 0.7)
    waist = rng.uniform(0.82, 1.0) if rng.random() < 0.4 else 1.0
    foot = radius * rng.uniform(0.8, 1.0)
    profile = [
        (0, 0),
        (foot, 0),
        (radius, 0.1 * radius),
        (radius * waist, 0.5 * body),
        (radius, body),
        (0.5 * (radius + neck) * rng.uniform(0.95, 1.1), body + 0.55 * shoulder),
        (neck, body + shoulder),
        (neck, top),
        (0, top),
    ]
    squeeze = float(rng.uniform(0.5, 0.8)) if rng.random() < 0.3 else 1.0
    finish = kit.glass(rng, kit.wrapped(rng) if rng.random() < 0.65 else kit.plain(rng))
    solids = [solid_mesh(turned_profile(profile, squeeze=squeeze), finish)]
    cap = kit.plain(rng)
    kind = rng.random()
    wide = neck * rng.uniform(1.05, 1.5)
    if kind < 0.6:
        high = float(radius * rng.uniform(0.15, 0.4))
        solids.append(rod(float(wide), high, cap, (0, 0, top)))
    elif kind < 0.85:
        cone = [(0, 0), (wide, 0), (wide, 0.3 * radius), (0.3 * wide, radius), (0, 1.05 * radius)]
        solids.append(solid_mesh(turned_profile(cone, 14), cap, (0, 0, float(top))))
    if finish.alpha < 1 and rng.random() < 0.5:  # a label around a clear bottle
        label = [(radius * 1.01, 0.3 * body), (radius * 1.01, 0.75 * body)]
        solids.append(solid_mesh(turned_profile(label, squeeze=squeeze), kit.wrapped(rng)))
    if finish.alpha < 1 and rng.random() < 0.4:
        level = float(rng.uniform(0.15, 0.45) * body)
        drink = Finish(random_colour(rng), alpha=float(rng.uniform(0.3, 0.9)))
        if squeeze == 1.0:
            solids.append(rod(float(0.93 * radius * waist), level, drink, (0, 0, level + 0.003)))
    return thing("bottle", solids)


def spray(rng: Rng, kit: Kit) -> ObjectModel:
    """A spray bottle or detergent with a pistol head."""
    radius = float(rng.uniform(0.025, 0.042))
    body = radius * rng.uniform(2.5, 4)
    neck = 0.35 * radius
    profile = [
        (0, 0),
        (radius, 0),
        (radius, 0.7 * body),
        (0.7 * radius, 0.9 * body),
        (neck, body),
        (neck, body + 0.4 * radius),
        (0, body + 0.4 * radius),
    ]
    cap = kit.plain(rng)
    top = float(body + 0.6 * radius)
    lever = axis_angle((0, 1, 0), 0.5)
    return thing(
        "spray bottle",
        [
            solid_mesh(turned_profile(profile, squeeze=0.7), kit.glass(rng, kit.wrapped(rng))),
            rod(0.5 * radius, 0.3 * radius, cap, (0, 0, top)),
            box(
                (0.9 * radius, 0.28 * radius, 0.3 * radius),
                cap,
                (0.4 * radius, 0, top + 0.4 * radius),
            ),
            box(
                (0.1 * radius, 0.2 * radius, 0.6 * radius),
                cap,
                (0.9 * radius, 0, top - 0.3 * radius),
                lever,
            ),
        ],
    )


def jar(rng: Rng, kit: Kit) -> ObjectModel:
    """A jar or tub with a lid."""
    radius = between(rng, 0.02, 0.05)
    height = float(radius * rng.uniform(0.8, 2.6))
    profile = [
        (0, 0),
        (0.93 * radius, 0),
        (radius, 0.08 * radius),
        (radius, 0.9 * height),
        (0.88 * radius, height),
        (0, height),
    ]
    finish = kit.glass(rng, kit.wrapped(rng) if rng.random() < 0.7 else kit.plain(rng))
    lid = float(radius * rng.uniform(0.1, 0.3))
    cap = kit.plain(rng) if rng.random() < 0.7 else kit.metal(rng)
    solids = [
        solid_mesh(turned_profile(profile), finish),
        rod(float(radius * rng.uniform(0.9, 1.05)), lid, cap, (0, 0, height + 0.7 * lid)),
    ]
    if finish.alpha < 1:
        fill = float(rng.uniform(0.2, 0.45) * height)
        solids.append(rod(0.9 * radius, fill, kit.any(rng), (0, 0, fill + 0.003)))
    return thing("jar", solids)


def tub(rng: Rng, kit: Kit) -> ObjectModel:
    """A food container with a lid of another colour."""
    x, y = rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.07)
    z = float(rng.uniform(0.018, 0.045))
    body = blob(rng, (x, y, z), 0.0, power=8)
    finish, lid = kit.glass(rng, kit.plain(rng)), kit.plain(rng)
    top = blob(rng, (1.05 * x, 1.06 * y, 0.006), 0.0, power=8)
    return thing("tub", [solid_mesh(body, finish), solid_mesh(top, lid, (0, 0, 0.85 * z))])


def tin(rng: Rng, kit: Kit) -> ObjectModel:
    """A rounded tin: spam, tuna, sardines, soap."""
    half = (rng.uniform(0.03, 0.055), rng.uniform(0.02, 0.045), rng.uniform(0.01, 0.04))
    return thing(
        "tin",
        [solid_mesh(blob(rng, half, 0.0, power=float(rng.uniform(4, 9))), kit.patterned(rng))],
    )


def bag(rng: Rng, kit: Kit) -> ObjectModel:
    """A bag of crisps, coffee or sweets, a pouch, a cushion."""
    half = (rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.075), rng.uniform(0.01, 0.035))
    mesh = pillow(rng, half, float(rng.uniform(0.02, 0.12)), float(rng.uniform(0, 0.15)))
    finish = kit.printed(rng) if rng.random() < 0.7 else kit.plain(rng)
    # Foil shines in patches.
    finish = replace(finish, specular=float(rng.uniform(0.1, 0.9)), shininess=0.6)
    return thing("bag", [solid_mesh(mesh, finish)])


def tube(rng: Rng, kit: Kit) -> ObjectModel:
    """A tube of toothpaste, cream or glue, lying: round at the cap, flat at the end."""
    length, radius = float(rng.uniform(0.05, 0.09)), float(rng.uniform(0.01, 0.022))
    rows = []
    angle = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    for t in np.linspace(0, 1, 7):
        wide, high = radius * (1 + 0.35 * t), radius * (1 - 0.93 * t)
        x = np.full_like(angle, 2 * length * t)
        rows.append(np.stack([x, wide * np.cos(angle), high * np.sin(angle)], 1))
    body = from_grid(np.stack(rows), closed=True)
    cap = rod(0.6 * radius, 0.008, kit.plain(rng), (-0.008, 0, 0), QUARTER_Y)
    return thing("tube", [solid_mesh(body, kit.printed(rng)), cap])
