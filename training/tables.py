"""The paper's Tables 1 to 6 from results of evaluate.py, the paper's figures beside ours.

python training/evaluate.py --checkpoint runs/a/model.safetensors --data data/shapestacks \
    --output runs/a/results.json
python training/tables.py --runs runs --output docs/tables

Collects every result file below --runs. Models that differ only in their seed share a row, as mean
and standard deviation; whatever else differs (slots, sizes, steps) is said in the row. Data sets
that the paper has not get columns of their own. Where a data set lies does not matter: those of one
name are told apart by how they were made.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

if __package__ in (None, ""):  # run as a file: the project's folder is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from jsonargparse import ArgumentParser

from genesis_core import MODELS, GenesisV2Config, decoder_is_trained
from genesis_sim.scene import OBJECTS
from training import paper
from training.command_line import call
from training.paper import Figure, Figures, Variant
from training.results import mask_losses

MISSING = "—"
SINGLE_OBJECT = "apc"  # scored over all pixels (Table 4)
ABLATED = ("autoregressive_prior", "kernel", "semi_conv")
METRICS = {
    "slots": ("Avg.", 1),
    "slots_mae": ("MAE", 1),
    "ari": ("ARI", 2),
    "msc": ("MSC", 2),
    "ari_fg": ("ARI-FG", 2),
    "msc_fg": ("MSC-FG", 2),
    "elbo": ("ELBO", 0),
    "fid": ("FID", 1),
}
"""How a metric is headed, and its decimals."""
SCORES_OF_MASKS = {"ari", "msc", "ari_fg", "msc_fg"}
UNSAID_OPTIONS = {
    "name", "unit", "source",  # where it comes from
    "train", "val", "test", "frames",  # of the test images, info.json has the number
    "depth",  # a channel more is a property of the model (image_channels), not another data set
    "image_size", "min_objects", "max_objects",  # see Data.of
}  # fmt: skip
"""Options of a data set that its facts leave out or word differently."""
SAID_OF_TRAINING = {"steps", "batch_size", "started_from", "masks_only"}
UNSAID_OF_TRAINING = {"seed", "git_revision", "genesis_core"}
"""Seeds are averaged; versions say which code it was, not what it was told to do."""

Masks = Literal["paper", "decoder", "attention"]


@dataclass(frozen=True)
class Data:
    """A data set that models were evaluated on, wherever it lies."""

    name: str
    facts: tuple[str, ...] = ()
    """What tells it from others of its name."""

    @classmethod
    def of(cls, info: dict[str, Any]) -> Data:
        """The data set that a result file is about, from what it says under ``data``."""
        name, options = info.get("dataset", ""), dict(info.get("options") or {})
        if name == "tabletop" and options.get("mode") == "varied":
            del options["mode"]  # the number of objects, which no other mode has, says it all
            options = {"min_objects": OBJECTS[0], "max_objects": OBJECTS[1]} | options
        facts = [
            f"{option} {value}"
            for option, value in sorted(options.items())
            if option not in UNSAID_OPTIONS and value is not None
        ]
        if {"min_objects", "max_objects"} <= options.keys():
            facts.append(f"{options['min_objects']} to {options['max_objects']} objects")
        if size := info.get("image_size"):
            facts.append(f"{size} px")
        if count := info.get("count"):
            facts.append(f"{count:,} images")
        return cls(name, tuple(facts))


@dataclass(frozen=True)
class Result:
    """One model, that is one seed, on one data set; metrics as evaluate.py nests them."""

    data: Data
    checkpoint: str
    config: dict[str, Any]
    trained: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def model(self) -> str:
        return str(self.config["model"])

    @property
    def variant(self) -> Variant:
        """Of GENESIS-V2: its row in Table 6."""
        return Variant(**{name: self.config[name] for name in ABLATED})

    @property
    def mask_loss(self) -> bool:
        return bool(self.config.get("mask_loss"))

    @property
    def setup(self) -> str:
        """What else decides a figure, but data set and seed: one row's results agree in it."""
        default = MODELS[self.model].config_class().to_dict()
        own = {"num_slots", "image_size", "mask_loss", *ABLATED}
        facts = [
            f"{name} {value}"
            for name, value in self.config.items()
            if name not in own and value != default.get(name)
        ]
        if self.trained.get("steps"):
            facts.append(_budget(self.trained))
        start = self.trained.get("started_from") or {}
        while start.get("steps"):
            facts.append(f"started from {_budget(start)}")
            start = start.get("started_from") or {}
        if losses := mask_losses(self.trained):
            facts.append(losses if decoder_is_trained(self.trained) else f"{losses} alone")
        return ", ".join(facts)

    @property
    def further(self) -> dict[str, str]:
        """What else is recorded of the training, to be said where it tells models apart."""
        unsaid = SAID_OF_TRAINING | UNSAID_OF_TRAINING
        return {k: f"{k} {v}" for k, v in sorted(self.trained.items()) if k not in unsaid}

    @property
    def seed(self) -> str:
        """Tells seeds apart; a model that does not say its own counts as one."""
        seed = self.trained.get("seed")
        return f"checkpoint {self.checkpoint}" if seed is None else f"seed {seed}"

    def mask_source(self, masks: Masks) -> str:
        """Which masks are scored: the decoder's or the attention's."""
        if masks == "paper" and not decoder_is_trained(self.trained):
            return "attention"
        return _mask_source(self.model, masks)

    @property
    def shape(self) -> str:
        """Slots and image size, which go without saying unless one data set has several."""
        return f"K = {self.config['num_slots']}, {self.config['image_size']} px"


