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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import yaml
from rclpy.time import Time
from tqdm import tqdm

from genesis_core import Scene, Segmenter, decoder_is_trained, find_checkpoint
from genesis_core.perception.objects import find_objects
from genesis_core.perception.overlay import draw_overlay
from genesis_core.perception.tracking import Tracker
from genesis_ros.bags.images import colour_topics, image_topics, read_message
from genesis_ros.bags.reader import BagMessage, BagReader, storage_files
from genesis_ros.bags.writer import STORAGES, LiveBagWriter
from genesis_ros.masks import to_object_masks
from genesis_ros.messages.images import ImageError, ImageMessage, to_message, to_rgb
from genesis_ros.node.camera import camera_names
from genesis_ros.node.parameters import RULES, ParameterError, Settings, check
from genesis_ros.processes.interruption import Interrupted, Interruption
from genesis_ros.simulated_camera.sources import SourceError

DAMAGED = 3
"""Exit status where the input was damaged."""

PARAMETERS = (
    "checkpoint", "device", "precision", "max_slots", "stop_threshold", "mask_source", "fit",
    "min_area", "mask_floor", "background_border", "background_span", "clutter_score", "tracking",
    "track_max_age", "track_min_similarity", "overlay_alpha",
)  # fmt: skip
"""Parameters of the perception node that are options here, too."""

_CUDA_BATCH = 16  # images; on a CPU they take as long one by one


class SegmentError(RuntimeError):
    """The program cannot go on; the message says why."""


class _Camera:
    """Where a camera's results go, and its tracks."""

    def __init__(self, topic: str, name: str, *, several: bool, settings: Settings) -> None:
        own = f"/genesis/{name}" if several else "/genesis"
        self.topic = topic
        self.name = name
        self.masks = ["/genesis/object_masks", f"{own}/object_masks"][: 1 + several]
        self.labels = f"{own}/label_image"
        self.overlay = f"{own}/overlay"
        self.tracker: Tracker | None = None
        if settings.tracking:
            self.tracker = Tracker(
                max_age=settings.track_max_age, min_similarity=settings.track_min_similarity
            )


class _Frame(NamedTuple):
    camera: _Camera
    message: ImageMessage
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
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
    except (SegmentError, SourceError, OSError, sqlite3.Error, torch.OutOfMemoryError) as error:
        _say(f"segment_bag failed: {error}")
        return 1
    return interruption.exit_status or (DAMAGED if damaged else 0)


def _run(options: argparse.Namespace, settings: Settings, interruption: Interruption) -> bool:
    """Segment the bag; whether the input was damaged."""
    source, target = options.input.expanduser(), options.output.expanduser()
    _check_target(source, target, options.overwrite)
    with BagReader(source, _say, interruption.check) as reader:
        cameras = _cameras(reader, options.topic, settings)
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
        segmenter: Segmenter,
        cameras: Mapping[str, _Camera],
        settings: Settings,
        *,
        with_overlay: bool,
    ) -> None:
        self._segmenter = segmenter
        self._model_name = find_checkpoint(settings.checkpoint).stem
        self._cameras = cameras
        self._settings = settings
        self._with_overlay = with_overlay
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
        batch_size = _CUDA_BATCH if self._segmenter.device.type == "cuda" else 1
        batch: list[_Frame] = []
        interval = 0.5 if sys.stderr.isatty() else 10.0  # s
        with tqdm(total=total, unit="image", mininterval=interval) as progress:
            for item in reader.messages({*self._cameras, *copied}):
                interruption.check()
                if item.topic.name in copied:
                    self._copy(item, writer(), copied)
                camera = self._cameras.get(item.topic.name)
                if camera is None:
                    continue
                frame = self._read(item, camera)
                progress.update()
                batch += [frame] if frame else []
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

    def _read(self, item: BagMessage, camera: _Camera) -> _Frame | None:
        try:
            message = read_message(item)
            return _Frame(camera, message, to_rgb(message), item.stamp)
        except ImageError as error:
            self._skip(camera.topic, error.kind, item.stamp, error)
            return None

    def _skip(self, topic: str, kind: str, stamp: int, error: Exception) -> None:
        """Count an image that cannot be used, and name the first of each kind."""
        if not self._skipped[topic, kind]:
            _say(f"{topic} at {stamp / 1e9:.3f} s: skipped: {error}")
        self._skipped[topic, kind] += 1

    def _write(self, batch: Sequence[_Frame], writer: Callable[[], LiveBagWriter]) -> None:
        scenes = self._segment([frame.image for frame in batch])
        for frame, scene in zip(batch, scenes, strict=True):
            try:
                results = self._describe(frame, scene)
            except ValueError as error:  # masks that are not finite, too many slots
                self._skip(frame.camera.topic, "scene", frame.received, error)
                continue
            writer().write_together(results, frame.received)
            self._done[frame.camera.topic] += 1

    def _segment(self, images: list[npt.NDArray[np.uint8]]) -> list[Scene]:
        """In one go, or if the device has not enough memory for that, one by one."""
        try:
            return self._segmenter(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        torch.cuda.empty_cache()
        return [self._segmenter(image) for image in images]

    def _describe(self, frame: _Frame, scene: Scene) -> list[tuple[str, Any]]:
        """Everything that the node would publish about an image, and on which topics."""
        settings, camera, header = self._settings, frame.camera, frame.message.header
        found = find_objects(scene, **settings.finding())
        track_ids = None
        if camera.tracker is not None:
            taken = Time.from_msg(header.stamp).nanoseconds or frame.received
            track_ids = camera.tracker.update(found, taken / 1e9)
        height, width = found.labels.shape
        masks = to_object_masks(
            found.objects,
            header=header,
            height=height,
            width=width,
            camera=camera.name,
            model=self._model_name,
            track_ids=track_ids,
        )
        results = [(topic, masks) for topic in camera.masks]
        results.append((camera.labels, to_message(found.labels, header)))
        if self._with_overlay:
            picture = draw_overlay(frame.image, found, settings.overlay_alpha, track_ids)
            results.append((camera.overlay, to_message(picture, header)))
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


def _cameras(reader: BagReader, wanted: Sequence[str], settings: Settings) -> dict[str, _Camera]:
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
        topic: _Camera(topic, name, several=len(topics) > 1, settings=settings)
        for topic, name in zip(topics, names, strict=True)
    }


