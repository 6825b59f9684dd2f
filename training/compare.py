"""The paper's comparison in small: all models and ablations on generated scenes, with one budget.

python -m training.compare --output runs/comparison

Generates the scenes, then trains, evaluates and draws the models one after the other, each for the
steps of config/training/budgets/comparison.yaml, and tabulates all. Two further runs have the
region mixture, beside the paper's objective and alone. Three more, supervised by instance masks,
measure what a softmax over the seeds and a depth channel change; the first of them is evaluated
with hard masks and on scenes with more objects than in training, too.
Hours on a CPU core; what is there already is not done again. With several devices, or to do a part
only, give each process its --only; each tabulates what is there when it ends.
"""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser

from genesis_core import load_model
from training import curves, evaluate, prepare, tables, train, visualise
from training.command_line import STOPPED, call, show
from training.configs import CONFIGS
from training.run_folder import METRICS, MODEL, read_metrics

RESULTS = "results.json"
CURVES = ("attention_ari_fg", "decoder_ari_fg", "mse")
FURTHER = "supervised"
"""The run that is evaluated in further ways."""
FEW, MANY = (1, 6), (7, 12)
"""Objects in the scenes to try it on: as many as in training, and more."""
SLOTS_FOR_MANY = 14  # a slot per object, the robot and the background


@dataclass(frozen=True)
class Entry:
    """A run of the comparison: the configs that are laid over the data set's and the budget's."""

    model: str = "genesis_v2"
    changes: str | None = None
    supervised: bool = False

    @property
    def depth(self) -> bool:
        """Whether the images have a depth channel."""
        return self.changes == "variants/rgbd"

    @property
    def configs(self) -> list[Path]:
        names = ["tabletop"]
        names += [f"models/{self.model}"] if self.model != "genesis_v2" else []
        names += ["budgets/comparison", f"budgets/narrow/{self.model}"]
        names += ["budgets/supervised"] if self.supervised else []
        names += [self.changes] if self.changes else []
        return [CONFIGS / f"{name}.yaml" for name in names]


ENTRIES = {
    "genesis_v2": Entry(),
    "genesis_v1": Entry("genesis_v1"),
    "monet": Entry("monet"),
    "slot_attention": Entry("slot_attention"),
    "independent_gaussian": Entry(changes="ablations/independent_gaussian"),
    "independent_laplacian": Entry(changes="ablations/independent_laplacian"),
    "independent_epanechnikov": Entry(changes="ablations/independent_epanechnikov"),
    "plain_convolution": Entry(changes="ablations/plain_convolution"),
    "mask_loss": Entry(changes="ablations/mask_loss"),
    "softmax_masks": Entry(changes="variants/softmax_masks"),
    "region_mixture": Entry(changes="variants/region_mixture"),
    "regions": Entry(changes="budgets/regions"),
    "supervised": Entry(supervised=True),
    "supervised_softmax_masks": Entry(changes="variants/softmax_masks", supervised=True),
    "supervised_rgbd": Entry(changes="variants/rgbd", supervised=True),
}
"""All runs: four models, Table 6's ablations and Table 2's, then what is not in the paper."""


def run(
    output: Path = Path("runs/comparison"),
    only: list[str] | None = None,
    steps: int | None = None,
    images: int = 10_000,
    seed: int = 0,
) -> None:
    """Train, evaluate, draw and tabulate all models with the same budget.

    Args:
        output: folder for everything: data, a folder for each run, tables and learning curves.
        only: names of the runs to do, all by default.
        steps: number of optimiser steps of each, if other than the budget's.
        images: number of training images.
        seed: of weights and data order; with another one, take another output folder.
    """
    names = list(ENTRIES) if only is None else only
    if unknown := sorted(set(names) - set(ENTRIES)):
        raise ValueError(f"no run is named {', '.join(unknown)}; there are {', '.join(ENTRIES)}")
    for name in names:
        entry, folder = ENTRIES[name], output / name
        data = output / ("data_depth" if entry.depth else "data")
        held_out = max(1, images // 30)
        counts = f"--train {images} --val {held_out} --test {held_out}"
        _prepare(data, f"{counts} --depth {str(entry.depth).lower()}")
        configs = [part for config in entry.configs for part in ("--config", config)]
        settings = f"--resume true --seed {seed}" + ("" if steps is None else f" --steps {steps}")
        places = ("--data.path", data, "--run", folder)
        if not show(train.main, *configs, *places, settings):
            sys.exit(STOPPED)
        _evaluate(folder, RESULTS, data)
        if name == FURTHER:
            _evaluate(folder, "hard_masks.json", data, "--hard_masks")
            few, many = output / "data_few", output / "data_many"
            _prepare_objects(few, FEW, held_out)
            _prepare_objects(many, MANY, held_out)
            _evaluate(folder, "same_objects.json", few)
            _evaluate(folder, "more_objects.json", many, f"--num_slots {SLOTS_FOR_MANY}")
        score = ("--checkpoint", folder / MODEL, "--data", data)
        show(visualise.main, *score, "--output", folder / "pictures")
    with _lock(output / "tables"):
        _report(output)


def _report(output: Path) -> None:
    """Tabulate and draw the runs that are done."""
    done = [output / name for name in ENTRIES if (output / name / RESULTS).is_file()]
    show(tables.main, "--runs", output, "--output", output / "tables")
    for metric in CURVES:
        if runs := [run for run in done if _has_logged(run, metric)]:
            plot = ("--metric", f"val/{metric}", "--output", output / f"{metric}.png")
            show(curves.main, "--runs", *runs, *plot)


def _prepare(data: Path, options: str) -> None:
    """Generate scenes; what is there already is kept."""
    with _lock(data):
        kind = f"tabletop --image_size 32 --exposure 0.42 {options} --output"
        show(prepare.main, kind, data)


def _prepare_objects(data: Path, objects: tuple[int, int], count: int) -> None:
    """Generate scenes to test with these numbers of objects."""
    fewest, most = objects
    mode = f"--mode varied --min_objects {fewest} --max_objects {most}"
    _prepare(data, f"{mode} --train 1 --val 1 --test {count}")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Wait until no other process writes this folder; two would be in each other's way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks: go on unprotected
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file unlocks it


def _evaluate(folder: Path, name: str, data: Path, *options: str) -> None:
    """Evaluate a run's model, unless the results are there and of the model as it is now."""
    output = folder / name
    if output.is_file():
        model = json.loads(output.read_text())["models"][0]
        if model["metadata"].get("trained") == load_model(folder / MODEL).metadata.get("trained"):
            return
    score = ("--checkpoint", folder / MODEL, "--data", data)
    show(evaluate.main, *score, *options, "--output", output)


def _has_logged(folder: Path, metric: str) -> bool:
    """Whether a run has validated this metric: without a trained decoder there are fewer."""
    lines = read_metrics(folder / METRICS)
    return any(line["kind"] == "val" and metric in line for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="compare.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", help="names of the runs to do, all by default")
    parser.add_function_arguments(run, skip={"only"}, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
