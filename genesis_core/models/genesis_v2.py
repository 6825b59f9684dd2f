"""GENESIS-V2 (Engelcke, Parker Jones, Posner 2021): unsupervised object segmentation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.models.base import GenesisOutput as GenesisOutput
from genesis_core.models.base import SlotModel, inference_generator, random
from genesis_core.models.config import GenesisV2Config
from genesis_core.models.icsbp import ICSBP, Clusters
from genesis_core.models.latents import (
    AutoregressivePrior,
    monte_carlo_kl,
    posterior_moments,
    standard_normal,
)
from genesis_core.models.layers import BroadcastDecoder, ConvBlock, UNet, pixel_coordinates
from genesis_core.models.losses import Losses, mask_consistency, sgmm_nll
from genesis_core.ops.pooling import pool


class Embedding(nn.Module):
    """Pixel embeddings for IC-SBP: (B, C, H, W) -> (B, E, H, W).

    Semi-convolutional: a 1x1 convolution times a learned gate that starts at zero, plus the
    pixel's row and column on the last two channels; so clustering starts from position alone.
    Plain: the 1x1 convolution.
    """

    coordinates: Tensor

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__()
        self.block = ConvBlock(config.feature_dim, config.feature_dim)
        self.conv = nn.Conv2d(config.feature_dim, config.embedding_dim, 1)
        self.semi_conv = config.semi_conv
        if config.semi_conv:
            self.gate = nn.Parameter(torch.tensor(0.0))
            grid = pixel_coordinates(config.image_size, config.image_size)
            grid = F.pad(grid, (0, 0, 0, 0, config.embedding_dim - 2, 0))
            self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        embeddings = self.conv(self.block(features)).float()
        if self.semi_conv:
            embeddings = self.gate * embeddings + self.coordinates
        return embeddings


class LatentHead(nn.Sequential):
    """(..., 2C) pooled slot features -> (..., 2D), mean and unconstrained scale."""

    def __init__(self, config: GenesisV2Config) -> None:
        wide = 2 * config.feature_dim
        super().__init__(
            nn.LayerNorm(wide),
            nn.Linear(wide, wide),
            nn.ReLU(),
            nn.Linear(wide, 2 * config.latent_dim),
        )


class GenesisV2(SlotModel):
    """The model. ``config`` decides its shape; ``metadata`` says how its weights came about.

    ``log_attention`` are IC-SBP's masks, ``log_masks`` the decoder's.
    """

    config_class = GenesisV2Config
    flexible_slots = True
    config: GenesisV2Config

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__(config)
        self.latent_dim = config.latent_dim
        self.backbone = UNet(config.image_size, config.image_channels, config.feature_dim)
        self.embedding = Embedding(config)
        self.icsbp = ICSBP(config.num_slots, config.kernel, config.mask_normalisation)
        self.feature_head = nn.Sequential(
            ConvBlock(config.feature_dim, config.feature_dim),
            nn.Conv2d(config.feature_dim, 2 * config.feature_dim, 1),
        )
        self.latent_head = LatentHead(config)
        self.decoder = BroadcastDecoder(
            config.image_size, config.latent_dim, config.feature_dim, config.image_channels + 1
        )
        self.prior = AutoregressivePrior(config.latent_dim) if config.autoregressive_prior else None

    # The steps of a forward pass

    def cluster(
        self,
        images: Tensor,
        seed_scores: Tensor | None = None,
        generator: torch.Generator | None = None,
        stop_threshold: float | None = None,
        num_slots: int | None = None,
        hard_masks: bool = False,
    ) -> tuple[Tensor, Clusters]:
        """Backbone and IC-SBP: features (B, C, H, W) and clusters."""
        self._check_images(images)
        size = self.config.image_size
        batch = images.shape[0]
        if seed_scores is None:
            seed_scores = self._draw(torch.rand, (batch, size, size), images, generator)
        elif seed_scores.shape not in ((batch, 1, size, size), (batch, size, size)):
            raise ValueError(
                f"seed_scores have shape {tuple(seed_scores.shape)}; "
                f"expected ({batch}, 1, {size}, {size})"
            )
        features = self.backbone(images)
        clusters = self.icsbp(
            self.embedding(features),
            seed_scores.reshape(batch, size, size).to(images.device),
            stop_threshold=stop_threshold,
            num_slots=num_slots,
            hard=hard_masks,
        )
        return features, clusters

    def posterior(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each slot's latent, from features pooled in its mask.

        Args:
            features: (B, C, H, W) from the backbone.
            masks: (B, K, H, W).

        Returns: two tensors (B, K, D).
        """
        block, conv = self.feature_head
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        pixels = block(features).flatten(2).transpose(1, 2)  # (B, HW, C)
        sums, mass = pool(masks.float().flatten(2), pixels)
        with torch.autocast(masks.device.type, enabled=False):
            # The head's 1x1 convolution is linear, and cheaper on K sums than on all pixels.
            sums = F.linear(sums, conv.weight.flatten(1)) + mass * conv.bias
        return posterior_moments(self.latent_head(sums / (mass + 1e-5)))

    @torch.no_grad()
    def set_posterior_std(self, std: float) -> None:
        """Let the posterior have this standard deviation in every dimension, whatever the image."""
        last = self.latent_head[-1]
        assert isinstance(last, nn.Linear)
        _, scale_weight = last.weight.chunk(2)
        _, scale_bias = last.bias.chunk(2)
        scale_weight.zero_()
        scale_bias.fill_(math.log(math.expm1(std)) - 0.5)  # see posterior_moments

    def decode(
        self, latents: Tensor, used: Tensor | None = None, *, skip: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decoder masks, component means and reconstruction from latents (B, K, D).

        Args:
            used: (B, K) bool; other slots take no part. None uses all.
            skip: whether to spare the others the decoder, which waits for the device.

        Returns: log_masks (B, K, 1, H, W), means (B, K, C, H, W), reconstruction (B, C, H, W).
        """
        batch, slots, _ = latents.shape
        if used is None or not skip:
            decoded = self.decoder(latents.flatten(0, 1)).float().unflatten(0, (batch, slots))
        else:
            parts = self.decoder(latents[used]).float()
            decoded = parts.new_zeros(batch, slots, *parts.shape[1:])
            decoded[used] = parts
        means, logits = decoded.split([self.config.image_channels, 1], dim=2)
        means = means.sigmoid()
        if used is not None:
            absent = ~used[:, :, None, None, None]
            logits = logits.masked_fill(absent, -torch.inf)
            means = means.masked_fill(absent, 0.0)
        log_masks = logits.log_softmax(dim=1)
        return log_masks, means, (log_masks.exp() * means).sum(dim=1)

    def forward(
        self,
        images: Tensor,
        seed_scores: Tensor | None = None,
        noise: Tensor | None = None,
        generator: torch.Generator | None = None,
        stop_threshold: float | None = None,
        *,
        num_slots: int | None = None,
        decode: bool = True,
        hard_masks: bool = False,
        trim: bool = True,
    ) -> GenesisOutput:
        """Segment, encode and reconstruct images.

        Randomness: ``seed_scores`` and ``noise`` where given, else ``generator``, else the global
        generator in training mode, else (evaluation mode) a fixed draw shared by all images, so
        that the same image always gives the same result, whatever batch it is in.

        Args:
            images: (B, C, H, W) in [0, 1].
            seed_scores: (B, 1, H, W) in [0, 1], IC-SBP's seed scores.
            noise: (B, K, D) standard normal; latents = mean + std * noise.
            stop_threshold: None for K slots each; else flexible slots, stopping at a mask smaller
                than this many pixels (stated at 64x64). K becomes the largest number used.
            num_slots: K, if other than the config's.
            decode: False leaves out the decoder: masks are then IC-SBP's only.
            hard_masks: IC-SBP's masks are zeros and ones (Section 3.1), for inference; an image
                uses as few slots as explain all its pixels, so here too the number is flexible.
            trim: with flexible slots, leave out what no image uses; this waits for the device.
                False gives all K, unused ones of zero mass, and waits for nothing.

        Raises:
            ValueError: a tensor's shape is not the expected one.
        """
        features, clusters = self.cluster(
            images, seed_scores, generator, stop_threshold, num_slots, hard_masks
        )
        flexible = stop_threshold is not None or hard_masks
        if flexible and trim:
            largest = int(clusters.num_slots.max())  # waits for the device
            clusters.log_masks = clusters.log_masks[:, :largest]
        if noise is None:
            drawn = self.config.num_slots if num_slots is None else num_slots
            shape = (len(images), drawn, self.config.latent_dim)
            noise = self._draw(torch.randn, shape, images, generator)
        out = self.encode(features, clusters, noise)
        if decode:
            used = out.used if flexible else None
            out.log_masks, out.means, out.reconstruction = self.decode(out.latents, used, skip=trim)
        return out

    def encode(self, features: Tensor, clusters: Clusters, noise: Tensor) -> GenesisOutput:
        """Latents from what ``cluster`` gave: an output that is not decoded yet.

        Args:
            features: (B, C, H, W).
            clusters: of the same images.
            noise: (B, K or more, D) standard normal.
        """
        batch, slots = clusters.log_masks.shape[:2]
        dim = self.config.latent_dim
        if noise.ndim != 3 or noise.shape[::2] != (batch, dim) or noise.shape[1] < slots:
            raise ValueError(
                f"noise has shape {tuple(noise.shape)}; expected ({batch}, {slots}, {dim})"
            )
        mean, std = self.posterior(features, clusters.log_masks.exp())
        return GenesisOutput(
            num_slots=clusters.num_slots,
            clusters=clusters,
            log_attention=clusters.log_masks[:, :, None],
            latent_mean=mean,
            latent_std=std,
            latents=mean + std * noise[:, :slots].to(mean),
        )

    def inference_randomness(self, batch: int, num_slots: int) -> dict[str, Tensor]:
        like, size = next(self.parameters()), self.config.image_size
        scores = random(torch.rand, (1, size, size), like, inference_generator())
        return super().inference_randomness(batch, num_slots) | {
            "seed_scores": scores.expand(batch, size, size)
        }

    def losses(self, images: Tensor, out: GenesisOutput) -> Losses:
        """Terms of the objective for a decoded forward pass of these images."""
        if out.log_masks is None or out.means is None or out.log_attention is None:
            raise ValueError("losses need a decoded forward pass: call the model with decode=True")
        mask_kl = None
        if self.config.mask_loss:
            mask_kl = mask_consistency(out.log_attention, out.log_masks)
        return Losses(
            nll=sgmm_nll(images, out.log_masks, out.means, self.config.pixel_std),
            kl=self._latent_kl(out),
            mask_kl=mask_kl,
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> GenesisOutput:
        """``n`` scenes from the prior; without a generator, from the global one."""
        noise = self._prior_noise(n, num_slots, generator)
        latents = noise if self.prior is None else self.prior.sample(noise)
        log_masks, means, images = self.decode(latents)
        return GenesisOutput(
            num_slots=torch.full((n,), latents.shape[1], device=latents.device),
            latents=latents,
            log_masks=log_masks,
            means=means,
            reconstruction=images,
        )

    def _latent_kl(self, out: GenesisOutput) -> Tensor:
        assert out.latent_mean is not None and out.latent_std is not None
        prior = self.prior or standard_normal
        kl = monte_carlo_kl(out.latents, (out.latent_mean, out.latent_std), prior(out.latents))
        return kl.sum(dim=2) * out.used
