"""What of an ObjectMasks message a robot may act on."""

from __future__ import annotations

from genesis_ros.msg import ObjectMask

_KINDS = (ObjectMask.KIND_OBJECT, ObjectMask.KIND_UNKNOWN)


def is_target(item: ObjectMask) -> bool:
    """Whether an object is neither background nor the robot itself.

    In messages of before there were kinds all are unknown.
    """
    return not item.background and getattr(item, "kind", ObjectMask.KIND_UNKNOWN) in _KINDS
