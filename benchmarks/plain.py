"""GENESIS-V2 written down as the paper describes it: what the model's speed is compared with.

The same weights and the same results as ``genesis_core.GenesisV2``, from PyTorch's standard parts
and without a thought for speed. To be run in float32, eagerly, in NCHW memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core import GenesisV2, GenesisV2Config
from genesis_core.models.backbones import PaperBackbone
from genesis_core.models.genesis_v2 import PixelFeatures
from genesis_core.models.layers import BroadcastDecoder, UNet, UpConv


class PlainUNet(UNet):
    """Enlarges each map, joins it with its skip connection, convolves."""

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            if level:
                x = F.interpolate(x, scale_factor=0.5, mode="nearest")
            x = block(x)
            skips.append(x)
        x = self.mlp(x).view_as(x)
        for level, block in enumerate(self.up):
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(torch.cat([x, skips.pop()], dim=1))
        return x


class PlainBackbone(PaperBackbone, PlainUNet):
    """The paper's backbone around the UNet above, which comes before ``UNet`` in its bases."""


class PlainDecoder(BroadcastDecoder):
    """Transposed convolutions as such."""

    def forward(self, latents: Tensor) -> Tensor:
        x = latents
        for layer in self:
            if isinstance(layer, UpConv):
                x = F.conv_transpose2d(x, layer.weight, layer.bias, 2, 2, 1)
            else:
                x = layer(x)
        return x


class PlainGenesisV2(GenesisV2):
    """See the module's text. An encoder that the paper does not have is the model's own."""

    def __init__(self, config: GenesisV2Config) -> None:
        super().__init__(config)
        if config.encoder == "unet":
            self.backbone = PlainBackbone(
                config.image_size, config.image_channels, config.feature_dim, config.points
            )
        self.decoder = PlainDecoder(
            config.decoded_size,
            config.latent_dim,
            config.decoder_dim or config.feature_dim,
            config.image_channels + 1,
        )

    @classmethod
    def like(cls, model: GenesisV2) -> PlainGenesisV2:
        """With the weights of a model, on its device, in its mode."""
        plain = cls(model.config)
        plain.load_state_dict(model.state_dict())
        for parameter in plain.parameters():
            parameter.data = parameter.data.contiguous()
        return plain.to(next(model.parameters()).device).train(model.training)

    def slot_features(self, features: PixelFeatures, weights: Tensor) -> Tensor:
        """Pools what the whole feature head makes of every pixel."""
        head: nn.Sequential = self.feature_head
        pixels = head(features.backbone).flatten(2).transpose(1, 2)
        weights = weights.flatten(2)
        return (weights @ pixels) / (weights.sum(dim=2, keepdim=True) + 1e-5)
