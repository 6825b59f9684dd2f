"""Convolution, shift and ReLU6 as one oneDNN operation, for inference on a CPU.

PyTorch's own convolution brings the weights into oneDNN's layout each time, and shift and ReLU6 are
further passes over the map. These are the operations that torch.compile puts together.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

_RELU6: tuple[str, list[float]] = ("hardtanh", [0.0, 6.0])
_NOTHING: tuple[str, list[float]] = ("none", [])


@cache
def can_fuse(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the operations, and this processor that precision."""
    names = (
        "_linear_pointwise",
        "_convolution_pointwise",
        "_reorder_linear_weight",
        "_reorder_convolution_weight",
        "_is_mkldnn_bf16_supported",
        "_is_mkldnn_acl_supported",
    )
    operations, mkldnn = torch.ops.mkldnn, torch.backends.mkldnn
    if not mkldnn.is_available() or not mkldnn.enabled:
        return False
    if not all(hasattr(operations, name) for name in names):
        return False
    # The Arm Compute Library is fast at single operations only.
    if operations._is_mkldnn_acl_supported():
        return False
    if dtype == torch.bfloat16:
        return bool(operations._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class FusedConvolution:
    """A convolution with fixed weights, then ReLU6 where it is wanted.

    Args:
        weight: (C', C / groups, kernel, kernel), on the CPU, in a precision that ``can_fuse``.
        shift: (C',), what is added to each channel.
        size: (B, C, H, W) of typical maps, for which the layout is chosen; others work, too.
    """

    def __init__(
        self,
        weight: Tensor,
        shift: Tensor,
        *,
        stride: int,
        padding: int,
        groups: int,
        relu6: bool,
        size: torch.Size,
    ) -> None:
        operations = torch.ops.mkldnn
        self._dtype = weight.dtype
        self._shift = shift.to(weight.dtype)
        self._after = (*(_RELU6 if relu6 else _NOTHING), "")
        self._geometry = 2 * [padding], 2 * [stride], [1, 1], groups
        # Channels last, a 1x1 convolution is a product of matrices: small maps are faster so.
        self._is_product = weight.shape[2:] == (1, 1) and stride == 1 and groups == 1
        if self._is_product:
            pixels = size[0] * size[2] * size[3]
            matrix = weight[:, :, 0, 0].contiguous()
            self._weight: Tensor = operations._reorder_linear_weight(matrix, pixels)
        else:
            kernel = weight.contiguous(memory_format=torch.channels_last)
            self._weight = operations._reorder_convolution_weight(
                kernel, *self._geometry, list(size)
            )

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W), channels last -> (B, C', H', W')."""
        operations = torch.ops.mkldnn
        x = x.to(self._dtype)
        if not self._is_product:
            result: Tensor = operations._convolution_pointwise(
                x, self._weight, self._shift, *self._geometry, *self._after
            )
            return result
        pixels = x.permute(0, 2, 3, 1)
        flat = pixels.reshape(-1, pixels.shape[3])
        product: Tensor = operations._linear_pointwise(
            flat, self._weight, self._shift, *self._after
        )
        return product.view(*pixels.shape[:3], product.shape[1]).permute(0, 3, 1, 2)
