"""Where things stand: apart, in rows, stacked, leaning, in vessels, or settled by physics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from genesis_sim import gl
from genesis_sim.geometry import (
    Quaternion,
    axis_angle,
    from_matrix,
    multiply,
    to_matrix,
    yaw,
)
from genesis_sim.household.parts import hull_points
from genesis_sim.scene import ObjectModel, Pose, Shape, Solid

Rng = np.random.Generator
Outline = npt.NDArray[np.float32]

_FLAT_TOPS = {"box", "block", "book", "tin", "tub", "can", "gadget", "plate", "jar", "cereal"}
#: What may stand on edge against a wall.
_SLABS = {"book", "box", "bag", "gadget"}
#: What stands in a mug or cup.
_STICKS = {"pen", "spoon", "screwdriver"}
#: Share of the things beside another one that stand with a side along the other's, as in a row on a
#: shelf, and of those on a flat top that lie as that does.
_ALIGNED = 0.4
_TIME_STEP = 0.004
#: Steps of physics: a fall of 0.3 m and what follows.
_STEPS = 260


#: Warnings of MuJoCo after which the state has been reset: bad positions, velocities, forces.
_UNSTABLE = (4, 5, 6)


@contextmanager
def _quiet(mj: Any) -> Iterator[None]:
    """Keep MuJoCo from writing its warnings to the terminal and into a file."""
    before = mj.get_mju_user_warning()
    mj.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mj.set_mju_user_warning(before)


class _Standing:
    """A placed object: its pose, outline on the plane, and how far and high it reaches."""

    def __init__(self, model: ObjectModel, points: npt.NDArray[np.float64]) -> None:
        self.model = model
        self._points = points
        self.pose = Pose(np.zeros(3))
        self.outline: Outline = np.zeros((0, 2), np.float32)
        self.radius = 0.0
        self.top = 0.0
        self.carries = False  # whether its top is flat and free
        self.heading = 0.0  # how far it was turned about the vertical, radians

    def stand(self, x: float, y: float, floor: float, rotation: Quaternion) -> None:
        """Put the object down at (x, y), so that its lowest point touches the floor."""
        points = self._points @ to_matrix(rotation).T
        low = float(points[:, 2].min())
        self.pose = Pose(np.array([x, y, floor - low]), rotation)
        self.top = floor - low + float(points[:, 2].max())
        flat = (points[:, :2] + np.array([x, y])).astype(np.float32)
        self.outline = cv2.convexHull(flat[:, None])[:, 0]
        self.radius = float(np.linalg.norm(points[:, :2], axis=1).max())
        highest = points[points[:, 2] > float(points[:, 2].max()) - 0.001, :2]
        self.carries = bool(np.ptp(highest, axis=0).min() > 0.02)

    def has_room(
        self, placed: Sequence[_Standing], compartment: tuple[float, float, float] | None
    ) -> bool:
        """Whether it stands clear of the others, and of a compartment's walls and ceiling."""
        if compartment is not None:
            depth, width, height = compartment
            if (np.abs(self.outline) > (depth + 1e-6, width + 1e-6)).any() or self.top > height:
                return False
        return not any(_overlap(self, other) for other in placed)


def arrange(
    rng: Rng,
    models: Sequence[ObjectModel],
    reach: tuple[float, float],
    crowd: float,
    compartment: tuple[float, float, float] | None = None,
) -> list[tuple[ObjectModel, Pose]]:
    """Objects on a plane at height 0; those without room are left out.

    Args:
        rng: makes the choices.
        models: the objects.
        reach: half extents of the area for their middles in x and y.
        crowd: share of the objects that stand close to, on or against another one.
        compartment: half depth (along x), half width and height of a shelf's compartment, which
            holds them all; slabs may lean on its walls at the ends of y.
    """
    placed: list[_Standing] = []
    # Large ones first: the others find their place around, upon and in them.
    order = sorted(models, key=lambda model: -_bulk(model) * float(np.exp(rng.normal(0, 0.4))))
    for model in order:
        standing = _Standing(model, hull_points(model.solids))
        found = False
        if compartment is not None and model.name in _SLABS and rng.random() < 0.6:
            found = _lean(rng, standing, placed, reach, compartment)
        if found or _find_place(rng, standing, placed, reach, crowd, compartment):
            placed.append(standing)
    return [(standing.model, standing.pose) for standing in placed]


