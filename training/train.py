"""Train a model on prepared data: GENESIS-V2, or one of those it is compared with.

    python -m training.train --config config/training/tabletop_fast.yaml --run runs/mine
    python -m training.train --config config/training/shapestacks.yaml \
        --config config/training/models/monet.yaml
    torchrun --nproc-per-node 4 -m -- training.train --config ...

Every setting of training/train_config.py can be given in the files and overridden on the command
line (--optimizer.lr 3e-4). A run continues where it was with --resume true: on a CPU exactly, on a
GPU to rounding.
"""

from __future__ import annotations

import copy
import itertools
import math
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from genesis_core import (
    CheckpointError,
    ConfigError,
    DeviceError,
    Geco,
    GenesisV2,
    SlotModel,
    __version__,
    build_model,
    find_checkpoint,
    load_model,
)
from genesis_core.device import PRECISIONS as DTYPES
from genesis_core.device import resolve_precision
from genesis_core.memory import keep_freed_memory
from genesis_core.models.config import GenerativeConfig
from genesis_core.models.efficientnet import EfficientNetLite0
from training.augment import Batch
from training.batches import AugmentedLoader, join
from training.captured import CapturedStep, CudaRecorder
from training.datasets.parts import differences
from training.datasets.prepared import DatasetError, PreparedDataset
from training.grow import widen_latents
from training.objective import Objective, step_randomness
from training.paper import DATASETS, Figure
from training.parallel import Processes
from training.pretrained import encoder_weights
from training.report import PAGE, Report, read_curves
from training.run_folder import RunFolder, TrainingError, git_revision
from training.table_forms import Cell, Table
from training.train_config import (
    TrainConfig,
    changed_settings,
    fixed_settings,
    parse,
    recorded_settings,
)
from training.validation import Validation, better_masks

# Below this the gradient scaler has met nothing but overflow: the loss itself is broken.
SMALLEST_FP16_SCALE = 2.0**-14

# Mistakes of the user's, or of the machine's: the message says it all.
ERRORS = (CheckpointError, ConfigError, DatasetError, DeviceError, TrainingError, OSError)


