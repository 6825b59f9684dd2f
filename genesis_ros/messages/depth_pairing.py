"""Which depth image belongs to which colour image: by their stamps."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image

from genesis_core.pipeline import DepthImage
from genesis_ros.messages.depth import depth_metres, intrinsics
from genesis_ros.messages.pixels import ImageError

# Depth images are kept until the image of their time has been through the model. 32 MB are a second
# and more of 640x480 16UC1 at 30 Hz; a slower model needs a slower camera.
_KEPT_BYTES = 32_000_000
_KEPT_LEAST, _KEPT_MOST = 3, 60
_ALIVE = 1_000_000_000  # ns; see DepthPairing.nearest


class DepthError(ImageError):
    """There is no depth for an image. The text names the topic and says why; kind is short."""


class DepthView(NamedTuple):
    """A depth image and the intrinsics that belong to it."""

    image: Image
    info: CameraInfo


class DepthPairing:
    """Keeps the newest depth images and intrinsics of a camera, and finds those of an image.

    topic, info_topic: where they come from, for errors. May be used from several threads.
    """

    def __init__(self, topic: str, info_topic: str) -> None:
        self.topic = topic
        self.info_topic = info_topic
        self._images: deque[Image] = deque()
        self._info: CameraInfo | None = None
        self._arrived = threading.Condition()

    def add_image(self, message: Image) -> None:
        """Take in a depth image: 16UC1 [mm] or 32FC1 [m], registered to the colour image."""
        with self._arrived:
            if stamp_of(message) < self._newest() - _ALIVE:  # a bag that is played in a loop
                self._images.clear()
            self._images.append(message)
            total = sum(len(image.data) for image in self._images)
            while len(self._images) > _KEPT_LEAST and (
                total > _KEPT_BYTES or len(self._images) > _KEPT_MOST
            ):
                total -= len(self._images.popleft().data)
            self._arrived.notify_all()

    def add_info(self, message: CameraInfo) -> None:
        """Take in the depth images' intrinsics; the newest count."""
        with self._arrived:
            self._info = message

    def clear(self) -> None:
        """Forget the messages; whoever waits for one waits no longer."""
        with self._arrived:
            self._images.clear()
            self._info = None
            self._arrived.notify_all()

    def has_reached(self, stamp: Time) -> bool:
        """Whether there is a depth image that is as new as the stamp, so that none comes nearer."""
        with self._arrived:
            return self._newest() >= _nanoseconds(stamp)

    def depth_image(self, stamp: Time, tolerance: float, timeout: float = 0.0) -> DepthImage:
        """The depth that belongs to an image with this stamp. tolerance, timeout: see nearest.

        Raises DepthError if there is none, or it cannot be used.
        """
        return self.convert(self.nearest(stamp, tolerance, timeout))

    def convert(self, view: DepthView) -> DepthImage:
        """Messages to arrays. Raises DepthError if they cannot be used."""
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
        image = min(images, key=lambda image: abs(stamp_of(image) - wanted))
        apart = (stamp_of(image) - wanted) * 1e-9
        if abs(apart) > tolerance:
            raise DepthError(
                "stamp",
                f"no depth image of the image's time on {self.topic}: the nearest is "
                f"{abs(apart):.3f} s {'later' if apart > 0 else 'earlier'}, "
                f"depth_tolerance is {tolerance:g} s",
            )
        return DepthView(image, info)

    def _newest(self) -> float:
        return max(map(stamp_of, self._images), default=-np.inf)


def info_beside(depth_topic: str) -> str:
    """The topic of the intrinsics, where nobody names it: camera_info beside the depth topic."""
    return depth_topic.rpartition("/")[0] + "/camera_info"


def stamp_of(image: Image) -> int:
    """A message's stamp [ns]."""
    return _nanoseconds(image.header.stamp)


def _nanoseconds(stamp: Time) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec
