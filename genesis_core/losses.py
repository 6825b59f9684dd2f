"""Likelihood, divergences, GECO and mask supervision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genesis_core.config import ConfigError
from genesis_core.icsbp import Clusters

MASK_FLOOR = 1e-5


@dataclass
class Losses:
    """Terms of the objective, in nats.

    Attributes:
        nll: (B,), -log p(x|z) summed over pixels and channels. Slot Attention has no likelihood:
            there it is the mean squared error.
        kl: (B, K), Monte Carlo KL of each slot's latent; zero for unused slots.
        mask_kl: (B,), mask consistency, or None where the model has none or its config has it off.
    """

    nll: Tensor
    kl: Tensor
    mask_kl: Tensor | None

    @property
    def elbo(self) -> Tensor:
        """(B,), the evidence lower bound: -(nll + KL)."""
        return -(self.nll + self.kl.sum(dim=1))


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


def mask_distillation(log_attention: Tensor, log_masks: Tensor) -> Tensor:
    """Cross-entropy that teaches the decoder's masks the attention masks, per pixel: (B,).

    The gradient reaches the decoder (and the latents it reads) only, never the attention masks.

    Args:
        log_attention, log_masks: (B, K, 1, H, W).
    """
    target = log_attention.detach().float().exp()
    return -(target * log_masks.float()).sum(dim=1).flatten(1).mean(dim=1)


def mask_supervision(clusters: Clusters, labels: Tensor) -> Tensor:
    """Binary cross-entropy between IC-SBP's alpha masks and ground-truth instances: (B,).

    The instance under a step's seed is that step's target, so nothing has to be matched. The
    inside term is averaged over the instance's pixels; the outside term over each of the other
    instances and then over those, so that every instance weighs the same whatever its area.

    Args:
        clusters: IC-SBP's output for a fixed number of slots.
        labels: (B, H, W) integer instance labels; the background is an instance like any other.
    """
    expected = clusters.log_alpha[:, 0].shape
    if labels.shape != expected:
        raise ValueError(f"labels have shape {tuple(labels.shape)}; expected {tuple(expected)}")
    log_alpha = clusters.log_alpha.flatten(2)  # (B, S, HW)
    flat = labels.flatten(1).long()  # (B, HW)
    one_hot = torch.nn.functional.one_hot(flat).float()  # (B, HW, L)
    areas = one_hot.sum(dim=1)  # (B, L)
    present = (areas > 0).float()
    per_pixel = one_hot / areas.clamp_min(1)[:, None]  # averages over an instance's pixels
    target = flat.gather(1, clusters.seeds)  # (B, S)
    is_target = torch.nn.functional.one_hot(target, one_hot.shape[2]).float()  # (B, S, L)

    # -log(1 - alpha), kept finite where alpha reaches one.
    log_rest = torch.log1p(-log_alpha.exp().clamp_max(1 - 1e-6))
    others = present[:, None] * (1 - is_target)
    with torch.autocast(log_alpha.device.type, enabled=False):  # half precision is too coarse
        inside = ((-log_alpha) @ per_pixel * is_target).sum(dim=2)
        outside = ((-log_rest) @ per_pixel * others).sum(dim=2) / others.sum(dim=2).clamp_min(1)
    return (inside + outside).mean(dim=1)


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
        self.nll_ema = torch.where(self.nll_ema.isnan(), nll, ema)
        slack = self.goal - self.nll_ema
        speed = torch.where(slack > 0, self.speedup, 1.0)
        growth = (self.step_size * speed * slack).exp()
        self.beta = (self.beta * growth).clamp(self.beta_min, self.beta_max)

    def state_dict(self) -> dict[str, Tensor]:
        return {"beta": self.beta, "nll_ema": self.nll_ema}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.beta = state["beta"].to(self.beta)
        self.nll_ema = state["nll_ema"].to(self.nll_ema)
