"""Random numbers that depend on nothing but a seed, a place and their order.

Each image of a run has a place; what is drawn for it is a pure function of seed and place, on every
device. So a run may be resumed, spread over processes or captured in a CUDA graph without changing
what is drawn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class CounterRandom:
    """Draws for B images; each call gives new numbers, the same at every run of the same calls.

    Args:
        seed: of the run.
        places: (B,) int64, one for each image.
        purpose: keeps the draws of several users apart.
    """

    def __init__(self, seed: int, places: Tensor, purpose: int) -> None:
        low, high = places & _MASK, (places >> 32) & _MASK
        key = _mix(low ^ (seed & _MASK))
        key = _mix(key ^ high ^ ((seed >> 32) & _MASK))
        self._key = _mix((key + purpose * 0x9E3779B9) & _MASK)
        self._calls = 0

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B, *shape) float32, evenly spread over [low, high)."""
        # 24 bits: what a float32 holds exactly.
        unit = (self._bits(shape) >> 8).float() * 2.0**-24
        return unit if (low, high) == (0.0, 1.0) else low + (high - low) * unit

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal (Box and Muller's transform)."""
        # Never zero, whose logarithm is infinite.
        radius = ((self._bits(shape) >> 8).float() + 0.5) * 2.0**-24
        angle = self.uniform(*shape) * (2 * math.pi)
        return (-2 * radius.log()).sqrt() * angle.cos()

    def chance(self, probability: float, *shape: int) -> Tensor:
        """(B, *shape) bool, true with this probability."""
        return self.uniform(*shape) < probability

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) int64, 32 random bits each."""
        self._calls += 1
        key = _mix((self._key + self._calls * 0x85EBCA6B) & _MASK)
        index = torch.arange(math.prod(shape), device=key.device)
        bits = _mix(_mix(index ^ key[:, None]) ^ _mix(key ^ 0xC2B2AE35)[:, None])
        return bits.view(len(key), *shape)


def _mix(bits: Tensor) -> Tensor:
    """A permutation of the numbers of 32 bits (in int64) that looks like chance.

    Multiplications, and shifts to the right, as at the end of MurmurHash3 (Appleby), with the
    constants that Wellons found to mix best.
    """
    bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & _MASK
    bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & _MASK
    return bits ^ (bits >> 16)