@dataclass(frozen=True)
class Table:
    """Texts and figures; a figure's decimals are its column's."""

    title: str
    header: list[str]
    decimals: list[int | None]
    rows: list[list[str | Figure | None]]


@dataclass(frozen=True)
class Collected:
    """What there is to tabulate."""

    results: list[Result]
    left_out: list[str]
    masks: Masks = "paper"

    def datasets(self, *names: str) -> list[Data]:
        """The data sets of these names, as evaluated; without results, the name alone."""
        found = sorted({r.data for r in self.results if r.data.name in names}, key=str)
        known = {data.name for data in found}
        found += [Data(name) for name in names if name not in known]
        return sorted(found, key=lambda data: names.index(data.name))

    @property
    def others(self) -> list[Data]:
        """The data sets that the paper has not."""
        found = {r.data for r in self.results if r.data.name not in paper.DATASETS}
        return sorted(found, key=str)

    def title(self, data: Data) -> str:
        """A data set's name, and what not all data sets of that name have in common."""
        facts = [set(r.data.facts) for r in self.results if r.data.name == data.name]
        shared = set.intersection(*facts) if facts else set()
        name = paper.DATASETS.get(data.name, data.name)
        return ", ".join([name, *(fact for fact in data.facts if fact not in shared)])

    def groups(self, keep: Callable[[Result], bool]) -> list[tuple[str, list[Result]]]:
        """The results to keep, by what they have in common; each group is a row.

        Without any there is one empty group, for a row of missing cells.
        """
        kept = [result for result in self.results if keep(result)]
        shapes: dict[tuple[str, Data | str], set[str]] = {}
        for result in kept:
            # One model evaluated with several numbers of slots, too, is to say with which.
            for of in (result.data, result.checkpoint):
                shapes.setdefault((result.setup, of), set()).add(result.shape)
        several = {setup for (setup, _), found in shapes.items() if len(found) > 1}
        groups: dict[str, list[Result]] = {}
        for result in kept:
            facts = [result.shape] if result.setup in several else []
            facts += [result.setup] if result.setup else []
            alike = [other.further for other in kept if other.setup == result.setup]
            facts += [
                fact
                for name, fact in result.further.items()
                if any(other.get(name) != fact for other in alike)
            ]
            groups.setdefault(", ".join(facts), []).append(result)
        return sorted(groups.items()) or [("", [])]

    def masks_of(self, model: str, results: Sequence[Result]) -> str:
        """Which masks a row's scores are of; its results agree in it."""
        return results[0].mask_source(self.masks) if results else _mask_source(model, self.masks)

    def figure(
        self, results: Iterable[Result], data: Data, metric: str, mode: str = "fixed"
    ) -> Figure | None:
        """Mean and deviation of a metric over the seeds evaluated on a data set.

        Of one seed, the latest value counts.
        """
        found = {
            r.seed: value
            for r in results
            if r.data == data and (value := self._value(r, metric, mode)) is not None
        }
        values = list(found.values())
        if not values:
            return None
        return Figure(fmean(values), stdev(values) if len(values) > 1 else None)

    def _value(self, result: Result, metric: str, mode: str) -> float | None:
        source = result.mask_source(self.masks) if metric in SCORES_OF_MASKS else None
        if not decoder_is_trained(result.trained) and (
            source == "decoder" or metric in ("elbo", "fid")
        ):
            return None  # it would be about random weights
        if metric == "fid":
            return result.metrics.get("fid")
        values = result.metrics.get(mode) or {}
        if source is not None:
            values = values.get(source) or {}
        return values.get(metric)


