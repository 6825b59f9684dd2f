"""MONet-G: MONet (Burgess et al. 2019, arXiv 1901.11390) trained and sampled as GENESIS is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.models.base import SlotModel, SlotOutput
from genesis_core.models.component_vae import ComponentVAE
from genesis_core.models.config import GenerativeConfig
from genesis_core.models.latents import monte_carlo_kl, standard_normal
from genesis_core.models.layers import UNet
from genesis_core.models.losses import Losses, mask_consistency, sgmm_nll


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


class Attention(nn.Module):
    """Attention masks, one after the other: a UNet sees the image and what is left of it."""

    def __init__(self, config: MonetConfig) -> None:
        super().__init__()
        width = config.attention_width
        self.unet = UNet(config.image_size, config.image_channels + 1, width, instance_norm=True)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, images: Tensor, num_slots: int) -> Tensor:
        """Log masks (B, K, 1, H, W) of images (B, C, H, W); the last is the remaining scope."""
        log_scope = torch.zeros_like(images[:, :1], dtype=torch.float32)
        log_masks = []
        for _ in range(num_slots - 1):
            logits = self.head(self.unet(torch.cat([images, log_scope.to(images)], dim=1))).float()
            log_masks.append(log_scope + F.logsigmoid(logits))
            log_scope = log_scope + F.logsigmoid(-logits)
        return torch.stack([*log_masks, log_scope], dim=1)


class Monet(SlotModel):
    """The model.

    ``log_attention`` are the attention masks: they weigh the components in the likelihood and in
    the reconstruction of images, and are the segmentation. ``log_masks`` are the decoder's
    reconstruction of them, which ``mask_kl`` compares with them and which samples are made of.
    """

    config_class = MonetConfig
    default_mask_source = "attention"
    config: MonetConfig

    def __init__(self, config: MonetConfig) -> None:
        super().__init__(config)
        self.latent_dim = config.latent_dim
        self.attention = Attention(config)
        self.component_vae = ComponentVAE(
            image_size=config.image_size,
            image_channels=config.image_channels,
            latent_dim=config.latent_dim,
            width=config.component_width,
            out_channels=config.image_channels + 1,
            activation=nn.ReLU,
        )

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder masks (B, K, 1, H, W) and component means (B, K, C, H, W) of (B, K, D)."""
        decoded = self.component_vae.decode(latents)
        means, logits = decoded.split([self.config.image_channels, 1], dim=2)
        return logits.log_softmax(dim=1), means.sigmoid()

    def _explain(self, images: Tensor, *, noise: Tensor, decode: bool) -> SlotOutput:
        slots = noise.shape[1]
        log_attention = self.attention(images, slots)
        mean, std = self.component_vae.encode(images, log_attention)
        out = SlotOutput(
            num_slots=torch.full((len(images),), slots, device=images.device),
            log_attention=log_attention,
            latent_mean=mean,
            latent_std=std,
            latents=mean + std * noise,
        )
        if decode:
            out.log_masks, out.means = self.decode(out.latents)
            out.reconstruction = (log_attention.exp() * out.means).sum(dim=1)
        return out

    def losses(self, images: Tensor, out: SlotOutput) -> Losses:
        """Terms of the objective; the mask consistency loss is always part of it."""
        if out.log_masks is None or out.means is None or out.log_attention is None:
            raise ValueError("losses need a decoded forward pass: call the model with decode=True")
        assert out.latent_mean is not None and out.latent_std is not None
        posterior = out.latent_mean, out.latent_std
        kl = monte_carlo_kl(out.latents, posterior, standard_normal(out.latents))
        pixel_std = self.config.pixel_std
        with torch.no_grad():  # to be reported, not to learn from
            decoded_nll = sgmm_nll(images, out.log_masks, out.means, pixel_std)
        return Losses(
            nll=sgmm_nll(images, out.log_attention, out.means, pixel_std),
            kl=kl.sum(dim=2),
            mask_kl=mask_consistency(out.log_attention, out.log_masks, stop_gradient=False),
            decoded_nll=decoded_nll,
        )

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None = None,
        *,
        num_slots: int | None = None,
    ) -> SlotOutput:
        """``n`` scenes of latents from N(0, 1), put together by the decoder's own masks."""
        latents = self._prior_noise(n, num_slots, generator)
        log_masks, means = self.decode(latents)
        return SlotOutput(
            num_slots=torch.full((n,), latents.shape[1], device=latents.device),
            latents=latents,
            log_masks=log_masks,
            means=means,
            reconstruction=(log_masks.exp() * means).sum(dim=1),
        )
