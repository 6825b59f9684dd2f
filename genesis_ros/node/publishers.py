"""The publishers of the perception node: a topic for each row of the table of outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile

from genesis_ros.node.qos import check_overrides, with_overrides
from genesis_ros.outputs import Output, Result

# What the ROS graph calls a node whose topics were discovered before its name.
_UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"
_DEPTH = 5  # images per camera that a slow subscriber may be late


class Message(NamedTuple):
    """A message, as an object or as bytes, and the publishers of the topics that it is for."""

    content: Any
    publishers: Sequence[LifecyclePublisher[Any]]

    def publish(self) -> None:
        """Publish it."""
        for publisher in self.publishers:
            publisher.publish(self.content)


def check_publishers(
    node: LifecycleNode, cameras: Sequence[str], outputs: Sequence[Output]
) -> None:
    """Raise QoSError if an override of a topic of theirs cannot be used. See Publishers."""
    for topic, _ in _topics(cameras, outputs):
        check_overrides(node, node.resolve_topic_name(topic), "publisher")


class Publishers:
    """Publishes results below the node's namespace.

    Args:
        cameras: names of all of them.
        outputs: rows of the tables of outputs.

    Raises:
        QoSError: an override of a topic cannot be used.
    """

    def __init__(
        self, node: LifecycleNode, cameras: Sequence[str], outputs: Sequence[Output]
    ) -> None:
        self._node = node
        self._outputs = outputs
        self._several = len(cameras) > 1
        self._publishers: dict[str, LifecyclePublisher[Any]] = {}
        self._latched: set[str] = set()  # topics whose last messages those get who come later
        try:
            for topic, output in _topics(cameras, outputs):
                # Reliable (REP-2003). All cameras' results of one pass come at once.
                sharing = len(cameras) if topic == output.name else 1
                qos = QoSProfile(depth=_DEPTH * sharing)
                qos = with_overrides(node, node.resolve_topic_name(topic), "publisher", qos)
                publisher = node.create_lifecycle_publisher(output.kind, topic, qos)
                self._publishers[topic] = publisher
                if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                    self._latched.add(topic)
        except Exception:
            self.destroy()  # nobody else knows those that are there already
            raise

    def messages(self, result: Result, overlay_alpha: float) -> Iterator[Message]:
        """What there is to publish of a camera's result, each message made when its turn comes.

        It is made only if somebody listens to it, or may later and gets it then.
        """
        for output in self._outputs:
            if wanted := self._wanted(output, result.camera):
                make = output.write or output.make
                yield Message(make(result, overlay_alpha), wanted)

    def are_wanted(self, camera: str) -> bool:
        """Whether somebody listens to anything about this camera, or may later and gets it then."""
        return any(self._wanted(output, camera) for output in self._outputs)

    def _wanted(self, output: Output, camera: str) -> list[LifecyclePublisher[Any]]:
        topics = output.topics(camera, several=self._several)
        return [
            publisher
            for topic in topics
            if (publisher := self._publishers[topic]).get_subscription_count()
            or topic in self._latched
        ]

    def rivals(self) -> dict[str, list[str]]:
        """Other nodes that publish on these topics, too: the topics by the nodes' names."""
        own = self._node.get_fully_qualified_name()
        found: dict[str, list[str]] = {}
        for publisher in self._publishers.values():
            topic = publisher.topic_name
            names = [
                f"{item.node_namespace.rstrip('/')}/{item.node_name}"
                for item in self._node.get_publishers_info_by_topic(topic)
                if item.node_name != _UNKNOWN_NODE
            ]
            if own in names:
                names.remove(own)  # once: another one may have the same name
            for name in names:
                found.setdefault(name, []).append(topic)
        return found

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}


def _topics(cameras: Sequence[str], outputs: Sequence[Output]) -> Iterator[tuple[str, Output]]:
    """Each topic once, below the node's namespace, and what is published there."""
    found = {
        topic: output
        for output in outputs
        for camera in cameras
        for topic in output.topics(camera, several=len(cameras) > 1)
    }
    yield from found.items()
