"""Movable things of a household, a workshop and a shop, from primitives and meshes.

Every maker returns an object whose origin is the centre of its bounding box, in the attitude in
which it usually stands or lies.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from genesis_sim.assets import AssetPack
from genesis_sim.geometry import IDENTITY, Quaternion, axis_angle, multiply, to_matrix, yaw
from genesis_sim.household.bank import TextureBank
from genesis_sim.mesh import Mesh, band, blob, from_grid, pillow, prism, swept, turned_profile
from genesis_sim.objects import muted_colour, random_colour
from genesis_sim.scene import Colour, Finish, ObjectModel, Pose, Shape, Solid, Triple, place

Rng = np.random.Generator
Points = npt.NDArray[np.float64]

#: Most solids of one thing.
MAX_SOLIDS = 12

_QUARTER_X = axis_angle((1, 0, 0), math.pi / 2)
_QUARTER_Y = axis_angle((0, 1, 0), math.pi / 2)


@dataclass(frozen=True, slots=True)
class Palette:
    """Which colours the things of a scene have: any, or ones that tell little.

    colours: the only ones, each varied a little; empty for any.
    texture: a texture that plain things share with their support, or -1.
    clear: share of the things that could be of glass or clear plastic that are.
    """

    colours: tuple[Colour, ...] = ()
    spread: float = 0.05
    texture: int = -1
    repeat: float = 1.0
    clear: float = 0.0

    def colour(self, rng: Rng) -> Colour:
        """A colour for the next thing or part."""
        if not self.colours:
            # Somewhat lighter than in other modes: most of what is sold is bright.
            base = np.array(random_colour(rng)) ** 0.75
        else:
            base = np.array(self.colours[int(rng.integers(len(self.colours)))])
        r, g, b = np.clip(base * np.exp(rng.normal(0, self.spread, 3)), 0.01, 1)
        return (float(r), float(g), float(b))


@dataclass(frozen=True, slots=True)
class Kit:
    """What makers make things of."""

    bank: TextureBank
    palette: Palette
    pack: AssetPack | None
    #: Numbers in the bank of the pack's skins.
    skins: tuple[int, ...] = ()

    def plain(self, rng: Rng, *, gloss: float = 0.5) -> Finish:
        """A finish without print: plastic, ceramic, lacquer, or the support's own material."""
        palette = self.palette
        if palette.texture >= 0 and rng.random() < 0.5:
            return Finish(palette.colour(rng), palette.texture, palette.repeat, specular=0.1)
        texture = -1
        if rng.random() < 0.35:
            texture = self.bank.pick(rng, "worn", "grain", "speckle", "plaster", "granite")
        return self._shiny(rng, Finish(palette.colour(rng), texture, 2.0), gloss)

    def patterned(self, rng: Rng) -> Finish:
        """A finish with stripes, dots, print or a material's pattern."""
        kinds = ("stripes", "checks", "dots", "label", "blotches", "print", "print")
        texture = self.bank.pick(rng, *kinds)
        return self._shiny(rng, Finish(self._paper(rng), texture), 0.3)

    def printed(self, rng: Rng) -> Finish:
        """Printed packaging for a box."""
        return self._shiny(rng, Finish(self._paper(rng), self.bank.pick(rng, "print")), 0.4)

    def wrapped(self, rng: Rng) -> Finish:
        """A printed label around a turned body."""
        return self._shiny(rng, Finish(self._paper(rng), self.bank.pick(rng, "wrap")), 0.6)

    def any(self, rng: Rng) -> Finish:
        """Plain or patterned."""
        return self.plain(rng) if rng.random() < 0.6 else self.patterned(rng)

    def metal(self, rng: Rng) -> Finish:
        """Bare or painted metal."""
        shade = float(rng.uniform(0.25, 0.85))
        texture = self.bank.pick(rng, "metal", "scratched") if rng.random() < 0.5 else -1
        return Finish(
            (shade, shade, shade * float(rng.uniform(0.9, 1.05))),
            texture,
            4.0,
            specular=float(rng.uniform(0.4, 1.0)),
            shininess=float(rng.uniform(0.4, 1.0)),
        )

    def wood(self, rng: Rng) -> Finish:
        """Bare wood."""
        tone = float(rng.uniform(0.5, 1.0))
        return Finish((tone, 0.9 * tone, 0.75 * tone), self.bank.pick(rng, "table wood"), 4.0)

    def dark(self, rng: Rng) -> Finish:
        """Black rubber or plastic."""
        shade = float(rng.uniform(0.02, 0.14))
        return Finish((shade, shade, shade), specular=float(rng.uniform(0, 0.4)))

    def glass(self, rng: Rng, otherwise: Finish) -> Finish:
        """Glass or clear plastic in the palette's share of the cases, else the other finish."""
        if rng.random() >= self.palette.clear:
            return otherwise
        tint = np.clip(rng.uniform(0.75, 1.0) * np.exp(rng.normal(0, 0.08, 3)), 0, 1)
        if rng.random() < 0.2:
            tint = tint * np.array(random_colour(rng))
        r, g, b = (float(v) for v in tint)
        alpha = float(rng.uniform(0.08, 0.35))
        return Finish((r, g, b), specular=1.0, shininess=float(rng.uniform(0.7, 1.0)), alpha=alpha)

    def _paper(self, rng: Rng) -> Colour:
        """A tint for print, which has its own colours; a palette's shines through."""
        if self.palette.colours and rng.random() < 0.5:
            r, g, b = (0.35 + 0.65 * c for c in self.palette.colour(rng))
            return (r, g, b)
        r, g, b = np.clip(rng.uniform(0.85, 1.1) * np.exp(rng.normal(0, 0.08, 3)), 0.2, 1)
        return (float(r), float(g), float(b))

    def _shiny(self, rng: Rng, finish: Finish, gloss: float) -> Finish:
        specular, shininess = float(gloss * rng.random() ** 2 * 2), float(rng.uniform(0.1, 0.9))
        return replace(finish, specular=min(specular, 1.0), shininess=shininess)


