"""Features pooled in masks against a product of matrices in double precision."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch

from genesis_core.ops import pooling
from genesis_core.ops.pooling import pool

CASES = [
    (torch.float32, False, True),
    (torch.bfloat16, False, True),
    (torch.float16, False, False),
    (torch.bfloat16, True, False),
]


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize(("dtype", "gradients", "native"), CASES)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 5, 700, 24), (1, 8, 4096, 64)])
def test_sums(
    size: tuple[int, int, int, int],
    dtype: torch.dtype,
    gradients: bool,
    native: bool,
    native_libraries: Callable[[ModuleType], list[object]],
) -> None:
    """In C++ without gradients, else in PyTorch."""
    batch, slots, count, channels = size
    masks = torch.rand(batch, slots, count)
    features = (100 + torch.randn(batch, count, channels)).to(dtype)
    used = native_libraries(pooling)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
        sums, mass = pool(masks, features)
    assert len(used) == native and None not in used
    assert sums.dtype == mass.dtype == torch.float32
    masks, features = masks.double(), features.double()
    torch.testing.assert_close(sums.double(), masks @ features, rtol=1e-5, atol=0)
    torch.testing.assert_close(mass.double(), masks.sum(2, keepdim=True), rtol=1e-5, atol=0)
