"""Checkpoints: our own (safetensors, config in its metadata) and the reference's ``.ckpt``."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genesis_core.config import ConfigError, GenesisV2Config
from genesis_core.genesis_v2 import GenesisV2

logger = logging.getLogger(__name__)

FORMAT = "genesis_core/1"
_CONFIG_KEY, _INFO_KEY, _FORMAT_KEY = "config", "info", "format"


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not hold what it should."""


def default_checkpoint() -> Path:
    """The checkpoint that ships with the package."""
    return Path(__file__).parent / "checkpoints" / "tabletop.safetensors"


def save_model(
    model: GenesisV2, path: str | os.PathLike[str], metadata: dict[str, Any] | None = None
) -> None:
    """Write weights, config and metadata; by rename, so an interruption leaves no half file.

    Args:
        metadata: JSON-serialisable facts about the weights; ``mask_source`` ("decoder" or
            "attention") says which masks are the better ones. Default: ``model.metadata``.
    """
    info = model.metadata if metadata is None else metadata
    header = {
        _FORMAT_KEY: FORMAT,
        _CONFIG_KEY: json.dumps({"model": "genesis_v2", **model.config.to_dict()}),
        _INFO_KEY: json.dumps(info),
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    save_file(weights, partial, metadata=header)
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    os.replace(partial, path)


def load_model(
    path: str | os.PathLike[str],
    *,
    num_slots: int | None = None,
    kernel: str | None = None,
    device: str | torch.device = "cpu",
) -> GenesisV2:
    """A model in evaluation mode, from our checkpoint or a reference ``.ckpt``.

    Sizes and variants that the weights show are inferred. A reference checkpoint shows neither
    the number of slots nor the kernel: give them, else 7 (64 px and below) or 10 slots and the
    Gaussian kernel are assumed, with a warning.

    Args:
        num_slots: K, overriding the checkpoint's.
        kernel: IC-SBP's kernel, overriding the checkpoint's.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    if _is_torch_file(path):
        config, weights = _read_reference(path, num_slots, kernel)
        info: dict[str, Any] = {}
    else:
        config, weights, info = _read_own(path)
        overrides = {"num_slots": num_slots, "kernel": kernel}
        given = {key: value for key, value in overrides.items() if value is not None}
        config = GenesisV2Config.from_dict({**config.to_dict(), **given})
    model = GenesisV2(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit its config: {error}") from error
    damaged = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if damaged:
        raise CheckpointError(f"checkpoint {path} has NaN or infinite weights in {damaged[0]}")
    model.metadata = info
    return model.to(device).eval()


def _read_own(path: Path) -> tuple[GenesisV2Config, dict[str, Tensor], dict[str, Any]]:
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
        name = values.pop("model")
        if name != "genesis_v2":
            raise CheckpointError(f"checkpoint {path} holds the unknown model {name!r}")
        return GenesisV2Config.from_dict(values), weights, json.loads(header.get(_INFO_KEY, "{}"))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, ConfigError) as error:
        raise CheckpointError(f"checkpoint {path} has a broken config: {error}") from error


# Reference checkpoints


def _is_torch_file(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    # A zip archive (torch >= 1.6) or the older bare pickle stream.
    return head == b"PK\x03\x04" or head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"


_REFERENCE_NAMES = (
    (r"encoder\.(down|up)\.(\d+)\.(\d)\.(.*)", r"backbone.\1.\2.\3.\4"),
    (r"encoder\.mlp\.(.*)", r"backbone.mlp.\1"),
    (r"seg_head\.(.*)", r"embedding.block.\1"),
    (r"att_process\.log_sigma", r"icsbp.log_scale"),
    (r"att_process\.colour_head\.gate\.gate", r"embedding.gate"),
    (r"att_process\.colour_head\.(?:conv\.)?(weight|bias)", r"embedding.conv.\1"),
    (r"feat_head\.(.*)", r"feature_head.\1"),
    (r"z_head\.(.*)", r"latent_head.\1"),
    (r"decoder_module\.(.*)", r"decoder.\1"),
    (r"prior_lstm\.(.*)", r"prior.lstm.\1"),
    (r"prior_linear\.(.*)", r"prior.linear.\1"),
)


def _read_reference(
    path: Path, num_slots: int | None, kernel: str | None
) -> tuple[GenesisV2Config, dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = content.get("model_state_dict", content)
        renamed = {_our_name(key): value for key, value in state.items()}
    except (RuntimeError, EOFError, ValueError, AttributeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"reference checkpoint {path} cannot be read: {error}") from error
    weights = {key: value for key, value in renamed.items() if key is not None}
    unknown = [key for key, ours in zip(state, renamed, strict=False) if ours is None]
    if unknown:
        logger.warning("ignored %d unknown entries of %s: %s", len(unknown), path, unknown)
    try:
        config = _infer_config(weights, num_slots, kernel, path)
    except (KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is not a GENESIS-V2 checkpoint: it lacks the expected entry {error}"
        ) from error
    return config, weights


def _our_name(name: str) -> str | None:
    name = name.removeprefix("module.")  # left by data-parallel training
    for pattern, ours in _REFERENCE_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return None


def _infer_config(
    weights: dict[str, Tensor], num_slots: int | None, kernel: str | None, path: Path
) -> GenesisV2Config:
    levels = sum(re.fullmatch(r"backbone\.down\.\d+\.0\.weight", key) is not None for key in weights)
    image_size = 2 ** (levels + 1)
    assumed = {}
    if num_slots is None:
        num_slots = assumed["num_slots"] = 7 if image_size <= 64 else 10
    if kernel is None:
        kernel = assumed["kernel"] = "gaussian"
    if assumed:
        logger.warning("%s does not state %s; pass them if they differ", path, assumed)
    return GenesisV2Config(
        image_size=image_size,
        num_slots=num_slots,
        feature_dim=weights["feature_head.0.0.weight"].shape[0],
        latent_dim=weights["latent_head.3.weight"].shape[0] // 2,
        embedding_dim=weights["embedding.conv.weight"].shape[0],
        kernel=kernel,
        semi_conv="embedding.gate" in weights,
        autoregressive_prior="prior.linear.weight" in weights,
        image_channels=weights["backbone.down.0.0.weight"].shape[1],
    )