Maker = Callable[[Rng, Kit], ObjectModel]


def hull_points(solids: Sequence[Solid]) -> Points:
    """Points (N, 3) whose convex hull is about that of the solids."""
    points = []
    for solid in solids:
        rotation = to_matrix(solid.rotation)
        points.append(_shape_points(solid) @ rotation.T + np.array(solid.position))
    return np.concatenate(points)


_ANGLES = np.linspace(0, 2 * math.pi, 12, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)
_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_BALL = np.concatenate(
    [
        np.concatenate([math.cos(t) * _CIRCLE, np.full((12, 1), math.sin(t))], 1)
        for t in (-1.2, -0.6, 0.0, 0.6, 1.2)
    ]
    + [np.array([[0.0, 0, 1], [0, 0, -1]])]
)


def _shape_points(solid: Solid) -> Points:
    a, b, c = solid.size
    if solid.mesh is not None:
        return solid.mesh.hull().astype(np.float64)
    if solid.shape == Shape.BOX:
        return _CORNERS * np.array([a, b, c])
    if solid.shape == Shape.SPHERE:
        return _BALL * a
    if solid.shape == Shape.ELLIPSOID:
        return _BALL * np.array([a, b, c])
    if solid.shape == Shape.CYLINDER:
        return np.concatenate(
            [np.concatenate([a * _CIRCLE, np.full((12, 1), z)], 1) for z in (-b, b)]
        )
    lift = np.sign(_BALL[:, 2:]) * np.array([[0.0, 0.0, b]])
    return _BALL * a + lift


