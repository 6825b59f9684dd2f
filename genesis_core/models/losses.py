"""Likelihood, divergences, GECO, and supervision of masks and kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core.models.config import ConfigError
from genesis_core.models.icsbp import HARD_ALPHA, Clusters
from genesis_core.models.layers import pixel_coordinates

MASK_FLOOR = 1e-5
UNKNOWN_LABEL = 255
"""The instance label of pixels of which nobody knows what they show."""
COLOUR_STD, PLACE_STD = 0.02, 0.03
"""Noise in ``region_mixture``: of colours (and depth) in [0, 1]; of places in [-1, 1], where it is
a pixel of 64.
"""

_FREE_MAPS = 2  # of ``encoder_drift``


@dataclass
class Losses:
    """Terms of the objective, in nats.

    Attributes:
        nll: (B,), -log p(x|z) summed over pixels and channels. Slot Attention has no likelihood:
            there it is the mean squared error.
        kl: (B, K), Monte Carlo KL of each slot's latent; zero for unused slots.
        mask_kl: (B,), mask consistency, or None where the model has none or its config has it off.
        decoded_nll: (B,), -log p(x|z) with the decoder's masks, where training uses others
            (MONet-G); else None.
    """

    nll: Tensor
    kl: Tensor
    mask_kl: Tensor | None
    decoded_nll: Tensor | None = None

    @property
    def elbo(self) -> Tensor:
        """(B,), the evidence lower bound: -(nll + KL).

        The masks are those of the generative model, the decoder's (the note to Table 3).
        """
        nll = self.nll if self.decoded_nll is None else self.decoded_nll
        return -(nll + self.kl.sum(dim=1))


def images_at(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) averaged to (B, C, size, size); as they are where they have that size."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images.float(), (size, size), mode="area")


def labels_at(labels: Tensor, size: int) -> Tensor:
    """Labels (B, H, W) of every pixel near the middle of a larger one: (B, size, size)."""
    stride = labels.shape[-1] // size
    return labels[..., stride // 2 :: stride, stride // 2 :: stride]


def log_masks_at(log_masks: Tensor, size: int) -> Tensor:
    """Log masks (B, K, 1, H, W) at size x size: probabilities averaged, or interpolated.

    They still sum to one at every pixel. As they are where they have that size.
    """
    if log_masks.shape[-1] == size:
        return log_masks
    masks = log_masks.float().exp()[:, :, 0]
    if log_masks.shape[-1] > size:
        masks = F.interpolate(masks, (size, size), mode="area")
    else:
        masks = F.interpolate(masks, (size, size), mode="bilinear", align_corners=False)
    masks = masks[:, :, None]
    # The logarithm of zero would make every gradient that it is multiplied with no number.
    smallest = torch.finfo(masks.dtype).tiny
    return masks.clamp_min(smallest).log().masked_fill(masks == 0, -torch.inf)


def sgmm_nll(images: Tensor, log_masks: Tensor, means: Tensor, pixel_std: float) -> Tensor:
    """Negative log-likelihood of the spatial Gaussian mixture, summed per image (Section 3).

    Args:
        images: (B, C, H, W).
        log_masks: (B, K, 1, H, W); -inf marks slots that take no part.
        means: (B, K, C, H, W).
        pixel_std: sigma_x.

    Returns: (B,)
    """
    deviation = (images.float()[:, None] - means.float()) / pixel_std
    log_density = -0.5 * deviation.square() - gaussian_floor(pixel_std)
    mixture = torch.logsumexp(log_masks.float() + log_density, dim=1)
    return -mixture.flatten(1).sum(dim=1)


def gaussian_floor(pixel_std: float) -> float:
    """The lowest nll a Gaussian of this width can have per element, in nats."""
    return 0.5 * math.log(2 * math.pi * pixel_std**2)


def mask_consistency(
    log_attention: Tensor, log_masks: Tensor, *, stop_gradient: bool = True
) -> Tensor:
    """KL(attention masks || decoder masks) summed over pixels (Equation 7): (B,).

    Both are floored at 1e-5 and renormalised.

    Args:
        log_attention, log_masks: (B, K, 1, H, W).
        stop_gradient: whether to keep the gradient out of the decoder's masks.
    """
    if stop_gradient:
        log_masks = log_masks.detach()
    attention = _floored(log_attention.float().exp())
    decoded = _floored(log_masks.float().exp())
    divergence = attention * (attention.log() - decoded.log())
    return divergence.flatten(1).sum(dim=1)


def _floored(masks: Tensor) -> Tensor:
    masks = masks.clamp_min(MASK_FLOOR)
    return masks / masks.sum(dim=1, keepdim=True)


def mask_distillation(log_attention: Tensor, log_masks: Tensor, *, hard: bool = False) -> Tensor:
    """Cross-entropy that teaches the decoder's masks the attention masks, per pixel: (B,).

    The gradient reaches the decoder (and the latents it reads) only, never the attention masks.

    Args:
        log_attention, log_masks: (B, K, 1, H, W); -inf in both marks slots that take no part.
        hard: each pixel is taught the slot that attends to it most, in place of all slots' shares.
    """
    target = log_attention.detach().float()
    if hard:
        errors = -log_masks.float().gather(1, target.argmax(dim=1, keepdim=True))
    else:
        absent = target == -torch.inf
        errors = -(target.exp() * log_masks.float().masked_fill(absent, 0.0)).sum(dim=1)
    return errors.flatten(1).mean(dim=1)


def latent_anchor(images: Tensor, log_attention: Tensor, latent_mean: Tensor) -> Tensor:
    """Squared error that makes a latent say what the attention masks show: a mean over slots, (B,).

    The first C + 4 dimensions of a slot's latent mean learn its mean colour (0 to 1 as -1 to 1),
    row and column of its centre (-1 to 1) and twice its spread along both. Needs no labels; not in
    the paper. The gradient reaches the latents only, never the attention masks.

    Args:
        images: (B, C, H, W) in [0, 1].
        log_attention: (B, K, 1, H, W); a mask of less than a thousandth of the image counts less.
        latent_mean: (B, K, D), D >= C + 4.
    """
    share, target = readable_latents(images, log_attention.detach())
    known = target.shape[2]
    if latent_mean.shape[2] < known:
        raise ValueError(
            f"latents have {latent_mean.shape[2]} dimensions; to anchor them takes {known}"
        )
    errors = (latent_mean[..., :known].float() - target).square().mean(dim=2)
    weights = (share / 1e-3).clamp_max(1)
    return (weights * errors).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-3)


def readable_latents(images: Tensor, log_attention: Tensor) -> tuple[Tensor, Tensor]:
    """What the first C + 4 dimensions of a slot's latent are to say, see ``latent_anchor``.

    Args:
        images: (B, C, H, W) in [0, 1].
        log_attention: (B, K, 1, H, W).

    Returns:
        Each slot's share of the image (B, K), and the dimensions (B, K, C + 4).
    """
    channels = images.shape[1]
    share, means, covariances = _region_moments(images, log_attention)
    spread = covariances.diagonal(dim1=2, dim2=3)[..., channels:].clamp_min(0).sqrt()
    return share, torch.cat(
        [2 * means[..., :channels] - 1, means[..., channels:], 2 * spread], dim=2
    )


def region_mixture(images: Tensor, log_masks: Tensor, *, place_weight: float = 0.5) -> Tensor:
    """How badly a few compact regions, each alike in colour, describe an image: nats a pixel, (B,).

    With a place_weight of 1, the negative evidence lower bound, but for a constant, of a mixture of
    Gaussians over the pixels' colour and place, as in Blobworld (Carson et al. 2002). The masks are
    what expectation maximisation calls responsibilities; each region's share, mean and covariance
    are the best ones under its mask, in closed form. Colour and place have one covariance, so that
    a region's colour may change evenly across it, as shading does. Beside what they show, pixels
    are taken to have noise of COLOUR_STD and PLACE_STD. A pixel counts by how far its colour is
    from the image's mean: else shades of a large background outweigh small objects.

    Needs no labels and no decoder; not in the paper. The gradient reaches the masks.

    Args:
        images: (B, C, H, W) in [0, 1].
        log_masks: (B, K, 1, H, W); -inf marks slots that take no part.
        place_weight: how much a region's extent counts beside its colours, given its place.
    """
    channels = images.shape[1]
    weights = _contrast(images)
    share, _, covariances = _region_moments(images, log_masks, weights)
    noise = covariances.new_full((channels + 2,), PLACE_STD**2)
    noise[:channels] = COLOUR_STD**2
    covariances = covariances + torch.diag(noise)
    joint = _log_determinant(covariances)
    place = _log_determinant(covariances[..., channels:, channels:])
    code = 0.5 * (joint + (place_weight - 1) * place) - (share + 1e-6).log()
    log_masks = log_masks.float().flatten(2).clamp_min(-20)  # finite where a mask is zero
    entropy = -(log_masks.exp() * log_masks).sum(dim=1)  # (B, HW)
    return (share * code).sum(dim=1) - (weights * entropy).mean(dim=1)


def _contrast(images: Tensor) -> Tensor:
    """Weights of pixels by their colour's Mahalanobis distance from the image's mean: (B, HW).

    With something added, so that no pixel counts nothing, and scaled to a mean of one.
    """
    colours = images.float().flatten(2)
    with torch.autocast(images.device.type, enabled=False):
        colours = colours - colours.mean(dim=2, keepdim=True)
        covariances = colours @ colours.transpose(1, 2) / colours.shape[2]
        noise = covariances.new_full((colours.shape[1],), COLOUR_STD**2)
        factors, _ = torch.linalg.cholesky_ex(covariances + torch.diag(noise))
        distance = torch.linalg.solve_triangular(factors, colours, upper=False).norm(dim=1)
    weights = distance + 0.2
    return weights / weights.mean(dim=1, keepdim=True)


def _region_moments(
    images: Tensor, log_masks: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Share of the image (B, K), and mean (B, K, C + 2) and covariance (B, K, C + 2, C + 2) of
    colour and place (row and column, -1 to 1), under each of the masks (B, K, 1, H, W).

    weights: (B, HW), how much each pixel counts, with a mean of one; shares are of their sum then.
    """
    batch, _, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):  # differences of squares
        masks = log_masks.float().exp().flatten(2)  # (B, K, HW)
        if weights is not None:
            masks = masks * weights[:, None]
        mass = masks.sum(dim=2, keepdim=True)
        masks = masks / mass.clamp_min(1e-3)
        grid = pixel_coordinates(height, width, images.device).expand(batch, -1, -1, -1)
        colours = images.float()
        # About the image's mean: the smaller the squares, the less their difference is rounded.
        centre = colours.mean(dim=(2, 3), keepdim=True)
        pixels = torch.cat([colours - centre, grid], dim=1).flatten(2).transpose(1, 2)
        means = masks @ pixels  # (B, K, HW) @ (B, HW, C + 2)
        products = (pixels[..., :, None] * pixels[..., None, :]).flatten(2)
        squares = (masks @ products).unflatten(2, (means.shape[2], means.shape[2]))
        covariances = squares - means[..., :, None] * means[..., None, :]
    means = means + F.pad(centre.flatten(1), (0, 2))[:, None]
    return mass[..., 0] / (height * width), means, covariances


