"""ReLU(GroupNorm(x)) as one operation of the CPU, in C++ (native/group_norm_relu.cpp).

Where there is no compiler, on GPUs, and for other layouts than channels last and other types than
float32 and bfloat16, PyTorch's own operations do the work.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genesis_core.ops.native_library import NATIVE_DTYPES, native_library, pointers


def group_norm_relu(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """ReLU(norm(x)): (B, C, H, W) -> (B, C, H, W)."""
    if x.is_contiguous(memory_format=torch.channels_last) and runs_fused(x):
        return _run(x.permute(0, 2, 3, 1)[..., None, :], norm)
    # Nobody else reads the normalised map: spare its memory.
    return F.relu(norm(x), inplace=True)


def shuffled_norm_relu(phases: Tensor, norm: nn.GroupNorm) -> Tensor:
    """ReLU(norm(x)) of the map x whose pixels come from 2 x 2 phases. Only where it runs fused.

    Args:
        phases: (B, 4 * C, H, W): the C channels of the upper left pixel, then those of the upper
            right one, of the lower left and of the lower right one. Best channels last.
        norm: of C channels.

    Returns:
        (B, C, 2H, 2W), channels last.
    """
    return _run(phases.permute(0, 2, 3, 1).unflatten(3, (4, -1)).contiguous(), norm)


def runs_fused(x: Tensor, *, convolved: bool = False) -> bool:
    """Whether maps like x are normalised in C++: on a CPU that has a compiler.

    Args:
        x: (B, C, H, W).
        convolved: not x itself is normalised, but what a convolution makes of it, in the precision
            of autocast.
    """
    dtype = x.dtype
    if convolved and torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    possible = x.device.type == "cpu" and dtype in NATIVE_DTYPES
    return possible and _library() is not None


def _run(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, H, W, P, C), contiguous -> (B, C, H, W) or, with P = 4 phases, (B, C, 2H, 2W)."""
    arguments = x, norm.weight, norm.bias, norm.num_groups, norm.eps
    # Autograd's book-keeping costs as much as a small map.
    y: Tensor = (_GroupNormReLU.apply if torch.is_grad_enabled() else _forward)(*arguments)
    return y.permute(0, 3, 1, 2)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, ctx: Any = None
) -> Tensor:
    """From a map (B, H, W, P, C), contiguous, to (B, H, W, C) or (B, 2H, 2W, C)."""
    library = _library()
    assert library is not None and x.dtype in NATIVE_DTYPES  # see runs_fused
    batch, height, width, phases, channels = x.shape
    side = 2 if phases == 4 else 1
    shape = (ctypes.c_int64 * 6)(batch, height, width, phases, channels, groups)
    affine = weight.float().contiguous(), bias.float().contiguous()
    moments = [x.new_empty(batch, groups, dtype=torch.float32) for _ in range(2)]
    y = x.new_empty(batch, side * height, side * width, channels)
    library.group_norm_relu(
        x.dtype == torch.bfloat16,
        *pointers(x, *affine, y, *moments),
        shape,
        ctypes.c_double(eps),
        torch.get_num_threads(),
    )
    if ctx is not None:
        ctx.save_for_backward(x, *affine, *moments)
        ctx.library, ctx.shape = library, shape
    return y


class _GroupNormReLU(torch.autograd.Function):
    """From a map (B, H, W, P, C), contiguous, to (B, H, W, C) or (B, 2H, 2W, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        return _forward(x, weight, bias, groups, eps, ctx)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x, weight = saved[0], saved[1]
        # Of the layout that y has: where it came from may have left another.
        gradient = gradient.to(x.dtype).contiguous()
        x_gradient = torch.empty_like(x)
        affine = [weight.new_empty(len(x), *weight.shape) for _ in range(2)]
        ctx.library.group_norm_relu_backward(
            x.dtype == torch.bfloat16,
            *pointers(gradient, *saved, x_gradient, *affine),
            ctx.shape,
            torch.get_num_threads(),
        )
        return x_gradient, *(part.sum(dim=0) for part in affine), None, None


def _library() -> ctypes.CDLL | None:
    return native_library("group_norm_relu.cpp", "models will be slower on the CPU")
