"""A camera's depth images and intrinsics, received by the perception node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from genesis_bags.decoding.compressed_depth import COMPRESSED_DEPTH
from genesis_bags.decoding.messages import ImageMessage
from genesis_ros.messages.depth_pairing import DepthPairing, info_beside
from genesis_ros.node.camera_names import resolve_topic
from genesis_ros.node.receiver import Receiver
from genesis_ros.node.subscription import (
    Candidate,
    FollowingSubscription,
    LatchedSubscription,
    image_candidate,
)

_QUEUE = 5


class DepthCamera(DepthPairing):
    """Subscribes to depth images and their CameraInfo and finds those that belong to an image.

    Messages arrive in the receiver's thread; other methods may be called from any thread.

    Args:
        receiver: takes the messages.
        depth_topic: 16UC1 or 32FC1 (see DepthUnit), registered to the colour image:
            sensor_msgs/Image, or sensor_msgs/CompressedImage where the name ends in
            /compressedDepth or /compressed.
        info_topic: sensor_msgs/CameraInfo of the depth image; "": camera_info beside the depth
            topic.
        reliability: best_effort, reliable or auto (see qos.choose_reliability).
        transport: which of the raw topic and /compressedDepth below it comes first: raw takes only
            that one, compressed prefers the other, auto the raw one.
    """

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        depth_topic: str,
        info_topic: str = "",
        reliability: str = "auto",
        *,
        transport: str = "auto",
    ) -> None:
        topic = resolve_topic(node, depth_topic)
        super().__init__(topic, resolve_topic(node, info_topic or info_beside(topic)))
        self._last_info: CameraInfo | None = None
        self._last_published = 0  # when the last info was [ns]
        images, infos = _candidates(self.topic, transport), Candidate(self.info_topic, CameraInfo)
        self._images_heard = FollowingSubscription(
            node, receiver, images, reliability, self._take_image, depth=_QUEUE
        )
        self._subscriptions = [
            self._images_heard,
            FollowingSubscription(
                node, receiver, [infos], reliability, self._take_info, depth=_QUEUE
            ),
        ]
        # Some drivers send their intrinsics once, before this node is there.
        self._latched = LatchedSubscription(node, receiver, infos, self._take_latched)

    @property
    def topics(self) -> set[str]:
        """All topics that may be subscribed to."""
        return {topic for subscription in self._subscriptions for topic in subscription.topics}

    def follow_publishers(self, patience: float) -> None:
        """Adapt the reliability, where it is auto, to those who publish now (executor thread).

        Args:
            patience: see FollowingSubscription.
        """
        for subscription in self._subscriptions:
            subscription.follow_publishers(patience)
        self._latched.follow_publishers()
        if not self.has_images:
            self.published_instead = self._images_heard.unexpected_types()

    def unsubscribe(self) -> None:
        """End the subscriptions (executor thread); images that came still find their depth."""
        for subscription in self._subscriptions:
            subscription.close()
        self._latched.close()

    def close(self) -> None:
        """End the subscriptions and forget the messages (executor thread)."""
        self.unsubscribe()
        self.clear()

    def _take_image(self, message: ImageMessage, info: Mapping[str, Any]) -> None:
        self.add_image(message)

    def _take_info(self, message: CameraInfo, info: Mapping[str, Any]) -> None:
        self._last_published = info["source_timestamp"]
        if message != self._last_info:  # else both subscriptions heard it
            self._last_info = message
            self.add_info(message)

    def _take_latched(self, message: CameraInfo, info: Mapping[str, Any]) -> None:
        # Not by the header's stamps: they go back where a bag or a simulation starts anew.
        if info["source_timestamp"] >= self._last_published:
            self._take_info(message, info)


def _candidates(topic: str, transport: str) -> list[Candidate]:
    """Topics and types to listen to, in order of preference.

    A depth camera whose colours come compressed may well send raw depth.
    """
    if topic.endswith((COMPRESSED_DEPTH, "/compressed")):
        return [image_candidate(topic, CompressedImage)]
    raw = image_candidate(topic, Image)
    below = image_candidate(topic + COMPRESSED_DEPTH, CompressedImage)
    return {"raw": [raw], "compressed": [below, raw], "auto": [raw, below]}[transport]
