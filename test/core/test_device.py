"""Whether a device still computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from genesis_core.device import is_usable

GPU = torch.device("cuda", 0)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    return fail


def test_a_cpu_is_usable_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "ones", failing(RuntimeError("no")))
    assert is_usable(torch.device("cpu"))


@pytest.mark.parametrize(
    ("error", "usable"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
    ],
)
def test_a_gpu_that_fails_at_the_least_is_lost_but_a_full_one_is_not(
    monkeypatch: pytest.MonkeyPatch, error: Exception, usable: bool
) -> None:
    monkeypatch.setattr(torch, "ones", failing(error))
    assert is_usable(GPU) == usable


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_that_computes_is_usable() -> None:
    assert is_usable(GPU)
