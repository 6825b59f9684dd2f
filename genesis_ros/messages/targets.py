"""What of an ObjectMasks message a robot may act on."""

from __future__ import annotations

from genesis_ros.msg import ObjectMask

_OTHERS = (ObjectMask.KIND_ROBOT, ObjectMask.KIND_SURROUNDINGS)


def is_target(item: ObjectMask) -> bool:
    """Whether an object is neither background or surroundings nor the robot itself.

    In messages of before there were kinds all are unknown, and those of later kinds are here.
    """
    return not item.background and getattr(item, "kind", None) not in _OTHERS
