"""What there is to tabulate: results of evaluate.py, and how they fall into rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from genesis_core import MODELS, GenesisV2Config, decoder_is_trained
from genesis_sim.scene import OBJECTS
from training import paper
from training.augment import AugmentConfig
from training.objective import ObjectiveConfig
from training.paper import Figure, Figures, Variant
from training.table_forms import Cell

ABLATED = ("autoregressive_prior", "kernel", "semi_conv")
METRICS = {
    "slots": ("Avg.", 1),
    "slots_mae": ("MAE", 1),
    "ari": ("ARI", 2),
    "msc": ("MSC", 2),
    "ari_fg": ("ARI-FG", 2),
    "msc_fg": ("MSC-FG", 2),
    "r50": ("R50", 2),
    "r75": ("R75", 2),
    "kind_accuracy": ("Kinds", 3),
    "robot_told": ("Robot told", 3),
    "robot_recall": ("Robot recall", 3),
    "latent_r2": ("Latents R2", 3),
    "mse": ("MSE", 4),
    "elbo": ("ELBO", 0),
    "fid": ("FID", 1),
}
"""How a metric is headed, and its decimals."""
SCORES_OF_MASKS = {"ari", "msc", "ari_fg", "msc_fg", "r50", "r75"}
OF_THE_DECODER = {"elbo", "fid", "mse", "latent_r2"}
UNSAID_OPTIONS = {
    "name", "unit", "source",  # where it comes from
    "train", "val", "test", "frames",  # of the test images, info.json has the number
    "depth",  # a channel more is a property of the model (image_channels), not another data set
    "image_size", "min_objects", "max_objects", "scenes",  # see Data.of
}  # fmt: skip
"""Options of a data set that its facts leave out or word differently."""
SAID_OF_TRAINING = {"steps", "batch_size", "started_from", "masks_only"}
UNSAID_OF_TRAINING = {
    "seed", "git_revision", "genesis_core", "precision", "latents_of", "averaged_with",
}  # fmt: skip
"""Seeds are averaged; versions and the precision say what computed, not what it was told to do; and
other models' histories are long."""
MASK_LOSSES = ("mask_supervision", "overlap_supervision", "region_mixture")
"""Losses not in the paper that teach masks."""
OF_THE_PAPER = {"goal", "geco_step_size", "beta_init", "decoded_images"}
"""Settings of the objective that the paper has, too, or that are of cost only."""
BEYOND_THE_PAPER = {"texture", "encoder_weights"}
BEYOND_THE_PAPER |= {field.name for field in fields(ObjectiveConfig)}
BEYOND_THE_PAPER -= {*OF_THE_PAPER, *SAID_OF_TRAINING, *MASK_LOSSES}
"""What else of an objective, and which textures and weights, the paper does not have: a row always
says it."""

DEFAULTS = {**asdict(ObjectiveConfig()), "texture": AugmentConfig().texture, "kernel_scale": 1.0}
"""What training does where a checkpoint says nothing of it."""
_NONE = object()  # equals nothing

Masks = Literal["paper", "decoder", "attention"]


@dataclass(frozen=True)
class Data:
    """A data set that models were evaluated on, wherever it lies."""

    name: str
    facts: tuple[str, ...] = ()
    """What tells it from others of its name."""
    unlike: tuple[str, ...] = ()
    """The facts that tell it from the paper's data set of its name."""

    @property
    def papers_name(self) -> str:
        """Its name in the paper's tables; "" where their figures are of other data."""
        return "" if self.unlike else self.name

    @classmethod
    def of(cls, info: dict[str, Any]) -> Data:
        """The data set that a result file is about, from what it says under ``data``."""
        name, options = info.get("dataset", ""), dict(info.get("options") or {})
        if name == "tabletop" and options.get("mode") == "varied":
            del options["mode"]  # the number of objects, which no other mode has, says it all
            options = {"min_objects": OBJECTS[0], "max_objects": OBJECTS[1]} | options
        if name in paper.DATASETS:
            options.pop("files", None)  # the same data, archived or extracted
        facts = {
            option: f"{option} {value}"
            for option, value in sorted(options.items())
            if option not in UNSAID_OPTIONS and value is not None
        }
        if {"min_objects", "max_objects"} <= options.keys():
            facts["max_objects"] = f"{options['min_objects']} to {options['max_objects']} objects"
        if revision := options.get("scenes"):
            facts["scenes"] = f"household scenes of revision {revision}"
        if size := info.get("image_size"):
            facts["image_size"] = f"{size} px"
            options["image_size"] = size
        if count := info.get("count"):
            facts["count"] = f"{count:,} images"
        theirs = paper.DATA_OPTIONS.get(name, {})
        unlike = [facts[o] for o, value in theirs.items() if o in facts and options[o] != value]
        return cls(name, tuple(facts.values()), tuple(unlike))


