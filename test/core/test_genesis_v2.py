"""GENESIS-V2 against golden tensors, its own definition, and what users rely on."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from genesis_core import ConfigError, GenesisV2, GenesisV2Config, load_model
from genesis_core.models.genesis_v2 import PixelFeatures
from genesis_core.models.icsbp import KERNELS, NORMALISATIONS
from genesis_core.models.losses import mask_supervision

Golden = Callable[[str], tuple[Path, dict[str, Any]]]
ModelFactory = Callable[..., GenesisV2]

GOLDEN_NAMES = ("gaussian_64", "laplacian_plainconv_indepprior_64", "maskloss_128")
# Seeds far enough apart in score that rounding does not change them.
SPREAD_SCORES = torch.full((4, 1, 32, 32), 1e-6)
SPREAD_SCORES[:, 0, 8, 8] = 1.0
SPREAD_SCORES[:, 0, 25, 20] = 0.1
SPREAD_SCORES[:, 0, 2, 30] = 0.01

needs_cuda = pytest.mark.cuda


def assert_close(actual: Tensor | None, expected: np.ndarray, name: str) -> None:
    """1e-4 relative; values that nearly cancel are measured against the tensor's largest."""
    assert actual is not None, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name
    )


# Parity


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden_forward_pass_and_losses(name: str, golden: Golden) -> None:
    path, expected = golden(f"genesis_v2_{name}.npz")
    settings = json.loads(str(expected["config"]))
    model = load_model(
        path.with_suffix(".ckpt"), num_slots=settings["K_steps"], kernel=settings["kernel"]
    )
    assert not model.config.mask_loss  # weights do not show it
    model.config = dataclasses.replace(model.config, mask_loss=settings["klm_loss"])
    assert model.config.image_size == settings["img_size"]
    assert model.config.feature_dim == settings["feat_dim"]
    assert model.config.semi_conv == settings["semiconv"]
    assert model.config.autoregressive_prior == settings["autoreg_prior"]
    images = torch.from_numpy(expected["input"])
    out = model(
        images,
        seed_scores=torch.from_numpy(expected["seed_scores"]),
        noise=torch.from_numpy(expected["eps"]),
    )
    losses = model.losses(images, out)
    assert_close(out.log_attention, expected["log_m"], "log_attention")
    assert_close(out.latent_mean, expected["mu"], "latent_mean")
    assert_close(out.latent_std, expected["sigma"], "latent_std")
    assert_close(out.latents, expected["z"], "latents")
    assert_close(out.means, expected["x_r"], "means")
    assert_close(out.log_masks, expected["log_m_r"], "log_masks")
    assert_close(out.reconstruction, expected["recon"], "reconstruction")
    assert_close(losses.nll, expected["err"], "nll")
    assert_close(losses.kl, expected["kl_l"], "kl")
    assert settings["klm_loss"] == ("kl_m" in expected)
    if settings["klm_loss"]:
        assert_close(losses.mask_kl, expected["kl_m"], "mask_kl")


def test_every_golden_genesis_v2_file_is_compared(golden: Golden) -> None:
    folder = golden(f"genesis_v2_{GOLDEN_NAMES[0]}.npz")[0].parent
    found = {path.stem.removeprefix("genesis_v2_") for path in folder.glob("genesis_v2_*.npz")}
    assert found == set(GOLDEN_NAMES)


# Shapes and values that hold for every variant


@pytest.mark.parametrize("image_size", [32, 64, 128, 256])
def test_every_image_size(image_size: int, make_model: ModelFactory) -> None:
    model = make_model(image_size=image_size, num_slots=3)
    images = torch.rand(2, 3, image_size, image_size)
    out = model(images)
    size = (image_size, image_size)
    assert out.log_attention.shape == out.log_masks.shape == (2, 3, 1, *size)
    assert out.means.shape == (2, 3, 3, *size)
    assert out.reconstruction.shape == (2, 3, *size)
    assert out.latents.shape == out.latent_mean.shape == out.latent_std.shape == (2, 3, 6)
    assert out.num_slots.tolist() == [3, 3]
    losses = model.losses(images, out)
    assert losses.nll.shape == (2,) and losses.kl.shape == (2, 3)
    assert losses.mask_kl is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("semi_conv", [True, False])
