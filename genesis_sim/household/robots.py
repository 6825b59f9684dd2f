"""Robots in household scenes: arms of the asset pack, or procedural ones, with their grippers.

A robot is a list of solids. Its posture is given relative to its hand, so that the fingertips are
put where they are wanted and the base follows.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from genesis_sim.assets import AssetPack, RobotParts
from genesis_sim.geometry import (
    Vector,
    align_z,
    axis_angle,
    from_matrix,
    multiply,
    to_matrix,
    yaw,
)
from genesis_sim.household.bank import TextureBank
from genesis_sim.objects import random_colour
from genesis_sim.scene import Colour, Finish, Pose, Shape, Solid

Rng = np.random.Generator

#: Most solids of a robot.
MAX_SOLIDS = 64


def random_robot(
    rng: Rng,
    tip: Vector,
    heading: float,
    bank: TextureBank,
    pack: AssetPack | None,
    *,
    forwards: bool = False,
) -> list[Solid]:
    """A robot whose fingertips are at a point.

    Args:
        rng: makes the choices.
        tip: the point.
        heading: direction (radians, in the plane) in which the base is to be found from the tip.
        bank: textures.
        pack: has robots beside the procedural one.
        forwards: the gripper points away from the base rather than down (shelves).
    """
    if pack is not None and pack.arms and rng.random() < 0.75:
        return _packed_robot(rng, tip, heading, pack)
    return _made_robot(rng, tip, heading, bank, forwards)


def _posture(row: npt.NDArray[np.float32]) -> Pose:
    w, x, y, z = (float(v) for v in row[3:])
    return Pose(row[:3].astype(np.float64), (w, x, y, z))


def _after(outer: Pose, inner: Pose) -> Pose:
    """A pose given in the frame of another one, in that one's parent frame."""
    position = outer.position + to_matrix(outer.rotation) @ inner.position
    return Pose(position, multiply(outer.rotation, inner.rotation))


def _packed_robot(rng: Rng, tip: Vector, heading: float, pack: AssetPack) -> list[Solid]:
    arm = pack.arms[int(rng.integers(len(pack.arms)))]
    gripper = pack.grippers[int(rng.integers(len(pack.grippers)))]
    posture, opening = int(rng.integers(len(arm.poses))), int(rng.integers(len(gripper.poses)))
    hand = _posture(arm.hand[posture])  # in the base's frame
    roll = Pose(np.zeros(3), yaw(float(rng.uniform(0, 2 * math.pi))))
    in_base = _after(_after(hand, roll), _posture(gripper.hand[opening]))
    # Turn the base so that it stands where the heading says, then move it under the tip.
    direction = math.atan2(-in_base.position[1], -in_base.position[0])
    base = Pose(np.zeros(3), yaw(heading - direction + float(rng.normal(0, 0.3))))
    base.position = tip - to_matrix(base.rotation) @ in_base.position
    hand_pose = _after(base, hand)
    repaint = _repaint(rng)
    solids = _parts(rng, arm, posture, hand_pose, repaint)
    solids += _parts(rng, gripper, opening, _after(hand_pose, roll), repaint)
    return solids


def _parts(
    rng: Rng, parts: RobotParts, posture: int, frame: Pose, repaint: Colour | None
) -> list[Solid]:
    solids = []
    gloss = float(rng.uniform(0.05, 0.6))
    for mesh, colour, row in zip(parts.meshes, parts.colours, parts.poses[posture], strict=True):
        pose = _after(frame, _posture(row))
        x, y, z = (float(v) for v in pose.position)
        shade = np.clip(colour * np.exp(rng.normal(0, 0.05, 3)), 0.01, 1)
        if repaint is not None:
            grey = float(colour.mean())
            shade = np.array(repaint) if grey > 0.5 else np.full(3, 0.08)
        r, g, b = (float(v) for v in shade)
        finish = Finish((r, g, b), specular=gloss, shininess=0.5)
        solids.append(Solid(Shape.MESH, (1, 1, 1), (x, y, z), finish, pose.rotation, mesh))
    return solids


def _repaint(rng: Rng) -> Colour | None:
    """Another colour for the light parts of a robot, in some of the scenes."""
    return random_colour(rng) if rng.random() < 0.25 else None