def _log_determinant(matrices: Tensor) -> Tensor:
    """Of symmetric, positive definite matrices (..., N, N): (...)."""
    # The check that torch.linalg.cholesky makes would wait for the device.
    factors, _ = torch.linalg.cholesky_ex(matrices)
    return 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)


def mask_supervision(clusters: Clusters, labels: Tensor, num_labels: int | None = None) -> Tensor:
    """Binary cross-entropy between IC-SBP's alpha masks and ground-truth instances: (B,).

    The instance under a step's seed is that step's target, so nothing has to be matched. The
    inside term is averaged over the instance's pixels; the outside term over each of the other
    instances and then over those, so that every instance weighs the same whatever its area.

    Args:
        clusters: IC-SBP's output for a fixed number of slots.
        labels: (B, H, W) integer instance labels; the background is an instance like any other.
            Pixels of UNKNOWN_LABEL count nowhere, and neither do steps whose seed is on one.
        num_labels: what all known labels are below; None counts, for which it waits for a GPU.
    """
    _check_labels(clusters, labels)
    log_alpha = clusters.log_alpha.flatten(2)  # (B, S, HW)
    flat = labels.flatten(1).long()  # (B, HW)
    known = flat != UNKNOWN_LABEL
    count = int((flat * known).max()) + 1 if num_labels is None else num_labels
    with torch.autocast(labels.device.type, enabled=False):
        members = _members(flat, count) * known[..., None]  # (B, HW, L)
        areas = members.sum(dim=1)  # (B, L)

        def instance_means(values: Tensor) -> Tensor:
            """(B, S, HW) -> (B, S, L)."""
            # A product of matrices: adding up pixel by pixel, a GPU would wait for itself.
            return values.float() @ members / areas.clamp_min(1)[:, None]

        target = flat.gather(1, clusters.seeds)[:, :, None]  # (B, S, 1)
        counted = known.gather(1, clusters.seeds)
        target = target.clamp_max(count - 1)
        inside = instance_means(-log_alpha).gather(2, target)[:, :, 0]
        # -log(1 - alpha), kept finite where alpha reaches one.
        log_rest = torch.log1p(-log_alpha.exp().clamp_max(1 - 1e-6))
        others = (areas > 0)[:, None] & (torch.arange(count, device=labels.device) != target)
        outside = (instance_means(-log_rest) * others).sum(dim=2)
        outside = outside / others.sum(dim=2).clamp_min(1)
        steps = (inside + outside) * counted
    return steps.sum(dim=1) / counted.sum(dim=1).clamp_min(1)


