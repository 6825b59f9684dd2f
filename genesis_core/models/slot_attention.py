"""Slot Attention for object discovery (Locatello et al. 2020, arXiv 2006.15055)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from genesis_core.models.base import Draw, SlotModel, SlotOutput
from genesis_core.models.config import ModelConfig
from genesis_core.models.latents import STD_FLOOR
from genesis_core.models.layers import UpConv
from genesis_core.models.losses import Losses

DECODER_SIDE = 8
WEIGHT_FLOOR = 1e-8


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


class PositionEmbedding(nn.Module):
    """Adds a learned linear map of the position to (B, C, side, side).

    A position is four numbers in [0, 1]: the distances to the top, left, bottom and right edge.
    """

    grid: Tensor

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, channels)
        ramp = torch.linspace(0, 1, side, dtype=torch.float32)
        near = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"), dim=2)
        self.register_buffer("grid", torch.cat([near, 1 - near], dim=2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(self.grid).permute(2, 0, 1)


class Encoder(nn.Module):
    """(B, C, S, S) -> (B, S*S, F) features of every pixel."""

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        width = config.feature_dim
        layers: list[nn.Module] = []
        for in_channels in (config.image_channels, width, width, width):
            layers += [nn.Conv2d(in_channels, width, 5, padding=2), nn.ReLU()]
        self.convs = nn.Sequential(*layers)
        self.position = PositionEmbedding(config.image_size, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, images: Tensor) -> Tensor:
        pixels = self.position(self.convs(images)).flatten(2).transpose(1, 2)
        features: Tensor = self.mlp(pixels)
        return features


class SlotUpdates(nn.Module):
    """Slots compete for the pixels, several times over (Algorithm 1)."""

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__()
        dim, width = config.latent_dim, config.feature_dim
        self.iterations = config.iterations
        self.mean = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
        self.log_std = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, dim)))
        self.norm_inputs = nn.LayerNorm(width)
        self.norm_slots = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(width, dim, bias=False)
        self.value = nn.Linear(width, dim, bias=False)
        self.gru = nn.GRUCell(dim, dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, config.hidden_dim),
            nn.ReLU(),
            nn.Linear(config.hidden_dim, dim),
        )

    def forward(self, features: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Slots (B, K, D), and the last step's log-weights (B, K, N), which sum to one over slots.

        Args:
            features: (B, N, F).
            noise: (B, K, D) standard normal, from which the slots start.
        """
        inputs = self.norm_inputs(features)
        keys, values = self.key(inputs), self.value(inputs)
        slots = self.mean + self.log_std.exp() * noise
        for _ in range(self.iterations):
            queries = self.query(self.norm_slots(slots))
            logits = queries @ keys.transpose(1, 2) / queries.shape[2] ** 0.5
            log_weights = logits.log_softmax(dim=1)
            weights = log_weights.exp() + WEIGHT_FLOOR
            updates = weights / weights.sum(dim=2, keepdim=True) @ values
            slots = self.gru(updates.flatten(0, 1), slots.flatten(0, 1)).view_as(slots)
            slots = slots + self.mlp(slots)
        return slots, log_weights


class Decoder(nn.Sequential):
    """(N, D) -> (N, C + 1, S, S): spatial broadcast to 8x8, then transposed convolutions."""

    def __init__(self, config: SlotAttentionConfig) -> None:
        width = config.feature_dim
        doublings = (config.image_size // DECODER_SIDE).bit_length() - 1
        layers: list[nn.Module] = []
        for in_channels in [config.latent_dim, *[width] * (doublings - 1)]:
            layers += [UpConv(in_channels, width), nn.ReLU()]
        super().__init__(
            nn.Unflatten(1, (config.latent_dim, 1, 1)),
            PositionEmbedding(DECODER_SIDE, config.latent_dim),  # broadcasts the slot
            *layers,
            nn.ConvTranspose2d(width, width, 5, padding=2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, config.image_channels + 1, 3, padding=1),
        )


class SlotAttention(SlotModel):
    """The model.

    An autoencoder without likelihood or prior: latents are the slots themselves, without
    uncertainty (``latent_std`` is 1e-8), and it cannot ``sample`` scenes. ``noise`` decides where
    the slots start. ``log_attention`` are the last attention step's weights, ``log_masks`` the
    decoder's; component means are not bounded to [0, 1].
    """

    config_class = SlotAttentionConfig
    generative = False
    config: SlotAttentionConfig

    def __init__(self, config: SlotAttentionConfig) -> None:
        super().__init__(config)
        self.latent_dim = config.latent_dim
        self.encoder = Encoder(config)
        self.slot_updates = SlotUpdates(config)
        self.decoder = Decoder(config)

    def _explain(self, images: Tensor, *, noise: Tensor, decode: bool) -> SlotOutput:
        features = self.encoder(images).float()
        # Always float32: half precision is too coarse for sums over all pixels.
        with torch.autocast(images.device.type, enabled=False):
            slots, log_weights = self.slot_updates(features, noise)
        size = self.config.image_size
        out = SlotOutput(
            num_slots=torch.full((len(images),), noise.shape[1], device=images.device),
            log_attention=log_weights.unflatten(2, (1, size, size)),
            latent_mean=slots,
            latent_std=torch.full_like(slots, STD_FLOOR),
            latents=slots,
        )
        if decode:
            decoded = self.decoder(slots.flatten(0, 1)).float().unflatten(0, slots.shape[:2])
            out.means, logits = decoded.split([self.config.image_channels, 1], dim=2)
            out.log_masks = logits.log_softmax(dim=1)
            out.reconstruction = (out.log_masks.exp() * out.means).sum(dim=1)
        return out

    def losses(self, images: Tensor, out: SlotOutput) -> Losses:
        """The mean squared error of each image as ``nll``; there is nothing to weigh it against."""
        if out.reconstruction is None:
            raise ValueError("losses need a decoded forward pass: call the model with decode=True")
        error = (out.reconstruction - images.float()).square().flatten(1).mean(dim=1)
        return Losses(nll=error, kl=torch.zeros_like(out.latents[:, :, 0]), mask_kl=None)

    def draws(self, num_slots: int) -> dict[str, Draw]:
        # Slots that all start at the mean would stay the same for ever.
        return {"noise": Draw("normal", (num_slots, self.latent_dim))}
