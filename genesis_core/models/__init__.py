"""The models by name: a new one is a file of its own and an entry here."""

from __future__ import annotations

from typing import Any

from genesis_core.models.base import SlotModel
from genesis_core.models.config import ConfigError, ModelConfig
from genesis_core.models.genesis_v1 import GenesisV1
from genesis_core.models.genesis_v2 import GenesisV2
from genesis_core.models.monet import Monet
from genesis_core.models.slot_attention import SlotAttention

MODELS: dict[str, type[SlotModel]] = {
    model.config_class.model: model for model in (GenesisV2, GenesisV1, Monet, SlotAttention)
}


def config_from_dict(values: dict[str, Any]) -> ModelConfig:
    """The config of the model that ``values["model"]`` names (see ``ModelConfig.to_dict``).

    Raises:
        ConfigError: there is no such model, or a setting is unknown or out of range.
    """
    name = values.get("model")
    if not isinstance(name, str) or name not in MODELS:
        raise ConfigError(f"unknown model {name!r}; expected one of {', '.join(MODELS)}")
    return MODELS[name].config_class.from_dict(values)


def build_model(config: ModelConfig) -> SlotModel:
    """A new model, in training mode, with random weights."""
    return MODELS[config.model](config)
