"""Recorded bags of ROS 2 and ROS 1, read without ROS (genesis_bags; requirements/data.txt)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from genesis_bags.decoding.depth import depth_metres, holds_depth
from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.images import ImageReader, Reading
from genesis_bags.decoding.intrinsics import choose_matrix
from genesis_bags.decoding.messages import AnyCameraInfo, ImageMessage
from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagError, BagMessage, BagReader, find_bags, storage_files
from genesis_bags.topics import (
    CAMERA_INFO,
    LOOKED_AT,
    colour_topics,
    image_topics,
    read_message,
)
from training.datasets.layout import DatasetError, Float32, UInt8
from training.datasets.parts import PartWriter, report
from training.datasets.recordings import (
    OwnData,
    Recorded,
    RecordingTask,
    Sampler,
    check_rate,
    fingerprint,
    named_split,
    natural_order,
)
from training.datasets.shots import GUESSED, Camera, Shot
from training.datasets.video import BETWEEN_SAMPLES

_PATIENCE = 500_000_000  # ns of the bag's time that an image waits for its depth
_NO_CAMERA = "bags without images of a colour camera"
_NO_INFO = f"intrinsics, as there is no camera_info beside the images{GUESSED}"
_UNUSABLE_INFO = {  # by the kind of error
    "intrinsics": f"intrinsics, as camera_info holds none that can be used{GUESSED}",
    "info size": f"intrinsics, as camera_info is of images of another shape{GUESSED}",
}
_KEPT_DEPTHS = 30  # images
_SECOND = 1_000_000_000  # ns


@dataclass(frozen=True)
class BagCamera:
    """A colour camera in a bag, and the topics that belong to it."""

    topic: str
    info: str
    """Of its intrinsics; the bag may lack it."""
    depth: str | None = None


@dataclass(frozen=True)
class BagTask(RecordingTask):
    """A bag.

    Attributes:
        cameras: what to take.
        problem: why the bag cannot be read.
        depths: whether the data set has depths.
    """

    cameras: tuple[BagCamera, ...]
    problem: str | None
    depths: bool


@dataclass(frozen=True)
class Bag(OwnData):
    """Recordings of ROS 2 (.mcap, .db3) and ROS 1 (.bag): one, or all in a folder; without masks.

    From ten bags on, whole ones are val and test; of fewer, the end of each is. Bags in sub-folders
    train, val and test are what these say. Intrinsics come from camera_info beside the images: P
    where their topic says that they are rectified.

    Args:
        topics: image topics to take; by default those of all colour cameras
        rate: images a second to take of each camera; 0 takes all
        depth: take depths where a topic has those of a camera's own pixels, which is so if its
            images are of the same frame_id
        depth_topics: the depth topics that belong to --topics, in their order
        depth_tolerance: seconds that an image and its depth may be apart
        depth_unit: metres that a depth value of 1 stands for; 0: integers are millimetres, floats
            metres, or millimetres if they cannot be metres
        stretch_16bit: auto brings out 16-bit images of little contrast, as the node does; never
            keeps the high byte of each value
        colour_order: of the encodings that do not say it (8UC3, 8UC4, 16UC3, 16UC4)
    """

    topics: tuple[str, ...] = ()
    rate: float = 2.0
    depth: bool = True
    depth_topics: tuple[str, ...] = ()
    depth_tolerance: float = 0.05
    depth_unit: float = 0.0
    stretch_16bit: Literal["auto", "never"] = "auto"
    colour_order: Literal["bgr", "rgb"] = "bgr"

    name: ClassVar[str] = "bag"
    unit: ClassVar[str] = "messages"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate(self.rate)
        if self.depth_topics and len(self.depth_topics) != len(self.topics):
            raise ValueError("depth_topics needs one topic for each of topics, in their order")
        if not 0 <= self.depth_unit <= 1:
            raise ValueError(f"depth_unit is {self.depth_unit}; expected metres, 0 to 1")

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = [file for bag in self._bags for file in _files_of(bag)]
        return {
            **self.own_options(),
            "topics": self.topics,
            "rate": self.rate,
            "depth": self.depth,
            "depth_topics": self.depth_topics,
            "depth_tolerance": self.depth_tolerance,
            "depth_unit": self.depth_unit,
            "stretch_16bit": self.stretch_16bit,
            "colour_order": self.colour_order,
            "files": fingerprint(files, self.source),
        }

    @property
    def reading(self) -> Reading:
        """What the encodings do not say."""
        return Reading(self.colour_order, self.stretch_16bit)

    def tasks(self) -> list[BagTask]:
        """One for each bag."""
        base = self.source if self._bags != [self.source] else self.source.parent
        names = [path.relative_to(base) for path in self._bags]
        named = [named_split(name) for name in names]
        rest = self.shares.rest(named)
        contents = [self._look_into(path) for path in self._bags]
        self._check_topics(contents)
        depths = any(camera.depth for content in contents for camera in content.cameras)
        return [
            BagTask(
                name.as_posix(),
                content.size,
                path,
                split,
                rest,
                content.cameras,
                content.problem,
                depths,
            )
            for path, name, split, content in zip(
                self._bags, names, self.shares.of_recordings(named), contents, strict=True
            )
        ]

    def run(self, task: BagTask, parts: PartWriter) -> None:
        """Write the parts of all cameras of a bag."""
        if task.problem is not None:
            parts.problem(task.problem)
            parts.advance(task.size)
            return
        if not task.cameras:
            parts.leave_out("bags without one of the --topics" if self.topics else _NO_CAMERA)
            return
        try:
            with BagReader(task.path, parts.problem) as reader:
                _Run(self, task, parts, reader).run()
        except BagError as error:
            parts.problem(str(error))

    def _check_topics(self, contents: Sequence[_Content]) -> None:
        """Check that there is a camera, and that some bag has each topic that was named.

        Raises:
            DatasetError: there is none, or a topic is misspelt.
        """
        there = sorted({topic for content in contents for topic in content.topics})
        lacking = [
            f"none of {', '.join(missing)} ({option})"
            for option, names in (
                ("--topics", self.topics),
                ("--depth-topics", self.depth_topics if self.depth else ()),
            )
            if (missing := [name for name in names if name not in there])
        ]
        if not (lacking or any(content.cameras for content in contents)):
            lacking = ["no colour camera"]
        if not lacking:
            return
        told = f"{self.source} has {', '.join(lacking)}; "
        told += f"its image topics: {', '.join(there) or 'none'}"
        if not any(content.problem for content in contents):
            raise DatasetError(told)
        if self.topics:
            report(f"{told}, besides those of bags that cannot be read")

    def _look_into(self, path: Path) -> _Content:
        """What there is to take in a bag."""
        try:
            with BagReader(path, lambda text: None) as reader:
                known = image_topics(reader)
                names = [name for name in self.topics if name in known]
                left_out: dict[str, str] = {}
                if not self.topics:
                    names, left_out = colour_topics(reader)
                depths = self._depths(reader, names, path)
                for name in sorted(left_out.keys() - set(depths)):
                    report(f"{path}: {name} left out: {left_out[name]}")
                cameras = tuple(
                    BagCamera(name, _info_topic(name), depth)
                    for name, depth in zip(names, depths, strict=True)
                )
                size = sum(known[name].size for name in names)
                return _Content(tuple(known), cameras, size)
        except BagError as error:
            return _Content(problem=str(error))

    def _depths(self, reader: BagReader, names: Sequence[str], path: Path) -> list[str | None]:
        """The depth topic of each camera of a bag, None where it has none."""
        if not self.depth:
            return [None] * len(names)
        known = image_topics(reader)
        if self.depth_topics:
            chosen = dict(zip(self.topics, self.depth_topics, strict=True))
            return [chosen[name] if chosen[name] in known else None for name in names]
        frames: dict[str, str] = {}  # the depth topic of each frame_id
        for name in sorted(known):
            try:
                frame = _depth_frame(reader, name)
            except ImageError as error:
                report(f"{path}: the depth of {name} is not used: {error}")
                continue
            if frame:
                frames.setdefault(frame, name)
        heads = [_first_message(reader, name) for name in names]
        return [None if head is None else frames.get(head.header.frame_id) for head in heads]

    @cached_property
    def _bags(self) -> list[Path]:
        # A bag and a link to it are one: its images must not be in several splits.
        unique = {bag.resolve(): bag for bag in reversed(find_bags(self.source))}
        found = sorted(unique.values(), key=natural_order)
        if not found:
            raise DatasetError(
                f"{self.source} has no bags; expected .mcap, .db3 or .bag files, or folders of them"
            )
        return found


class _Content(NamedTuple):
    topics: tuple[str, ...] = ()
    """All with images."""
    cameras: tuple[BagCamera, ...] = ()
    size: int = 0
    """Messages of the cameras."""
    problem: str | None = None
    """Why the bag cannot be read."""


class _Depth(NamedTuple):
    """A depth image, and when it was taken [ns]."""

    stamp: int
    message: ImageMessage
    item: BagMessage


@dataclass
class _CameraState:
    """What is known of a camera while its bag is read."""

    camera: BagCamera
    recorded: Recorded
    sampler: Sampler
    info: AnyCameraInfo | None = None
    """The newest one; before the first, that one."""
    waiting: deque[tuple[BagMessage, ImageMessage]] = field(default_factory=deque)
    depths: deque[_Depth] = field(default_factory=lambda: deque(maxlen=_KEPT_DEPTHS))
    part: str = ""
    """Key of the part that is written. ``reader`` and ``unit`` are made anew for each part."""
    reader: ImageReader = field(default_factory=ImageReader)
    unit: DepthUnit = field(default_factory=DepthUnit)


class _Run:
    """One pass over a bag."""

    def __init__(self, dataset: Bag, task: BagTask, parts: PartWriter, reader: BagReader) -> None:
        self._dataset = dataset
        self._task = task
        self._parts = parts
        self._reader = reader
        self._tolerance = round(dataset.depth_tolerance * _SECOND)
        self._start, end = reader.span
        self._length = max(end - self._start, 1)
        form = dataset.form(depths=task.depths)
        self._states = [
            _CameraState(
                camera,
                Recorded(parts, f"{task.name}:{camera.topic}", task.shares, form),
                Sampler(dataset.rate),
                _first_info(reader, camera.info),
            )
            for camera in task.cameras
        ]

    def run(self) -> None:
        """Read all messages, and write all parts."""
        cameras = [state.camera for state in self._states]
        topics = {name for camera in cameras for name in (camera.topic, camera.info)}
        topics |= {camera.depth for camera in cameras if camera.depth}
        left = self._task.size
        for item in self._reader.messages(topics):
            for state in self._states:
                if item.topic.name == state.camera.topic:
                    self._parts.advance(min(left, 1))
                    left -= min(left, 1)
                    self._take_image(state, item)
                elif item.topic.name == state.camera.depth:
                    self._take_depth(state, item)
                elif item.topic.name == state.camera.info and item.topic.type == CAMERA_INFO:
                    self._take_info(state, item)
                while state.waiting and not self._may_get_depth(state, item.stamp):
                    self._write(state)
        for state in self._states:
            while state.waiting:
                self._write(state)
            state.recorded.close()
        self._parts.advance(left)

    def _take_image(self, state: _CameraState, item: BagMessage) -> None:
        if state.sampler.take((item.stamp - self._start) / _SECOND) is None:
            state.recorded.skip(BETWEEN_SAMPLES)
            return
        message = self._read(item)
        if message is not None:
            state.waiting.append((item, message))

    def _take_depth(self, state: _CameraState, item: BagMessage) -> None:
        message = self._read(item)
        if message is not None:
            state.depths.append(_Depth(_stamp(message, item), message, item))

    def _take_info(self, state: _CameraState, item: BagMessage) -> None:
        state.info = self._read(item) or state.info

    def _read(self, item: BagMessage) -> Any:
        """The message; None: it cannot be read, which is reported."""
        try:
            return read_message(item)
        except ImageError as error:
            self._problem(item, error)
            return None

    def _problem(self, item: BagMessage, error: Exception) -> None:
        """Report a message that cannot be used."""
        at = f"{item.topic.name} at {item.stamp / _SECOND:.3f} s"
        self._parts.problem(f"{self._task.path}: {at}: {error}")

    def _may_get_depth(self, state: _CameraState, now: int) -> bool:
        """Whether the first image that waits may get a nearer depth than there is."""
        item, message = state.waiting[0]
        if state.camera.depth is None or now - item.stamp > _PATIENCE:
            return False
        return not state.depths or state.depths[-1].stamp < _stamp(message, item)

    def _write(self, state: _CameraState) -> None:
        """Take the first image that waits, with its depth."""
        item, message = state.waiting.popleft()
        if not state.recorded.wants((item.stamp - self._start) / self._length, self._task.split):
            return
        stamp = _stamp(message, item)
        self._follow_part(state)
        depth = self._depth(state, stamp)
        try:
            image = state.reader(message, stamp / _SECOND)
            camera, no_camera = _camera(state, image)
            state.recorded.add(Shot(image, None, depth, camera, no_camera=no_camera))
        except ValueError as error:
            self._problem(item, error)

    def _follow_part(self, state: _CameraState) -> None:
        """Let every part begin anew, so that a resumed run, which skips parts, writes the same."""
        if state.part != state.recorded.part_key:
            state.part = state.recorded.part_key
            state.reader = ImageReader(self._dataset.reading)
            state.unit = DepthUnit(self._dataset.depth_unit)

    def _depth(self, state: _CameraState, stamp: int) -> Float32 | None:
        """The depth of an image in metres; None: there is none at its time that can be read."""
        if state.camera.depth is None:
            return None
        nearest = min(state.depths, key=lambda kept: abs(kept.stamp - stamp), default=None)
        if nearest is None or abs(nearest.stamp - stamp) > self._tolerance:
            state.recorded.skip("depths, as none was taken with their image (--depth-tolerance)")
            return None
        try:
            return depth_metres(nearest.message, state.unit)
        except ImageError as error:
            self._problem(nearest.item, error)  # the image is still good
            return None


def _camera(state: _CameraState, image: UInt8) -> tuple[Camera | None, str]:
    """The intrinsics of an image, None where they are unknown, and why they would be."""
    if state.info is None:
        return None, _NO_INFO
    try:
        chosen = choose_matrix(state.info, *image.shape[:2], topic=state.camera.topic)
    except ImageError as error:
        return None, _UNUSABLE_INFO[error.kind]
    (fx, _, cx), (_, fy, cy), _ = chosen.matrix.tolist()
    return (fx, fy, cx, cy), _NO_INFO


def _stamp(message: ImageMessage, item: BagMessage) -> int:
    """When an image was taken [ns]; when it was received, if it does not say."""
    stamp = message.header.stamp
    return int(stamp.sec * _SECOND + stamp.nanosec) or item.stamp


def _first_info(reader: BagReader, topic: str) -> AnyCameraInfo | None:
    """The first camera_info of a topic, so that images before it have one, too."""
    known = reader.topics.get(topic)
    if known is None or known.type != CAMERA_INFO:
        return None
    info: AnyCameraInfo | None = _first_message(reader, topic)
    return info


def _first_message(reader: BagReader, topic: str) -> Any:
    """The first one that can be read, or None."""
    for item in reader.first(topic, LOOKED_AT):
        with suppress(ImageError):
            return read_message(item)
    return None


def _depth_frame(reader: BagReader, topic: str) -> str:
    """The frame_id of a topic's depth images; "": it has none.

    Raises:
        ImageError: it has depth images, but none that can be read.
    """
    problem: ImageError | None = None
    for item in reader.first(topic, LOOKED_AT):
        try:
            message = read_message(item)
        except ImageError:
            continue
        if not holds_depth(message):
            return ""
        try:
            depth_metres(message)
        except ImageError as error:
            problem = error
        else:
            return str(message.header.frame_id)
    if problem is not None:
        raise problem
    return ""


def _info_topic(image_topic: str) -> str:
    return image_topic.removesuffix("/compressed").rpartition("/")[0] + "/camera_info"


def _files_of(bag: Path) -> Iterable[Path]:
    return storage_files(bag) if bag.is_dir() else [bag]
