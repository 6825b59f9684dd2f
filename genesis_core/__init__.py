"""GENESIS-V2, the models it is compared with, and their tools, free of ROS.

Source: arXiv 2104.09958.

Names are loaded when they are first used: `genesis_core.tabletop` needs no PyTorch, and a process
that only renders should not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genesis_core.checkpoint import CheckpointError as CheckpointError
    from genesis_core.checkpoint import decoder_is_trained as decoder_is_trained
    from genesis_core.checkpoint import default_checkpoint as default_checkpoint
    from genesis_core.checkpoint import find_checkpoint as find_checkpoint
    from genesis_core.checkpoint import load_model as load_model
    from genesis_core.checkpoint import save_model as save_model
    from genesis_core.config import ConfigError as ConfigError
    from genesis_core.config import GenesisV1Config as GenesisV1Config
    from genesis_core.config import GenesisV2Config as GenesisV2Config
    from genesis_core.config import ModelConfig as ModelConfig
    from genesis_core.config import MonetConfig as MonetConfig
    from genesis_core.config import SlotAttentionConfig as SlotAttentionConfig
    from genesis_core.device import DeviceError as DeviceError
    from genesis_core.genesis_v1 import GenesisV1 as GenesisV1
    from genesis_core.genesis_v2 import GenesisV2 as GenesisV2
    from genesis_core.losses import Geco as Geco
    from genesis_core.losses import Losses as Losses
    from genesis_core.models import MODELS as MODELS
    from genesis_core.models import build_model as build_model
    from genesis_core.models import config_from_dict as config_from_dict
    from genesis_core.monet import Monet as Monet
    from genesis_core.segmenter import Scene as Scene
    from genesis_core.segmenter import Segmenter as Segmenter
    from genesis_core.slot_attention import SlotAttention as SlotAttention
    from genesis_core.slot_model import GenesisOutput as GenesisOutput
    from genesis_core.slot_model import SlotModel as SlotModel

__version__ = "0.1.0"

_MODULES = {
    "checkpoint": (
        "CheckpointError",
        "decoder_is_trained",
        "default_checkpoint",
        "find_checkpoint",
        "load_model",
        "save_model",
    ),
    "config": (
        "ConfigError",
        "GenesisV1Config",
        "GenesisV2Config",
        "ModelConfig",
        "MonetConfig",
        "SlotAttentionConfig",
    ),
    "device": ("DeviceError",),
    "genesis_v1": ("GenesisV1",),
    "genesis_v2": ("GenesisV2",),
    "losses": ("Geco", "Losses"),
    "models": ("MODELS", "build_model", "config_from_dict"),
    "monet": ("Monet",),
    "segmenter": ("Scene", "Segmenter"),
    "slot_attention": ("SlotAttention",),
    "slot_model": ("GenesisOutput", "SlotModel"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
