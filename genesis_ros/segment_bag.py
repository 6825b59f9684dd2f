"""The objects in the images of a recorded bag, as a new bag.

    ros2 run genesis_ros segment_bag IN OUT
    python -m genesis_ros.segment_bag IN OUT --topic /left/image_raw --topic /right/image_raw --copy

IN is a rosbag2 (sqlite3 or MCAP, compressed or not) with raw or compressed images. OUT gets what
the perception node would publish about each of them, with the image's header and at the time at
which the image was received: /genesis/object_masks, /genesis/label_image and /genesis/overlay; with
several cameras all their masks on the first of these, and each camera's own results on
/genesis/<camera>/object_masks, label_image and overlay.

OUT can be read at any time, while it grows and whatever ends the program:
- SIGINT, SIGTERM, SIGHUP: it holds all that was done.
- SIGKILL: all but the last seconds, for any rosbag2 reader. A kill in the few milliseconds in which
  OUT is brought up to date, every two seconds, can leave storage without its end or metadata.yaml
  out of date: this program, the demo and `mcap recover` read such a bag as far as it goes.
- power failure: the same, if the file system kept what it had promised to.

Exit status: 0 all images were looked at (unusable ones are skipped, named and counted), 1 nothing
could be done, or OUT could not be written further, 2 wrong arguments, 3 IN is damaged and what can
be read of it was segmented, 128 + n ended by signal n.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from genesis_core import Perception
from genesis_core.perception import Tracker
from genesis_ros.bags.images import colour_topics, image_topics, read_message
from genesis_ros.bags.reader import BagError, BagMessage, BagReader, storage_files
from genesis_ros.bags.writer import STORAGES, LiveBagWriter
from genesis_ros.messages.images import ImageMessage
from genesis_ros.messages.pixels import ImageError
from genesis_ros.node.camera_names import camera_names
from genesis_ros.node.parameter_file import read_parameter_file
from genesis_ros.node.parameters import RULES, NodeSettings, ParameterError, check
from genesis_ros.outputs import OUTPUTS, Output, Result
from genesis_ros.pipeline import CameraMessage, perceive
from genesis_ros.processes.interruption import Interrupted, Interruption

DAMAGED = 3
"""Exit status where the input was damaged."""

PARAMETERS = (
    "checkpoint", "device", "precision", "max_slots", "stop_threshold", "mask_source", "fit",
    "min_area", "mask_floor", "background_border", "background_span", "clutter_score", "tracking",
    "track_max_age", "track_min_similarity", "overlay_alpha",
)  # fmt: skip
"""Parameters of the perception node that are options here, too."""

_NAMESPACE = "/genesis"
_CUDA_BATCH = 16  # images; on a CPU they take as long one by one


class SegmentError(RuntimeError):
    """The program cannot go on; the message says why."""


class _BagCamera:
    """Where a camera's results go, and its tracks."""

    def __init__(self, topic: str, name: str, *, several: bool) -> None:
        self.topic = topic
        self.name = name
        self.tracker = Tracker()
        self._several = several

    def topics(self, output: Output) -> list[str]:
        """Where this camera's messages of an output go."""
        return [
            f"{_NAMESPACE}/{topic}" for topic in output.topics(self.name, several=self._several)
        ]


class _BagImage(NamedTuple):
    camera: _BagCamera
    message: ImageMessage
    received: int  # ns since the epoch


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    interruption = Interruption()
    try:
        settings = _settings(options)
    except (ParameterError, OSError) as error:
        parser.error(" ".join(str(error).split()))
    try:
        damaged = _run(options, settings, interruption)
    except Interrupted:
        _say("interrupted before the first image; nothing was written")
        damaged = False
    except (SegmentError, BagError, OSError, sqlite3.Error, torch.OutOfMemoryError) as error:
        _say(f"segment_bag failed: {error}")
        return 1
    return interruption.exit_status or (DAMAGED if damaged else 0)


