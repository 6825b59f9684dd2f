"""One camera of the perception node: its subscription and its statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from rclpy.event_handler import (
    QoSMessageLostInfo,
    QoSRequestedIncompatibleQoSInfo,
    SubscriptionEventCallbacks,
)
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image

from genesis_ros.conversions import ImageMessage
from genesis_ros.frame_statistics import FrameStatistics

COMPRESSED_SUFFIX = "/compressed"
_Candidate: TypeAlias = tuple[str, type[ImageMessage]]
_TYPE_NAMES = {
    Image: "sensor_msgs/msg/Image",
    CompressedImage: "sensor_msgs/msg/CompressedImage",
}
# Enough to count what arrives in a burst; frames wait in the worker, not here.
_DEPTH = 5


class Frame(NamedTuple):
    """A camera message and when it arrived [s, monotonic]."""

    camera: Camera
    message: ImageMessage
    received: float


class _Stream(NamedTuple):
    """What is, or should be, subscribed to."""

    topic: str
    kind: type[ImageMessage]
    reliability: ReliabilityPolicy


class Camera:
    """Subscribes to one image topic and hands every frame on.

    topic: as configured; resolved against the node's namespace and remappings.
    transport: raw, compressed, or auto: what is published, raw first.
    reliability: best_effort, reliable, or auto: reliable unless a publisher offers less. Best
        effort hears every camera, but the middleware's default buffers lose many frames of 640x480
        and more; reliable gets them all.
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
        self._reliability = reliability
        self._on_frame = on_frame
        self._candidates = _candidates(self.topic, transport)
        self._subscription: Subscription[Any] | None = None
        self._stream = self._choose(self._candidates[0])
        self._subscribe()

    @property
    def source(self) -> str:
        """The topic that is subscribed to."""
        return self._stream.topic

    def publishers(self) -> int:
        """How many publishers the subscribed topic has."""
        return self._node.count_publishers(self.source)

    def follow_publishers(self) -> None:
        """Adapt what is set to auto to those who publish now."""
        stream = self._choose((self._stream.topic, self._stream.kind))
        if stream != self._stream:
            self.close()
            self._stream = stream
            self._subscribe()

    def close(self) -> None:
        """End the subscription."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _choose(self, current: _Candidate) -> _Stream:
        """The first candidate that is published; else stay where we are."""
        for topic, kind in self._candidates:
            offered = [
                publisher.qos_profile.reliability
                for publisher in self._node.get_publishers_info_by_topic(topic)
                if publisher.topic_type == _TYPE_NAMES[kind]
            ]
            if offered:
                return _Stream(topic, kind, self._match(offered))
        return _Stream(*current, self._match([]))

    def _match(self, offered: Sequence[ReliabilityPolicy]) -> ReliabilityPolicy:
        if self._reliability != "auto":
            return ReliabilityPolicy[self._reliability.upper()]
        # While nobody publishes: reliable, which lets no publisher send before all is settled. (One
        # that is reliable needs no change, and one that is not finds no listener until it is made.)
        if any(policy != ReliabilityPolicy.RELIABLE for policy in offered):
            return ReliabilityPolicy.BEST_EFFORT
        return ReliabilityPolicy.RELIABLE

    def _subscribe(self) -> None:
        self._subscription = self._node.create_subscription(
            self._stream.kind,
            self._stream.topic,
            self._receive,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=_DEPTH,
                reliability=self._stream.reliability,
            ),
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=self._lost, incompatible_qos=self._incompatible
            ),
        )

    def _lost(self, event: QoSMessageLostInfo) -> None:
        self.statistics.lose(event.total_count_change)

    def _incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._reliability != "auto":  # else follow_publishers() puts it right
            self._node.get_logger().warning(
                f"a publisher of {self.source} offers best effort only, nothing is heard of it: "
                "set the parameter qos_reliability to auto or best_effort"
            )

    def _receive(self, message: ImageMessage) -> None:
        now = time.monotonic()
        self.statistics.receive(now)
        self.stale = False
        self._on_frame(Frame(self, message, now))


def _candidates(topic: str, transport: str) -> list[_Candidate]:
    """Topics and types to listen to, in order of preference."""
    if topic.endswith(COMPRESSED_SUFFIX):
        return [(topic, CompressedImage)]
    raw, compressed = (topic, Image), (topic + COMPRESSED_SUFFIX, CompressedImage)
    return {"raw": [raw], "compressed": [compressed], "auto": [raw, compressed]}[transport]