def thing(name: str, solids: list[Solid]) -> ObjectModel:
    """An object of these solids, moved so that its bounding box is centred."""
    points = hull_points(solids)
    low, high = points.min(axis=0), points.max(axis=0)
    x, y, z = (float(v) for v in 0.5 * (high - low))
    middle = Pose(-0.5 * (low + high))
    return ObjectModel(name, [place(solid, middle) for solid in solids], (x, y, z))


def turned(model: ObjectModel, rotation: Quaternion) -> ObjectModel:
    """The object in another attitude."""
    pose = Pose(np.zeros(3), rotation)
    return thing(model.name, [place(solid, pose) for solid in model.solids])


def solid_mesh(
    mesh: Mesh,
    finish: Finish,
    position: Triple = (0.0, 0.0, 0.0),
    rotation: Quaternion = IDENTITY,
) -> Solid:
    """A mesh as a solid."""
    return Solid(Shape.MESH, (1.0, 1.0, 1.0), position, finish, rotation, mesh)


def _box(
    half: Sequence[float], finish: Finish, at: Triple = (0.0, 0.0, 0.0), turn: Quaternion = IDENTITY
) -> Solid:
    return Solid(Shape.BOX, (float(half[0]), float(half[1]), float(half[2])), at, finish, turn)


def _rod(
    radius: float,
    half: float,
    finish: Finish,
    at: Triple = (0.0, 0.0, 0.0),
    turn: Quaternion = IDENTITY,
) -> Solid:
    return Solid(Shape.CYLINDER, (radius, half, 0.0), at, finish, turn)


def _between(rng: Rng, low: float, high: float) -> float:
    """Log-uniform, so that small things are not rare."""
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def carton(rng: Rng, kit: Kit) -> ObjectModel:
    """A printed box: cereal, crackers, tea, medicine."""
    height = _between(rng, 0.05, 0.24)
    half = (
        0.5 * height * rng.uniform(0.5, 0.9),
        0.5 * height * rng.uniform(0.18, 0.5),
        0.5 * height,
    )
    finish = kit.printed(rng) if rng.random() < 0.8 else kit.any(rng)
    return thing("box", [_box(half, finish)])


def block(rng: Rng, kit: Kit) -> ObjectModel:
    """A small block, cube or board."""
    scale = _between(rng, 0.012, 0.05)
    half = np.clip(scale * np.exp(rng.normal(0, 0.4, 3)), 0.006, 0.08)
    finish = kit.wood(rng) if rng.random() < 0.25 else kit.any(rng)
    return thing("block", [_box(half.tolist(), finish)])


def book(rng: Rng, kit: Kit) -> ObjectModel:
    """A book, lying: cover and pages."""
    x, y, z = rng.uniform(0.05, 0.11), rng.uniform(0.07, 0.15), rng.uniform(0.004, 0.02)
    cover = kit.printed(rng)
    pages = Finish((0.9, 0.88, 0.8))
    return thing(
        "book",
        [_box((x, y, z), cover), _box((0.97 * x, 1.0 * y, 0.75 * z), pages, (0.035 * x, 0.003, 0))],
    )


def can(rng: Rng, kit: Kit) -> ObjectModel:
    """A food or drinks can with rims."""
    radius = _between(rng, 0.024, 0.052)
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
    return thing("can", [body, _rod(0.88 * rim, 0.001, kit.metal(rng), (0, 0, height - 0.003))])


def bottle(rng: Rng, kit: Kit) -> ObjectModel:
    """A bottle of water, sauce, shampoo or medicine, with its cap."""
    radius = _between(rng, 0.016, 0.045)
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
        solids.append(_rod(float(wide), high, cap, (0, 0, top)))
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
            solids.append(_rod(float(0.93 * radius * waist), level, drink, (0, 0, level + 0.003)))
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
            _rod(0.5 * radius, 0.3 * radius, cap, (0, 0, top)),
            _box(
                (0.9 * radius, 0.28 * radius, 0.3 * radius),
                cap,
                (0.4 * radius, 0, top + 0.4 * radius),
            ),
            _box(
                (0.1 * radius, 0.2 * radius, 0.6 * radius),
                cap,
                (0.9 * radius, 0, top - 0.3 * radius),
                lever,
            ),
        ],
    )


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
        solids.append(_rod(0.93 * radius, 0.001, Finish((0.2, 0.1, 0.05)), (0, 0, 0.75 * height)))
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
    top = _between(rng, 0.04, 0.1)
    foot = float(top * rng.uniform(0.35, 0.7))
    height = float(top * rng.uniform(0.45, 0.95))
    profile = _open_profile(foot, top, height, 0.004, float(top * rng.uniform(0.05, 0.18)))
    return thing("bowl", [solid_mesh(turned_profile(profile, 26), kit.glass(rng, kit.any(rng)))])


