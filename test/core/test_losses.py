"""Likelihood, divergences, mask supervision and GECO against values worked out by hand."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from genesis_core import ConfigError, Geco
from genesis_core.models.icsbp import ICSBP, Clusters
from genesis_core.models.losses import (
    COLOUR_STD,
    PLACE_STD,
    UNKNOWN_LABEL,
    gaussian_floor,
    hard_slot_kind_supervision,
    images_at,
    kind_supervision,
    labels_at,
    latent_anchor,
    log_masks_at,
    mask_consistency,
    mask_distillation,
    mask_supervision,
    overlap_supervision,
    pixel_kind_supervision,
    region_mixture,
    sgmm_nll,
)

Golden = Callable[[str], tuple[Path, dict[str, Any]]]


def pixel(*masks: float) -> Tensor:
    """Log masks of one pixel: (1, K, 1, 1, 1)."""
    return torch.tensor(masks).log().reshape(1, -1, 1, 1, 1)


# Likelihood


def test_one_slot_is_a_gaussian() -> None:
    images, means = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 3, 4, 4)
    expected = -Normal(means[:, 0], 0.7).log_prob(images).flatten(1).sum(dim=1)
    torch.testing.assert_close(sgmm_nll(images, torch.zeros(2, 1, 1, 4, 4), means, 0.7), expected)


def test_mixture_of_two_slots_by_hand() -> None:
    """Each channel is a mixture of its own: the product is over pixels and channels."""
    images = torch.tensor([0.2, 0.9]).reshape(1, 2, 1, 1)
    means = torch.tensor([[0.2, 0.4], [0.8, 0.9]]).reshape(1, 2, 2, 1, 1)
    expected = 0.0
    for value, first, second in ((0.2, 0.2, 0.8), (0.9, 0.4, 0.9)):
        density = [
            math.exp(-0.5 * ((value - mean) / 0.5) ** 2) / (0.5 * math.sqrt(2 * math.pi))
            for mean in (first, second)
        ]
        expected -= math.log(0.25 * density[0] + 0.75 * density[1])
    actual = sgmm_nll(images, pixel(0.25, 0.75), means, 0.5)
    assert actual.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("pixel_std", [1e-2, 1e-3, 1e-4])
def test_small_widths_do_not_underflow(pixel_std: float) -> None:
    """exp(-0.5 * (0.5 / 1e-4)^2) is zero in any floating point format; its logarithm is not."""
    images = torch.zeros(1, 3, 2, 2)
    means = torch.tensor([0.5, 0.6]).reshape(1, 2, 1, 1, 1).expand(1, 2, 3, 2, 2).clone()
    means.requires_grad_()
    masks = torch.full((1, 2, 1, 2, 2), 0.5).log().requires_grad_()
    nll = sgmm_nll(images, masks, means, pixel_std)
    # The nearer slot is all that counts.
    per_element = 0.5 * (0.5 / pixel_std) ** 2 + gaussian_floor(pixel_std) + math.log(2)
    assert nll.item() == pytest.approx(12 * per_element, rel=1e-5)
    nll.sum().backward()
    assert means.grad is not None and masks.grad is not None
    assert means.grad.isfinite().all() and masks.grad.isfinite().all()


def test_slots_without_mass_take_no_part() -> None:
    images, means = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 3, 4, 4)
    masks = torch.rand(1, 2, 1, 4, 4).log_softmax(dim=1)
    padded = torch.cat([masks, torch.full((1, 1, 1, 4, 4), -torch.inf)], dim=1).requires_grad_()
    nll = sgmm_nll(images, padded, means, 0.7)
    torch.testing.assert_close(nll, sgmm_nll(images, masks, means[:, :2], 0.7))
    nll.sum().backward()
    assert padded.grad is not None and padded.grad.isfinite().all()


def test_floor_of_the_papers_width() -> None:
    assert gaussian_floor(0.7) == pytest.approx(0.5623, abs=5e-5)


# Mask consistency and distillation


def test_mask_consistency_by_hand() -> None:
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    actual = mask_consistency(pixel(0.8, 0.2), pixel(0.5, 0.5))
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    assert mask_consistency(pixel(0.3, 0.7), pixel(0.3, 0.7)).item() == pytest.approx(0, abs=1e-7)


def test_mask_consistency_sums_over_pixels_not_over_images() -> None:
    masks = pixel(0.8, 0.2).expand(3, 2, 1, 4, 5)
    other = pixel(0.5, 0.5).expand(3, 2, 1, 4, 5)
    one = mask_consistency(pixel(0.8, 0.2), pixel(0.5, 0.5)).item()
    assert mask_consistency(masks, other).tolist() == pytest.approx([20 * one] * 3, rel=1e-5)


def test_mask_consistency_floors_and_renormalises_both() -> None:
    floor = 1e-5
    high, low = 1 / (1 + floor), floor / (1 + floor)
    expected = high * math.log(high / low) + low * math.log(low / high)
    actual = mask_consistency(pixel(1.0, 0.0), pixel(0.0, 1.0))
    assert actual.item() == pytest.approx(expected, rel=1e-4)


def test_mask_consistency_teaches_the_attention_only() -> None:
    attention, decoded = pixel(0.8, 0.2).requires_grad_(), pixel(0.5, 0.5).requires_grad_()
    mask_consistency(attention, decoded).sum().backward()
    assert attention.grad is not None and (attention.grad != 0).all()
    assert decoded.grad is None


def test_mask_distillation_is_a_cross_entropy_that_teaches_the_decoder_only() -> None:
    attention, decoded = pixel(0.8, 0.2).requires_grad_(), pixel(0.4, 0.6).requires_grad_()
    loss = mask_distillation(attention, decoded)
    assert loss.item() == pytest.approx(-(0.8 * math.log(0.4) + 0.2 * math.log(0.6)), rel=1e-5)
    loss.sum().backward()
    assert attention.grad is None
    assert decoded.grad is not None
    assert decoded.grad.flatten().tolist() == pytest.approx([-0.8, -0.2], rel=1e-5)


def test_hard_mask_distillation_teaches_the_largest_mask_alone() -> None:
    attention, decoded = pixel(0.6, 0.4).requires_grad_(), pixel(0.3, 0.7).requires_grad_()
    loss = mask_distillation(attention, decoded, hard=True)
    assert loss.item() == pytest.approx(-math.log(0.3), rel=1e-5)
    loss.sum().backward()
    assert attention.grad is None
    assert decoded.grad is not None
    assert decoded.grad.flatten().tolist() == pytest.approx([-1, 0])


@pytest.mark.parametrize("hard", [False, True])
def test_mask_distillation_passes_over_slots_that_take_no_part(hard: bool) -> None:
    attention, logits = pixel(0.8, 0.2, 0.0), torch.zeros(1, 3, 1, 1, 1, requires_grad=True)
    absent = torch.tensor([False, False, True])[:, None, None, None]
    decoded = logits.masked_fill(absent, -torch.inf).log_softmax(dim=1)
    loss = mask_distillation(attention, decoded, hard=hard)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    loss.sum().backward()
    assert logits.grad is not None
    expected = [-0.5, 0.5, 0] if hard else [-0.3, 0.3, 0]  # two halves less what is taught
    assert logits.grad.flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_latent_anchor_is_the_distance_to_what_a_mask_shows() -> None:
    """Two slots, left and right half of a 2x4 image, of one colour each, told by hand."""
    left = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(2, 4)
    masks = torch.stack([left, 1 - left])[None, :, None]  # (1, 2, 1, 2, 4)
    images = torch.empty(1, 3, 2, 4)
    images[..., :2] = torch.tensor([1.0, 0.5, 0.0])[:, None, None]
    images[..., 2:] = torch.tensor([0.0, 0.25, 1.0])[:, None, None]
    # Colour, row, column, twice the spread of rows (at -1 and 1) and columns (1/3 to either side).
    expected = torch.tensor(
        [[1.0, 0.0, -1.0, 0.0, -2 / 3, 2.0, 2 / 3], [-1.0, -0.5, 1.0, 0.0, 2 / 3, 2.0, 2 / 3]]
    )
    log_attention = masks.log().requires_grad_()
    latents = torch.cat([expected, torch.full((2, 3), 9.0)], dim=1)[None]
    assert latent_anchor(images, log_attention, latents).item() == pytest.approx(0, abs=1e-10)
    latents[0, 0, 0] += 0.7
    latents.requires_grad_()
    loss = latent_anchor(images, log_attention, latents)
    assert loss.item() == pytest.approx(0.7**2 / 7 / 2, rel=1e-5)
    loss.sum().backward()
    assert latents.grad is not None and not latents.grad[0, :, 7:].any()
    assert log_attention.grad is None


def test_latent_anchor_leaves_empty_masks_out() -> None:
    images = torch.full((1, 3, 4, 4), 0.5)
    masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])[None, :, None]
    latents = torch.zeros(1, 2, 7)
    alone = latent_anchor(images, masks[:, :1].log(), latents[:, :1])
    assert latent_anchor(images, masks.log(), latents).item() == pytest.approx(alone.item())
    latents[0, 1] = 100.0
    assert latent_anchor(images, masks.log(), latents).item() == pytest.approx(alone.item())


def test_latent_anchor_says_how_many_dimensions_it_takes() -> None:
    images, masks = torch.rand(1, 3, 4, 4), torch.zeros(1, 1, 1, 4, 4)
    with pytest.raises(ValueError, match="latents have 6 dimensions; to anchor them takes 7"):
        latent_anchor(images, masks, torch.zeros(1, 1, 6))


# Region mixture


def two_discs(size: int = 16) -> tuple[Tensor, Tensor]:
    """An image (1, 3, S, S) of a red and a green disc on shaded grey, and its labels (S, S)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    labels = torch.zeros(size, size, dtype=torch.int64)
    labels[(rows - 5) ** 2 + (columns - 4) ** 2 <= 9] = 1
    labels[(rows - 9) ** 2 + (columns - 11) ** 2 <= 9] = 2
    grey = (0.3 + 0.02 * columns).expand(3, -1, -1)
    image = torch.where(labels == 1, torch.tensor([0.8, 0.2, 0.2])[:, None, None], grey)
    image = torch.where(labels == 2, torch.tensor([0.2, 0.7, 0.2])[:, None, None], image)
    noise = torch.randn(3, size, size, generator=torch.Generator().manual_seed(0))
    return (image + 0.01 * noise)[None], labels