@dataclass(frozen=True)
class Result:
    """One model, that is one seed, on one data set; metrics as evaluate.py nests them."""

    data: Data
    checkpoint: str
    config: dict[str, Any]
    trained: dict[str, Any]
    metrics: dict[str, Any]

    @classmethod
    def of(cls, data: Data, model: dict[str, Any]) -> Result:
        """From what a result file says under ``models``."""
        known = {name: value for name, value in model["metrics"].items() if value is not None}
        trained = model["metadata"].get("trained") or {}
        return cls(data, model["checkpoint"], model["config"], trained, known)

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
        kind = MODELS.get(self.model)  # None: of a model that is not registered here
        default = {} if kind is None else kind.config_class().to_dict()
        own = {"model", "num_slots", "image_size", "mask_loss", *ABLATED}
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
        """What else is recorded of the training, to be said where it tells models apart.

        What is ``beyond_the_paper`` is said always, of runs that it started from, too.
        """
        unsaid = SAID_OF_TRAINING | UNSAID_OF_TRAINING
        recorded = {k: v for k, v in self.trained.items() if k not in unsaid and k != "settings"}
        recorded |= self.trained.get("settings") or {}
        return beyond_the_paper(self.trained) | _facts(recorded)

    def evaluation(self, metrics: Sequence[str], mode: str) -> tuple[str, ...]:
        """How these metrics were evaluated, where not as the paper's.

        Results that differ in it do not compare, and have rows of their own.
        """
        facts = []
        images = self.metrics.get("images", paper.IMAGES)
        if images != paper.IMAGES and set(metrics) != {"fid"}:
            facts.append(f"evaluated on {images:,} images")
        usual = paper.stop_threshold(self.data.name)
        threshold = self.metrics.get("stop_threshold", usual)
        if threshold != usual and mode == "flexible":
            facts.append(f"stop threshold {threshold:g} px")
        fid_images = self.metrics.get("fid_images", paper.FID_IMAGES)
        scored = "fid" in metrics and self.value("fid", mode, "") is not None
        if fid_images != paper.FID_IMAGES and scored:
            facts.append(f"FID of {fid_images:,} images")
        return tuple(facts)

    @property
    def seed(self) -> str:
        """Tells seeds apart; a model that does not say its own counts as one."""
        seed = self.trained.get("seed")
        return f"checkpoint {self.checkpoint}" if seed is None else f"seed {seed}"

    @property
    def is_standard(self) -> bool:
        """Whether it is no variant of GENESIS-V2's (Table 6), the mask loss aside."""
        return self.model != "genesis_v2" or self.variant == _variant_of(GenesisV2Config())

    def mask_source(self, masks: Masks) -> str:
        """Which masks are scored: the decoder's or the attention's."""
        if masks == "paper" and not decoder_is_trained(self.trained):
            return "attention"
        return masks_to_score(self.model, masks)

    def value(self, metric: str, mode: str, masks: str) -> float | None:
        """A metric for fixed or flexible slots; of these masks, if it is a score of masks."""
        of_masks = metric in SCORES_OF_MASKS
        if not decoder_is_trained(self.trained) and (
            (of_masks and masks == "decoder") or metric in OF_THE_DECODER
        ):
            return None  # it would be about random weights
        if metric == "fid":
            return self.metrics.get("fid")
        values = self.metrics.get(mode) or {}
        if of_masks:
            values = values.get(masks) or {}
        value = values.get(metric)
        if metric == "latent_r2" and value is not None and value <= 0:
            return None  # these latents were never trained to be readable
        return value

    @property
    def shape(self) -> str:
        """Slots and image size, which go without saying unless one data set has several."""
        return f"K = {self.config['num_slots']}, {self.config['image_size']} px"