def _to_copy(reader: BagReader, cameras: Mapping[str, _Camera]) -> set[str]:
    """The topics of the input, except those that hold such results already."""
    ours = {
        topic
        for camera in cameras.values()
        for topic in (*camera.masks, camera.labels, camera.overlay)
    }
    for topic in sorted(ours & set(reader.topics)):
        _say(f"{topic}: not copied, as new results are written to it")
    return set(reader.topics) - ours


def _load(settings: Settings) -> Segmenter:
    path = find_checkpoint(settings.checkpoint)
    try:
        segmenter = Segmenter(
            path,
            device=settings.device,
            precision=settings.precision,
            max_slots=settings.max_slots or None,
            stop_threshold=settings.stop_threshold or None,
            mask_source=settings.mask_source,
            fit=settings.fit,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SegmentError(str(error)) from error
    _say(f"loaded {path} on {segmenter.device} ({segmenter.precision})")
    if not decoder_is_trained(segmenter.model.metadata.get("trained")):
        _say(f"{path} was trained for its masks only: the latents mean nothing")
    return segmenter


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
        rule, default = RULES[name], getattr(Settings(), name)
        text = f"{rule.description} {f'{rule.allowed}. ' if rule.allowed else ''}"
        text += f"Default: {default if default != '' else 'empty'}"
        dashed = f"--{name.replace('_', '-')}"
        names = [f"--{name}"] if dashed == f"--{name}" else [f"--{name}", dashed]
        group.add_argument(*names, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """Raises ParameterError and OSError, naming what is wrong."""
    values: dict[str, Any] = {}
    if options.params is not None:
        values.update(_read_parameters(options.params))
    for name in PARAMETERS:
        text = getattr(options, name)
        if text is not None:
            values[name] = check(name, _value(name, text))
    return Settings(**values)


def _value(name: str, text: str) -> object:
    """An option's value in the parameter's type, where it has that form."""
    kind = type(getattr(Settings(), name))
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    with suppress(ValueError):
        return kind(text)
    return text


def _read_parameters(path: Path) -> dict[str, Any]:
    """Those parameters of a ROS parameter file that are options here, too."""
    try:
        nodes = _nodes(yaml.safe_load(path.read_text()), ())
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error
    sections = [found for node, found in nodes if node in ("perception", "*", "**")]
    if not sections:
        raise ParameterError(f"{path}: no ros__parameters for the node perception in it")
    values: dict[str, Any] = {}
    for name, value in (item for section in sections for item in section.items()):
        if name in PARAMETERS:
            values[name] = check(name, value)
        elif name not in RULES:
            _say(f"{path}: ignored {name}, which is no parameter of the perception node")
    return values


def _nodes(tree: object, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Last part of a node's name, and its parameters, of all in a parameter file."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key == "ros__parameters" and isinstance(value, dict):
            yield "/".join(path).rpartition("/")[2], value
        else:
            yield from _nodes(value, (*path, str(key)))


def _say(text: str) -> None:
    """To people, above the progress bar."""
    tqdm.write(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
