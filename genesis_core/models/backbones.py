"""Backbones of GENESIS-V2: from images, and points where there is depth, to pixel features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genesis_core.models.efficientnet import CHANNELS, EfficientNetLite0
from genesis_core.models.layers import GROUP_NORM_GROUPS, ConvBlock, UNet
from genesis_core.models.points import POINT_CHANNELS, point_features
from genesis_core.ops.normalisation import group_norm_relu

POINT_WIDTHS = (24, 32, 48, 64, 64)
"""Channels of the point branch, from stride 2 to stride 32."""


class PaperBackbone(UNet):
    """The paper's UNet; with depth, points are further channels of its input.

    (B, C, S, S) and (B, 4, S, S) or None -> (B, feature_dim, S, S).
    """

    def __init__(self, image_size: int, channels: int, feature_dim: int, points: bool) -> None:
        super().__init__(image_size, channels + POINT_CHANNELS * points, feature_dim)
        self.points = points

    def forward(self, images: Tensor, points: Tensor | None = None) -> Tensor:
        if self.points:
            if points is None:
                shape = (len(images), POINT_CHANNELS, *images.shape[2:])
                described = images.new_zeros(shape)
            else:
                described, _ = point_features(points, images.shape[-1])
            images = torch.cat([images, described.to(images.dtype)], dim=1)
        return super().forward(images)


class StridedBlock(nn.Sequential):
    """3x3 convolution of stride two without bias, GroupNorm, ReLU: half the height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False),
            nn.GroupNorm(GROUP_NORM_GROUPS, out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, _ = self
        assert isinstance(norm, nn.GroupNorm)
        return group_norm_relu(conv(x), norm)


class PointBranch(nn.Module):
    """Maps of the points at the trunk's five scales.

    An image without a known point gets maps of zeros: the model then is one of colour alone.
    """

    def __init__(self) -> None:
        super().__init__()
        first, *rest = POINT_WIDTHS
        self.first = ConvBlock(POINT_CHANNELS, first)
        self.down = nn.ModuleList(
            StridedBlock(i, o) for i, o in zip(POINT_WIDTHS, rest, strict=False)
        )
        self.to_trunk = nn.ModuleList(
            nn.Conv2d(width, channels, 1, bias=False)
            for width, channels in zip(POINT_WIDTHS, CHANNELS, strict=True)
        )
        for conv in self.to_trunk:
            assert isinstance(conv, nn.Conv2d)
            nn.init.zeros_(conv.weight)  # at first the trunk sees what it was trained on

    def forward(self, points: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 4, S, S) -> maps beside the trunk's, and what is added to the trunk's."""
        described, present = point_features(points, points.shape[-1] // 2)
        present = present[:, None, None, None]
        maps = [self.first(described)]
        for block in self.down:
            maps.append(block(maps[-1]))
        maps = [each * present.to(each.dtype) for each in maps]
        return maps, [conv(each) for conv, each in zip(self.to_trunk, maps, strict=True)]


class PretrainedBackbone(nn.Module):
    """EfficientNet-Lite0 with a top-down path, as in feature pyramids (Lin et al. 2017).

    (B, 3, S, S) and (B, 4, S, S) or None -> (B, feature_dim, S / 2, S / 2).
    """

    def __init__(self, feature_dim: int, points: bool) -> None:
        super().__init__()
        self.trunk = EfficientNetLite0()
        self.branch = PointBranch() if points else None
        widths = [feature_dim, 2 * feature_dim, *3 * (3 * feature_dim,)]  # from stride 2 on
        beside = [c + p * points for c, p in zip(CHANNELS, POINT_WIDTHS, strict=True)]
        below = [*widths[1:], 0]
        self.up = nn.ModuleList(
            ConvBlock(b + s, w) for b, s, w in zip(below, beside, widths, strict=True)
        )

    def forward(self, images: Tensor, points: Tensor | None = None) -> Tensor:
        if self.branch is None:
            maps = self.trunk(images)
        else:
            if points is None:  # what the branch makes of no point is zero
                maps = self.trunk(images)
                geometry = [
                    each.new_zeros(len(each), width, *each.shape[2:])
                    for width, each in zip(POINT_WIDTHS, maps, strict=True)
                ]
            else:
                geometry, added = self.branch(points)
                maps = self.trunk(images, added)
            maps = [
                torch.cat([m, g.to(m.dtype)], dim=1) for m, g in zip(maps, geometry, strict=True)
            ]
        *blocks, last = self.up
        x: Tensor = last(maps.pop())
        for block in reversed(blocks):
            assert isinstance(block, ConvBlock)
            x = block.join(x, maps.pop())
        return x
