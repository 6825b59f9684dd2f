"""EfficientNet-Lite0's trunk (Tan and Le 2019, arXiv 1905.11946; Lite: ReLU6, no squeezing).

Its batch normalisation is folded into a scale and a shift for each channel, which train on like
weights: what an image gives does not depend on the others of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.ops.convolution import Freezable
from genesis_core.ops.depthwise import depthwise_convolution
from genesis_core.ops.fused_convolution import FusedConvolution

BATCH_NORM_EPS = 1e-3
MEAN, STD = 127 / 255, 128 / 255
"""What the published weights expect of images in [0, 1]: (image - MEAN) / STD."""


class Stage(NamedTuple):
    """Blocks of one shape: the first of them strides and changes the channels."""

    kernel: int
    stride: int
    expand: int
    channels: int
    blocks: int


STEM = 32
STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)
CHANNELS = (16, 24, 40, 112, 320)
"""Channels of the maps that the trunk gives, from stride 2 to stride 32."""


class ScaledConv(Freezable, nn.Module):
    """Convolution with TensorFlow's SAME padding, then each channel's scale and shift, then ReLU6.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride); H and W are even where the
    stride is two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.groups, self.relu = stride, groups, relu
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.scale = nn.Parameter(torch.ones(out_channels))
        self.shift = nn.Parameter(torch.zeros(out_channels))
        # With stride two SAME pads one row more behind than in front. Convolutions pad alike on
        # both sides: they get two rows more in front, which their first output has for itself.
        self.padding = (kernel - 1) // 2 if stride == 1 else (kernel + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        inference = not torch.is_grad_enabled()
        if inference and x.device.type == "cpu":
            fused = self.fused(lambda dtype: self._fuse(dtype, x.shape))
            if fused is not None:
                x = fused(x)
                return x[..., 1:, 1:] if self.stride == 2 else x
        weight = self.kernel("scaled", self._scaled)
        shift = self.shift.to(weight.dtype)
        if self.groups > 1:
            x = depthwise_convolution(x, weight, shift, self.stride, self.padding)
        else:
            x = F.conv2d(x, weight, shift, self.stride, self.padding)
        if self.stride == 2:
            x = x[..., 1:, 1:]
        return F.relu6(x, inplace=inference and self.stride == 1) if self.relu else x

    def _scaled(self) -> Tensor:
        return self.weight * self.scale[:, None, None, None]

    def _fuse(self, dtype: torch.dtype, size: torch.Size) -> FusedConvolution:
        return FusedConvolution(
            self._scaled().to(dtype),
            self.shift,
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            relu6=self.relu,
            size=size,
        )


class Block(nn.Module):
    """Inverted residual: widened by a 1x1 convolution, filtered channel by channel, narrowed."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int
    ) -> None:
        super().__init__()
        wide = in_channels * expand
        self.expand = ScaledConv(in_channels, wide, 1) if expand > 1 else nn.Identity()
        self.depthwise = ScaledConv(wide, wide, kernel, stride, groups=wide)
        self.project = ScaledConv(wide, out_channels, 1, relu=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """Images to maps of five scales.

    Args of ``forward``:
        images: (B, 3, S, S) in [0, 1], S a multiple of 32.
        extra: what is added to the maps, one for each scale, each (B, C, S / stride, S / stride);
            later scales see it.

    Returns: maps of ``CHANNELS``, at strides 2, 4, 8, 16 and 32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ScaledConv(3, STEM, 3, 2)
        channels = STEM
        self.stages = nn.ModuleList()
        for stage in STAGES:
            blocks = []
            for index in range(stage.blocks):
                stride = stage.stride if index == 0 else 1
                blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expand))
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))
        self._style: Tensor | None = None

    @property
    def style_channels(self) -> int:
        """Channels of all blocks' outputs, which ``restyled`` moves."""
        return sum(stage.channels * stage.blocks for stage in STAGES)

    @contextmanager
    def restyled(self, style: Tensor) -> Iterator[None]:
        """Meanwhile, move the mean of each channel that a block gives.

        Light, lens and material shift these means far more than they change what an image shows,
        so a model trained on moved ones depends less on them.

        Args:
            style: (B, style_channels), how far, in standard deviations of the channel in the image.
        """
        self._style = style
        try:
            yield
        finally:
            self._style = None

    def forward(self, images: Tensor, extra: list[Tensor] | None = None) -> list[Tensor]:
        x = self.stem((images - MEAN) / STD)
        maps: list[Tensor] = []
        moved = 0
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            for block in stage:
                x = block(x)
                if self._style is not None:
                    offset = self._style[:, moved : moved + x.shape[1], None, None]
                    moved += x.shape[1]
                    # Every fourth pixel tells enough of the deviation.
                    spread = (
                        x.detach()[..., ::2, ::2]
                        .float()
                        .std(dim=(2, 3), correction=0, keepdim=True)
                    )
                    x = x + (offset * spread).to(x.dtype)
            if x.shape[1] == CHANNELS[len(maps)]:
                if extra is not None:
                    x = x + extra[len(maps)].to(x.dtype)
                maps.append(x)
        return maps

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the trunk of published weights (names as in EfficientNet-PyTorch).

        Raises:
            KeyError, RuntimeError: they are not EfficientNet-Lite0's.
        """
        self._take(self.stem, weights, "_conv_stem", "_bn0")
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        for index, block in enumerate(blocks):
            names = f"_blocks.{index}."
            if not isinstance(block.expand, nn.Identity):
                self._take(block.expand, weights, f"{names}_expand_conv", f"{names}_bn0")
            self._take(block.depthwise, weights, f"{names}_depthwise_conv", f"{names}_bn1")
            self._take(block.project, weights, f"{names}_project_conv", f"{names}_bn2")

    @staticmethod
    @torch.no_grad()
    def _take(layer: ScaledConv, weights: Mapping[str, Tensor], conv: str, norm: str) -> None:
        gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
        layer.weight.copy_(weights[f"{conv}.weight"])
        layer.scale.copy_(gain)
        layer.shift.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)