def _run(options: argparse.Namespace, settings: NodeSettings, interruption: Interruption) -> bool:
    """Segment the bag; whether the input was damaged."""
    source, target = options.input.expanduser(), options.output.expanduser()
    _check_target(source, target, options.overwrite)
    with BagReader(source, _say, interruption.check) as reader:
        cameras = _cameras(reader, options.topic)
        run = _Segmentation(_load(settings), cameras, settings, with_overlay=options.overlay)
        interruption.check()
        with ExitStack() as output:

            @cache
            def writer() -> LiveBagWriter:  # only once there is something to write
                if target.exists():
                    shutil.rmtree(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                return output.enter_context(LiveBagWriter(target, options.storage))

            with suppress(Interrupted):
                run.process(reader, writer, interruption, copy=options.copy)
        run.report(target, interrupted=interruption.exit_status != 0)
        return reader.damaged


class _Segmentation:
    """One pass over a bag."""

    def __init__(
        self,
        perception: Perception,
        cameras: Mapping[str, _BagCamera],
        settings: NodeSettings,
        *,
        with_overlay: bool,
    ) -> None:
        self._perception = perception
        self._cameras = cameras
        self._overlay_alpha = settings.overlay_alpha
        self._outputs = [
            output
            for output in OUTPUTS
            if not output.needs_depth and (with_overlay or not output.for_people)
        ]
        self._done: Counter[str] = Counter()  # images by topic
        self._skipped: Counter[tuple[str, str]] = Counter()  # by topic and kind of problem
        self._started = time.monotonic()

    def process(
        self,
        reader: BagReader,
        writer: Callable[[], LiveBagWriter],
        interruption: Interruption,
        *,
        copy: bool,
    ) -> None:
        """Segment image after image into the bag that `writer` opens. Raises Interrupted."""
        copied = _to_copy(reader, self._cameras) if copy else set()
        total = sum(reader.topics[topic].size for topic in self._cameras)
        batch_size = _CUDA_BATCH if self._perception.segmenter.device.type == "cuda" else 1
        batch: list[_BagImage] = []
        interval = 0.5 if sys.stderr.isatty() else 10.0  # s
        with tqdm(total=total, unit="image", mininterval=interval) as progress:
            for item in reader.messages({*self._cameras, *copied}):
                interruption.check()
                if item.topic.name in copied:
                    self._copy(item, writer(), copied)
                camera = self._cameras.get(item.topic.name)
                if camera is None:
                    continue
                image = self._read(item, camera)
                progress.update()
                batch += [image] if image else []
                if len(batch) >= batch_size:
                    self._write(batch, writer)
                    batch = []
            self._write(batch, writer)

    def report(self, target: Path, *, interrupted: bool) -> None:
        """Say what was done.

        Raises SegmentError if it was nothing.
        """
        for (topic, _), count in self._skipped.items():
            if count > 1:
                _say(f"{topic}: {count} images skipped in all for the reason above")
        done, skipped = self._done.total(), self._skipped.total()
        if not done and not interrupted:
            raise SegmentError("there was no usable image")
        rate = done / max(time.monotonic() - self._started, 1e-3)
        _say(
            f"{'interrupted; ' if interrupted else ''}{target}: segmented {done} images "
            f"(cameras: {len(self._done)}), skipped {skipped} ({rate:.1f} images/s)"
        )

    def _read(self, item: BagMessage, camera: _BagCamera) -> _BagImage | None:
        try:
            return _BagImage(camera, read_message(item), item.stamp)
        except ImageError as error:
            self._skip(camera.topic, error.kind, item.stamp, error)
            return None

    def _skip(self, topic: str, kind: str, stamp: int, error: Exception) -> None:
        """Count an image that cannot be used, and name the first of each kind."""
        if not self._skipped[topic, kind]:
            _say(f"{topic} at {stamp / 1e9:.3f} s: skipped: {error}")
        self._skipped[topic, kind] += 1

    def _write(self, batch: Sequence[_BagImage], writer: Callable[[], LiveBagWriter]) -> None:
        messages = [
            CameraMessage(
                image.message, image.received, image.camera.name, tracker=image.camera.tracker
            )
            for image in batch
        ]
        for image, outcome in zip(batch, perceive(self._perception, messages), strict=True):
            camera = image.camera
            if isinstance(outcome, ImageError):
                self._skip(camera.topic, outcome.kind, image.received, outcome)
            elif isinstance(outcome, ValueError):  # masks that are not finite, too many slots
                self._skip(camera.topic, "scene", image.received, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
            else:
                writer().write_together(self._results(camera, outcome), image.received)
                self._done[camera.topic] += 1

    def _results(self, camera: _BagCamera, result: Result) -> list[tuple[str, Any]]:
        """Everything that the node would publish about an image, and on which topics."""
        results = []
        for output in self._outputs:
            message = output.make(result, self._overlay_alpha)
            results += [(topic, message) for topic in camera.topics(output)]
        return results

    def _copy(self, item: BagMessage, writer: LiveBagWriter, copied: set[str]) -> None:
        try:
            writer.copy(item)
        except LookupError as error:
            copied.discard(item.topic.name)
            _say(f"{item.topic.name}: not copied: {error}")


# --- before it starts ------------------------------------------------------------------------


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    """Raise SegmentError unless the output can be written without harm."""
    if not target.exists():
        return
    if not overwrite:
        raise SegmentError(f"{target} exists already; choose another name or give --overwrite")
    if source.exists() and source.resolve().is_relative_to(target.resolve()):
        raise SegmentError(f"{target} is the input itself")
    if not target.is_dir() or (any(target.iterdir()) and not _is_bag(target)):
        raise SegmentError(f"{target} is no bag, so --overwrite does not remove it")


def _is_bag(folder: Path) -> bool:
    """Whether there is nothing in a folder but a bag."""
    known = {*storage_files(folder), folder / "metadata.yaml", folder / "metadata.yaml.tmp"}
    return all(path in known or path.name.endswith("-journal") for path in folder.iterdir())


def _cameras(reader: BagReader, wanted: Sequence[str]) -> dict[str, _BagCamera]:
    """The cameras by topic: those asked for, or those whose name does not say otherwise.

    Raises SegmentError if there is none.
    """
    known = image_topics(reader)
    there = f"it has {', '.join(sorted(known))}" if known else "it has no images at all"
    for topic in wanted:
        if topic not in known:
            raise SegmentError(f"no image topic {topic!r} in the bag; {there}")
    topics = list(dict.fromkeys(wanted)) or colour_topics(known)
    if not topics:
        raise SegmentError(f"no colour images in the bag; {there}; choose with --topic")
    bases = [topic.removesuffix("/compressed") for topic in topics]
    names = camera_names(bases, [""] * len(topics))
    for topic, name in zip(topics, names, strict=True):
        _say(f"{topic}: {known[topic].size} images, camera {name}")
    return {
        topic: _BagCamera(topic, name, several=len(topics) > 1)
        for topic, name in zip(topics, names, strict=True)
    }


def _to_copy(reader: BagReader, cameras: Mapping[str, _BagCamera]) -> set[str]:
    """The topics of the input, except those that hold such results already."""
    ours = {
        topic
        for camera in cameras.values()
        for output in OUTPUTS
        for topic in camera.topics(output)
    }
    for topic in sorted(ours & set(reader.topics)):
        _say(f"{topic}: not copied, as new results are written to it")
    return set(reader.topics) - ours


def _load(settings: NodeSettings) -> Perception:
    try:
        perception = Perception(settings.perception())
    except (OSError, ValueError, RuntimeError) as error:
        raise SegmentError(str(error)) from error
    segmenter, checkpoint = perception.segmenter, perception.checkpoint
    _say(f"loaded {checkpoint} on {segmenter.device} ({segmenter.precision})")
    if not perception.latents_are_trained:
        _say(f"{checkpoint} was trained for its masks only: the latents mean nothing")
    return perception


# --- options ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="segment_bag",
        description=summary,
        epilog=textwrap.dedent(rest),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input", metavar="IN", type=Path, help="bag folder, .mcap or .db3 file")
    parser.add_argument("output", metavar="OUT", type=Path, help="bag folder to write")
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic, may be given several times; without it every colour camera "
        "(not: depth, infrared, masks; not: compressed where the bag has the same images raw)",
    )
    parser.add_argument("--storage", choices=STORAGES, default="mcap", help="of OUT (mcap)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a bag")
    parser.add_argument("--copy", action="store_true", help="copy the input's topics to OUT, too")
    parser.add_argument(
        "--no-overlay", dest="overlay", action="store_false", help="write no pictures for people"
    )
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="parameter file of the perception node (YAML); options below come before it",
    )
    group = parser.add_argument_group("parameters, as the perception node has them")
    for name in PARAMETERS:
        rule, default = RULES[name], getattr(NodeSettings(), name)
        text = f"{rule.description} {f'{rule.allowed}. ' if rule.allowed else ''}"
        text += f"Default: {default if default != '' else 'empty'}"
        dashed = f"--{name.replace('_', '-')}"
        names = [f"--{name}"] if dashed == f"--{name}" else [f"--{name}", dashed]
        group.add_argument(*names, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    return parser


def _settings(options: argparse.Namespace) -> NodeSettings:
    """Raises ParameterError and OSError, naming what is wrong."""
    values: dict[str, Any] = {}
    if options.params is not None:
        given = read_parameter_file(options.params, _say)
        values.update({name: value for name, value in given.items() if name in PARAMETERS})
    for name in PARAMETERS:
        text = getattr(options, name)
        if text is not None:
            values[name] = check(name, _value(name, text))
    return NodeSettings(**values)


def _value(name: str, text: str) -> object:
    """An option's value in the parameter's type, where it has that form."""
    kind = type(getattr(NodeSettings(), name))
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with suppress(ValueError):
        return kind(text)
    return text


def _say(text: str) -> None:
    """To people, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
