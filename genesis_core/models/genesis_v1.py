"""GENESIS (Engelcke, Kosiorek, Parker Jones, Posner 2020): masks and components have latents.

Source: arXiv 1907.13052; sizes as in the GENESIS-V2 paper's baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.models.base import SlotModel, SlotOutput
from genesis_core.models.component_vae import ComponentVAE
from genesis_core.models.config import GenerativeConfig
from genesis_core.models.latents import (
    AutoregressivePrior,
    monte_carlo_kl,
    posterior_moments,
    prior_moments,
)
from genesis_core.models.layers import UpConv
from genesis_core.models.losses import Losses, sgmm_nll

MASK_FEATURES = 256
LSTM_FEATURES = 128
PRIOR_FEATURES = 256


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


def encoder_strides(image_size: int) -> tuple[int, ...]:
    """Strides of the mask encoder's convolutions; the mask decoder has them in reverse."""
    return (2, 2, 2, 1, 1) if image_size == 128 else (1, 2, 1, 2, 1)


class Gated(nn.Sequential):
    """A convolution to twice the channels, batch normalisation, h * sigmoid(g) of its two halves.

    Batch normalisation works channel by channel, so one layer normalises both halves.
    """

    def __init__(self, conv: nn.Module, channels: int, normalised: bool = True) -> None:
        norm = nn.BatchNorm2d(2 * channels) if normalised else nn.Identity()
        super().__init__(conv, norm, nn.GLU(dim=1))


class MaskEncoder(nn.Sequential):
    """(B, C, S, S) -> (B, 256): five gated 5x5 convolutions, then one over all that is left."""

    def __init__(self, config: GenesisV1Config) -> None:
        strides = encoder_strides(config.image_size)
        width, wide = config.mask_width, 2 * config.mask_width
        channels = (config.image_channels, width, width, wide, wide, wide)
        layers = [
            Gated(nn.Conv2d(i, 2 * o, 5, stride=stride, padding=2), o)
            for i, o, stride in zip(channels, channels[1:], strides, strict=False)
        ]
        left = side_left(config.image_size)
        whole = Gated(nn.Conv2d(wide, 2 * MASK_FEATURES, left), MASK_FEATURES, normalised=False)
        super().__init__(*layers, whole, nn.Flatten())


class MaskDecoder(nn.Sequential):
    """(N, D) -> (N, 1, S, S) logits: the mask encoder in reverse."""

    def __init__(self, config: GenesisV1Config) -> None:
        dim, left = config.mask_latent_dim, side_left(config.image_size)
        width, wide = config.mask_width, 2 * config.mask_width
        channels = (wide, wide, width, width, width, width)
        whole = Gated(nn.ConvTranspose2d(dim, 2 * wide, left), wide, normalised=False)
        layers = [
            Gated(
                UpConv(i, 2 * o) if stride == 2 else nn.ConvTranspose2d(i, 2 * o, 5, padding=2), o
            )
            for i, o, stride in zip(
                channels, channels[1:], encoder_strides(config.image_size)[::-1], strict=False
            )
        ]
        super().__init__(nn.Unflatten(1, (dim, 1, 1)), whole, *layers, nn.Conv2d(width, 1, 1))


def side_left(image_size: int) -> int:
    """Height and width of what the mask encoder's strided convolutions leave."""
    return image_size // 8 if image_size == 128 else image_size // 4


def stick_breaking(logits: Tensor) -> Tensor:
    """Log masks (B, K, ...) from logits (B, K-1, ...): each takes a share of what is left.

    The last mask is the scope that remains, so the masks sum to one.
    """
    scopes = F.logsigmoid(-logits).cumsum(dim=1)  # what is left after each step
    whole = torch.zeros_like(logits[:, :1])
    log_masks = F.logsigmoid(logits) + torch.cat([whole, scopes[:, :-1]], dim=1)
    return torch.cat([log_masks, scopes[:, -1:]], dim=1)


