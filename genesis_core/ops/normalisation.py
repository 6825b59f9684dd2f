"""ReLU(GroupNorm(x)) as one operation.

On a CPU it is C++ (native/group_norm_relu.cpp), on a GPU it is Triton (triton_normalisation.py).
Where there is no compiler or no Triton, and for layouts and types that these do not take,
PyTorch's own operations do the work.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genesis_core.ops.native_library import NATIVE_DTYPES, native_library, pointers

logger = logging.getLogger(__name__)

_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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


def runs_fused(x: Tensor, *, channels: int | None = None, convolved: bool = False) -> bool:
    """Whether maps like x are normalised by one operation of our own.

    Args:
        x: (B, C, H, W).
        channels: of the map that is normalised, if other than x's.
        convolved: not x itself is normalised, but what a convolution makes of it, in the precision
            of autocast.
    """
    if torch.compiler.is_compiling():
        return False  # torch.compile knows neither C++ nor our way of starting kernels
    dtype, device = x.dtype, x.device.type
    if convolved and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    if not _on_gpu(x):
        return device == "cpu" and dtype in NATIVE_DTYPES and _library() is not None
    kernels = _triton() if dtype in _GPU_DTYPES else None
    return kernels is not None and kernels.fits(channels or x.shape[1])


def _run(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """(B, H, W, P, C), contiguous -> (B, C, H, W) or, with P = 4 phases, (B, C, 2H, 2W)."""
    arguments = x, norm.weight.float(), norm.bias.float(), norm.num_groups, norm.eps
    # Autograd's book-keeping costs as much as a small map.
    if torch.is_grad_enabled():
        y: Tensor = _GroupNormReLU.apply(*arguments)
    else:
        y, *_ = _forward(*arguments)
    return y.permute(0, 3, 1, 2)


class _GroupNormReLU(torch.autograd.Function):
    """From a map (B, H, W, P, C), contiguous, to (B, H, W, C) or (B, 2H, 2W, C)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
    ) -> Tensor:
        y, mean, rstd = _forward(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        # Of the layout that y has: where it came from may have left another.
        gradient = gradient.to(x.dtype).contiguous()
        return *_backward(gradient, x, *rest), None, None


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The result y, and the groups' means and inverse deviations (B, G).

    Args:
        x: (B, H, W, P, C), contiguous, of a kind that ``runs_fused``.
        weight, bias: (C,) float32.
    """
    if _on_gpu(x):
        kernels = _triton()
        assert kernels is not None  # see runs_fused
        return kernels.forward(x, weight, bias, groups, eps)
    library = _library()
    assert library is not None
    batch, height, width, phases, channels = x.shape
    side = 2 if phases == 4 else 1
    y = x.new_empty(batch, side * height, side * width, channels)
    mean, rstd = (x.new_empty(batch, groups, dtype=torch.float32) for _ in range(2))
    library.group_norm_relu(
        x.dtype == torch.bfloat16,
        *pointers(x, weight, bias, y, mean, rstd),
        (ctypes.c_int64 * 6)(*x.shape, groups),
        ctypes.c_double(eps),
        torch.get_num_threads(),
    )
    return y, mean, rstd


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias, from y's and what ``_forward`` took and gave."""
    if _on_gpu(x):
        kernels = _triton()
        assert kernels is not None
        return kernels.backward(gradient, x, weight, bias, mean, rstd)
    library = _library()
    assert library is not None
    x_gradient = torch.empty_like(x)
    affine = [weight.new_empty(len(x), *weight.shape) for _ in range(2)]
    library.group_norm_relu_backward(
        x.dtype == torch.bfloat16,
        *pointers(gradient, x, weight, bias, mean, rstd, x_gradient, *affine),
        (ctypes.c_int64 * 6)(*x.shape, mean.shape[1]),
        torch.get_num_threads(),
    )
    return x_gradient, affine[0].sum(dim=0), affine[1].sum(dim=0)


def _library() -> ctypes.CDLL | None:
    return native_library("group_norm_relu.cpp", "models will be slower on the CPU")


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


@functools.cache
def _triton() -> ModuleType | None:
    """The kernels for GPUs; None, with one warning, where Triton is missing or does not work."""
    try:
        from genesis_core.ops import triton_normalisation as kernels

        x = torch.zeros(1, 1, 1, 1, 8, device="cuda")
        kernels.forward(x, torch.ones_like(x).flatten(), torch.zeros_like(x).flatten(), 1, 1e-5)
    except Exception as error:  # noqa: BLE001 - it calls compilers, which can fail in any way
        logger.warning(
            "models will be slower on the GPU, as Triton cannot be used (that takes its package "
            "and a C compiler): %s: %s",
            type(error).__name__,
            str(error).strip().partition("\n")[0],
        )
        return None
    return kernels
