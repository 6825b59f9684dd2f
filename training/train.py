"""Train GENESIS-V2 on prepared data.

    python training/train.py --config config/training/tabletop_fast.yaml --run runs/mine
    torchrun --nproc-per-node 4 training/train.py --config ...

Every setting of training/settings.py can be given in the file and overridden on the command line
(--optimizer.lr 3e-4). A run continues exactly where it was with --resume true.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

if __package__ in (None, ""):  # run as a script: find the packages beside this folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jsonargparse
import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from genesis_core import ConfigError, Geco, GenesisV2, __version__, load_model, save_model
from genesis_core.metrics import adjusted_rand_index, mean_segment_covering
from genesis_core.segmenter import PRECISIONS as DTYPES
from genesis_core.segmenter import resolve_device, resolve_precision
from training.augment import AugmentedLoader, to_model_input
from training.datasets.prepared import DatasetError, PreparedDataset
from training.objective import Objective, step_randomness
from training.pictures import reconstruction_sheet, sample_sheet
from training.settings import TrainConfig

CHECKPOINT, MODEL, METRICS = "checkpoint.pt", "model.safetensors", "metrics.jsonl"
PICTURE_IMAGES = 4


class TrainingError(RuntimeError):
    """Training cannot go on; the last good checkpoint is kept."""


class Trainer:
    """One training run. ``run`` trains to the last step, or until ``stop_requested`` is set."""

    def __init__(self, config: TrainConfig, *, resume: bool = False) -> None:
        self.config = config
        self.folder = Path(config.run)
        self.rank = int(os.environ.get("RANK", 0))
        self.world_size = int(os.environ.get("WORLD_SIZE", 1))
        self.stop_requested = False
        if config.batch_size % self.world_size:
            raise ConfigError(
                f"batch_size {config.batch_size} is not a multiple of {self.world_size} processes"
            )
        self.local_batch = config.batch_size // self.world_size
        has_checkpoint = (self.folder / CHECKPOINT).exists()
        if has_checkpoint and not resume:
            raise ConfigError(
                f"{self.folder} already holds a run: continue it with --resume true, "
                "or name another folder with --run"
            )
        self.device = self._device()
        self.precision = resolve_precision(config.precision, self.device)

        torch.manual_seed(config.seed)
        self.model = self._build_model()
        self.geco = self._build_geco()
        self.optimizer = self._build_optimizer()
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.ema = None
        if config.optimizer.ema_decay:
            average = get_ema_multi_avg_fn(config.optimizer.ema_decay)
            self.ema = AveragedModel(self.model, multi_avg_fn=average)
        self.loaders = self._build_loaders()
        self.step = 0
        self.best_mask_source = "attention" if not config.objective.unsupervised else "decoder"
        if has_checkpoint:
            self._load_checkpoint()
        self.objective = self._wrap(Objective(self.model, config.objective))

    # Building

    def _device(self) -> torch.device:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        device = resolve_device(self.config.device)
        if device.type == "cuda" and self.world_size > 1:
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        return device

    def _build_model(self) -> GenesisV2:
        config = self.config
        model = GenesisV2(config.model)
        if config.init:
            start = load_model(config.init, num_slots=config.model.num_slots)
            try:
                model.load_state_dict(start.state_dict())
            except RuntimeError as error:
                raise ConfigError(f"init {config.init} does not fit the model: {error}") from error
        parts = dict(model.named_children())
        frozen = set(config.freeze)
        if unknown := sorted(frozen - set(parts)):
            raise ConfigError(f"freeze names {unknown}; the model's parts are {sorted(parts)}")
        if not config.objective.unsupervised:
            frozen |= set(parts) - {"backbone", "embedding", "icsbp"}
        for name in frozen:
            parts[name].requires_grad_(False)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.train()

    def _build_geco(self) -> Geco:
        model, objective = self.config.model, self.config.objective
        elements = model.image_channels * model.image_size**2
        beta = objective.beta_init
        if beta is None:
            beta = 1e-10 if model.mask_loss else 1.0
        return Geco(
            objective.goal * elements,
            num_elements=elements,
            image_size=model.image_size,
            pixel_std=model.pixel_std,
            step_size=objective.geco_step_size,
            beta_init=beta,
            device=self.device,
        )

    def _build_optimizer(self) -> torch.optim.Optimizer:
        settings = self.config.optimizer
        clustering = ("embedding.gate", "icsbp.log_scale")
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in trained if n not in clustering], "scale": 1.0},
            {
                "params": [p for n, p in trained if n in clustering],
                "scale": settings.clustering_lr_scale,
            },
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise ConfigError("every part of the model is frozen: there is nothing to train")
        return torch.optim.Adam(groups, lr=settings.lr, fused=True)

    def _build_loaders(self) -> list[AugmentedLoader]:
        data, size = self.config.data, self.config.model.image_size
        unlabelled = round(self.local_batch * data.unlabelled_fraction)
        sources: list[tuple[str, int]] = [(data.path, self.local_batch - unlabelled)]
        if data.unlabelled_path:
            if not 0 < unlabelled < self.local_batch:
                raise ConfigError(
                    f"data.unlabelled_fraction {data.unlabelled_fraction} of {self.local_batch} "
                    "images per process is no mix; use a larger batch or another fraction"
                )
            sources.append((data.unlabelled_path, unlabelled))
        loaders = [
            AugmentedLoader(
                PreparedDataset(path, "train"),
                data.augment,
                image_size=size,
                batch_size=count,
                seed=self.config.seed,
                rank=self.rank,
                world_size=self.world_size,
                pin_memory=self.device.type == "cuda",
            )
            for path, count in sources
        ]
        if self.config.objective.mask_supervision and loaders[0].dataset.masks is None:
            raise ConfigError(
                f"objective.mask_supervision needs instance masks, which {data.path} has not"
            )
        return loaders

    def _wrap(self, objective: Objective) -> torch.nn.Module:
        module: torch.nn.Module = objective
        if self.world_size > 1:
            devices = [self.device.index] if self.device.type == "cuda" else None
            module = DistributedDataParallel(module, device_ids=devices)
        if self.config.compile:
            module = torch.compile(module)  # type: ignore[assignment]
        return module

    # Training

    def run(self) -> None:
        """Train from the current step on."""
        config = self.config
        if self.is_main:
            self._describe_run()
        batches = zip(*(loader.iterate(self.step) for loader in self.loaders), strict=True)
        bar = tqdm(
            total=config.steps,
            initial=self.step,
            unit="step",
            dynamic_ncols=True,
            disable=not self.is_main,
            mininterval=1.0,
        )
        last_save = last_log = time.monotonic()
        logged_step = self.step
        with self._writer() as writer, bar:
            while self.step < config.steps and not self._should_stop():
                terms = self._train_step(next(batches))
                self.step += 1
                bar.update()
                finished = self.step == config.steps
                if self.step % config.log_every == 0 or finished:
                    now = time.monotonic()
                    images = (self.step - logged_step) * config.batch_size
                    self._log(writer, bar, terms, images / (now - last_log))
                    last_log, logged_step = now, self.step
                if self._due(config.picture_every) or (config.picture_every and finished):
                    self._log_pictures(writer)
                if self._due(config.eval_every) or (config.eval_every and finished):
                    self._validate(writer)
                if time.monotonic() - last_save > 60 * config.checkpoint_minutes and not finished:
                    self.save()
                    last_save = time.monotonic()
            self.save()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _should_stop(self) -> bool:
        """Whether any process was asked to stop: all must leave at the same step."""
        if self.world_size == 1:
            return self.stop_requested
        flag = torch.tensor(float(self.stop_requested), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def _train_step(self, parts: tuple[tuple[Tensor, Tensor | None], ...]) -> dict[str, Tensor]:
        config = self.config
        images = to_model_input(torch.cat([images for images, _ in parts]), self.device)
        labels, labelled = self._labels(parts)
        scores, noise = step_randomness(
            self.model, config.seed, self.step, self.local_batch, self.rank, self.device
        )
        dtype = DTYPES[self.precision]
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            loss, terms = self.objective(images, labels, labelled, scores, noise, self.geco.beta)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        limit = config.optimizer.clip_norm or math.inf
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        terms["gradient_norm"] = torch.nn.utils.clip_grad_norm_(trained, limit)
        if self.device.type == "cpu":
            # On CUDA asking would wait for the device; there the log and the save check.
            self._check_finite({"loss": loss, **terms})
        for group in self.optimizer.param_groups:
            group["lr"] = config.optimizer.lr * group["scale"] * self._schedule()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        terms["loss"] = loss.detach()
        terms = {name: self._mean_over_ranks(value) for name, value in terms.items()}
        if "nll" in terms:
            self.geco.update(terms["nll"])
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return terms

    def _labels(
        self, parts: tuple[tuple[Tensor, Tensor | None], ...]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Instance labels of a batch, and which of its images have them (None: all)."""
        if not self.config.objective.mask_supervision:
            return None, None
        first = parts[0][1]
        assert first is not None
        if len(parts) == 1:
            return first.to(self.device, non_blocking=True), None
        blank = torch.zeros(len(parts[1][0]), *first.shape[1:], dtype=first.dtype)
        labelled = torch.cat([torch.ones(len(first)), torch.zeros(len(blank))])
        return torch.cat([first, blank]).to(self.device), labelled.to(self.device)

    def _schedule(self) -> float:
        """The learning rate's factor at the current step."""
        settings, progress = self.config.optimizer, self.step / self.config.steps
        factor = min(1.0, (self.step + 1) / max(1, settings.warmup_steps))
        if settings.schedule == "cosine":
            factor *= 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        return factor

    def _mean_over_ranks(self, value: Tensor) -> Tensor:
        if self.world_size > 1:
            dist.all_reduce(value)
            value = value / self.world_size
        return value

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        broken = {name: float(value) for name, value in terms.items() if not value.isfinite()}
        # With fp16 an overflowing gradient is routine: the scaler skips that step.
        if self.precision == "fp16":
            broken.pop("gradient_norm", None)
        if broken:
            raise TrainingError(
                f"training diverged at step {self.step}: {broken}. "
                f"{self._kept()} Try a smaller learning rate, clipping or fp32."
            )

    def _kept(self) -> str:
        path = self.folder / CHECKPOINT
        return f"The last good checkpoint is {path}." if path.exists() else "None was saved yet."

    # Watching

    @contextmanager
    def _writer(self) -> Iterator[SummaryWriter | None]:
        if not self.is_main:
            yield None
            return
        with SummaryWriter(str(self.folder), purge_step=self.step) as writer:
            yield writer

    def _log(
        self, writer: SummaryWriter | None, bar: Any, terms: dict[str, Tensor], speed: float
    ) -> None:
        self._check_finite(terms)
        if writer is None:
            return
        values = {name: float(value) for name, value in terms.items()}
        if "nll" in values:
            values["elbo"] = -(values["nll"] + values["kl"])
            values["beta"] = float(self.geco.beta)
        values["kernel_scale"] = float(self.model.icsbp.log_scale.detach().exp())
        if self.config.model.semi_conv:
            values["gate"] = float(self.model.embedding.gate.detach())
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        values["images_per_second"] = speed
        self._record(writer, "train", values)
        shown = {k: values[k] for k in ("loss", "elbo", "beta", "mask_supervision") if k in values}
        bar.set_postfix({k: f"{v:.4g}" for k, v in shown.items()} | {"images/s": f"{speed:.1f}"})

    def _record(self, writer: SummaryWriter, kind: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"{kind}/{name}", value, self.step)
        line = {"step": self.step, "kind": kind, **values}
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    @property
    def averaged_model(self) -> GenesisV2:
        """The model to evaluate and save: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module  # type: ignore[return-value]

    @contextmanager
    def _evaluating(self) -> Iterator[GenesisV2]:
        model = self.averaged_model
        was_training = model.training
        model.eval()
        try:
            with torch.inference_mode():
                yield model
        finally:
            model.train(was_training)

    def _validation_batches(self, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        dataset = PreparedDataset(self.config.data.path, "val")
        size = self.config.model.image_size
        loader = AugmentedLoader(
            dataset, type(self.config.data.augment)(), image_size=size, batch_size=16, seed=0
        )
        for step in range(math.ceil(min(count, len(dataset)) / 16)):
            images, masks = loader.batch(step)
            yield to_model_input(images, self.device), masks

    def _validate(self, writer: SummaryWriter | None) -> None:
        """Segmentation metrics on the split val, for both kinds of masks."""
        if writer is None:
            return
        scores: dict[str, list[Any]] = {}
        with self._evaluating() as model:
            for images, masks in self._validation_batches(self.config.eval_images):
                if masks is None:
                    return
                out = model(images, decode=self.config.objective.unsupervised)
                found = {"attention": out.log_attention, "decoder": out.log_masks}
                for source, log_masks in found.items():
                    if log_masks is None:
                        continue
                    labels = log_masks[:, :, 0].argmax(dim=1).cpu().numpy()
                    truth = masks.numpy()
                    ari = adjusted_rand_index(truth, labels, foreground_only=True)
                    msc = mean_segment_covering(truth, labels, foreground_only=True)
                    scores.setdefault(f"{source}_ari_fg", []).extend(ari)
                    scores.setdefault(f"{source}_msc_fg", []).extend(msc)
        values = {name: float(np.mean(value)) for name, value in scores.items()}
        attention = values["attention_ari_fg"]
        decoder = values.get("decoder_ari_fg", -1.0)
        self.best_mask_source = "attention" if attention > decoder else "decoder"
        self._record(writer, "val", values)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        tqdm.write(f"step {self.step}: {shown}")

    def _log_pictures(self, writer: SummaryWriter | None) -> None:
        if writer is None:
            return
        with self._evaluating() as model:
            images, masks = next(self._validation_batches(PICTURE_IMAGES))
            truth = None if masks is None else masks[:PICTURE_IMAGES].numpy()
            images = images[:PICTURE_IMAGES]
            out = model(images, decode=self.config.objective.unsupervised)
            sheets = {"reconstructions": reconstruction_sheet(images, out, truth)}
            if self.config.objective.unsupervised:
                generator = torch.Generator().manual_seed(0)
                sheets["samples"] = sample_sheet(model.sample(PICTURE_IMAGES, generator))
        for name, sheet in sheets.items():
            writer.add_image(name, sheet, self.step, dataformats="HWC")

    # Files of a run

    def _describe_run(self) -> None:
        """The resolved settings, versions and git revision, for whoever asks later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_dump(_plain(asdict(self.config)), sort_keys=False)
        _write_text(self.folder / "config.yaml", settings)
        facts = {
            "genesis_core": __version__,
            "git_revision": git_revision(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": str(self.device),
            "precision": self.precision,
            "processes": self.world_size,
        }
        _write_text(self.folder / "versions.json", json.dumps(facts, indent=2) + "\n")

    def save(self) -> None:
        """Write the full state and the model, each by rename."""
        if not self.is_main:
            return
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise TrainingError(f"weights are not finite at step {self.step}. {self._kept()}")
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "geco": self.geco.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "best_mask_source": self.best_mask_source,
            "settings": _fingerprint(self.config),
        }
        partial = self.folder / (CHECKPOINT + ".partial")
        try:
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            save_model(self.averaged_model, self.folder / MODEL, self._model_metadata())
            os.replace(partial, self.folder / CHECKPOINT)
        except (OSError, RuntimeError) as error:
            partial.unlink(missing_ok=True)
            raise TrainingError(
                f"cannot write a checkpoint to {self.folder}: {error}. {self._kept()}"
            ) from error

    def _model_metadata(self) -> dict[str, Any]:
        objective = self.config.objective
        return {
            "mask_source": self.best_mask_source,
            "trained": {
                "steps": self.step,
                "batch_size": self.config.batch_size,
                "dataset": self.loaders[0].dataset.info.get("dataset"),
                "init": self.config.init,
                "unsupervised_objective": objective.unsupervised,
                "mask_supervision": objective.mask_supervision,
                "git_revision": git_revision(),
                "genesis_core": __version__,
            },
        }

    def _load_checkpoint(self) -> None:
        path = self.folder / CHECKPOINT
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path} cannot be read: {error}") from error
        changed = [
            key
            for key, value in _fingerprint(self.config).items()
            if state["settings"].get(key) != value
        ]
        if changed:
            raise ConfigError(
                f"{path} was written with other values of {', '.join(changed)}; "
                "resume with the same settings or start another run"
            )
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.geco.load_state_dict(state["geco"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.best_mask_source = state["best_mask_source"]
        if self.is_main:
            self._forget_later_metrics()

    def _forget_later_metrics(self) -> None:
        """Drop what was logged after the checkpoint: those steps are about to be repeated."""
        path = self.folder / METRICS
        if not path.exists():
            return
        kept = []
        for line in path.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= self.step:
                    kept.append(line + "\n")
            except ValueError:
                break  # cut off by the interruption
        _write_text(path, "".join(kept))


def _fingerprint(config: TrainConfig) -> dict[str, str]:
    """The settings that must not change when a run is resumed, as text."""
    free = {
        "run", "device", "compile", "checkpoint_minutes", "log_every",
        "eval_every", "eval_images", "picture_every", "init",
    }  # fmt: skip
    return {k: json.dumps(v, sort_keys=True) for k, v in asdict(config).items() if k not in free}


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def git_revision() -> str | None:
    """The revision of the code that runs, marked if it has been changed; None outside git."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def train(config: TrainConfig, resume: bool = False) -> None:
    """Train a model.

    Args:
        config: settings of the run.
        resume: continue the run in its folder, exactly where its last checkpoint left it.
    """
    distributed = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if distributed:
        use_cuda = torch.cuda.is_available() and config.device != "cpu"
        dist.init_process_group("nccl" if use_cuda else "gloo")
    try:
        trainer = Trainer(config, resume=resume)

        def stop(number: int, frame: FrameType | None) -> None:
            tqdm.write("stopping after this step; continue later with --resume true")
            trainer.stop_requested = True

        previous = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            trainer.run()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    finally:
        if distributed:
            dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> None:
    parser = jsonargparse.ArgumentParser(prog="train.py", description=__doc__.split("\n")[0])
    parser.add_argument("--config", action="config", help="YAML file with any of these settings")
    parser.add_class_arguments(TrainConfig)
    parser.add_argument("--resume", type=bool, default=False, help="continue the run in its folder")
    values = parser.parse_args(arguments)
    values = parser.instantiate_classes(values)
    names = TrainConfig.__dataclass_fields__
    try:
        train(TrainConfig(**{name: values[name] for name in names}), resume=values.resume)
    except (ConfigError, DatasetError, FileNotFoundError, TrainingError, ValueError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    main()
