"""The training objective: GENESIS-V2's own, and optional supervision from simulated masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from genesis_core import ConfigError, GenesisV2
from genesis_core.losses import mask_distillation, mask_supervision


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the objective's terms. The defaults are the paper's.

    Attributes:
        unsupervised: whether to train the paper's objective, nll + beta * KL. False trains
            IC-SBP's masks alone, by supervision, and runs neither posterior nor decoder.
        goal: GECO's goal for the nll, in nats per pixel and channel.
        geco_step_size: eta at 64x64; 1e-5 suits the paper's 500,000 steps, short runs need more.
        beta_init: GECO's first beta; None takes the paper's, 1 or 1e-10 with the mask loss.
        noise_warmup_steps: steps over which the posterior's noise grows from none to its full size
            (not in the paper). A new posterior is nearly all noise, from which a decoder learns
            for a long time nothing but an average image.
        mask_supervision: weight of the ground-truth loss on IC-SBP's masks (not in the paper), a
            mean over the labelled images of a batch.
        mask_distillation: weight of the loss that teaches the decoder's masks IC-SBP's (not in
            the paper).
    """

    unsupervised: bool = True
    goal: float = 0.5655
    geco_step_size: float = 1e-5
    beta_init: float | None = None
    noise_warmup_steps: int = 0
    mask_supervision: float = 0.0
    mask_distillation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mask_supervision", "mask_distillation", "noise_warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("geco_step_size", "beta_init"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"objective.{name} is {value}; expected > 0")
        if self.mask_distillation and not self.unsupervised:
            raise ConfigError(
                "objective.mask_distillation trains the decoder, which objective.unsupervised "
                "false leaves out: set one of them otherwise"
            )
        if not self.unsupervised and not self.mask_supervision:
            raise ConfigError(
                "objective.unsupervised is false and objective.mask_supervision 0: nothing to learn"
            )


class Objective(nn.Module):
    """One forward pass to the loss; a module so that data parallelism and compile can wrap it."""

    def __init__(self, model: GenesisV2, config: ObjectiveConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None,
        seed_scores: Tensor,
        noise: Tensor,
        beta: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms as batch means (mask supervision's: over ``labels``).

        Args:
            images: (B, C, H, W) in [0, 1].
            labels: (L, H, W) instance labels of the first L <= B images, for mask supervision.
            seed_scores: (B, 1, H, W).
            noise: (B, K, D).
            beta: GECO's multiplier, scalar.
        """
        config = self.config
        terms: dict[str, Tensor] = {}
        loss = images.new_zeros(())
        if config.unsupervised:
            out = self.model(images, seed_scores=seed_scores, noise=noise)
            clusters = out.clusters
            losses = self.model.losses(images, out)
            nll, kl = losses.nll.mean(), losses.kl.sum(dim=1).mean()
            terms["nll"], terms["kl"] = nll, kl
            if losses.mask_kl is not None:
                terms["mask_kl"] = losses.mask_kl.mean()
                kl = kl + terms["mask_kl"]
            loss = nll + beta.to(kl.dtype) * kl
            terms["mse"] = (out.reconstruction - images).square().mean()
            if config.mask_distillation:
                distillation = mask_distillation(out.log_attention, out.log_masks).mean()
                terms["mask_distillation"] = distillation
                loss = loss + config.mask_distillation * distillation
        else:
            _, clusters = self.model.cluster(images, seed_scores)
        if labels is not None:
            supervised = replace(
                clusters,
                seeds=clusters.seeds[: len(labels)],
                log_alpha=clusters.log_alpha[: len(labels)],
            )
            terms["mask_supervision"] = mask_supervision(supervised, labels).mean()
            loss = loss + config.mask_supervision * terms["mask_supervision"]
        return loss, {name: value.detach() for name, value in terms.items()}


def step_randomness(
    model: GenesisV2, seed: int, step: int, places: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Seed scores (B, 1, H, W) and noise (B, K, D) of the images at these places of a global batch.

    A pure function of seed, step and the image's place in the global batch: that is what makes a
    resumed run exact and the number of processes irrelevant.
    """
    config = model.config
    scores, noise = [], []
    for place in places:
        state = np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        scores.append(torch.rand(1, config.image_size, config.image_size, generator=generator))
        noise.append(torch.randn(config.num_slots, config.latent_dim, generator=generator))
    return (
        torch.stack(scores).to(device, non_blocking=True),
        torch.stack(noise).to(device, non_blocking=True),
    )
