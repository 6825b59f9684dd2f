"""Tables of evaluation results in the layout of the paper's, beside the paper's figures.

python -m training.evaluate --checkpoint runs/a/model.safetensors --data data/shapestacks \
    --output runs/a/results.json
python -m training.tables --runs runs --output docs/tables

Collects every result file below --runs. Models that differ only in their seed share a row, as mean
and standard deviation; whatever else differs (slots, sizes, steps) is said in the row. So are an
objective other than the paper's, and what the evaluation had other than the paper's: number of
images, stop threshold, images of the FID. Data sets that the paper has not, or has in another
variant or image size, get columns of their own. Where a data set lies does not matter: those of one
name are told apart by how they were made.

evaluate.py prints the same tables of the checkpoints that it evaluated, with a row for each.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from genesis_core.files import write_atomically
from training import paper
from training.collected import (
    METRICS,
    SCORES_OF_MASKS,
    Collected,
    Data,
    Masks,
    Report,
    Result,
    collect,
    masks_to_score,
)
from training.command_line import call
from training.paper import Figures, Variant
from training.table_forms import Cell, Row, Table, latex, markdown, plain

SINGLE_OBJECT = "apc"  # scored over all pixels (Table 4)
FOREGROUND = "Table 1: segmentation, foreground"
DENSITY = "Table 3: density estimation and generation"
PIXELS = "Table 4: segmentation, all pixels"
OBJECTS_FOUND = "Objects found, kinds of slots, latents (not in the paper)"
OBJECT_METRICS = (
    "r50",
    "r75",
    "kind_accuracy",
    "robot_told",
    "robot_recall",
    "latent_r2",
    "mse",
)


def make_tables(collected: Collected) -> list[Table]:
    """The paper's Tables 1 to 6, in its order."""
    simulated = [*collected.datasets("objects_room", "shapestacks"), *collected.others]
    apc = collected.datasets(SINGLE_OBJECT)
    real = collected.datasets("sketchy", SINGLE_OBJECT)
    theirs = {SINGLE_OBJECT: paper.SEGMENTATION_APC}
    return [
        _models(collected, FOREGROUND, simulated, ("ari_fg", "msc_fg"), paper.SEGMENTATION),
        _slots(collected, simulated, "Table 2: slots of GENESIS-V2"),
        _models(collected, DENSITY, simulated, ("elbo", "fid"), paper.GENERATION),
        _models(collected, PIXELS, apc, ("ari", "msc"), theirs),
        _models(
            collected, "Table 5: generation of real images", real, ("fid",), paper.GENERATION_REAL
        ),
        _ablations(collected, simulated),
    ]


def report(content: dict[str, Any]) -> str:
    """What ``report_tables`` gives, for the terminal."""
    title, tables = report_tables(content)
    return "\n".join([title, "", *map(plain, tables)])


def report_tables(content: dict[str, Any]) -> tuple[str, list[Table]]:
    """Tables 1 to 4 for what evaluate.py writes: a row for each checkpoint, of both its masks.

    Before them, their title.
    """
    about = content["data"]
    data = Data.of(about)
    results = [Result.of(data, model) for model in content["models"]]
    collected = Report(results, [], ("decoder", "attention"))
    first = results[0].metrics
    title = (
        f"{', '.join([data.name or about['path'], *data.unlike])}, {about['split']} split: "
        f"{first['images']} images at {first['image_size']}x{first['image_size']}, "
        f"seed {content['seed']}"
    )
    if data.name == SINGLE_OBJECT:
        theirs = {SINGLE_OBJECT: paper.SEGMENTATION_APC}
        tables = [_models(collected, PIXELS, [data], ("ari", "msc"), theirs)]
    else:
        tables = [_models(collected, FOREGROUND, [data], ("ari_fg", "msc_fg"), paper.SEGMENTATION)]
        flexible = {r.metrics["stop_threshold"] for r in results if r.metrics.get("flexible")}
        if flexible:
            thresholds = "/".join(f"{threshold:g}" for threshold in sorted(flexible))
            slots = f"Table 2: slots (flexible: down to {thresholds} px at 64x64)"
            tables.append(_slots(collected, [data], slots))
    shown = [metric for metric in OBJECT_METRICS if collected.knows(metric)]
    if shown:
        tables.append(_models(collected, OBJECTS_FOUND, [data], shown, {}))
    counts = sorted({r.metrics["fid_images"] for r in results if r.value("fid", "", "")})
    images = f" (FID of {'/'.join(map(str, counts))} images)" if counts else ""
    generation = paper.GENERATION | paper.GENERATION_REAL
    tables.append(_models(collected, DENSITY + images, [data], ("elbo", "fid"), generation))
    return title, tables


