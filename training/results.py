"""Tables of evaluation results in the layout of the paper's, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

SINGLE_OBJECT = ("apc",)  # scored over all pixels (Table 4)
UNKNOWN = "-"
PAPER = "GENESIS-V2 (paper)"

# GENESIS-V2 in the paper's tables, decoder masks, means over seeds.
PAPER_FIXED = {
    "objects_room": {"slots": 7.0, "slots_mae": 3.3, "ari_fg": 0.85, "msc_fg": 0.59},
    "shapestacks": {"slots": 9.0, "slots_mae": 4.4, "ari_fg": 0.81, "msc_fg": 0.67},
    "apc": {"ari": 0.55, "msc": 0.67},
}
PAPER_FLEXIBLE = {
    "objects_room": {"slots": 5.0, "slots_mae": 1.7, "ari_fg": 0.84, "msc_fg": 0.51},
    "shapestacks": {"slots": 6.3, "slots_mae": 1.9, "ari_fg": 0.77, "msc_fg": 0.63},
}
PAPER_GENERATION = {
    "objects_room": {"elbo": -7040.0, "fid": 52.6},
    "shapestacks": {"elbo": -7019.0, "fid": 112.7},
    "sketchy": {"fid": 208.1},
    "apc": {"fid": 245.6},
}

Metrics = dict[str, Any]
Column = tuple[str, Callable[[Metrics], float | None], str]


def tables(results: dict[str, Any]) -> str:
    """Tables 1 to 4 of the paper for the results of `training.evaluate.run`."""
    dataset = results["data"].get("dataset", "")
    models = [model["metrics"] for model in results["models"]]
    names = _names(results["models"])
    first = models[0]
    size = first["image_size"]
    lines = [
        f"{dataset or results['data']['path']}, {results['data']['split']} split: "
        f"{first['images']} images at {size}x{size}, seed {results['seed']}",
        "",
    ]
    if dataset in SINGLE_OBJECT:
        lines += _segmentation(
            "Table 4: segmentation, all pixels", ("ari", "msc"), names, models, dataset
        )
    else:
        lines += _segmentation(
            "Table 1: segmentation, foreground", ("ari_fg", "msc_fg"), names, models, dataset
        )
        lines += _slots(names, models, dataset)
    lines += _generation(names, models, dataset)
    return "\n".join(lines)


def _segmentation(
    title: str, keys: tuple[str, str], names: list[str], models: list[Metrics], dataset: str
) -> list[str]:
    rows = []
    for masks in ("decoder", "attention"):
        columns = [_column(key, ".3f", "fixed", masks) for key in keys]
        rows += [[*row[:1], masks, *row[1:]] for row in _rows(names, models, columns)]
    if dataset in PAPER_FIXED:
        paper = PAPER_FIXED[dataset]
        rows.append([PAPER, "decoder", *(f"{paper[key]:.2f}" for key in keys)])
    return _layout(title, ["Model", "Masks", *map(_label, keys)], rows)


def _slots(names: list[str], models: list[Metrics], dataset: str) -> list[str]:
    keys = ("ari_fg", "msc_fg")
    rows = []
    for masks in ("decoder", "attention"):
        for mode, paper in (("fixed", PAPER_FIXED), ("flexible", PAPER_FLEXIBLE)):
            columns = [_column("slots", ".1f", mode), _column("slots_mae", ".1f", mode)]
            columns += [_column(key, ".3f", mode, masks) for key in keys]
            rows += [[row[0], masks, mode, *row[1:]] for row in _rows(names, models, columns)]
            if masks == "decoder" and dataset in paper:
                known = paper[dataset]
                figures = [f"{known['slots']:.1f}", f"{known['slots_mae']:.1f}"]
                figures += [f"{known[key]:.2f}" for key in keys]
                rows.append([PAPER, masks, mode, *figures])
    title = f"Table 2: slots (flexible: down to {models[0]['stop_threshold']:g} px at 64x64)"
    return _layout(title, ["Model", "Masks", "Slots", "Avg.", "MAE", *map(_label, keys)], rows)


def _generation(names: list[str], models: list[Metrics], dataset: str) -> list[str]:
    columns = [_column("elbo", ".0f", "fixed"), _column("fid", ".1f")]
    rows = _rows(names, models, columns)
    if dataset in PAPER_GENERATION:
        paper = PAPER_GENERATION[dataset]
        elbo = f"{paper['elbo']:.0f}" if "elbo" in paper else UNKNOWN
        rows.append([PAPER, elbo, f"{paper['fid']:.1f}"])
    counts = {model["fid_images"] for model in models if "fid_images" in model}
    images = f" (FID of {'/'.join(map(str, sorted(counts)))} images)" if counts else ""
    return _layout(f"Table 3: density estimation and generation{images}",
                   ["Model", "ELBO", "FID"], rows)  # fmt: skip


def _column(key: str, form: str, *path: str) -> Column:
    """Where to find a metric (None if unavailable) and how to print it."""

    def find(metrics: Metrics) -> float | None:
        for step in path:
            if (metrics := metrics[step]) is None:
                return None
        return metrics.get(key)

    return key, find, form


def _rows(names: list[str], models: list[Metrics], columns: Sequence[Column]) -> list[list[str]]:
    """One row per model, and their mean and standard deviation if there are several."""
    rows = [[name] for name in names]
    summary = [f"mean of {len(models)}"]
    for _, find, form in columns:
        values = [find(metrics) for metrics in models]
        for row, value in zip(rows, values, strict=True):
            row.append(UNKNOWN if value is None else f"{value:{form}}")
        known = [value for value in values if value is not None]
        complete = len(known) == len(values) > 1
        summary.append(f"{fmean(known):{form}} ± {stdev(known):{form}}" if complete else UNKNOWN)
    return [*rows, summary] if len(models) > 1 else rows


def _names(models: list[dict[str, Any]]) -> list[str]:
    """File names, with as many folders before them as it takes to tell them apart.

    A model that was taught with ground-truth masks is marked: its figures are not unsupervised.
    """
    paths = [Path(model["checkpoint"]) for model in models]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [
        f"{name} (mask supervision)" if _was_supervised(model["metadata"].get("trained")) else name
        for name, model in zip(names, models, strict=True)
    ]


def _was_supervised(trained: dict[str, Any] | None) -> bool:
    """Whether this training run, or one that it started from, was taught ground-truth masks."""
    if not trained:
        return False
    return bool(trained.get("mask_supervision")) or _was_supervised(trained.get("started_from"))


def _label(key: str) -> str:
    return key.upper().replace("_", "-")


def _layout(title: str, header: list[str], rows: list[list[str]]) -> list[str]:
    """Columns aligned: the first ones to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    text_columns = {"Model", "Masks", "Slots"}

    def line(cells: list[str]) -> str:
        aligned = (
            cell.ljust(width) if name in text_columns else cell.rjust(width)
            for cell, width, name in zip(cells, widths, header, strict=True)
        )
        return "  ".join(aligned).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return [title, line(header), rule, *map(line, rows), ""]
