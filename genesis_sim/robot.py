"""A Sawyer-like arm with a parallel gripper, made of primitives: MJCF and inverse kinematics.

Joint 1 turns about the vertical, joints 2 to 4 bend in one vertical plane, joint 5 rolls the
gripper. That leaves a closed-form solution for "fingertips here, pointing down", which Sawyer's
seven joints do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from genesis_sim.geometry import to_matrix
from genesis_sim.scene import Pose, RobotPose

SHOULDER_OFFSET = 0.081
SHOULDER_HEIGHT = 0.317
UPPER_LENGTH = 0.52
FOREARM_LENGTH = 0.50
TOOL_LENGTH = 0.30  # from the last bending joint to the fingertips
#: Half the opening of the fingers, metres.
MAX_OPENING = 0.058

JOINTS = ("turn", "shoulder", "elbow", "wrist", "roll")
FINGERS = ("left_finger", "right_finger")
#: Geoms are named <part>_<number>; these parts share a finish (see RobotStyle).
PARTS = ("link", "cap", "gripper", "pad", "metal")


class _Geoms:
    """Numbers the geoms of each part and writes their MJCF."""

    def __init__(self) -> None:
        self._counts: Iterator[int] = iter(range(10_000))

    def __call__(
        self, part: str, shape: str, size: str, pos: str = "0 0 0", euler: str = ""
    ) -> str:
        turn = f' euler="{euler}"' if euler else ""
        return (
            f'<geom name="{part}_{next(self._counts)}" class="robot" material="robot_{part}" '
            f'type="{shape}" size="{size}" pos="{pos}"{turn}/>'
        )

    def segment(self, part: str, radius: float, ends: str) -> str:
        return (
            f'<geom name="{part}_{next(self._counts)}" class="robot" material="robot_{part}" '
            f'type="capsule" size="{radius}" fromto="{ends}"/>'
        )


def mjcf() -> str:
    """The arm as an MJCF body; class "robot" and materials robot_<part> are the caller's."""
    g = _Geoms()
    quarter = f"{math.pi / 2} 0 0"
    fingers = "".join(_finger(g, name, side) for name, side in zip(FINGERS, (1, -1), strict=True))
    return f"""
<body name="robot" mocap="true">
  {g("cap", "cylinder", ".12 .25", "0 0 -.33")}
  {g("link", "cylinder", ".095 .045", "0 0 -.04")}
  <body name="turn"><joint name="turn" axis="0 0 1"/>
    {g("link", "cylinder", ".088 .12", "0 0 .11")}
    {g.segment("link", 0.085, "0 0 .22 .05 0 .30")}
    {g("cap", "cylinder", ".07 .012", ".08 .10 .317", quarter)}
    {g("metal", "cylinder", ".09 .006", "0 0 .03")}
    <body name="shoulder" pos="{SHOULDER_OFFSET} 0 {SHOULDER_HEIGHT}">
      <joint name="shoulder" axis="0 -1 0"/>
      {g("link", "cylinder", ".078 .095", "0 0 0", quarter)}
      {g.segment("link", 0.066, ".06 -.03 0 .44 -.03 0")}
      {g("metal", "cylinder", ".068 .008", ".12 -.03 0", f"0 {math.pi / 2} 0")}
      <body name="elbow" pos="{UPPER_LENGTH} 0 0"><joint name="elbow" axis="0 -1 0"/>
        {g("link", "cylinder", ".066 .085", "0 0 0", quarter)}
        {g("cap", "cylinder", ".058 .012", "0 -.09 0", quarter)}
        {g("cap", "cylinder", ".058 .012", "0 .09 0", quarter)}
        {g.segment("link", 0.055, ".05 .03 0 .42 .02 0")}
        <body name="wrist" pos="{FOREARM_LENGTH} 0 0"><joint name="wrist" axis="0 -1 0"/>
          {g("link", "cylinder", ".052 .07", "0 0 0", quarter)}
          {g("cap", "cylinder", ".046 .01", "0 .073 0", quarter)}
          {g("link", "cylinder", ".046 .03", ".075 0 0", f"0 {math.pi / 2} 0")}
          <body name="roll"><joint name="roll" axis="1 0 0"/>
            {g("metal", "cylinder", ".04 .008", ".112 0 0", f"0 {math.pi / 2} 0")}
            {g("gripper", "cylinder", ".038 .022", ".138 0 0", f"0 {math.pi / 2} 0")}
            {g("gripper", "box", ".026 .048 .034", ".175 0 0")}
            {g("gripper", "box", ".010 .036 .030", ".208 0 0")}
            {fingers}
          </body>
        </body>
      </body>
    </body>
  </body>
</body>"""