class Trainer:
    """One training run. ``run`` trains to the last step, or until ``stop_requested`` is set.

    Raises:
        ConfigError: settings do not fit each other, the data or the run that is to be resumed.
        DatasetError: a data set, or a split of it that is needed, is missing or damaged.
        TrainingError: the checkpoint to resume from is damaged, or another process uses the folder.
    """

    def __init__(
        self, config: TrainConfig, processes: Processes | None = None, *, resume: bool = False
    ) -> None:
        self.config = config
        self.processes = Processes(config.device) if processes is None else processes
        self.device = self.processes.device
        if config.compile and self.device.type != "cuda":
            raise ConfigError(
                f"compile is true, but the run is on {self.device}, which runs C++ operations "
                "that torch.compile does not know: set it to false"
            )
        self.precision = resolve_precision(config.precision, self.device)
        self.folder = RunFolder(config.run)
        self.stop_requested = False
        self.step = 0
        self.git_revision = git_revision()  # of the code that was loaded, whatever is edited later

        # The main process decides and reads: the others may be on machines without the folder.
        resuming = self.processes.from_main(self.folder.has_checkpoint)
        if resuming and not resume:
            raise ConfigError(
                f"{config.run} already holds a run: continue it with --resume true, "
                "or name another folder with --run"
            )
        self.loaders, offsets = self._build_loaders()
        if config.model.takes_points and not (self._has_depth or config.init or resuming):
            raise ConfigError(
                f"model.points is true, but {config.data.path} has no depth, so that the model "
                "would read depth by chance: prepare data with depth (--sensor_depth true), set "
                "model.points to false, or start from a model that reads it (init)"
            )
        self.offsets = torch.tensor(offsets, device=self.device)
        self.validation = None
        if self.processes.is_main and (config.eval_every or config.picture_every):
            try:
                dataset = PreparedDataset(config.data.path, "val")
            except DatasetError as error:
                raise DatasetError(
                    f"{error}. To train without validation: --eval_every 0 --picture_every 0"
                ) from error
            self.validation = Validation(dataset, config.objective, config.eval_images)
        torch.manual_seed(config.seed)
        self.model = self._build_model(start_new=not resuming)
        self.best_mask_source = "attention"  # until labels say otherwise
        if not config.objective.masks_only:
            self.best_mask_source = self.start_mask_source or self.model.default_mask_source
        self.geco = self._build_geco()
        self.optimizer = self._build_optimizer()
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.ema = None
        if config.optimizer.ema_decay:
            self.ema = AveragedModel(self.model)
            # To ask whether it is zero would wait for the device.
            self.ema.n_averaged = self.ema.n_averaged.cpu()
        self.start_encoder = self._copy_encoder()
        if self.processes.is_main:
            self.folder.claim()
            if self.folder.has_checkpoint and not resuming:  # it came while this was set up
                self.folder.release()
                raise TrainingError(f"another process has trained in {config.run}; start again")
        if resuming:
            try:
                self._restore(self.processes.from_main(self._read_checkpoint()))
            except Exception:
                self.folder.release()  # of a run that is refused, nobody else does
                raise
        elif resume and self.processes.is_main:
            tqdm.write(f"{config.run} holds no checkpoint: starting at step 0")
        labelled = self.loaders[0]
        if self.processes.is_main:
            for remark in self._remarks():
                tqdm.write(remark)
        objective = Objective(
            self.model,
            config.objective,
            num_labels=self._num_labels(),
            robot_label=labelled.dataset.robot_label,
            start=self.start_encoder,
        )
        # Nothing reaches what reads points, where there are none.
        partly = self.model.takes_points and not self._has_depth
        module = self.processes.wrap(objective, partly=partly)
        self.objective = torch.compile(module) if config.compile else module
        self.captured = self._build_captured()

    # Building

    def _build_model(self, *, start_new: bool) -> SlotModel:
        config = self.config
        init = config.init if start_new else None
        model = build_model(config.model)
        self.started_from: dict[str, Any] | None = None
        self.start_mask_source: str | None = None
        # Of a resumed run, if it says so.
        self.origin = {"init": config.init, "encoder_weights": config.encoder_weights}
        self.stop_threshold = 0.0  # what the model is used with afterwards
        if init:
            start = load_model(find_checkpoint(init), num_slots=config.model.num_slots)
            self.started_from = start.metadata.get("trained")
            self.start_mask_source = start.metadata.get("mask_source")
            self.stop_threshold = float(start.metadata.get("stop_threshold", 0))
            if (
                isinstance(model, GenesisV2)
                and isinstance(start, GenesisV2)
                and start.config.latent_units < model.config.latent_units
            ):
                start = widen_latents(start, model.config.latent_units, config.seed)
            weights = start.state_dict()
            lacking = model.neutral_parts - {name for name, _ in start.named_children()}
            new = {
                name: weight
                for name, weight in model.state_dict().items()
                if name.partition(".")[0] in lacking
            }
            try:
                model.load_state_dict({**new, **weights})
            except RuntimeError as error:
                raise ConfigError(f"init {init} does not fit the model: {error}") from error
        elif config.encoder_weights and start_new:
            weights = encoder_weights(config.encoder_weights)
            try:
                model.load_encoder(weights)
            except (KeyError, RuntimeError) as error:
                raise ConfigError(
                    f"encoder_weights {config.encoder_weights} do not fit the encoder: {error}"
                ) from error
        if config.objective.stop_threshold is not None:
            self.stop_threshold = config.objective.stop_threshold
        if (std := config.objective.initial_std) is not None:
            model.set_posterior_std(std)
        parts = {name for name, _ in model.named_children()}
        freezable = [
            n for n, m in model.named_modules() if n and next(m.parameters(), None) is not None
        ]
        if unknown := sorted(set(config.freeze) - set(freezable)):
            part = next(name for name in freezable if "." in name)
            raise ConfigError(
                f"freeze names {unknown}; the model's parts are {sorted(parts)}; a part of one is "
                f"named as {part} is"
            )
        self.frozen: set[str] = set()
        self._freeze(model, set(config.freeze))
        if config.objective.masks_only:
            self._freeze(model, parts - model.mask_parts)
        self._freeze(model, self._untaught_kinds(model) & parts)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._set_training(model)

    def _freeze(self, model: SlotModel, names: set[str]) -> None:
        for name in names:
            model.get_submodule(name).requires_grad_(False)
        self.frozen |= names

    def _untaught_kinds(self, model: SlotModel) -> set[str]:
        """Parts that tell kinds and that nothing of the objective reaches."""
        objective = self.config.objective
        if objective.kind_supervision:
            return set()
        if objective.masks_only and not getattr(self.config.model, "kind_distance", 0):
            return {"feature_head", "kind_head"}
        learning = {
            name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad
        }
        # A learning embedding teaches it by the kinds that part pixels, where they do.
        parting = getattr(self.config.model, "kind_distance", 0)
        return set() if parting and "embedding" in learning else {"kind_head"}

    def _set_training(self, model: SlotModel) -> SlotModel:
        """Training mode, except for frozen parts: their batch normalisation is frozen too."""
        model.train()
        for name in self.frozen:
            model.get_submodule(name).eval()
        return model

    def _copy_encoder(self) -> EfficientNetLite0 | None:
        """The encoder, as it is now, that the model's is held to."""
        if not self.config.objective.encoder_anchor:
            return None
        assert self.model.pretrained_part is not None  # see TrainConfig
        encoder = copy.deepcopy(self.model.get_submodule(self.model.pretrained_part))
        assert isinstance(encoder, EfficientNetLite0)
        return encoder.requires_grad_(False).eval()

    def _build_geco(self) -> Geco | None:
        """GECO, where the model has a likelihood to balance against the KL."""
        model, objective = self.config.model, self.config.objective
        if not isinstance(model, GenerativeConfig):
            return None
        elements = model.image_channels * model.decoded_size**2
        beta = objective.beta_init
        if beta is None:
            beta = self.model.first_beta
        return Geco(
            objective.goal * elements,
            num_elements=elements,
            image_size=model.decoded_size,
            pixel_std=model.pixel_std,
            step_size=objective.geco_step_size,
            beta_init=beta,
            device=self.device,
        )

    def _build_optimizer(self) -> torch.optim.Optimizer:
        settings = self.config.optimizer
        model = self.model
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        clustering = {n for n, _ in trained if n in model.clustering_parameters}
        part = model.pretrained_part
        pretrained = {n for n, _ in trained if part and n.startswith(f"{part}.")}
        rest = {n for n, _ in trained} - clustering - pretrained
        scales = (1.0, settings.clustering_lr_scale, settings.pretrained_lr_scale)
        groups = [
            {"params": [p for n, p in trained if n in names], "scale": scale}
            for names, scale in zip((rest, clustering, pretrained), scales, strict=True)
            if names
        ]
        if not groups:
            raise ConfigError("every part of the model is frozen: there is nothing to train")
        optimizer = torch.optim.Adam(groups, lr=settings.lr, fused=True)
        self._place_learning_rates(optimizer)
        return optimizer

    def _place_learning_rates(self, optimizer: torch.optim.Optimizer) -> None:
        """On CUDA, let the device hold them: a graph reads what they are at each step."""
        on_gpu = self.device.type == "cuda"
        for group in optimizer.param_groups:
            rate = float(group["lr"])
            group["lr"] = torch.tensor(rate, device=self.device) if on_gpu else rate
            group["capturable"] = on_gpu

    def _build_loaders(self) -> tuple[list[AugmentedLoader], list[int]]:
        """A loader per data set, and where this process's images are in the global batch.

        The global batch is the labelled images, then the unlabelled ones; each process takes an
        equal share of both, so that the number of processes does not change what is in it.
        """
        config, processes = self.config, self.processes
        unlabelled = round(config.batch_size * config.data.unlabelled_fraction)
        counts = [config.batch_size - unlabelled]
        paths = [config.data.path]
        if config.data.unlabelled_path:
            if not 0 < unlabelled < config.batch_size:
                raise ConfigError(
                    f"data.unlabelled_fraction {config.data.unlabelled_fraction} of batch_size "
                    f"{config.batch_size} is no mix; use a larger batch or another fraction"
                )
            counts.append(unlabelled)
            paths.append(config.data.unlabelled_path)
        if any(count % processes.world_size for count in counts):
            parts = " labelled and ".join(map(str, counts)) + " unlabelled" * (len(counts) - 1)
            raise ConfigError(
                f"batch_size {config.batch_size} ({parts}) cannot be divided evenly among "
                f"{processes.world_size} processes"
            )
        loaders: list[AugmentedLoader] = []
        places: list[int] = []
        start = 0  # of this data set's images in the global batch
        for number, (path, count) in enumerate(zip(paths, counts, strict=True)):
            share = count // processes.world_size
            loader = AugmentedLoader(
                PreparedDataset(path, "train"),
                config.data.augment,
                image_size=config.model.image_size,
                batch_size=share,
                seed=config.seed,
                rank=processes.rank,
                world_size=processes.world_size,
                device=self.device,
                with_points=config.model.takes_points,
                with_labels=number == 0,
            )
            loaders.append(loader)
            first = start + processes.rank * share
            places += range(first, first + share)
            start += count
        for loader in loaders:
            if (channels := loader.dataset.channels) != config.model.image_channels:
                raise ConfigError(
                    f"model.image_channels is {config.model.image_channels}, but the images in "
                    f"{loader.dataset.path} have {channels} channels; set it to {channels}"
                )
        for term in ("mask_supervision", "overlap_supervision", "kind_supervision"):
            if getattr(config.objective, term) and loaders[0].dataset.masks is None:
                raise ConfigError(
                    f"objective.{term} needs instance masks, which {config.data.path} has not; set "
                    "it to 0, or use data with masks"
                )
        return loaders, places

    def _num_labels(self) -> int | None:
        """What all labels are below; None where none are used."""
        objective = self.config.objective
        counted = objective.mask_supervision or objective.kind_supervision
        return self.loaders[0].num_labels if counted else None

    # Training

    def run(self) -> None:
        """Train from the current step on, and save."""
        try:
            self._run()
        except OSError as error:
            raise TrainingError(
                f"the run in {self.folder.path} stopped at step {self.step}: {error}. "
                f"{self.folder.kept}"
            ) from error
        finally:
            self.folder.release()

    def _run(self) -> None:
        config = self.config
        if self.step >= config.steps:
            # Its files say which code trained the model: that is not the code that runs now.
            if self.processes.is_main:
                tqdm.write(f"{config.run} is finished at step {self.step}: nothing is left to do")
                if not (self.folder.path / PAGE).exists():  # it ended before it had drawn that
                    tqdm.write(f"{self._report()} shows how it went: open it in a browser")
            return
        if self.processes.is_main:
            # A resumed run started from what it once was told, whatever it is told now.
            self.folder.describe(asdict(config) | self.origin, self._facts())
            self.folder.forget_metrics_after(self.step)
        batches: Iterator[Sequence[Batch]] = itertools.repeat(())  # a graph gathers its own
        if self.captured is None:
            batches = zip(*(loader.iterate(self.step) for loader in self.loaders), strict=True)
        watch = _Stopwatch()
        logged_step, last_save = self.step, time.monotonic()
        with self._progress() as bar, self._writer() as writer:
            while self.step < config.steps and not self.processes.any(self.stop_requested):
                terms = self._train_step(next(batches))
                self.step += 1
                bar.update()
                finished = self.step == config.steps
                if self.step % config.log_every == 0 or finished:
                    self._check_finite(terms)  # on CUDA, this waits for the device
                    speed = (self.step - logged_step) * config.batch_size / watch.restart()
                    logged_step = self.step
                    self._log(writer, bar, terms, speed)
                with watch.paused():
                    if _due(self.step, config.picture_every, finished):
                        self._log_pictures(writer)
                    if _due(self.step, config.eval_every, finished):
                        self._validate(writer)
                    if writer is not None and _due(self.step, config.keep_every, False):
                        self._check_weights()
                        metadata = self._model_metadata()
                        self.folder.keep(self.step, self.averaged_model, metadata)
                    if time.monotonic() - last_save > 60 * config.checkpoint_minutes:
                        self._save(writer)
                        last_save = time.monotonic()
            self._save(writer)
        if self.processes.is_main:
            tqdm.write(f"{self._report()} shows how it went: open it in a browser")
        if self.step < config.steps and self.processes.is_main:
            tqdm.write(f"stopped at step {self.step}: continue with --resume true")

    def _train_step(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """One optimiser step; the objective's terms, averaged over the global batch."""
        self._set_learning_rate()
        if self.captured is not None:
            return self.captured(self.step)
        batch = join(batches)
        places = self.step * self.config.batch_size + self.offsets
        return self._optimise(batch, places, self._noise_share(self.step))

    def _noise_share(self, step: int) -> float:
        """Factor on the posterior's noise."""
        warm_up = self.config.objective.noise_warmup_steps
        return min(1.0, step / warm_up) if warm_up else 1.0

    def _build_captured(self) -> CapturedStep | None:
        """The whole step as a CUDA graph, where everything that it needs is on the device."""
        if self.device.type != "cuda":
            return None
        obstacles = {
            "several processes train": self.processes.world_size > 1,
            "compile is on": self.config.compile,
            "fp16 scales its gradients (bf16 does not)": self.scaler.is_enabled(),
            "the data do not fit on the device": not all(
                loader.resident for loader in self.loaders
            ),
        }
        reasons = [reason for reason, holds in obstacles.items() if holds]
        if reasons:
            if self.processes.is_main:
                tqdm.write(f"no CUDA graph, so steps take longer: {', '.join(reasons)}")
            return None
        chosen = [
            torch.zeros(loader.batch_size, dtype=torch.int64, device=self.device)
            for loader in self.loaders
        ]
        number = torch.zeros((), dtype=torch.int64, device=self.device)
        noise_share = torch.ones((), device=self.device)

        def fill(step: int) -> None:
            for indices, loader in zip(chosen, self.loaders, strict=True):
                drawn = torch.from_numpy(loader.indices(step)).pin_memory()
                indices.copy_(drawn, non_blocking=True)
            number.fill_(step)
            noise_share.fill_(self._noise_share(step))

        def take_step() -> dict[str, Tensor]:
            batch = join(
                [
                    loader.finish(loader.gather(indices), loader.places(number))
                    for indices, loader in zip(chosen, self.loaders, strict=True)
                ]
            )
            places = number * self.config.batch_size + self.offsets
            return self._optimise(batch, places, noise_share)

        return CapturedStep(take_step, fill, CudaRecorder(self.device))

    def _optimise(
        self, batch: Batch, places: Tensor, noise_share: Tensor | float
    ) -> dict[str, Tensor]:
        """Loss, gradients and everything that follows from them.

        Args:
            places: (B,) of the batch's images among all images of the run.
            noise_share: factor on the posterior's noise.
        """
        if not self.config.objective.needs_labels:
            batch.labels = None
        style_noise = self.config.objective.style_noise
        drawn = step_randomness(self.model, self.config.seed, places, style_noise)
        if self.config.objective.noise_warmup_steps:
            drawn["noise"] = drawn["noise"] * noise_share
        beta = torch.zeros(()) if self.geco is None else self.geco.beta
        dtype = DTYPES[self.precision]
        with torch.autocast(
            self.device.type,
            dtype,
            enabled=dtype != torch.float32,
            cache_enabled=self.captured is None,  # a graph must not keep what it cast
        ):
            loss, terms = self.objective(batch, drawn, beta)
        if not loss.requires_grad:
            raise ConfigError(
                "the loss reaches nothing that is not frozen: freeze less, or, where only the "
                "branch for depth learns, use data with depth"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        terms = self.processes.mean({"loss": loss.detach(), **terms})
        terms["gradient_norm"] = self._clip_gradients()
        if self.device.type == "cpu":
            # Before the weights are touched. On CUDA that would wait for the device every step.
            self._check_finite(terms)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.geco is not None and "nll" in terms:
            self.geco.update(terms["nll"])
        self._update_average()
        return terms

    @torch.no_grad()
    def _update_average(self) -> None:
        """The moving average of the weights; the first one is the weights themselves.

        AveragedModel's own way copies from the host, which a CUDA graph cannot.
        """
        if self.ema is None:
            return
        averages: list[Tensor] = [*self.ema.module.parameters()]
        weights: list[Tensor] = [*self.model.parameters()]
        if self.ema.n_averaged == 0:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 1 - self.config.optimizer.ema_decay)
        for average, buffer in zip(self.ema.module.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)  # running statistics of batch normalisation
        self.ema.n_averaged += 1

    def _set_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            rate = self.config.optimizer.lr * group["scale"] * self._schedule()
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _clip_gradients(self) -> Tensor:
        """Clip, if so set; the gradient's norm before that."""
        limit = self.config.optimizer.clip_norm
        if limit:
            return torch.nn.utils.clip_grad_norm_(self.trained, limit)
        return torch.nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])

    def _schedule(self) -> float:
        """The learning rate's factor at the current step."""
        settings, progress = self.config.optimizer, self.step / self.config.steps
        factor = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        if settings.schedule == "cosine":
            factor *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        elif settings.schedule == "exponential":
            factor *= 0.5 ** (self.step / settings.halving_steps)
        return factor

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        broken = {name: float(value) for name, value in terms.items() if not value.isfinite()}
        if self.scaler.is_enabled():
            # An overflowing gradient is routine: the scaler skips the step and shrinks its scale.
            broken.pop("gradient_norm", None)
            if self.scaler.get_scale() < SMALLEST_FP16_SCALE:
                broken["gradient_scale"] = self.scaler.get_scale()
        if broken:
            values = ", ".join(f"{name} is {value}" for name, value in broken.items())
            raise TrainingError(
                f"training diverged at step {self.step}: {values}. {self.folder.kept} "
                "Try a smaller learning rate, clipping or precision fp32."
            )

    # Watching

    def _progress(self) -> Any:
        return tqdm(
            total=self.config.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.processes.is_main,
            mininterval=1.0,
        )

    @contextmanager
    def _writer(self) -> Iterator[SummaryWriter | None]:
        """TensorBoard's writer in the main process; what is logged past the step is dropped."""
        if not self.processes.is_main:
            yield None
            return
        with SummaryWriter(str(self.folder.path), purge_step=self.step + 1) as writer:
            yield writer

    def _log(
        self, writer: SummaryWriter | None, bar: Any, terms: dict[str, Tensor], speed: float
    ) -> None:
        if writer is None:
            return
        values = {name: float(value) for name, value in terms.items()}
        if self.geco is not None and "nll" in values:
            values["beta"] = float(self.geco.beta)
        values |= self.model.watched_values()
        group = self.optimizer.param_groups[0]
        values["learning_rate"] = float(group["lr"]) / group["scale"]
        values["images_per_second"] = speed
        self._record(writer, "train", values)
        names = ("loss", "elbo", "beta", "mask_supervision", "overlap_supervision")
        shown = {name: values[name] for name in names if name in values}
        bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()} | {"images/s": f"{speed:.1f}"})

    def _record(self, writer: SummaryWriter, kind: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{kind}/{name}", value, self.step)
        self.folder.append_metrics({"step": self.step, "kind": kind, **values})

    @property
    def averaged_model(self) -> SlotModel:
        """The model to evaluate and save: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module  # type: ignore[return-value]

    @contextmanager
    def _evaluating(self) -> Iterator[SlotModel]:
        model = self.averaged_model
        model.eval()
        try:
            with torch.inference_mode():
                yield model
        finally:
            if model is self.model:
                self._set_training(model)

    def _validate(self, writer: SummaryWriter | None) -> None:
        if writer is None:
            return
        assert self.validation is not None
        with self._evaluating() as model:
            values = self.validation.scores(model)
        if not values:
            return  # attention only, and no ground truth to compare with
        best = better_masks(values, self.model.default_mask_source)
        self.best_mask_source = best or self.best_mask_source
        self._record(writer, "val", values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        tqdm.write(f"step {self.step}: {shown}")

    def _log_pictures(self, writer: SummaryWriter | None) -> None:
        if writer is None:
            return
        assert self.validation is not None
        with self._evaluating() as model:
            sheets = self.validation.pictures(model)
        for name, sheet in sheets.items():
            writer.add_image(name, sheet, self.step, dataformats="HWC")

    def _report(self) -> Path:
        """Write a page with the last scores, learning curves and images of the split val."""
        config, folder = self.config, self.folder.path
        page = Report(
            f"Training run {folder.name}",
            [
                f"{config.model.model} on {' and '.join(self._data_identity())}",
                f"{self.step:,} of {config.steps:,} steps of {config.batch_size}",
                f"seed {config.seed}",
            ],
            curves=read_curves({folder.name: folder}),
        )
        if self.validation is not None:
            with self._evaluating() as model:
                page.images = self.validation.results(model, self.best_mask_source)
        if scores := self.folder.last_metrics("val"):
            step = scores.pop("step")
            cells = [Cell(Figure(value), 4) for value in scores.values()]
            title = f"Validation at step {step:,.0f}"
            page.tables = [Table(title, ["Run"], list(scores), [[folder.name, *cells]])]
        return page.write(folder)

    # Files of the run

    def _facts(self) -> dict[str, Any]:
        """What decides a result besides the settings, for whoever asks later."""
        return {
            "genesis_core": __version__,
            "git_revision": self.git_revision,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": str(self.device),
            "precision": self.precision,
            "processes": self.processes.world_size,
        }

    def _save(self, writer: SummaryWriter | None) -> None:
        if writer is None:
            return
        self._check_weights()
        writer.flush()  # else a kill loses what was logged before the checkpoint
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "geco": None if self.geco is None else self.geco.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best_mask_source": self.best_mask_source,
            "started_from": self.started_from,
            "start_encoder": self.start_encoder and self.start_encoder.state_dict(),
            "stop_threshold": self.stop_threshold,
            **self.origin,
            "settings": fixed_settings(self.config),
            "data": self._data_identity(),
            "data_options": self._data_options(),
            "precision": self.precision,
        }
        self.folder.save(state, self.averaged_model, self._model_metadata())

    def _check_weights(self) -> None:
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise TrainingError(f"weights are not finite at step {self.step}. {self.folder.kept}")

    def _data_identity(self) -> list[str]:
        """The training sets, wherever they lie: the order of images depends on their number."""
        return [f"{len(d)} images of {d.info.get('dataset')}" for d in self._datasets]

    def _data_options(self) -> list[dict[str, Any]]:
        """How the training sets were made: another seed, say, gives as many other images."""
        made = []
        for dataset in self._datasets:
            options = dict(dataset.info.get("options") or {})
            if dataset.info.get("dataset") in DATASETS:
                options.pop("files", None)  # the same data, archived or extracted
            if "mask_files" in options:  # what is in them, so that their place does not matter
                options.pop("masks", None)
            for split in ("val", "test"):
                if isinstance(options.get(split), int):  # a share decides which images train
                    del options[split]
            made.append({**options, "image_size": dataset.image_size})
        return made

    @property
    def _has_depth(self) -> bool:
        return any(dataset.depths is not None for dataset in self._datasets)

    @property
    def _has_depth_always(self) -> bool:
        """Whether no image is ever shown without its depth."""
        dropped = self.config.data.augment.depth_drop
        return not dropped and all(dataset.depths is not None for dataset in self._datasets)

    @property
    def _learns_unlabelled(self) -> bool:
        """Whether images without labels teach anything."""
        objective = self.config.objective
        if not objective.masks_only:
            return True
        return bool(objective.region_mixture or objective.encoder_anchor)

    def _remarks(self) -> Iterator[str]:
        """What these settings do not do with these data."""
        config, labelled = self.config, self._datasets[0]
        weight = config.objective.robot_weight
        if weight != 1 and labelled.robot_label is None:
            yield (
                f"objective.robot_weight is {weight:g}, and of no effect: {config.data.path} does "
                "not say which label is the robot's"
            )
        augment = config.data.augment
        if config.objective.encoder_anchor and self._has_depth_always:
            yield (
                f"objective.encoder_anchor is {config.objective.encoder_anchor:g}, and of no "
                "effect: it looks at images without depth, and data.augment.depth_drop is 0"
            )
        if len(self.loaders) > 1 and not self._learns_unlabelled:
            yield (
                f"data.unlabelled_path is {config.data.unlabelled_path}, and of no effect: with "
                "masks_only, nothing but region_mixture and encoder_anchor looks at images "
                "without labels"
            )
        for name in ("recolour", "texture"):
            if (value := getattr(augment, name)) and labelled.masks is None:
                yield (
                    f"data.augment.{name} is {value:g}, and of no effect: {config.data.path} has "
                    "no instance masks"
                )
        if self.model.takes_points and not self._has_depth:
            yield (
                f"{config.data.path} has no depth: the model goes on learning without it, and "
                "reads depth as it has learned before, which may fit less and less"
            )

    @property
    def _datasets(self) -> list[PreparedDataset]:
        return [loader.dataset for loader in self.loaders]

    def _model_metadata(self) -> dict[str, Any]:
        carried = {"stop_threshold": self.stop_threshold} if self.stop_threshold else {}
        published = self.origin.get("encoder_weights")
        return {
            "mask_source": self.best_mask_source,
            **carried,
            "trained": {
                "steps": self.step,
                "dataset": self._datasets[0].info.get("dataset"),
                "started_from": self.started_from,
                **recorded_settings(self.config),
                **({"encoder_weights": Path(published).name} if published else {}),
                "precision": self.precision,
                "git_revision": self.git_revision,
                "genesis_core": __version__,
            },
        }

    def _read_checkpoint(self) -> dict[str, Any] | None:
        return self.folder.load() if self.processes.is_main else None

    def _restore(self, state: dict[str, Any]) -> None:
        settings, precision = state["settings"], state.get("precision")
        if precision is not None:
            # What it comes to on this device decides, not how it is asked for.
            settings = {**settings, "precision": self.config.precision}
        if changed := changed_settings(settings, self.config):
            raise ConfigError(
                f"the run in {self.config.run} has other settings: {'; '.join(changed)}. "
                "Resume with the same ones, or start another run"
            )
        if (data := self._data_identity()) != state["data"]:
            raise ConfigError(
                f"the run in {self.config.run} was trained on {' and '.join(state['data'])}, not "
                f"on {' and '.join(data)}. Resume with the same data, or start another run"
            )
        self._check_data_options(state.get("data_options", []))
        if precision not in (None, self.precision) and state["step"] < self.config.steps:
            raise ConfigError(
                f"the run in {self.config.run} was trained in {precision}, and precision "
                f"{self.config.precision} is {self.precision} on {self.device}. Resume with "
                f"--precision {precision}, or start another run"
            )
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._place_learning_rates(self.optimizer)  # the run may have been on another device
        if state["scaler"]:  # a run of before that did not say its precision may have none
            self.scaler.load_state_dict(state["scaler"])
        if self.geco is not None:
            self.geco.load_state_dict(state["geco"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.start_encoder is not None:
            self.start_encoder.load_state_dict(state["start_encoder"])
        self.best_mask_source = state["best_mask_source"]
        self.started_from = state["started_from"]
        self.stop_threshold = state.get("stop_threshold", 0.0)
        self.origin = {n: state[n] for n in ("init", "encoder_weights") if n in state}
        given, start = self.config.init, self.origin.get("init")
        if given and self.origin and given != start and self.processes.is_main:
            tqdm.write(
                f"the run in {self.config.run} started from {start or 'a new model'} and goes "
                f"on from there; init {given} is not read. For a start from it, name "
                "another folder with --run"
            )

    def _check_data_options(self, saved: list[dict[str, Any]]) -> None:
        """Raise ConfigError where as many images were made otherwise than those trained on.

        Args:
            saved: ``_data_options`` of the run; empty where it does not say, being older.
        """
        made = zip(self._datasets, saved, self._data_options(), strict=False)
        for dataset, before, now in made:
            if changed := differences(before, now):
                raise ConfigError(
                    f"the run in {self.config.run} was trained on other images than those in "
                    f"{dataset.path}: {'; '.join(changed)}. Resume with the same data, or start "
                    "another run"
                )


class _Stopwatch:
    """Seconds of training, without the pauses for validation, pictures and checkpoints."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def restart(self) -> float:
        """Seconds since the last restart."""
        now = time.monotonic()
        seconds, self._start = now - self._start, now
        return max(seconds, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._start += time.monotonic() - began


def _due(step: int, every: int, finished: bool) -> bool:
    return every > 0 and (finished or step % every == 0)


@contextmanager
def _stop_on_signal(trainer: Trainer) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the current step, with a checkpoint."""

    def stop(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True
        # A second Ctrl-C ends the process at once. Not under torchrun, which repeats signals.
        if trainer.processes.world_size == 1:
            signal.signal(number, previous[number])

    previous = {int(s): signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in previous:
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(config: TrainConfig, resume: bool = False) -> bool:
    """Train a model; whether to the end, or only until a signal asked to stop.

    Args:
        config: settings of the run.
        resume: continue the run in its folder, exactly where its last checkpoint left it.
    """
    with Processes(config.device) as processes:
        trainer = Trainer(config, processes, resume=resume)
        with _stop_on_signal(trainer):
            trainer.run()
    return trainer.step >= config.steps


def main(arguments: list[str] | None = None) -> bool:
    """The command line; returns what ``train`` does, exits with a message on an error."""
    keep_freed_memory()
    try:
        config, resume = parse(arguments, str(__doc__).partition("\n")[0])
        return train(config, resume=resume)
    except ERRORS as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
