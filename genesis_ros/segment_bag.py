"""The objects in the images of a recorded bag, as a new bag.

    ros2 run genesis_ros segment_bag IN OUT
    python -m genesis_ros.segment_bag IN OUT --topic /left/image_raw --topic /right/image_raw --copy

IN is a rosbag2 (sqlite3 or MCAP, compressed or not) or a ROS 1 bag, with raw or compressed images.
OUT gets what the perception node would publish about each of them, with the image's header and at
the time at which the image was received: /genesis/object_masks, /genesis/label_image and
/genesis/overlay; with several cameras all their masks on the first of these, and each camera's own
results on /genesis/<camera>/object_masks, label_image and overlay.

With --depth-topic, objects get positions and sizes, OUT also gets markers, and a checkpoint that
takes depth sees it. The depth images must be registered to the images.

IN may also be a folder of bags: OUT then gets a bag for each, and another run goes on with those
that are missing. --ray spreads them over the machines of a Ray cluster, which all see IN and OUT.

Where vision_msgs is installed, OUT also gets /genesis/detections_2d and, with depth, detections_3d.

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

from genesis_ros.processes.programs import name_missing_modules  # isort: split

if __name__ == "__main__":
    name_missing_modules("segment_bag")  # of the imports below, too

import argparse
import shutil
import sqlite3
import sys
import textwrap
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from genesis_bags.decoding.compressed_depth import COMPRESSED_DEPTH
from genesis_bags.reader import BagError, BagReader, storage_files
from genesis_bags.topics import CAMERA_INFO, IMAGE_TYPES, colour_topics, image_topics
from genesis_core import Perception, Region
from genesis_core.cluster import ClusterError
from genesis_ros.bags.archive import archived_bags, segment_archive
from genesis_ros.bags.segmentation import BagCamera, Segmentation, SegmentError, say
from genesis_ros.bags.writer import STORAGES, LiveBagWriter, check_storage
from genesis_ros.messages import detections
from genesis_ros.messages.depth_pairing import DepthPairing, info_beside
from genesis_ros.node.camera_names import camera_names
from genesis_ros.node.parameter_file import read_parameter_file
from genesis_ros.node.parameters import RULES, NodeSettings, ParameterError, check
from genesis_ros.processes.interruption import Interrupted, Interruption

DAMAGED = 3
"""Exit status where the input was damaged."""

_OF_ARCHIVES = ("workers", "ray", "overwrite")
"""Options that concern a folder of bags, not each bag."""

PARAMETERS = (
    "checkpoint", "device", "precision", "max_slots", "stop_threshold", "mask_source", "fit",
    "use_depth", "depth_tolerance", "min_area", "mask_floor", "background_border",
    "background_span", "clutter_score", "tracking", "track_max_age", "track_min_similarity",
    "overlay_alpha", "use_projection",
    "stretch_16bit", "colour_order", "depth_unit",
)  # fmt: skip
"""Parameters of the perception node that are options here, too."""


_FAILURES = (
    *(SegmentError, BagError, ClusterError, OSError, sqlite3.Error),
    torch.OutOfMemoryError,
)


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
        check_storage(options.output.expanduser(), options.storage)
        if bags := archived_bags(options.input.expanduser()):
            return _run_archive(parser, options, settings, bags, interruption)
        if options.ray or options.workers != 1:
            say("--workers and --ray share out the bags of a folder; one bag is segmented here")
        damaged = _run(options, settings, interruption)
    except Interrupted:
        say("interrupted before the first image; nothing was written")
        damaged = False
    except _FAILURES as error:
        say(f"segment_bag failed: {error}")
        return 1
    return interruption.exit_status or (DAMAGED if damaged else 0)


def _run(options: argparse.Namespace, settings: NodeSettings, interruption: Interruption) -> bool:
    """Segment the bag; whether the input was damaged."""
    source, target = options.input.expanduser(), options.output.expanduser()
    _check_target(source, target, options.overwrite)
    if not detections.AVAILABLE:
        say(detections.MISSING)
    with BagReader(source, say, interruption.check) as reader:
        cameras = _cameras(reader, options, settings)
        run = Segmentation(_load(settings), cameras, settings, with_overlay=options.overlay)
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


def _run_archive(
    parser: argparse.ArgumentParser,
    options: argparse.Namespace,
    settings: NodeSettings,
    bags: Sequence[Path],
    interruption: Interruption,
) -> int:
    """Segment each bag of a folder in a process of its own; the exit status."""
    return segment_archive(
        options.input.expanduser(),
        options.output.expanduser(),
        bags,
        _passed_on(parser, options),
        interruption,
        say,
        workers=options.workers,
        ray=options.ray,
        overwrite=options.overwrite,
        uses_gpu=settings.device != "cpu",
    )


def _passed_on(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[str]:
    """The options for the processes that segment a bag each: those that were given."""
    passed: list[str] = []
    for action in parser._actions:
        value = getattr(options, action.dest, action.default)
        if not action.option_strings or action.dest in _OF_ARCHIVES or value == action.default:
            continue
        name = action.option_strings[-1]
        if action.nargs == 0:
            passed.append(name)
        else:
            for item in value if isinstance(value, list) else [value]:
                # Other machines work in other folders.
                is_file = action.dest in ("checkpoint", "params") and Path(item).is_file()
                passed.append(f"{name}={Path(item).resolve() if is_file else item}")
    return passed


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


def _cameras(
    reader: BagReader, options: argparse.Namespace, settings: NodeSettings
) -> dict[str, BagCamera]:
    """The cameras by topic: those asked for, or all that colour_topics finds.

    Raises:
        SegmentError: there is none.
    """
    known, wanted = image_topics(reader), options.topic
    there = f"it has {', '.join(sorted(known))}" if known else "it has no images at all"
    for topic in wanted:
        if topic not in known:
            raise SegmentError(f"no image topic {topic!r} in the bag; {there}")
    topics = list(dict.fromkeys(wanted))
    if not topics:
        topics, left_out = colour_topics(reader)
        for topic, reason in left_out.items():
            say(f"{topic}: left out: {reason}")
    if not topics:
        raise SegmentError(f"no colour images in the bag; {there}; choose with --topic")
    bases = [topic.removesuffix("/compressed") for topic in topics]
    for base in bases:
        if bases.count(base) > 1:
            raise SegmentError(
                f"--topic {base} and --topic {base}/compressed are one camera's; choose one"
            )
    try:
        names = camera_names(bases, [""] * len(topics))
    except ValueError as error:
        raise SegmentError(str(error)) from error
    pairings = _depth(reader, topics, options.depth_topic, options.camera_info_topic)
    for pairing in filter(None, pairings):
        pairing.unit.given = settings.depth_unit
        pairing.use_projection = settings.use_projection
    _check_count("--region", options.region, topics)
    regions = [Region.parse(text) for text in options.region] or [None] * len(topics)
    for topic, name, depth in zip(topics, names, pairings, strict=True):
        beside = f", depth {depth.topic}" if depth else ""
        say(f"{topic}: {known[topic].size} images, camera {name}{beside}")
    return {
        topic: BagCamera(
            *(topic, name, depth),
            several=len(topics) > 1,
            region=region,
            reading=settings.reading(),
        )
        for topic, name, depth, region in zip(topics, names, pairings, regions, strict=True)
    }


def _check_count(option: str, values: Sequence[str], topics: Sequence[str]) -> None:
    """Raise SegmentError unless an option is given for no image topic or for each."""
    if values and len(values) != len(topics):
        raise SegmentError(
            f"{option} is given {len(values)} times for {len(topics)} image topics "
            f"({', '.join(topics)}); give it once for each, in their order, '' for none"
        )


def _depth(
    reader: BagReader, topics: Sequence[str], given: Sequence[str], infos: Sequence[str]
) -> list[DepthPairing | None]:
    """The depth of each image topic, None where there is none.

    Raises:
        SegmentError: the bag lacks a topic, or there are not as many as image topics.
    """
    pairings: list[DepthPairing | None] = []
    for option, values in (("--depth-topic", given), ("--camera-info-topic", infos)):
        _check_count(option, values, topics)
    for index in range(len(topics)):
        depth = _with_messages(reader, given[index]) if given else ""
        if not depth:
            pairings.append(None)
            continue
        info = (infos[index] if infos else "") or info_beside(depth)
        for topic, kinds in ((depth, IMAGE_TYPES), (info, (CAMERA_INFO,))):
            found = reader.topics.get(topic)
            if found is None or found.type not in kinds:
                what = f"is {found.type}" if found else "is not in the bag"
                raise SegmentError(f"{topic} {what}; depth needs a {' or '.join(kinds)} on it")
        pairings.append(DepthPairing(depth, info))
    return pairings


def _with_messages(reader: BagReader, depth: str) -> str:
    """The depth topic, or its compressed form where the bag has only that one."""
    raw, compressed = reader.topics.get(depth), reader.topics.get(depth + COMPRESSED_DEPTH)
    return compressed.name if compressed and compressed.size and not (raw and raw.size) else depth


def _load(settings: NodeSettings) -> Perception:
    try:
        perception = Perception(settings.perception_settings())
    except (OSError, ValueError, RuntimeError) as error:
        raise SegmentError(str(error)) from error
    segmenter, checkpoint = perception.segmenter, perception.checkpoint
    say(f"loaded {checkpoint} on {segmenter.device} ({segmenter.precision})")
    if not perception.latents_are_trained:
        say(f"{checkpoint} was trained for its masks only: the latents mean nothing")
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
    parser.add_argument(
        "input", metavar="IN", type=Path, help="bag: folder, .mcap, .db3 or .bag; or folder of bags"
    )
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="bag folder to write, or folder for bags"
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic, may be given several times; without it every colour or grey camera "
        "(not: depth, infrared, masks; raw or compressed, whichever the bag has more of)",
    )
    parser.add_argument(
        "--depth-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="depth images (16UC1 or 32FC1, raw or compressedDepth) registered to the images, for "
        "positions and for checkpoints that take depth; one per image topic, in their order, '' "
        "for none",
    )
    parser.add_argument(
        "--camera-info-topic",
        action="append",
        default=[],
        metavar="TOPIC",
        help="intrinsics of the depth images; without it camera_info beside each depth topic",
    )
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="'X Y WIDTH HEIGHT'",
        type=_region,
        help="part of the images that the model is to see, in shares of their width and height; "
        "one per image topic, in their order, '' for all of them",
    )
    parser.add_argument("--storage", choices=STORAGES, default="mcap", help="of OUT (mcap)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a bag")
    parser.add_argument(
        "--workers", type=int, default=1, help="of a folder of bags, so many at once (1)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="Ray cluster that segments a folder of bags, such as 10.0.0.1:6379, or auto",
    )
    parser.add_argument("--copy", action="store_true", help="copy the input's topics to OUT, too")
    parser.add_argument(
        "--no-overlay", dest="overlay", action="store_false", help="write no pictures for people"
    )
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="parameter file (YAML), read as the node /genesis/perception does; options below "
        "come before it",
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


def _region(text: str) -> str:
    """An option --region as it stands, which processes for a bag each are given, too.

    Raises:
        ArgumentTypeError: it is no region.
    """
    try:
        Region.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _settings(options: argparse.Namespace) -> NodeSettings:
    """The settings that the options ask for.

    Raises:
        ParameterError: a parameter, or the parameter file, cannot be used. The text names what is
            wrong.
        OSError: the parameter file cannot be read.
    """
    values: dict[str, Any] = {}
    if options.params is not None:
        given = read_parameter_file(options.params.expanduser(), say)
        values.update({name: value for name, value in given.items() if name in PARAMETERS})
        if unused := [
            name
            for name, value in given.items()
            if name not in PARAMETERS and value != getattr(NodeSettings(), name)
        ]:
            hint = "--topic, --depth-topic, --camera-info-topic and --region are for a bag's topics"
            topics = any(name.endswith(("_topics", "regions")) for name in unused)
            say(
                f"{options.params}: ignored {', '.join(unused)}: not for bags"
                + (f"; {hint}" if topics else "")
            )
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


if __name__ == "__main__":
    sys.exit(main())
