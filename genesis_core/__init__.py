"""GENESIS-V2 and its tools, free of ROS. Source: arXiv 2104.09958."""

from genesis_core.checkpoint import CheckpointError, default_checkpoint, load_model, save_model
from genesis_core.config import ConfigError, GenesisV2Config
from genesis_core.device import DeviceError
from genesis_core.genesis_v2 import GenesisOutput, GenesisV2
from genesis_core.losses import Geco, Losses
from genesis_core.segmenter import Scene, Segmenter

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "Geco",
    "GenesisOutput",
    "GenesisV2",
    "GenesisV2Config",
    "Losses",
    "Scene",
    "Segmenter",
    "default_checkpoint",
    "load_model",
    "save_model",
]
