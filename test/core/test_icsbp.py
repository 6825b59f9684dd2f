"""IC-SBP against hand-computed cases and an independent, slow reading of Algorithm 1."""

import math
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core.models.icsbp import (
    ICSBP,
    KERNELS,
    NORMALISATIONS,
    _skip_small,
    initial_log_scale,
)
from genesis_core.ops.clustering import native_gaussian_steps, native_skip_small

Array = NDArray[np.float64]


def make(
    kernel: str, num_slots: int = 2, scale: float = 1.0, normalisation: str = "stick_breaking"
) -> ICSBP:
    icsbp = ICSBP(num_slots, kernel, normalisation)
    with torch.no_grad():
        icsbp.log_scale.fill_(math.log(scale))
    return icsbp


def row(*values: float) -> Tensor:
    """One image of one row with one embedding channel: (1, 1, 1, W)."""
    return torch.tensor(values).reshape(1, 1, 1, -1)


def algorithm_1(
    embeddings: Array, scores: Array, kernel: str, scale: float, steps: int, threshold: float
) -> list[Array]:
    """Masks (H, W) of one image (E, H, W), step by step as the paper writes it.

    Args:
        threshold: pixels below which a mask ends the process; 0 never does.
    """
    scope = np.ones(scores.shape)
    masks: list[Array] = []
    for _ in range(steps):
        y, x = np.unravel_index(np.argmax(scope * scores), scope.shape)
        alpha = np.zeros(scope.shape)
        for i in range(scope.shape[0]):
            for j in range(scope.shape[1]):
                distance = math.dist(embeddings[:, i, j], embeddings[:, y, x])
                if kernel == "gaussian":
                    alpha[i, j] = math.exp(-(distance**2) / scale)
                elif kernel == "laplacian":
                    alpha[i, j] = math.exp(-distance / scale)
                else:
                    alpha[i, j] = max(0.0, 1 - distance**2 / scale)
        alpha = np.clip(alpha, 0.01, 0.99)
        mask = scope * alpha
        if mask.sum() < threshold:
            break
        masks.append(mask)
        scope = scope * (1 - alpha)
    return [*masks, scope]


@pytest.mark.parametrize(
    ("kernel", "scale", "alphas"),
    [
        # Distances from the seed, the third pixel: 1, 0.5, 0, 2.
        ("gaussian", 2.0, (math.exp(-0.5), math.exp(-0.125), 0.99, math.exp(-2))),
        ("laplacian", 2.0, (math.exp(-0.5), math.exp(-0.25), 0.99, math.exp(-1))),
        ("epanechnikov", 2.0, (0.5, 0.875, 0.99, 0.01)),
        # Narrow kernels: clamped from below.
        ("gaussian", 0.1, (0.01, math.exp(-2.5), 0.99, 0.01)),
        ("laplacian", 0.1, (0.01, math.exp(-5), 0.99, 0.01)),
        ("epanechnikov", 0.1, (0.01, 0.01, 0.99, 0.01)),
    ],
)
def test_kernels_by_hand(kernel: str, scale: float, alphas: tuple[float, ...]) -> None:
    alphas = tuple(min(max(alpha, 0.01), 0.99) for alpha in alphas)
    found = make(kernel, scale=scale)(
        row(2.0, 1.5, 1.0, 3.0), torch.tensor([[[0.1, 0.2, 0.9, 0.3]]])
    )
    masks = found.log_masks.exp()[0, :, 0].tolist()
    assert found.seeds.tolist() == [[2]]
    assert masks[0] == pytest.approx(alphas, rel=1e-4)
    assert masks[1] == pytest.approx([1 - alpha for alpha in alphas], rel=1e-4)
    assert found.num_slots.tolist() == [2]


def test_distance_is_over_all_embedding_channels() -> None:
    embeddings = torch.tensor([[0.0, 3.0], [0.0, 4.0]]).reshape(1, 2, 1, 2)
    found = make("laplacian", scale=5.0)(embeddings, torch.tensor([[[1.0, 0.0]]]))
    assert found.log_masks.exp()[0, 0, 0, 1].item() == pytest.approx(math.exp(-1), rel=1e-4)


