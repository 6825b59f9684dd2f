"""One camera of the perception node: its subscription, its transport and its statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rclpy.event_handler import QoSMessageLostInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from genesis_ros.conversions import ImageMessage
from genesis_ros.frame_statistics import FrameStatistics

COMPRESSED_SUFFIX = "/compressed"
_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


class Frame(NamedTuple):
    """A camera message and when it arrived [s, monotonic]."""

    camera: Camera
    message: ImageMessage
    received: float


class Camera:
    """Subscribes to one image topic and hands every frame on.

    topic: as configured; resolved against the node's namespace and remappings.
    transport: raw, compressed or auto (then follow_publishers() decides, as soon as there are any).
    on_frame: called with each frame in the node's executor.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        transport: str,
        reliability: str,
        on_frame: Callable[[Frame], None],
    ) -> None:
        self.topic = node.resolve_topic_name(topic)
        self.statistics = FrameStatistics(time.monotonic())
        self.stale = False  # whether its silence has been reported
        self._node = node
        self._on_frame = on_frame
        self._qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=5,  # enough to count what arrives in a burst; frames wait in the worker, not here
            reliability=ReliabilityPolicy[reliability.upper()],
        )
        self._subscription: Subscription[Any] | None = None
        self._subscribed: tuple[str, type[ImageMessage]] | None = None
        if self.topic.endswith(COMPRESSED_SUFFIX):
            transport = "compressed"
            self._compressed_topic = self.topic
        else:
            self._compressed_topic = self.topic + COMPRESSED_SUFFIX
        self._automatic = transport == "auto"
        if transport == "compressed":
            self._subscribe(self._compressed_topic, CompressedImage)
        else:
            self._subscribe(self.topic, Image)
        self.follow_publishers()

    @property
    def source(self) -> str:
        """The topic that is subscribed to."""
        assert self._subscribed is not None
        return self._subscribed[0]

    def publishers(self) -> int:
        """How many publishers the subscribed topic has."""
        return self._node.count_publishers(self.source)

    def follow_publishers(self) -> None:
        """With transport auto: subscribe to what is published, raw images first."""
        if not self._automatic:
            return
        if self._published(self.topic, _IMAGE):
            self._subscribe(self.topic, Image)
        elif self._published(self._compressed_topic, _COMPRESSED):
            self._subscribe(self._compressed_topic, CompressedImage)

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _published(self, topic: str, kind: str) -> bool:
        publishers = self._node.get_publishers_info_by_topic(topic)
        return any(publisher.topic_type == kind for publisher in publishers)

    def _subscribe(self, topic: str, kind: type[ImageMessage]) -> None:
        if self._subscribed == (topic, kind):
            return
        self.close()
        self._subscription = self._node.create_subscription(kind, topic, self._receive, self._qos)
        self._subscribed = (topic, kind)

    def _lost(self, event: QoSMessageLostInfo) -> None:
        self.statistics.lose(event.total_count_change)

    def _receive(self, message: ImageMessage) -> None:
        now = time.monotonic()
        self.statistics.receive(now)
        self.stale = False
        self._on_frame(Frame(self, message, now))
