"""Random things of a household, a workshop and a shop, procedural ones and those of a pack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genesis_sim.geometry import IDENTITY, Quaternion, multiply, yaw
from genesis_sim.household import crockery, packaging, tools
from genesis_sim.household.kit import Kit
from genesis_sim.household.parts import QUARTER_X, QUARTER_Y, between, solid_mesh, thing, turned
from genesis_sim.scene import Finish, ObjectModel

Rng = np.random.Generator
#: Makes an object whose origin is the centre of its bounding box, in the attitude in which it
#: usually stands or lies.
Maker = Callable[[Rng, Kit], ObjectModel]

#: Makers and how often they are called for.
MAKERS: tuple[tuple[Maker, float], ...] = (
    (packaging.carton, 13),
    (tools.block, 4),
    (packaging.book, 2),
    (packaging.can, 7),
    (packaging.bottle, 9),
    (packaging.spray, 1.5),
    (crockery.mug, 6),
    (crockery.cup, 5),
    (crockery.bowl, 5),
    (crockery.plate, 1.5),
    (packaging.jar, 4),
    (packaging.tub, 3),
    (packaging.tin, 3),
    (tools.banana, 3),
    (tools.fruit, 4),
    (tools.ball, 2),
    (packaging.bag, 5),
    (tools.tissue, 1.5),
    (tools.pen, 5),
    (tools.scissors, 3),
    (tools.clamp, 3),
    (tools.drill, 3),
    (tools.hammer, 1.5),
    (tools.screwdriver, 2.5),
    (tools.wrench, 2),
    (tools.spoon, 2.5),
    (tools.ring, 2.5),
    (tools.gadget, 3),
    (tools.mouse, 2),
    (tools.bricks, 2.5),
    (tools.figure, 2),
    (tools.cutout, 2),
    (packaging.tube, 2.5),
    (tools.bulb, 1.5),
)
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
    return _tipped(rng, model, tipped)


def random_package(rng: Rng, kit: Kit) -> ObjectModel:
    """A carton, a book, a bag or a can."""
    makers = (packaging.carton, packaging.book, packaging.bag, packaging.can)
    return _tipped(rng, makers[int(rng.choice(4, p=(0.45, 0.25, 0.15, 0.15)))](rng, kit), 0.25)


def packed(rng: Rng, kit: Kit) -> ObjectModel:
    """An object of the asset pack, stretched and coloured at random."""
    assert kit.pack is not None, "there is no asset pack"
    entry = kit.pack.objects[int(rng.integers(len(kit.pack.objects)))]
    scale = between(rng, 0.45, 1.35) * np.exp(rng.normal(0, 0.12, 3))
    mesh = entry.mesh.scaled(scale.tolist())
    if entry.texture >= 0 and rng.random() < 0.7:
        finish = Finish((1.0, 1.0, 1.0), kit.skins[entry.texture], specular=0.2)
    else:
        finish = kit.any(rng)
    return thing(entry.name, [solid_mesh(mesh, finish)])


def _tipped(rng: Rng, model: ObjectModel, share: float) -> ObjectModel:
    """The thing, in this share of the cases on another side."""
    return turned(model, _random_quarter(rng)) if rng.random() < share else model


def _random_quarter(rng: Rng) -> Quaternion:
    quarters = (IDENTITY, QUARTER_X, QUARTER_Y, multiply(QUARTER_X, QUARTER_X))
    return quarters[int(rng.integers(4))]
