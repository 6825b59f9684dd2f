"""Typed settings of a training run, from YAML files (config/training) and the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import jsonargparse
import yaml

from genesis_core import (
    MODELS,
    CheckpointError,
    ConfigError,
    GenesisV2Config,
    ModelConfig,
    find_checkpoint,
    load_model,
)
from training.augment import AugmentConfig
from training.configs import find_config
from training.objective import ObjectiveConfig
from training.run_folder import MODEL

# What may change when a run is resumed: it does not change the weights it ends with.
FREE_SETTINGS = frozenset(
    {
        "run", "init", "encoder_weights", "device", "compile", "checkpoint_minutes", "keep_every",
        "log_every", "eval_every", "eval_images", "picture_every", "data.path",
        "data.unlabelled_path",
    }
)  # fmt: skip
NAMED_SETTINGS = {
    name.rpartition(".")[2]: name
    for name in (
        "batch_size", "seed", "objective.masks_only", "objective.mask_supervision",
        "objective.overlap_supervision", "objective.kind_supervision",
        "objective.slot_kind_supervision", "objective.robot_weight", "objective.region_mixture",
        "objective.style_noise", "data.augment.texture",
    )
}  # fmt: skip
"""Settings that are entries of their own in "trained" of a checkpoint's metadata, by its name."""
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("constant", "cosine", "exponential")