@pytest.mark.parametrize("prior", [True, False])
def test_every_variant_has_proper_masks_and_finite_gradients(
    kernel: str, semi_conv: bool, prior: bool, make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model(
        kernel=kernel, semi_conv=semi_conv, autoregressive_prior=prior, mask_loss=True
    ).train()
    generator = torch.Generator().manual_seed(0)
    out = model(images, generator=generator)
    for log_masks in (out.log_attention, out.log_masks):
        torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones(4, 1, 32, 32))
    torch.testing.assert_close(out.reconstruction, (out.log_masks.exp() * out.means).sum(dim=1))
    assert out.means.min() >= 0 and out.means.max() <= 1
    losses = model.losses(images, out)
    (losses.nll.mean() + losses.kl.sum(dim=1).mean() + losses.mask_kl.mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.icsbp.log_scale.grad != 0
    if semi_conv:
        assert model.embedding.gate.grad != 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_masks_normalised_by_a_softmax_learn(
    kernel: str, make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model(kernel=kernel, mask_normalisation="softmax", mask_loss=True).train()
    out = model(images, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(out.log_attention.exp().sum(dim=1), torch.ones(4, 1, 32, 32))
    losses = model.losses(images, out)
    labels = torch.zeros(4, 32, 32, dtype=torch.uint8)
    labels[:, :, 16:] = 1
    supervision = mask_supervision(out.clusters, labels).mean()
    (losses.nll.mean() + losses.kl.sum(dim=1).mean() + losses.mask_kl.mean()).backward(
        retain_graph=True
    )
    supervision.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.icsbp.log_scale.grad != 0 and model.embedding.gate.grad != 0


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("threshold", [None, 100.0])
def test_hard_masks_go_through_the_whole_model(
    normalisation: str, threshold: float | None, make_model: ModelFactory, images: Tensor
) -> None:
    """Zeros and ones; slots that explain nothing are neither decoded nor divergent."""
    model = make_model(num_slots=9, mask_normalisation=normalisation)
    with torch.no_grad():
        model.icsbp.log_scale.add_(4.0)  # wide kernels: few clusters explain the image
        out = model(images, stop_threshold=threshold, hard_masks=True)
        losses = model.losses(images, out)
    attention = out.log_attention.exp()
    assert ((attention == 0) | (attention == 1)).all() and (attention.sum(dim=1) == 1).all()
    assert out.num_slots.max() < 9 and out.latents.shape[1] == out.num_slots.max()
    for index, used in enumerate(out.num_slots.tolist()):
        assert (attention[index, :used].sum(dim=(1, 2, 3)) > 0).all()
        assert (out.log_masks[index, used:] == -torch.inf).all()
        assert (losses.kl[index, used:] == 0).all()
    torch.testing.assert_close(out.log_masks.exp().sum(dim=1), torch.ones(4, 1, 32, 32))
    assert losses.nll.isfinite().all() and losses.kl.isfinite().all()


def test_gradients_stay_finite_where_the_kernel_saturates(
    make_model: ModelFactory, images: Tensor
) -> None:
    """Far apart embeddings: alpha is 1 at the seed and 0, or outside the support, elsewhere."""
    for kernel in KERNELS:
        model = make_model(kernel=kernel, mask_loss=True).train()
        with torch.no_grad():
            model.embedding.gate.fill_(1000.0)
            model.embedding.conv.weight.mul_(100)
        out = model(images)
        losses = model.losses(images, out)
        assert losses.nll.isfinite().all() and losses.kl.isfinite().all()
        (losses.nll.sum() + losses.kl.sum() + losses.mask_kl.sum()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad.isfinite().all(), (kernel, name)


def test_latents_and_kl_follow_their_definition(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model(autoregressive_prior=False)
    noise = torch.randn(4, 4, 6)
    out = model(images, noise=noise)
    torch.testing.assert_close(out.latents, out.latent_mean + noise * out.latent_std)
    posterior, prior = Normal(out.latent_mean, out.latent_std), Normal(0.0, 1.0)
    expected = (posterior.log_prob(out.latents) - prior.log_prob(out.latents)).sum(dim=2)
    torch.testing.assert_close(model.losses(images, out).kl, expected, rtol=1e-4, atol=1e-5)


def test_autoregressive_kl_conditions_on_the_slots_before(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model()
    out = model(images, noise=torch.randn(4, 4, 6))
    assert model.prior is not None
    cell = nn.LSTMCell(6, 24)
    for name, value in model.prior.lstm.state_dict().items():
        cell.load_state_dict({**cell.state_dict(), name.removesuffix("_l0"): value})
    mean, std, state = torch.zeros(4, 6), torch.ones(4, 6), None
    for slot in range(4):
        z = out.latents[:, slot]
        posterior = Normal(out.latent_mean[:, slot], out.latent_std[:, slot])
        expected = (posterior.log_prob(z) - Normal(mean, std).log_prob(z)).sum(dim=1)
        actual = model.losses(images, out).kl[:, slot]
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
        state = cell(z, state)
        mean, std = model.prior.linear(state[0]).chunk(2, dim=1)
        mean, std = mean.tanh(), (std + 4).sigmoid() + 1e-4


def test_pooled_features_are_averages_within_the_mask(make_model: ModelFactory) -> None:
    """Equation 4: a slot's features are the mask's weighted mean, whatever the mask's size."""
    model = make_model()
    features, masks = torch.rand(2, 8, 32, 32), torch.rand(2, 3, 32, 32)
    pixels = model.feature_head(features).detach().numpy().astype(np.float64)
    sums = np.einsum("bkhw,bchw->bkc", masks.numpy().astype(np.float64), pixels)
    pooled = sums / (masks.sum(dim=(2, 3)).numpy()[..., None] + 1e-5)
    moments = model.latent_head(torch.from_numpy(pooled).float())
    mean, std = model.posterior(features, masks)
    torch.testing.assert_close(mean, moments[..., :6], rtol=1e-4, atol=1e-5)
    expected_std = (moments[..., 6:] + 0.5).exp().log1p() + 1e-8
    torch.testing.assert_close(std, expected_std, rtol=1e-4, atol=1e-5)
    small = torch.zeros(2, 2, 32, 32)
    small[:, 0, 9, 9], small[:, 1, 9, 9] = 1.0, 0.01
    mean, _ = model.posterior(features, small)
    torch.testing.assert_close(mean[:, 0], mean[:, 1], rtol=0, atol=0.01)


def test_the_encoder_cannot_tell_a_dark_image_from_a_bright_one(
    make_model: ModelFactory, images: Tensor
) -> None:
    """Convolutions without bias, each normalised: data for the decoder are to be exposed alike."""
    model = make_model(num_slots=4).eval()
    bright, dark = model(images), model(0.5 * images)
    torch.testing.assert_close(
        dark.log_attention.exp(), bright.log_attention.exp(), atol=2e-2, rtol=0
    )
    torch.testing.assert_close(dark.latent_mean, bright.latent_mean, atol=1e-2, rtol=0)
    shifted = model(0.5 * images + 0.5)
    assert (shifted.latent_mean - bright.latent_mean).abs().max() > 5e-2


def test_posterior_std_can_be_set(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model(num_slots=4).eval()
    before = model(images)
    model.set_posterior_std(0.05)
    after = model(images)
    torch.testing.assert_close(after.latent_std, torch.full_like(after.latent_std, 0.05))
    torch.testing.assert_close(after.latent_mean, before.latent_mean)


def test_half_precision_pooling_does_not_overflow(make_model: ModelFactory) -> None:
    """1024 pixels of features around 1000 sum to more than float16 holds."""
    model = make_model()
    with torch.no_grad():
        model.feature_head[1].bias.fill_(1000.0)
    features, masks = torch.rand(1, 8, 32, 32), torch.ones(1, 1, 32, 32)
    expected, _ = model.posterior(features, masks)
    with torch.autocast("cpu", torch.float16):
        mean, std = model.posterior(features, masks)
    assert std.isfinite().all()
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.02)


# Randomness


def test_evaluation_mode_is_repeatable_in_any_batch(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model()
    together = model(images)
    torch.rand(7)  # the global generator plays no part
    again = model(images)
    assert torch.equal(together.reconstruction, again.reconstruction)
    for order in ([2], [3, 2], [2, 2, 0, 1, 3]):
        out = model(images[order])
        place = order.index(2)
        for name in ("log_attention", "latents", "log_masks", "reconstruction"):
            actual, expected = getattr(out, name)[place], getattr(together, name)[2]
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, msg=name)


def test_training_mode_draws_from_the_global_generator(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model().train()
    torch.manual_seed(5)
    first, second = model(images), model(images)
    torch.manual_seed(5)
    third = model(images)
    assert torch.equal(first.latents, third.latents)
    assert not torch.equal(first.latents, second.latents)
    assert not torch.equal(first.clusters.seeds, second.clusters.seeds)


def test_a_generator_decides_seed_scores_and_noise(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model()
    first = model(images, generator=torch.Generator().manual_seed(3))
    second = model(images, generator=torch.Generator().manual_seed(3))
    other = model(images, generator=torch.Generator().manual_seed(4))
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.log_masks, second.log_masks)
    assert not torch.equal(first.clusters.seeds, other.clusters.seeds)


def test_given_seed_scores_choose_the_first_seed(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model()
    scores = torch.rand(4, 1, 32, 32) * 0.9
    for index in range(4):
        scores[index, 0, 5, index] = 0.95
    out = model(images, seed_scores=scores)
    assert out.clusters.seeds[:, 0].tolist() == [5 * 32 + index for index in range(4)]


# Flexible slots


def used_by_hand(log_attention: Tensor, threshold: float) -> list[int]:
    """How many slots each image uses, from the masks of a fixed number of slots."""
    areas = log_attention.exp().sum(dim=(2, 3, 4))
    counts = []
    for row in areas[:, :-1].tolist():
        small = [index for index, area in enumerate(row) if area < threshold]
        counts.append(small[0] + 1 if small else len(row) + 1)
    return counts


def flexible_case(
    model: GenesisV2, images: Tensor
) -> tuple[dict[str, Tensor], float, list[int], Tensor]:
    """Seed scores and noise, and a threshold at which the images use different numbers."""
    generator = torch.Generator().manual_seed(2)
    given = {
        "seed_scores": torch.rand(4, 1, 32, 32, generator=generator),
        "noise": torch.randn(4, model.config.num_slots, 6, generator=generator),
    }
    fixed = model(images, **given).log_attention
    for pixels in range(1, 1024):
        counts = used_by_hand(fixed, pixels)
        if len(set(counts)) >= 3 and max(counts) < model.config.num_slots:
            return given, pixels * 4.0, counts, fixed  # stated at 64x64
    raise AssertionError("no threshold tells these images apart")


def test_flexible_slots_end_per_image(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model(num_slots=6)
    given, threshold, counts, fixed = flexible_case(model, images)
    out = model(images, **given, stop_threshold=threshold)
    slots = max(counts)
    assert out.num_slots.tolist() == counts
    assert out.log_attention.shape == out.log_masks.shape == (4, slots, 1, 32, 32)
    assert out.means.shape == (4, slots, 3, 32, 32)
    assert out.latents.shape == out.latent_mean.shape == (4, slots, 6)
    attention, masks = out.log_attention.exp(), out.log_masks.exp()
    for index, used in enumerate(counts):
        torch.testing.assert_close(attention[index, : used - 1], fixed.exp()[index, : used - 1])
        # The dropped masks' pixels are in what remains.
        rest = fixed.exp()[index, used - 1 :].sum(dim=0)
        torch.testing.assert_close(attention[index, used - 1], rest)
        for zero in (attention[index, used:], masks[index, used:], out.means[index, used:]):
            assert (zero == 0).all()
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(4, 1, 32, 32))
    assert out.reconstruction.isfinite().all()
    losses = model.losses(images, out)
    assert losses.nll.isfinite().all() and losses.kl.isfinite().all()
    for index, used in enumerate(counts):
        assert (losses.kl[index, used:] == 0).all()
        assert (losses.kl[index, :used] != 0).all()


def test_flexible_slots_do_not_depend_on_the_batch(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model(num_slots=6, mask_loss=True)
    given, threshold, counts, _ = flexible_case(model, images)
    out = model(images, **given, stop_threshold=threshold)
    losses = model.losses(images, out)
    for index, used in enumerate(counts):
        one = slice(index, index + 1)
        alone = model(
            images[one],
            seed_scores=given["seed_scores"][one],
            noise=given["noise"][one],
            stop_threshold=threshold,
        )
        assert alone.num_slots.tolist() == [used]
        assert alone.latents.shape == (1, used, 6)
        for name in ("log_attention", "latents", "log_masks", "means"):
            actual, expected = getattr(out, name)[index, :used], getattr(alone, name)[0]
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4, msg=name)
        torch.testing.assert_close(out.reconstruction[index], alone.reconstruction[0])
        single = model.losses(images[one], alone)
        torch.testing.assert_close(losses.nll[index], single.nll[0])
        torch.testing.assert_close(losses.kl[index, :used], single.kl[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(losses.mask_kl[index], single.mask_kl[0], rtol=1e-3, atol=0)


def test_gradients_are_finite_with_unused_slots(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model(num_slots=6, mask_loss=True)
    given, threshold, _, _ = flexible_case(model, images)
    losses = model.losses(images, model(images, **given, stop_threshold=threshold))
    (losses.nll.sum() + losses.kl.sum() + losses.mask_kl.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_extreme_thresholds(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model()
    everything = model(images, stop_threshold=0.0)
    fixed = model(images)
    assert everything.num_slots.tolist() == [4] * 4
    torch.testing.assert_close(everything.log_masks, fixed.log_masks)
    nothing = model(images, stop_threshold=1e9)
    assert model.losses(images, nothing).kl.shape == (4, 1)
    assert nothing.num_slots.tolist() == [1] * 4
    assert torch.equal(nothing.log_attention, torch.zeros(4, 1, 1, 32, 32))
    assert torch.equal(nothing.log_masks, torch.zeros(4, 1, 1, 32, 32))
    torch.testing.assert_close(nothing.reconstruction, nothing.means[:, 0])


def test_number_of_slots_can_be_overridden(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model()
    assert model(images, num_slots=2).log_masks.shape[1] == 2
    assert model(images, num_slots=9).latents.shape == (4, 9, 6)


def test_without_decoding_masks_and_latents_are_the_same(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model()
    full, short = model(images), model(images, decode=False)
    assert torch.equal(full.log_attention, short.log_attention)
    assert torch.equal(full.latent_mean, short.latent_mean)
    assert short.log_masks is short.means is short.reconstruction is None
    with pytest.raises(ValueError, match="decode=True"):
        model.losses(images, short)


# Half precision


def test_autocast_bfloat16_is_finite_and_close(make_model: ModelFactory, images: Tensor) -> None:
    """bfloat16 has 8 bits of precision (0.4 %); a dozen layers let errors grow about tenfold.

    Seeds are fixed by widely spread scores: another seed would be another, equally good, result.
    Single pixels at a mask's edge may differ by 0.1, the masks as a whole by 0.01.
    """
    model = make_model()
    exact = model(images, seed_scores=SPREAD_SCORES)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, seed_scores=SPREAD_SCORES)
        losses = model.losses(images, out)
    assert torch.equal(out.clusters.seeds, exact.clusters.seeds)
    for name in ("log_attention", "log_masks", "means", "latents", "reconstruction"):
        value = getattr(out, name)
        assert value.dtype == torch.float32 and value.isfinite().all(), name
    for name in ("log_attention", "log_masks"):
        error = (getattr(out, name).exp() - getattr(exact, name).exp()).abs()
        assert error.max() < 0.1 and error.mean() < 0.01, name
    torch.testing.assert_close(out.latent_mean, exact.latent_mean, rtol=0, atol=0.02)
    torch.testing.assert_close(out.latent_std, exact.latent_std, rtol=0, atol=0.02)
    torch.testing.assert_close(out.reconstruction, exact.reconstruction, rtol=0, atol=0.1)
    expected = model.losses(images, exact)
    torch.testing.assert_close(losses.nll, expected.nll, rtol=0.01, atol=0)
    torch.testing.assert_close(losses.kl, expected.kl, rtol=0.01, atol=0.05)
    # What must be exact is: masks sum to one to float32 precision.
    sums = out.log_attention.exp().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(4, 1, 32, 32), rtol=0, atol=1e-5)


def test_autocast_training_step_has_finite_gradients(
    make_model: ModelFactory, images: Tensor
) -> None:
    model = make_model(mask_loss=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(images, model(images))
        loss = losses.nll.mean() + losses.kl.sum(dim=1).mean() + losses.mask_kl.mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_cpu(dtype: torch.dtype, make_model: ModelFactory, images: Tensor) -> None:
    exact = make_model()(images, seed_scores=SPREAD_SCORES)
    model = make_model().cuda()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        out = model(images.cuda(), seed_scores=SPREAD_SCORES)
    # float32 convolutions are TF32 (10 bits) on CUDA unless told otherwise.
    tolerance = 0.02 if dtype == torch.float32 else 0.1
    for name in ("log_attention", "log_masks"):
        actual, expected = getattr(out, name).exp().cpu(), getattr(exact, name).exp()
        torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(
        out.reconstruction.cpu(), exact.reconstruction, rtol=0, atol=tolerance
    )


# Bad input


def test_wrong_inputs_are_refused_by_name(make_model: ModelFactory, images: Tensor) -> None:
    model = make_model()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"images": images[0]}, r"images have shape \(3, 32, 32\); expected \(B, 3, 32, 32\)"),
        ({"images": torch.rand(1, 3, 64, 64)}, r"images have shape \(1, 3, 64, 64\)"),
        ({"images": torch.rand(1, 1, 32, 32)}, r"images have shape \(1, 1, 32, 32\)"),
        ({"images": (images * 255).byte()}, r"images are torch.uint8; expected floating point"),
        ({"seed_scores": torch.rand(1, 1, 32, 32)}, r"seed_scores has shape \(1, 1, 32, 32\)"),
        ({"noise": torch.randn(4, 4, 1)}, r"noise has shape .*; expected \(4, 4, 6\)"),
        ({"noise": torch.randn(4, 3, 6)}, r"noise has shape .*; expected \(4, 4, 6\)"),
        ({"noise": torch.randn(1, 4, 6)}, r"noise has shape .*; expected \(4, 4, 6\)"),
        ({"num_slots": 1}, r"num_slots is 1; expected at least 2"),
        ({"stop_threshold": float("nan")}, r"stop_threshold is nan"),
        ({"stop_threshold": -1.0}, r"stop_threshold is -1.0"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**{"images": images, **arguments})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_size": 16}, "image_size is 16"),
        ({"image_size": 512}, "image_size is 512; expected a power of two from 32 to 256"),
        ({"image_size": 96}, "image_size is 96; expected a power of two"),
        ({"image_size": 64.0}, "image_size is 64.0"),
        ({"num_slots": 1}, "num_slots is 1; expected a whole number of at least 2"),
        ({"num_slots": True}, "num_slots is True"),
        ({"feature_dim": 12}, "feature_dim is 12; expected a multiple of 8"),
        ({"feature_dim": 0}, "feature_dim is 0"),
        ({"latent_dim": 0}, "latent_dim is 0"),
        ({"embedding_dim": 1}, "embedding_dim is 1"),
        (
            {"mask_normalisation": "sum"},
            "mask_normalisation is 'sum'; expected one of stick_breaking, softmax",
        ),
        ({"kernel": "cosine"}, "kernel is 'cosine'; expected one of gaussian, laplacian"),
        ({"pooling_exponent": 0}, "pooling_exponent is 0; expected 1 or more"),
        ({"small_slots": "keep"}, "small_slots is 'keep'; expected one of stop, skip"),
        (
            {"small_slots": "skip", "mask_normalisation": "softmax"},
            "small_slots is skip, but mask_normalisation is softmax",
        ),
        ({"surroundings_bias": math.inf}, "surroundings_bias is inf; expected a number"),
        ({"surroundings_bias": "0.5"}, "surroundings_bias is '0.5'; expected a number"),
        ({"surroundings_bias": 0.5}, "surroundings_bias is 0.5, but kinds is false"),
        ({"semi_conv": 1}, "semi_conv is 1; expected true or false"),
        ({"pixel_std": 0.0}, "pixel_std is 0.0; expected a positive number"),
        ({"pixel_std": float("nan")}, "pixel_std is nan"),
        ({"pixel_std": "0.7"}, "pixel_std is '0.7'"),
    ],
)
def test_bad_settings_are_refused_by_name(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenesisV2Config(**setting)


def test_config_survives_a_dictionary_and_refuses_unknown_keys() -> None:
    config = GenesisV2Config(image_size=128, kernel="laplacian", pixel_std=0.5)
    assert GenesisV2Config.from_dict(config.to_dict()) == config
    assert dataclasses.asdict(config) == config.to_dict()
    with pytest.raises(ConfigError, match="unknown model settings: slots"):
        GenesisV2Config.from_dict({"slots": 7})


@pytest.mark.slow
def test_importing_the_library_is_light() -> None:
    """Never a renderer, ROS or a compiler; and the simulator needs no model."""
    code = """
import sys
import genesis_sim
assert "torch" not in sys.modules and "genesis_core" not in sys.modules
import torch
before = torch.get_num_threads(), torch.get_default_dtype(), torch.random.initial_seed()
from genesis_core import *
after = torch.get_num_threads(), torch.get_default_dtype(), torch.random.initial_seed()
assert before == after and torch.is_grad_enabled(), (before, after)
assert callable(load_model) and callable(Segmenter)
heavy = ("mujoco", "rclpy", "scipy", "torch._dynamo", "torch._inductor", "triton")
print([name for name in heavy if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def _with_kinds(kind_distance: float = 0.0, surroundings_bias: float = 0.0) -> GenesisV2:
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=32, num_slots=4, feature_dim=8, latent_dim=8, kinds=True,
        kind_distance=kind_distance, surroundings_bias=surroundings_bias,
    )  # fmt: skip
    return GenesisV2(config).eval()


@torch.no_grad()
def test_a_slots_kind_is_the_mean_of_its_pixels() -> None:
    model, images = _with_kinds(), torch.rand(2, 3, 32, 32)
    out = model(images, decode=False)
    pixels = model.pixel_kinds(model.backbone(images)).flatten(2)  # (B, 3, HW)
    masks = out.log_attention.exp().flatten(2)
    means = (masks @ pixels.transpose(1, 2)) / masks.sum(dim=2, keepdim=True)
    torch.testing.assert_close(out.kind_logits, means, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_bias_is_of_slots_alone() -> None:
    """Masks and pixels stay; a slot's logit of surroundings moves."""
    images = torch.rand(2, 3, 32, 32)
    plain, biased = _with_kinds(0.3), _with_kinds(0.3, surroundings_bias=0.7)
    first, other = (m(images, decode=False) for m in (plain, biased))
    torch.testing.assert_close(other.log_attention, first.log_attention, atol=0, rtol=0)
    features = plain.backbone(images)
    torch.testing.assert_close(
        biased.pixel_kinds(features), plain.pixel_kinds(features), atol=0, rtol=0
    )
    moved = torch.tensor([0.0, 0.0, 0.7]).expand(2, 4, 3)
    torch.testing.assert_close(other.kind_logits - first.kind_logits, moved, atol=1e-6, rtol=0)
    trained = []
    for model in (plain.train(), biased.train()):
        torch.manual_seed(1)
        trained.append(model(images, decode=False).kind_logits)
    torch.testing.assert_close(*trained, atol=0, rtol=0)


@torch.no_grad()
def test_pixels_of_another_kind_join_a_slot_the_less_the_larger_the_distance() -> None:
    images = torch.rand(1, 3, 32, 32)
    plain, parted = _with_kinds(), _with_kinds(5.0)
    for model in (plain, parted):
        model.kind_head.weight.mul_(200)  # untrained, it would tell all pixels alike
    kinds = plain.pixel_kinds(plain.backbone(images)).softmax(dim=1).flatten(2)[0]  # (3, HW)
    first, other = (m(images, decode=False).clusters for m in (plain, parted))
    seed = int(first.seeds[0, 0])
    assert seed == int(other.seeds[0, 0])
    lost = (first.log_alpha - other.log_alpha)[0, 0].flatten()
    squared = (kinds - kinds[:, seed : seed + 1]).square().sum(dim=0)
    expected = 5.0 * squared / plain.icsbp.log_scale.exp()
    assert expected.max() > 1
    torch.testing.assert_close(lost, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind_distance", [0.0, 0.3])
def test_what_clustering_and_pooling_need_is_computed_once(kind_distance: float) -> None:
    model, images = _with_kinds(kind_distance), torch.rand(2, 3, 32, 32)
    runs: list[Tensor] = []
    model.feature_head[0].register_forward_hook(lambda module, given, out: runs.append(out))
    out = model(images, decode=False)
    assert len(runs) == 1
    features = model.backbone(images)
    mean, std = model.posterior(features, out.log_attention[:, :, 0].exp())
    torch.testing.assert_close((out.latent_mean, out.latent_std), (mean, std), atol=0, rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
def test_kinds_train_no_masks_where_the_embedding_is_frozen(frozen: bool) -> None:
    model = _with_kinds(0.3)
    for part in (model.backbone, model.embedding, model.icsbp):
        part.requires_grad_(not frozen)
    _, clusters = model.cluster(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 32, 32))
    assert clusters.log_masks.requires_grad != frozen
    assert model.kind_head.weight.requires_grad


def test_kind_distance_needs_kinds() -> None:
    with pytest.raises(ConfigError, match="kind_distance is 1"):
        GenesisV2Config(kind_distance=1.0)
    with pytest.raises(ConfigError, match="kind_distance is -1"):
        GenesisV2Config(kinds=True, kind_distance=-1.0)


def test_a_power_of_the_mask_weighs_the_pixels_of_a_slot(make_model: ModelFactory) -> None:
    model = make_model(pooling_exponent=2.0).eval()
    size = model.config.image_size
    features = torch.rand(1, model.config.feature_dim, size, size)
    masks = torch.rand(1, 3, size, size)
    with torch.no_grad():
        pooled = model.slot_features(PixelFeatures(features), model.pooling_weights(masks))
        head = model.feature_head(features).flatten(2)  # (1, 2C, HW)
    weights = masks.flatten(2).square()
    expected = torch.einsum("bkp,bcp->bkc", weights, head) / weights.sum(2, keepdim=True)
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)
