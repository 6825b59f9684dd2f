"""The models, each a file of its own; importing it enters it into ``MODELS``."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from genesis_core.models.base import MODELS, SlotModel
from genesis_core.models.config import ConfigError, ModelConfig

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")


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