@dataclass(frozen=True)
class Collected:
    """The results to tabulate. A row has the models that differ in their seed alone.

    They were evaluated alike, too: FIDs of 200 and of 10,000 images, say, have a row each.
    """

    results: list[Result]
    left_out: list[str]
    masks: tuple[Masks, ...] = ("paper",)
    """The masks to score; each has a row."""

    @property
    def models(self) -> list[str]:
        """The paper's models, then those that it has not."""
        ours = {result.model for result in self.results}
        return [*paper.NAMES, *sorted(ours - set(paper.NAMES))]

    def has_papers_row(self, model: str, known: Iterable[Figures]) -> bool:
        """Whether the paper's figures for a model get a row, known or not."""
        return model in paper.NAMES

    def in_main_tables(self, result: Result) -> bool:
        """Whether a result is in the tables of all models; the variants have Tables 2 and 6."""
        return result.is_standard and not result.mask_loss

    def in_slots_table(self, result: Result) -> bool:
        """Whether a result is in Table 2."""
        return result.model == "genesis_v2" and result.is_standard

    def datasets(self, *names: str) -> list[Data]:
        """The data sets of these names, as evaluated; without results on the paper's, its name."""
        found = {r.data for r in self.results if r.data.name in names}
        known = {data.papers_name for data in found}
        found |= {Data(name) for name in names if name not in known}
        return sorted(found, key=lambda data: (names.index(data.name), data.unlike, str(data)))

    @property
    def others(self) -> list[Data]:
        """The data sets that the paper has not."""
        found = {r.data for r in self.results if r.data.name not in paper.DATASETS}
        return sorted(found, key=str)

    def title(self, data: Data) -> str:
        """A data set's name, what is unlike the paper's, and what not all of that name share."""
        facts = [set(r.data.facts) for r in self.results if r.data.name == data.name]
        shared = set.intersection(*facts) if facts else set()
        name = paper.DATASETS.get(data.name, data.name)
        said = [fact for fact in data.facts if fact not in shared or fact in data.unlike]
        return ", ".join([name, *said])

    def headings(self, datasets: Sequence[Data], metrics: Sequence[str]) -> list[str]:
        """Of columns by data set and metric."""
        return [f"{self.title(data)} {METRICS[m][0]}" for data in datasets for m in metrics]

    def groups(
        self, keep: Callable[[Result], bool], metrics: Sequence[str], mode: str
    ) -> list[tuple[str, list[Result]]]:
        """The results to keep, in groups that are a row each, and what is said of a row.

        Without any there is one empty group, for a row of missing cells.
        """
        kept = [result for result in self.results if keep(result)]
        shapes: dict[tuple[str, Data | str], set[str]] = {}
        for result in kept:
            # One model evaluated with several numbers of slots, too, is to say with which.
            for of in (result.data, result.checkpoint):
                shapes.setdefault((result.setup, of), set()).add(result.shape)
        several = {setup for (setup, _), found in shapes.items() if len(found) > 1}
        groups: dict[tuple[str, tuple[str, ...]], list[Result]] = {}
        for result in kept:
            facts = [result.shape] if result.setup in several else []
            facts += [result.setup] if result.setup else []
            alike = [other.further for other in kept if other.setup == result.setup]
            always = beyond_the_paper(result.trained)
            facts += [
                fact
                for name, fact in sorted(result.further.items())
                if name in always or any(other.get(name) != fact for other in alike)
            ]
            key = ", ".join(facts), result.evaluation(metrics, mode)
            groups.setdefault(key, []).append(result)
        rows = [
            ("; ".join([_source(setup, results), *evaluation]), results)
            for (setup, evaluation), results in sorted(groups.items())
        ]
        return rows or [("ours", [])]

    def mask_sources(self, model: str, results: Sequence[Result]) -> list[str]:
        """Which masks a group's scores are of; its results agree in them."""
        if not results:
            return [masks_to_score(model, masks) for masks in self.masks]
        return [results[0].mask_source(masks) for masks in self.masks]

    def cells(
        self,
        results: Sequence[Result],
        datasets: Sequence[Data],
        metrics: Sequence[str],
        mode: str,
        masks: str,
    ) -> list[Cell | None]:
        """A row's figures, by data set and metric; None: unknown."""
        return [self._cell(results, d, metric, mode, masks) for d in datasets for metric in metrics]

    def _cell(
        self, results: Sequence[Result], data: Data, metric: str, mode: str, masks: str
    ) -> Cell | None:
        """Mean and deviation over the seeds evaluated on a data set; of one seed, the latest."""
        values: dict[str, float] = {}
        for result in results:
            value = result.value(metric, mode, masks) if result.data == data else None
            if value is not None:
                values[result.seed] = value
        return mean_cell(list(values.values()), METRICS[metric][1])


