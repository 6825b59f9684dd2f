"""The publishers of the perception node: a topic for each row of the table of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile

from genesis_ros.outputs import OUTPUTS, Result

_DEPTH = 5  # images per camera that a slow subscriber may be late


class Publishers:
    """Publishes results below the node's namespace; see outputs.OUTPUTS.

    cameras: names of all of them.
    """

    def __init__(self, node: LifecycleNode, cameras: Sequence[str]) -> None:
        self._node = node
        self._several = len(cameras) > 1
        self._publishers: dict[str, LifecyclePublisher[Any]] = {}
        for output in OUTPUTS:
            for camera in cameras:
                for topic in output.topics(camera, several=self._several):
                    if topic not in self._publishers:
                        # Reliable (REP-2003). All cameras' results of one pass come at once.
                        sharing = len(cameras) if topic == output.name else 1
                        qos = QoSProfile(depth=_DEPTH * sharing)
                        publisher = node.create_lifecycle_publisher(output.kind, topic, qos)
                        self._publishers[topic] = publisher

    def publish(self, result: Result, overlay_alpha: float) -> None:
        """Publish a camera's result; a message is made only if somebody listens to it."""
        for output in OUTPUTS:
            topics = output.topics(result.masks.camera, several=self._several)
            publishers = [self._publishers[topic] for topic in topics]
            wanted = [item for item in publishers if item.get_subscription_count()]
            if wanted:
                message = output.make(result, overlay_alpha)
                for publisher in wanted:
                    publisher.publish(message)

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = {}
