"""Prepare a data set for training: python -m training.prepare DATASET --source DIR --output DIR.

Writes OUTPUT/{train,val,test}/images.npy, masks.npy (where masks are known) and info.json. Work is
spread over processes, and with --shard over machines; the same command again resumes what was
interrupted.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from training.datasets.apc import Apc
from training.datasets.assembly import assemble, finished_options, is_planned
from training.datasets.layout import INFO, DatasetError, check_at_least, read_json
from training.datasets.objects_room import ObjectsRoom
from training.datasets.parts import (
    Dataset,
    OnError,
    Shard,
    Stopped,
    Task,
    changed_options,
    make_parts,
)
from training.datasets.shapestacks import ShapeStacks
from training.datasets.sketchy import Sketchy
from training.datasets.sprites import Sprites

TaskT = TypeVar("TaskT", bound=Task)


@dataclass(frozen=True)
class Run:
    """How to prepare.

    Args:
        output: directory to write to, made if need be
        workers: number of processes; by default one per processor
        shard: I/N has this machine do only the I-th of N shares of the work, I = 0..N-1, into
            OUTPUT/parts, which all machines share or which is copied together afterwards; when
            all shares are done, `merge` joins them
        on_error: what to do about corrupt input: stop, or report it, skip it and go on
    """

    output: Path
    workers: int | None = None
    shard: str | None = None
    on_error: OnError = "stop"


def prepare(dataset: Dataset[TaskT], run: Run) -> None:
    """Prepare a data set, or this machine's share of it, and say what there is.

    Raises DatasetError for a source or an output that cannot be used, ValueError for bad options.
    """
    shard = Shard.parse(run.shard or "0/1")
    workers = run.workers if run.workers is not None else os.cpu_count() or 1
    check_at_least(1, workers=workers)
    if dataset.source is not None and not dataset.source.exists():
        raise DatasetError(f"--source {dataset.source} does not exist")
    settled = finished_options(run.output)
    if settled is not None:
        if changes := changed_options(dataset, settled):
            raise DatasetError(f"{run.output} holds another data set: {changes}; remove it first")
        print(f"{run.output} is prepared already")
        return
    if not is_planned(run.output):
        make_parts(dataset, run.output, shard=shard, workers=workers, on_error=run.on_error)
    if run.shard is None:
        merge(run.output)
    else:
        print(f"shard {run.shard} is done; once all are: prepare.py merge --output {run.output}")


def merge(output: Path) -> None:
    """Join the parts that all shards have made."""
    counts = assemble(output)
    print(f"{output}: {', '.join(f'{count} {split}' for split, count in counts.items())} images")
    infos = {split: read_json(output / split / INFO) for split in counts}
    shares = {split: info["label_share"] for split, info in infos.items() if "label_share" in info}
    if shares:
        told = ", ".join(f"{share:.1%} of {split}" for split, share in shares.items())
        print(f"labelled pixels: {told}")
    if skipped := infos["train"].get("skipped"):
        print(f"files that are no data, skipped: {skipped}")
    if (output / "problems.txt").exists():
        print(f"some input was left out, see {output / 'problems.txt'}")


def _kinds() -> dict[str, type[Any]]:
    """The data sets by name."""
    # Here, as it loads torch, which the workers of other data sets do without.
    from training.datasets.tabletop import Tabletop

    kinds = (Sketchy, Apc, ObjectsRoom, ShapeStacks, Tabletop, Sprites)
    return {kind.name: kind for kind in kinds}


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="prepare.py", description=str(__doc__).partition("\n")[0])
    commands = parser.add_subcommands(dest="command")
    for name, kind in _kinds().items():
        command = ArgumentParser(description=str(kind.__doc__).partition("\n\n    Args")[0])
        command.add_class_arguments(kind, as_positional=False)
        command.add_class_arguments(Run, as_positional=False)
        commands.add_subcommand(name, command, help=str(kind.__doc__).partition("\n")[0])
    joining = ArgumentParser(description=merge.__doc__)
    joining.add_argument("--output", type=Path, required=True, help="directory with parts/")
    commands.add_subcommand("merge", joining, help="Join the parts of all shards.")
    return parser


def _dispatch(command: str, **commands: Namespace) -> None:
    from genesis_sim import RenderingError
    from genesis_sim.assets import AssetError

    options = vars(commands[command])
    if command == "merge":
        merge(options["output"])
        return
    run = Run(**{name: options.pop(name) for name in Run.__dataclass_fields__})
    try:
        prepare(_kinds()[command](**options), run)
    except (AssetError, RenderingError) as error:
        raise DatasetError(str(error)) from error
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
