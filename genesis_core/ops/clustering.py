"""IC-SBP in C++ (native/icsbp.cpp): its steps, and small masks left out. models/icsbp.py says what
that computes.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from genesis_core.ops.native_library import native_library, pointers, runs_native, sizes


class Steps(NamedTuple):
    """What S steps of stick-breaking give, at HW pixels.

    Attributes:
        log_masks: (B, S + 1, HW), the last is what is left.
        log_scopes: (B, S + 1, HW), what was left before each step and after the last.
        log_alpha: (B, S, HW), before it is clamped.
        seeds: (B, S).
    """

    log_masks: Tensor
    log_scopes: Tensor
    log_alpha: Tensor
    seeds: Tensor


def native_gaussian_steps(
    pixels: Tensor, scores: Tensor, steps: int, log_scale: Tensor, alphas: tuple[float, float]
) -> Steps | None:
    """Stick-breaking with the Gaussian kernel, without gradients.

    Args:
        pixels: (B, E, HW) float32 embeddings, contiguous.
        scores: (B, HW) float32 seed scores, contiguous.
        steps: S.
        log_scale: scalar, log of the kernel's scale.
        alphas: the lowest and the highest value of the kernel.

    Returns:
        The steps. None where they cannot run: with gradients, on other devices than a CPU, and
        without a compiler.
    """
    library = _library(pixels)
    if library is None:
        return None
    batch, channels, count = pixels.shape
    found = Steps(
        log_masks=pixels.new_empty(batch, steps + 1, count),
        log_scopes=pixels.new_empty(batch, steps + 1, count),
        log_alpha=pixels.new_empty(batch, steps, count),
        seeds=pixels.new_empty(batch, steps, dtype=torch.int64),
    )
    library.icsbp(
        *pointers(pixels, scores),
        *sizes(batch, channels, count, steps),
        ctypes.c_double(float(log_scale.exp())),
        (ctypes.c_double * 2)(*alphas),
        *pointers(found.log_masks, found.log_alpha, found.log_scopes, found.seeds),
        torch.get_num_threads(),
    )
    return found


def native_skip_small(
    log_masks: Tensor, pixels_needed: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """What ``models.icsbp`` leaves out with ``small_slots: skip``, without gradients.

    Args:
        log_masks: (B, K, N) float32, contiguous and finite, the last one of what no seed took.
        pixels_needed: the smallest sum of a mask that is not too small.

    Returns:
        Order of the seeds, masks and their number, or None, see ``native_gaussian_steps``.
    """
    library = _library(log_masks)
    if library is None:
        return None
    batch, slots, count = log_masks.shape
    kept = torch.empty_like(log_masks)
    order = log_masks.new_empty(batch, slots - 1, dtype=torch.int64)
    used = log_masks.new_empty(batch, dtype=torch.int64)
    library.skip_small(
        *pointers(log_masks),
        *sizes(batch, slots, count),
        ctypes.c_double(pixels_needed),
        *pointers(kept, order, used),
        torch.get_num_threads(),
    )
    return order, kept, used


def _library(numbers: Tensor) -> ctypes.CDLL | None:
    if not runs_native(numbers):
        return None
    return native_library("icsbp.cpp", "finding slots will take longer")
