"""What the typed configurations of the models share."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

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

    @property
    def mask_size(self) -> int:
        """Height and width of the attention masks, in pixels."""
        return self.image_size

    @property
    def decoded_size(self) -> int:
        """Height and width of the decoder's masks and means, in pixels."""
        return self.image_size

    @property
    def takes_points(self) -> bool:
        """Whether the model can use what a depth camera measured."""
        return False

    @property
    def tells_kinds(self) -> bool:
        """Whether the model says of each slot what it is."""
        return False

    def _check(self, largest_size: int, **lowest: int) -> None:
        """Raise ConfigError unless the common settings, and these whole numbers, are possible.

        Args:
            largest_size: the largest image the model is made for.
            lowest: the smallest value of each of the model's own sizes.
        """
        if self.model != type(self).model:
            raise ConfigError(f"model is {self.model!r}; expected {type(self).model!r}")
        self._check_image_size(largest_size)
        for name, low in {"num_slots": 2, "image_channels": 1, **lowest}.items():
            _check_int(name, getattr(self, name), low)

    def _check_image_size(self, largest: int) -> None:
        size = self.image_size
        _check_int("image_size", size, 32)
        if size > largest or size & (size - 1):
            raise ConfigError(f"image_size is {size}; expected a power of two from 32 to {largest}")


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


def _check_int(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{name} is {value!r}; expected a whole number of at least {low}")
