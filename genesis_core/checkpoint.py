"""Checkpoints: our own (safetensors, config in its metadata) and the reference's ``.ckpt``."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genesis_core.config import ConfigError, GenesisV2Config
from genesis_core.device import resolve_device
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

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    info = model.metadata if metadata is None else metadata
    header = {
        _FORMAT_KEY: FORMAT,
        _CONFIG_KEY: json.dumps({"model": "genesis_v2", **model.config.to_dict()}),
        _INFO_KEY: json.dumps(info),
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(weights, partial, metadata=header)
        partial.chmod(0o644)  # safetensors makes it readable for its owner only
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


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
        device: "cpu", "cuda", "cuda:n" or "auto".

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or holds something else.
        ConfigError: num_slots or kernel is not possible.
        DeviceError: the device is absent.
    """
    path = Path(path)
    device = resolve_device(device)
    overrides = {"num_slots": num_slots, "kernel": kernel}
    given = {key: value for key, value in overrides.items() if value is not None}
    GenesisV2Config.from_dict(given)  # a bad override is the caller's mistake, not the file's
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist or is not a file")
    read = _read_reference if _is_torch_file(path) else _read_own
    config, weights, info = read(path, given)
    try:
        model = GenesisV2(config)
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {path} does not fit its config: {error}") from error
    damaged = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if damaged:
        raise CheckpointError(f"checkpoint {path} has NaN or infinite weights in {damaged[0]}")
    model.metadata = info
    return model.to(device).eval()


_Content = tuple[GenesisV2Config, dict[str, Tensor], dict[str, Any]]


def _read_own(path: Path, overrides: dict[str, Any]) -> _Content:
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
        info = dict(json.loads(header.get(_INFO_KEY, "{}")))
        return GenesisV2Config.from_dict({**values, **overrides}), weights, info
    except CheckpointError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} has a broken config: {error}") from error


# Reference checkpoints


def _is_torch_file(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    # A zip archive (torch >= 1.6) or the older bare pickle stream.
    return head == b"PK\x03\x04" or head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04")


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


def _read_reference(path: Path, overrides: dict[str, Any]) -> _Content:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise CheckpointError(
            f"reference checkpoint {path} is damaged, or holds Python objects other than tensors, "
            f"which are never unpickled ({type(error).__name__})"
        ) from error
    try:
        state = content.get("model_state_dict", content)
        names = {key: _our_name(key) for key in state}
        weights = {ours: state[key] for key, ours in names.items() if ours is not None}
        config, assumed = _infer_config(weights, overrides)
    except (AttributeError, TypeError, IndexError, ConfigError) as error:
        raise CheckpointError(f"{path} is not a GENESIS-V2 checkpoint: {error}") from error
    if unknown := [key for key, ours in names.items() if ours is None]:
        logger.warning("ignored %d unknown entries of %s: %s", len(unknown), path, unknown)
    if assumed:
        logger.warning("%s does not state %s; pass them if they differ", path, assumed)
    return config, weights, {}


def _our_name(name: str) -> str | None:
    name = name.removeprefix("module.")  # left by data-parallel training
    for pattern, ours in _REFERENCE_NAMES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return None


def _infer_config(
    weights: dict[str, Tensor], overrides: dict[str, Any]
) -> tuple[GenesisV2Config, dict[str, Any]]:
    """The config that the weights show, and the part of it that they do not show."""

    def entry(name: str) -> Tensor:
        if name not in weights:
            raise ConfigError(f"it has no {name}")
        return weights[name]

    first_layer = re.compile(r"backbone\.down\.\d+\.0\.weight")
    image_size = 2 ** (1 + sum(first_layer.fullmatch(key) is not None for key in weights))
    assumed: dict[str, Any] = {"num_slots": 7 if image_size <= 64 else 10, "kernel": "gaussian"}
    assumed = {key: value for key, value in assumed.items() if key not in overrides}
    config = GenesisV2Config(
        image_size=image_size,
        feature_dim=entry("feature_head.0.0.weight").shape[0],
        latent_dim=entry("latent_head.3.weight").shape[0] // 2,
        embedding_dim=entry("embedding.conv.weight").shape[0],
        semi_conv="embedding.gate" in weights,
        autoregressive_prior="prior.linear.weight" in weights,
        # The weights do not show it either; where it was off, its value is merely not of interest.
        mask_loss=True,
        image_channels=entry("backbone.down.0.0.weight").shape[1],
        **assumed,
        **overrides,
    )
    return config, assumed