def as_log_masks(labels: Tensor, slots: int = 3) -> Tensor:
    """(H, W) -> (1, K, 1, H, W), -inf where a slot is not."""
    return (labels == torch.arange(slots)[:, None, None]).float().log()[None, :, None]


def test_region_mixture_is_the_bound_of_the_mixture_that_fits_best() -> None:
    """Each region's Gaussian and share from NumPy, the bound from their densities."""
    size = 6
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size, size, generator=generator)
    log_masks = torch.randn(2, 4, 1, size, size, generator=generator).log_softmax(dim=1)
    places = torch.linspace(-1, 1, size)
    floor = np.diag([COLOUR_STD**2] * 3 + [PLACE_STD**2] * 2)
    for place_weight in (1.0, 0.5):
        expected = []
        for image, masks in zip(images, log_masks.exp().flatten(2), strict=True):
            grid = torch.stack(torch.meshgrid(places, places, indexing="ij"))
            pixels = torch.cat([image, grid]).flatten(1).double()  # (5, HW)
            # Each pixel counts by the Mahalanobis distance of its colour.
            colours = pixels[:3] - pixels[:3].mean(dim=1, keepdim=True)
            inverse = torch.linalg.inv(colours @ colours.T / size**2 + COLOUR_STD**2 * torch.eye(3))
            weights = torch.einsum("cp,cd,dp->p", colours, inverse, colours).sqrt() + 0.2
            weights /= weights.mean()
            bound = -(weights * (masks * masks.log()).sum(0)).mean().item()
            for mask in masks.double() * weights:
                share = mask.mean().item()
                covariance = np.cov(pixels.numpy(), aweights=mask.numpy(), bias=True) + floor
                mean = torch.from_numpy(np.average(pixels.numpy(), axis=1, weights=mask.numpy()))
                gaussian = MultivariateNormal(mean, torch.from_numpy(covariance))
                # The floor is noise that the pixels are thought to have beside what they show.
                noise = 0.5 * np.trace(np.linalg.solve(covariance, floor))
                density = gaussian.log_prob(pixels.T) - noise
                bound += (mask * (density + math.log(share))).mean().item()
                place = MultivariateNormal(mean[3:], torch.from_numpy(covariance[3:, 3:]))
                noise = 0.5 * np.trace(np.linalg.solve(covariance[3:, 3:], floor[3:, 3:]))
                density = place.log_prob(pixels[3:].T) - noise
                bound += (place_weight - 1) * (mask * density).mean().item()
            constant = 0.5 * (1 + math.log(2 * math.pi)) * (5 + (place_weight - 1) * 2)
            expected.append(-bound - constant)
        actual = region_mixture(images, log_masks, place_weight=place_weight)
        assert actual.tolist() == pytest.approx(expected, rel=1e-3)


