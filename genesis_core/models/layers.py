"""Building blocks: normalised convolutions, UNet backbone, spatial broadcast decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genesis_core.models.config import GROUP_NORM_GROUPS
from genesis_core.ops.normalisation import (
    add_phases,
    group_norm_relu,
    runs_fused,
    shuffled_norm_relu,
)


def pixel_coordinates(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Row and column of every pixel, each from -1 to 1: (2, H, W)."""
    rows = torch.linspace(-1, 1, height, device=device)
    columns = torch.linspace(-1, 1, width, device=device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding=1)``, made faster to train where it can be."""
    if torch.is_grad_enabled() and is_cpu_float32(x) and not _in_planes(x):
        output: Tensor = _Convolution.apply(x, weight, None, 1, 1, False)
        return output
    return F.conv2d(x, weight, padding=1)


class _Convolution(torch.autograd.Function):
    """A convolution, or transposed convolution, of float32 on a CPU: same values, faster backward.

    Without AVX-512, oneDNN's gradient of the weights is slow in channels last: of a 3x3 convolution
    of 64 channels it takes three times as long at 128 px, and 1.4 times at 64 px, as in the other
    layout, the copies to that included. And its gradient of the bias takes half as long as that of
    the weights; here it is a sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        transposed: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ones = (1, 1)
        ctx.geometry = 2 * (stride,), 2 * (padding,), ones, transposed, 2 * (stride - 1,), 1
        return torch.convolution(x, weight, bias, *ctx.geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        backward = torch.ops.aten.convolution_backward
        x_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            wanted = (True, False, False)
            x_gradient = backward(gradient, x, weight, None, *ctx.geometry, wanted)[0]
        if ctx.needs_input_grad[1]:
            wanted = (False, True, False)
            planes = _to_planes(gradient), _to_planes(x), weight.contiguous()
            weight_gradient = backward(*planes, None, *ctx.geometry, wanted)[1]
        if ctx.needs_input_grad[2]:
            bias_gradient = gradient.sum((0, 2, 3))
        return x_gradient, weight_gradient, bias_gradient, None, None, None


_FEW_PIXELS = 32**2  # of maps that are copied as well at once as one by one


def _in_planes(x: Tensor) -> bool:
    """Whether the weights' gradient cannot be made faster by another memory layout of x."""
    return x.is_contiguous() or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "DEFAULT")


def _to_planes(x: Tensor) -> Tensor:
    """x in the memory layout in which the gradient of the weights is faster, maybe as it is."""
    if _in_planes(x):
        return x
    count, channels, height, width = x.shape
    if torch.compiler.is_compiling() or height * width < _FEW_PIXELS:
        return x.contiguous()
    # PyTorch transposes matrices twice as fast as it changes layouts.
    planes = x.new_empty(count, channels, height * width)
    for plane, pixels in zip(planes, x.flatten(2), strict=True):
        plane.copy_(pixels)
    return planes.view(x.shape)


