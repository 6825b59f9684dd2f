"""The Triton kernels on the CPU, by Triton's interpreter; run by test_triton_normalisation.py.

The interpreter must be chosen before kernels are imported, so this runs in a process of its own.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.plain import PlainGenesisV2
from genesis_core import GenesisV2, GenesisV2Config
from genesis_core.models import layers
from genesis_core.ops import normalisation, triton_normalisation
from genesis_core.ops.normalisation import group_norm_relu, runs_fused, shuffled_norm_relu

# Rounding of results and gradients, relative to the largest of them.
CLOSE = {torch.float32: 1e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
# Images, channels, height, width, groups: channels and pixels that are no powers of two; one group
# for each channel; maps of one tile, and of several in each part.
SMALL = [(2, 16, 5, 7, 8), (3, 24, 1, 2, 8)]
CASES = pytest.mark.parametrize(
    ("size", "tile", "dtype"),
    [
        *((size, 4096, dtype) for size in SMALL for dtype in CLOSE),
        ((1, 16, 12, 12, 16), 256, torch.float32),
        ((1, 16, 12, 12, 16), 256, torch.bfloat16),
    ],
)


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the way that maps on a GPU take."""
    torch.manual_seed(0)
    monkeypatch.setattr(normalisation, "_on_gpu", lambda x: True)
    monkeypatch.setattr(normalisation, "_triton", lambda: triton_normalisation)


def map_of(*shape: int, dtype: torch.dtype) -> Tensor:
    """A map, channels last, whose mean is far from zero."""
    x = (3 + 2 * torch.randn(shape)).to(dtype)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_()


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def expected(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    weight, bias = norm.weight.double(), norm.bias.double()
    return F.relu(F.group_norm(x, norm.num_groups, weight, bias, norm.eps))


def assert_same(ours: Tensor, truth: Tensor, norm: nn.GroupNorm, x: Tensor, exact: Tensor) -> None:
    """Values, and gradients of the map and of the norm's parameters."""
    assert ours.dtype == x.dtype
    close, cotangent = CLOSE[x.dtype], torch.randn(truth.shape).to(x.dtype)
    gradients = torch.autograd.grad(ours, (x, norm.weight, norm.bias), cotangent)
    true = torch.autograd.grad(truth, (exact, norm.weight, norm.bias), cotangent.double())
    for one, other in zip((ours, *gradients), (truth, *true), strict=True):
        assert one.shape == other.shape
        error = (one.double() - other.double()).abs().max()
        assert error <= close * other.double().abs().max(), f"{error:.1e}"


@CASES
def test_values_and_gradients(
    size: tuple[int, ...], tile: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_normalisation, "_TILE", tile)
    monkeypatch.setattr(triton_normalisation, "_PARTS", 5)
    batch, channels, height, width, groups = size
    norm, x = norm_of(channels, groups), map_of(batch, channels, height, width, dtype=dtype)
    exact = x.detach().double().requires_grad_()
    ours = group_norm_relu(x, norm)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_same(ours, expected(exact, norm), norm, x, exact)


@CASES
def test_shuffled_values_and_gradients(
    size: tuple[int, ...], tile: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_normalisation, "_TILE", tile)
    monkeypatch.setattr(triton_normalisation, "_PARTS", 5)
    batch, channels, height, width, groups = size
    norm, x = norm_of(channels, groups), map_of(batch, 4 * channels, height, width, dtype=dtype)
    exact = x.detach().double().requires_grad_()
    # pixel_shuffle wants the phases of a channel side by side.
    together = exact.unflatten(1, (4, channels)).transpose(1, 2).flatten(1, 2)
    truth = expected(F.pixel_shuffle(together, 2), norm)
    assert_same(shuffled_norm_relu(x, norm), truth, norm, x, exact)


def test_a_mean_far_larger_than_the_differences_costs_no_digits() -> None:
    """Sums of squares would: in float32 they know 1000 +- 0.1 to a tenth of its variance."""
    norm = norm_of(8, 8)
    x = (1000 + 0.1 * torch.randn(1, 8, 16, 16)).contiguous(memory_format=torch.channels_last)
    truth = expected(x.double(), norm)
    error = (group_norm_relu(x, norm).double() - truth).abs().max()
    assert error <= 5e-3 * truth.abs().max()


def test_what_is_not_a_number_stays_so() -> None:
    """Or else training would not see that it diverges."""
    for bad in (torch.nan, torch.inf):
        x = map_of(2, 16, 4, 4, dtype=torch.float32).detach()
        x[1, 3, 2, 2] = bad
        y = group_norm_relu(x, norm_of(16, 8))
        assert y[0].isfinite().all()
        assert y[1, 2:4].isnan().all()  # the group


def test_what_does_not_fit_takes_pytorchs_operations() -> None:
    norm = norm_of(16, 8)
    x = map_of(2, 16, 4, 4, dtype=torch.float32)
    assert runs_fused(x) and not runs_fused(x, channels=2048) and not runs_fused(x.double())
    torch.testing.assert_close(group_norm_relu(x.contiguous(), norm), F.relu(norm(x)))
    with torch.autocast("cpu", torch.bfloat16):
        assert runs_fused(x.double(), convolved=True)


def test_the_model_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, and gradients of all weights, the decoder's phases included."""
    monkeypatch.setattr(layers, "is_cpu_float32", lambda x: False)  # as on a GPU
    config = GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=6)
    model = GenesisV2(config)
    with torch.no_grad():
        model.embedding.gate.fill_(1.0)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms that do nothing would hide a wrong order
                parameter.add_(0.3 * torch.randn_like(parameter))
    plain = PlainGenesisV2.like(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, scores, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32), torch.randn(2, 3, 6)
    started: list[int] = []
    forward = triton_normalisation.forward

    def counted(x: Tensor, *others: object) -> tuple[Tensor, Tensor, Tensor]:
        started.append(x.shape[3])
        return forward(x, *others)

    monkeypatch.setattr(triton_normalisation, "forward", counted)
    ours = model(images, seed_scores=scores, noise=noise)
    assert started.count(4) == 4 and started.count(1) == 10  # decoder; UNet and heads
    monkeypatch.setattr(normalisation, "_triton", lambda: None)
    theirs = plain(images, seed_scores=scores, noise=noise)
    monkeypatch.setattr(normalisation, "_triton", lambda: triton_normalisation)
    for name in ("log_attention", "log_masks", "latent_mean", "reconstruction"):
        one, other = getattr(ours, name), getattr(theirs, name)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for each, out in ((model, ours), (plain, theirs)):
        losses = each.losses(images, out)
        (losses.nll.mean() + losses.kl.sum(dim=1).mean()).backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        # Some biases cancel, in distances or in a norm: their gradient is rounding alone.
        scale = max(float(other.grad.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(
            one.grad / scale, other.grad / scale, rtol=0, atol=2e-3, msg=name
        )
