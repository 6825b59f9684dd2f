"""What every model shares: its interface, its output and its randomness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genesis_core.models.config import ModelConfig
from genesis_core.models.icsbp import Clusters
from genesis_core.models.losses import Losses

INFERENCE_SEED = 0


@dataclass
class GenesisOutput:
    """Everything one forward pass yields; B images, K slots, D latents.

    Attributes:
        num_slots: (B,) int64, slots each image uses (K for all where the number is fixed).
        clusters: IC-SBP's own output; None for samples and for models without IC-SBP.
        log_attention: (B, K, 1, H, W), the encoder's masks (see each model); None for samples.
        latent_mean, latent_std: (B, K, D), the posterior; None for samples.
        latents: (B, K, D), what was decoded.
        log_masks: (B, K, 1, H, W), the decoder's masks; None if not decoded.
        means: (B, K, C, H, W), component means in [0, 1] (Slot Attention's are not bounded);
            None if not decoded.
        reconstruction: (B, C, H, W), the mixture's mean; None if not decoded.

    Unused slots have masks of -inf (zero mass) and zero means.
    """

    num_slots: Tensor
    latents: Tensor
    clusters: Clusters | None = None
    log_attention: Tensor | None = None
    latent_mean: Tensor | None = None
    latent_std: Tensor | None = None
    log_masks: Tensor | None = None
    means: Tensor | None = None
    reconstruction: Tensor | None = None

    def __getitem__(self, images: slice) -> GenesisOutput:
        """The output for some of the images."""
        parts: dict[str, Any] = {k: v[images] for k, v in vars(self).items() if v is not None}
        return GenesisOutput(**parts)

    @property
    def used(self) -> Tensor:
        """(B, K) bool: which slots each image uses."""
        slots = torch.arange(self.latents.shape[1], device=self.latents.device)
        return slots < self.num_slots[:, None]


class SlotModel(nn.Module):
    """The interface of every model; ``metadata`` says how its weights came about.

    ``model(images, noise=, generator=, stop_threshold=, num_slots=, decode=)`` segments, encodes
    and reconstructs images: a ``GenesisOutput``. All but the images may be left out.

    A model of a fixed number of slots takes ``num_slots`` but no ``stop_threshold``. Randomness of
    a forward pass: ``noise`` where given, else ``generator``, else the global generator in training
    mode, else (evaluation mode) a fixed draw shared by all images, so that the same image always
    gives the same result, whatever batch it is in.

    Attributes:
        config_class: its config, whose ``model`` is the name it is registered under.
        flexible_slots: whether it can stop early (``stop_threshold``).
        generative: whether it can ``sample``.
        default_mask_source: which masks to segment with, "decoder" (``log_masks``) or "attention"
            (``log_attention``), where a checkpoint does not say which are better.
        latent_dim: D, the length of a slot's latent and of its noise.
    """

    config_class: ClassVar[type[ModelConfig]]
    flexible_slots: ClassVar[bool] = False
    generative: ClassVar[bool] = True
    default_mask_source: ClassVar[str] = "decoder"

    config: ModelConfig
    latent_dim: int

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.metadata: dict[str, Any] = {}

    def losses(self, images: Tensor, out: GenesisOutput) -> Losses:
        """Terms of the objective for a decoded forward pass of these images."""
        raise NotImplementedError

    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> GenesisOutput:
        """``n`` scenes from the prior; without a generator, from the global one."""
        raise NotImplementedError

    def inference_noise(self, batch: int, num_slots: int) -> Tensor:
        """The noise (B, K, D) to segment with: zero, which makes latents the posterior's mean."""
        device = next(self.parameters()).device
        return torch.zeros(batch, num_slots, self.latent_dim, device=device)

    def inference_randomness(self, batch: int, num_slots: int) -> dict[str, Tensor]:
        """All that a forward pass draws, by argument, to segment with: always the same."""
        return {"noise": self.inference_noise(batch, num_slots)}

    # For the models

    def _check_images(self, images: Tensor) -> None:
        size, channels = self.config.image_size, self.config.image_channels
        if images.ndim != 4 or images.shape[1:] != (channels, size, size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; expected (B, {channels}, {size}, {size})"
            )
        if not images.is_floating_point():
            raise ValueError(f"images are {images.dtype}; expected floating point in [0, 1]")

    def _fixed_slots(self, num_slots: int | None, stop_threshold: float | None) -> int:
        """K of a forward pass of a model whose number of slots is fixed."""
        if stop_threshold is not None:
            raise ValueError(
                f"stop_threshold is {stop_threshold}, but {self.config.model} uses a fixed number "
                "of slots; leave it out and choose num_slots"
            )
        slots = self.config.num_slots if num_slots is None else num_slots
        if slots < 2:
            raise ValueError(f"num_slots is {slots}; expected at least 2")
        return slots

    def _given_or_drawn(
        self, noise: Tensor | None, images: Tensor, slots: int, generator: torch.Generator | None
    ) -> Tensor:
        """The noise of a forward pass: (B, K, D) float32 on the images' device."""
        shape = (images.shape[0], slots, self.latent_dim)
        if noise is None:
            return self._draw(torch.randn, shape, images, generator)
        if noise.shape != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; expected {shape}")
        return noise.to(images.device, torch.float32)

    def _draw(
        self,
        sampler: Any,
        shape: tuple[int, ...],
        like: Tensor,
        generator: torch.Generator | None,
    ) -> Tensor:
        if generator is None and not self.training:
            return random(sampler, (1, *shape[1:]), like, inference_generator()).expand(shape)
        return random(sampler, shape, like, generator)

    def _prior_noise(
        self, n: int, num_slots: int | None, generator: torch.Generator | None
    ) -> Tensor:
        """Standard normal noise (n, K, D) for ``sample``."""
        slots = self.config.num_slots if num_slots is None else num_slots
        if n < 1 or slots < 1:
            raise ValueError(f"asked for {n} samples of {slots} slots; expected at least 1 of each")
        like = next(self.parameters())
        return random(torch.randn, (n, slots, self.latent_dim), like, generator)


def inference_generator() -> torch.Generator:
    """What inference draws from: always the same numbers, on every device."""
    return torch.Generator().manual_seed(INFERENCE_SEED)


def random(
    sampler: Any, shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """float32 numbers drawn where the generator lives, moved to where ``like`` is."""
    source = like.device if generator is None else generator.device
    return sampler(shape, generator=generator, device=source).to(like.device)
