"""Where somebody else publishes what a camera lacks: hints for people who named a wrong topic."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rclpy.node import Node

from genesis_ros.node.camera_input import CameraInput, Lack

_IMAGES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
_INFOS = {"sensor_msgs/msg/CameraInfo"}
_ANY, _NONE = re.compile(""), re.compile("(?!)")
_DEPTH = re.compile("depth", re.IGNORECASE)
# Depth images, and the pictures that nodes like this one publish.
_NO_COLOUR = re.compile(r"depth|/(label_image|overlay)(/|$)", re.IGNORECASE)
_NAMED_TOPICS = 5  # that a warning names, at most


def colour_images(node: Node, cameras: Iterable[CameraInput]) -> str:
    """The topics with what looks like a camera's colour images; "" if there are none.

    Args:
        cameras: all of the node's, whose topics are known.
    """
    return _others(node, cameras, _IMAGES, without=_NO_COLOUR)


def hint(node: Node, cameras: Iterable[CameraInput], lack: Lack) -> str:
    """Where there is what a camera's positions lack, to follow the reason; "" if nowhere."""
    if lack.images and (others := _others(node, cameras, _IMAGES, named=_DEPTH)):
        return f"; depth images are on {others} (launch with depth_topic:=...)"
    if lack.infos and (others := _others(node, cameras, _INFOS)):
        return f"; camera infos are on {others} (launch with camera_info_topic:=...)"
    return ""


def _others(
    node: Node,
    cameras: Iterable[CameraInput],
    kinds: set[str],
    *,
    named: re.Pattern[str] = _ANY,
    without: re.Pattern[str] = _NONE,
) -> str:
    own = node.get_publisher_names_and_types_by_node(node.get_name(), node.get_namespace())
    taken = {name for name, _ in own}.union(*(camera.topics() for camera in cameras))
    found = {
        re.sub("/compressed(Depth)?$", "", name)
        for name, types in node.get_topic_names_and_types()
        if kinds.intersection(types)
        and named.search(name)
        and not without.search(name)
        and name not in taken
        and node.count_publishers(name)
    }
    names = sorted(found - taken)
    more = len(names) - _NAMED_TOPICS
    return ", ".join(names[:_NAMED_TOPICS]) + (f" and {more} more" if more > 0 else "")