def plate(rng: Rng, kit: Kit) -> ObjectModel:
    """A plate or lid."""
    radius = _between(rng, 0.05, 0.13)
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


def jar(rng: Rng, kit: Kit) -> ObjectModel:
    """A jar or tub with a lid."""
    radius = _between(rng, 0.02, 0.05)
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
        _rod(float(radius * rng.uniform(0.9, 1.05)), lid, cap, (0, 0, height + 0.7 * lid)),
    ]
    if finish.alpha < 1:
        fill = float(rng.uniform(0.2, 0.45) * height)
        solids.append(_rod(0.9 * radius, fill, kit.any(rng), (0, 0, fill + 0.003)))
    return thing("jar", solids)


def tub(rng: Rng, kit: Kit) -> ObjectModel:
    """A food container with a lid of another colour."""
    x, y = rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.07)
    z = float(rng.uniform(0.018, 0.045))
    body = blob(rng, (x, y, z), 0.0, power=8).scaled((1, 1, 1))
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
    scale = _between(rng, 0.016, 0.048)
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
    radius = _between(rng, 0.012, 0.045)
    return thing("ball", [Solid(Shape.SPHERE, (radius,) * 3, (0, 0, 0), kit.any(rng))])


def bag(rng: Rng, kit: Kit) -> ObjectModel:
    """A bag of crisps, coffee or sweets, a pouch, a cushion."""
    half = (rng.uniform(0.04, 0.1), rng.uniform(0.03, 0.075), rng.uniform(0.01, 0.035))
    mesh = pillow(rng, half, float(rng.uniform(0.02, 0.12)), float(rng.uniform(0, 0.15)))
    finish = kit.printed(rng) if rng.random() < 0.7 else kit.plain(rng)
    # Foil shines in patches.
    finish = replace(finish, specular=float(rng.uniform(0.1, 0.9)), shininess=0.6)
    return thing("bag", [solid_mesh(mesh, finish)])


def tissue(rng: Rng, kit: Kit) -> ObjectModel:
    """A crumpled cloth, glove or plush lump."""
    half = (rng.uniform(0.03, 0.07), rng.uniform(0.03, 0.06), rng.uniform(0.012, 0.04))
    mesh = blob(rng, half, float(rng.uniform(0.12, 0.3)))
    return thing("cloth", [solid_mesh(mesh, kit.any(rng))])


def pen(rng: Rng, kit: Kit) -> ObjectModel:
    """A pen, marker, brush or tube, lying."""
    radius = _between(rng, 0.004, 0.011)
    half = float(rng.uniform(0.05, 0.08))
    body, cap = kit.plain(rng), kit.plain(rng)
    share = float(rng.uniform(0.15, 0.5))
    solids = [
        _rod(radius, half * (1 - share), body, (-half * share, 0, 0), _QUARTER_Y),
        _rod(radius * 1.12, half * share, cap, (half * (1 - share), 0, 0), _QUARTER_Y),
    ]
    if rng.random() < 0.4:
        solids.append(_rod(0.35 * radius, 0.008, kit.dark(rng), (-half - 0.005, 0, 0), _QUARTER_Y))
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
    solids.append(_rod(0.05 * size, 0.004, blade))
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
            _box(
                (0.12 * size, 0.04 * size, 0.09 * size), tips, (0.88 * size, side * 0.14 * size, 0)
            )
        )
    solids.append(_rod(0.14 * size, 0.11 * size, kit.metal(rng), (0, 0, 0)))
    return thing("clamp", solids)


