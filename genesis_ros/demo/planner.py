"""The demo's planner: listens to the camera and the perception node as a user's node would."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from sensor_msgs.msg import Image

from genesis_ros.messages.cdr import read_image
from genesis_ros.msg import ObjectMask, ObjectMasks

IMAGE_TOPIC = "/camera/image_raw"
DEPTH_TOPIC = "/camera/depth/image_raw"
MASKS_TOPIC = "/genesis/object_masks"
LABELS_TOPIC = "/genesis/label_image"
OVERLAY_TOPIC = "/genesis/overlay"
TOPICS: dict[str, type[Any]] = {
    IMAGE_TOPIC: Image,
    MASKS_TOPIC: ObjectMasks,
    LABELS_TOPIC: Image,
    OVERLAY_TOPIC: Image,
}
# rclpy takes long to turn large messages into objects, while masks wait. These stay bytes.
_BYTES = (IMAGE_TOPIC, OVERLAY_TOPIC)
_PERCEPTION = "/genesis/perception"
# Incomplete results that are kept, at least; more, while their images are not larger [bytes].
_INCOMPLETE_KEPT = 50
_KEPT_BYTES = 500_000_000


@dataclass
class FrameResult:
    """What the planner received for one camera image, matched by its stamp."""

    stamp: int
    """Nanoseconds since the epoch."""
    messages: dict[str, Any] = field(default_factory=dict)
    """By topic; complete when every topic of `TOPICS` is there."""
    latency: float = 0.0
    """Seconds from the image's stamp to the arrival of its masks."""

    @property
    def objects(self) -> list[ObjectMask]:
        return list(self.messages[MASKS_TOPIC].objects)


class Planner(Node):
    """Listens to the perception node and puts together what belongs to one image."""

    def __init__(self) -> None:
        super().__init__("planner", namespace="demo")
        self.results: queue.SimpleQueue[FrameResult] = queue.SimpleQueue()
        self.failure: str | None = None
        """Why the perception node could not load or start, as its diagnostics say."""
        self.image_stamps: list[int] = []
        """Of all camera images that arrived, in order."""
        self._incomplete: dict[int, FrameResult] = {}
        for topic, message_type in TOPICS.items():
            self.create_subscription(
                message_type,
                topic,
                self._collector(topic),
                QoSProfile(depth=10),
                raw=topic in _BYTES,
            )
        self.create_subscription(DiagnosticArray, "/diagnostics", self._check_health, 10)

    def perception_listens(self) -> bool:
        """Whether the perception node has loaded its model and waits for images."""
        listeners = self.get_subscriptions_info_by_topic(IMAGE_TOPIC)
        return any(f"{info.node_namespace}/{info.node_name}" == _PERCEPTION for info in listeners)

    def _collector(self, topic: str) -> Callable[[Any], None]:
        def collect(message: Any) -> None:
            now = self.get_clock().now()
            if isinstance(message, bytes):
                message = read_image(message)
            stamp = Time.from_msg(message.header.stamp)
            if topic == IMAGE_TOPIC:
                self.image_stamps.append(stamp.nanoseconds)
            result = self._incomplete.setdefault(stamp.nanoseconds, FrameResult(stamp.nanoseconds))
            result.messages[topic] = message
            if topic == MASKS_TOPIC:
                result.latency = (now - stamp).nanoseconds / 1e9
            if len(result.messages) == len(TOPICS):
                self.results.put(self._incomplete.pop(stamp.nanoseconds))
                # Images that the perception node passed over for newer ones stay incomplete.
                for older in [other for other in self._incomplete if other < stamp.nanoseconds]:
                    del self._incomplete[older]
            elif len(self._incomplete) > _INCOMPLETE_KEPT and self._kept_bytes() > _KEPT_BYTES:
                del self._incomplete[next(iter(self._incomplete))]

        return collect

    def _kept_bytes(self) -> int:
        images = (result.messages.get(IMAGE_TOPIC) for result in self._incomplete.values())
        return sum(len(image.data) for image in images if image is not None)

    def _check_health(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == _PERCEPTION and status.level == DiagnosticStatus.ERROR:
                self.failure = status.message


@contextmanager
def running_planner(domain_id: int) -> Iterator[Planner]:
    """A planner whose messages are received in a thread of its own."""
    # Ctrl-C must reach the demo as KeyboardInterrupt, not end rclpy under it.
    rclpy.init(domain_id=domain_id, signal_handler_options=SignalHandlerOptions.NO)
    try:
        planner = Planner()
        executor = SingleThreadedExecutor()
        executor.add_node(planner)

        def spin() -> None:
            with suppress(ExternalShutdownException):
                executor.spin()

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        try:
            yield planner
        finally:
            executor.shutdown()
            thread.join()
            planner.destroy_node()
    finally:
        rclpy.try_shutdown()
