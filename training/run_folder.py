"""The folder of a training run: checkpoints, metrics, and what describes the run.

checkpoint.pt       everything a run needs to continue exactly
model.safetensors   the model to use, which every other tool reads
model-STEP.safetensors  that of a step on the way (keep_every)
metrics.jsonl       one line of JSON per log or validation
config.yaml         the resolved settings, fit for --config
versions.json       versions, git revision, device
report.html         a page with the last scores, learning curves and pictures
events.out.*        TensorBoard
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError

from genesis_core import SlotModel, save_model
from genesis_core.files import write_atomically

CHECKPOINT, MODEL, METRICS = "checkpoint.pt", "model.safetensors", "metrics.jsonl"
CONFIG, VERSIONS, LOCK = "config.yaml", "versions.json", ".lock"


class TrainingError(RuntimeError):
    """Training cannot go on; the last good checkpoint is kept."""


class RunFolder:
    """Reads and writes the files of one run; every file appears whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock: io.TextIOWrapper | None = None

    @property
    def has_checkpoint(self) -> bool:
        return (self.path / CHECKPOINT).exists()

    @property
    def kept(self) -> str:
        """What is left when training has to stop, as a sentence for an error message."""
        if self.has_checkpoint:
            return f"The last good checkpoint is {self.path / CHECKPOINT}."
        return "No checkpoint was saved yet."

    def claim(self) -> None:
        """Create the folder and lock it: two processes would overwrite each other's files."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise TrainingError(
                f"another process is training in {self.path}; stop it or name another --run"
            ) from error
        except OSError:  # a file system without locks: go on unprotected
            pass
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def describe(self, settings: dict[str, Any], facts: dict[str, Any]) -> None:
        """Write the resolved settings and the facts about versions and device."""
        write_atomically(self.path / CONFIG, yaml.safe_dump(_plain(settings), sort_keys=False))
        write_atomically(self.path / VERSIONS, json.dumps(facts, indent=2) + "\n")

    def save(self, state: dict[str, Any], model: SlotModel, metadata: dict[str, Any]) -> None:
        """Write model and checkpoint; TrainingError, keeping the former ones, if that fails."""
        try:
            save_model(model, self.path / MODEL, metadata)
            # Through memory: torch.save hides a full disk behind an internal error of its own.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_atomically(self.path / CHECKPOINT, buffer.getbuffer())
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"cannot write a checkpoint to {self.path}: {error}. {self.kept}"
            ) from error

    def keep(self, step: int, model: SlotModel, metadata: dict[str, Any]) -> None:
        """Write the model of a step, beside the others; TrainingError if that fails."""
        path = self.path / f"{Path(MODEL).stem}-{step}{Path(MODEL).suffix}"
        try:
            save_model(model, path, metadata)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot write {path}: {error}. {self.kept}") from error

    def load(self) -> dict[str, Any]:
        """The state in the checkpoint, on the CPU; TrainingError if it cannot be read."""
        path = self.path / CHECKPOINT
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or "settings" not in state:
                raise ValueError("it holds something else than a training state")
        # A damaged file surfaces as any of a dozen exceptions, depending on where the damage is.
        except Exception as error:
            raise TrainingError(
                f"{path} cannot be read as a checkpoint: {error}. Restore it from a copy, or "
                "delete it to start over"
            ) from error
        return state

    def append_metrics(self, line: dict[str, Any]) -> None:
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def last_metrics(self, kind: str) -> dict[str, float]:
        """The last line of a kind, "train" or "val", with its step; empty if there is none."""
        path = self.path / METRICS
        lines = (
            [line for line in read_metrics(path) if line["kind"] == kind] if path.exists() else []
        )
        return {key: value for key, value in lines[-1].items() if key != "kind"} if lines else {}

    def forget_metrics_after(self, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps are about to be repeated."""
        path = self.path / METRICS
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, without one that an interruption cut off."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def git_revision() -> str | None:
    """The revision of the code that runs, marked if it has been changed; None outside git."""
    folder = str(Path(__file__).parent)
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
