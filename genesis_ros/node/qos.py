"""Which quality of service to subscribe with."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy


def choose_reliability(node: Node, topic: str, kind: type[Any], wanted: str) -> ReliabilityPolicy:
    """Reliability of a subscription to a topic (resolved) of this message type.

    wanted: best_effort, reliable, or auto: reliable unless a publisher offers less, or nobody
        publishes yet. Best effort hears every publisher, but the middleware's default buffers lose
        many messages the size of an image; reliable gets them all.
    """
    if wanted != "auto":
        return ReliabilityPolicy[wanted.upper()]
    offered = [
        publisher.qos_profile.reliability
        for publisher in node.get_publishers_info_by_topic(topic)
        if publisher.topic_type == type_name(kind)
    ]
    # While nobody publishes: reliable, which lets no publisher send before all is settled. (One
    # that is reliable needs no change, and one that is not finds no listener until it is made.)
    if any(policy != ReliabilityPolicy.RELIABLE for policy in offered):
        return ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE


def type_name(kind: type[Any]) -> str:
    """sensor_msgs.msg.Image -> "sensor_msgs/msg/Image", as the ROS graph names types."""
    package, _, _ = kind.__module__.partition(".")
    return f"{package}/msg/{kind.__name__}"
