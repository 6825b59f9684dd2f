"""Instance colouring stick-breaking process: clustering of pixel embeddings (Algorithm 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from genesis_core.ops.clustering import Steps, native_gaussian_steps, native_skip_small

KERNELS = ("gaussian", "laplacian", "epanechnikov")
NORMALISATIONS = ("stick_breaking", "softmax")
SMALL_SLOTS = ("stop", "skip")
ALPHA_MIN, ALPHA_MAX = 0.01, 0.99
HARD_ALPHA = 0.5
"""Where the kernel is cut for hard masks; the circle at which its initial scale is aimed."""
STOP_THRESHOLD_SIZE = 64
"""Image size at which stop thresholds are stated, in pixels."""


@dataclass
class Clusters:
    """What IC-SBP found.

    Attributes:
        log_masks: (B, K, H, W), log of masks that sum to one at every pixel; -inf where unused.
        num_slots: (B,) int64, how many of the K masks each image uses.
        seeds: (B, S) int64, flat pixel index of the seed drawn at each step; S is K - 1, or K with
            the softmax, where the last mask has a seed too.
        log_alpha: (B, S, H, W), log of the kernel around each seed before it is clamped.
    """

    log_masks: Tensor
    num_slots: Tensor
    seeds: Tensor
    log_alpha: Tensor

    def __getitem__(self, images: slice) -> Clusters:
        """The clusters of some of the images."""
        return Clusters(*(getattr(self, each.name)[images] for each in fields(self)))


def initial_log_scale(kernel: str, num_slots: int) -> float:
    """Start value of log v for each kernel (Section 3.1)."""
    scale = {
        "gaussian": 1 / (num_slots * math.log(2)),
        "laplacian": 1 / (math.sqrt(num_slots) * math.log(2)),
        "epanechnikov": 2 / num_slots,
    }[kernel]
    return math.log(scale)


class ICSBP(nn.Module):
    """Draws up to ``num_slots`` clusters, one seed pixel at a time.

    Normalisation "stick_breaking": each cluster takes its share of what the earlier ones left, so
    that masks depend on the order of the seeds. "softmax": stick-breaking only selects the seeds;
    the masks are the softmax of the log-kernels around all of them, whatever their order (Section
    3.1 suggests it for future work).

    With a flexible number of slots, ``small_slots`` says what a mask below the threshold does: it
    ends the image ("stop", as in the paper), or is left out while the next ones are taken ("skip",
    for which all slots are drawn).
    """

    def __init__(
        self,
        num_slots: int,
        kernel: str,
        normalisation: str = "stick_breaking",
        small_slots: str = "stop",
    ) -> None:
        super().__init__()
        self.small_slots = small_slots
        self.num_slots = num_slots
        self.kernel = kernel
        self.normalisation = normalisation
        self.log_scale = nn.Parameter(torch.tensor(initial_log_scale(kernel, num_slots)))

    def kernel_log_alpha(self, squared_distance: Tensor) -> Tensor:
        """Log of the kernel at the given squared distances (any shape), not yet clamped."""
        scale = self.log_scale.exp()
        if self.kernel == "gaussian":
            return -squared_distance / scale
        if self.kernel == "laplacian":
            # The seed itself has distance 0, where the square root has no gradient.
            return -squared_distance.clamp_min(1e-10).sqrt() / scale
        # Epanechnikov's kernel reaches zero; the floor keeps its logarithm finite.
        return (1 - squared_distance / scale).clamp_min(1e-10).log()

    def forward(
        self,
        embeddings: Tensor,
        seed_scores: Tensor,
        *,
        stop_threshold: float | None = None,
        num_slots: int | None = None,
        hard: bool = False,
    ) -> Clusters:
        """Cluster embeddings.

        Args:
            embeddings: (B, E, H, W).
            seed_scores: (B, H, W) in [0, 1], drawn once per image.
            stop_threshold: None for a fixed number of slots; else an image stops at, or skips, a
                mask whose sum is below this many pixels, stated at 64x64 and scaled to the image's
                area.
            num_slots: draw at most this many slots instead of ``self.num_slots``.
            hard: masks of zeros and ones: a pixel belongs to the first seed whose
                kernel reaches ``HARD_ALPHA`` there or, with the softmax, to the one among the
                seeds so found whose kernel is largest there (the argmax over the seeds). An image
                ends when no pixel is left. These masks pass no gradient; ``log_alpha`` does.

        Raises:
            ValueError: fewer than two slots, or a threshold that is no number of pixels.
        """
        batch, _, height, width = embeddings.shape
        slots = self.num_slots if num_slots is None else num_slots
        if slots < 2:
            raise ValueError(f"num_slots is {num_slots}; expected at least 2")
        by_softmax = self.normalisation == "softmax"
        steps = slots if by_softmax else slots - 1
        if stop_threshold is not None and not stop_threshold >= 0:
            raise ValueError(f"stop_threshold is {stop_threshold}; expected pixels (0 or more)")
        # Always float32: distances and logarithms lose too much in half precision.
        pixels = embeddings.float().flatten(2).contiguous()  # (B, E, HW), one channel after another
        scores = seed_scores.float().flatten(1).contiguous()
        found = None
        if self.kernel == "gaussian" and not hard:
            alphas = ALPHA_MIN, ALPHA_MAX
            found = native_gaussian_steps(pixels, scores, steps, self.log_scale, alphas)
        masks, log_scopes, log_alphas, seeds = found or self._steps(pixels, scores, steps, hard)
        used = masks.new_full((batch,), slots, dtype=torch.int64)
        pixels_needed = 0.5 if hard else None
        if stop_threshold is not None:
            scaled = stop_threshold * height * width / STOP_THRESHOLD_SIZE**2
            pixels_needed = max(scaled, pixels_needed or 0.0)
        if by_softmax:
            if pixels_needed is not None:
                used = _leading(masks[:, :-1], pixels_needed).clamp_min(1)
            masks = _softmax(log_alphas, used, hard)
        elif pixels_needed is not None:
            if self.small_slots == "skip":
                kept = None if hard else native_skip_small(masks, pixels_needed)
                order, masks, used = kept or _skip_small(masks, pixels_needed)
                seeds = seeds.gather(1, order)
                log_alphas = _in_order(log_alphas, order)
            else:
                masks, used = _stop_early(masks, log_scopes, pixels_needed)
            if hard:  # what is left for the last mask may be nothing
                used = (masks.exp().sum(dim=2) > 0).sum(dim=1)
        return Clusters(
            log_masks=masks.unflatten(2, (height, width)),
            num_slots=used,
            seeds=seeds,
            log_alpha=log_alphas.unflatten(2, (height, width)),
        )

    def _steps(self, pixels: Tensor, scores: Tensor, steps: int, hard: bool) -> Steps:
        """Stick-breaking from embeddings (B, E, HW) and seed scores (B, HW)."""
        log_scope = torch.zeros_like(scores)
        log_scopes, log_masks, log_alphas, seeds = [log_scope], [], [], []
        for _ in range(steps):
            seed = (scores * log_scope.detach().exp()).argmax(dim=1)  # (B,)
            centre = pixels.gather(2, seed[:, None, None].expand(-1, pixels.shape[1], 1))
            log_alpha = self.kernel_log_alpha((pixels - centre).square().sum(dim=1))
            alpha = log_alpha.exp()
            alpha = (alpha >= HARD_ALPHA).float() if hard else _clamp_straight_through(alpha)
            log_masks.append(log_scope + alpha.log())
            log_scope = log_scope + torch.log1p(-alpha)
            log_scopes.append(log_scope)
            log_alphas.append(log_alpha)
            seeds.append(seed)
        return Steps(
            log_masks=torch.stack([*log_masks, log_scope], dim=1),
            log_scopes=torch.stack(log_scopes, dim=1),
            log_alpha=torch.stack(log_alphas, dim=1),
            seeds=torch.stack(seeds, dim=1),
        )


def _clamp_straight_through(alpha: Tensor) -> Tensor:
    """Clamp the value, pass the gradient on as if it had not been clamped."""
    return alpha + (alpha.clamp(ALPHA_MIN, ALPHA_MAX) - alpha).detach()


def _leading(masks: Tensor, pixels_needed: float) -> Tensor:
    """(B,), how many of the masks (B, S, HW), logarithms, come before the first too small one."""
    large_enough = masks.exp().sum(dim=2) >= pixels_needed
    return large_enough.long().cumprod(dim=1).sum(dim=1)


def _softmax(log_alpha: Tensor, used: Tensor, hard: bool) -> Tensor:
    """Log masks (B, K, HW) from the log-kernels of all seeds; those from ``used`` on are unused."""
    index = torch.arange(log_alpha.shape[1], device=log_alpha.device)
    log_alpha = log_alpha.masked_fill((index >= used[:, None])[:, :, None], -torch.inf)
    if hard:
        best = log_alpha.argmax(dim=1, keepdim=True)
        return torch.where(index[None, :, None] == best, 0.0, -torch.inf)
    return log_alpha.log_softmax(dim=1)


def _stop_early(masks: Tensor, scopes: Tensor, pixels_needed: float) -> tuple[Tensor, Tensor]:
    """Drop each image's masks from the first too small one on; its scope becomes the last mask.

    Args:
        masks, scopes: (B, K, HW) logarithms; ``scopes[:, k]`` is what was left before step k.

    All steps have been run by now: that is cheaper than asking the device after each of them.
    """
    kept = _leading(masks[:, :-1], pixels_needed)
    index = torch.arange(masks.shape[1], device=masks.device)[None, :, None]
    last = kept[:, None, None]
    masks = torch.where(index < last, masks, torch.where(index == last, scopes, -torch.inf))
    return masks, kept + 1


def _skip_small(masks: Tensor, pixels_needed: float) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out each image's masks that are too small; the others share their pixels.

    In proportion to what the others have there; where they have nothing (hard masks), the last mask
    gets the pixel.

    Args:
        masks: (B, K, HW) logarithms, the last one of what no seed took.

    Returns:
        The order of the seeds (B, K - 1), those kept first; the masks in it, and then what no seed
        took, if that is large enough or all that is left; and how many masks are in use (B,).
    """
    shares = masks.exp()
    large = ~(shares.sum(dim=2) < pixels_needed)  # what is no number stays, and is seen
    with torch.autocast(masks.device.type, enabled=False):  # it would halve the precision
        total = (large.to(shares.dtype)[:, None] @ shares)[:, 0]  # (B, HW), what those kept have
    nowhere = total == 0
    smallest = torch.finfo(total.dtype).tiny
    kept = masks - total.clamp_min(smallest).log()[:, None]
    rest = torch.where(large[:, -1:], kept[:, -1], -torch.inf).masked_fill(nowhere, 0.0)
    large = torch.cat([large[:, :-1], (large[:, -1] | nowhere.any(dim=1))[:, None]], dim=1)
    kept = torch.cat([kept[:, :-1], rest[:, None]], dim=1)
    kept = kept.masked_fill(~large[:, :, None], -torch.inf)
    order = torch.argsort((~large).long(), dim=1, stable=True)
    of_seeds = torch.argsort((~large[:, :-1]).long(), dim=1, stable=True)
    return of_seeds, _in_order(kept, order), large.sum(dim=1)


def _in_order(maps: Tensor, order: Tensor) -> Tensor:
    """Maps (B, K, HW) of each image in an order (B, K)."""
    if len(maps) == 1:  # several times faster
        return maps.index_select(1, order[0])
    return maps.gather(1, order[:, :, None].expand_as(maps))
