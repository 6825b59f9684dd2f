"""One pass of the pipeline over a bag: its images in, what the node would publish out."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from genesis_bags.decoding.images import AS_USUAL, ImageReader, Reading
from genesis_bags.decoding.messages import ImageMessage
from genesis_bags.decoding.pixels import ImageError
from genesis_bags.reader import BagMessage, BagReader
from genesis_core import Perception, Region
from genesis_core.perception import Tracker
from genesis_core.pipeline import DepthImage, DepthProvider
from genesis_ros.bags.images import read_message
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.messages.depth_pairing import DepthError, DepthPairing
from genesis_ros.messages.image_clock import ImageClock, ImageTime
from genesis_ros.node.parameters import NodeSettings
from genesis_ros.outputs import OUTPUTS, Output, Result
from genesis_ros.pipeline import CameraMessage, perceive
from genesis_ros.processes.interruption import Interruption

_NAMESPACE = "/genesis"
_DEPTH_PATIENCE = 500_000_000  # ns of the bag's time that an image waits for its depth
# s; while an image of one camera waits for its depth, the others' images wait behind it.
_DEPTH_HISTORY = 0.6
_MOST_WAITING = 60  # images
_CUDA_BATCH = 16  # images; on a CPU they take as long one by one


class SegmentError(RuntimeError):
    """The program cannot go on; the message says why."""


def say(text: str) -> None:
    """To people, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


class BagCamera:
    """Where a camera's results go, its tracks, and its depth.

    Args:
        depth: pairs its images with depth; None: it has none.
        region: the part of its images that the model is to see; None: all.
        reading: what its encodings do not say.
    """

    def __init__(
        self,
        topic: str,
        name: str,
        depth: DepthPairing | None,
        *,
        several: bool,
        region: Region | None = None,
        reading: Reading = AS_USUAL,
    ) -> None:
        self.topic = topic
        self.name = name
        self.depth = depth
        self.region = region
        if depth is not None:
            depth.history = _DEPTH_HISTORY
        self.tracker = Tracker()
        self.clock = ImageClock()
        self.reader = ImageReader(reading)
        self._several = several

    def outputs(self, *, with_overlay: bool) -> list[Output]:
        """What is written about its images."""
        return [
            output
            for output in OUTPUTS
            if (self.depth or not output.needs_depth) and (with_overlay or not output.for_people)
        ]

    def stamp_problem(self) -> str | None:
        """What is wrong with the stamps of its images or of their depth; None: nothing."""
        problem = self.clock.problem or (self.clock.standing if self.depth else None)
        if problem is not None:
            return f"its stamps {problem}"
        return self.depth.stamp_problem if self.depth else None

    def registration_problem(self, frame_id: str) -> str | None:
        """Why its depth seems not to be registered to an image of this frame."""
        return self.depth.registration_problem(frame_id) if self.depth else None

    def topics(self, output: Output) -> list[str]:
        """Where this camera's messages of an output go."""
        return [
            f"{_NAMESPACE}/{topic}" for topic in output.topics(self.name, several=self._several)
        ]


class _BagImage(NamedTuple):
    camera: BagCamera
    message: ImageMessage
    received: int  # ns since the epoch
    taken: ImageTime

    def may_get_depth(self, now: int) -> bool:
        """Whether a depth image that is nearer than those there are may still come."""
        return (
            self.camera.depth is not None
            and not self.camera.depth.has_reached(self.message.header.stamp, self.taken)
            and now - self.received < _DEPTH_PATIENCE
        )

    def prepared(self, tolerance: float) -> _PreparedImage:
        """With what belongs to it of the depth images that there are now."""
        camera = self.camera
        depth = self._depth(tolerance)
        message = CameraMessage(
            self.message,
            self.received,
            camera.name,
            depth,
            camera.tracker,
            self.taken.seconds,
            camera.reader,
            camera.region,
        )
        return _PreparedImage(camera, message)

    def _depth(self, tolerance: float) -> DepthProvider | None:
        pairing = self.camera.depth
        if pairing is None:
            return None
        try:
            stamp = self.message.header.stamp
            return partial(pairing.convert, pairing.nearest(stamp, tolerance, taken=self.taken))
        except DepthError as error:
            return partial(_fail, error)


