"""Convolutions of single channels: PyTorch's values, and gradients as exact as they can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core.ops.depthwise import _library, depthwise_convolution

needs_compiler = pytest.mark.skipif(_library() is None, reason="there is no C++ compiler")


def inputs(
    channels: int, kernel: int, dtype: torch.dtype, memory_format: torch.memory_format
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, channels, 12, 10, dtype=dtype).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(channels, 1, kernel, kernel), torch.randn(channels)
    return tuple(t.to(dtype).requires_grad_() for t in (x, weight, bias))  # type: ignore[return-value]


@needs_compiler
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)], ids=["fp32", "bf16"]
)
# EfficientNet's kernels, strides and paddings, a padding without symmetry, and a channel too many.
@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding"),
    [(48, 5, 1, 2), (16, 5, 2, 3), (32, 3, 2, 2), (16, 3, 1, 1), (16, 5, 1, 0), (17, 5, 1, 2)],
)
def test_values_and_gradients(
    channels: int,
    kernel: int,
    stride: int,
    padding: int,
    dtype: torch.dtype,
    tolerance: float,
    memory_format: torch.memory_format,
) -> None:
    x, weight, bias = inputs(channels, kernel, dtype, memory_format)
    y = depthwise_convolution(x, weight, bias, stride, padding)
    assert torch.equal(y, F.conv2d(x, weight, bias, stride, padding, 1, channels))

    gradient = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, weight, bias), gradient)
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    expected = torch.autograd.grad(
        F.conv2d(*exact, stride, padding, 1, channels), exact, gradient.double()
    )
    for ours, true, of in zip(got, expected, (x, weight, bias), strict=True):
        assert ours.dtype == dtype and ours.shape == of.shape
        assert (ours - true).norm() <= tolerance * true.norm()


@needs_compiler
def test_autocast_and_parts_that_need_no_gradient() -> None:
    x, weight, bias = inputs(16, 5, torch.float32, torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_convolution(x.detach(), weight, bias, 1, 2)
    assert y.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(y.float().square().sum(), weight)
    assert gradient.dtype == torch.float32  # of the weights, as they are
    plain = F.conv2d(x, weight, bias, 1, 2, 1, 16)
    (expected,) = torch.autograd.grad(plain.square().sum(), weight)
    assert (gradient - expected).norm() <= 0.02 * expected.norm()
