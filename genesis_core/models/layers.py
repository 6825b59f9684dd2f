"""Building blocks: normalised convolutions, UNet backbone, spatial broadcast decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.ops.convolution import (
    Freezable,
    add_conv_enlarged,
    convolve,
    halve,
    is_cpu_float32,
    phase_kernel,
    upsample,
    upsampling_kernel,
)
from genesis_core.ops.normalisation import group_norm_relu, runs_fused, shuffled_norm_relu

GROUP_NORM_GROUPS = 8


def pixel_coordinates(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Row and column of every pixel, each from -1 to 1: (2, H, W)."""
    rows = torch.linspace(-1, 1, height, dtype=torch.float32, device=device)
    columns = torch.linspace(-1, 1, width, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


class _Conv3x3(Freezable, nn.Conv2d):
    """The convolution of a ``ConvBlock``."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.kernel("whole", lambda: self.weight))

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The convolution of [x enlarged to twice its size, skip]; see ``ConvBlock.join``."""
        inputs = x.shape[1]
        below = self.kernel("below", lambda: phase_kernel(self.weight[:, :inputs]))
        beside = self.kernel(
            "beside",
            lambda: self.weight[:, inputs:].contiguous(memory_format=torch.channels_last),
        )
        return add_conv_enlarged(convolve(skip, beside), x, below)


class ConvBlock(nn.Sequential):
    """3x3 convolution without bias, normalisation, ReLU; keeps height and width.

    GroupNorm(8), or with ``instance_norm`` one group per channel (affine instance normalisation).
    Its last two modules hold their parameters; they run as one (see ops/normalisation.py).
    """

    def __init__(self, in_channels: int, out_channels: int, instance_norm: bool = False) -> None:
        super().__init__(
            _Conv3x3(in_channels, out_channels, 3, padding=1, bias=False),
            nn.GroupNorm(out_channels if instance_norm else GROUP_NORM_GROUPS, out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, _ = self
        assert isinstance(norm, nn.GroupNorm)
        return group_norm_relu(conv(x), norm)

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The block of [x enlarged to twice its size, skip], without making these.

        (B, I, H, W), (B, S, 2H, 2W) -> (B, out_channels, 2H, 2W).
        """
        conv, norm, _ = self
        assert isinstance(conv, _Conv3x3) and isinstance(norm, nn.GroupNorm)
        return group_norm_relu(conv.join(x, skip), norm)


class UNet(Freezable, nn.Module):
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

    def freeze(self, dtype: torch.dtype) -> None:
        self.mlp.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        last = len(self.down) - 1
        for level, block in enumerate(self.down):
            x = block(x)
            skips.append(x)
            if level < last:  # nearest-neighbour downsampling by two
                skips[-1], x = halve(x)
        x = self.mlp(x).view_as(x)
        x = self.up[0](torch.cat([x, skips.pop()], dim=1))
        for block in list(self.up)[1:]:
            assert isinstance(block, ConvBlock)
            x = block.join(x, skips.pop())
        return x


class UpConv(Freezable, nn.Module):
    """Transposed 5x5 convolution, stride 2, padding 2, output padding 1: (H, W) -> (2H, 2W).

    Parameters have the layout of ``nn.ConvTranspose2d`` (in, out, 5, 5). In half precision, and on
    a GPU, it is computed as one 3x3 convolution to the four output phases as channels, to be
    interleaved: each phase sees at most 3x3 input pixels, and there the dense
    convolution is much faster than the strided one, above all in the backward pass. In float32 on
    a CPU the strided one is, as it multiplies 25 times where the dense one does 36 times.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        reference = nn.ConvTranspose2d(in_channels, out_channels, 5, 2, 2, 1)
        assert reference.bias is not None
        self.weight, self.bias = reference.weight, reference.bias

    def phases(self, x: Tensor, *, together: bool = True) -> Tensor:
        """(N, in, H, W) -> (N, 4*out, H, W): the output before it is interleaved.

        together: whether a channel's phases stand side by side, as ``pixel_shuffle`` wants them;
            else a phase's channels do.
        """
        weight = self.kernel(f"phases {together}", lambda: self._phase_kernel(together))
        bias = self.bias.expand(2, 2, -1)
        bias = bias.permute(2, 0, 1) if together else bias
        return F.conv2d(x, weight, bias.flatten(), padding=1)

    def _phase_kernel(self, together: bool) -> Tensor:
        """(4 * out, in, 3, 3), see ``phases``."""
        weight = upsampling_kernel(self.weight)
        if together:
            weight = weight.permute(2, 0, 1, 3, 4, 5)
        return weight.flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if is_cpu_float32(x):
            return upsample(x, self.weight, self.bias)
        return F.pixel_shuffle(self.phases(x), 2)


class BroadcastDecoder(nn.Sequential):
    """Spatial broadcast decoder: (N, D) -> (N, out_channels, S, S).

    Four times [transposed convolution, GroupNorm, ReLU], then a 1x1 convolution. Normalisation,
    ReLU and the 1x1 convolution act alike on all four phases of an upsampled pixel, so where there
    are phases they can run before these are interleaved.
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
        head: nn.Conv2d = self[-1]  # type: ignore[assignment]
        ups, norms = list(self)[1:-1:3], list(self)[2:-1:3]
        if is_cpu_float32(latents):
            for up, norm in zip(ups, norms, strict=True):
                x = group_norm_relu(up(x), norm)  # type: ignore[arg-type]
            return head(x)
        if runs_fused(x, channels=4 * head.in_channels, convolved=True):
            for up, norm in zip(ups, norms, strict=True):
                x = shuffled_norm_relu(up.phases(x, together=False), norm)  # type: ignore[arg-type,operator]
            # Channels last, a 1x1 convolution is a product of matrices.
            return F.linear(x.permute(0, 2, 3, 1), head.weight[:, :, 0, 0], head.bias).permute(
                0, 3, 1, 2
            )
        for up, norm in zip(ups, norms, strict=True):
            x = self._normalised_phases(x, up, norm)  # type: ignore[arg-type]
            if up is not ups[-1]:
                x = F.pixel_shuffle(x, 2)
        # The largest map is never shuffled at full width. The same 1x1 kernel for every phase is a
        # block-diagonal kernel on all four at once.
        assert head.bias is not None
        four = torch.eye(4, dtype=head.weight.dtype, device=head.weight.device)
        weight = torch.kron(head.weight[:, :, 0, 0], four)
        x = F.conv2d(x, weight[:, :, None, None], head.bias.repeat_interleave(4))
        return F.pixel_shuffle(x, 2)

    @staticmethod
    def _normalised_phases(x: Tensor, up: UpConv, norm: nn.GroupNorm) -> Tensor:
        """ReLU(GroupNorm(phases of the transposed convolution))."""
        # A group's channels stay together when each becomes four, so its statistics are the same.
        weight, bias = norm.weight.repeat_interleave(4), norm.bias.repeat_interleave(4)
        return F.group_norm(up.phases(x), norm.num_groups, weight, bias, norm.eps).relu_()


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