@dataclass(frozen=True)
class DataConfig:
    """Which prepared data to train on (see training/prepare.py).

    Attributes:
        path: prepared data set, with splits train and, for validation, val.
        unlabelled_path: a second prepared data set whose masks, if any, are not used: real images
            mixed among generated ones.
        unlabelled_fraction: its share of each batch.
        augment: what is drawn anew each time an image is used.
    """

    path: str = "data"
    unlabelled_path: str | None = None
    unlabelled_fraction: float = 0.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.unlabelled_fraction < 1:
            raise ConfigError(
                f"data.unlabelled_fraction is {self.unlabelled_fraction}; expected 0 to below 1"
            )
        if bool(self.unlabelled_fraction) != bool(self.unlabelled_path):
            raise ConfigError("data.unlabelled_path and data.unlabelled_fraction go together")


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its schedule. The defaults are the paper's.

    Attributes:
        lr: learning rate.
        clustering_lr_scale: factor on it for the embedding's gate and the kernel's scale, two
            scalars that decide how finely IC-SBP clusters; other models than GENESIS-V2 have none.
        pretrained_lr_scale: factor on it for an encoder that has published weights.
        warmup_steps: steps over which the learning rate rises linearly to its value.
        schedule: "constant", "cosine" down to a hundredth of it at the end, or "exponential":
            halved every ``halving_steps``.
        halving_steps: see ``schedule``.
        clip_norm: largest norm of the gradient; 0 does not clip.
        ema_decay: decay of the moving average of the weights that is evaluated and saved; 0 for
            the weights themselves.
    """

    lr: float = 1e-4
    clustering_lr_scale: float = 1.0
    pretrained_lr_scale: float = 1.0
    warmup_steps: int = 0
    schedule: str = "constant"
    halving_steps: int = 100_000
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "clustering_lr_scale", "pretrained_lr_scale", "halving_steps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"optimizer.{name} is {getattr(self, name)}; expected > 0")
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"optimizer.schedule is {self.schedule!r}; expected one of {', '.join(SCHEDULES)}"
            )
        if self.warmup_steps < 0 or self.clip_norm < 0:
            raise ConfigError("optimizer.warmup_steps and clip_norm must be 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"optimizer.ema_decay is {self.ema_decay}; expected 0 to below 1")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        run: folder of the run: checkpoints, TensorBoard events, resolved settings. By default it
            is named after the config files, such as runs/shapestacks_monet.
        model: the model and its settings; ``model.model`` says which one.
        encoder_weights: weights of the encoder, trained on ImageNet, to start from: "published" for
            those of the installed package (requirements/pretrained.txt), or the path of such a
            file; for a model whose encoder has them.
        init: checkpoint whose weights to start from, or the name of one that ships. Its model
            settings are those of ``model``, unless others are given; they must fit the weights.
        freeze: names of the model's parts to leave as they are, e.g. backbone, embedding, icsbp, or
            of parts of theirs, e.g. backbone.trunk.
        steps: number of optimiser steps.
        batch_size: images per step over all processes.
        seed: decides initial weights, data order, augmentation, seed scores and noise.
        device: auto, cpu, cuda or cuda:n.
        precision: of the network's layers; clustering, likelihood and GECO are always float32.
        compile: whether to use torch.compile; CUDA only, as it does not know our C++.
        checkpoint_minutes: minutes between checkpoints.
        keep_every: steps between models that stay, as model-STEP.safetensors; 0 for none.
        log_every, eval_every, picture_every: steps between scalars, validations, pictures; 0 for
            no validation or pictures.
        eval_images: how many images of the split val to validate on.
    """

    run: str = "runs/default"
    model: ModelConfig = field(default_factory=GenesisV2Config)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    encoder_weights: str | None = None
    init: str | None = None
    freeze: tuple[str, ...] = ()
    steps: int = 500_000
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    checkpoint_minutes: float = 5.0
    keep_every: int = 0
    log_every: int = 50
    eval_every: int = 2_000
    eval_images: int = 128
    picture_every: int = 2_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("seed", "eval_every", "picture_every", "checkpoint_minutes", "keep_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}"
            )
        self._check_objective()

    def _check_objective(self) -> None:
        """Raise ConfigError where the objective asks for a part that the model does not have."""
        name, objective = self.model.model, self.objective
        model = MODELS[name]
        lacking: dict[str, str] = {}
        if not model.masks_first:
            terms = ("mask_supervision", "overlap_supervision", "hard_masks", "stop_threshold",
                     "kind_supervision", "region_mixture", "mask_distillation", "latent_anchor",
                     "attention_likelihood", "decoded_images")  # fmt: skip
            lacking |= dict.fromkeys(terms, "IC-SBP whose masks it could use")
        if not model.settable_posterior:
            lacking["initial_std"] = "posterior whose start can be set"
        for term, part in lacking.items():
            if value := getattr(objective, term):
                raise ConfigError(
                    f"objective.{term} is {value}, but model {name} has no {part}: leave it out, "
                    "or train genesis_v2"
                )
        if objective.kind_supervision and not self.model.tells_kinds:
            raise ConfigError(
                f"objective.kind_supervision is {objective.kind_supervision}, but the model tells "
                "no kinds: leave it out, or set model.kinds to true"
            )
        if objective.hard_masks and not objective.overlap_supervision:
            learning = sorted({"embedding", "icsbp"} - set(self.freeze))
            if learning:
                raise ConfigError(
                    f"objective.hard_masks is true, and such masks pass no gradient, but "
                    f"{' and '.join(learning)} would learn: add to freeze, or use "
                    "overlap_supervision"
                )
        if objective.style_noise and getattr(self.model, "encoder", "") != "efficientnet_lite0":
            raise ConfigError(
                f"objective.style_noise is {objective.style_noise}, but only encoder "
                "efficientnet_lite0 can be restyled: leave it out"
            )
        self._check_encoder_anchor()
        self._check_kinds()
        if self.encoder_weights and self.init:
            raise ConfigError(
                "init has the encoder's weights already: leave encoder_weights out, or, where a "
                "config file names them, set --encoder_weights null"
            )
        if objective.noise_warmup_steps and not model.generative:
            raise ConfigError(
                f"objective.noise_warmup_steps is {objective.noise_warmup_steps}, but model {name} "
                "has no posterior: leave it out"
            )

    def _check_encoder_anchor(self) -> None:
        """Raise ConfigError where there is no encoder to hold, or nothing moves it."""
        if not (weight := self.objective.encoder_anchor):
            return
        if getattr(self.model, "encoder", "") != "efficientnet_lite0":
            raise ConfigError(
                f"objective.encoder_anchor is {weight}, but only encoder efficientnet_lite0 can be "
                "held to what it gave: leave it out"
            )
        if not (self.init or self.encoder_weights):
            raise ConfigError(
                f"objective.encoder_anchor is {weight}, but the encoder starts from chance, and "
                "would be held to it: name a model to start from (init), or set encoder_weights"
            )
        if {"backbone", "backbone.trunk"} & set(self.freeze):
            raise ConfigError(
                f"objective.encoder_anchor is {weight}, but freeze has the encoder, so that it "
                "stays what it is: leave one of them out"
            )

    def _check_kinds(self) -> None:
        """Raise ConfigError where the model would tell kinds that nothing has taught it."""
        if not self.model.tells_kinds or self.objective.kind_supervision:
            return
        if not self.init:  # a model to start from may have learned them
            raise ConfigError(
                "model.kinds is true, but objective.kind_supervision is 0, so that the model would "
                "tell kinds by chance: give kind_supervision a weight, set model.kinds to false, "
                "or start from a model that tells them (init)"
            )


def parse(arguments: Sequence[str] | None, description: str) -> tuple[TrainConfig, bool]:
    """The settings that a command line of train.py gives, and whether to resume.

    Several --config files are laid over each other, later ones on top, then the single settings:
    a data set's, a model's, a budget's. A file that ships is found by its name, such as sprites or
    models/monet. The chosen model decides which settings ``model`` has. With ``init`` they are, by
    default, those of that checkpoint.

    Raises:
        ConfigError: a value, or a combination of them, is not possible.
        SystemExit: a setting is unknown or of a wrong type.
    """
    arguments = _with_shipped_configs(sys.argv[1:] if arguments is None else arguments)
    files, model, start = _named(arguments)
    if not isinstance(model, str) or model not in MODELS:
        raise ConfigError(f"unknown model {model!r}; expected one of {', '.join(MODELS)}")
    parser = jsonargparse.ArgumentParser(prog="train.py", description=description)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of these settings, or the name of one that ships, such as "
        "sprites; may be given several times, the last one wins",
    )
    parser.add_class_arguments(TrainConfig, skip={"model"})
    parser.add_class_arguments(MODELS[model].config_class, "model")
    parser.add_argument("--resume", type=bool, default=False, help="continue the run in its folder")
    if start is not None and start.model == model:
        parser.set_defaults(
            {f"model.{name}": value for name, value in _flat(asdict(start)).items()}
        )
    parser.set_defaults({"run": _default_run(files)})
    given = parser.parse_args(arguments)
    _refuse_nulls(given.as_dict(), TrainConfig, model)
    settings = parser.instantiate(given)  # checks them
    values = {setting.name: settings[setting.name] for setting in fields(TrainConfig)}
    return TrainConfig(**values), settings.resume


