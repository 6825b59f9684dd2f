"""Which quality of service to subscribe and publish with."""

from __future__ import annotations

import difflib
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import rclpy.qos
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

Side = Literal["publisher", "subscription"]

_PREFIX = "qos_overrides"
# What a user may override, and the names of the values; a number for depth.
_POLICIES: dict[str, Any] = {
    "history": rclpy.qos.HistoryPolicy,
    "depth": None,
    "reliability": rclpy.qos.ReliabilityPolicy,
    "durability": rclpy.qos.DurabilityPolicy,
}

# The parameters that may override something, by node.
_overridable: weakref.WeakKeyDictionary[Node, set[str]] = weakref.WeakKeyDictionary()


class QoSError(ValueError):
    """A QoS override cannot be used. The text names the parameter and says what is expected."""


def choose_reliability(node: Node, topic: str, kind: type[Any], wanted: str) -> ReliabilityPolicy:
    """Reliability of a subscription to a topic.

    An override by the user goes before (see with_overrides).

    Args:
        topic: resolved.
        kind: type of the topic's messages.
        wanted: best_effort, reliable, or auto: reliable, also while nobody publishes, unless a
            publisher offers less. Best effort hears every publisher, but the middleware's default
            buffers lose many messages the size of an image; reliable gets them all.
    """
    given = _given(node, topic, "subscription", "reliability")
    if given is not None:
        return ReliabilityPolicy(given)
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


def with_overrides(node: Node, topic: str, side: Side, qos: QoSProfile) -> QoSProfile:
    """The profile, changed by the parameters qos_overrides.<topic>.<side>.<policy> given at start.

    Declares the parameters that were given, and no others: a file that `ros2 param dump` writes
    would make an override of each, and what is chosen by who publishes now would be fixed.

    Args:
        topic: resolved.

    Raises:
        QoSError: a value is not allowed.
    """
    for policy in _POLICIES:
        name = _parameter(topic, side, policy)
        _overridable.setdefault(node, set()).add(name)
        given = _given(node, topic, side, policy)
        if given is None:
            continue
        setattr(qos, policy, given)
        if node.has_parameter(name):
            node.undeclare_parameter(name)
        node.declare_parameter(
            name,
            given if _POLICIES[policy] is None else given.name.lower(),
            ParameterDescriptor(description=f"{policy} of the {side} of {topic}; read at start"),
            ignore_override=True,
        )
    return qos


def check_overrides(node: Node, topic: str, side: Side) -> None:
    """Raise QoSError if an override of a topic (resolved) cannot be used."""
    for policy in _POLICIES:
        _given(node, topic, side, policy)


def is_overridden(node: Node, topic: str, side: Side, policy: str) -> bool:
    """Whether the user has chosen this policy of a topic (resolved) at start."""
    return _parameter(topic, side, policy) in _overrides(node)


def report_unused_overrides(node: Node, subscriptions: Iterable[str] = ()) -> None:
    """Warn of overrides given at start that nothing uses, and name the likely one.

    Args:
        subscriptions: topics (resolved) that the node may subscribe to later on.
    """
    used = _overridable.get(node, set()) | {
        _parameter(topic, "subscription", policy) for topic in subscriptions for policy in _POLICIES
    }
    names = sorted(name.removeprefix(f"{_PREFIX}.") for name in used)
    for parameter in sorted(_overrides(node)):
        prefix, _, name = parameter.partition(".")
        if prefix != _PREFIX or parameter in used:
            continue
        similar = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
        hint = f"; did you mean {_PREFIX}.{similar[0]}?" if similar else ""
        node.get_logger().warning(
            f"ignored the parameter {parameter}: there is no such topic or policy{hint}"
        )


def type_name(kind: type[Any]) -> str:
    """sensor_msgs.msg.Image -> "sensor_msgs/msg/Image", as the ROS graph names types."""
    package, _, _ = kind.__module__.partition(".")
    return f"{package}/msg/{kind.__name__}"


def _given(node: Node, topic: str, side: Side, policy: str) -> Any:
    """What the user wants instead, None if nothing.

    Raises:
        QoSError: it is not allowed.
    """
    name = _parameter(topic, side, policy)
    overrides = _overrides(node)
    if name not in overrides:
        return None
    value, values = overrides[name].value, _POLICIES[policy]
    if values is None:
        if type(value) is not int or value < 1:
            raise QoSError(
                f"parameter {name} is {value!r}; expected a number of messages, 1 or more"
            )
        return value
    names = [item.name.lower() for item in values if item.name != "UNKNOWN"]
    if value not in names:
        raise QoSError(f"parameter {name} is {value!r}; expected one of {', '.join(names)}")
    return values[value.upper()]


def _overrides(node: Node) -> Mapping[str, Any]:
    """All parameters that were given at start; rclpy has no public list of them."""
    given: Mapping[str, Any] = getattr(node, "_parameter_overrides", {})
    return given


def _parameter(topic: str, side: Side, policy: str) -> str:
    return f"{_PREFIX}.{topic}.{side}.{policy}"
