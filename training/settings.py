"""Typed settings of a training run; a YAML file in config/training holds one run's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from genesis_core import ConfigError, GenesisV2Config
from training.augment import AugmentConfig
from training.objective import ObjectiveConfig

# What may change when a run is resumed: it does not change the weights it ends with.
FREE_SETTINGS = frozenset(
    {
        "run", "init", "device", "compile", "checkpoint_minutes", "log_every",
        "eval_every", "eval_images", "picture_every", "data.path", "data.unlabelled_path",
    }
)  # fmt: skip
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class DataConfig:
    """Which prepared data to train on (see training/prepare.py).

    Attributes:
        path: prepared data set, with splits train and, for validation, val.
        unlabelled_path: a second prepared data set whose masks, if any, are not used: real
            images mixed among generated ones.
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
            scalars that decide how finely IC-SBP clusters.
        warmup_steps: steps over which the learning rate rises linearly to its value.
        schedule: "constant", or "cosine" down to a hundredth of it at the end.
        clip_norm: largest norm of the gradient; 0 does not clip.
        ema_decay: decay of the moving average of the weights that is evaluated and saved; 0 for
            the weights themselves.
    """

    lr: float = 1e-4
    clustering_lr_scale: float = 1.0
    warmup_steps: int = 0
    schedule: str = "constant"
    clip_norm: float = 0.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lr", "clustering_lr_scale"):
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
        run: folder of the run: checkpoints, TensorBoard events, resolved settings.
        init: checkpoint whose weights to start from (its model settings must fit ``model``).
        freeze: names of the model's parts to leave as they are, e.g. backbone, embedding, icsbp.
        steps: number of optimiser steps.
        batch_size: images per step over all processes.
        seed: decides initial weights, data order, augmentation, seed scores and noise.
        device: auto, cpu, cuda or cuda:n.
        precision: of the network's layers; clustering, likelihood and GECO are always float32.
        compile: whether to use torch.compile.
        checkpoint_minutes: minutes between checkpoints.
        log_every, eval_every, picture_every: steps between scalars, validations, pictures; 0 for
            no validation or pictures.
        eval_images: how many images of the split val to validate on.
    """

    run: str = "runs/default"
    model: GenesisV2Config = field(default_factory=GenesisV2Config)
    data: DataConfig = field(default_factory=DataConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    init: str | None = None
    freeze: tuple[str, ...] = ()
    steps: int = 500_000
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    checkpoint_minutes: float = 5.0
    log_every: int = 50
    eval_every: int = 2_000
    eval_images: int = 128
    picture_every: int = 2_000

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_images"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("seed", "eval_every", "picture_every", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}"
            )


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that must stay when a run is resumed, by dotted name."""
    return {name: v for name, v in _flat(asdict(config)).items() if name not in FREE_SETTINGS}


def changed_settings(saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """How a config differs from a run's ``fixed_settings``, one phrase per setting.

    A setting that is newer than the run counts as having had its default. With a constant learning
    rate nothing depends on the number of steps, so a run may be made longer.
    """
    now, default = fixed_settings(config), fixed_settings(TrainConfig())
    allowed = {"steps"} if config.optimizer.schedule == "constant" else set()
    return [
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