def _refuse_nulls(given: dict[str, Any], of: type, model: str, prefix: str = "") -> None:
    """Refuse null, which a file may give, where a setting needs a value.

    Args:
        of: the dataclass whose settings are given.
        model: the kind whose settings ``model`` has.

    Raises:
        ConfigError: naming the setting.
    """
    for name, hint in get_type_hints(of).items():
        if name not in given:
            continue
        kind = MODELS[model].config_class if (of, name) == (TrainConfig, "model") else hint
        value = given[name]
        if value is None and type(None) not in get_args(hint):
            raise ConfigError(f"{prefix}{name} is null; leave it out for its default")
        if isinstance(value, dict) and is_dataclass(kind):
            _refuse_nulls(value, kind, model, f"{prefix}{name}.")


def _with_shipped_configs(arguments: Sequence[str]) -> list[str]:
    """The command line with the paths of those settings files that are given by name."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option == "--config" and equals:
            found[index] = f"--config={find_config(value)}"
        elif index and arguments[index - 1] == "--config":
            found[index] = str(find_config(argument))
    return found


def _named(arguments: Sequence[str]) -> tuple[list[str], Any, ModelConfig | None]:
    """The config files on a command line; the model that they or it name, the last one; and the
    settings of the checkpoint that they name as ``init``."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--model.model", dest="model")
    parser.add_argument("--init")
    parser.add_argument("--run")
    known, _ = parser.parse_known_args(arguments)
    contents = [_content(file) for file in known.config]
    # Null in a file undoes what an earlier one names.
    inits = [content["init"] for content in contents if "init" in content]
    init = [None, *inits][-1] if known.init is None else known.init
    start = _config_of(init)
    if start is None and init not in (None, "null"):  # a run that goes on has the settings itself
        runs = [
            _default_run(known.config),
            *(content.get("run") for content in contents),
            known.run,
        ]
        start = _config_of(f"{[run for run in runs if run is not None][-1]}/{MODEL}")
    models = [content.get("model") for content in contents]
    named = [model.get("model") for model in models if isinstance(model, dict)]
    first = GenesisV2Config.model if start is None else start.model
    names = [first, *named, known.model]
    return known.config, [name for name in names if name is not None][-1], start


def _default_run(files: Sequence[str]) -> str:
    """The folder of a run with these config files."""
    return f"runs/{'_'.join(Path(file).stem for file in files)}" if files else TrainConfig.run


def _content(file: str) -> dict[str, Any]:
    """What a YAML file holds; nothing if it cannot be read."""
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # the parser of all settings says what is wrong with it
    return content if isinstance(content, dict) else {}


def _config_of(init: Any) -> ModelConfig | None:
    """The settings of a checkpoint's model; None where there is none to read.

    The trainer says what is wrong with it, and a run that goes on does without it.
    """
    if not isinstance(init, str) or init == "null":
        return None
    try:
        return load_model(find_checkpoint(init)).config
    except (CheckpointError, ConfigError, OSError):
        return None


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that must stay when a run is resumed, by dotted name."""
    return {name: v for name, v in _flat(asdict(config)).items() if name not in FREE_SETTINGS}


def recorded_settings(config: TrainConfig) -> dict[str, Any]:
    """What "trained" of a checkpoint's metadata says of the settings.

    The best-known ones by their short names, and in "settings" by dotted name what else is not the
    default. The model's settings stand elsewhere in a checkpoint, and so do the steps it has taken.
    """
    given = fixed_settings(config)
    default = _flat(asdict(TrainConfig(model=type(config.model)())))
    elsewhere = {"steps", *NAMED_SETTINGS.values()}
    others = {
        name: value
        for name, value in given.items()
        if value != default[name] and not name.startswith("model.") and name not in elsewhere
    }
    named = {short: given[name] for short, name in NAMED_SETTINGS.items()}
    return {**named, "settings": others}


def changed_settings(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """How a config differs from a run's ``fixed_settings``, one phrase per setting.

    A setting that is newer than the run counts as having had its default. Of one that is gone
    nobody knows what it would mean now. Unless the learning rate follows a cosine nothing depends
    on the number of steps, so a run may be made longer.
    """
    now = fixed_settings(config)
    default = fixed_settings(TrainConfig(model=type(config.model)()))
    allowed = set() if config.optimizer.schedule == "cosine" else {"steps"}
    gone = [f"{name} was {was!r}, now unknown" for name, was in saved.items() if name not in now]
    return gone + [
        f"{name} was {saved.get(name, default[name])!r}, now {value!r}"
        for name, value in now.items()
        if saved.get(name, default[name]) != value and name not in allowed
    ]


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return flat