def _models(
    collected: Collected,
    title: str,
    datasets: Sequence[Data],
    metrics: Sequence[str],
    figures: dict[str, dict[str, Figures]],
) -> Table:
    """A row per model, the paper's, then ours; columns by data set and metric."""
    scores_masks = not SCORES_OF_MASKS.isdisjoint(metrics)
    rows: list[Row] = []
    for model in collected.models:
        name = paper.NAMES.get(model, model)
        known = [figures.get(data.papers_name, {}).get(model, {}) for data in datasets]
        if collected.has_papers_row(model, known):
            kind = [masks_to_score(model)] if scores_masks else []
            theirs = [_papers_cell(of, metric) for of in known for metric in metrics]
            rows.append([name, "paper", *kind, *theirs])

        def keep(r: Result, model: str = model) -> bool:
            return r.model == model and r.data in datasets and collected.in_main_tables(r)

        for source, results in collected.groups(keep, metrics, "fixed"):
            for masks in collected.mask_sources(model, results) if scores_masks else [""]:
                ours = collected.cells(results, datasets, metrics, "fixed", masks)
                rows.append([name, source, *([masks] if scores_masks else []), *ours])
    texts = ["Model", "Source", *(["Masks"] if scores_masks else [])]
    return Table(title, texts, collected.headings(datasets, metrics), rows)


def _slots(collected: Collected, datasets: Sequence[Data], title: str) -> Table:
    """Table 2: a row per data set, mask loss, and kind of slots."""
    metrics = ("slots", "slots_mae", "ari_fg", "msc_fg")
    rows: list[Row] = []
    for data in datasets:
        for mask_loss in (False, True):

            def keep(r: Result, data: Data = data, mask_loss: bool = mask_loss) -> bool:
                return collected.in_slots_table(r) and r.mask_loss == mask_loss and r.data == data

            theirs = paper.SLOTS.get((data.papers_name, mask_loss))
            training = "mask loss" if mask_loss else "no mask loss"
            for mode in ("fixed", "flexible"):
                groups = collected.groups(keep, metrics, mode)
                if not groups or (theirs is None and not groups[0][1]):
                    continue  # neither the paper nor we have it
                about: Row = [collected.title(data), training, mode]
                if theirs is not None:
                    figures = [_papers_cell(theirs[mode], metric) for metric in metrics]
                    rows.append([*about, "paper", masks_to_score("genesis_v2"), *figures])
                for source, results in groups:
                    for masks in collected.mask_sources("genesis_v2", results):
                        ours = collected.cells(results, [data], metrics, mode, masks)
                        rows.append([*about, source, masks, *ours])
    texts = ["Dataset", "Training", "Slots", "Source", "Masks"]
    return Table(title, texts, [METRICS[metric][0] for metric in metrics], rows)


def _ablations(collected: Collected, datasets: Sequence[Data]) -> Table:
    """Table 6: a row per prior, kernel and embedding."""
    metrics = ("ari_fg", "msc_fg")
    rows: list[Row] = []
    for variant, figures in paper.ABLATIONS.items():

        def keep(r: Result, variant: Variant = variant) -> bool:
            ours = r.model == "genesis_v2" and r.variant == variant and not r.mask_loss
            return ours and r.data in datasets

        about: Row = [
            "yes" if variant.autoregressive_prior else "no",
            variant.kernel.capitalize(),
            "yes" if variant.semi_conv else "no",
        ]
        known = [figures.get(data.papers_name, {}) for data in datasets]
        theirs = [_papers_cell(of, metric) for of in known for metric in metrics]
        rows.append([*about, "paper", masks_to_score("genesis_v2"), *theirs])
        for source, results in collected.groups(keep, metrics, "fixed"):
            for masks in collected.mask_sources("genesis_v2", results):
                ours = collected.cells(results, datasets, metrics, "fixed", masks)
                rows.append([*about, source, masks, *ours])
    texts = ["Auto-reg. prior", "Kernel", "Semi-conv.", "Source", "Masks"]
    headings = collected.headings(datasets, metrics)
    return Table("Table 6: ablations of GENESIS-V2", texts, headings, rows)


def _papers_cell(figures: Figures, metric: str) -> Cell | None:
    return Cell(figures[metric], METRICS[metric][1]) if metric in figures else None


def run(runs: Path, output: Path | None = None, masks: Masks = "paper") -> None:
    """Print the paper's tables with all results in a folder, and write them.

    Args:
        runs: folder with results of evaluate.py, in folders of any depth.
        output: folder for tables.md and tables.tex.
        masks: which masks to score: the decoder's or the attention's, or the ones that the paper
            scores: attention of MONet-G, decoder of GENESIS-V2 and Slot Attention (GENESIS has one
            kind). Where no decoder was trained, the attention's.
    """
    collected = collect(runs, masks)
    tables = make_tables(collected)
    text = "\n".join(markdown(table) for table in tables)
    print(text)
    for reason in collected.left_out:
        print(f"left out: {reason}", file=sys.stderr)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        forms = {"tables.md": text, "tables.tex": "\n".join(map(latex, tables))}
        for name, content in forms.items():
            write_atomically(output / name, content)
            print(f"wrote {output / name}")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="tables.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
