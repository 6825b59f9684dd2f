"""The training objective: GENESIS-V2's own, and optional supervision from simulated masks."""

from __future__ import annotations

from dataclasses import dataclass

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
        mask_supervision: weight of the ground-truth loss on IC-SBP's masks (not in the paper).
        mask_distillation: weight of the loss that teaches the decoder's masks IC-SBP's (not in
            the paper).
    """

    unsupervised: bool = True
    goal: float = 0.5655
    geco_step_size: float = 1e-5
    beta_init: float | None = None
    mask_supervision: float = 0.0
    mask_distillation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mask_supervision", "mask_distillation"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"objective.{name} is {getattr(self, name)}; expected 0 or more")
        if not self.geco_step_size > 0:
            raise ConfigError(f"objective.geco_step_size is {self.geco_step_size}; expected > 0")
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
        labelled: Tensor | None,
        seed_scores: Tensor,
        noise: Tensor,
        beta: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its terms as batch means.

        Args:
            images: (B, C, H, W) in [0, 1].
            labels: (B, H, W) instance labels, needed for mask supervision only.
            labelled: (B,) bool, which images have labels; None if all have.
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
        if config.mask_supervision:
            if labels is None:
                raise ConfigError("objective.mask_supervision needs data with instance masks")
            supervision = mask_supervision(clusters, labels)
            if labelled is not None:
                supervision = supervision * labelled
            terms["mask_supervision"] = supervision.mean()
            loss = loss + config.mask_supervision * terms["mask_supervision"]
        return loss, {name: value.detach() for name, value in terms.items()}


def step_randomness(
    model: GenesisV2, seed: int, step: int, batch_size: int, rank: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Seed scores (B, 1, H, W) and noise (B, K, D) of a rank's share of a step's global batch.

    A pure function of seed, step and the image's place in the global batch: that is what makes a
    resumed run exact and the number of processes irrelevant.
    """
    config = model.config
    scores, noise = [], []
    for place in range(rank * batch_size, (rank + 1) * batch_size):
        state = np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
        scores.append(torch.rand(1, config.image_size, config.image_size, generator=generator))
        noise.append(torch.randn(config.num_slots, config.latent_dim, generator=generator))
    return (
        torch.stack(scores).to(device, non_blocking=True),
        torch.stack(noise).to(device, non_blocking=True),
    )
