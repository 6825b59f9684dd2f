"""A camera's depth images and intrinsics, received by the perception node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from genesis_ros.messages.cdr import ReceivedImage
from genesis_ros.messages.depth_pairing import DepthPairing, info_beside
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
        depth_topic: sensor_msgs/Image, 16UC1 [mm] or 32FC1 [m], registered to the colour image.
        info_topic: sensor_msgs/CameraInfo of the depth image; "": camera_info beside the depth
            topic.
        reliability: best_effort, reliable or auto (see qos.choose_reliability).
    """

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        depth_topic: str,
        info_topic: str = "",
        reliability: str = "auto",
    ) -> None:
        topic = node.resolve_topic_name(depth_topic)
        super().__init__(topic, node.resolve_topic_name(info_topic or info_beside(topic)))
        self._last_info: CameraInfo | None = None
        images = image_candidate(self.topic, Image)
        infos = Candidate(self.info_topic, CameraInfo)
        self._subscriptions = [
            FollowingSubscription(
                node, receiver, [images], reliability, self._take_image, depth=_QUEUE
            ),
            FollowingSubscription(
                node, receiver, [infos], reliability, self._take_info, depth=_QUEUE
            ),
        ]
        # Some drivers send their intrinsics once, before this node is there.
        self._latched = LatchedSubscription(node, infos, self._take_info)

    def follow_publishers(self, patience: float) -> None:
        """Adapt the reliability, where it is auto, to those who publish now (executor thread).

        Args:
            patience: see FollowingSubscription.
        """
        for subscription in self._subscriptions:
            subscription.follow_publishers(patience)
        self._latched.follow_publishers()

    def close(self) -> None:
        """End the subscriptions and forget the messages (executor thread)."""
        for subscription in self._subscriptions:
            subscription.close()
        self._latched.close()
        self.clear()

    def _take_image(self, message: ReceivedImage, info: Mapping[str, Any]) -> None:
        self.add_image(message)

    def _take_info(self, message: CameraInfo, info: Mapping[str, Any] | None = None) -> None:
        if message != self._last_info:  # else both subscriptions heard it
            self._last_info = message
            self.add_info(message)