def test_second_seed_is_drawn_where_scope_remains() -> None:
    """The best score lies in the first cluster, but its scope is used up."""
    scores = torch.tensor([[[1.0, 0.9, 0.5, 0.2]]])
    found = make("gaussian", num_slots=3, scale=0.1)(row(0.0, 0.0, 5.0, 9.0), scores)
    assert found.seeds.tolist() == [[0, 2]]
    masks = found.log_masks.exp()[0, :, 0]
    torch.testing.assert_close(masks[0], torch.tensor([0.99, 0.99, 0.01, 0.01]))
    torch.testing.assert_close(
        masks[1], torch.tensor([0.01 * 0.01, 0.01 * 0.01, 0.99 * 0.99, 0.99 * 0.01])
    )
    torch.testing.assert_close(
        masks[2], torch.tensor([0.01 * 0.99, 0.01 * 0.99, 0.99 * 0.01, 0.99 * 0.99])
    )


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("gaussian", 1 / (7 * math.log(2))),
        ("laplacian", 1 / (math.sqrt(7) * math.log(2))),
        ("epanechnikov", 2 / 7),
    ],
)
def test_initial_scale(kernel: str, expected: float) -> None:
    assert math.exp(initial_log_scale(kernel, 7)) == pytest.approx(expected)
    assert ICSBP(7, kernel).log_scale.exp().item() == pytest.approx(expected)


def random_case(seed: int, batch: int = 4) -> tuple[Tensor, Tensor]:
    """Embeddings (B, 3, 6, 8) of clusters of different sizes, and seed scores."""
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(batch, 3, 6, 8)) * 0.1
    for image in range(batch):
        for centre in range(image + 1):
            embeddings[image, :, centre : centre + 3, 2 * centre : 2 * centre + 3] += centre + 1
    return torch.from_numpy(embeddings).float(), torch.from_numpy(rng.random((batch, 6, 8))).float()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threshold", [None, 0.0, 2.0, 8.0, 1000.0])
def test_batches_equal_algorithm_1(kernel: str, threshold: float | None) -> None:
    """A threshold is stated at 64x64: on 6x8 pixels, 48/4096 of it."""
    embeddings, scores = random_case(0)
    scaled = None if threshold is None else threshold * 64 * 64 / 48
    found = make(kernel, num_slots=6, scale=0.5)(embeddings, scores, stop_threshold=scaled)
    assert found.log_masks.shape == (4, 6, 6, 8)
    counts = []
    for index in range(4):
        expected = algorithm_1(
            embeddings[index].double().numpy(),
            scores[index].double().numpy(),
            kernel,
            0.5,
            steps=5,
            threshold=threshold or 0.0,
        )
        counts.append(len(expected))
        masks = found.log_masks[index].exp().detach().numpy()
        np.testing.assert_allclose(masks[: len(expected)], expected, rtol=1e-3, atol=1e-6)
        assert (masks[len(expected) :] == 0).all()
    assert found.num_slots.tolist() == counts
    if threshold == 8.0:
        assert len(set(counts)) > 1, "the case should end at different steps"


@pytest.mark.parametrize("threshold", [None, 300.0])
def test_an_image_does_not_depend_on_its_batch(threshold: float | None) -> None:
    embeddings, scores = random_case(1)
    icsbp = make("gaussian", num_slots=5, scale=0.3)
    together = icsbp(embeddings, scores, stop_threshold=threshold)
    for index in range(4):
        alone = icsbp(
            embeddings[index : index + 1], scores[index : index + 1], stop_threshold=threshold
        )
        assert torch.equal(alone.log_masks[0], together.log_masks[index])
        assert torch.equal(alone.seeds[0], together.seeds[index])
        assert alone.num_slots[0] == together.num_slots[index]


