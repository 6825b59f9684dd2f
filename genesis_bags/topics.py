"""Which topics of a bag hold the images of colour cameras, and how to read one without ROS."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

from genesis_bags.decoding.compressed_depth import is_depth_format
from genesis_bags.decoding.images import to_rgb
from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagMessage, BagReader, BagTopic

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)

LOOKED_AT = 5  # messages of a topic, until one can be read
# Last parts of topics that hold the images of the topic above, as plugins of image_transport and
# cameras' drivers call them.
_TRANSPORTS = (
    "compressed", "zstd", "ffmpeg", "theora", "h264", "h265", "hevc", "av1", "avif", "jpeg",
    "jpegxl", "png", "webp",
)  # fmt: skip
_MEASURED = ("16UC1", "32FC1", "64FC1", "16SC1", "32SC1")  # depth, disparity, confidence
_GREY = ("mono", "8UC1", "16UC1")
# Words of a name's last part that say so of a picture in colours; ...
_DRAWN = frozenset(
    ["depth", "disparity", "label", "labels", "mask", "masks", "overlay", "segmentation"]
)
# ... and words of any part that say that a grey image is no camera's picture of things.
_GREY_DRAWN = _DRAWN | {"confidence", "infra", "infrared", "ir"}


class ColourTopics(NamedTuple):
    """The topics of a bag that hold the images of colour cameras."""

    names: list[str]
    left_out: dict[str, str]
    """Other image topics, and why each is none."""


def image_topics(reader: BagReader) -> dict[str, BagTopic]:
    """The topics of a bag that hold images of any kind, raw or compressed."""
    return {name: topic for name, topic in reader.topics.items() if topic.type in IMAGE_TYPES}


def colour_topics(reader: BagReader) -> ColourTopics:
    """Which topics are colour cameras', one for each camera. Sorted by name.

    Encodings decide; names do where a picture may be drawn by a program (a mask, an overlay) or be
    infrared. What cannot be decoded is no camera's. Of the same images raw and compressed those are
    taken that there are more of.
    """
    topics = image_topics(reader)
    left_out: dict[str, str] = {}
    cameras: dict[str, list[str]] = {}
    for name, topic in sorted(topics.items()):
        reason = _why_no_camera(reader, topic)
        if reason is None:
            cameras.setdefault(_camera(name, topics), []).append(name)
        else:
            left_out[name] = reason
    names = []
    for transports in cameras.values():
        best = max(transports, key=lambda name: topics[name].size)  # raw comes first by name
        names.append(best)
        left_out.update({name: f"the images of {best}" for name in transports if name != best})
    return ColourTopics(sorted(names), dict(sorted(left_out.items())))


def _camera(name: str, topics: Collection[str]) -> str:
    """What a topic and its other transports (image_raw/compressed, image_raw/zstd) share."""
    parent, _, last = name.rpartition("/")
    return parent if last in _TRANSPORTS or parent in topics else name


def _why_no_camera(reader: BagReader, topic: BagTopic) -> str | None:
    """Why a topic does not hold images of a colour or grey camera; None: it does."""
    messages = reader.first(topic.name, LOOKED_AT)
    if not messages:
        return "no messages"
    encoding, problem = "", ""
    for item in messages:
        try:
            encoding = _encoding(item)
            break
        except ImageError as error:
            problem = problem or str(error)
    else:
        return problem
    if _is_measured(encoding):
        return f"{encoding.partition(';')[0]} is depth or another measurement"
    parts = topic.name.lower().removesuffix("/compressed").split("/")
    if encoding.startswith(_GREY):
        drawn = [word for part in parts for word in _words(part) if word in _GREY_DRAWN]
        # A depth camera's grey image is a picture; one below a depth topic is not.
        if "depth" in drawn and any({"depth", "camera"} <= set(_words(part)) for part in parts):
            drawn.remove("depth")
    else:
        drawn = [word for word in _words(parts[-1]) if word in _DRAWN]
    return f"its name says {drawn[0]}" if drawn else None


def _words(part: str) -> list[str]:
    """infra1_left: infra, left."""
    return [word.rstrip("0123456789") for word in re.split("[_-]", part)]


def _encoding(item: BagMessage) -> str:
    """The encoding of an image, or the format of a compressed one.

    Raises:
        ImageError: it cannot be read.
    """
    message = read_message(item)
    is_raw = item.topic.type == IMAGE
    encoding = str(message.encoding if is_raw else message.format)
    if _is_measured(encoding):
        return encoding
    pixels = to_rgb(message)
    source = encoding.partition(";")[0].strip().lower()
    if is_raw or source not in ("", "jpeg", "jpg", "png", "webp", "tiff"):
        return encoding
    # The format names the compression only.
    grey = (pixels[..., :1] == pixels).all()
    return "mono8" if grey else "rgb8"


def _is_measured(encoding: str) -> bool:
    """Whether an encoding or format is that of depth or another measurement."""
    return is_depth_format(encoding) or encoding.startswith(_MEASURED)


def read_message(item: BagMessage) -> Any:
    """The image or camera_info message itself, of rosbags' own types.

    Raises:
        ImageError: its bytes are no such message.
    """
    try:
        return _types().deserialize_cdr(item.data, item.topic.type)
    except Exception as error:
        raise ImageError(
            "message", f"its {len(item.data)} bytes are no {item.topic.type} message"
        ) from error


@cache
def _types() -> Any:
    """rosbags' types; making them takes a moment."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)
