"""What makes convolutions fast: kernels prepared once, smaller equivalents, a faster way back.

All give the values of PyTorch's own convolutions. See docs/performance.md for what each gains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genesis_core.ops.fused_convolution import FusedConvolution, can_fuse
from genesis_core.ops.native_library import NATIVE_DTYPES, native_library, pointers, sizes

# The plain convolutions


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """``F.conv2d(x, weight, padding=1)``, made faster to train where it can be."""
    if torch.is_grad_enabled() and is_cpu_float32(x) and not _in_planes(x):
        output: Tensor = _Convolution.apply(x, weight, None, 1, 1, False)
        return output
    return F.conv2d(x, weight, padding=1)


def upsample(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Transposed 5x5 convolution of float32 on a CPU: (N, I, H, W) -> (N, O, 2H, 2W).

    Args:
        weight: (I, O, 5, 5), as of ``nn.ConvTranspose2d`` with stride 2, padding 2 and output
            padding 1.
        bias: (O,).
    """
    if not torch.is_grad_enabled():
        return F.conv_transpose2d(x, weight, bias, 2, 2, 1)
    output: Tensor = _Convolution.apply(x, weight, bias, 2, 2, True)
    return output


def upsampling_kernel(weight: Tensor) -> Tensor:
    """The 3x3 kernel (2, 2, O, I, 3, 3) whose outputs are the phases of ``upsample``'s.

    The first index is the row's phase, the second the column's: where in a 2x2 block of the large
    map an output lies.

    Args:
        weight: (I, O, 5, 5).
    """
    inputs, outputs = weight.shape[:2]
    # Output 2j + p reads input j + t through tap 2 - 2t + p. With a sixth tap of zero the
    # taps split into (3, 2): the first index, flipped, is t, the second is the phase p.
    taps = F.pad(weight, (0, 1, 0, 1)).view(inputs, outputs, 3, 2, 3, 2).flip(2, 4)
    return taps.permute(3, 5, 1, 0, 2, 4)


def is_cpu_float32(x: Tensor) -> bool:
    """Whether convolutions of x run in float32 on a CPU, where other ways are the fastest."""
    on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return on_cpu and x.dtype == torch.float32


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
    if height * width < _FEW_PIXELS:
        return x.contiguous()
    # PyTorch transposes matrices twice as fast as it changes layouts.
    planes = x.new_empty(count, channels, height * width)
    for plane, pixels in zip(planes, x.flatten(2), strict=True):
        plane.copy_(pixels)
    return planes.view(x.shape)


# A convolution of an enlarged map, and a smaller map of every second pixel


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

    Returns:
        (B, O, 2H, 2W), channels last.
    """
    phases = convolve(x, kernel)  # (B, 4O, H + 1, W + 1)
    phases = phases.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
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
        if _add_phases_native(pixels, phases):
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


def _add_phases_native(pixels: Tensor, phases: Tensor) -> bool:
    """Add phases (B, H + 1, W + 1, 2, 2, C) to a map (B, 2H, 2W, C), each at its pixels, in place.

    The second phase's window starts a pixel after the first's. Gives False, and does nothing, where
    it cannot be done in C++.
    """
    kind = pixels.dtype
    if pixels.device.type != "cpu" or kind not in NATIVE_DTYPES or phases.dtype != kind:
        return False
    if not (pixels.is_contiguous() and phases.is_contiguous()):
        return False
    library = native_library("convolution.cpp", "joining feature maps will take longer")
    if library is None:
        return False
    batch, height, width, channels = pixels.shape
    library.add_phases(
        kind == torch.bfloat16,
        *pointers(pixels, phases),
        *sizes(batch, height // 2, width // 2, channels),
        torch.get_num_threads(),
    )
    return True


def halve(x: Tensor) -> tuple[Tensor, Tensor]:
    """A map (B, C, H, W) for two readers: as it is, and every second row and column of it."""
    if not torch.is_grad_enabled():
        return x, x[..., ::2, ::2]
    both: tuple[Tensor, Tensor] = _Halve.apply(x)
    return both


class _Halve(torch.autograd.Function):
    """``halve`` with a faster way back.

    Autograd's own makes two maps of zeros, in a layout that is slow to add.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view_as(x), x[..., ::2, ::2].clone(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, whole: Tensor, half: Tensor) -> Tensor:
        gradient = whole.clone(memory_format=torch.channels_last)
        gradient[..., ::2, ::2] += half
        return gradient


# Kernels made once


class Freezable:
    """A layer that may keep what it makes of its weights, once these do not change any more."""

    _dtype: torch.dtype | None = None

    def freeze(self, dtype: torch.dtype) -> None:
        """From now on the weights must not change, and the layer cannot be copied or pickled."""
        self._dtype = dtype
        self._kernels: dict[str, Tensor] = {}
        self._fused: FusedConvolution | None = None

    def kernel(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A convolution's kernel, made of the weights."""
        if self._dtype is None:
            return make()
        if name not in self._kernels:
            kernel = make().to(self._dtype)
            self._kernels[name] = kernel.contiguous(memory_format=torch.channels_last)
        return self._kernels[name]

    def fused(self, make: Callable[[torch.dtype], FusedConvolution]) -> FusedConvolution | None:
        """The frozen layer as one operation; None where this machine, or its precision, cannot."""
        if self._dtype is None or not can_fuse(self._dtype):
            return None
        if self._fused is None:
            self._fused = make(self._dtype)
        return self._fused


def freeze(model: nn.Module, dtype: torch.dtype) -> None:
    """Make large weights ready, once, for inference under autocast to this precision.

    From now on the model's weights must not change.
    """
    for module in model.modules():
        if isinstance(module, Freezable):
            module.freeze(dtype)