def test_stopping_drops_the_small_mask_and_keeps_its_scope() -> None:
    """Three clusters of 4, 2 and 1 pixels on 1x7: sums are about 4, 2 and 1."""
    embeddings = row(0.0, 0.0, 0.0, 0.0, 10.0, 10.0, 20.0)
    scores = torch.tensor([[[0.9, 0.1, 0.1, 0.1, 0.5, 0.1, 0.3]]])
    icsbp = make("gaussian", num_slots=4, scale=1.0)
    at_64 = 64 * 64 / 7

    def counts(pixels: float) -> int:
        return int(icsbp(embeddings, scores, stop_threshold=pixels * at_64).num_slots)

    assert [counts(pixels) for pixels in (0.0, 0.5, 1.5, 3.0, 6.0)] == [4, 4, 3, 2, 1]
    found = icsbp(embeddings, scores, stop_threshold=1.5 * at_64)
    masks = found.log_masks.exp()[0, :, 0]
    # The scope after two masks becomes the third; the dropped third has no part in it.
    torch.testing.assert_close(masks[2], 1 - masks[0] - masks[1], rtol=1e-3, atol=1e-6)
    assert masks[2, 6].item() == pytest.approx(0.99 * 0.99, rel=1e-4)
    assert (found.log_masks[0, 3] == -torch.inf).all()


@pytest.mark.parametrize("hard", [False, True])
def test_skipping_leaves_the_small_mask_out_and_goes_on(hard: bool) -> None:
    """Three clusters of 4, 1 and 2 pixels on 1x7, drawn in this order."""
    embeddings = row(0.0, 0.0, 0.0, 0.0, 20.0, 10.0, 10.0).requires_grad_()
    scores = torch.tensor([[[0.9, 0.1, 0.1, 0.1, 0.6, 0.5, 0.1]]])
    threshold = 1.5 * 64 * 64 / 7
    stopping = make("gaussian", num_slots=4, scale=1.0)
    assert stopping(embeddings, scores, stop_threshold=threshold, hard=hard).num_slots == 2
    skipping = make("gaussian", num_slots=4, scale=1.0)
    skipping.small_slots = "skip"
    found = skipping(embeddings, scores, stop_threshold=threshold, hard=hard)
    masks = found.log_masks.exp()[0, :, 0]
    torch.testing.assert_close(masks.sum(dim=0), torch.ones(7))
    winners = masks.argmax(dim=0).tolist()
    assert winners[:4] == [0] * 4 and winners[5:] == [1] * 2
    if hard:  # nothing else has the lone pixel, so that it is left over
        assert found.num_slots == 3 and winners[4] == 2
    else:  # both others have it to 0.01 of what was left
        assert found.num_slots == 2
        plain = stopping(embeddings, scores).log_masks.exp()[0, :, 0, 4]
        shares = plain[[0, 2]] / plain[[0, 2]].sum()
        torch.testing.assert_close(masks[:2, 4], shares)
        (found.log_masks.exp() * torch.rand(found.log_masks.shape)).sum().backward()
        assert embeddings.grad is not None and embeddings.grad.isfinite().all()
    assert (masks[int(found.num_slots) :] == 0).all()
    # Seeds and kernels go with their masks.
    assert found.seeds[0].tolist()[:2] == [0, 5]
    assert found.log_alpha[0, 1, 0].argmax() in (5, 6)


@pytest.mark.parametrize("hard", [False, True])
def test_skipping_without_gradients_is_skipping_with_them(hard: bool) -> None:
    """In C++ where masks are soft, with the seeds and kernels that belong to them."""
    torch.manual_seed(1)
    embeddings, scores = 3 * torch.randn(3, 2, 16, 24), torch.rand(3, 16, 24)
    icsbp = make("gaussian", num_slots=9, scale=0.5)
    icsbp.small_slots = "skip"
    expected = icsbp(embeddings, scores, stop_threshold=60.0, hard=hard)
    with torch.no_grad():
        found = icsbp(embeddings, scores, stop_threshold=60.0, hard=hard)
    assert 1 < int(found.num_slots.min()) < 9
    for each in fields(found):
        one, other = getattr(found, each.name), getattr(expected, each.name).detach()
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=each.name)


