"""Mugs, cups, glasses, bowls and plates, hollow."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from genesis_sim.household.kit import Kit
from genesis_sim.household.parts import (
    between,
    rod,
    solid_mesh,
    thing,
)
from genesis_sim.mesh import swept, turned_profile
from genesis_sim.scene import Finish, ObjectModel

Rng = np.random.Generator


def _open_profile(
    radius: float, top: float, height: float, wall: float, belly: float
) -> list[tuple[float, float]]:
    """Profile of an open vessel: foot radius, rim radius, height; belly bends the side out."""
    steps = np.linspace(0, 1, 6)
    outer = [
        (radius + (top - radius) * t + belly * math.sin(math.pi * t), height * t) for t in steps
    ]
    inner = [(max(r - wall, 0.001), max(z, wall)) for r, z in reversed(outer)]
    return [(0, 0), *outer, (outer[-1][0] - 0.5 * wall, height + 0.3 * wall), *inner, (0, wall)]


def mug(rng: Rng, kit: Kit) -> ObjectModel:
    """A mug, hollow, with a handle."""
    radius = float(rng.uniform(0.028, 0.048))
    height = float(radius * rng.uniform(1.5, 2.6))
    top = float(radius * rng.uniform(0.95, 1.25))
    finish = kit.plain(rng) if rng.random() < 0.6 else kit.wrapped(rng)
    profile = _open_profile(radius, top, height, 0.0035, float(radius * rng.uniform(-0.05, 0.12)))
    reach, t = float(radius * rng.uniform(0.5, 0.8)), np.linspace(-0.5 * math.pi, 0.5 * math.pi, 8)
    middle = 0.5 * (radius + top) - 0.002
    path = np.stack(
        [middle + reach * np.cos(t), 0 * t, 0.5 * height + 0.32 * height * np.sin(t)], 1
    )
    handle = (
        kit.plain(rng)
        if rng.random() < 0.1
        else replace(
            finish,
            texture=-1
            if finish.texture >= 0 and kit.bank.is_flat(finish.texture)
            else finish.texture,
        )
    )
    solids = [
        solid_mesh(turned_profile(profile), finish),
        solid_mesh(swept(path, 0.11 * radius + 0.001, flatten=1.5), handle),
    ]
    if rng.random() < 0.15:
        solids.append(rod(0.93 * radius, 0.001, Finish((0.2, 0.1, 0.05)), (0, 0, 0.75 * height)))
    return thing("mug", solids)


def cup(rng: Rng, kit: Kit) -> ObjectModel:
    """A tumbler, paper cup, glass, pot or wine glass."""
    radius = float(rng.uniform(0.02, 0.042))
    height = float(radius * rng.uniform(1.6, 3.4))
    top = float(radius * rng.uniform(0.95, 1.5))
    finish = kit.glass(rng, kit.any(rng))
    if rng.random() < 0.12:
        stem, foot = 0.12 * radius, 0.85 * radius
        profile = [(0, 0), (foot, 0), (foot, 0.003), (stem, 0.01), (stem, 1.5 * radius)]
        steps = np.linspace(0, 1, 6)
        bowl = [
            (
                stem + (radius - stem) * math.sin(0.5 * math.pi * min(1, 1.4 * t)),
                (1.5 + 2 * t) * radius,
            )
            for t in steps
        ]
        inner = [(max(r - 0.002, 0.0005), z + 0.001) for r, z in reversed(bowl)]
        profile += [*bowl, *inner, (0, 1.5 * radius + 0.002)]
        return thing("wine glass", [solid_mesh(turned_profile(profile), finish)])
    return thing(
        "cup", [solid_mesh(turned_profile(_open_profile(radius, top, height, 0.003, 0.0)), finish)]
    )


def bowl(rng: Rng, kit: Kit) -> ObjectModel:
    """A bowl."""
    top = between(rng, 0.04, 0.1)
    foot = float(top * rng.uniform(0.35, 0.7))
    height = float(top * rng.uniform(0.45, 0.95))
    profile = _open_profile(foot, top, height, 0.004, float(top * rng.uniform(0.05, 0.18)))
    return thing("bowl", [solid_mesh(turned_profile(profile, 26), kit.glass(rng, kit.any(rng)))])


def plate(rng: Rng, kit: Kit) -> ObjectModel:
    """A plate or lid."""
    radius = between(rng, 0.05, 0.13)
    height, foot = float(rng.uniform(0.008, 0.025)), float(radius * rng.uniform(0.5, 0.75))
    profile = [
        (0, 0),
        (foot, 0),
        (radius, height),
        (radius, height + 0.003),
        (foot, 0.006),
        (0, 0.005),
    ]
    return thing("plate", [solid_mesh(turned_profile(profile, 30), kit.glass(rng, kit.any(rng)))])