def collect(runs: Path, masks: Masks = "paper") -> Collected:
    """All results of evaluate.py in a folder and the folders in it.

    Several files about one model on one data set, say one with the FID, are put together: what a
    later file has counts. It is one model where config and training, seed included, are the same.

    Raises:
        FileNotFoundError: there is no such folder, or no results in it.
        ValueError: a result file is broken.
    """
    if not runs.is_dir():
        raise FileNotFoundError(f"{runs} is not a folder; expected one with results of evaluate.py")
    found: dict[tuple[str, Data], Result] = {}  # in the order of their latest files
    left_out = []
    paths = sorted(runs.rglob("*.json"), key=lambda path: (path.stat().st_mtime, path))
    for path in paths:
        content = _read(path)
        if content is None:
            continue
        data = Data.of(content["data"])
        for model in content["models"]:
            if reason := _unlike_the_papers(content, model):
                left_out.append(f"{path}, {model['checkpoint']}: {reason}")
                continue
            metrics = {k: v for k, v in model["metrics"].items() if v is not None}
            trained = model["metadata"].get("trained") or {}
            result = Result(data, model["checkpoint"], model["config"], trained, metrics)
            key = json.dumps([result.seed, result.config, trained], sort_keys=True), data
            if earlier := found.pop(key, None):
                if earlier.metrics.get("fixed", metrics.get("fixed")) != metrics.get("fixed"):
                    reason = f"{path} has the same model and seed with other figures, and is later"
                    left_out.append(f"{earlier.checkpoint}: {reason}")
                result = replace(result, metrics=earlier.metrics | metrics)
            found[key] = result
    if not found:
        raise FileNotFoundError(
            f"{runs} has no results for the tables; make some with evaluate.py --output"
            + "".join(f"\nleft out: {reason}" for reason in left_out)
        )
    return Collected(list(found.values()), left_out, masks)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a result file; None if it is some other JSON."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; delete it or evaluate again") from error
    if not isinstance(content, dict) or not {"data", "models"} <= content.keys():
        return None
    return content


def _unlike_the_papers(content: dict[str, Any], model: dict[str, Any]) -> str | None:
    """Why a result does not belong in the tables; None if it does."""
    if content["data"]["split"] != "test":
        return f"evaluated on the split {content['data']['split']}, not test"
    if content.get("hard_masks"):
        return "evaluated with hard masks"
    return None


# The tables


