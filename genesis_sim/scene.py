"""What a scene is: plain data, sampled first (sampling.py) and drawn afterwards (renderer.py).

World frame: metres, z up, origin on the table surface at the centre of the workspace; the robot's
base stands on the positive x side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from genesis_sim.effects import ImageEffects
from genesis_sim.geometry import IDENTITY, Quaternion, Vector, multiply, to_matrix
from genesis_sim.mesh import Mesh

Triple = tuple[float, float, float]
Colour = tuple[float, float, float]

BACKGROUND, ROBOT, FIRST_OBJECT = 0, 1, 2
OBJECTS = (1, 6)
"""Fewest and most objects of a varied scene, unless others are asked for."""
MOST_OBJECTS = 16


class Shape(IntEnum):
    """Primitive shapes, numbered as in MuJoCo's mjtGeom."""

    SPHERE = 2
    CAPSULE = 3
    ELLIPSOID = 4
    CYLINDER = 5
    BOX = 6
    MESH = 7


@dataclass(frozen=True, slots=True)
class Finish:
    """Surface of a solid: colour multiplied with a texture of the bank (-1: none).

    Attributes:
        reflectance: how much of a mirror image is added to it, 0 to 1 (household scenes only).
            MuJoCo draws it in the +z face of the first opaque box that has any, and nowhere else.
    """

    colour: Colour
    texture: int = -1
    repeat: float = 1.0
    specular: float = 0.1
    shininess: float = 0.3
    alpha: float = 1.0
    reflectance: float = 0.0


@dataclass(frozen=True, slots=True)
class Solid:
    """One primitive or mesh.

    Attributes:
        size: half sizes in MuJoCo's order for the shape (metres). Meshes (household scenes) have
            their own size; theirs is not used.
    """

    shape: Shape
    size: Triple
    position: Triple
    finish: Finish
    rotation: Quaternion = IDENTITY
    mesh: Mesh | None = None


@dataclass(slots=True)
class ObjectModel:
    """A movable object: solids in its own frame, origin at the centre of its bounding box."""

    name: str
    solids: list[Solid]
    half_size: Triple

    @property
    def radius(self) -> float:
        """Radius of the circle around the footprint, metres."""
        return math.hypot(self.half_size[0], self.half_size[1])


@dataclass(slots=True)
class Pose:
    position: Vector
    rotation: Quaternion = IDENTITY


@dataclass(slots=True)
class RobotPose:
    """Where the fingertips are, and how the gripper is turned about the vertical and opened."""

    tip: Vector
    roll: float
    opening: float
    tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class RobotStyle:
    link: Finish
    cap: Finish
    gripper: Finish
    pad: Finish
    metal: Finish


@dataclass(slots=True)
class Light:
    direction: Triple
    diffuse: Colour
    specular: float
    shadow: bool


@dataclass(slots=True)
class Camera:
    """A pinhole camera: pose, and intrinsics in pixels of the image to render (x right, y down).

    Attributes:
        squeeze: horizontal over vertical focal length; below 1 where a wide image was made square.
    """

    position: Vector
    rotation: Vector
    focal: float
    centre: tuple[float, float]
    squeeze: float = 1.0

    def to_optical(self, points: Vector) -> Vector:
        """World points (N, 3) in the optical frame: x right, y down, z forward."""
        local = (points - self.position) @ self.rotation
        return local * np.array([1.0, -1.0, -1.0])


@dataclass(slots=True)
class TabletopScene:
    environment: list[Solid]
    objects: list[ObjectModel]
    poses: list[Pose]
    robot: RobotPose | None
    robot_base: Pose
    robot_style: RobotStyle
    camera: Camera
    ambient: Colour
    lights: list[Light]
    effects: ImageEffects
    #: Height on which objects rest, and half extents of the area they may occupy.
    floor_height: float = 0.0
    reach: tuple[float, float] = (0.16, 0.16)
    #: Multiplies the contact shadows under objects; 0 draws none.
    contact_shadow: float = 1.0
    labels: list[int] = field(default_factory=list)


def place(solid: Solid, pose: Pose) -> Solid:
    """The solid moved from its object's frame into the world."""
    position = pose.position + to_matrix(pose.rotation) @ np.array(solid.position)
    x, y, z = (float(v) for v in position)
    rotation = multiply(pose.rotation, solid.rotation)
    return Solid(solid.shape, solid.size, (x, y, z), solid.finish, rotation, solid.mesh)