def test_region_mixture_is_least_where_the_objects_are() -> None:
    image, labels = two_discs()
    found = region_mixture(image, as_log_masks(labels)).item()
    halves = (torch.arange(16) >= 8).long().expand(16, 16)
    for worse in (
        torch.zeros_like(labels),  # all in one
        labels.clamp_max(1),  # the discs together
        torch.where(labels == 0, 2 * halves, 1),  # the discs together, the background in halves
        labels.roll(2, dims=1),
        torch.randint(0, 3, (16, 16), generator=torch.Generator().manual_seed(0)),
    ):
        assert found < region_mixture(image, as_log_masks(worse)).item() - 0.1


@pytest.mark.slow
def test_region_mixture_leads_masks_to_the_objects() -> None:
    image, labels = two_discs()
    generator = torch.Generator().manual_seed(0)
    logits = 0.5 * torch.randn(1, 3, 1, 16, 16, generator=generator)
    logits += as_log_masks(labels).exp()  # a hint: which slot is to take what
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        region_mixture(image, logits.log_softmax(dim=1)).sum().backward()
        optimizer.step()
    assert (logits[0, :, 0].argmax(dim=0) == labels).float().mean() > 0.98


def test_region_mixture_of_unused_slots_and_of_one_colour_has_finite_gradients() -> None:
    image, labels = two_discs()
    for images in (image, torch.full_like(image, 0.5)):
        used = as_log_masks(labels, slots=5).requires_grad_()
        loss = region_mixture(images, used)
        loss.sum().backward()
        assert loss.isfinite().all() and used.grad is not None
        assert used.grad.isfinite().all()
        without = region_mixture(images, as_log_masks(labels)).item()
        assert loss.item() == pytest.approx(without, abs=1e-3)


