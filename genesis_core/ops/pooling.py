"""Sums of pixels' features in the slots' masks."""

from __future__ import annotations

import torch
from torch import Tensor

from genesis_core.ops.native_library import (
    NATIVE_DTYPES,
    native_library,
    pointers,
    runs_native,
    sizes,
)


def pool(masks: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of features over pixels, weighted by masks, and of the masks themselves, in float32.

    Args:
        masks: (B, K, N) float32.
        features: (B, N, C), float32 or a half precision.

    Returns:
        (B, K, C) and (B, K, 1).
    """
    if runs_native(masks) and features.dtype in NATIVE_DTYPES:
        library = native_library("pooling.cpp", "latents will take longer")
        if library is not None and masks.is_contiguous() and features.is_contiguous():
            batch, slots, count = masks.shape
            channels = features.shape[2]
            sums = masks.new_empty(batch, slots, channels + 1)
            library.pool(
                features.dtype == torch.bfloat16,
                *pointers(masks, features),
                *sizes(batch, slots, count, channels),
                *pointers(sums),
                torch.get_num_threads(),
            )
            return sums[..., :-1], sums[..., -1:]
    # A sum over all pixels would overflow in half precision.
    with torch.autocast(masks.device.type, enabled=False):
        return masks @ features.float(), masks.sum(dim=2, keepdim=True)