class Report(Collected):
    """The results of one call of evaluate.py: a row for each checkpoint, then for their mean."""

    @property
    def models(self) -> list[str]:
        evaluated = {result.model for result in self.results}
        return [model for model in super().models if model in evaluated]

    def has_papers_row(self, model: str, known: Iterable[Figures]) -> bool:
        return any(known)

    def in_main_tables(self, result: Result) -> bool:
        return True

    def in_slots_table(self, result: Result) -> bool:
        return bool(result.metrics.get("flexible"))

    def knows(self, metric: str) -> bool:
        """Whether any of the results has a metric, of fixed slots and either kind of masks."""
        return any(
            result.value(metric, "fixed", masks) is not None
            for result in self.results
            for masks in self.masks
        )

    def headings(self, datasets: Sequence[Data], metrics: Sequence[str]) -> list[str]:
        return [METRICS[metric][0] for metric in metrics]  # there is one data set

    def groups(
        self, keep: Callable[[Result], bool], metrics: Sequence[str], mode: str
    ) -> list[tuple[str, list[Result]]]:
        """A row for each result to keep, by its file's name, and for their mean; none if none.

        Results that were not evaluated alike say how, and have no mean.
        """
        names = short_names([result.checkpoint for result in self.results])
        kept = [result for result in self.results if keep(result)]
        alike = len({result.evaluation(metrics, mode) for result in kept}) == 1
        rows = []
        for name, result in zip(names, self.results, strict=True):
            if keep(result):
                evaluation = () if alike else result.evaluation(metrics, mode)
                trained = [mask_losses(result.trained), *beyond_the_paper(result.trained).values()]
                about = ", ".join(filter(None, [*trained, *evaluation]))
                rows.append((f"{name} ({about})" if about else name, [result]))
        return [*rows, (f"mean of {len(kept)}", kept)] if alike and len(kept) > 1 else rows

    def _cell(
        self, results: Sequence[Result], data: Data, metric: str, mode: str, masks: str
    ) -> Cell | None:
        """Unknown where one of the results has no value; scores with a decimal more."""
        values = [result.value(metric, mode, masks) for result in results]
        known = [value for value in values if value is not None]
        decimals = METRICS[metric][1] + (metric in SCORES_OF_MASKS)
        return mean_cell(known, decimals) if len(known) == len(values) else None


