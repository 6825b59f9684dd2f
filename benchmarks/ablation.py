"""Which parts of the default model's recipe matter: scenes, input, encoder and slots.

    python -m benchmarks.ablation --general data/general --varied data/varied --real photos \
        --held_out data/test_household data/test_varied --output runs/ablation

Trains the recipe of config/training/general.yaml with a small budget (budgets/ablation.yaml: masks
alone), whole and with one part changed at a time, calibrates each model (training/calibrate.py) on
the scenes that it learned from, and measures it on real labelled images
(training/labelled_images.py), which nothing was chosen on, and on held-out scenes. Five
minutes of one CPU core for each model. What is there already is not done again; each call tabulates
what is there.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from benchmarks.adaptation import SCENES, check_settings, measure
from genesis_core.files import write_atomically
from training import calibrate, train
from training.command_line import call, show
from training.datasets.prepared import PreparedDataset
from training.labelled_images import find_labelled
from training.paper import Figure
from training.run_folder import MODEL
from training.table_forms import Cell, Table, markdown

CALIBRATED = "calibrated.safetensors"
SCORES = "scores.json"
REAL = "real"
_BUDGET = "--config general --config budgets/ablation"


@dataclass(frozen=True)
class Row:
    """One model: what its row is called, the settings that differ, and what it learns from."""

    title: str
    settings: str = ""
    scenes: str = "general"


ROWS = {
    "whole": Row("the recipe"),
    "varied": Row("scenes: simple shapes only (mode varied)", scenes="varied"),
    "image": Row("input: the image alone, no depth", "--model.points false"),
    "always_depth": Row("input: depth with every image", "--data.augment.depth_drop 0"),
    "scratch": Row("encoder: without ImageNet weights", "--encoder_weights null"),
    "unet": Row("encoder: the paper's", "--encoder_weights null --model.encoder unet"),
    "slots_8": Row("slots: 8 instead of 16", "--model.num_slots 8"),
}
COLUMNS = {
    f"{REAL}, r50": "real, R50",
    f"{REAL}, f": "F",
    f"{REAL}, ari_fg": "ARI-FG",
    f"{REAL}, depth, r50": "with depth, R50",
    f"{REAL}, depth, f": "F",
    f"{REAL}, depth, ari_fg": "ARI-FG",
}


def bench(
    general: Path,
    varied: Path,
    real: Path,
    held_out: list[Path],
    output: Path = Path("runs/ablation"),
    only: list[str] | None = None,
    seeds: Sequence[int] = (0,),
    num_scenes: int = 60,
    calibration_scenes: int = 48,
    encoder_weights: str = "published",
    settings: str = "",
) -> str:
    """Train, calibrate, measure and tabulate; the table.

    Args:
        general: prepared scenes of mode general, with depth and masks.
        varied: the same of mode varied.
        real: folder of labelled images.
        held_out: prepared scenes, of which the test splits are measured on.
        output: folder for everything.
        only: names of the rows to do, all by default.
        seeds: of weights and data order.
        num_scenes: how many held-out scenes of each kind to measure on.
        calibration_scenes: how many scenes of the validation split to calibrate on.
        encoder_weights: see training.train.
        settings: further settings for the trainer, such as "--steps 200".
    """
    if unknown := sorted(set(only or ()) - set(ROWS)):
        raise ValueError(f"no row is named {', '.join(unknown)}; there are {', '.join(ROWS)}")
    names = [folder.name for folder in held_out]
    if len({REAL, *names}) <= len(names):
        raise ValueError(f"held_out has folders {', '.join(names)}; their names must differ")
    sources = {"general": general, "varied": varied}
    made_with = {
        "settings": settings,
        "num_scenes": num_scenes,
        "calibration_scenes": calibration_scenes,
        "encoder_weights": encoder_weights,
        "folders": [str(folder) for folder in (general, varied, real, *held_out)],
    }
    for name in only or ROWS:
        row = ROWS[name]
        for seed in seeds:
            run = output / f"{name}_{seed}"
            if (run / SCORES).is_file():
                other = json.loads((run / SCORES).read_text())["made_with"]
                check_settings(run, other, made_with)
                continue
            places = ("--encoder_weights", encoder_weights, "--data.path", sources[row.scenes])
            options = f"{row.settings} {settings} --seed {seed} --resume true"
            if not show(train.main, _BUDGET, *places, "--run", run, options):
                raise KeyboardInterrupt  # a signal stopped it
            choice = calibrate.run(
                run / MODEL, sources[row.scenes], run / CALIBRATED, images=calibration_scenes
            )
            scores = _measure(run / CALIBRATED, real, held_out, num_scenes)
            record = {"made_with": made_with, "calibrated": choice._asdict(), "scores": scores}
            write_atomically(run / SCORES, json.dumps(record, indent=2) + "\n")
    text = markdown(table(output, held_out))
    print(text)
    write_atomically(output / "ablation.md", text)
    return text


def _measure(model: Path, real: Path, held_out: Sequence[Path], num_scenes: int) -> dict[str, Any]:
    """Scores on the real images, and by the name of the folder on held-out scenes."""
    scores: dict[str, Any] = {}
    for folder in held_out:
        sets = {} if scores else {REAL: find_labelled(real)}  # once
        measured = measure(model, sets, PreparedDataset(folder, "test"), num_scenes, "cpu")
        scores |= {folder.name if name == SCENES else name: of for name, of in measured.items()}
    return scores


def table(output: Path, held_out: Sequence[Path]) -> Table:
    """Mean, and standard deviation where there are several seeds, of each row that has scores."""
    columns = COLUMNS | {f"{folder.name}, r50": f"{folder.name}, R50" for folder in held_out}
    rows: list[Any] = []
    for name, row in ROWS.items():
        files = sorted(output.glob(f"{name}_[0-9]*/{SCORES}"))
        runs = [json.loads(file.read_text())["scores"] for file in files]
        if not runs:
            continue
        cells: list[Cell | None] = []
        for column in columns:
            of, _, measure_of = column.rpartition(", ")
            values = [run[of][measure_of] for run in runs if of in run]
            spread = statistics.stdev(values) if len(values) > 1 else None
            mean = statistics.fmean(values) if values else None
            cells.append(None if mean is None else Cell(Figure(mean, spread), 2))
        rows.append([row.title, str(len(runs)), *cells])
    return Table(
        "The default model's recipe, one part changed",
        ["Model", "seeds"],
        [*columns.values()],
        rows,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="ablation.py", description=str(__doc__).partition("\n")[0])
    parser.add_argument(
        "--held_out", nargs="+", type=Path, required=True, help="prepared scenes to measure on"
    )
    parser.add_argument("--only", nargs="+", help="names of the rows to do, all by default")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], help="of weights and data order"
    )
    parser.add_function_arguments(bench, skip={"held_out", "only", "seeds"}, as_positional=False)
    call(bench, parser, arguments)


if __name__ == "__main__":
    main()