def test_region_mixture_and_anchor_are_not_rounded_by_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 8, generator=generator)
    log_masks = torch.randn(2, 3, 1, 8, 8, generator=generator).log_softmax(dim=1)
    latents = torch.randn(2, 3, 7, generator=generator)
    expected = region_mixture(images, log_masks), latent_anchor(images, log_masks, latents)
    with torch.autocast("cpu", torch.bfloat16):
        actual = region_mixture(images, log_masks), latent_anchor(images, log_masks, latents)
    torch.testing.assert_close(actual, expected)


# Mask supervision


def supervised(alpha: list[list[float]], seeds: list[int], labels: list[int]) -> float:
    """Loss of one image of one row; alpha: (steps, W)."""
    log_alpha = torch.tensor(alpha).log()[None, :, None]
    clusters = Clusters(
        log_masks=torch.empty(1, len(alpha) + 1, 1, len(labels)),
        num_slots=torch.tensor([len(alpha) + 1]),
        seeds=torch.tensor([seeds]),
        log_alpha=log_alpha,
    )
    return mask_supervision(clusters, torch.tensor(labels).reshape(1, 1, -1)).item()


def test_mask_supervision_by_hand() -> None:
    """Seed on the second of three instances, of 2, 2 and 1 pixels."""
    inside = -(math.log(0.9) + math.log(0.6)) / 2
    first = -(math.log(1 - 0.2) + math.log(1 - 0.3)) / 2
    third = -math.log(1 - 0.5)
    actual = supervised([[0.2, 0.3, 0.9, 0.6, 0.5]], [2], [0, 0, 1, 1, 2])
    assert actual == pytest.approx(inside + (first + third) / 2, rel=1e-4)


def test_mask_supervision_averages_over_steps_and_lets_the_seed_choose() -> None:
    alpha, labels = [0.9, 0.2, 0.2], [5, 3, 3]
    on_large = supervised([alpha], [1], labels)
    on_small = supervised([alpha], [0], labels)
    assert on_small == pytest.approx(-math.log(0.9) - math.log(0.8), rel=1e-4)
    assert on_large == pytest.approx(-math.log(0.2) - math.log(0.1), rel=1e-4)
    both = supervised([alpha, alpha], [0, 1], labels)
    assert both == pytest.approx((on_small + on_large) / 2, rel=1e-4)


def test_every_instance_weighs_the_same_whatever_its_area() -> None:
    small = supervised([[0.7, 0.2, 0.4]], [0], [0, 1, 2])
    areas = [1, 50, 3]
    alpha = [a for a, n in zip((0.7, 0.2, 0.4), areas, strict=True) for _ in range(n)]
    labels = [label for label, n in enumerate(areas) for _ in range(n)]
    assert supervised([alpha], [0], labels) == pytest.approx(small, rel=1e-4)


def test_unknown_pixels_count_nowhere() -> None:
    """As if they were not there; and a step whose seed is on one is no step."""
    alpha, labels = [0.9, 0.2, 0.3], [0, 1, 1]
    known = supervised([alpha], [0], labels)
    assert supervised([[*alpha, 0.5]], [0], [*labels, UNKNOWN_LABEL]) == pytest.approx(known)
    with_unknown_seed = supervised([[*alpha, 0.5]] * 2, [0, 3], [*labels, UNKNOWN_LABEL])
    assert with_unknown_seed == pytest.approx(known)
    assert supervised([alpha], [0], [UNKNOWN_LABEL] * 3) == 0


