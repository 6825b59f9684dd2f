"""The component VAE of GENESIS and MONet-G: what a slot looks like, given its mask."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from genesis_core.models.latents import posterior_moments
from genesis_core.models.layers import Broadcast

ENCODER_FEATURES = 256
DECODER_BORDER = 4  # each of four 3x3 convolutions without padding takes a pixel off every side


class ComponentVAE(nn.Module):
    """A VAE of one slot's appearance, run on all slots of all images in one batch.

    Args:
        image_size: height = width.
        image_channels: of the images that are encoded.
        latent_dim: D.
        width: channels of the decoder and of the outer encoder layers; the inner have twice it.
        out_channels: of what is decoded.
        activation: ELU in GENESIS, ReLU in MONet-G.
    """

    def __init__(
        self,
        *,
        image_size: int,
        image_channels: int,
        latent_dim: int,
        width: int,
        out_channels: int,
        activation: type[nn.Module],
    ) -> None:
        super().__init__()
        wide = 2 * width
        channels = (image_channels + 1, width, width, wide, wide)
        encoder: list[nn.Module] = []
        for in_channels, out in itertools.pairwise(channels):
            encoder += [nn.Conv2d(in_channels, out, 3, stride=2, padding=1), activation()]
        self.encoder = nn.Sequential(
            *encoder,
            nn.Flatten(),
            nn.Linear(wide * (image_size // 16) ** 2, ENCODER_FEATURES),
            activation(),
            nn.Linear(ENCODER_FEATURES, 2 * latent_dim),
        )
        decoder: list[nn.Module] = [Broadcast(image_size + 2 * DECODER_BORDER)]
        for in_channels in (latent_dim + 2, width, width, width):
            decoder += [nn.Conv2d(in_channels, width, 3), activation()]
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(width, out_channels, 1))

    def encode(self, images: Tensor, log_masks: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation (B, K, D) of each slot.

        Args:
            images: (B, C, H, W).
            log_masks: (B, K, 1, H, W).
        """
        batch, slots = log_masks.shape[:2]
        repeated = images[:, None].expand(-1, slots, -1, -1, -1)
        inputs = torch.cat([log_masks, repeated.to(log_masks)], dim=2)
        moments = self.encoder(inputs.flatten(0, 1)).unflatten(0, (batch, slots))
        return posterior_moments(moments)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, K, D) -> (B, K, out_channels, H, W) float32, not bounded."""
        decoded: Tensor = self.decoder(latents.flatten(0, 1))
        return decoded.float().unflatten(0, latents.shape[:2])