def drill(rng: Rng, kit: Kit) -> ObjectModel:
    """A power drill with its battery, standing or lying."""
    s = float(rng.uniform(0.7, 1.1))
    body, grip, metal = kit.plain(rng), kit.dark(rng), kit.metal(rng)
    lean = axis_angle((0, 1, 0), 0.2)
    solids = [
        _rod(0.028 * s, 0.055 * s, body, (0, 0, 0.17 * s), _QUARTER_Y),
        _rod(0.022 * s, 0.02 * s, grip, (0.07 * s, 0, 0.17 * s), _QUARTER_Y),
        _rod(0.012 * s, 0.018 * s, metal, (0.1 * s, 0, 0.17 * s), _QUARTER_Y),
        _rod(0.029 * s, 0.012 * s, grip, (-0.06 * s, 0, 0.17 * s), _QUARTER_Y),
        _box((0.02 * s, 0.016 * s, 0.055 * s), body, (-0.03 * s, 0, 0.095 * s), lean),
        _box((0.045 * s, 0.03 * s, 0.02 * s), grip, (-0.035 * s, 0, 0.022 * s)),
        _box((0.008 * s, 0.01 * s, 0.018 * s), grip, (0.002 * s, 0, 0.125 * s)),
    ]
    model = thing("drill", solids)
    return turned(model, _QUARTER_X) if rng.random() < 0.6 else model


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
            _rod(radius, half, handle, (0, 0, 0), _QUARTER_Y),
            _rod(1.6 * radius, 0.45 * wide, head, (half, 0.4 * wide, 0), _QUARTER_X),
            _box((1.1 * radius, wide, 1.1 * radius), head, (half, 0, 0)),
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
        _rod(float(rng.uniform(0.0018, 0.004)), length, shaft, (0, 0, 2 * half + length)),
    ]
    if rng.random() < 0.25:
        end = 2 * half + 2 * length
        solids.append(
            Solid(Shape.ELLIPSOID, (1.4 * radius, 0.8 * radius, 0.025), (0, 0, end), kit.any(rng))
        )
    return turned(thing("screwdriver", solids), _QUARTER_Y)


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
        else _box((head[0], wide, 0.002), finish, end)
    )
    return thing(
        "spoon",
        [solid_mesh(swept(path, float(rng.uniform(0.003, 0.006)), flatten=0.6), finish), tip],
    )