def collect(runs: Path, masks: Masks = "paper") -> Collected:
    """All results of evaluate.py in a folder and the folders in it.

    Several files about one model on one data set, say one with the FID, are put together: what a
    later file has counts. It is one model where config and training, seed included, are the same.
    Results of other numbers of images or stop thresholds stay apart, as they do in the tables.

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
            if reason := _unlike_the_papers(content):
                left_out.append(f"{path}, {model['checkpoint']}: {reason}")
                continue
            result = Result.of(data, model)
            evaluated = [result.metrics.get(name) for name in ("images", "stop_threshold")]
            same = [result.seed, result.config, result.trained, evaluated]
            key = json.dumps(same, sort_keys=True), data
            if earlier := found.pop(key, None):
                before, now = earlier.metrics, result.metrics
                if any(before[name] != now[name] for name in before.keys() & now.keys()):
                    reason = f"{path} has the same model and seed with other figures, and is later"
                    left_out.append(f"{earlier.checkpoint}: {reason}")
                result = replace(result, metrics=before | now)
            found[key] = result
    if not found:
        raise FileNotFoundError(
            f"{runs} has no results for the tables; make some with evaluate.py --output"
            + "".join(f"\nleft out: {reason}" for reason in left_out)
        )
    return Collected(list(found.values()), left_out, (masks,))


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a result file; None if it is some other JSON."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; delete it or evaluate again") from error
    if not isinstance(content, dict) or not {"data", "models"} <= content.keys():
        return None
    return content


def _unlike_the_papers(content: dict[str, Any]) -> str | None:
    """Why a result does not belong in the tables; None if it does."""
    if content["data"]["split"] != "test":
        return f"evaluated on the split {content['data']['split']}, not test"
    if content.get("hard_masks"):
        return "evaluated with hard masks"
    if content.get("no_depth"):
        return "evaluated with depth left aside"
    return None


def mean_cell(values: Sequence[float], decimals: int) -> Cell | None:
    """Mean and deviation of the values; None if there are none."""
    if not values:
        return None
    return Cell(Figure(fmean(values), stdev(values) if len(values) > 1 else None), decimals)


def _variant_of(config: GenesisV2Config) -> Variant:
    return Variant(config.autoregressive_prior, config.kernel, config.semi_conv)


def masks_to_score(model: str, masks: Masks = "paper") -> str:
    """Which masks of a model are scored; by default the ones that the paper scores."""
    if masks != "paper":
        return masks
    return MODELS[model].default_mask_source if model in MODELS else "decoder"


def mask_losses(trained: dict[str, Any] | None) -> str:
    """Losses not in the paper that taught masks in this training run, or in those before it.

    Such as "mask supervision and region mixture", or "". With ground-truth masks, a model's
    figures are not unsupervised.
    """
    runs = _runs(trained)
    used = [name.replace("_", " ") for name in MASK_LOSSES if any(run.get(name) for run in runs)]
    return " and ".join(used)


def beyond_the_paper(trained: dict[str, Any] | None) -> dict[str, str]:
    """What else than mask losses the paper does not have, in this training run or those before it.

    By name, such as "objective.latent_anchor 5.0"; of several runs with it, the last one counts.
    """
    facts: dict[str, str] = {}
    for run in reversed(_runs(trained)):
        facts |= {
            name: fact
            for name, fact in _facts(run | (run.get("settings") or {})).items()
            if name.removeprefix("objective.") in BEYOND_THE_PAPER
        }
    return facts


def _runs(trained: dict[str, Any] | None) -> list[dict[str, Any]]:
    """A training run, and those before it that it started from."""
    runs = []
    while trained:
        runs.append(trained)
        trained = trained.get("started_from")
    return runs


def _facts(recorded: dict[str, Any]) -> dict[str, str]:
    """Settings in words, by name; what is newer than the training had its default."""
    return {k: f"{k} {v}" for k, v in sorted(recorded.items()) if v != DEFAULTS.get(k, _NONE)}


def _budget(trained: dict[str, Any]) -> str:
    return f"{trained['steps']:,} steps of {trained.get('batch_size')}"


def _source(setup: str, results: Sequence[Result]) -> str:
    """What a row of ours is about; the number of seeds may differ between data sets."""
    seeds_on: dict[Data, set[str]] = {}
    for result in results:
        seeds_on.setdefault(result.data, set()).add(result.seed)
    counts = {len(seeds) for seeds in seeds_on.values()}
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    about = f"{seeds} seed{'s' * (max(counts) > 1)}"
    return f"ours: {setup}, {about}" if setup else f"ours: {about}"


def short_names(checkpoints: Sequence[str]) -> list[str]:
    """File names, with as many folders before them as it takes to tell them apart."""
    paths = [Path(checkpoint) for checkpoint in checkpoints]
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names
