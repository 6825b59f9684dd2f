"""Stands in for tf2_ros, which has no wheel: what the node uses of it, on the real messages.

Buffer and TransformListener have the interface and the rules of the real ones: transforms of a
frame are kept for ten seconds and interpolated between their times, static ones hold at any time,
time zero means the newest time that all know (which is zero if all are static), a parent is one
step nearer to the root.
"""

from __future__ import annotations

import time as clock
from typing import Any

import numpy as np
from geometry_msgs.msg import Quaternion, TransformStamped, Vector3
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

_KEPT = 10 * 10**9  # ns


class TransformException(Exception):
    """There is no transform."""


class LookupException(TransformException):
    """A frame is unknown."""


class ConnectivityException(TransformException):
    """The frames do not hang together."""


class ExtrapolationException(TransformException):
    """The time is outside of what is known."""


class Buffer:
    """Transforms by their child frames."""

    def __init__(self) -> None:
        self._moving: dict[str, list[TransformStamped]] = {}
        self._static: dict[str, TransformStamped] = {}

    def set_transform(self, transform: TransformStamped, static: bool) -> None:
        child = transform.child_frame_id
        if static:
            self._static[child] = transform
            return
        kept = [*self._moving.get(child, []), transform]
        newest = max(map(_stamp, kept))
        kept = [item for item in kept if _stamp(item) > newest - _KEPT]
        self._moving[child] = sorted(kept, key=_stamp)

    def clear(self) -> None:
        self._moving = {}

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration | None = None
    ) -> TransformStamped:
        """From source to target; waits until there is one, at most for the timeout."""
        deadline = clock.monotonic() + (timeout.nanoseconds * 1e-9 if timeout else 0)
        while True:
            try:
                return self._look_up(target_frame, source_frame, time)
            except TransformException:
                if clock.monotonic() >= deadline:
                    raise
            clock.sleep(0.02)

    def _look_up(self, target: str, source: str, time: Time) -> TransformStamped:
        parents = {item.header.frame_id for item in self._static.values()}
        parents |= {kept[0].header.frame_id for kept in self._moving.values()}
        for frame in (target, source):
            if frame not in parents | self._static.keys() | self._moving.keys():
                raise LookupException(f'"{frame}" passed to lookupTransform does not exist.')
        instant = time.nanoseconds or self._newest(target, source)
        (root, to_target), (other, to_source) = (
            self._to_root(frame, instant) for frame in (target, source)
        )
        if root != other:
            raise ConnectivityException(f"{target} and {source} are not part of the same tree.")
        matrix = np.linalg.inv(to_target) @ to_source
        result = TransformStamped(child_frame_id=source)
        result.header.frame_id = target
        result.header.stamp = Time(nanoseconds=instant).to_msg()
        result.transform.translation = Vector3(**dict(zip("xyz", matrix[:3, 3], strict=True)))
        result.transform.rotation = _quaternion(matrix[:3, :3])
        return result

    def _to_root(self, frame: str, time: int) -> tuple[str, np.ndarray]:
        matrix = np.eye(4)
        while frame in self._static or frame in self._moving:
            step = self._static.get(frame) or self._at(frame, time)
            matrix = _matrix(step) @ matrix
            frame = step.header.frame_id
        return frame, matrix

    def _newest(self, target: str, source: str) -> int:
        """The newest time that all moving transforms between two frames know; 0: none moves."""
        between = self._above(target) ^ self._above(source)
        moving = between & self._moving.keys() - self._static.keys()
        return min((_stamp(self._moving[frame][-1]) for frame in moving), default=0)

    def _above(self, frame: str) -> set[str]:
        """The frame, and all that it hangs on but the root."""
        found = set()
        while step := self._static.get(frame) or self._moving.get(frame, [None])[-1]:
            found.add(frame)
            frame = step.header.frame_id
        return found

    def _at(self, frame: str, time: int) -> TransformStamped:
        kept = self._moving[frame]
        if time == 0 or time == _stamp(kept[-1]):
            return kept[-1]
        if not _stamp(kept[0]) <= time < _stamp(kept[-1]):
            raise ExtrapolationException(f"Lookup would require extrapolation at time {time}")
        index = next(number for number, item in enumerate(kept) if _stamp(item) > time)
        before, after = kept[index - 1], kept[index]
        share = (time - _stamp(before)) / (_stamp(after) - _stamp(before))
        mixed = TransformStamped(header=before.header, child_frame_id=frame)
        for part, names in (("translation", "xyz"), ("rotation", "xyzw")):
            one, other = getattr(before.transform, part), getattr(after.transform, part)
            for name in names:
                value = (1 - share) * getattr(one, name) + share * getattr(other, name)
                setattr(getattr(mixed.transform, part), name, value)
        return mixed


class TransformListener:
    """Fills a buffer from /tf and /tf_static."""

    def __init__(self, buffer: Buffer, node: Node) -> None:
        self._node = node
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._subscriptions = [
            node.create_subscription(TFMessage, topic, _taker(buffer, static=static), qos)
            for topic, static, qos in (("/tf", False, 100), ("/tf_static", True, latched))
        ]

    def unregister(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)


def _taker(buffer: Buffer, *, static: bool) -> Any:
    def take(message: TFMessage) -> None:
        for transform in message.transforms:
            buffer.set_transform(transform, static)

    return take


def _stamp(transform: TransformStamped) -> int:
    return Time.from_msg(transform.header.stamp).nanoseconds


def _matrix(transform: TransformStamped) -> np.ndarray:
    """(4, 4); columns are the quaternion's rotations of the axes."""
    rotation, offset = transform.transform.rotation, transform.transform.translation
    axis = np.array([rotation.x, rotation.y, rotation.z])
    length = np.linalg.norm([*axis, rotation.w])
    axis, real = axis / length, rotation.w / length
    matrix = np.eye(4)
    for column, unit in enumerate(np.eye(3)):
        turned = np.cross(axis, unit)
        matrix[:3, column] = unit + 2 * (real * turned + np.cross(axis, turned))
    matrix[:3, 3] = offset.x, offset.y, offset.z
    return matrix


def _quaternion(rotation: np.ndarray) -> Quaternion:
    """The eigenvector of Bar-Itzhack's matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(matrix)[1][:, -1]
    return Quaternion(x=x, y=y, z=z, w=w)