def overlap_supervision(clusters: Clusters, labels: Tensor) -> Tensor:
    """How little IC-SBP's masks, cut where the kernel is one half, overlap with instances: (B,).

    The Lovasz hinge (Yu and Blaschko 2015), a bound of one minus the intersection over
    union, of the mask that each step's kernel cuts out at HARD_ALPHA, and the instance under its
    seed. Not in the paper. The cross-entropy of ``mask_supervision`` fits probabilities instead,
    and leaves the kernel wider than such masks need. A mean over the steps that found anything.

    Args:
        clusters: IC-SBP's output, with hard masks so that no seed lies in an earlier mask.
        labels: as for ``mask_supervision``.

    Raises:
        ValueError: the labels' shape is not that of the masks.
    """
    _check_labels(clusters, labels)
    log_alpha = clusters.log_alpha.flatten(2)  # (B, S, HW)
    flat = labels.flatten(1).long()
    known = flat != UNKNOWN_LABEL
    with torch.autocast(labels.device.type, enabled=False):
        found = clusters.log_masks[:, : log_alpha.shape[1]].flatten(2).exp().sum(dim=2) > 0
        counted = found & known.gather(1, clusters.seeds)
        target = flat.gather(1, clusters.seeds)
        # Sorting is dear: on the CPU only what counts. A GPU would wait to be told what does.
        rows = torch.arange(counted.numel(), device=counted.device)
        if counted.device.type == "cpu":
            rows = rows[counted.flatten()]
        image, step = rows // counted.shape[1], rows % counted.shape[1]
        hinge = _lovasz_hinge(
            log_alpha[image, step].float() / -math.log(HARD_ALPHA) + 1,
            (flat[image] == target[image, step][:, None]) & known[image],
            known[image],
        )
        steps = torch.zeros_like(counted, dtype=hinge.dtype).index_put((image, step), hinge)
    return (steps * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)


