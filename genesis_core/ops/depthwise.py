"""Convolutions that filter each channel by itself, with a fast way back (native/depthwise.cpp)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from genesis_core.ops.native_library import NATIVE_DTYPES, native_library, pointers

_BLOCK = 16  # channels that the C++ computes together
_SLOW = (5, 5, 1), (5, 5, 2), (3, 3, 2)  # kernels and strides whose gradients oneDNN is slow at


def depthwise_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
) -> Tensor:
    """``F.conv2d`` with as many groups as channels.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kernel, kernel).
        bias: (C,).

    Returns:
        (B, C, H', W').
    """
    if torch.is_grad_enabled() and x.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        fits = (*weight.shape[2:], stride) in _SLOW and len(weight) % _BLOCK == 0
        fits = fits and dtype in NATIVE_DTYPES
        if fits and _library() is not None:
            arguments = x.to(dtype), weight.to(dtype), bias.to(dtype)
            output: Tensor = _DepthwiseConvolution.apply(*arguments, stride, padding)
            return output
    return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))


class _DepthwiseConvolution(torch.autograd.Function):
    """PyTorch's convolution, and the same gradients sooner.

    oneDNN's gradient of the weights takes three times as long as this one in float32, and up to ten
    times in bfloat16; so both gradients are computed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int, padding: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = 2 * (stride,), 2 * (padding,), (1, 1), False, (0, 0), len(weight)
        return torch.convolution(x, weight, bias, *ctx.geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        x_gradient = weight_gradient = bias_gradient = None
        outputs, inputs = (
            part.float().contiguous(memory_format=torch.channels_last) for part in (gradient, x)
        )
        if ctx.needs_input_grad[0]:
            wanted = (True, False, False)
            with torch.autocast("cpu", enabled=False):
                x_gradient = torch.ops.aten.convolution_backward(
                    outputs, inputs, weight.float(), None, *ctx.geometry, wanted
                )[0].to(x.dtype)
        if ctx.needs_input_grad[1]:
            weight_gradient = _weight_gradient(outputs, inputs, weight, ctx.geometry)
        if ctx.needs_input_grad[2]:
            bias_gradient = gradient.sum((0, 2, 3))
        return x_gradient, weight_gradient, bias_gradient, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, geometry: Any) -> Tensor:
    """Of a convolution with the weights (C, 1, kernel, kernel); the maps are channels last."""
    library = _library()
    assert library is not None  # see depthwise_convolution
    (stride, _), (padding, _), *_ = geometry
    batch, channels, height, width = x.shape
    kernel = weight.shape[2]
    numbers = (batch, height, width, channels, *gradient.shape[2:], padding, kernel, stride)
    taps = x.new_empty(kernel, kernel, channels)
    library.depthwise_weight_gradient(
        *pointers(gradient, x, taps), (ctypes.c_int64 * 9)(*numbers), torch.get_num_threads()
    )
    return taps.permute(2, 0, 1)[:, None].to(weight.dtype)


def _library() -> ctypes.CDLL | None:
    return native_library("depthwise.cpp", "training will be slower on the CPU")
