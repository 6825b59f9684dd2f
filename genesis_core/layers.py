"""Building blocks: normalised convolutions, UNet backbone, spatial broadcast decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.config import GROUP_NORM_GROUPS


def pixel_coordinates(height: int, width: int) -> Tensor:
    """Row and column of every pixel, each from -1 to 1: (2, H, W)."""
    rows = torch.linspace(-1, 1, height)
    columns = torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


class ConvBlock(nn.Sequential):
    """3x3 convolution without bias, normalisation, ReLU; keeps height and width.

    GroupNorm(8), or with ``instance_norm`` one group per channel (affine instance normalisation).
    """

    def __init__(self, in_channels: int, out_channels: int, instance_norm: bool = False) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(out_channels if instance_norm else GROUP_NORM_GROUPS, out_channels),
            nn.ReLU(),
        )


class UNet(nn.Module):
    """Backbone: (B, in_channels, S, S) -> (B, C, S, S), non-negative (the last layer is a ReLU).

    log2(S) - 1 levels; the innermost three are twice as wide. Downsampling and upsampling take
    the nearest pixel. The bottleneck is an MLP over the whole flattened map, so the image size
    is fixed when the network is built.
    """

    def __init__(
        self, image_size: int, in_channels: int, width: int, instance_norm: bool = False
    ) -> None:
        super().__init__()
        levels = image_size.bit_length() - 2
        wide = 2 * width
        down_out = [width] * (levels - 3) + [wide] * 3
        up_out = [wide] * 2 + [width] * (levels - 2)
        self.down = nn.ModuleList(
            ConvBlock(i, o, instance_norm)
            for i, o in zip([in_channels, *down_out], down_out, strict=False)
        )
        skips = down_out[::-1]
        below = [down_out[-1], *up_out]
        self.up = nn.ModuleList(
            ConvBlock(b + s, o, instance_norm)
            for b, s, o in zip(below, skips, up_out, strict=False)
        )
        side = image_size >> (levels - 1)
        flat = down_out[-1] * side * side
        self.mlp = nn.Sequential(
            nn.Flatten(),
            nn.Linear(flat, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, flat),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, block in enumerate(self.down):
            x = block(x)
            skips.append(x)
            if level < last:
                x = x[..., ::2, ::2]  # nearest-neighbour downsampling by two
        x = self.mlp(x).view_as(x)
        for level, block in enumerate(self.up):
            x = block(torch.cat([x, skips.pop()], dim=1))
            if level < last:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return x


class UpConv(nn.Module):
    """Transposed 5x5 convolution, stride 2, padding 2, output padding 1: (H, W) -> (2H, 2W).

    Parameters have the layout of ``nn.ConvTranspose2d`` (in, out, 5, 5). It is computed as one
    3x3 convolution to the four output phases as channels, for ``pixel_shuffle`` to interleave:
    each phase sees at most 3x3 input pixels, and the dense convolution is much faster than the
    strided one, above all in the backward pass.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        reference = nn.ConvTranspose2d(in_channels, out_channels, 5, 2, 2, 1)
        assert reference.bias is not None
        self.weight, self.bias = reference.weight, reference.bias

    def phase_weight(self) -> Tensor:
        """The equivalent 3x3 kernel (4*out, in, 3, 3), channels ordered for ``pixel_shuffle``."""
        inputs, outputs = self.weight.shape[:2]
        # Output 2j + p reads input j + t through tap 2 - 2t + p. With a sixth tap of zero the
        # taps split into (3, 2): the first index, flipped, is t, the second is the phase p.
        taps = F.pad(self.weight, (0, 1, 0, 1)).view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
        return taps.permute(1, 3, 5, 0, 2, 4).reshape(4 * outputs, inputs, 3, 3)

    def phases(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, 4*out, H, W): the output before it is interleaved."""
        return F.conv2d(x, self.phase_weight(), self.bias.repeat_interleave(4), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.phases(x), 2)


class BroadcastDecoder(nn.Sequential):
    """Spatial broadcast decoder: (N, D) -> (N, out_channels, S, S).

    Four times [transposed convolution, GroupNorm, ReLU], then a 1x1 convolution. Normalisation,
    ReLU and the 1x1 convolution act alike on all four phases of an upsampled pixel, so they run
    before the phases are interleaved: the largest map is never shuffled at full width.
    """

    def __init__(self, image_size: int, latent_dim: int, width: int, out_channels: int) -> None:
        layers: list[nn.Module] = [Broadcast(image_size // 16)]
        for in_channels in (latent_dim + 2, width, width, width):
            layers += [
                UpConv(in_channels, width),
                nn.GroupNorm(GROUP_NORM_GROUPS, width),
                nn.ReLU(),
            ]
        super().__init__(*layers, nn.Conv2d(width, out_channels, 1))

    def forward(self, latents: Tensor) -> Tensor:
        x: Tensor = self[0](latents)
        *ups, last = range(1, len(self) - 1, 3)
        for index in ups:
            x = F.pixel_shuffle(self._normalised_phases(x, index), 2)
        x = self._normalised_phases(x, last)
        head: nn.Conv2d = self[-1]  # type: ignore[assignment]
        assert head.bias is not None
        # The same 1x1 kernel for every phase: a block-diagonal kernel on all four at once.
        weight = torch.kron(head.weight[:, :, 0, 0], torch.eye(4, device=x.device))
        x = F.conv2d(x, weight[:, :, None, None], head.bias.repeat_interleave(4))
        return F.pixel_shuffle(x, 2)

    def _normalised_phases(self, x: Tensor, index: int) -> Tensor:
        """ReLU(GroupNorm(phases of the transposed convolution)) of the layers from ``index``."""
        up: UpConv = self[index]  # type: ignore[assignment]
        norm: nn.GroupNorm = self[index + 1]  # type: ignore[assignment]
        # A group's channels stay together when each becomes four, so its statistics are the same.
        weight, bias = norm.weight.repeat_interleave(4), norm.bias.repeat_interleave(4)
        return F.group_norm(up.phases(x), norm.num_groups, weight, bias, norm.eps).relu()


class Broadcast(nn.Module):
    """(N, D) -> (N, D + 2, side, side): the latent at every pixel, then row and column."""

    coordinates: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        self.register_buffer("coordinates", pixel_coordinates(side, side), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        count, dim = latents.shape
        side = self.coordinates.shape[-1]
        grid = latents[:, :, None, None].expand(count, dim, side, side)
        coordinates = self.coordinates.to(latents.dtype).expand(count, 2, side, side)
        return torch.cat([grid, coordinates], dim=1)