def _made_robot(
    rng: Rng, tip: Vector, heading: float, bank: TextureBank, forwards: bool
) -> list[Solid]:
    """An arm of capsules and cylinders in one upright plane, with a two-finger gripper."""
    skin = Finish(
        random_colour(rng) if rng.random() < 0.5 else (float(rng.uniform(0.5, 0.95)),) * 3,
        bank.pick(rng, "worn", "grain", "scratched") if rng.random() < 0.3 else -1,
        specular=float(rng.uniform(0.05, 0.7)),
        shininess=0.5,
    )
    dark = Finish((float(rng.uniform(0.02, 0.2)),) * 3, specular=float(rng.uniform(0, 0.4)))
    accent = Finish(random_colour(rng), specular=0.2)
    joint = dark if rng.random() < 0.5 else skin if rng.random() < 0.5 else accent
    size = float(rng.uniform(0.7, 1.25))
    out = np.array([math.cos(heading), math.sin(heading), 0.0])  # towards the base
    up = np.array([0.0, 0.0, 1.0])
    # Pitch of the tool's axis, seen from the tip: straight up is 90 degrees.
    pitch = math.radians(float(rng.uniform(0, 35) if forwards else rng.uniform(55, 105)))
    tool = math.cos(pitch) * out + math.sin(pitch) * up
    side = np.cross(out, up)
    roll = axis_angle(tool.tolist(), float(rng.uniform(0, math.pi)))
    across = to_matrix(roll) @ side
    solids: list[Solid] = []

    def rod(
        a: Vector, b: Vector, radius: float, finish: Finish, *, round_ends: bool = True
    ) -> None:
        length = 0.5 * float(np.linalg.norm(b - a))
        x, y, z = (float(v) for v in 0.5 * (a + b))
        shape = Shape.CAPSULE if round_ends else Shape.CYLINDER
        solids.append(Solid(shape, (radius, length, 0.0), (x, y, z), finish, align_z(b - a)))

    def box(middle: Vector, half: tuple[float, float, float], finish: Finish) -> None:
        x, y, z = (float(v) for v in middle)
        frame = from_matrix(np.stack([across, np.cross(tool, across), tool], axis=1))
        solids.append(Solid(Shape.BOX, half, (x, y, z), finish, frame))

    opening, finger = float(rng.uniform(0.004, 0.05)), float(rng.uniform(0.03, 0.07)) * size
    thick, wide = float(rng.uniform(0.005, 0.011)), float(rng.uniform(0.008, 0.016))
    pads = dark if rng.random() < 0.6 else accent
    for sign in (-1, 1):
        at = tip + 0.5 * finger * tool + sign * (opening + thick) * across
        box(at, (thick, wide, 0.5 * finger), pads)
    palm = tip + (finger + 0.02 * size) * tool
    box(palm, (0.055 * size, 0.026 * size, 0.022 * size), dark if rng.random() < 0.6 else skin)
    flange = palm + 0.09 * size * tool
    rod(palm, flange, 0.033 * size, joint, round_ends=False)
    if rng.random() < 0.4:  # a camera on the wrist
        box(flange + 0.06 * size * np.cross(tool, across), (0.045, 0.012, 0.012), dark)
    wrist = flange + 0.05 * size * tool
    radius = float(rng.uniform(0.035, 0.06)) * size
    rod(wrist - 1.2 * radius * side, wrist + 1.2 * radius * side, radius, joint, round_ends=False)
    rise = math.radians(float(rng.uniform(-15, 60)))
    fore = float(rng.uniform(0.25, 0.45)) * size
    offset = float(rng.uniform(-1, 1)) * radius * side
    elbow = wrist + fore * (math.cos(rise) * out + math.sin(rise) * up) + offset
    rod(wrist + offset, elbow, 0.95 * radius, skin)
    thick_radius = 1.15 * radius
    rod(
        elbow - 1.3 * radius * side,
        elbow + 1.3 * radius * side,
        thick_radius,
        joint,
        round_ends=False,
    )
    fall = math.radians(float(rng.uniform(-70, 5)))
    upper = float(rng.uniform(0.3, 0.5)) * size
    shoulder = elbow + upper * (math.cos(fall) * out + math.sin(fall) * up)
    rod(elbow, shoulder, thick_radius, skin)
    rod(
        shoulder - 1.5 * radius * side,
        shoulder + 1.5 * radius * side,
        1.3 * radius,
        joint,
        round_ends=False,
    )
    foot = shoulder.copy()
    foot[2] = min(0.0, float(shoulder[2]) - 0.2)
    rod(shoulder, foot, 1.4 * radius, skin, round_ends=False)
    return solids
