"""Prepare a data set for training: python -m training.prepare DATASET --source DIR --output DIR.

Writes OUTPUT/{train,val,test}/images.npy, masks.npy (where masks are known) and info.json. Work is
spread over processes, or with --ray over machines; the same command again resumes what was
interrupted.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from genesis_bags.reader import find_bags, storage_files
from training.datasets.apc import Apc
from training.datasets.assembly import assemble, finished_options, is_planned
from training.datasets.bag import Bag
from training.datasets.folder import Folder
from training.datasets.folder_names import SUFFIXES as IMAGE_SUFFIXES
from training.datasets.inputs import input_files
from training.datasets.layout import INFO, DatasetError, check_at_least, read_json
from training.datasets.lerobot import INFO_FILE, LeRobot
from training.datasets.objects_room import ObjectsRoom
from training.datasets.parts import (
    PARTS,
    Dataset,
    OnError,
    Stopped,
    Task,
    changed_options,
    make_parts,
    settle_options,
)
from training.datasets.recordings import OwnData
from training.datasets.rlds import Rlds
from training.datasets.shapestacks import ShapeStacks
from training.datasets.sketchy import Sketchy
from training.datasets.sprites import Sprites
from training.datasets.video import SUFFIXES as VIDEO_SUFFIXES
from training.datasets.video import Video

TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class Run:
    """How to prepare.

    Args:
        output: directory to write to, made if need be
        workers: number of processes; by default one per processor
        ray: address of a Ray cluster (such as 10.0.0.1:6379, or auto for the one that this machine
            belongs to) that does the work instead; all its machines see --source under this path
        on_error: what to do about corrupt input: stop, or report it, skip it and go on
    """

    output: Path
    workers: int | None = None
    ray: str | None = None
    on_error: OnError = "stop"


def prepare(dataset: Dataset[TaskT], run: Run) -> None:
    """Prepare a data set, and say what there is.

    Raises DatasetError for a source or an output that cannot be used, ValueError for bad options.
    """
    workers = run.workers if run.workers is not None else os.cpu_count() or 1
    check_at_least(1, workers=workers)
    source, output = dataset.source, run.output
    if source is not None and not source.exists():
        raise DatasetError(f"--source {source} does not exist")
    lists_all = isinstance(dataset, (Folder, LeRobot))  # their files: the output's would be some
    if lists_all and source and output.resolve().is_relative_to(source.resolve()):
        raise DatasetError(
            f"--output {output} lies inside --source {source}: take another --output"
        )
    settled = finished_options(run.output)
    if settled is not None:
        if changes := changed_options(dataset, settled, complete=True):
            raise DatasetError(f"{run.output} holds another data set: {changes}; remove it first")
        print(f"{run.output} is prepared already")
        return
    if is_planned(run.output):
        settle_options(dataset, run.output / PARTS, planned=True)
    else:
        make_parts(dataset, run.output, workers=workers, on_error=run.on_error, ray=run.ray)
    _report(dataset, run.output, assemble(run.output))


def _report(dataset: Dataset[Any], output: Path, counts: dict[str, int]) -> None:
    """Say what was taken and what was left out."""
    own = dataset if isinstance(dataset, OwnData) else None
    print(f"{output}: {', '.join(f'{count} {split}' for split, count in counts.items())} images")
    for split, share in (("val", own.val), ("test", own.test)) if own else ():
        if share and not counts[split]:
            print(
                f"{split} is empty: there are too few images, or all of it shows nearly what was "
                "held out already (--min-change 0 keeps that)"
            )
    infos = {split: read_json(output / split / INFO) for split in counts}
    shares = {split: info["label_share"] for split, info in infos.items() if "label_share" in info}
    if shares:
        told = ", ".join(f"{share:.1%} of {split}" for split, share in shares.items())
        print(f"labelled pixels: {told}")
    for reason, count in infos["train"]["left_out"].items():
        print(f"left out: {count} {reason}")
    if skipped := infos["train"]["skipped"]:
        print(f"files that are no data, skipped: {skipped}")
    if (output / "problems.txt").exists():
        print(f"some input was left out, see {output / 'problems.txt'}")


def reader_for(path: Path) -> str:
    """Which command prepares a file or folder of one's own.

    Where images lie beside other things they count: videos among photos are left out. Bags beside
    images do not tell which is meant.

    Returns:
        folder, bag, video, lerobot or rlds.

    Raises:
        DatasetError: it is none of these; the message says what is there.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    if (path / INFO_FILE).is_file():
        return LeRobot.name
    files, _ = input_files(path)
    bags = [bag for bag in find_bags(path) if not bag.is_dir() or storage_files(bag)]
    if bags:
        for file in files:
            is_image = file.suffix.lower() in IMAGE_SUFFIXES
            if is_image and not any(file.is_relative_to(bag) for bag in bags):
                raise DatasetError(
                    f"{path} holds images and bags, {file.name} and {bags[0].name} for example: "
                    "name a folder with one of them"
                )
        return Bag.name
    if any(".tfrecord" in file.name for file in files):
        return Rlds.name
    suffixes = Counter(file.suffix.lower() for file in files)
    if path.is_dir() and suffixes.keys() & IMAGE_SUFFIXES:
        return Folder.name
    if suffixes.keys() & VIDEO_SUFFIXES:
        return Video.name
    common = ", ".join(
        f"{count} {suffix or 'files without a suffix'}" for suffix, count in suffixes.most_common(5)
    )
    raise DatasetError(
        f"{path} is nothing that can be prepared; expected a folder of images, videos, bags, a "
        f"LeRobot data set or TFRecords of RLDS, found {common or 'nothing'}"
    )


def _kinds() -> dict[str, type[Any]]:
    """The data sets by name."""
    # Here, as it loads torch, which the workers of other data sets do without.
    from training.datasets.tabletop import Tabletop

    kinds = (
        *(Sketchy, Apc, ObjectsRoom, ShapeStacks, Tabletop, Sprites),
        *(Folder, Video, Bag, LeRobot, Rlds),
    )
    return {kind.name: kind for kind in kinds}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="prepare.py", description=str(__doc__).partition("\n")[0])
    commands = parser.add_subcommands(dest="command")
    for name, kind in _kinds().items():
        command = ArgumentParser(description=str(kind.__doc__).partition("\n\n    Args")[0])
        command.add_class_arguments(kind, as_positional=False)
        command.add_class_arguments(Run, as_positional=False)
        commands.add_subcommand(name, command, help=str(kind.__doc__).partition("\n")[0])
    return parser


def _dispatch(command: str, **commands: Namespace) -> None:
    from genesis_sim import RenderingError
    from genesis_sim.assets import AssetError

    options = vars(commands[command])
    kind = _kinds()[command]
    run = Run(**{name: options.pop(name) for name in Run.__dataclass_fields__})
    try:
        prepare(kind(**options), run)
    except (AssetError, RenderingError) as error:
        raise DatasetError(str(error)) from error
    except ImportError as error:
        if not issubclass(kind, OwnData):
            raise
        raise DatasetError(
            f"{command} needs {error.name}: pip install -r requirements/data.txt"
        ) from error
    except OSError as error:
        if error.filename is not None:
            raise
        # A write that fails, on a full disk for one, does not say where.
        raise DatasetError(f"{run.output}: {error}; the same command again resumes") from error


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with 1 and a message on bad input, with 130 when interrupted."""
    from training.command_line import call  # Here, as it loads torch, which workers do without.

    try:
        call(_dispatch, _parser(), arguments)
    except (KeyboardInterrupt, Stopped):
        print("\ninterrupted; the same command again resumes", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