class GenesisV1(SlotModel):
    """The model.

    A slot's latent is its mask latent followed by its component latent: D is the sum of both
    sizes. There is one set of masks, decoded from the mask latents; ``log_attention`` and
    ``log_masks`` are the same (``decode=False`` leaves out the components, not the masks).
    """

    config_class = GenesisV1Config
    default_mask_source = "attention"  # the same masks, without the cost of the components
    config: GenesisV1Config

    def __init__(self, config: GenesisV1Config) -> None:
        super().__init__(config)
        self.latent_dim = config.mask_latent_dim + config.component_latent_dim
        dim = config.mask_latent_dim
        self.mask_encoder = MaskEncoder(config)
        self.first_head = nn.Linear(MASK_FEATURES, 2 * dim)
        self.lstm = nn.LSTM(MASK_FEATURES + dim, LSTM_FEATURES, batch_first=True)
        self.later_head = nn.Linear(LSTM_FEATURES, 2 * dim)
        self.mask_decoder = MaskDecoder(config)
        self.component_vae = ComponentVAE(
            image_size=config.image_size,
            image_channels=config.image_channels,
            latent_dim=config.component_latent_dim,
            width=config.component_width,
            out_channels=config.image_channels,
            activation=nn.ELU,
        )
        self.mask_prior = AutoregressivePrior(dim)
        self.component_prior = nn.Sequential(
            nn.Linear(dim, PRIOR_FEATURES),
            nn.ELU(),
            nn.Linear(PRIOR_FEATURES, PRIOR_FEATURES),
            nn.ELU(),
            nn.Linear(PRIOR_FEATURES, 2 * config.component_latent_dim),
        )

    def infer_mask_latents(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean, standard deviation and draw of the mask latents, slot after slot.

        Args:
            images: (B, C, H, W).
            noise: (B, K, mask_latent_dim).

        Returns: three tensors shaped like the noise.
        """
        features = self.mask_encoder(images).float()
        means: list[Tensor] = []
        stds: list[Tensor] = []
        latents: list[Tensor] = []
        state: tuple[Tensor, Tensor] | None = None
        # Always in float32: see AutoregressivePrior.
        with torch.autocast(images.device.type, enabled=False):
            mean, std = posterior_moments(self.first_head(features))
            for step in range(noise.shape[1]):
                if step > 0:
                    inputs = torch.cat([features, latents[-1]], dim=1)
                    hidden, state = self.lstm(inputs[:, None], state)
                    mean, std = posterior_moments(self.later_head(hidden[:, 0]))
                means.append(mean)
                stds.append(std)
                latents.append(mean + std * noise[:, step])
        return torch.stack(means, dim=1), torch.stack(stds, dim=1), torch.stack(latents, dim=1)

    def decode_masks(self, mask_latents: Tensor) -> Tensor:
        """Log masks (B, K, 1, H, W) from mask latents (B, K, mask_latent_dim)."""
        # The last slot takes the rest, whatever its latent: there is nothing to decode.
        earlier = mask_latents[:, :-1]
        if earlier.shape[1] == 0:
            size = self.config.image_size
            return mask_latents.new_zeros(len(mask_latents), 1, 1, size, size)
        logits = self.mask_decoder(earlier.flatten(0, 1)).float()
        return stick_breaking(logits.unflatten(0, earlier.shape[:2]))

    def prior(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, K, D): of each mask latent given those before it, and of
        each component latent given the slot's mask latent."""
        mask_latents, _ = self._split(latents)
        mask_mean, mask_std = self.mask_prior(mask_latents)
        mean, std = self._component_prior(mask_latents)
        return torch.cat([mask_mean, mean], dim=2), torch.cat([mask_std, std], dim=2)

    def _explain(self, images: Tensor, *, noise: Tensor, decode: bool) -> SlotOutput:
        mask_noise, component_noise = self._split(noise)
        mask_mean, mask_std, mask_latents = self.infer_mask_latents(images, mask_noise)
        log_masks = self.decode_masks(mask_latents)
        mean, std = self.component_vae.encode(images, log_masks)
        latents = mean + std * component_noise
        out = SlotOutput(
            num_slots=torch.full((len(images),), noise.shape[1], device=images.device),
            log_attention=log_masks,
            latent_mean=torch.cat([mask_mean, mean], dim=2),
            latent_std=torch.cat([mask_std, std], dim=2),
            latents=torch.cat([mask_latents, latents], dim=2),
        )
        if decode:
            self._decode_components(out, log_masks)
        return out

    def losses(self, images: Tensor, out: SlotOutput) -> Losses:
        """Terms of the objective; a slot's KL is that of its mask and its component latent."""
        if out.log_masks is None or out.means is None:
            raise ValueError("losses need a decoded forward pass: call the model with decode=True")
        assert out.latent_mean is not None and out.latent_std is not None
        posterior = out.latent_mean, out.latent_std
        return Losses(
            nll=sgmm_nll(images, out.log_masks, out.means, self.config.pixel_std),
            kl=monte_carlo_kl(out.latents, posterior, self.prior(out.latents)).sum(dim=2),
            mask_kl=None,
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> SlotOutput:
        """``n`` scenes from the prior; without a generator, from the global one.

        Uses the priors of training, whose means are bounded. Batch normalisation is that of
        evaluation: what is sampled while training must not change the model.
        """
        was_training = self.mask_decoder.training
        mask_noise, component_noise = self._split(self._prior_noise(n, num_slots, generator))
        mask_latents = self.mask_prior.sample(mask_noise)
        mean, std = self._component_prior(mask_latents)
        latents = torch.cat([mask_latents, mean + std * component_noise], dim=2)
        slots = torch.full((n,), latents.shape[1], device=latents.device)
        out = SlotOutput(num_slots=slots, latents=latents)
        self.mask_decoder.eval()
        try:
            log_masks = self.decode_masks(mask_latents)
        finally:
            self.mask_decoder.train(was_training)
        self._decode_components(out, log_masks)
        return out

    def _decode_components(self, out: SlotOutput, log_masks: Tensor) -> None:
        """Fill in masks, component means and reconstruction."""
        _, component_latents = self._split(out.latents)
        out.log_masks = log_masks
        out.means = self.component_vae.decode(component_latents).sigmoid()
        out.reconstruction = (log_masks.exp() * out.means).sum(dim=1)

    def _component_prior(self, mask_latents: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(mask_latents.device.type, enabled=False):
            return prior_moments(self.component_prior(mask_latents))

    def _split(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mask part and component part of (B, K, D)."""
        config = self.config
        mask_part, component_part = latents.split(
            [config.mask_latent_dim, config.component_latent_dim], dim=2
        )
        return mask_part, component_part
