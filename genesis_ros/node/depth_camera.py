"""A camera's depth images and intrinsics, received by the perception node."""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from genesis_ros.messages.depth_pairing import DepthPairing, info_beside
from genesis_ros.node.subscription import Candidate, FollowingSubscription

_QUEUE = 5


class DepthCamera(DepthPairing):
    """Subscribes to depth images and their CameraInfo and finds those that belong to an image.

    depth_topic: sensor_msgs/Image, 16UC1 [mm] or 32FC1 [m], registered to the colour image.
    info_topic: sensor_msgs/CameraInfo of the depth image; "": camera_info beside the depth topic.
    reliability: best_effort, reliable or auto (see qos.choose_reliability).

    Messages arrive in the node's executor; other methods may be called from any thread.
    """

    def __init__(
        self, node: Node, depth_topic: str, info_topic: str = "", reliability: str = "auto"
    ) -> None:
        topic = node.resolve_topic_name(depth_topic)
        super().__init__(topic, node.resolve_topic_name(info_topic or info_beside(topic)))
        images, infos = Candidate(self.topic, Image), Candidate(self.info_topic, CameraInfo)
        self._subscriptions = [
            FollowingSubscription(node, [images], reliability, self._receive, depth=_QUEUE),
            FollowingSubscription(node, [infos], reliability, self.add_info, depth=_QUEUE),
        ]

    def follow_publishers(self) -> None:
        """Adapt the reliability, where it is auto, to those who publish now (executor thread)."""
        for subscription in self._subscriptions:
            subscription.follow_publishers()

    def _receive(self, message: Image) -> None:  # rclpy would pass add_image() the message's info
        self.add_image(message)

    def close(self) -> None:
        """End the subscriptions and forget the messages (executor thread)."""
        for subscription in self._subscriptions:
            subscription.close()
        self.clear()