def test_skipping_everything_leaves_one_mask_of_all() -> None:
    embeddings, scores = random_case(3)
    icsbp = make("gaussian", num_slots=4, scale=1.0)
    icsbp.small_slots = "skip"
    for hard in (False, True):
        found = icsbp(embeddings, scores, stop_threshold=1e6, hard=hard)
        assert found.num_slots.tolist() == [1] * 4
        torch.testing.assert_close(found.log_masks[:, 0].exp(), torch.ones(4, 6, 8))


def test_skipping_nothing_changes_nothing() -> None:
    embeddings, scores = random_case(4)
    plain = make("gaussian", num_slots=4, scale=1.0)
    icsbp = make("gaussian", num_slots=4, scale=1.0)
    icsbp.small_slots = "skip"
    found = icsbp(embeddings, scores, stop_threshold=0.0)
    torch.testing.assert_close(found.log_masks, plain(embeddings, scores).log_masks)
    assert found.num_slots.tolist() == [4] * 4


def test_the_threshold_is_scaled_by_the_images_area() -> None:
    """The same picture at twice the size stops at the same step."""
    embeddings = torch.zeros(1, 1, 64, 64)
    embeddings[..., 20:28, 20:28] = 10.0  # 64 pixels
    embeddings[..., 40:44, 40:44] = 20.0  # 16 pixels
    scores = torch.full((1, 64, 64), 0.01)
    scores[0, 0, 0], scores[0, 24, 24], scores[0, 42, 42] = 1.0, 0.9, 0.8
    icsbp = make("gaussian", num_slots=5)
    for threshold, expected in ((0.0, 5), (40.0, 3), (200.0, 2)):
        assert icsbp(embeddings, scores, stop_threshold=threshold).num_slots.item() == expected
        large = icsbp(
            embeddings.repeat_interleave(2, 2).repeat_interleave(2, 3),
            scores.repeat_interleave(2, 1).repeat_interleave(2, 2),
            stop_threshold=threshold,
        )
        assert large.num_slots.item() == expected


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spread", [0.0, 1e-8, 1.0, 1e4])
def test_masks_sum_to_one_and_gradients_are_finite(kernel: str, spread: float) -> None:
    """All pixels alike (every alpha saturated) up to all pixels far apart (every alpha zero)."""
    embeddings, scores = random_case(2)
    embeddings = (embeddings * spread).requires_grad_()
    icsbp = ICSBP(5, kernel)
    for threshold in (None, 300.0):
        found = icsbp(embeddings, scores, stop_threshold=threshold)
        torch.testing.assert_close(found.log_masks.exp().sum(dim=1), torch.ones(4, 6, 8))
        weights = torch.rand(found.log_masks.shape)
        (found.log_masks.exp() * weights).sum().backward()
        assert embeddings.grad is not None and embeddings.grad.isfinite().all()
        assert icsbp.log_scale.grad is not None and icsbp.log_scale.grad.isfinite()


