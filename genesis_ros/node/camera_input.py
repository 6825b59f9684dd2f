"""One camera of the perception node: what it listens to, and what is kept from image to image."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from builtin_interfaces.msg import Time
from rclpy.event_handler import QoSMessageLostInfo
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.decoding.images import ImageReader
from genesis_bags.decoding.messages import ImageMessage
from genesis_bags.decoding.pixels import ImageError
from genesis_core import Perceived, Region
from genesis_core.perception import Tracker
from genesis_core.pipeline import DepthImage
from genesis_ros.messages.image_clock import ImageClock, ImageTime, nanoseconds
from genesis_ros.node.camera_names import resolve_image_topic
from genesis_ros.node.depth_camera import DepthCamera
from genesis_ros.node.frame_statistics import FrameStatistics
from genesis_ros.node.parameters import COMPRESSED_SUFFIX, NodeSettings
from genesis_ros.node.qos import type_name
from genesis_ros.node.receiver import Receiver
from genesis_ros.node.subscription import (
    Candidate,
    FollowingSubscription,
    image_candidate,
    is_published,
)
from genesis_ros.pipeline import CameraMessage

# The newest only: an image that waits in a queue costs time, and is old when it is taken out.
_QUEUE = 1


class CameraImage(NamedTuple):
    """An image message, the camera that sent it, and when it arrived [s, monotonic]."""

    camera: CameraInput
    message: ImageMessage
    received: float


class _PairedDepth:
    """The depth of an image. It is waited for the first time only that somebody asks."""

    def __init__(
        self,
        camera: DepthCamera,
        stamp: Time,
        tolerance: float,
        taken: ImageTime,
        received: float,
    ) -> None:
        self._camera, self._stamp, self._tolerance = camera, stamp, tolerance
        self._taken = taken
        # From when the image came: its wait for the model, or for other cameras' depth, counts.
        self._until = received + camera.wait

    def __call__(self) -> DepthImage:
        patience, self._until = max(0.0, self._until - time.monotonic()), 0.0
        return self._camera.depth_image(self._stamp, self._tolerance, patience, taken=self._taken)


class Lack(NamedTuple):
    """What keeps a camera's objects from getting positions.

    Attributes:
        reason: for people.
        images, infos: whether no depth image, and no CameraInfo of one, ever came.
    """

    reason: str
    images: bool
    infos: bool


class CameraInput:
    """One camera: subscribes to its images, and knows its tracks, its depth and its statistics.

    The topic is resolved against the node's namespace and remappings. What is subscribed to follows
    the settings image_transport and qos_reliability.

    Args:
        receiver: takes its messages.
        name: for messages and topics.
        index: which of the settings' image topics it is.
        tracker: gives its objects their ids.
        on_image: called with each image in the receiver's thread.
        on_unusable: called there with this and what is wrong, for a message that is no image.
    """

    def __init__(
        self,
        node: Node,
        receiver: Receiver,
        name: str,
        index: int,
        settings: NodeSettings,
        tracker: Tracker,
        on_image: Callable[[CameraImage], None],
        on_unusable: Callable[[CameraInput, ImageError], None],
    ) -> None:
        self.name = name
        self.topic = resolve_image_topic(node, settings.image_topics[index])
        self.statistics = FrameStatistics(time.monotonic())
        self.stale = False  # whether its silence has been reported
        self.hangs = False  # whether it has been reported that no image comes to an end
        self.depth_problem: str | None = None  # why the last image got no positions
        # When the first and the last image in a row got none [s]; None: the last one got them.
        self._unplaced: tuple[float, float] | None = None
        self._told_unplaced = False
        self.transform_problem: str | None = None  # why its positions got no further
        # Why the stamp of the newest image that the worker took does not say its time.
        self.time_doubt: str | None = None
        self._node = node
        self._on_image = on_image
        self._on_unusable = on_unusable
        self._tracker = tracker
        self._transport = settings.image_transport
        self._reset_requested = False
        self._tracked = 0
        self._clock = ImageClock()
        self._reader = ImageReader()
        self._depth: DepthCamera | None = None
        self._frame_id = ""  # of the newest image that the worker took
        self._told_problems: set[str] = set()
        self._index = index
        self.depth_topic = settings.per_camera("depth_topics")[index]
        if depth_topic := self.depth_topic:
            info_topic = settings.per_camera("camera_info_topics")[index]
            self._depth = DepthCamera(
                node,
                receiver,
                depth_topic,
                info_topic,
                settings.qos_reliability,
                transport=settings.image_transport,
            )
            self._depth.use_projection = settings.use_projection
        # Topic and stamp of the newest image.
        self._newest: tuple[str, int] | None = None
        # Publisher of the newest image and its number there.
        self._last: tuple[object, int | None] = None, None
        self._images = FollowingSubscription(
            node,
            receiver,
            _candidates(self.topic, settings.image_transport),
            settings.qos_reliability,
            self._receive,
            depth=_QUEUE,
            on_lost=self._lost,
            on_unreadable=self._refuse,
        )

    @property
    def has_depth(self) -> bool:
        """Whether it has a depth camera beside it."""
        return self._depth is not None

    @property
    def source(self) -> str:
        """The topic that is subscribed to."""
        return self._images.topic

    def topics(self) -> set[str]:
        """All topics that may be subscribed to."""
        return self._images.topics | (self._depth.topics if self._depth else set())

    def publishers(self) -> int:
        """How many publishers the subscribed topic has."""
        return self._node.count_publishers(self.source)

    def wrong_type(self) -> str | None:
        """What is published in place of images, if that is why there are none."""
        wrong = self._images.unexpected_types()
        compressed = image_candidate(self.topic + COMPRESSED_SUFFIX, CompressedImage)
        raw = image_candidate(self.topic, Image)
        if (
            self._transport == "raw"
            and is_published(self._node, compressed)
            and not is_published(self._node, raw)
        ):
            wrong.append(f"{compressed.topic}: {type_name(compressed.kind)}")
        expected = f"image_transport {self._transport} takes none of that type"
        return f"{', '.join(wrong)} ({expected})" if wrong else None

    def follow_publishers(self, patience: float) -> None:
        """Adapt what is set to auto to those who publish now.

        Args:
            patience: how long a topic that is published may be silent [s].
        """
        if self._depth is not None:
            self._depth.follow_publishers(patience)
        if self._images.follow_publishers(patience):
            self._last = None, None  # what was sent between the subscriptions is not missed

    def unsubscribe(self) -> None:
        """End the subscriptions; the image in work still finds its depth."""
        self._images.close()
        if self._depth is not None:
            self._depth.unsubscribe()

    def close(self) -> None:
        """End the subscriptions and forget the depth; an image waits no longer for it."""
        self.unsubscribe()
        if self._depth is not None:
            self._depth.close()

    def reset_tracks(self) -> None:
        """Ask for new ids for the next image that is published (from any thread)."""
        self._reset_requested = True

    def facts(self) -> dict[str, object]:
        """For diagnostics."""
        facts: dict[str, object] = {"camera": self.name, "objects tracked": self._tracked}
        if self._depth is not None and self._depth.unit.noticed and not self._depth.unit.given:
            facts["depth unit"] = "millimetres, by the values"
        if self._depth is not None and (choice := self._depth.intrinsics_choice):
            facts["intrinsics"] = choice
        if self._depth is not None and (delay := self._depth.delay) is not None:
            facts["depth behind its image [ms]"] = f"{delay * 1e3:.0f}"
        return facts

    def new_depth_problems(self) -> list[str]:
        """What is wrong with its depth and was not told when this was asked before."""
        intrinsics = self._depth.intrinsics_problem if self._depth is not None else None
        found = {intrinsics and f"objects get no positions: {intrinsics}"}
        found.add(self.registration_problem())
        problems = {problem for problem in found if problem}
        new = problems - self._told_problems
        self._told_problems = problems
        return sorted(new)

    def new_lack_of_depth(self, patience: float) -> Lack | None:
        """Why no image got positions for so long [s], if that was not told before."""
        unplaced, reason, depth = self._unplaced, self.depth_problem, self._depth
        if unplaced is None or reason is None or depth is None:
            self._told_unplaced = False
            return None
        told = self._told_unplaced or depth.intrinsics_problem is not None  # see above
        first, last = unplaced
        if told or last - first < patience:
            return None
        self._told_unplaced = True
        return Lack(reason, images=not depth.has_images, infos=not depth.has_intrinsics)

    def registration_problem(self) -> str | None:
        """Why its depth seems not to be registered to its images, for diagnostics."""
        return None if self._depth is None else self._depth.registration_problem(self._frame_id)

    def stamp_problem(self) -> str | None:
        """What is wrong with the stamps of its images or of their depth, for diagnostics."""
        if (problem := self._clock.problem) is not None:
            publishers = self.publishers()
            return f"the stamps of {self.source} ({publishers} publishers) {problem}"
        if self._depth is None:  # nothing has to be paired
            return None
        if (problem := self._clock.standing) is not None:
            return f"the stamps of {self.source} {problem}"
        return self._depth.stamp_problem

    # In the worker thread

    def take_reset(self) -> bool:
        """Whether new ids were asked for since this was called before."""
        requested, self._reset_requested = self._reset_requested, False
        return requested

    def prepare(self, image: CameraImage, settings: NodeSettings) -> CameraMessage:
        """The image with its depth and the camera's tracks."""
        received, stamp = round(image.received * 1e9), image.message.header.stamp
        taken = self._clock.read(stamp, received)
        self.time_doubt = taken.doubt
        self._reader.reading = settings.reading()
        self._frame_id = image.message.header.frame_id
        depth = None
        if (camera := self._depth) is not None:
            camera.unit.given = settings.depth_unit
            camera.hold(stamp, received)
            depth = _PairedDepth(camera, stamp, settings.depth_tolerance, taken, image.received)
        return CameraMessage(
            image.message,
            received,
            self.name,
            depth,
            self._tracker,
            taken.seconds,
            self._reader,
            Region.parse(settings.per_camera("regions")[self._index]),
        )

    def note(self, perceived: Perceived) -> None:
        """Keep for diagnostics what became of an image."""
        self._tracked = sum(track_id > 0 for track_id in perceived.track_ids)
        self.depth_problem = perceived.depth_problem
        if perceived.depth_problem is None:
            self._unplaced = None
        else:
            now = time.monotonic()
            self._unplaced = (now if self._unplaced is None else self._unplaced[0], now)

    # In the receiver's thread

    def _lost(self, event: QoSMessageLostInfo) -> None:
        publisher, number = self._last
        if publisher is not None and number is not None:
            return  # _count_missing() knows
        if not self._images.reliable:
            self.statistics.lose(event.total_count_change)
        elif publisher is not None:  # else they may have been sent before this process listened
            self.statistics.skip(event.total_count_change)

    def _receive(self, message: ImageMessage, info: Mapping[str, Any]) -> None:
        newest = self.source, nanoseconds(message.header.stamp)
        before, self._newest = self._newest, newest
        if before and newest[1] and before[1] == newest[1] and before[0] != newest[0]:
            return  # the same image, from the topic that stood in for this one
        arrived = self._note_arrival(info)
        if self._depth is not None:
            self._depth.expect(message.header.stamp, round(arrived * 1e9))
        self._on_image(CameraImage(self, message, arrived))

    def _refuse(self, error: ImageError, info: Mapping[str, Any]) -> None:
        self._note_arrival(info)
        self._on_unusable(self, error)

    def _note_arrival(self, info: Mapping[str, Any]) -> float:
        now = time.monotonic()
        self._count_missing(info)
        self.statistics.receive(now)
        self.stale = False
        return now

    def _count_missing(self, info: Mapping[str, Any]) -> None:
        """Count the images between the last one and this, where the middleware numbers them."""
        publisher, number = info.get("publisher_gid"), info.get("publication_sequence_number")
        last_publisher, last = self._last
        self._last = publisher, number
        if publisher is None or publisher != last_publisher or number is None or last is None:
            return
        missing = max(0, number - last - 1)
        if self._images.reliable:
            self.statistics.skip(missing)  # nothing gets lost, but newer ones take its place
        else:
            self.statistics.lose(missing)


def _candidates(topic: str, transport: str) -> list[Candidate]:
    """Topics and types to listen to, in order of preference.

    Compressed images are usually published below the raw topic, but may have a name of their own.
    """
    raw, itself = image_candidate(topic, Image), image_candidate(topic, CompressedImage)
    if topic.endswith(COMPRESSED_SUFFIX):
        return [itself, raw] if transport == "auto" else [itself]
    below = image_candidate(topic + COMPRESSED_SUFFIX, CompressedImage)
    return {"raw": [raw], "compressed": [below, itself], "auto": [raw, below, itself]}[transport]