def make_tables(collected: Collected) -> list[Table]:
    """The paper's Tables 1 to 6, in its order."""
    simulated = [*collected.datasets("objects_room", "shapestacks"), *collected.others]
    apc = collected.datasets(SINGLE_OBJECT)
    real = collected.datasets("sketchy", SINGLE_OBJECT)
    theirs = {SINGLE_OBJECT: paper.SEGMENTATION_APC}
    return [
        _models(
            collected, "Table 1: segmentation, foreground", simulated, ("ari_fg", "msc_fg"),
            paper.SEGMENTATION,
        ),
        _slots(collected, simulated),
        _models(
            collected, "Table 3: density estimation and generation", simulated, ("elbo", "fid"),
            paper.GENERATION,
        ),
        _models(collected, "Table 4: segmentation, all pixels", apc, ("ari", "msc"), theirs),
        _models(
            collected, "Table 5: generation of real images", real, ("fid",), paper.GENERATION_REAL
        ),
        _ablations(collected, simulated),
    ]  # fmt: skip


def _models(
    collected: Collected,
    title: str,
    datasets: Sequence[Data],
    metrics: Sequence[str],
    figures: dict[str, dict[str, Figures]],
) -> Table:
    """A row per model, the paper's, then ours; columns by data set and metric.

    Models that the paper has not come last.
    """

    def standard(result: Result) -> bool:
        changed = result.model == "genesis_v2" and (
            result.variant != _variant_of(GenesisV2Config()) or result.mask_loss
        )
        return result.data in datasets and not changed

    scores_masks = set(metrics) <= SCORES_OF_MASKS
    rows: list[list[str | Figure | None]] = []
    own = {r.model for r in collected.results if standard(r)} - set(paper.NAMES)
    for model in [*paper.NAMES, *sorted(own)]:
        name = paper.NAMES.get(model, model)
        if model in paper.NAMES:
            known = [figures.get(data.name, {}).get(model, {}) for data in datasets]
            theirs = [of.get(metric) for of in known for metric in metrics]
            masks = [_mask_source(model)] if scores_masks else []
            rows.append([name, "paper", *masks, *theirs])

        def keep(r: Result, model: str = model) -> bool:
            return r.model == model and standard(r)

        for setup, results in collected.groups(keep):
            ours = [collected.figure(results, d, metric) for d in datasets for metric in metrics]
            masks = [collected.masks_of(model, results)] if scores_masks else []
            rows.append([name, _source(setup, results), *masks, *ours])
    left = ["Model", "Source", *(["Masks"] if scores_masks else [])]
    return _table(collected, title, left, datasets, metrics, rows)


def _slots(collected: Collected, datasets: Sequence[Data]) -> Table:
    """Table 2: a row per data set, mask loss, and kind of slots."""
    metrics = ("slots", "slots_mae", "ari_fg", "msc_fg")
    rows: list[list[str | Figure | None]] = []
    for data in datasets:
        for mask_loss in (False, True):

            def keep(r: Result, data: Data = data, mask_loss: bool = mask_loss) -> bool:
                standard = r.model == "genesis_v2" and r.variant == _variant_of(GenesisV2Config())
                return standard and r.mask_loss == mask_loss and r.data == data

            groups = collected.groups(keep)
            theirs = paper.SLOTS.get((data.name, mask_loss))
            if theirs is None and not groups[0][1]:
                continue  # neither the paper nor we have it
            training = "mask loss" if mask_loss else "no mask loss"
            for mode in ("fixed", "flexible"):
                about = [collected.title(data), training, mode]
                if theirs is not None:
                    figures = [theirs[mode][metric] for metric in metrics]
                    rows.append([*about, "paper", _mask_source("genesis_v2"), *figures])
                for setup, results in groups:
                    ours = [collected.figure(results, data, metric, mode) for metric in metrics]
                    masks = collected.masks_of("genesis_v2", results)
                    rows.append([*about, _source(setup, results), masks, *ours])
    left = ["Dataset", "Training", "Slots", "Source", "Masks"]
    header = [*left, *(METRICS[m][0] for m in metrics)]
    decimals = [None] * len(left) + [METRICS[metric][1] for metric in metrics]
    return Table("Table 2: slots of GENESIS-V2", header, decimals, rows)