def _finger(g: _Geoms, name: str, side: int) -> str:
    """One finger of a four-bar gripper; its body frame is the fingertip's inner face."""
    y = side
    screws = "".join(
        g("metal", "sphere", ".0036", f"{x} {y * dy} {z}")
        for x, dy in ((-0.125, 0.018), (-0.085, 0.034), (-0.065, 0.012))
        for z in (-0.021, 0.021)
    )
    return f"""
<body name="{name}" pos="{TOOL_LENGTH} 0 0"><joint name="{name}" type="slide" axis="0 {side} 0"/>
  {g("gripper", "box", ".030 .011 .020", f"-.095 {y * 0.034} 0", f"0 0 {side * 0.08}")}
  {g.segment("gripper", 0.0085, f"-.128 {y * -0.012} .017 -.07 {y * 0.022} .017")}
  {g.segment("gripper", 0.0085, f"-.128 {y * -0.012} -.017 -.07 {y * 0.022} -.017")}
  {g("gripper", "box", ".012 .017 .021", f"-.068 {y * 0.020} 0")}
  {screws}
  {g("pad", "box", ".024 .0125 .020", f"-.036 {y * 0.0125} 0")}
  {g("pad", "box", ".010 .0095 .016", f"-.008 {y * 0.0095} 0", f"0 0 {side * 0.06}")}
</body>"""


def joint_positions(pose: RobotPose, base: Pose) -> dict[str, float]:
    """Joint values (radians, metres) that put the fingertips at `pose.tip`.

    Targets out of reach are approached as far as the stretched arm goes.
    """
    local = to_matrix(base.rotation).T @ (np.asarray(pose.tip) - base.position)
    turn = math.atan2(local[1], local[0])
    # In the plane of the arm the tool points down, leaning outwards by the tilt.
    r = math.hypot(local[0], local[1]) - SHOULDER_OFFSET - TOOL_LENGTH * math.sin(pose.tilt)
    z = local[2] - SHOULDER_HEIGHT + TOOL_LENGTH * math.cos(pose.tilt)
    reach = math.hypot(r, z)
    limit = UPPER_LENGTH + FOREARM_LENGTH - 1e-3
    distance = min(max(reach, 0.12), limit)
    cos_elbow = (distance**2 - UPPER_LENGTH**2 - FOREARM_LENGTH**2) / (
        2 * UPPER_LENGTH * FOREARM_LENGTH
    )
    elbow = -math.acos(max(-1.0, min(1.0, cos_elbow)))
    shoulder = math.atan2(z, r) - math.atan2(
        FOREARM_LENGTH * math.sin(elbow), UPPER_LENGTH + FOREARM_LENGTH * math.cos(elbow)
    )
    wrist = (pose.tilt - math.pi / 2) - shoulder - elbow
    opening = min(max(pose.opening, 0.0), MAX_OPENING)
    yaw_of_base = 2 * math.atan2(base.rotation[3], base.rotation[0])
    return {
        "turn": turn,
        "shoulder": shoulder,
        "elbow": elbow,
        "wrist": wrist,
        # With the tool pointing down, rolling turns against the arm's own turn.
        "roll": turn + yaw_of_base - pose.roll + math.pi / 2,
        "left_finger": opening,
        "right_finger": opening,
    }
