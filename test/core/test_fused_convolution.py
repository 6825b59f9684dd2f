"""Fused convolutions against PyTorch's own, step by step."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from genesis_core.models.efficientnet import ScaledConv
from genesis_core.ops.convolution import freeze
from genesis_core.ops.fused_convolution import FusedConvolution, can_fuse

DTYPES = [torch.float32, torch.bfloat16]


def needs(dtype: torch.dtype) -> None:
    if not can_fuse(dtype):
        pytest.skip(f"oneDNN has no fused {dtype} convolution here")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("relu6", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (5, 1, 16)]
)
def test_values(dtype: torch.dtype, relu6: bool, kernel: int, stride: int, groups: int) -> None:
    needs(dtype)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 16 // groups, kernel, kernel, generator=generator).to(dtype)
    shift = torch.randn(32, generator=generator).to(dtype)
    fused = FusedConvolution(
        weight, shift, stride=stride, padding=kernel // 2, groups=groups, relu6=relu6,
        size=torch.Size((1, 16, 12, 12)),
    )  # fmt: skip
    # Other batches and sizes than the layout was chosen for, and maps of either layout.
    for size in ((1, 12, 12), (3, 8, 20), (1, 5, 7)):
        batch, *shape = size
        x = torch.randn(batch, 16, *shape, generator=generator)
        expected = F.conv2d(
            x.to(dtype).float(), weight.float(), shift.float(), stride, kernel // 2, 1, groups
        )
        expected = expected.clamp(0, 6) if relu6 else expected
        for given in (x, x.contiguous(memory_format=torch.channels_last)):
            found = fused(given)
            assert found.dtype == dtype
            tolerance = 1e-4 if dtype == torch.float32 else 0.02
            torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("fuses", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 16), (3, 2, 1)])
def test_a_frozen_layer_is_the_layer_that_trains(
    kernel: int, stride: int, groups: int, fuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fuses:
        needs(torch.float32)
    else:  # as on processors that cannot
        monkeypatch.setattr("genesis_core.ops.convolution.can_fuse", lambda dtype: False)
    torch.manual_seed(0)
    layer = ScaledConv(16, 16, kernel, stride, groups)
    with torch.no_grad():
        layer.scale.uniform_(0.5, 2)
        layer.shift.normal_()
    x = torch.randn(2, 16, 10, 10)
    expected = layer(x).detach()
    freeze(layer, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
        assert (layer._fused is not None) == fuses
        assert layer(x[:0]).shape == (0, *expected.shape[1:])
    # With gradients it is not the fused one, which has none.
    assert layer(x).requires_grad