def test_one_instance_has_no_outside() -> None:
    assert supervised([[0.5, 0.5]], [0], [4, 4]) == pytest.approx(math.log(2), rel=1e-4)


@pytest.mark.parametrize("kernel", ["gaussian", "laplacian", "epanechnikov"])
@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_mask_supervision_has_finite_gradients(kernel: str, spread: float) -> None:
    """Identical embeddings (alpha is one everywhere) up to ones outside every kernel's reach."""
    generator = torch.Generator().manual_seed(0)
    embeddings = (spread * torch.randn(2, 4, 8, 8, generator=generator)).requires_grad_()
    labels = torch.randint(0, 5, (2, 8, 8), generator=generator)
    clusters = ICSBP(5, kernel)(embeddings, torch.rand(2, 8, 8, generator=generator))
    loss = mask_supervision(clusters, labels)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_mask_supervision_makes_masks_of_the_instances() -> None:
    """Descending the loss alone turns random embeddings into the labelled instances."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4, :4], labels[0, 5:, 2:7] = 1, 2
    scores = torch.zeros(1, 8, 8)
    scores[0, 0, 0], scores[0, 6, 4], scores[0, 3, 7] = 0.9, 0.8, 0.7
    embeddings = torch.randn(1, 4, 8, 8, generator=generator).requires_grad_()
    icsbp = ICSBP(4, "gaussian")
    optimizer = torch.optim.Adam([embeddings], lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        mask_supervision(icsbp(embeddings, scores), labels).sum().backward()
        optimizer.step()
    masks = icsbp(embeddings, scores).log_masks[0].argmax(dim=0)
    assert set(masks[labels[0] == 1].tolist()) == {0}
    assert set(masks[labels[0] == 2].tolist()) == {1}
    assert set(masks[labels[0] == 0].tolist()) == {2}


def test_mask_supervision_is_not_rounded_by_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(2, 4, 8, 8, generator=generator)
    labels = torch.randint(0, 5, (2, 8, 8), generator=generator)
    scores = torch.rand(2, 8, 8, generator=generator)
    expected = mask_supervision(ICSBP(5, "gaussian")(embeddings, scores), labels)
    with torch.autocast("cpu", torch.bfloat16):
        actual = mask_supervision(ICSBP(5, "gaussian")(embeddings, scores), labels)
    torch.testing.assert_close(actual, expected)


def test_labels_of_the_wrong_size_are_refused() -> None:
    clusters = ICSBP(3, "gaussian")(torch.rand(2, 4, 6, 8), torch.rand(2, 6, 8))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 8, 6\); expected \(2, 6, 8\)"):
        mask_supervision(clusters, torch.zeros(2, 8, 6, dtype=torch.int64))


def test_mask_supervision_is_what_a_slow_loop_gives() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 6, (3, 6, 7), generator=generator)
    labels[1] = labels[1].clamp(2, 3)
    clusters = ICSBP(5, "gaussian")(
        torch.randn(3, 4, 6, 7, generator=generator), torch.rand(3, 6, 7, generator=generator)
    )
    expected = []
    for image in range(3):
        alpha, flat = clusters.log_alpha[image].exp().flatten(1), labels[image].flatten()
        steps = []
        for step, seed in enumerate(clusters.seeds[image].tolist()):
            target = flat[seed]
            inside = -alpha[step][flat == target].log().mean()
            others = [
                -torch.log(1 - alpha[step][flat == label]).mean()
                for label in flat.unique()
                if label != target
            ]
            steps.append(inside + sum(others) / len(others))
        expected.append(sum(steps) / len(steps))
    for count in (None, 6, 9):  # labels that no pixel has change nothing
        actual = mask_supervision(clusters, labels, count)
        torch.testing.assert_close(actual, torch.stack(expected), rtol=1e-4, atol=1e-4)


# Kinds


def test_kind_supervision_by_hand() -> None:
    """The first slot has three pixels of an object and one of the robot; the second is all robot,
    but takes half as many pixels as it takes to count whole.
    """
    pixels = 4_000
    masks = torch.zeros(1, 3, 1, 1, pixels)
    masks[0, 0, ..., :4] = 1
    masks[0, 1, ..., 4:6] = 1  # 2 of 4000 pixels are half a thousandth
    kinds = torch.full((1, 1, pixels), 2)
    kinds[..., :3], kinds[..., 3:6] = 0, 1
    logits = torch.tensor([[[1.0, 0.5, -1.0], [0.0, 2.0, 0.0], [9.0, 0.0, 0.0]]])
    log_p = logits[0].log_softmax(dim=1)
    first = -(0.75 * log_p[0, 0] + 0.25 * log_p[0, 1])
    second = -log_p[1, 1]
    actual = kind_supervision(logits, masks.log(), kinds)
    assert actual.shape == (1,)
    assert actual.item() == pytest.approx(float((first + 0.5 * second) / 1.5), rel=1e-5)


def test_kind_supervision_teaches_the_kinds_and_not_the_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, generator=generator).requires_grad_()
    log_masks = torch.randn(2, 3, 1, 8, 8, generator=generator).log_softmax(dim=1).requires_grad_()
    kinds = torch.randint(0, 3, (2, 8, 8), generator=generator)
    kind_supervision(logits, log_masks, kinds).sum().backward()
    assert log_masks.grad is None
    assert logits.grad is not None and logits.grad.abs().sum() > 0
    nothing = kind_supervision(logits, torch.full_like(log_masks, -torch.inf), kinds)
    assert nothing.tolist() == [0, 0]


# Sizes


def test_images_are_averaged() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert images_at(images, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]
    assert images_at(images, 4) is images


def test_labels_are_those_near_the_middle() -> None:
    labels = torch.arange(16).reshape(1, 4, 4)
    assert labels_at(labels, 2)[0].tolist() == [[5, 7], [13, 15]]
    assert labels_at(torch.arange(81).reshape(1, 9, 9), 3)[0, 0].tolist() == [10, 13, 16]
    assert torch.equal(labels_at(labels, 4), labels)


def test_probabilities_are_averaged_and_interpolated() -> None:
    first = torch.tensor([[0.1, 0.3, 0.0, 0.0], [0.5, 0.7, 0.0, 0.0]])
    log_masks = torch.stack([first, 1 - first])[None, :, None].log()
    half = log_masks_at(log_masks[..., :2], 1).exp()  # 2 x 2 pixels to one
    assert half.flatten().tolist() == pytest.approx([0.4, 0.6])
    wide = log_masks_at(log_masks[..., 1:3], 4).exp()
    assert wide[0, 0, 0, 0].tolist() == pytest.approx([0.3, 0.225, 0.075, 0.0])
    torch.testing.assert_close(wide.sum(dim=1), torch.ones(1, 1, 4, 4))
    assert log_masks_at(log_masks, 4) is log_masks


@pytest.mark.parametrize("size", [4, 16])
def test_slots_that_take_no_part_stay_so_at_other_sizes(size: int) -> None:
    """Without a gradient that is no number, for the slots that do take part."""
    logits = torch.randn(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    unused = torch.tensor([False, False, True]).reshape(1, 3, 1, 1, 1)
    log_masks = log_masks_at(logits.masked_fill(unused, -torch.inf).log_softmax(dim=1), size)
    assert (log_masks[:, 2] == -torch.inf).all()
    torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones(1, 1, size, size))
    log_masks.exp().square().sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


# GECO


def make_geco(goal: float = 0.5655, image_size: int = 64, **options: Any) -> Geco:
    elements = 3 * image_size**2
    return Geco(goal * elements, num_elements=elements, image_size=image_size, **options)


def test_golden_trajectory(golden: Golden) -> None:
    _, expected = golden("geco.npz")
    geco = Geco(
        float(expected["goal"]),
        num_elements=3 * 64 * 64,
        image_size=64,
        step_size=float(expected["step_size"]),
        beta_init=float(expected["beta_init"]),
    )
    steps = zip(
        *(expected[name] for name in ("err", "kl", "loss", "beta_after", "err_ema")), strict=True
    )
    for step, (nll, kl, loss, beta, average) in enumerate(steps):
        nll = torch.tensor(nll, dtype=torch.float32)
        actual = geco.loss(nll, torch.tensor(kl, dtype=torch.float32))
        assert actual.item() == pytest.approx(loss, rel=1e-4), step
        geco.update(nll)
        assert geco.beta.item() == pytest.approx(beta, rel=1e-4), step
        assert geco.nll_ema.item() == pytest.approx(average, rel=1e-4), step


def test_two_updates_by_hand() -> None:
    """First step: the average is the nll itself; tenfold speed while the goal is met."""
    geco = make_geco()
    goal = 0.5655 * 12288
    nll = torch.tensor(goal + 400)
    assert geco.loss(nll, torch.tensor(2.0)).item() == pytest.approx(goal + 402)
    geco.update(nll)
    beta = math.exp(-1e-5 * 400)
    assert geco.nll_ema.item() == pytest.approx(goal + 400)
    assert geco.beta.item() == pytest.approx(beta, rel=1e-6)
    # The loss uses the beta from before its update.
    assert geco.loss(nll, torch.tensor(2.0)).item() == pytest.approx(goal + 400 + 2 * beta)
    geco.update(torch.tensor(goal - 60000))
    average = 0.99 * (goal + 400) + 0.01 * (goal - 60000)
    assert geco.beta.item() == pytest.approx(beta * math.exp(1e-4 * (goal - average)), rel=1e-5)


def test_larger_images_take_smaller_steps() -> None:
    geco = make_geco(image_size=128)
    geco.update(torch.tensor(0.5655 * 3 * 128**2 + 1000))
    assert geco.beta.item() == pytest.approx(math.exp(-1e-5 / 4 * 1000), rel=1e-6)


def test_beta_stays_within_its_bounds() -> None:
    down, up = make_geco(step_size=1.0), make_geco(step_size=1.0)
    for _ in range(3):
        down.update(torch.tensor(1e5))
        up.update(torch.tensor(-1e5))
    assert down.beta.item() == pytest.approx(1e-10)
    assert up.beta.item() == pytest.approx(1e10)


def test_state_continues_elsewhere() -> None:
    geco, other = make_geco(), make_geco(beta_init=1e-10)
    geco.update(torch.tensor(7500.0))
    other.load_state_dict(geco.state_dict())
    geco.update(torch.tensor(7200.0))
    other.update(torch.tensor(7200.0))
    assert other.beta.item() == geco.beta.item()
    assert other.nll_ema.item() == geco.nll_ema.item()


def test_gradients_do_not_pass_through_beta() -> None:
    geco = make_geco()
    nll, kl = torch.tensor(7000.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    geco.update(nll)
    geco.loss(nll, kl).backward()
    assert nll.grad is not None and kl.grad is not None
    assert nll.grad.item() == 1.0
    assert kl.grad.item() == pytest.approx(geco.beta.item())


@pytest.mark.parametrize(
    ("goal", "pixel_std"),
    [(0.5622, 0.7), (gaussian_floor(0.7), 0.7), (0.0, 0.7), (0.9, 1.0), (float("nan"), 0.7)],
)
def test_goals_that_can_never_be_met_are_refused(goal: float, pixel_std: float) -> None:
    with pytest.raises(ConfigError, match=r"Raise the goal"):
        make_geco(goal, pixel_std=pixel_std)


def test_the_papers_goals_are_accepted() -> None:
    for goal in (0.5655, 0.5645):
        assert make_geco(goal).beta.item() == 1.0


# Overlap supervision


def overlap(margins: list[list[float]], seeds: list[int], labels: list[int]) -> float:
    """Loss of one image of one row; margins: (steps, W), 1 at a seed, 0 where the mask is cut."""
    log_alpha = (torch.tensor(margins) - 1)[None, :, None] * math.log(2)
    taken = (log_alpha >= math.log(0.5)).float()
    clusters = Clusters(
        log_masks=torch.cat([taken, torch.zeros_like(taken[:, :1])], dim=1).log(),
        num_slots=torch.tensor([len(margins) + 1]),
        seeds=torch.tensor([seeds]),
        log_alpha=log_alpha,
    )
    return overlap_supervision(clusters, torch.tensor(labels).reshape(1, 1, -1)).item()


def test_overlap_supervision_by_hand() -> None:
    """Worked out by the definition: the set function's increments times the sorted errors."""
    # Instance of two pixels, of which one is lost, and a pixel of another one that is taken.
    lost, taken = -1.0, 0.5
    error_lost = 1 + math.log1p(1.0)
    error_taken = 1 + taken
    # Sorted: the lost pixel (intersection over union 1/2), then the taken one (1/3).
    expected = error_lost * 1 / 2 + error_taken * (2 / 3 - 1 / 2)
    actual = overlap([[1.0, lost, taken, -9.0]], [0], [4, 4, 2, 2])
    assert actual == pytest.approx(expected, rel=1e-5)


