"""Checkpoints: our own (safetensors, config in its metadata) and the reference's ``.ckpt``."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genesis_core.device import resolve_device
from genesis_core.files import atomic_path
from genesis_core.models import build_model, config_from_dict
from genesis_core.models.base import SlotModel
from genesis_core.models.config import ConfigError, ModelConfig
from genesis_core.models.genesis_v2 import GenesisV2Config
from genesis_core.reference import read_reference

FORMAT = "genesis_core/1"
_SHIPPED = Path(__file__).parent / "checkpoints"
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8,
           torch.int8, torch.int16, torch.int32, torch.int64}  # fmt: skip
"""What weights may be read of; complex numbers and floats of 8 bits cannot be."""
_CONFIG_KEY, _INFO_KEY, _FORMAT_KEY = "config", "info", "format"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not hold what it should."""


def default_checkpoint() -> Path:
    """The checkpoint that the node takes unless told otherwise; it ships with the package."""
    return _SHIPPED / "tabletop.safetensors"


def find_checkpoint(name: str) -> Path:
    """A checkpoint by its path, or by the name of one that ships with the package.

    Args:
        name: a path; or "tabletop" (the default's name), "tabletop_256" (the same for larger
            images), "tabletop_sketchy" (for scenes like Sketchy's), "tabletop_small" (half its
            width) or "tabletop_unsupervised"; or nothing, for the default.
    """
    if not name:
        return default_checkpoint()
    path, shipped = Path(name), _SHIPPED / f"{name}.safetensors"
    with suppress(RuntimeError):  # the machine knows no such ~user
        path = path.expanduser()
    return shipped if Path(name).name == name and not _is_file(path) and _is_file(shipped) else path


def _is_file(path: Path) -> bool:
    """Whether there is such a file. (Path.is_file raises OSError for a name that is too long.)"""
    return os.path.isfile(path)


def decoder_is_trained(trained: object) -> bool:
    """Whether a training run had decoder and latents in its objective, as far as is known.

    Args:
        trained: "trained" in a model's metadata, where our trainer says how it was trained, in a
            dict. Anything else says nothing.
    """
    return not (isinstance(trained, dict) and trained.get("masks_only", False))


def save_model(
    model: SlotModel,
    path: str | os.PathLike[str],
    metadata: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, config and metadata; by rename, so an interruption leaves no half file.

    Args:
        metadata: JSON-serialisable facts about the weights; ``mask_source`` ("decoder" or
            "attention") says which masks are the better ones; ``stop_threshold``, where a flexible
            number of slots stops. Default: ``model.metadata``.
        dtype: of the weights in the file; float16 halves it. They are read as float32.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    info = model.metadata if metadata is None else metadata
    header = {
        _FORMAT_KEY: FORMAT,
        _CONFIG_KEY: json.dumps(model.config.to_dict()),
        _INFO_KEY: json.dumps(info),
    }
    weights = {
        k: v.detach().to("cpu", dtype if v.is_floating_point() else v.dtype).contiguous()
        for k, v in model.state_dict().items()
    }
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    with atomic_path(path) as partial:
        save_file(weights, partial, metadata=header)
        partial.chmod(0o644)  # safetensors makes it readable for its owner only


def load_model(
    path: str | os.PathLike[str],
    *,
    num_slots: int | None = None,
    kernel: str | None = None,
    device: str | torch.device = "cpu",
) -> SlotModel:
    """A model in evaluation mode, from our checkpoint or a reference ``.ckpt``.

    The checkpoint decides which model: one of ``models.MODELS``, or, of the reference, GENESIS-V2,
    GENESIS or MONet-G, known by the names of their weights. Sizes and variants that the weights
    show are inferred. A reference checkpoint of GENESIS-V2 shows neither the number of slots nor
    the kernel: give them, else 7 (64 px and below) or 10 slots and the Gaussian kernel are
    assumed, with a warning.

    Args:
        num_slots: K, overriding the checkpoint's.
        kernel: IC-SBP's kernel, overriding the checkpoint's; GENESIS-V2 only.
        device: "cpu", "cuda", "cuda:n" or "auto".

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or holds something else.
        ConfigError: num_slots or kernel is not possible, or the model has no kernel.
        DeviceError: the device is absent.
    """
    path = Path(path)
    device = resolve_device(device)
    overrides: dict[str, Any] = {"num_slots": num_slots, "kernel": kernel}
    given = {key: value for key, value in overrides.items() if value is not None}
    GenesisV2Config.from_dict(given)  # a bad override is the caller's mistake, not the file's
    if not _is_file(path):
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        shipped = ", ".join(sorted(each.stem for each in _SHIPPED.glob("*.safetensors")))
        raise FileNotFoundError(
            f"checkpoint {path} does not exist or is not a file{where}. Models that ship, which "
            f"find_checkpoint finds by name: {shipped}"
        )
    if _is_torch_file(path):
        config, weights, info = _read_reference(path, given)
    else:
        config, weights, info = _read_own(path)
    if kernel is not None and not hasattr(config, "kernel"):
        raise ConfigError(
            f"kernel is {kernel!r}, but {path} holds a {config.model} model, which has no kernel; "
            "leave it out"
        )
    for name, value in weights.items():
        if value.dtype not in _DTYPES:
            raise CheckpointError(
                f"checkpoint {path} has {value.dtype} weights in {name}; expected real numbers of "
                "16, 32 or 64 bits, or integers"
            )
    config = replace(config, **given)
    try:
        with torch.device("cpu"):  # whatever devices and types others have set as the default
            model = build_model(config).float()
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit its config: {error}") from error
    damaged = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if damaged:
        raise CheckpointError(f"checkpoint {path} has NaN or infinite weights in {damaged[0]}")
    model.metadata = info
    return model.to(device).eval()


_Content = tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]


def _read_own(path: Path) -> _Content:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint {path} is neither a complete safetensors file nor a reference .ckpt: "
            f"{error}"
        ) from error
    if header.get(_FORMAT_KEY) != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {header.get(_FORMAT_KEY)!r}; expected {FORMAT!r}"
        )
    try:
        values = json.loads(header[_CONFIG_KEY])
        info = dict(json.loads(header.get(_INFO_KEY, "{}")))
        return config_from_dict(values), weights, info
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} has a broken config, or one of a newer genesis_ros: {error}"
        ) from error


# Reference checkpoints


def _is_torch_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    if head[8:] == b"{":  # safetensors: the header's length, which may begin with anything, then it
        return False
    # A zip archive (torch >= 1.6) or the older bare pickle stream.
    return head[:4] == b"PK\x03\x04" or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _read_reference(path: Path, given: Collection[str]) -> _Content:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise CheckpointError(
            f"reference checkpoint {path} is damaged, or holds Python objects other than tensors, "
            f"which are never unpickled ({type(error).__name__})"
        ) from error
    try:
        config, weights = read_reference(content, path, given)
    except (AttributeError, TypeError, IndexError, RuntimeError, ConfigError) as error:
        raise CheckpointError(
            f"{path} is not a GENESIS-V2, GENESIS or MONet checkpoint: {error}"
        ) from error
    return config, weights, {}
