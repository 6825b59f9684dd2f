"""Typed model configuration."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

KERNELS = ("gaussian", "laplacian", "epanechnikov")
GROUP_NORM_GROUPS = 8


class ConfigError(ValueError):
    """A configuration value is missing, unknown or out of range."""


@dataclass(frozen=True)
class GenesisV2Config:
    """Everything that decides the shape and the mathematics of a GENESIS-V2 model.

    Attributes:
        image_size: height and width of the input in pixels; a power of two from 32 to 256.
        num_slots: K, the largest number of slots IC-SBP may draw (at least 2).
        feature_dim: C, the backbone's width; a multiple of 8 (GroupNorm has 8 groups).
        latent_dim: D, size of a slot's latent.
        embedding_dim: channels of the pixel embedding that IC-SBP clusters (at least 2).
        kernel: distance kernel of IC-SBP: gaussian, laplacian or epanechnikov (Section 3.1).
        semi_conv: semi-convolutional embeddings (gated, plus coordinates) or plain ones.
        autoregressive_prior: LSTM prior over the slots, or N(0, 1) for each slot.
        mask_loss: whether ``losses`` computes the mask consistency term (Equation 7).
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
        image_channels: colour channels of the input and of the component means.
    """

    image_size: int = 64
    num_slots: int = 7
    feature_dim: int = 64
    latent_dim: int = 64
    embedding_dim: int = 8
    kernel: str = "gaussian"
    semi_conv: bool = True
    autoregressive_prior: bool = True
    mask_loss: bool = False
    pixel_std: float = 0.7
    image_channels: int = 3

    def __post_init__(self) -> None:
        size = self.image_size
        _check_int("image_size", size, 32)
        if size > 256 or size & (size - 1):
            raise ConfigError(f"image_size is {size}; expected a power of two from 32 to 256")
        for name, low in (
            ("num_slots", 2),
            ("latent_dim", 1),
            ("embedding_dim", 2),
            ("image_channels", 1),
        ):
            _check_int(name, getattr(self, name), low)
        _check_int("feature_dim", self.feature_dim, GROUP_NORM_GROUPS)
        if self.feature_dim % GROUP_NORM_GROUPS:
            raise ConfigError(
                f"feature_dim is {self.feature_dim}; expected a multiple of {GROUP_NORM_GROUPS}"
            )
        if self.kernel not in KERNELS:
            raise ConfigError(f"kernel is {self.kernel!r}; expected one of {', '.join(KERNELS)}")
        for name in ("semi_conv", "autoregressive_prior", "mask_loss"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected true or false")
        std = self.pixel_std
        if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 < std < math.inf:
            raise ConfigError(f"pixel_std is {std!r}; expected a positive number")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GenesisV2Config:
        """The config written by ``to_dict``; unknown keys raise ConfigError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown model settings: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _check_int(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {low}")
