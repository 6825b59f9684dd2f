"""GENESIS-V2, the models it is compared with, and their tools, free of ROS.

Source: arXiv 2104.09958.
"""

from genesis_core.checkpoint import (
    CheckpointError,
    decoder_is_trained,
    default_checkpoint,
    find_checkpoint,
    load_model,
    save_model,
)
from genesis_core.device import DeviceError
from genesis_core.models import build_model, config_from_dict
from genesis_core.models.base import MODELS, SlotModel, SlotOutput
from genesis_core.models.config import ConfigError, GenerativeConfig, ModelConfig
from genesis_core.models.genesis_v1 import GenesisV1, GenesisV1Config
from genesis_core.models.genesis_v2 import GenesisV2, GenesisV2Config
from genesis_core.models.losses import Geco, Losses
from genesis_core.models.monet import Monet, MonetConfig
from genesis_core.models.slot_attention import SlotAttention, SlotAttentionConfig
from genesis_core.perception.scene import Region
from genesis_core.pipeline import DepthImage, Perceived, Perception, PerceptionSettings, View
from genesis_core.segmenter import Scene, Segmenter

__version__ = "0.2.0"

__all__ = [
    "MODELS",
    "CheckpointError",
    "ConfigError",
    "DepthImage",
    "DeviceError",
    "Geco",
    "GenerativeConfig",
    "GenesisV1",
    "GenesisV1Config",
    "GenesisV2",
    "GenesisV2Config",
    "Losses",
    "ModelConfig",
    "Monet",
    "MonetConfig",
    "Perceived",
    "Perception",
    "PerceptionSettings",
    "Region",
    "Scene",
    "Segmenter",
    "SlotAttention",
    "SlotAttentionConfig",
    "SlotModel",
    "SlotOutput",
    "View",
    "build_model",
    "config_from_dict",
    "decoder_is_trained",
    "default_checkpoint",
    "find_checkpoint",
    "load_model",
    "save_model",
]