def _bulk(model: ObjectModel) -> float:
    return model.radius * (0.3 if model.name in _STICKS else 1.0)


def _find_place(
    rng: Rng,
    standing: _Standing,
    placed: list[_Standing],
    reach: tuple[float, float],
    crowd: float,
    compartment: tuple[float, float, float] | None,
) -> bool:
    vessels = [each for each in placed if _fits_into(standing.model, each)]
    for _ in range(16):
        heading = float(rng.uniform(0, 2 * math.pi))
        if placed and rng.random() < crowd:
            if vessels and rng.random() < 0.4:
                vessel = vessels[int(rng.integers(len(vessels)))]
                if _put_into(rng, standing, vessel, placed, heading, compartment):
                    return True
            other = placed[int(rng.integers(len(placed)))]
            kind = rng.random()
            aligned = rng.random() < _ALIGNED
            if aligned:
                heading = other.heading + 0.5 * math.pi * int(rng.integers(4))
            standing.heading = heading
            rotation = yaw(heading)
            if kind < 0.22 and _put_upon(
                rng, standing, other, placed, rotation, compartment, aligned
            ):
                return True
            if kind < 0.30:
                lean = axis_angle((math.cos(kind * 99), math.sin(kind * 99), 0.0), 0.35)
                rotation = multiply(lean, rotation)
            if _put_beside(rng, standing, other, placed, reach, rotation, compartment, aligned):
                return True
            continue
        x, y = (float(rng.uniform(-side, side)) for side in reach)
        standing.heading = heading
        standing.stand(x, y, 0.0, yaw(heading))
        if standing.has_room(placed, compartment):
            return True
    return False


def _lean(
    rng: Rng,
    standing: _Standing,
    placed: list[_Standing],
    reach: tuple[float, float],
    compartment: tuple[float, float, float],
) -> bool:
    """On edge, against a wall at the left or right."""
    thin, middle, long = np.argsort(standing.model.half_size)
    side = int(rng.choice([-1, 1]))
    up, along = (long, middle) if rng.random() < 0.7 else (middle, long)
    axes = np.zeros((3, 3))
    axes[0, along], axes[1, thin], axes[2, up] = 1.0, 1.0, 1.0
    axes[0] *= float(np.linalg.det(axes))
    # The wall holds its upper edge, and its foot stands away from it.
    lean = axis_angle((1.0, 0.0, 0.0), -side * float(rng.uniform(0.03, 0.35)))
    turn = yaw(float(rng.normal(0, 0.06)))
    rotation = multiply(turn, multiply(lean, from_matrix(axes)))
    for _ in range(6):
        standing.stand(0.0, 0.0, 0.0, rotation)
        x = float(rng.uniform(-reach[0], reach[0]))
        y = side * (compartment[1] - float((side * standing.outline[:, 1]).max()))
        standing.stand(x, y, 0.0, rotation)
        if standing.has_room(placed, compartment):
            standing.carries = False
            return True
    return False


def _fits_into(model: ObjectModel, standing: _Standing) -> bool:
    """Whether something small goes into a bowl, or something long and thin into a mug or cup."""
    vessel = standing.model
    if vessel.name not in ("bowl", "mug", "cup"):
        return False
    body = to_matrix(standing.pose.rotation) @ to_matrix(vessel.solids[0].rotation)
    if body[2, 2] < 0.99:  # it leans, lies, or stands upside down
        return False
    if vessel.name == "bowl":
        return model.radius < 0.75 * vessel.half_size[0]
    _, middle, long = sorted(model.half_size)
    thin = middle < 0.5 * min(vessel.half_size[:2])
    return model.name in _STICKS and thin and long > 1.1 * vessel.half_size[2]


def _put_into(
    rng: Rng,
    standing: _Standing,
    vessel: _Standing,
    placed: list[_Standing],
    heading: float,
    compartment: tuple[float, float, float] | None,
) -> bool:
    """Into a bowl, upon what is in there already, or upright into a mug."""
    # The middle of its body: a handle is no part of that.
    middle = to_matrix(vessel.pose.rotation) @ np.array(vessel.model.solids[0].position)
    x, y, z = (float(v) for v in vessel.pose.position + middle * np.array([1.0, 1.0, 0.0]))
    width, _, height = vessel.model.half_size
    rotation, spread, floor = yaw(heading), 0.25 * width, z - 0.75 * height
    if vessel.model.name != "bowl":
        rotation = multiply(rotation, _upright(rng, standing.model))
        spread, floor = 0.1 * width, z - 0.9 * height
    dx, dy = rng.normal(0, spread, 2)
    x, y = x + float(dx), y + float(dy)
    standing.heading = heading
    standing.stand(x, y, floor, rotation)
    if vessel.model.name == "bowl":
        below = [each.top for each in placed if each is not vessel and _overlap(standing, each)]
        standing.stand(x, y, max([floor, *below]), rotation)
    return standing.has_room([], compartment)


def _upright(rng: Rng, model: ObjectModel) -> Quaternion:
    """Its longest side up, or nearly so: either end, as it leans in a mug."""
    axes = np.roll(np.eye(3), 2 - int(np.argmax(model.half_size)), axis=0)
    flip = math.pi if rng.random() < 0.5 else 0.0
    lean = axis_angle((1.0, 0.0, 0.0), flip + float(rng.normal(0, 0.1)))
    return multiply(lean, from_matrix(axes))


def _put_upon(
    rng: Rng,
    standing: _Standing,
    other: _Standing,
    placed: list[_Standing],
    rotation: Quaternion,
    compartment: tuple[float, float, float] | None,
    aligned: bool,
) -> bool:
    """On a flat top."""
    ours, theirs = standing.model, other.model
    smaller = ours.radius < 1.15 * theirs.radius
    if theirs.name not in _FLAT_TOPS or not other.carries or not smaller or other.top > 0.25:
        return False
    spread = 0.02 if aligned else 0.2
    dx, dy = rng.normal(0, spread, 2) * np.array(theirs.half_size[:2])
    x, y = (float(v) for v in other.pose.position[:2])
    standing.stand(x + float(dx), y + float(dy), other.top, rotation)
    taller = [each for each in placed if each is not other and each.top > other.top]
    if not standing.has_room(taller, compartment):
        return False
    # What carries something carries nothing else, and its outline already keeps others off.
    other.carries = False
    return True


def _put_beside(
    rng: Rng,
    standing: _Standing,
    other: _Standing,
    placed: list[_Standing],
    reach: tuple[float, float],
    rotation: Quaternion,
    compartment: tuple[float, float, float] | None,
    aligned: bool,
) -> bool:
    """As close to another one as it goes in a random direction, or with a narrow gap.

    Things that are aligned stand side by side, face to face where they have faces.
    """
    angle = float(rng.uniform(0, 2 * math.pi))
    start = other.pose.position[:2]
    if aligned:
        angle = other.heading + 0.5 * math.pi * int(rng.integers(4))
        shift = float(rng.normal(0, 0.15)) * min(standing.model.radius, other.model.radius)
        start = start + shift * np.array([-math.sin(angle), math.cos(angle)])
    way = np.array([math.cos(angle), math.sin(angle)])
    standing.stand(0.0, 0.0, 0.0, rotation)
    near, far = 0.0, standing.radius + other.radius + 0.05
    for _ in range(9):
        middle = 0.5 * (near + far)
        x, y = (float(v) for v in start + middle * way)
        standing.stand(x, y, 0.0, rotation)
        if _overlap(standing, other):
            near = middle
        else:
            far = middle
    gap = 0.0 if rng.random() < 0.5 else float(rng.uniform(0, 0.005 if aligned else 0.03))
    x, y = (float(v) for v in start + (far + gap) * way)
    if abs(x) > reach[0] or abs(y) > reach[1]:
        return False
    standing.stand(x, y, 0.0, rotation)
    return standing.has_room(placed, compartment)


