"""A camera's depth images and intrinsics, matched to its colour images by their stamps."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from genesis_core.pipeline import DepthImage
from genesis_ros.messages.depth import depth_metres, intrinsics
from genesis_ros.messages.pixels import ImageError
from genesis_ros.node.subscription import Candidate, FollowingSubscription

# Depth images are kept until the image of their time has been through the model. 32 MB are a second
# and more of 640x480 16UC1 at 30 Hz; a slower model needs a slower camera.
_KEPT_BYTES = 32_000_000
_KEPT_LEAST, _KEPT_MOST = 3, 60
_QUEUE = 5
_ALIVE = 1_000_000_000  # ns; see DepthCamera.nearest


class DepthError(ImageError):
    """There is no depth for an image. The text names the topic and says why; kind is short."""


class DepthView(NamedTuple):
    """A depth image and the intrinsics that belong to it."""

    image: Image
    info: CameraInfo


class DepthCamera:
    """Subscribes to depth images and their CameraInfo and finds those that belong to an image.

    depth_topic: sensor_msgs/Image, 16UC1 [mm] or 32FC1 [m], registered to the colour image.
    info_topic: sensor_msgs/CameraInfo of the depth image; "": camera_info beside the depth topic.
    reliability: best_effort, reliable or auto (see qos.choose_reliability).

    Messages arrive in the node's executor; the other methods may be called from any thread.
    """

    def __init__(
        self, node: Node, depth_topic: str, info_topic: str = "", reliability: str = "auto"
    ) -> None:
        self.topic = node.resolve_topic_name(depth_topic)
        self.info_topic = node.resolve_topic_name(
            info_topic or self.topic.rpartition("/")[0] + "/camera_info"
        )
        self._images: deque[Image] = deque()
        self._info: CameraInfo | None = None
        self._arrived = threading.Condition()
        self._subscriptions = [
            FollowingSubscription(
                node, [Candidate(topic, kind)], reliability, receive, depth=_QUEUE
            )
            for topic, kind, receive in (
                (self.topic, Image, self._receive_image),
                (self.info_topic, CameraInfo, self._receive_info),
            )
        ]

    def follow_publishers(self) -> None:
        """Adapt the reliability, where it is auto, to those who publish now (executor thread)."""
        for subscription in self._subscriptions:
            subscription.follow_publishers()

    def close(self) -> None:
        """End the subscriptions and forget the messages (executor thread)."""
        for subscription in self._subscriptions:
            subscription.close()
        with self._arrived:
            self._images.clear()
            self._info = None
            self._arrived.notify_all()

    def depth_image(self, stamp: Time, tolerance: float, timeout: float = 0.0) -> DepthImage:
        """The depth that belongs to an image with this stamp. tolerance, timeout: see nearest.

        Raises DepthError if there is none, or it cannot be used.
        """
        view = self.nearest(stamp, tolerance, timeout)
        try:
            depth = depth_metres(view.image)
            return DepthImage(depth, intrinsics(view.info, *depth.shape), self.topic)
        except ImageError as error:
            topic = self.info_topic if error.kind in ("intrinsics", "info size") else self.topic
            raise DepthError(error.kind, f"{topic}: {error}") from error

    def nearest(self, stamp: Time, tolerance: float, timeout: float = 0.0) -> DepthView:
        """The depth image whose stamp is nearest to the given one, and the newest intrinsics.

        tolerance: largest difference of the stamps [s]. timeout: how long to wait for a depth image
        that is as new as the stamp [s]; its sensor, or its registration, may be slower than colour.
        Nobody waits for a sensor that has not sent anything for a second.

        Raises DepthError if there is none.
        """
        wanted = _nanoseconds(stamp)
        with self._arrived:
            if timeout > 0 and wanted - self._newest() < _ALIVE:
                self._arrived.wait_for(lambda: self._newest() >= wanted, timeout)
            images, info = list(self._images), self._info
        if not images:
            raise DepthError("no depth", f"no depth image yet on {self.topic}")
        if info is None:
            raise DepthError("no camera info", f"no camera info yet on {self.info_topic}")
        image = min(images, key=lambda image: abs(_stamp_of(image) - wanted))
        apart = (_stamp_of(image) - wanted) * 1e-9
        if abs(apart) > tolerance:
            raise DepthError(
                "stamp",
                f"no depth image of the image's time on {self.topic}: the nearest is "
                f"{abs(apart):.3f} s {'later' if apart > 0 else 'earlier'}, "
                f"depth_tolerance is {tolerance:g} s",
            )
        return DepthView(image, info)

    def _newest(self) -> float:
        return max(map(_stamp_of, self._images), default=-np.inf)

    def _receive_image(self, message: Image) -> None:
        with self._arrived:
            if _stamp_of(message) < self._newest() - _ALIVE:  # a bag that is played in a loop
                self._images.clear()
            self._images.append(message)
            total = sum(len(image.data) for image in self._images)
            while len(self._images) > _KEPT_LEAST and (
                total > _KEPT_BYTES or len(self._images) > _KEPT_MOST
            ):
                total -= len(self._images.popleft().data)
            self._arrived.notify_all()

    def _receive_info(self, message: CameraInfo) -> None:
        with self._arrived:
            self._info = message


def _stamp_of(image: Image) -> int:
    return _nanoseconds(image.header.stamp)


def _nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