def _lovasz_hinge(margins: Tensor, inside: Tensor, known: Tensor) -> Tensor:
    """(N,), of margins (N, P), positive where a pixel is taken, and which pixels are to be."""
    # Negative margins are compressed by a logarithm: a pixel far away must not outweigh all others.
    margins = torch.where(margins > 0, margins, -torch.log1p(-margins.clamp_max(0)))
    errors = (1 - torch.where(inside, margins, -margins)).relu() * known
    errors, order = errors.sort(dim=1, descending=True)
    inside_sorted = inside.gather(1, order).float()
    area = inside_sorted.sum(dim=1, keepdim=True)
    missed = area - inside_sorted.cumsum(dim=1)
    union = area + (1 - inside_sorted).cumsum(dim=1)
    lost = 1 - missed / union.clamp_min(1)
    weights = torch.diff(lost, dim=1, prepend=torch.zeros_like(lost[:, :1]))
    return (errors * weights).sum(dim=1)


def _check_labels(clusters: Clusters, labels: Tensor) -> None:
    expected = clusters.log_alpha[:, 0].shape
    if labels.shape != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {tuple(expected)}")


def _members(labels: Tensor, count: int) -> Tensor:
    """(B, N, count) float32, one where a label is that number."""
    # F.one_hot may wait for the device, to check.
    return (labels[..., None] == torch.arange(count, device=labels.device)).float()


