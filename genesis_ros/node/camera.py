"""One camera of the perception node: what it listens to, and what is kept from frame to frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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

from genesis_core.perception.depth import Measurement
from genesis_core.perception.objects import SceneObjects
from genesis_core.perception.tracking import Tracker
from genesis_ros.messages.images import ImageMessage
from genesis_ros.node.depth_camera import DepthCamera, DepthError
from genesis_ros.node.frame_statistics import FrameStatistics
from genesis_ros.node.parameters import Settings
from genesis_ros.node.qos import choose_reliability, type_name

COMPRESSED_SUFFIX = "/compressed"
_Candidate: TypeAlias = tuple[str, type[ImageMessage]]
# Parts of a topic that say what is sent rather than which camera sends it.
_GENERIC_PARTS = frozenset(
    ["image_raw", "image", "image_rect", "image_color", "image_rect_color", "image_mono",
     "compressed", "color", "colour", "rgb"]
)  # fmt: skip
_DEPTH_WAIT = 0.02  # s; a model on a GPU may be faster than the depth image is registered
# The newest only: a frame that has to wait in a queue costs time, and is old when it is taken out.
_DEPTH = 1


class Frame(NamedTuple):
    """A camera message and when it arrived [s, monotonic]."""

    camera: Camera
    message: ImageMessage
    received: float

    @property
    def time(self) -> float:
        """When it was taken [s], or if its driver does not say, when it arrived."""
        stamp = self.message.header.stamp
        return stamp.sec + stamp.nanosec * 1e-9 or self.received


class _Stream(NamedTuple):
    """What is, or should be, subscribed to."""

    topic: str
    kind: type[ImageMessage]
    reliability: ReliabilityPolicy


class Camera:
    """One camera: subscribes to its images, and knows its tracks, its depth and its statistics.

    name: for messages and topics. index: which of the settings' image topics it is.
    tracker: gives its objects their ids. on_frame: called with each frame in the node's executor.

    The topic is resolved against the node's namespace and remappings. What is subscribed to follows
    the settings image_transport and qos_reliability.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        index: int,
        settings: Settings,
        tracker: Tracker,
        on_frame: Callable[[Frame], None],
    ) -> None:
        self.name = name
        self.topic = node.resolve_topic_name(settings.image_topics[index])
        self.statistics = FrameStatistics(time.monotonic())
        self.stale = False  # whether its silence has been reported
        self.depth_problem: str | None = None  # why the last image got no positions
        self._node = node
        self._reliability = settings.qos_reliability
        self._on_frame = on_frame
        self._tracker = tracker
        self._reset_requested = False
        self._tracked = 0
        self._depth: DepthCamera | None = None
        if depth_topic := settings.per_camera("depth_topics")[index]:
            info_topic = settings.per_camera("camera_info_topics")[index]
            self._depth = DepthCamera(node, depth_topic, info_topic, settings.qos_reliability)
        self._candidates = _candidates(self.topic, settings.image_transport)
        self._subscription: Subscription[Any] | None = None
        # Publisher of the newest frame and its number there.
        self._last: tuple[object, int | None] = None, None
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
        if self._depth is not None:
            self._depth.follow_publishers()
        stream = self._choose((self._stream.topic, self._stream.kind))
        if stream != self._stream:
            self._unsubscribe()
            self._stream = stream
            self._subscribe()

    def close(self) -> None:
        """End the subscriptions."""
        self._unsubscribe()
        if self._depth is not None:
            self._depth.close()

    # In the worker thread

    def track(self, frame: Frame, found: SceneObjects, settings: Settings) -> list[int]:
        """An id per object that stays the same from image to image; 0 if nothing is tracked."""
        if self._reset_requested or not settings.tracking:
            self._reset_requested = False
            self._tracker.reset()
        if not settings.tracking:
            self._tracked = 0
            return [0] * len(found.objects)
        self._tracker.configure(
            max_age=settings.track_max_age, min_similarity=settings.track_min_similarity
        )
        track_ids = list(self._tracker.update(found, frame.time))
        self._tracked = len(track_ids)
        return track_ids

    def measure(
        self, frame: Frame, found: SceneObjects, settings: Settings
    ) -> list[Measurement | None]:
        """Position and size of each object but background, None where they are not known."""
        measured: list[Measurement | None] = [None] * len(found.objects)
        if self._depth is None:
            return measured
        stamp = frame.message.header.stamp
        wanted = [item for item in found.objects if not item.background]
        try:
            results = self._depth.measure(
                stamp,
                found.labels,
                [item.label for item in wanted],
                settings.depth_tolerance,
                timeout=_DEPTH_WAIT,
            )
        except DepthError as error:
            self.depth_problem = str(error)
            return measured
        self.depth_problem = None
        for item, result in zip(wanted, results, strict=True):
            measured[item.label - 1] = result
        return measured

    def reset_tracks(self) -> None:
        """Forget the tracks before the next frame (from any thread)."""
        self._reset_requested = True

    def facts(self) -> dict[str, object]:
        """For diagnostics."""
        return {"camera": self.name, "objects tracked": self._tracked}

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._last = None, None  # what is sent from now on is not missed

    def _choose(self, current: _Candidate) -> _Stream:
        """The first candidate that is published; else stay where we are."""
        published = (
            (topic, kind)
            for topic, kind in self._candidates
            if any(
                publisher.topic_type == type_name(kind)
                for publisher in self._node.get_publishers_info_by_topic(topic)
            )
        )
        topic, kind = next(published, current)
        return _Stream(topic, kind, choose_reliability(self._node, topic, kind, self._reliability))

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
        if self._last[1] is None:  # else _count_missing() knows
            self.statistics.lose(event.total_count_change)

    def _incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        if self._reliability != "auto":  # else follow_publishers() puts it right
            self._node.get_logger().warning(
                f"a publisher of {self.source} offers best effort only, nothing is heard of it: "
                "set the parameter qos_reliability to auto or best_effort"
            )

    def _count_missing(self, info: Mapping[str, Any]) -> None:
        """Count the frames between the last one and this, where the middleware numbers them."""
        publisher, number = info.get("publisher_gid"), info.get("publication_sequence_number")
        last_publisher, last = self._last
        self._last = publisher, number
        if publisher is None or publisher != last_publisher or number is None or last is None:
            return
        missing = max(0, number - last - 1)
        if self._stream.reliability == ReliabilityPolicy.RELIABLE:
            self.statistics.skip(missing)  # nothing gets lost, but newer ones take its place
        else:
            self.statistics.lose(missing)

    def _receive(self, message: ImageMessage, info: Mapping[str, Any]) -> None:
        now = time.monotonic()
        self._count_missing(info)
        self.statistics.receive(now)
        self.stale = False
        self._on_frame(Frame(self, message, now))


def _candidates(topic: str, transport: str) -> list[_Candidate]:
    """Topics and types to listen to, in order of preference."""
    if topic.endswith(COMPRESSED_SUFFIX):
        return [(topic, CompressedImage)]
    raw, compressed = (topic, Image), (topic + COMPRESSED_SUFFIX, CompressedImage)
    return {"raw": [raw], "compressed": [compressed], "auto": [raw, compressed]}[transport]


def camera_names(topics: Sequence[str], given: Sequence[str]) -> list[str]:
    """A name for the camera of each topic: the one given, or "" for one after the topic.

    /left/image_raw and /left/color/image_raw are called left; topics that would be called the same
    get all their parts: arm_left, head_left.
    """
    short = [name or _name_after(topic) for topic, name in zip(topics, given, strict=True)]
    long = [topic.strip("/").replace("/", "_") for topic in topics]
    return [
        name if given[index] or short.count(name) == 1 else long[index]
        for index, name in enumerate(short)
    ]


def _name_after(topic: str) -> str:
    parts = [part for part in topic.split("/") if part]
    own = [part for part in parts if part not in _GENERIC_PARTS]
    return own[-1] if own else "camera"
