"""Typed configuration of each model."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

KERNELS = ("gaussian", "laplacian", "epanechnikov")
NORMALISATIONS = ("stick_breaking", "softmax")
GROUP_NORM_GROUPS = 8


_Config = TypeVar("_Config", bound="ModelConfig")


class ConfigError(ValueError):
    """A configuration value is missing, unknown or out of range."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the settings of every model share; ``model`` is the name of the one they describe.

    Attributes:
        image_size: height and width of the input in pixels.
        num_slots: K (at least 2).
        image_channels: channels of the input and of the component means: 3 for RGB, 4 for RGB-D.
        model: the model's name; a subclass has just one.
    """

    image_size: int = 64
    num_slots: int = 7
    image_channels: int = 3
    model: str = ""

    @classmethod
    def from_dict(cls: type[_Config], values: dict[str, Any]) -> _Config:
        """The config written by ``to_dict``; unknown keys raise ConfigError."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown model settings: {', '.join(unknown)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def _check(self, largest_size: int, **lowest: int) -> None:
        """Raise ConfigError unless the common settings, and these whole numbers, are possible.

        Args:
            largest_size: the largest image the model is made for.
            lowest: the smallest value of each of the model's own sizes.
        """
        if self.model != type(self).model:
            raise ConfigError(f"model is {self.model!r}; expected {type(self).model!r}")
        size = self.image_size
        _check_int("image_size", size, 32)
        if size > largest_size or size & (size - 1):
            raise ConfigError(
                f"image_size is {size}; expected a power of two from 32 to {largest_size}"
            )
        for name, low in {"num_slots": 2, "image_channels": 1, **lowest}.items():
            _check_int(name, getattr(self, name), low)


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig(ModelConfig):
    """What the settings of the models with a likelihood, the SGMM, share.

    Attributes:
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
    """

    pixel_std: float = 0.7

    def _check(self, largest_size: int, **lowest: int) -> None:
        super()._check(largest_size, **lowest)
        std = self.pixel_std
        if isinstance(std, bool) or not isinstance(std, (int, float)) or not 0 < std < math.inf:
            raise ConfigError(f"pixel_std is {std!r}; expected a positive number")


@dataclass(frozen=True)
class GenesisV2Config(GenerativeConfig):
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
        mask_normalisation: how IC-SBP's masks come to sum to one: "stick_breaking" (Algorithm 1),
            or "softmax" over the kernels of all seeds (the paper's future work, Section 3.1).
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
        image_channels: channels of the input and of the component means.
        model: the model's name.
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
    mask_normalisation: str = "stick_breaking"
    pixel_std: float = 0.7
    image_channels: int = 3
    model: Literal["genesis_v2"] = "genesis_v2"

    def __post_init__(self) -> None:
        self._check(256, latent_dim=1, embedding_dim=2, feature_dim=GROUP_NORM_GROUPS)
        if self.feature_dim % GROUP_NORM_GROUPS:
            raise ConfigError(
                f"feature_dim is {self.feature_dim}; expected a multiple of {GROUP_NORM_GROUPS}"
            )
        for name, known in (("kernel", KERNELS), ("mask_normalisation", NORMALISATIONS)):
            if (value := getattr(self, name)) not in known:
                raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        for name in ("semi_conv", "autoregressive_prior", "mask_loss"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected true or false")


@dataclass(frozen=True, kw_only=True)
class GenesisV1Config(GenerativeConfig):
    """Everything that decides the shape and the mathematics of a GENESIS model.

    Attributes:
        image_size: height and width of the input in pixels: 32, 64 or 128.
        num_slots: K, the number of slots (at least 2).
        mask_latent_dim: size of the latent that a slot's mask is decoded from.
        component_latent_dim: size of the latent that a slot's appearance is decoded from.
        mask_width: channels of the mask autoencoder's outer layers; the inner ones have twice it.
        component_width: channels of the component VAE's decoder and outer encoder layers.
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
        image_channels: channels of the input and of the component means.
        model: the model's name.
    """

    mask_latent_dim: int = 64
    component_latent_dim: int = 16
    mask_width: int = 32
    component_width: int = 32
    model: Literal["genesis_v1"] = "genesis_v1"

    def __post_init__(self) -> None:
        self._check(
            128,
            mask_latent_dim=1,
            component_latent_dim=1,
            mask_width=1,
            component_width=1,
        )


@dataclass(frozen=True, kw_only=True)
class MonetConfig(GenerativeConfig):
    """Everything that decides the shape and the mathematics of a MONet-G model.

    Attributes:
        image_size: height and width of the input in pixels: 32, 64, 128 or 256.
        num_slots: K, the number of slots (at least 2).
        latent_dim: size of a slot's latent.
        attention_width: channels of the attention UNet's outer layers.
        component_width: channels of the component VAE's decoder and outer encoder layers.
        pixel_std: sigma_x, the fixed standard deviation of the SGMM likelihood.
        image_channels: channels of the input and of the component means.
        model: the model's name.
    """

    latent_dim: int = 16
    attention_width: int = 32
    component_width: int = 32
    model: Literal["monet"] = "monet"

    def __post_init__(self) -> None:
        self._check(256, latent_dim=1, attention_width=1, component_width=1)


@dataclass(frozen=True, kw_only=True)
class SlotAttentionConfig(ModelConfig):
    """Everything that decides the shape and the mathematics of a Slot Attention model.

    Attributes:
        image_size: height and width of the input in pixels: 32, 64, 128 or 256.
        num_slots: K, the number of slots (at least 2).
        latent_dim: size of a slot.
        feature_dim: channels of the encoder and of the decoder.
        hidden_dim: width of the MLP that follows each attention step.
        iterations: attention steps.
        image_channels: channels of the input and of the component means.
        model: the model's name.
    """

    latent_dim: int = 64
    feature_dim: int = 64
    hidden_dim: int = 128
    iterations: int = 3
    model: Literal["slot_attention"] = "slot_attention"

    def __post_init__(self) -> None:
        self._check(256, latent_dim=1, feature_dim=1, hidden_dim=1, iterations=1)


def _check_int(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {low}")