def kind_supervision(kind_logits: Tensor, log_masks: Tensor, kinds: Tensor) -> Tensor:
    """Cross-entropy between the kinds that slots are taken for and those of their pixels: (B,).

    A mean over slots; a mask of less than a thousandth of the image counts less. The gradient
    reaches the features that were pooled, not the masks' shares.

    Args:
        kind_logits: (B, K, C).
        log_masks: (B, K, 1, H, W), IC-SBP's; -inf marks slots that take no part.
        kinds: (B, H, W) integer, the true kind of each pixel, below C.
    """
    count = kind_logits.shape[2]
    with torch.autocast(kinds.device.type, enabled=False):
        masks = log_masks.detach().float().exp().flatten(2)  # (B, K, HW)
        members = _members(kinds.flatten(1), count)  # (B, HW, C)
        sums = masks @ members
        mass = sums.sum(dim=2)
        shares = sums / mass.clamp_min(1e-6)[..., None]
        entropy = -(shares * kind_logits.float().log_softmax(dim=2)).sum(dim=2)
        weights = (mass / (1e-3 * masks.shape[2])).clamp_max(1)
    return (weights * entropy).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-3)


def pixel_kind_supervision(
    kind_logits: Tensor,
    kinds: Tensor,
    labels: Tensor,
    num_labels: int,
    kind_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy between the kinds that pixels are taken for and the true ones: (B,).

    A mean over each instance's pixels, then over the instances, so that every instance weighs the
    same; one of less than nine pixels counts less.

    Args:
        kind_logits: (B, C, H, W).
        kinds: (B, H, W) integer, the true kind of each pixel, below C.
        labels: (B, H, W) integer instance labels; pixels of UNKNOWN_LABEL count nowhere.
        num_labels: what all known labels are below.
        kind_weights: (C,), how much an instance of each kind counts; None: all the same.
    """
    with torch.autocast(kinds.device.type, enabled=False):
        entropy = F.cross_entropy(kind_logits.float(), kinds.long(), reduction="none").flatten(1)
        flat = labels.flatten(1).long()
        members = _members(flat, num_labels) * (flat != UNKNOWN_LABEL)[..., None]  # (B, HW, L)
        areas = members.sum(dim=1)

        def mean(of_pixels: Tensor) -> Tensor:
            """Of each instance's pixels: (B, L)."""
            return (of_pixels[:, None] @ members)[:, 0] / areas.clamp_min(1)

        means = mean(entropy)
        weights = (areas / 9).clamp_max(1)
        if kind_weights is not None:
            weights = weights * mean(kind_weights[kinds.flatten(1).long()])
    return (weights * means).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-3)