class _PreparedImage(NamedTuple):
    """An image that waits for nothing but its turn."""

    camera: BagCamera
    message: CameraMessage


def _fail(error: DepthError) -> DepthImage:
    raise error


class Segmentation:
    """Segments the images of a bag and counts what became of them."""

    def __init__(
        self,
        perception: Perception,
        cameras: Mapping[str, BagCamera],
        settings: NodeSettings,
        *,
        with_overlay: bool,
    ) -> None:
        self._perception = perception
        self._cameras = cameras
        self._overlay_alpha = settings.overlay_alpha
        self._tolerance = settings.depth_tolerance
        self._with_overlay = with_overlay
        self._batch_size = _CUDA_BATCH if perception.segmenter.device.type == "cuda" else 1
        self._batch: list[_PreparedImage] = []
        self._done: Counter[str] = Counter()  # images by topic
        self._skipped: Counter[tuple[str, str]] = Counter()  # by topic and kind of problem
        self._without_depth: Counter[str] = Counter()  # images by topic, of cameras with depth
        self._told: set[tuple[str, str]] = set()  # of which camera, what
        self._saw_depth = 0  # images whose depth the model saw
        self._started = time.monotonic()

    def process(
        self,
        reader: BagReader,
        writer: Callable[[], LiveBagWriter],
        interruption: Interruption,
        *,
        copy: bool,
    ) -> None:
        """Segment image after image into a bag.

        Args:
            writer: opens the bag for the results.

        Raises:
            Interrupted: a signal asked the program to stop.
        """
        copied = self._to_copy(reader) if copy else set()
        total = sum(reader.topics[topic].size for topic in self._cameras)
        depths = [camera.depth for camera in self._cameras.values() if camera.depth]
        depth_topics = {topic for pair in depths for topic in (pair.topic, pair.info_topic)}
        waiting: deque[_BagImage] = deque()  # for depth, or for those before them
        interval = 0.5 if sys.stderr.isatty() else 10.0  # s
        with tqdm(total=total, unit="image", mininterval=interval) as progress:
            for item in reader.messages({*self._cameras, *depth_topics, *copied}):
                interruption.check()
                if item.topic.name in copied:
                    self._copy(item, writer(), copied)
                if item.topic.name in depth_topics:
                    self._take_depth(item, depths)
                if camera := self._cameras.get(item.topic.name):
                    image = self._read(item, camera)
                    progress.update()
                    waiting += [image] if image else []
                while waiting and (
                    len(waiting) > _MOST_WAITING or not waiting[0].may_get_depth(item.stamp)
                ):
                    self._submit(waiting.popleft(), writer)
            for image in waiting:
                interruption.check()
                self._submit(image, writer)
            self._write(writer)

    def report(self, target: Path, *, interrupted: bool) -> None:
        """Say what was done.

        Raises:
            SegmentError: it was nothing.
        """
        for (topic, _), count in self._skipped.items():
            if count > 1:
                say(f"{topic}: {count} images skipped in all for the reason above")
        for topic, count in self._without_depth.items():
            say(f"{topic}: {count} of {self._done[topic]} images had no usable depth")
        done, skipped = self._done.total(), self._skipped.total()
        if not done and not interrupted:
            raise SegmentError("there was no usable image")
        rate = done / max(time.monotonic() - self._started, 1e-3)
        say(
            f"{'interrupted; ' if interrupted else ''}{target}: segmented {done} images "
            f"(cameras: {len(self._done)}), skipped {skipped} ({rate:.1f} images/s)"
            + (f"; the model saw the depth of {self._saw_depth}" if self._saw_depth else "")
        )

    def _to_copy(self, reader: BagReader) -> set[str]:
        """The topics of the input, except those to which new results are written."""
        written = {
            topic
            for camera in self._cameras.values()
            for output in camera.outputs(with_overlay=True)
            for topic in camera.topics(output)
        }
        for topic in sorted(written & set(reader.topics)):
            say(f"{topic}: not copied, as new results are written to it")
        return set(reader.topics) - written

    def _copy(self, item: BagMessage, writer: LiveBagWriter, copied: set[str]) -> None:
        try:
            writer.copy(item)
        except LookupError as error:
            copied.discard(item.topic.name)
            say(f"{item.topic.name}: not copied: {error}")

    def _read(self, item: BagMessage, camera: BagCamera) -> _BagImage | None:
        try:
            message = read_message(item)
        except ImageError as error:
            self._skip(camera.topic, error.kind, item.stamp, error)
            return None
        taken = camera.clock.read(message.header.stamp, item.stamp)
        self._note_problems(camera, message.header.frame_id)
        return _BagImage(camera, message, item.stamp, taken)

    def _note_problems(self, camera: BagCamera, frame_id: str) -> None:
        """Say once what is wrong with a camera's stamps, and with its depth's frame."""
        found = {"stamps": camera.stamp_problem(), "frame": camera.registration_problem(frame_id)}
        for what, problem in found.items():
            if problem is not None and (camera.topic, what) not in self._told:
                self._told.add((camera.topic, what))
                say(f"{camera.topic}: {problem}")

    def _take_depth(self, item: BagMessage, depths: Sequence[DepthPairing]) -> None:
        """Keep a depth image, or intrinsics, for the cameras that they belong to."""
        try:
            message = read_message(item)
        except ImageError as error:
            self._skip(item.topic.name, error.kind, item.stamp, error)
            return
        for pairing in depths:
            if item.topic.name == pairing.topic:
                pairing.add_image(message, item.stamp)
            if item.topic.name == pairing.info_topic:
                pairing.add_info(message)

    def _skip(self, topic: str, kind: str, stamp: int, error: Exception) -> None:
        """Count an image that cannot be used, and name the first of each kind."""
        if not self._skipped[topic, kind]:
            say(f"{topic} at {stamp / 1e9:.3f} s: skipped: {error}")
        self._skipped[topic, kind] += 1

    def _submit(self, image: _BagImage, writer: Callable[[], LiveBagWriter]) -> None:
        """Segment an image, together with the next ones where that is faster."""
        self._batch.append(image.prepared(self._tolerance))
        if len(self._batch) >= self._batch_size:
            self._write(writer)

    def _write(self, writer: Callable[[], LiveBagWriter]) -> None:
        batch, self._batch = self._batch, []
        outcomes = perceive(self._perception, [image.message for image in batch])
        for (camera, message), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, ImageError):
                self._skip(camera.topic, outcome.kind, message.received, outcome)
            elif isinstance(outcome, ValueError):  # masks that are not finite, too many slots
                self._skip(camera.topic, "scene", message.received, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                writer().write_together(self._results(camera, outcome), message.received)
                self._done[camera.topic] += 1
                self._note_depth(camera, outcome)

    def _results(self, camera: BagCamera, result: Result) -> list[tuple[str, Any]]:
        """Everything that the node would publish about an image, and on which topics."""
        results = []
        for output in camera.outputs(with_overlay=self._with_overlay):
            message = output.make(result, self._overlay_alpha)
            results += [(topic, message) for topic in camera.topics(output)]
        return results

    def _note_depth(self, camera: BagCamera, result: Result) -> None:
        """Name the first image without usable depth, and count them."""
        self._saw_depth += result.perceived.used_depth
        if problem := result.perceived.depth_problem:
            if not self._without_depth[camera.topic]:
                say(f"{camera.topic}: no positions: {problem}")
            self._without_depth[camera.topic] += 1