def test_the_clamp_lets_gradients_through() -> None:
    """Straight-through: at alpha < 0.01 the kernel is still pulled wider."""
    icsbp = make("gaussian", scale=0.2)
    found = icsbp(row(0.0, 1.2), torch.tensor([[[1.0, 0.0]]]))
    masks = found.log_masks.exp()
    alpha = math.exp(-1.44 / 0.2)
    assert alpha < 0.01
    assert masks[0, 0, 0, 1].item() == pytest.approx(0.01, rel=1e-5)
    masks[0, 0, 0, 1].backward()
    # d alpha / d log v = alpha * d^2 / v.
    assert icsbp.log_scale.grad.item() == pytest.approx(alpha * 1.44 / 0.2, rel=1e-3)


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("threshold", [None, 300.0])
@pytest.mark.parametrize("size", [(1, 1, 2), (3, 17, 33), (2, 64, 64)])
def test_without_gradients_it_runs_in_cpp_with_the_same_result(
    size: tuple[int, int, int], threshold: float | None, normalisation: str
) -> None:
    """Embeddings near and far, so that kernels are clamped at both ends."""
    torch.manual_seed(sum(size))
    batch, height, width = size
    embeddings = torch.randn(batch, 8, height, width) * torch.logspace(-2, 0.5, width)
    scores = torch.rand(batch, height, width)
    icsbp = make("gaussian", 6, 0.7, normalisation)
    expected = icsbp(embeddings, scores, stop_threshold=threshold)
    with torch.no_grad():
        pixels, alphas = embeddings.flatten(2), (0.01, 0.99)
        native = native_gaussian_steps(pixels, scores.flatten(1), 2, icsbp.log_scale, alphas)
        assert native is not None
        found = icsbp(embeddings, scores, stop_threshold=threshold)
    for each in fields(found):
        one, other = getattr(found, each.name), getattr(expected, each.name)
        # The softmax takes differences of logarithms of a thousand and more.
        close = 1e-3 if normalisation == "softmax" else 1e-5
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=close, msg=each.name)


def test_embeddings_that_are_not_numbers_give_such_masks() -> None:
    """Here and there, and everywhere: no seed to be found."""
    for bad in (slice(3, 5), slice(None)):
        embeddings = torch.randn(1, 4, 8, 8)
        embeddings[:, :, bad] = torch.nan
        with torch.no_grad():
            found = make("gaussian", 3)(embeddings, torch.rand(1, 8, 8))
        assert found.log_masks[:, :, bad].isnan().all()


def test_half_precision_embeddings_are_clustered_in_float32() -> None:
    embeddings, scores = random_case(3)
    found = make("gaussian", num_slots=4)(embeddings.bfloat16(), scores)
    exact = make("gaussian", num_slots=4)(embeddings.bfloat16().float(), scores)
    assert found.log_masks.dtype == torch.float32
    assert torch.equal(found.log_masks, exact.log_masks)


def test_many_slots_stay_finite() -> None:
    """Scope shrinks a hundredfold per step at a seed: 30 steps leave the range of float32."""
    found = make("gaussian", num_slots=31)(torch.zeros(1, 1, 4, 4), torch.rand(1, 4, 4))
    assert found.log_masks.isfinite().all()
    assert found.log_masks[0, -1].max().item() == pytest.approx(30 * math.log(0.01), rel=1e-4)


# The softmax over all seeds


def test_softmax_by_hand() -> None:
    """Three seeds on a line at 0, 1 and 3: weights exp(-d^2 / 2) at every pixel, normalised."""
    icsbp = make("gaussian", num_slots=3, scale=2.0, normalisation="softmax")
    found = icsbp(row(0.0, 1.0, 3.0, 0.5), torch.tensor([[[1.0, 0.9, 0.8, 0.0]]]))
    assert found.seeds.tolist() == [[0, 2, 1]]  # where the most scope is left, times the score
    places, pixels = np.array([0.0, 3.0, 1.0]), np.array([0.0, 1.0, 3.0, 0.5])
    weights = np.exp(-((places[:, None] - pixels) ** 2) / 2)
    expected = weights / weights.sum(axis=0)
    np.testing.assert_allclose(found.log_masks.exp().detach()[0, :, 0], expected, rtol=1e-4)
    assert found.num_slots.tolist() == [3]


