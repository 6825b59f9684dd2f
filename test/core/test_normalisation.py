"""ReLU(GroupNorm) in C++ against PyTorch's own operations, and what happens without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core import ops
from genesis_core.models import layers
from genesis_core.ops import normalisation
from genesis_core.ops.code_cache import compile_cache
from genesis_core.ops.normalisation import (
    group_norm_relu,
    runs_fused,
    shuffled_norm_relu,
)

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.usefixtures("compiler")
SIZES = pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [(3, 16, 5, 7), (1, 64, 16, 16), (5, 24, 1, 2), (2, 8, 4, 4)],
)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
# Rounding of results and gradients, relative to the largest of them.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Of other numbers a few lie so near to the ReLU's edge that rounding takes them across."""
    torch.manual_seed(0)


def map_of(*shape: int, dtype: torch.dtype) -> Tensor:
    """A map, channels last, whose mean is far from zero."""
    x = (3 + 2 * torch.randn(shape)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def norm_of(channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(8, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def assert_same(
    ours: Tensor, expected: Tensor, norm: nn.GroupNorm, *inputs: Tensor, close: float
) -> None:
    """Values, and gradients of the inputs (ours, then the other one's) and of the norm."""
    assert ours.shape == expected.shape
    cotangent = torch.randn_like(expected)
    gradients = []
    for result, x in zip((ours, expected), inputs, strict=True):
        gradients.append(
            torch.autograd.grad(result, (x, norm.weight, norm.bias), cotangent.to(result.dtype))
        )
    for one, other in zip((ours, *gradients[0]), (expected, *gradients[1]), strict=True):
        error = (one.double() - other.double()).abs().max()
        assert error <= close * other.double().abs().max(), f"{error:.1e}"


@needs_compiler
@DTYPES
@SIZES
def test_values_and_gradients(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    norm = norm_of(channels)
    x = map_of(batch, channels, height, width, dtype=dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    assert runs_fused(x), "there is no C++ compiler"
    expected = F.relu(F.group_norm(exact, 8, norm.weight.double(), norm.bias.double()))
    ours = group_norm_relu(x, norm)
    assert ours.dtype == dtype
    assert type(ours.grad_fn.next_functions[0][0]).__name__ == "_GroupNormReLUBackward"
    assert_same(ours, expected, norm, x, exact, close=CLOSE[dtype])


@needs_compiler
@DTYPES
@SIZES
def test_shuffled_values_and_gradients(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    norm = norm_of(channels)
    x = map_of(batch, 4 * channels, height, width, dtype=dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    # pixel_shuffle wants the phases of a channel side by side.
    together = exact.unflatten(1, (4, channels)).transpose(1, 2).flatten(1, 2)
    large = F.pixel_shuffle(together, 2)
    expected = F.relu(F.group_norm(large, 8, norm.weight.double(), norm.bias.double()))
    assert_same(shuffled_norm_relu(x, norm), expected, norm, x, exact, close=CLOSE[dtype])


@needs_compiler
@DTYPES
@SIZES
@pytest.mark.usefixtures("threads")
def test_inference_is_training_without_gradients(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    """Threads share the rows of an image where there are fewer images than threads."""
    norm = norm_of(channels)
    x = map_of(batch, channels, height, width, dtype=dtype)
    expected = F.relu(F.group_norm(x.double(), 8, norm.weight.double(), norm.bias.double()))
    with torch.no_grad():
        ours = group_norm_relu(x, norm)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    error = (ours.double() - expected).abs().max()
    assert error <= CLOSE[dtype] * expected.abs().max(), f"{error:.1e}"


@needs_compiler
def test_what_is_not_a_number_stays_so() -> None:
    """Or else training would not see that it diverges."""
    norm = norm_of(16)
    for bad in (torch.nan, torch.inf):
        for dtype in (torch.float32, torch.bfloat16):
            x = map_of(2, 16, 4, 4, dtype=dtype)
            x[1, 3, 2, 2] = bad
            y = group_norm_relu(x.requires_grad_(), norm)
            assert y[0].isfinite().all()
            assert y[1, 2:4].isnan().all()  # the group


def test_other_layouts_take_pytorchs_operations() -> None:
    norm = norm_of(16)
    x = map_of(2, 16, 4, 4, dtype=torch.float32)
    expected = F.relu(norm(x))
    planes = group_norm_relu(x.contiguous().requires_grad_(), norm)
    torch.testing.assert_close(planes, expected)
    double = group_norm_relu(x.double().requires_grad_(), norm.double())
    torch.testing.assert_close(double, expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["no compiler", "no sense", "no cache"])
def test_without_a_compiler_training_goes_on(problem: str, tmp_path: Path) -> None:
    """One warning that says why, and the same result."""
    script = """
import logging
import torch
from torch import nn
from genesis_core.ops.normalisation import group_norm_relu, runs_fused
logging.basicConfig()
x = torch.rand(2, 16, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
for _ in range(2):
    assert not runs_fused(x)
    group_norm_relu(x, nn.GroupNorm(8, 16)).sum().backward()
assert x.grad is not None
"""
    file = tmp_path / "file"
    file.touch()
    wrong = {"no compiler": {"CXX": "not-a-compiler", "GENESIS_CACHE": str(tmp_path)},
             "no sense": {"CXX": "'g++", "GENESIS_CACHE": str(tmp_path)},
             "no cache": {"GENESIS_CACHE": str(file)}}  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, **wrong[problem]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr.count("models will be slower on the CPU") == 1, result.stderr
    reason = {
        "no compiler": "not-a-compiler",
        "no sense": "No closing quotation",
        "no cache": "file",
    }
    assert reason[problem] in result.stderr


@pytest.mark.slow
@needs_compiler
def test_what_was_compiled_and_is_damaged_is_compiled_again(tmp_path: Path) -> None:
    script = """
import torch
from genesis_core.ops.normalisation import runs_fused
assert runs_fused(torch.rand(1, 8, 2, 2))
"""
    run = [sys.executable, "-c", script]
    environment = {**os.environ, "GENESIS_CACHE": str(tmp_path)}
    subprocess.run(run, cwd=ROOT, env=environment, check=True)
    (library,) = tmp_path.iterdir()
    whole = library.read_bytes()
    library.write_bytes(b"not a library")
    subprocess.run(run, cwd=ROOT, env=environment, check=True)
    assert library.read_bytes() == whole


@pytest.mark.parametrize(("given", "expected"), [(".", ""), ("~/cache", "home/cache")])
def test_the_cache_may_be_named_from_here_or_from_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GENESIS_CACHE", given)
    assert compile_cache() == tmp_path / expected


def test_without_triton_maps_on_a_gpu_take_pytorchs_operations(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, and the same result."""
    monkeypatch.setattr(normalisation, "_on_gpu", lambda x: True)
    monkeypatch.setitem(sys.modules, "genesis_core.ops.triton_normalisation", None)
    monkeypatch.delattr(ops, "triton_normalisation", raising=False)  # where a test imported it
    normalisation._triton.cache_clear()
    try:
        norm, x = norm_of(16), map_of(2, 16, 4, 4, dtype=torch.float32)
        assert not runs_fused(x)
        for _ in range(2):
            torch.testing.assert_close(group_norm_relu(x, norm), F.relu(norm(x)))
    finally:
        normalisation._triton.cache_clear()
    (entry,) = caplog.records
    assert "models will be slower on the GPU, as Triton cannot be used" in entry.getMessage()


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decoders_with_and_without_it_agree(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In half precision, where convolutions give it phases in another order; not in float16."""
    decoder = layers.BroadcastDecoder(64, 8, 16, 4).to(memory_format=torch.channels_last)
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):  # equal parameters would hide a wrong order
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    latents = torch.randn(3, 8)

    def run(expected: bool) -> list[Tensor]:
        decoder.zero_grad()
        with torch.autocast("cpu", dtype):
            assert runs_fused(latents, convolved=True) == expected
            out = decoder(latents)
        out.float().square().mean().backward()
        return [out.detach(), *(p.grad.clone() for p in decoder.parameters())]

    ours = run(expected=dtype == torch.bfloat16)
    monkeypatch.setattr(normalisation, "_library", lambda: None)
    for one, other in zip(ours, run(expected=False), strict=True):
        assert one.shape == other.shape
        error = (one.float() - other.float()).norm()
        assert error <= 0.03 * other.float().norm(), f"{error:.1e}"


# On a GPU, in Triton; test_triton_normalisation.py checks the same kernels without one

CLOSE_ON_CUDA = CLOSE | {torch.float16: 1e-3}
LARGE = [(32, 64, 64, 64), (2, 128, 4, 4), (3, 24, 33, 65)]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", list(CLOSE_ON_CUDA))
@pytest.mark.parametrize("phases", [1, 4])
@pytest.mark.parametrize(("batch", "channels", "height", "width"), LARGE)
def test_cuda_values_and_gradients(
    batch: int, channels: int, height: int, width: int, phases: int, dtype: torch.dtype
) -> None:
    norm = norm_of(channels).cuda()
    x = map_of(batch, phases * channels, height, width, dtype=dtype).cuda().requires_grad_()
    assert runs_fused(x), "Triton cannot be used"
    exact = whole = x.detach().double().requires_grad_()
    if phases == 4:
        together = exact.unflatten(1, (4, channels)).transpose(1, 2).flatten(1, 2)
        whole = F.pixel_shuffle(together, 2)
    expected = F.relu(F.group_norm(whole, 8, norm.weight.double(), norm.bias.double()))
    ours = (group_norm_relu if phases == 1 else shuffled_norm_relu)(x, norm)
    assert ours.dtype == dtype and ours.is_contiguous(memory_format=torch.channels_last)
    assert_same(ours, expected, norm, x, exact, close=CLOSE_ON_CUDA[dtype])


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_decoders_with_and_without_it_agree(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = layers.BroadcastDecoder(64, 8, 16, 4).cuda().to(memory_format=torch.channels_last)
    for module in decoder.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    latents, found = torch.randn(3, 8, device="cuda"), []
    for fused in (True, False):
        if not fused:
            monkeypatch.setattr(normalisation, "_triton", lambda: None)
        decoder.zero_grad()
        with torch.autocast("cuda", dtype):
            assert runs_fused(latents, convolved=True) == fused
            out = decoder(latents)
        out.float().square().mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in decoder.parameters())])
    for one, other in zip(*found, strict=True):
        error = (one.float() - other.float()).norm()
        assert error <= 0.03 * other.float().norm(), f"{error:.1e}"


@pytest.mark.cuda
def test_cuda_graphs_hold_it_forward_and_backward() -> None:
    """Replayed with another map, a graph gives that one's result."""
    norm = norm_of(64).cuda()
    given = map_of(4, 256, 16, 16, dtype=torch.bfloat16).cuda().requires_grad_()

    def step() -> tuple[Tensor, ...]:
        y = shuffled_norm_relu(given, norm)
        return (y, *torch.autograd.grad(y, (given, norm.weight, norm.bias), torch.ones_like(y)))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = step()
    with torch.no_grad():
        given.copy_(torch.randn_like(given))
    graph.replay()
    replayed = [tensor.clone() for tensor in recorded]
    for one, other in zip(replayed, step(), strict=True):
        assert torch.equal(one, other)