def test_overlap_supervision_is_least_where_masks_are_the_instances() -> None:
    labels = [0, 0, 1, 1]
    right = overlap([[1.0, 1.0, -8.0, -8.0], [-8.0, -8.0, 1.0, 1.0]], [0, 2], labels)
    assert right == 0
    merged = overlap([[1.0, 1.0, 0.5, 0.5]], [0], labels)
    split = overlap([[1.0, -1.0, -8.0, -8.0]], [0], labels)
    assert merged > 0.5 and split > 0.5


def test_overlap_supervision_leaves_out_unknown_pixels_and_steps_that_found_nothing() -> None:
    margins, labels = [1.0, -1.0, 0.5], [0, 0, 1]
    known = overlap([margins], [0], labels)
    assert known > 0
    assert overlap([[*margins, 0.9]], [0], [*labels, UNKNOWN_LABEL]) == pytest.approx(known)
    of_unknown = overlap([[*margins, 0.9]] * 2, [0, 3], [*labels, UNKNOWN_LABEL])
    assert of_unknown == pytest.approx(known)
    nothing_left = overlap([margins, [-1.0, -1.0, -1.0]], [0, 0], labels)
    assert nothing_left == pytest.approx(known)


def test_overlap_supervision_makes_hard_masks_of_the_instances() -> None:
    """Descending the loss alone turns random embeddings into the labelled instances."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, :4, :4], labels[0, 5:, 2:7] = 1, 2
    embeddings = (0.3 * torch.randn(1, 4, 8, 8, generator=generator)).requires_grad_()
    icsbp = ICSBP(6, "gaussian")
    optimizer = torch.optim.Adam([embeddings], lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        scores = torch.rand(1, 8, 8, generator=generator)
        overlap_supervision(icsbp(embeddings, scores, hard=True), labels).sum().backward()
        optimizer.step()
    for _ in range(5):  # whatever the seeds
        scores = torch.rand(1, 8, 8, generator=generator)
        clusters = icsbp(embeddings, scores, hard=True)
        masks = clusters.log_masks[0].argmax(dim=0)
        slots = [set(masks[labels[0] == label].tolist()) for label in range(3)]
        assert [len(each) for each in slots] == [1, 1, 1]
        assert len(set.union(*slots)) == 3


@pytest.mark.parametrize("spread", [0.0, 1.0, 100.0])
def test_overlap_supervision_has_finite_gradients(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = (spread * torch.randn(2, 4, 8, 8, generator=generator)).requires_grad_()
    labels = torch.randint(0, 5, (2, 8, 8), generator=generator)
    scores = torch.rand(2, 8, 8, generator=generator)
    loss = overlap_supervision(ICSBP(5, "gaussian")(embeddings, scores, hard=True), labels)
    assert loss.isfinite().all()
    loss.sum().backward()
    assert embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_kinds_of_pixels_weigh_every_instance_the_same() -> None:
    """An instance of two pixels and nine, each by hand; the small one counts two ninths."""
    logits = torch.zeros(1, 3, 1, 12)
    logits[0, 0, 0, :2] = 2.0  # for "object", of which the first two pixels are
    labels = torch.tensor([1] * 2 + [0] * 9 + [UNKNOWN_LABEL])[None, None]
    kinds = torch.tensor([0] * 2 + [2] * 10)[None, None]
    small, large = -math.log(math.exp(2) / (math.exp(2) + 2)), math.log(3)
    expected = (2 / 9 * small + large) / (2 / 9 + 1)
    actual = pixel_kind_supervision(logits, kinds, labels, 2)
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    weighted = pixel_kind_supervision(logits, kinds, labels, 2, torch.tensor([3.0, 5.0, 1.0]))
    expected = (3 * 2 / 9 * small + large) / (3 * 2 / 9 + 1)
    assert weighted.item() == pytest.approx(expected, rel=1e-5)


def test_a_hard_mask_is_taken_for_the_mean_of_its_pixels_logits() -> None:
    """A mask of twelve pixels, ten of them surroundings; one of two that count less; one unseen."""
    masks = torch.zeros(1, 3, 1, 16)
    masks[0, 0, 0, :12], masks[0, 1, 0, 12:14], masks[0, 2, 0, 14:] = 1, 1, 1
    kinds = torch.tensor([2] * 10 + [0] * 4 + [1, 1])[None, None]
    labels = torch.tensor([0] * 10 + [1] * 4 + [255, 255])[None, None]
    logits = torch.zeros(1, 3, 1, 16)
    logits[0, 2, 0, :6] = 4.0  # half of the first mask says surroundings, with a mean of 2
    logits[0, 0, 0, 12:14] = 1.0
    first = -math.log(math.exp(2) / (math.exp(2) + 2))
    second = -math.log(math.e / (math.e + 2))
    expected = (first + 2 / 9 * second) / (1 + 2 / 9)
    actual = hard_slot_kind_supervision(logits, masks.log(), kinds, labels)
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    counts = torch.tensor([3.0, 5.0, 1.0])
    weighted = hard_slot_kind_supervision(logits, masks.log(), kinds, labels, counts)
    expected = (first + 3 * 2 / 9 * second) / (1 + 3 * 2 / 9)
    assert weighted.item() == pytest.approx(expected, rel=1e-5)