@pytest.mark.parametrize("kernel", KERNELS)
def test_softmax_masks_do_not_depend_on_the_order_of_the_seeds(kernel: str) -> None:
    """Two draws of the same three pixels as seeds: the masks change places and nothing else."""
    embeddings = 0.5 * torch.randn(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    chosen = (3, 21, 44)
    orders = ((0, 1, 2), (2, 0, 1))
    masks = {}
    for normalisation in ("softmax", "stick_breaking"):
        icsbp = make(kernel, num_slots=3, scale=0.5, normalisation=normalisation)
        for order in orders:
            scores = torch.zeros(48)
            for rank, place in enumerate(order):
                scores[chosen[place]] = 1 - 0.45 * rank
            found = icsbp(embeddings, scores.reshape(1, 6, 8))
            drawn = [chosen[place] for place in order]
            assert found.seeds[0].tolist() == drawn[: found.seeds.shape[1]]
            masks[normalisation, order] = found.log_masks.exp()[0].detach()
    first, second = (masks["softmax", order] for order in orders)
    torch.testing.assert_close(second, first[list(orders[1])])
    first, second = (masks["stick_breaking", order] for order in orders)
    assert not torch.allclose(second, first[list(orders[1])], atol=0.01)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("threshold", [None, 300.0])
@pytest.mark.parametrize("hard", [False, True])
def test_softmax_masks_sum_to_one(kernel: str, threshold: float | None, hard: bool) -> None:
    embeddings, scores = random_case(2)
    embeddings.requires_grad_()
    icsbp = make(kernel, num_slots=5, scale=0.5, normalisation="softmax")
    found = icsbp(embeddings, scores, stop_threshold=threshold, hard=hard)
    assert found.log_masks.shape == (4, 5, 6, 8)
    assert found.seeds.shape == (4, 5) and found.log_alpha.shape == (4, 5, 6, 8)
    masks = found.log_masks.exp()
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(4, 6, 8))
    for image, used in zip(masks, found.num_slots.tolist(), strict=True):
        assert (image[:used].sum(dim=(1, 2)) > 0).all() and (image[used:] == 0).all()
    if not hard:
        (masks * torch.rand(masks.shape)).sum().backward()
        assert embeddings.grad is not None and embeddings.grad.isfinite().all()


def test_softmax_stops_at_the_first_seed_whose_share_is_small() -> None:
    """Clusters of 4, 2 and 1 pixels, as above: no mask is left over for the rest."""
    embeddings = row(0.0, 0.0, 0.0, 0.0, 10.0, 10.0, 20.0)
    scores = torch.tensor([[[0.9, 0.1, 0.1, 0.1, 0.5, 0.1, 0.3]]])
    icsbp = make("gaussian", num_slots=4, normalisation="softmax")
    for pixels, expected in ((0.5, 3), (1.5, 2), (3.0, 1), (6.0, 1)):
        found = icsbp(embeddings, scores, stop_threshold=pixels * 64 * 64 / 7)
        assert found.num_slots.tolist() == [expected]
        masks = found.log_masks.exp()[0, :, 0]
        torch.testing.assert_close(masks[:expected].sum(dim=0), torch.ones(7))
    assert masks[0].tolist() == [1.0] * 7  # one slot takes everything


# Hard masks


def test_hard_masks_by_hand() -> None:
    """alpha is exp(-d^2): at least one half up to a distance of 0.83 from the seed."""
    found = make("gaussian", num_slots=5)(
        row(0.0, 0.5, 0.8, 0.9, 5.0), torch.tensor([[[0.9, 0.1, 0.1, 0.1, 0.5]]]), hard=True
    )
    assert found.log_masks.exp()[0, :, 0].tolist() == [
        [1.0, 1.0, 1.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 1.0],
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0] * 5,
        [0.0] * 5,
    ]
    assert found.num_slots.tolist() == [3]  # all pixels are explained


