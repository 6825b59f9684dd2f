"""Features pooled in masks against a product of matrices in double precision."""

from __future__ import annotations

import pytest
import torch

from genesis_core.pooling import pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 5, 700, 24), (1, 8, 4096, 64)])
@pytest.mark.parametrize("gradients", [False, True])
def test_sums(
    size: tuple[int, int, int, int], threads: int, dtype: torch.dtype, gradients: bool
) -> None:
    batch, slots, count, channels = size
    masks = torch.rand(batch, slots, count)
    features = (100 + torch.randn(batch, count, channels)).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
            sums, mass = pool(masks, features)
    finally:
        torch.set_num_threads(before)
    assert sums.dtype == mass.dtype == torch.float32
    torch.testing.assert_close(sums.double(), masks.double() @ features.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(
        mass.double(), masks.double().sum(2, keepdim=True), rtol=1e-5, atol=0
    )
