"""Movable objects: Sketchy's cube, block and ball, and random ones of many shapes."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from genesis_sim.geometry import IDENTITY, Quaternion, axis_angle, to_matrix, yaw
from genesis_sim.scene import (
    Colour,
    Finish,
    ObjectModel,
    Pose,
    Shape,
    Solid,
    Triple,
    place,
)
from genesis_sim.textures import pick

Rng = np.random.Generator

#: Most solids one object is made of.
MAX_SOLIDS = 6

_QUARTER_X = axis_angle((1, 0, 0), math.pi / 2)
_QUARTER_Y = axis_angle((0, 1, 0), math.pi / 2)


def sketchy_objects(rng: Rng) -> list[ObjectModel]:
    """Red cube, green block, blue ball, in this order; sizes as measured from real frames."""
    edge = 0.0268 * rng.uniform(0.9, 1.12)
    wear = pick(rng, "worn", "grain") if rng.random() < 0.85 else -1
    cube = _box("cube", (edge, edge, edge), _near(rng, (0.90, 0.25, 0.235), texture=wear))
    a, b, c = (float(v) for v in np.array([0.0225, 0.0215, 0.0135]) * rng.uniform(0.88, 1.15))
    c *= float(rng.uniform(0.9, 1.35))
    wear = pick(rng, "worn", "grain") if rng.random() < 0.85 else -1
    block = _box("block", (a, b, c), _near(rng, (0.07, 0.60, 0.14), texture=wear))
    if rng.random() < 0.25:
        block = _turned(block, _QUARTER_X if rng.random() < 0.5 else _QUARTER_Y)
    radius = 0.033 * rng.uniform(0.9, 1.1)
    marks = pick(rng, "worn") if rng.random() < 0.85 else -1
    ball = ObjectModel(
        "ball",
        [
            Solid(
                Shape.SPHERE,
                (radius, radius, radius),
                (0, 0, 0),
                _near(rng, (0.05, 0.24, 0.66), texture=marks, gloss=0.4),
            )
        ],
        (radius, radius, radius),
    )
    return [cube, block, ball]


def random_object(rng: Rng) -> ObjectModel:
    """An object of random shape, size, colour, texture and resting side."""
    makers = (_random_box, _random_round, _random_mug, _random_bottle, _random_blocks)
    index = int(rng.choice(len(makers), p=[0.33, 0.37, 0.09, 0.09, 0.12]))
    model = makers[index](rng)
    if model.name in ("mug", "bowl") and rng.random() < 0.7:
        return model
    if rng.random() < 0.4:
        model = _turned(model, _QUARTER_X if rng.random() < 0.5 else _QUARTER_Y)
    return model


def random_colour(rng: Rng) -> Colour:
    """Mostly vivid colours, some greys, blacks and whites."""
    if rng.random() < 0.2:
        grey = float(rng.uniform(0.08, 0.95))
        r, g, b = np.clip(grey + rng.normal(0, 0.02, 3), 0.03, 1.0)
    else:
        hue, saturation = rng.random(), rng.uniform(0.3, 1.0)
        r, g, b = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(0.25, 1.0))
    return (float(r), float(g), float(b))


def muted_colour(rng: Rng) -> Colour:
    """Colours of floors and boxes: greys and pale or brownish tints, now and then a strong one."""
    if rng.random() < 0.15:
        return random_colour(rng)
    hue = rng.uniform(0.02, 0.17) if rng.random() < 0.4 else rng.random()
    saturation = float(rng.uniform(0.0, 0.35)) * float(rng.random())
    r, g, b = colorsys.hsv_to_rgb(hue, saturation, float(rng.uniform(0.22, 0.95)))
    return (r, g, b)


def random_finish(rng: Rng) -> Finish:
    patterned = rng.random()
    texture = -1
    if patterned < 0.35:
        texture = pick(rng, "worn", "grain")
    elif patterned < 0.65:
        texture = pick(rng, "stripes", "checks", "dots", "label", "blotches")
    return Finish(
        random_colour(rng),
        texture,
        specular=float(rng.uniform(0.0, 0.7) ** 2),
        shininess=float(rng.uniform(0.05, 0.9)),
    )


def _near(rng: Rng, colour: Colour, texture: int, gloss: float = 0.15) -> Finish:
    """A finish whose colour is close to the given one in hue and further away in brightness."""
    hue, saturation, value = colorsys.rgb_to_hsv(*colour)
    hue = (hue + rng.normal(0, 0.012)) % 1.0
    saturation = float(np.clip(saturation * np.exp(rng.normal(0, 0.11)), 0.3, 1.0))
    value = float(np.clip(value * np.exp(rng.normal(0, 0.12)), 0.1, 1.0))
    return Finish(
        colorsys.hsv_to_rgb(hue, saturation, value),
        texture,
        specular=float(rng.uniform(0, gloss)),
        shininess=float(rng.uniform(0.1, 0.8)),
    )


def _box(name: str, half: Triple, finish: Finish) -> ObjectModel:
    return ObjectModel(name, [Solid(Shape.BOX, half, (0, 0, 0), finish)], half)


def _turned(model: ObjectModel, rotation: Quaternion) -> ObjectModel:
    """The object lying on another side (rotation by quarter turns)."""
    pose = Pose(np.zeros(3), rotation)
    half = np.abs(to_matrix(rotation)) @ np.array(model.half_size)
    solids = [place(solid, pose) for solid in model.solids]
    return ObjectModel(model.name, solids, (float(half[0]), float(half[1]), float(half[2])))


def _scale(rng: Rng) -> float:
    """A typical half size, metres; log-uniform so that small objects are not rare."""
    return float(np.exp(rng.uniform(math.log(0.014), math.log(0.05))))


def _random_box(rng: Rng) -> ObjectModel:
    scale = _scale(rng)
    half = scale * np.exp(rng.normal(0, 0.3, 3))
    if rng.random() < 0.2:  # books and boards
        half = scale * np.array([1.5, 1.1, rng.uniform(0.15, 0.4)])
    half = np.clip(half, 0.008, 0.075)
    return _box("box", (float(half[0]), float(half[1]), float(half[2])), random_finish(rng))


def _random_round(rng: Rng) -> ObjectModel:
    scale = _scale(rng)
    finish = random_finish(rng)
    kind = rng.random()
    if kind < 0.35:
        return ObjectModel(
            "sphere",
            [Solid(Shape.SPHERE, (scale,) * 3, (0, 0, 0), finish)],
            (scale, scale, scale),
        )
    if kind < 0.55:
        half = np.clip(scale * np.exp(rng.normal(0, 0.3, 3)), 0.008, 0.07)
        size = (float(half[0]), float(half[1]), float(half[2]))
        return ObjectModel("ellipsoid", [Solid(Shape.ELLIPSOID, size, (0, 0, 0), finish)], size)
    height = float(np.clip(scale * np.exp(rng.normal(0.1, 0.45)), 0.006, 0.08))
    if kind < 0.85:
        solid = Solid(Shape.CYLINDER, (scale, height, 0), (0, 0, 0), finish)
        return ObjectModel("cylinder", [solid], (scale, scale, height))
    radius = min(scale, 0.03)
    solid = Solid(Shape.CAPSULE, (radius, height, 0), (0, 0, 0), finish)
    return ObjectModel("capsule", [solid], (radius, radius, height + radius))


def _random_mug(rng: Rng) -> ObjectModel:
    # Its half_size leaves the handle out; to count it in would change the scenes of all seeds.
    radius = float(np.clip(_scale(rng), 0.018, 0.042))
    height = radius * float(rng.uniform(0.8, 1.4))
    finish = random_finish(rng)
    dark = tuple(0.35 * channel for channel in finish.colour)
    inside = Finish((dark[0], dark[1], dark[2]))
    solids = [
        Solid(Shape.CYLINDER, (radius, height, 0), (0, 0, 0), finish),
        Solid(Shape.CYLINDER, (0.86 * radius, 0.0006, 0), (0, 0, height + 0.0004), inside),
    ]
    if rng.random() < 0.25:
        return ObjectModel("bowl", solids, (radius, radius, height))
    out, bar = 1.45 * radius, 0.13 * radius
    reach = 0.5 * (out - radius) + bar
    for z in (-0.5 * height, 0.5 * height):
        solids.append(
            Solid(Shape.CAPSULE, (bar, reach, 0), (radius + reach - bar, 0, z), finish, _QUARTER_Y)
        )
    solids.append(Solid(Shape.CAPSULE, (bar, 0.5 * height, 0), (out + bar, 0, 0), finish))
    return ObjectModel("mug", solids, (radius, radius, height))


def _random_bottle(rng: Rng) -> ObjectModel:
    radius = float(np.clip(0.7 * _scale(rng), 0.012, 0.03))
    height = radius * float(rng.uniform(2.0, 3.4))
    finish = random_finish(rng)
    body, neck, cap = 0.62 * height, 0.26 * height, 0.12 * height
    shoulder = -height + 2 * body
    solids = [
        Solid(Shape.CYLINDER, (radius, body, 0), (0, 0, -height + body), finish),
        Solid(Shape.ELLIPSOID, (radius, radius, 0.6 * radius), (0, 0, shoulder), finish),
        Solid(Shape.CYLINDER, (0.42 * radius, neck, 0), (0, 0, shoulder + neck), finish),
        Solid(
            Shape.CYLINDER,
            (0.5 * radius, cap, 0),
            (0, 0, height - cap),
            Finish(random_colour(rng)),
        ),
    ]
    if rng.random() < 0.5:
        band = Solid(
            Shape.CYLINDER,
            (1.01 * radius, 0.45 * body, 0),
            (0, 0, -height + body),
            Finish(random_colour(rng), pick(rng, "label", "stripes")),
        )
        solids.append(band)
    return ObjectModel("bottle", solids, (radius, radius, height))


def _random_blocks(rng: Rng) -> ObjectModel:
    """L, T, plus and dumbbell: two or three solids of one colour."""
    arm = float(np.clip(_scale(rng), 0.02, 0.05))
    bar = arm * float(rng.uniform(0.28, 0.45))
    finish = random_finish(rng)
    name = ("l_block", "t_block", "plus", "dumbbell")[int(rng.integers(4))]
    if name == "dumbbell":
        ends = [Solid(Shape.SPHERE, (1.2 * bar,) * 3, (x, 0, 0), finish) for x in (-arm, arm)]
        middle = Solid(Shape.CAPSULE, (0.6 * bar, arm, 0), (0, 0, 0), finish, _QUARTER_Y)
        return ObjectModel(name, [*ends, middle], (arm + 1.2 * bar, 1.2 * bar, 1.2 * bar))
    long = Solid(Shape.BOX, (arm, bar, bar), (0, 0, 0), finish)
    offset = {"l_block": (arm - bar, arm), "t_block": (0.0, arm), "plus": (0.0, 0.0)}[name]
    cross = Solid(Shape.BOX, (bar, arm, bar), (offset[0], offset[1], 0), finish)
    if name == "plus":
        return ObjectModel(name, [long, cross], (arm, arm, bar))
    # Centre the bounding box: the cross bar reaches from -bar.. to 2 * arm.
    low, high = min(-bar, offset[1] - arm), offset[1] + arm
    shift = Pose(np.array([0.0, -0.5 * (low + high), 0.0]), IDENTITY)
    solids = [place(solid, shift) for solid in (long, cross)]
    return ObjectModel(name, solids, (arm, 0.5 * (high - low), bar))


def resting_pose(model: ObjectModel, x: float, y: float, floor: float, angle: float) -> Pose:
    """The object standing on the floor at (x, y), turned by `angle` about the vertical."""
    return Pose(np.array([x, y, floor + model.half_size[2]]), yaw(angle))