def test_what_hard_masks_leave_is_the_last_mask() -> None:
    """Too few slots for three clusters, or a threshold that the smallest does not reach."""
    embeddings = row(0.0, 0.0, 0.0, 10.0, 10.0, 20.0)
    scores = torch.tensor([[[0.9, 0.1, 0.1, 0.5, 0.1, 0.3]]])
    expected = [[1.0] * 3 + [0.0] * 3, [0.0] * 3 + [1.0] * 3]
    few = make("gaussian", num_slots=2)(embeddings, scores, hard=True)
    assert few.log_masks.exp()[0, :, 0].tolist() == expected
    threshold = 2.5 * 64 * 64 / 6
    stopped = make("gaussian", num_slots=4)(embeddings, scores, hard=True, stop_threshold=threshold)
    assert stopped.num_slots.tolist() == [2]
    assert stopped.log_masks.exp()[0, :2, 0].tolist() == expected


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_hard_masks_are_the_same_set_whatever_the_seeds(normalisation: str) -> None:
    """Section 3.1: unique but for their order, where clusters are apart."""
    centres = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]])
    labels = np.random.default_rng(0).integers(0, 4, (6, 8))
    noise = np.random.default_rng(1).normal(size=(6, 8, 3)) * 0.05
    embeddings = torch.from_numpy(centres[labels] + noise).float().permute(2, 0, 1)[None]
    icsbp = make("gaussian", num_slots=7, normalisation=normalisation)
    expected = {tuple((labels == label).ravel().tolist()) for label in range(4)}
    orders = set()
    for seed in range(5):
        scores = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(seed))
        found = icsbp(embeddings, scores, hard=True)
        assert found.num_slots.tolist() == [4]
        masks = found.log_masks.exp()[0, :4].bool().flatten(1)
        assert {tuple(mask.tolist()) for mask in masks} == expected
        orders.add(tuple(masks.int().argmax(dim=1).tolist()))
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_slots": 1}, "num_slots is 1; expected at least 2"),
        ({"stop_threshold": -5.0}, "stop_threshold is -5.0"),
        ({"stop_threshold": float("nan")}, "stop_threshold is nan"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    embeddings, scores = random_case(4)
    with pytest.raises(ValueError, match=message):
        make("gaussian", num_slots=3)(embeddings, scores, **arguments)


@pytest.mark.cuda
@pytest.mark.parametrize("threshold", [None, 300.0])
def test_clustering_on_cuda_never_waits_for_the_device(threshold: float | None) -> None:
    embeddings, scores = random_case(5)
    icsbp = ICSBP(5, "gaussian")
    expected = icsbp(embeddings, scores, stop_threshold=threshold)
    icsbp.cuda()
    embeddings, scores = embeddings.cuda(), scores.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = icsbp(embeddings, scores, stop_threshold=threshold)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.num_slots.cpu(), expected.num_slots)
    torch.testing.assert_close(found.log_masks.exp().cpu(), expected.log_masks.exp())


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_masks_sum_to_one_in_half_precision(precision: torch.dtype) -> None:
    """Where they are computed in PyTorch: with gradients, without a compiler, on a GPU."""
    embeddings, scores = random_case(5)
    icsbp = ICSBP(5, "gaussian")
    icsbp.small_slots = "skip"
    with torch.autocast("cpu", precision):
        found = icsbp(embeddings, scores, stop_threshold=200.0)
    assert found.num_slots.min() < 5  # some were skipped
    total = found.log_masks.detach().exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize("needed", [0.0, 5.0, 9.0, 1e6])
@pytest.mark.parametrize("pixels", [7, 300, 1024])
def test_skipping_in_cpp_is_skipping_in_pytorch(needed: float, pixels: int) -> None:
    """With masks of 9 pixels on average, some far below what exp can represent."""
    generator = torch.Generator().manual_seed(pixels)
    logits = 8 * torch.randn(3, 6, pixels, generator=generator)
    logits[0, :, 0] = torch.tensor([0.0, -300.0, -90.0, -300.0, -300.0, -120.0])
    masks = logits.log_softmax(dim=1) + math.log(9 * 6 / pixels)
    order, expected, used = _skip_small(masks.double(), needed)
    with torch.no_grad():
        native = native_skip_small(masks.contiguous(), needed)
    assert native is not None, "there is no C++ compiler"
    assert torch.equal(native[0], order) and torch.equal(native[2], used)
    torch.testing.assert_close(native[1], expected.float(), rtol=1e-4, atol=1e-4)
    assert native_skip_small(masks.requires_grad_(), needed) is None
