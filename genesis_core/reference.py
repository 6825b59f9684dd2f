"""Checkpoints of the GENESIS authors' implementation: GENESIS-V2, GENESIS and MONet-G."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genesis_core.models.config import ConfigError, ModelConfig
from genesis_core.models.genesis_v1 import GenesisV1Config
from genesis_core.models.genesis_v2 import GenesisV2Config
from genesis_core.models.monet import MonetConfig

logger = logging.getLogger(__name__)

# Patterns of the reference's names, and ours. "#0" and "#1" mark halves of one tensor of ours.
_Names = tuple[tuple[str, str], ...]

_GENESIS_V2_NAMES: _Names = (
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
_COMPONENT_VAE_NAMES: _Names = (
    (r"comp_vae\.encoder_module\.module\.(.*)", r"component_vae.encoder.\1"),
    (r"comp_vae\.decoder_module\.seq\.(.*)", r"component_vae.decoder.\1"),
    (r"std", r"std"),  # of the likelihood, slot by slot: no weight, but part of the config
)
_GENESIS_V1_NAMES: _Names = (
    *_COMPONENT_VAE_NAMES,
    (r"att_process\.core\.q_z_nn\.(\d+)\.conv\.(.*)", r"mask_encoder.\1.0.\2"),
    (r"att_process\.core\.q_z_nn\.(\d+)\.h_norm\.(.*)", r"mask_encoder.\1.1.\2#0"),
    (r"att_process\.core\.q_z_nn\.(\d+)\.g_norm\.(.*)", r"mask_encoder.\1.1.\2#1"),
    (r"att_process\.core\.q_z_mean\.(.*)", r"first_head.\1#0"),
    (r"att_process\.core\.q_z_var\.0\.(.*)", r"first_head.\1#1"),
    (r"att_process\.lstm\.(.*)", r"lstm.\1"),
    (r"att_process\.linear\.(.*)", r"later_head.\1"),
    # Our decoder begins with a layer that has no weights.
    *(
        (rf"att_process\.core\.p_x_nn\.{i}\.{theirs}\.(.*)", rf"mask_decoder.{i + 1}.{ours}")
        for i in range(6)
        for theirs, ours in (("conv", r"0.\1"), ("h_norm", r"1.\1#0"), ("g_norm", r"1.\1#1"))
    ),
    (r"att_process\.core\.p_x_mean\.(.*)", r"mask_decoder.7.\1"),
    (r"prior_lstm\.(.*)", r"mask_prior.lstm.\1"),
    (r"prior_linear\.(.*)", r"mask_prior.linear.\1"),
    (r"prior_mlp\.(.*)", r"component_prior.\1"),
)
_MONET_NAMES: _Names = (
    *_COMPONENT_VAE_NAMES,
    (r"att_process\.core\.final_conv\.(.*)", r"attention.head.\1"),
    (r"att_process\.core\.(.*)", r"attention.unet.\1"),
)

_WRAPPERS = ("model_state_dict", "state_dict", "model")
_DEEPEST = 3  # of them within each other
# Left by data-parallel training and by Lightning; torch.compile's may be anywhere in a name.
_PREFIXES = ("module.", "model.")
_COMPILED = "_orig_mod."

_Weights = dict[str, Tensor]
_Inferred = tuple[ModelConfig, dict[str, Any]]


def read_reference(
    content: object, path: Path, given: Collection[str]
) -> tuple[ModelConfig, _Weights]:
    """Config and weights from what a reference ``.ckpt`` holds.

    Args:
        content: the unpickled file.
        path: the file, for messages.
        given: names of settings that the caller knows: nothing has to be assumed about them.

    Raises:
        ConfigError, AttributeError, TypeError, IndexError: it holds something else.
    """
    plain = _plain(_state(content))
    kind = _kind(plain)
    names = {name: _our_name(name, kind.names) for name in plain}
    weights = _joined({ours: plain[name] for name, ours in names.items() if ours is not None})
    config, assumed = kind.infer(weights)
    assumed = {name: value for name, value in assumed.items() if name not in given}
    if unknown := [name for name, ours in names.items() if ours is None]:
        logger.warning("ignored %d unknown entries of %s: %s", len(unknown), path, unknown)
    if assumed:
        logger.warning("%s does not state %s; pass them if they differ", path, assumed)
    return config, weights


def _state(content: Any) -> _Weights:
    """The weights, which trainers keep under one of these names, beside an optimiser's and more."""
    for _ in range(_DEEPEST):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None
        )
        if inner is None:
            break
        content = inner
    state: _Weights = {name: value for name, value in content.items() if isinstance(name, str)}
    return state


def _plain(state: _Weights) -> _Weights:
    """Without what wraps of the model put before, or into, the names of its weights."""
    plain: _Weights = {}
    for name, value in state.items():
        short = name.replace(_COMPILED, "")
        while (rest := short.partition(".")[2]) and short.startswith(_PREFIXES):
            short = rest
        if short in plain:
            raise ConfigError(f"it has {short!r} more than once, with and without a prefix")
        plain[short] = value
    return plain


