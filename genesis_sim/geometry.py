"""Small vector and quaternion helpers. Quaternions are (w, x, y, z), angles radians."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Quaternion = tuple[float, float, float, float]

IDENTITY: Quaternion = (1.0, 0.0, 0.0, 0.0)


def axis_angle(axis: Sequence[float], angle: float) -> Quaternion:
    """Quaternion of a rotation by `angle` about the unit vector `axis`."""
    half = 0.5 * angle
    s = math.sin(half)
    return (math.cos(half), axis[0] * s, axis[1] * s, axis[2] * s)


def yaw(angle: float) -> Quaternion:
    """Quaternion of a rotation about the vertical axis."""
    return (math.cos(0.5 * angle), 0.0, 0.0, math.sin(0.5 * angle))


def multiply(a: Quaternion, b: Quaternion) -> Quaternion:
    """Rotation b followed by rotation a."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )


def to_matrix(q: Quaternion) -> Vector:
    """Rotation matrix (3, 3) of a unit quaternion."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def from_matrix(m: Vector) -> Quaternion:
    """Unit quaternion of a rotation matrix (3, 3)."""
    # Branch on the largest component, which keeps the divisor away from zero.
    squares = (
        1 + m[0, 0] + m[1, 1] + m[2, 2],
        1 + m[0, 0] - m[1, 1] - m[2, 2],
        1 - m[0, 0] + m[1, 1] - m[2, 2],
        1 - m[0, 0] - m[1, 1] + m[2, 2],
    )
    largest = max(range(4), key=squares.__getitem__)
    s = 2.0 * math.sqrt(squares[largest])
    wx, wy, wz = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1]
    quarter = 0.25 * s
    rows = (
        (quarter, wx / s, wy / s, wz / s),
        (wx / s, quarter, xy / s, xz / s),
        (wy / s, xy / s, quarter, yz / s),
        (wz / s, xz / s, yz / s, quarter),
    )
    w, x, y, z = (float(v) for v in rows[largest])
    return (w, x, y, z)


def align_z(direction: Vector) -> Quaternion:
    """A rotation that takes the z axis to `direction` (any length but zero)."""
    x, y, z = direction.tolist()
    length = math.sqrt(x * x + y * y + z * z)
    x, y, z = x / length, y / length, z / length
    if z < -0.999999:
        return (0.0, 1.0, 0.0, 0.0)
    w = math.sqrt(0.5 * (1.0 + z))
    return (w, -y / (2 * w), x / (2 * w), 0.0)


def look_at(position: Vector, target: Vector, roll: float = 0.0) -> Vector:
    """Rotation (3, 3) of a MuJoCo camera (x right, y up, looking along -z) towards `target`."""
    x, y, z = (target - position).tolist()
    flat = math.hypot(x, y)
    length = math.hypot(flat, z)
    forward = np.array([x, y, z]) / length
    # Looking straight down leaves the horizontal axis open; any will do.
    right = np.array([y, -x, 0.0]) / flat if flat > 1e-6 else np.array([1.0, 0.0, 0.0])
    up = np.array(
        [
            right[1] * forward[2],
            -right[0] * forward[2],
            right[0] * forward[1] - right[1] * forward[0],
        ]
    )
    c, s = math.cos(roll), math.sin(roll)
    return np.stack([c * right + s * up, c * up - s * right, -forward], axis=1)