def hard_slot_kind_supervision(
    kind_logits: Tensor,
    log_masks: Tensor,
    kinds: Tensor,
    labels: Tensor,
    kind_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy between the kinds that hard masks are taken for and that of most pixels: (B,).

    What a mask is taken for is the mean of its pixels' logits, as a slot's kind is in training. A
    mean over the masks; one of less than nine pixels counts less. The gradient reaches the logits.
    Beside ``pixel_kind_supervision``, where a piece of the surroundings that looks like an object
    is a small part of a large instance: here it counts like an object.

    Args:
        kind_logits: (B, C, H, W), of pixels.
        log_masks: (B, K, H, W), logarithms of IC-SBP's masks of zeros and ones.
        kinds: (B, H, W) integer, the true kind of each pixel, below C.
        labels: (B, H, W) integer instance labels; pixels of UNKNOWN_LABEL count nowhere.
        kind_weights: (C,), how much a mask of each kind counts; None: all the same.
    """
    with torch.autocast(kinds.device.type, enabled=False):
        known = labels.flatten(1) != UNKNOWN_LABEL
        masks = log_masks.detach().float().exp().flatten(2) * known[:, None]  # (B, K, HW)
        members = _members(kinds.flatten(1), kind_logits.shape[1])  # (B, HW, C)
        areas = masks.sum(dim=2)
        target = (masks @ members).argmax(dim=2)  # (B, K)
        logits = masks @ kind_logits.float().flatten(2).transpose(1, 2)
        logits = logits / areas.clamp_min(1)[..., None]
        entropy = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        weights = (areas / 9).clamp_max(1)
        if kind_weights is not None:
            weights = weights * kind_weights[target]
    return (weights * entropy).sum(dim=1) / weights.sum(dim=1).clamp_min(1e-3)


class Geco:
    """Generalised ELBO with constrained optimisation: balances nll against KL (Equations 5, 6).

    ``loss`` uses the beta from before the update; ``update`` is called once a step, with the nll
    averaged over all data-parallel ranks. State stays on the device as float64 tensors.

    Args:
        goal: target nll per image in nats.
        num_elements: pixels times channels, to check the goal.
        image_size: height = width, which scales the step size.
        pixel_std: sigma_x; its Gaussian's constant bounds what a goal can ask for.
        step_size: eta at 64x64; the paper's 1e-5 suits 500,000 steps.
        beta_init: 1, or 1e-10 with the mask consistency loss.

    Raises:
        ConfigError: the goal can never be met, so beta would decay for ever.
    """

    momentum = 0.99
    speedup = 10.0
    beta_min, beta_max = 1e-10, 1e10

    def __init__(
        self,
        goal: float,
        *,
        num_elements: int,
        image_size: int,
        pixel_std: float = 0.7,
        step_size: float = 1e-5,
        beta_init: float = 1.0,
        device: torch.device | str = "cpu",
    ) -> None:
        floor = gaussian_floor(pixel_std)
        if not goal > floor * num_elements:
            raise ConfigError(
                f"the GECO goal is {goal / num_elements:.4f} nats per element; with pixel_std "
                f"{pixel_std} a perfect reconstruction reaches {floor:.4f}, so a goal at or below "
                "it is never met. Raise the goal."
            )
        self.goal = goal
        self.step_size = step_size * 64**2 / image_size**2
        self.beta = torch.tensor(beta_init, dtype=torch.float64, device=device)
        self.nll_ema = torch.tensor(math.nan, dtype=torch.float64, device=device)

    def loss(self, nll: Tensor, kl: Tensor) -> Tensor:
        """nll + beta * KL, from batch means (scalars)."""
        return nll + self.beta.to(kl.dtype) * kl

    @torch.no_grad()
    def update(self, nll: Tensor) -> None:
        """Move beta after a step whose mean nll per image was ``nll`` (scalar)."""
        nll = nll.detach().double()
        ema = self.momentum * self.nll_ema + (1 - self.momentum) * nll
        # In place, so that a CUDA graph of it goes on from where it was.
        self.nll_ema.copy_(torch.where(self.nll_ema.isnan(), nll, ema))
        slack = self.goal - self.nll_ema
        speed = torch.where(slack > 0, self.speedup, 1.0)
        growth = (self.step_size * speed * slack).exp()
        self.beta.copy_((self.beta * growth).clamp(self.beta_min, self.beta_max))

    def state_dict(self) -> dict[str, Tensor]:
        return {"beta": self.beta, "nll_ema": self.nll_ema}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.beta = state["beta"].to(self.beta)
        self.nll_ema = state["nll_ema"].to(self.nll_ema)


def encoder_drift(maps: Sequence[Tensor], before: Sequence[Tensor]) -> Tensor:
    """How far an encoder's maps have moved, in units of the variance of what they were.

    Not in the paper. The two finest maps are free: they hold edges and colours, which the branch of
    points and the masks' borders need as they like.

    Args:
        maps: the encoder's maps of B images, the finest first, each (B, C, H, W).
        before: those of the encoder that it is held to.

    Returns:
        (B,): the mean over the maps, of 1 where a map tells as little as noise would.
    """
    drifts = []
    for now, then in zip(maps[_FREE_MAPS:], before[_FREE_MAPS:], strict=True):
        then = then.float()
        variance = then.var((1, 2, 3), correction=0).clamp_min(1e-6)
        drifts.append((now.float() - then).square().mean((1, 2, 3)) / variance)
    return torch.stack(drifts).mean(0)
