"""The topics on which the perception node publishes what it found."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from genesis_core.perception.objects import SceneObjects
from genesis_core.perception.overlay import draw_overlay
from genesis_ros.messages.images import to_message
from genesis_ros.messages.markers import to_markers
from genesis_ros.msg import ObjectMasks

_DEPTH = 5  # frames per camera that a slow subscriber may be late


class Result(NamedTuple):
    """What was found in one image: the message, and what pictures of it are made from."""

    message: ObjectMasks
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    found: SceneObjects


class Outputs:
    """Publishers below a prefix of the node's namespace; everything carries the image's header.

    cameras: how many share the topics; label_image and overlay are published for a single one only.
    """

    def __init__(self, node: LifecycleNode, prefix: str = "", *, cameras: int = 1) -> None:
        self._node = node
        pictures = cameras == 1
        # Reliable (REP-2003). All cameras' results of one pass of the model come at once.
        qos = QoSProfile(depth=_DEPTH * cameras)

        def publisher(kind: type[Any], name: str) -> LifecyclePublisher[Any]:
            return node.create_lifecycle_publisher(kind, prefix + name, qos)

        self._masks = publisher(ObjectMasks, "object_masks")
        self._markers = publisher(MarkerArray, "markers")
        self._labels = publisher(Image, "label_image") if pictures else None
        self._overlay = publisher(Image, "overlay") if pictures else None

    def publish(self, result: Result, overlay_alpha: float) -> None:
        """Publish a result; what takes time to make only where somebody listens."""
        header = result.message.header
        if _wanted(self._masks):
            self._masks.publish(result.message)
        if _wanted(self._markers):
            self._markers.publish(to_markers(result.message))
        if self._labels and _wanted(self._labels):
            self._labels.publish(to_message(result.found.labels, header))
        if self._overlay and _wanted(self._overlay):
            track_ids = [item.track_id for item in result.message.objects]
            picture = draw_overlay(result.image, result.found, overlay_alpha, track_ids)
            self._overlay.publish(to_message(picture, header))

    def destroy(self) -> None:
        """Remove the publishers."""
        for publisher in (self._masks, self._markers, self._labels, self._overlay):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)


def _wanted(publisher: LifecyclePublisher[Any]) -> bool:
    return publisher.get_subscription_count() > 0
