"""Objects from solids: their parts, bounds and convex hulls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genesis_sim.geometry import IDENTITY, Quaternion, axis_angle, to_matrix
from genesis_sim.mesh import Mesh
from genesis_sim.scene import Finish, ObjectModel, Pose, Shape, Solid, Triple, place

Rng = np.random.Generator
Points = npt.NDArray[np.float64]

#: Most solids of one thing.
MAX_SOLIDS = 12

QUARTER_X = axis_angle((1, 0, 0), math.pi / 2)
QUARTER_Y = axis_angle((0, 1, 0), math.pi / 2)

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


def hull_points(solids: Sequence[Solid]) -> Points:
    """Points (N, 3) whose convex hull is about that of the solids."""
    points = []
    for solid in solids:
        rotation = to_matrix(solid.rotation)
        points.append(_shape_points(solid) @ rotation.T + np.array(solid.position))
    return np.concatenate(points)


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


def box(
    half: Sequence[float], finish: Finish, at: Triple = (0.0, 0.0, 0.0), turn: Quaternion = IDENTITY
) -> Solid:
    return Solid(Shape.BOX, (float(half[0]), float(half[1]), float(half[2])), at, finish, turn)


def rod(
    radius: float,
    half: float,
    finish: Finish,
    at: Triple = (0.0, 0.0, 0.0),
    turn: Quaternion = IDENTITY,
) -> Solid:
    return Solid(Shape.CYLINDER, (radius, half, 0.0), at, finish, turn)


def between(rng: Rng, low: float, high: float) -> float:
    """Log-uniform, so that small things are not rare."""
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))
