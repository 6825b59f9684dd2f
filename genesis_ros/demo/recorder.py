"""What the demo leaves behind: a contact sheet, a video and an MCAP bag."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from genesis_bags.decoding.images import to_rgb
from genesis_ros.bags.writer import BagWriter
from genesis_ros.demo.pairs import Pair, PairSampler, PairVideo, contact_sheet, write_image
from genesis_ros.demo.planner import (
    IMAGE_TOPIC,
    LABELS_TOPIC,
    MASKS_TOPIC,
    OVERLAY_TOPIC,
    FrameResult,
)
from genesis_ros.messages.images import jpeg_message
from genesis_ros.messages.targets import is_target
from genesis_ros.msg import ObjectMask


class DemoRecorder:
    """Writes bag and video as the frames come, and the contact sheet at the end.

    The bag holds image and overlay as JPEG, label images and object masks, all at the stamp of
    the camera image. Use it in a `with` block; leaving it without an error completes the files.
    """

    def __init__(self, output: Path, rate: float) -> None:
        self._sheet_path = output / "overlay_sheet.png"
        self._bag_path = output / "demo_bag"
        self._bag = BagWriter(self._bag_path)
        self._video = PairVideo(output / "overlay", rate)
        self._sampler = PairSampler()
        self._open = ExitStack()

    @property
    def paths(self) -> list[Path]:
        """The files written, complete after the `with` block."""
        video = [self._video.path] if self._video.path else []
        return [self._sheet_path, *video, *sorted(self._bag_path.glob("*.mcap"))]

    def add(self, number: int, result: FrameResult) -> None:
        """Take in one frame."""
        header = result.messages[IMAGE_TOPIC].header
        image = to_rgb(result.messages[IMAGE_TOPIC])
        overlay = to_rgb(result.messages[OVERLAY_TOPIC])
        pair = Pair(image, overlay, f"frame {number}: {count_objects(result)}")
        self._sampler.add(pair)
        self._video.add(pair)
        for topic, message in (
            (f"{IMAGE_TOPIC}/compressed", jpeg_message(image, header)),
            (f"{OVERLAY_TOPIC}/compressed", jpeg_message(overlay, header)),
            (LABELS_TOPIC, result.messages[LABELS_TOPIC]),
            (MASKS_TOPIC, result.messages[MASKS_TOPIC]),
        ):
            self._bag.write(topic, message, result.stamp)

    def __enter__(self) -> DemoRecorder:
        self._open.enter_context(self._bag)
        self._open.enter_context(self._video)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._open.__exit__(exc_type, exc, traceback)
        if exc is None:
            write_image(self._sheet_path, contact_sheet(self._sampler.pairs()))


def found_objects(result: FrameResult) -> list[ObjectMask]:
    """The objects of a frame, without background and robot."""
    return [item for item in result.objects if is_target(item)]


def count_objects(result: FrameResult) -> str:
    """The number of objects in words."""
    number = len(found_objects(result))
    return f"{number} object" if number == 1 else f"{number} objects"