def ring(rng: Rng, kit: Kit) -> ObjectModel:
    """A roll of tape, bracelet, doughnut or gasket."""
    outer = _between(rng, 0.02, 0.055)
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
    return thing("gadget", [_box(half, body), _box(top, face, (0, 0, float(half[2])))])


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
        _rod(
            0.5 * half[2],
            0.15 * half[1],
            wheel,
            (float(0.55 * x * half[0]), float(0.9 * y * half[1]), float(-0.7 * half[2])),
            _QUARTER_X,
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
    solids = [_box((columns * unit, rows * unit, high), finish)]
    for x in range(columns):
        for y in range(rows):
            at = ((2 * x - columns + 1) * unit, (2 * y - rows + 1) * unit, high + 0.2 * unit)
            solids.append(_rod(0.6 * unit, 0.3 * unit, finish, at))
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
    radius = _between(rng, 0.018, 0.05) * np.where(np.arange(n) % 2, rng.uniform(0.5, 1), 1)
    radius = radius * np.exp(rng.normal(0, 0.08, n))
    outline = np.stack([radius * np.cos(t), rng.uniform(0.5, 1) * radius * np.sin(t)], 1)
    mesh = prism(outline, float(rng.uniform(0.006, 0.03)), float(rng.uniform(0, 0.08)))
    return thing("cut-out", [solid_mesh(mesh, kit.any(rng))])


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
    cap = _rod(0.6 * radius, 0.008, kit.plain(rng), (-0.008, 0, 0), _QUARTER_Y)
    return thing("tube", [solid_mesh(body, kit.printed(rng)), cap])


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


def packed(rng: Rng, kit: Kit) -> ObjectModel:
    """An object of the asset pack, stretched and coloured at random."""
    assert kit.pack is not None, "there is no asset pack"
    entry = kit.pack.objects[int(rng.integers(len(kit.pack.objects)))]
    scale = _between(rng, 0.45, 1.35) * np.exp(rng.normal(0, 0.12, 3))
    mesh = entry.mesh.scaled(scale.tolist())
    if entry.texture >= 0 and rng.random() < 0.7:
        finish = Finish((1.0, 1.0, 1.0), kit.skins[entry.texture], specular=0.2)
    else:
        finish = kit.any(rng)
    return thing(entry.name, [solid_mesh(mesh, finish)])


#: Makers and how often they are called for.
MAKERS: tuple[tuple[Maker, float], ...] = (
    (carton, 13), (block, 4), (book, 2), (can, 7), (bottle, 9), (spray, 1.5), (mug, 6), (cup, 5),
    (bowl, 5), (plate, 1.5), (jar, 4), (tub, 3), (tin, 3), (banana, 3), (fruit, 4), (ball, 2),
    (bag, 5), (tissue, 1.5), (pen, 5), (scissors, 3), (clamp, 3), (drill, 3), (hammer, 1.5),
    (screwdriver, 2.5), (wrench, 2), (spoon, 2.5), (ring, 2.5), (gadget, 3), (mouse, 2),
    (bricks, 2.5), (figure, 2), (cutout, 2), (tube, 2.5), (bulb, 1.5),
)  # fmt: skip
_WEIGHTS = np.array([weight for _, weight in MAKERS]) / sum(weight for _, weight in MAKERS)
#: Share of the things that come from an asset pack, where there is one.
_PACKED = 0.22
_KEEPS_STANDING = {"mug", "cup", "bowl", "plate", "wine glass", "drill", "plush toy"}


def random_thing(rng: Rng, kit: Kit) -> ObjectModel:
    """A thing, as it stands or lies; some on a side on which they seldom are."""
    if kit.pack is not None and rng.random() < _PACKED:
        model = packed(rng, kit)
        attitude = multiply(yaw(rng.uniform(0, 6.3)), _random_quarter(rng))
        return turned(model, attitude)
    model = MAKERS[int(rng.choice(len(MAKERS), p=_WEIGHTS))][0](rng, kit)
    tipped = 0.12 if model.name in _KEEPS_STANDING else 0.25
    if rng.random() < tipped:
        model = turned(model, _random_quarter(rng))
    return model


def _random_quarter(rng: Rng) -> Quaternion:
    quarters = (IDENTITY, _QUARTER_X, _QUARTER_Y, multiply(_QUARTER_X, _QUARTER_X))
    return quarters[int(rng.integers(4))]


def random_palette(rng: Rng, support: Finish, *, clear: float) -> Palette:
    """Any colours, or in more than half of the scenes ones that tell little."""
    kind = rng.random()
    if kind < 0.45:
        return Palette(clear=clear)
    if kind < 0.62:  # the support's own
        return Palette((support.colour,), 0.12, support.texture, support.repeat, clear)
    if kind < 0.8:  # one for all
        colour = random_colour(rng) if rng.random() < 0.7 else muted_colour(rng)
        return Palette((colour,), float(rng.uniform(0.02, 0.15)), clear=clear)
    colours = tuple(random_colour(rng) for _ in range(int(rng.integers(2, 4))))
    if rng.random() < 0.4:
        colours = (*colours, support.colour)
    return Palette(colours, 0.06, clear=clear)