class _Freezable:
    """A layer that may keep what it makes of its weights, once these do not change any more."""

    _dtype: torch.dtype | None = None

    def freeze(self, dtype: torch.dtype) -> None:
        """From now on the weights must not change."""
        self._dtype = dtype
        self._kernels: dict[str, Tensor] = {}

    def _kernel(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A convolution's kernel, made of the weights."""
        if self._dtype is None:
            return make()
        if name not in self._kernels:
            kernel = make().to(self._dtype)
            self._kernels[name] = kernel.contiguous(memory_format=torch.channels_last)
        return self._kernels[name]


def freeze(model: nn.Module, dtype: torch.dtype) -> None:
    """Make large weights ready, once, for inference under autocast to this precision.

    From now on the model's weights must not change.
    """
    for module in model.modules():
        if isinstance(module, _Freezable):
            module.freeze(dtype)
        elif isinstance(module, UNet):
            module.mlp.to(dtype)


class _Conv3x3(_Freezable, nn.Conv2d):
    """The convolution of a ``ConvBlock``."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self._kernel("whole", lambda: self.weight))

    def join(self, x: Tensor, skip: Tensor) -> Tensor:
        """The convolution of [x enlarged to twice its size, skip]; see ``ConvBlock.join``."""
        inputs = x.shape[1]
        below = self._kernel("below", lambda: phase_kernel(self.weight[:, :inputs]))
        beside = self._kernel(
            "beside",
            lambda: self.weight[:, inputs:].contiguous(memory_format=torch.channels_last),
        )
        return add_conv_enlarged(convolve(skip, beside), x, below)


class ConvBlock(nn.Sequential):
    """3x3 convolution without bias, normalisation, ReLU; keeps height and width.

    GroupNorm(8), or with ``instance_norm`` one group per channel (affine instance normalisation).
    Its last two modules hold their parameters; they may run as one operation (see fused.py).
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


def phase_kernel(weight: Tensor) -> Tensor:
    """The kernel (4 * O, I, 2, 2) that ``add_conv_enlarged`` wants for a 3x3 one (O, I, 3, 3)."""
    outputs, inputs = weight.shape[:2]
    # Output 2j sees the inputs j-1, j and j again, output 2j + 1 sees j twice and j+1.
    first, middle, last = weight.permute(2, 3, 0, 1)
    rows = torch.stack([first, middle + last, first + middle, last])
    first, middle, last = rows.unbind(1)
    taps = torch.stack([first, middle + last, first + middle, last])
    taps = taps.view(2, 2, 2, 2, outputs, inputs)  # column's phase, tap, row's phase, tap
    return taps.permute(2, 0, 4, 3, 1, 5).reshape(4 * outputs, 2, 2, inputs).permute(0, 3, 1, 2)


def add_conv_enlarged(base: Tensor, x: Tensor, kernel: Tensor) -> Tensor:
    """base + 3x3 convolution with padding 1 of x enlarged to twice its size by repeating pixels.

    Of the three pixels along a side of the kernel two are always the same one, so that each of the
    four phases of the output is a 2x2 convolution of the small map: 4 multiplications for 9.

    Args:
        base: (B, O, 2H, 2W), channels last; it may be overwritten.
        x: (B, I, H, W).
        kernel: the ``phase_kernel`` of the 3x3 one.

    Returns: (B, O, 2H, 2W), channels last.
    """
    phases = convolve(x, kernel)  # (B, 4O, H + 1, W + 1)
    phases = phases.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    if torch.compiler.is_compiling():  # which makes one loop of this, but many of writing in place
        height, width = x.shape[2:]
        pairs = [
            torch.stack([phases[:, p : p + height, q : q + width, p, q] for q in (0, 1)], dim=3)
            for p in (0, 1)
        ]
        interleaved = torch.stack(pairs, dim=2).flatten(3, 4).flatten(1, 2)
        return base + interleaved.permute(0, 3, 1, 2)
    summed: Tensor = _AddPhases.apply(base, phases)
    return summed


class _AddPhases(torch.autograd.Function):
    """Add phases (B, H + 1, W + 1, 2, 2, O) to a map (B, O, 2H, 2W), each at its pixels, in place.

    The second phase's window starts a pixel after the first's. Autograd's own way back would make
    a whole map of zeros for each phase.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor, phases: Tensor) -> Tensor:
        ctx.mark_dirty(base)
        pixels = base.permute(0, 2, 3, 1)
        if add_phases(pixels, phases):
            return base
        height, width = phases.shape[1] - 1, phases.shape[2] - 1
        for p in (0, 1):
            for q in (0, 1):
                pixels[:, p::2, q::2] += phases[:, p : p + height, q : q + width, p, q]
        return base

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        pixels = gradient.permute(0, 2, 3, 1)
        batch, height, width, outputs = pixels.shape
        height, width = height // 2, width // 2
        phases = pixels.new_empty(batch, height + 1, width + 1, 2, 2, outputs)
        for p in (0, 1):
            for q in (0, 1):
                phase = phases[:, :, :, p, q]
                phase[:, p : p + height, q : q + width] = pixels[:, p::2, q::2]
                phase[:, 0 if p else height] = 0  # the row and the column outside of the window
                phase[:, :, 0 if q else width] = 0
        return gradient, phases


class _Halve(torch.autograd.Function):
    """A map (B, C, H, W) for two readers: as it is, and every second row and column of it.

    Autograd's own way back makes two maps of zeros, in a layout that is slow to add.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x[..., ::2, ::2].clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, whole: Tensor, half: Tensor) -> Tensor:
        gradient = whole.clone(memory_format=torch.channels_last)
        gradient[..., ::2, ::2] += half
        return gradient


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
            if level < last:  # nearest-neighbour downsampling by two
                if torch.compiler.is_compiling() or not torch.is_grad_enabled():
                    x = x[..., ::2, ::2]
                else:
                    skips[-1], x = _Halve.apply(x)
        x = self.mlp(x).view_as(x)
        x = self.up[0](torch.cat([x, skips.pop()], dim=1))
        for block in list(self.up)[1:]:
            assert isinstance(block, ConvBlock)
            x = block.join(x, skips.pop())
        return x


class UpConv(_Freezable, nn.Module):
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

    def phase_weight(self) -> Tensor:
        """The equivalent 3x3 kernel (2, 2, out, in, 3, 3), row's and column's phase first."""
        inputs, outputs = self.weight.shape[:2]
        # Output 2j + p reads input j + t through tap 2 - 2t + p. With a sixth tap of zero the
        # taps split into (3, 2): the first index, flipped, is t, the second is the phase p.
        taps = F.pad(self.weight, (0, 1, 0, 1)).view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
        return taps.permute(3, 5, 1, 0, 2, 4)

    def phases(self, x: Tensor, *, together: bool = True) -> Tensor:
        """(N, in, H, W) -> (N, 4*out, H, W): the output before it is interleaved.

        together: whether a channel's phases stand side by side, as ``pixel_shuffle`` wants them;
            else a phase's channels do.
        """
        weight = self._kernel(f"phases {together}", lambda: self._phase_kernel(together))
        bias = self.bias.expand(2, 2, -1)
        bias = bias.permute(2, 0, 1) if together else bias
        return F.conv2d(x, weight, bias.flatten(), padding=1)

    def _phase_kernel(self, together: bool) -> Tensor:
        """(4 * out, in, 3, 3), see ``phases``."""
        weight = self.phase_weight()
        if together:
            weight = weight.permute(2, 0, 1, 3, 4, 5)
        return weight.flatten(0, 2).contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if not is_cpu_float32(x):
            return F.pixel_shuffle(self.phases(x), 2)
        if not torch.is_grad_enabled():
            return F.conv_transpose2d(x, self.weight, self.bias, 2, 2, 1)
        output: Tensor = _Convolution.apply(x, self.weight, self.bias, 2, 2, True)
        return output


def is_cpu_float32(x: Tensor) -> bool:
    """Whether convolutions of x run in float32 on a CPU, where other ways are the fastest."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return on_cpu and x.dtype == torch.float32


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
        if runs_fused(x, convolved=True):
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
        weight = torch.kron(head.weight[:, :, 0, 0], torch.eye(4, device=x.device))
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