@dataclass(frozen=True)
class _Kind:
    """A reference model: an entry that only it has, its names, and what its weights show."""

    mark: str
    names: _Names
    infer: Callable[[_Weights], _Inferred]


def _kind(state: _Weights) -> _Kind:
    for kind in _KINDS:
        if any(name.startswith(kind.mark) for name in state):
            return kind
    for name in state:
        for kind in _KINDS:
            if (place := name.find("." + kind.mark)) > 0:
                raise ConfigError(
                    f"its entries begin with {name[: place + 1]!r} (as in {name!r}); save the "
                    "state_dict of the model itself, or take that off the names"
                )
    marks = ", ".join(kind.mark for kind in _KINDS)
    raise ConfigError(f"it has no entry that begins with one of {marks}")


def _our_name(name: str, names: _Names) -> str | None:
    for pattern, ours in names:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return None


def _joined(parts: _Weights) -> _Weights:
    """Weights by our names, with the halves of a tensor put together."""
    weights = {name: value for name, value in parts.items() if "#" not in name}
    for name in [name.removesuffix("#0") for name in parts if name.endswith("#0")]:
        halves = [parts[half] for half in (name + "#0", name + "#1") if half in parts]
        # What has no dimensions counts batches, the same for both halves.
        weights[name] = torch.cat(halves) if halves[0].ndim else halves[0]
    return weights


def _entry(weights: _Weights, name: str) -> Tensor:
    if name not in weights:
        raise ConfigError(f"it has no {name}")
    return weights[name]


def _infer_genesis_v2(weights: _Weights) -> _Inferred:
    """The config that the weights show, and the part of it that they do not show."""
    first_layer = re.compile(r"backbone\.down\.\d+\.0\.weight")
    image_size = 2 ** (1 + sum(first_layer.fullmatch(key) is not None for key in weights))
    assumed: dict[str, Any] = {"num_slots": 7 if image_size <= 64 else 10, "kernel": "gaussian"}
    config = GenesisV2Config(
        image_size=image_size,
        feature_dim=_entry(weights, "feature_head.0.0.weight").shape[0],
        latent_dim=_entry(weights, "latent_head.3.weight").shape[0] // 2,
        embedding_dim=_entry(weights, "embedding.conv.weight").shape[0],
        semi_conv="embedding.gate" in weights,
        autoregressive_prior="prior.linear.weight" in weights,
        image_channels=_entry(weights, "backbone.down.0.0.weight").shape[1],
        **assumed,
    )
    return config, assumed


def _infer_genesis_v1(weights: _Weights) -> _Inferred:
    shared, assumed = _infer_shared(weights)
    config = GenesisV1Config(
        mask_latent_dim=_entry(weights, "later_head.weight").shape[0] // 2,
        component_latent_dim=_component_latent_dim(weights),
        mask_width=_entry(weights, "mask_encoder.0.0.weight").shape[0] // 2,
        **shared,
    )
    return config, assumed


def _infer_monet(weights: _Weights) -> _Inferred:
    shared, assumed = _infer_shared(weights)
    config = MonetConfig(
        latent_dim=_component_latent_dim(weights),
        attention_width=_entry(weights, "attention.head.weight").shape[1],
        **shared,
    )
    return config, assumed


def _component_latent_dim(weights: _Weights) -> int:
    return _entry(weights, "component_vae.encoder.11.weight").shape[0] // 2


def _infer_shared(weights: _Weights) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that the component VAE and ``std`` show, and those assumed; removes ``std``."""
    channels = _entry(weights, "component_vae.encoder.6.weight").shape[0]
    flat = _entry(weights, "component_vae.encoder.9.weight").shape[1]
    image_size = 16 * math.isqrt(flat // max(channels, 1))
    settings: dict[str, Any] = {
        "image_size": image_size,
        "image_channels": _entry(weights, "component_vae.encoder.0.weight").shape[1] - 1,
        "component_width": _entry(weights, "component_vae.decoder.1.weight").shape[0],
    }
    assumed: dict[str, Any] = {}
    if (stds := weights.pop("std", None)) is not None and stds.numel():
        # The first slot's may differ; ours has one for all, and only the likelihood depends on it.
        settings["pixel_std"] = round(float(stds.flatten()[-1]), 6)
        settings["num_slots"] = stds.numel()
        if not (stds == stds.flatten()[-1]).all():
            logger.warning(
                "the likelihood's deviations %s differ between slots; %s is used for all",
                stds.flatten().tolist(),
                settings["pixel_std"],
            )
    else:
        assumed["num_slots"] = 7 if image_size <= 64 else 10
    return {**settings, **assumed}, assumed


_KINDS = (
    _Kind("feat_head.", _GENESIS_V2_NAMES, _infer_genesis_v2),
    _Kind("att_process.core.q_z_nn.", _GENESIS_V1_NAMES, _infer_genesis_v1),
    _Kind("att_process.core.down.", _MONET_NAMES, _infer_monet),
)
