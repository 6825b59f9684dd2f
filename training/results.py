"""Tables of evaluation results in the layout of the paper's, beside the paper's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from genesis_core import MODELS, decoder_is_trained
from training import paper
from training.paper import Figures

SINGLE_OBJECT = ("apc",)  # scored over all pixels (Table 4)
UNKNOWN = "-"

Metrics = dict[str, Any]
Column = tuple[str, Callable[[Metrics], float | None], str]


def tables(results: dict[str, Any]) -> str:
    """Tables 1 to 4 of the paper for the results of `training.evaluate.run`."""
    dataset = results["data"].get("dataset", "")
    models = [_meaningful(model) for model in results["models"]]
    names = _names(results["models"])
    kinds = {model["config"]["model"] for model in results["models"]}
    known = [name for name in paper.NAMES if name in kinds]  # to be compared with the paper's
    first = models[0]
    size = first["image_size"]
    lines = [
        f"{dataset or results['data']['path']}, {results['data']['split']} split: "
        f"{first['images']} images at {size}x{size}, seed {results['seed']}",
        "",
    ]
    if dataset in SINGLE_OBJECT:
        lines += _segmentation(
            "Table 4: segmentation, all pixels", ("ari", "msc"), names, models,
            {name: paper.SEGMENTATION_APC[name] for name in known},
        )  # fmt: skip
    else:
        theirs = paper.SEGMENTATION.get(dataset, {})
        lines += _segmentation(
            "Table 1: segmentation, foreground", ("ari_fg", "msc_fg"), names, models,
            {name: theirs[name] for name in known if name in theirs},
        )  # fmt: skip
        if any(model["flexible"] for model in models):
            lines += _slots(names, models, dataset)
    figures = (paper.GENERATION | paper.GENERATION_REAL).get(dataset, {})
    lines += _generation(names, models, {name: figures[name] for name in known if name in figures})
    return "\n".join(lines)


def _segmentation(
    title: str, keys: tuple[str, str], names: list[str], models: list[Metrics],
    figures: dict[str, Figures],
) -> list[str]:  # fmt: skip
    rows = []
    for masks in ("decoder", "attention"):
        columns = [_column(key, ".3f", "fixed", masks) for key in keys]
        rows += [[*row[:1], masks, *row[1:]] for row in _rows(names, models, columns)]
    for name, known in figures.items():
        masks = MODELS[name].default_mask_source
        rows.append([_paper(name), masks, *(f"{known[key].mean:.2f}" for key in keys)])
    return _layout(title, ["Model", "Masks", *map(_label, keys)], rows)


def _slots(names: list[str], models: list[Metrics], dataset: str) -> list[str]:
    """Of the models with a flexible number of slots."""
    chosen = [(n, model) for n, model in zip(names, models, strict=True) if model["flexible"]]
    names, models = [name for name, _ in chosen], [model for _, model in chosen]
    keys = ("ari_fg", "msc_fg")
    rows = []
    for masks in ("decoder", "attention"):
        for mode in ("fixed", "flexible"):
            columns = [_column("slots", ".1f", mode), _column("slots_mae", ".1f", mode)]
            columns += [_column(key, ".3f", mode, masks) for key in keys]
            rows += [[row[0], masks, mode, *row[1:]] for row in _rows(names, models, columns)]
            if masks == "decoder" and (dataset, False) in paper.SLOTS:
                known = paper.SLOTS[dataset, False][mode]
                figures = [f"{known[key].mean:.1f}" for key in ("slots", "slots_mae")]
                figures += [f"{known[key].mean:.2f}" for key in keys]
                rows.append([_paper("genesis_v2"), masks, mode, *figures])
    title = f"Table 2: slots (flexible: down to {models[0]['stop_threshold']:g} px at 64x64)"
    return _layout(title, ["Model", "Masks", "Slots", "Avg.", "MAE", *map(_label, keys)], rows)


def _generation(names: list[str], models: list[Metrics], figures: dict[str, Figures]) -> list[str]:
    columns = [_column("elbo", ".0f", "fixed"), _column("fid", ".1f")]
    rows = _rows(names, models, columns)
    for name, known in figures.items():
        elbo = f"{known['elbo'].mean:.0f}" if "elbo" in known else UNKNOWN
        rows.append([_paper(name), elbo, f"{known['fid'].mean:.1f}"])
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

    A model whose masks had a loss that is not in the paper is marked: with ground-truth masks, its
    figures are not unsupervised.
    """
    paths = [Path(model["checkpoint"]) for model in models]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    losses = [mask_losses(model["metadata"].get("trained")) for model in models]
    return [f"{name} ({said})" if said else name for name, said in zip(names, losses, strict=True)]


def _meaningful(model: dict[str, Any]) -> Metrics:
    """A model's metrics, without those of a decoder that has its random weights still."""
    metrics: Metrics = model["metrics"]
    if decoder_is_trained(model["metadata"].get("trained")):
        return metrics
    modes = {
        mode: metrics[mode] and {**metrics[mode], "elbo": None, "decoder": None}
        for mode in ("fixed", "flexible")
    }
    return {k: v for k, v in metrics.items() if k not in ("fid", "fid_images")} | modes


def mask_losses(trained: dict[str, Any] | None) -> str:
    """Losses not in the paper that taught masks in this training run, or in those before it.

    "mask supervision and region mixture", one of the two, or "".
    """
    runs = []
    while trained:
        runs.append(trained)
        trained = trained.get("started_from")
    names = ("mask_supervision", "region_mixture")
    used = [name.replace("_", " ") for name in names if any(run.get(name) for run in runs)]
    return " and ".join(used)


def _paper(name: str) -> str:
    return f"{paper.NAMES[name]} (paper)"


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