def _overlap(a: _Standing, b: _Standing) -> bool:
    distance = a.pose.position[:2] - b.pose.position[:2]
    if float(np.hypot(*distance)) > a.radius + b.radius:
        return False
    area, _ = cv2.intersectConvexConvex(a.outline, b.outline)
    return area > 1e-7


def settle(
    rng: Rng,
    models: Sequence[ObjectModel],
    reach: tuple[float, float],
    walls: Sequence[Solid],
    *,
    spread: float = 1.0,
) -> list[tuple[ObjectModel, Pose]]:
    """Objects dropped in a heap onto the plane at height 0, between walls where there are any.

    What falls out of `reach` (with some margin) is left out. Each object collides as its convex
    hull.

    Args:
        rng: makes the choices.
        models: the objects.
        reach: half extents of the area in x and y.
        walls: boxes that stand still.
        spread: share of the reach above which they are dropped.
    """
    mj = gl.import_mujoco()
    spec = mj.MjSpec()
    spec.option.timestep = _TIME_STEP
    spec.option.iterations = 12
    spec.option.ls_iterations = 6
    spec.option.cone = mj.mjtCone.mjCONE_PYRAMIDAL
    spec.worldbody.add_geom(type=mj.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1])
    for wall in walls:
        spec.worldbody.add_geom(
            type=mj.mjtGeom.mjGEOM_BOX, size=wall.size, pos=wall.position, quat=wall.rotation
        )
    begun: list[tuple[npt.NDArray[np.float64], float]] = []
    for k, model in enumerate(models):
        tilt = axis_angle((1.0, 0.0, 0.0), float(rng.normal(0, 0.5)))
        rotation = multiply(yaw(float(rng.uniform(0, 6.3))), tilt)
        radius = float(np.linalg.norm(model.half_size))
        start = np.array([*(rng.uniform(-spread * side, spread * side) for side in reach), radius])
        # As low as it goes without touching another: overlapping bodies fly apart.
        while any(np.linalg.norm(start - at) < radius + other for at, other in begun):
            start[2] += 0.03
        begun.append((start, radius))
        body = spec.worldbody.add_body(pos=start, quat=rotation)
        body.add_freejoint()
        friction = [float(rng.uniform(0.4, 1.0)), 0.01, 0.001]
        if len(model.solids) == 1 and model.solids[0].shape == Shape.BOX:
            body.add_geom(
                type=mj.mjtGeom.mjGEOM_BOX,
                size=model.half_size,
                density=400,
                friction=friction,
            )
            continue
        mesh = spec.add_mesh(name=f"hull_{k}")
        mesh.uservert = hull_points(model.solids).ravel()
        mesh.maxhullvert = 40
        body.add_geom(
            type=mj.mjtGeom.mjGEOM_MESH, meshname=mesh.name, density=400, friction=friction
        )
    try:
        physics = spec.compile()
    except ValueError:  # a hull without volume; the caller places these objects otherwise
        return arrange(rng, models, reach, 0.6)
    data = mj.MjData(physics)
    with _quiet(mj):
        mj.mj_step(physics, data, _STEPS)
    if any(data.warning[kind].number for kind in _UNSTABLE):
        return arrange(rng, models, reach, 0.6)
    result = []
    for k, model in enumerate(models):
        position = data.qpos[7 * k : 7 * k + 3]
        inside = all(abs(position[i]) < 1.25 * reach[i] + 0.02 for i in range(2))
        if inside and position[2] > -0.02 and np.isfinite(data.qpos[7 * k : 7 * k + 7]).all():
            w, x, y, z = (float(v) for v in data.qpos[7 * k + 3 : 7 * k + 7])
            result.append((model, Pose(position.copy(), (w, x, y, z))))
    return result