def _ablations(collected: Collected, datasets: Sequence[Data]) -> Table:
    """Table 6: a row per prior, kernel and embedding."""
    metrics = ("ari_fg", "msc_fg")
    rows: list[list[str | Figure | None]] = []
    for variant, figures in paper.ABLATIONS.items():

        def keep(r: Result, variant: Variant = variant) -> bool:
            ours = r.model == "genesis_v2" and r.variant == variant and not r.mask_loss
            return ours and r.data in datasets

        about = [
            "yes" if variant.autoregressive_prior else "no",
            variant.kernel.capitalize(),
            "yes" if variant.semi_conv else "no",
        ]
        theirs = [figures.get(data.name, {}).get(m) for data in datasets for m in metrics]
        rows.append([*about, "paper", _mask_source("genesis_v2"), *theirs])
        for setup, results in collected.groups(keep):
            ours = [collected.figure(results, d, metric) for d in datasets for metric in metrics]
            masks = collected.masks_of("genesis_v2", results)
            rows.append([*about, _source(setup, results), masks, *ours])
    left = ["Auto-reg. prior", "Kernel", "Semi-conv.", "Source", "Masks"]
    return _table(collected, "Table 6: ablations of GENESIS-V2", left, datasets, metrics, rows)


def _table(
    collected: Collected,
    title: str,
    left: list[str],
    datasets: Sequence[Data],
    metrics: Sequence[str],
    rows: list[list[str | Figure | None]],
) -> Table:
    header = [f"{collected.title(data)} {METRICS[m][0]}" for data in datasets for m in metrics]
    decimals = [METRICS[metric][1] for _ in datasets for metric in metrics]
    return Table(title, [*left, *header], [*[None] * len(left), *decimals], rows)


def _variant_of(config: GenesisV2Config) -> Variant:
    return Variant(config.autoregressive_prior, config.kernel, config.semi_conv)


def _mask_source(model: str, masks: Masks = "paper") -> str:
    """Which masks of a model are scored; by default the ones that the paper scores."""
    return MODELS[model].default_mask_source if masks == "paper" else masks


def _budget(trained: dict[str, Any]) -> str:
    return f"{trained['steps']:,} steps of {trained.get('batch_size')}"


def _source(setup: str, results: Sequence[Result]) -> str:
    """What a row of ours is about; the number of seeds may differ between data sets."""
    if not results:
        return "ours"
    seeds_on: dict[Data, set[str]] = {}
    for result in results:
        seeds_on.setdefault(result.data, set()).add(result.seed)
    counts = {len(seeds) for seeds in seeds_on.values()}
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    about = f"{seeds} seed{'s' * (max(counts) > 1)}"
    return f"ours: {setup}, {about}" if setup else f"ours: {about}"


# Writing them down


def markdown(table: Table) -> str:
    """A heading and a table in GitHub's Markdown."""
    lines = [
        f"### {table.title}",
        "",
        "| " + " | ".join(table.header) + " |",
        "|" + "|".join("---" if d is None else "---:" for d in table.decimals) + "|",
    ]
    for row in table.rows:
        cells = (_cell(c, d, " ± ") for c, d in zip(row, table.decimals, strict=True))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def latex(table: Table) -> str:
    """A table environment; needs the package booktabs."""
    columns = "".join("l" if d is None else "r" for d in table.decimals)
    caption = _escaped(table.title.partition(": ")[2])
    lines = [
        r"\begin{table}",
        rf"\caption{{{caption[0].upper()}{caption[1:]}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(_escaped, table.header)) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = []
        for cell, decimals in zip(row, table.decimals, strict=True):
            text = _cell(cell, decimals, r" \pm ")
            cells.append(f"${text}$" if isinstance(cell, Figure) else _escaped(text))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(cell: str | Figure | None, decimals: int | None, plus_minus: str) -> str:
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    text = f"{cell.mean:.{decimals}f}"
    return text if cell.std is None else f"{text}{plus_minus}{cell.std:.{decimals}f}"


def _escaped(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, "\\" + character)
    return text.replace(MISSING, "---")


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
        _write(output / "tables.md", text)
        _write(output / "tables.tex", "\n".join(latex(table) for table in tables))


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(text)
    os.replace(partial, path)
    print(f"wrote {path}")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="tables.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
