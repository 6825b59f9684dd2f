"""Distributions of the slots' latents: posterior, priors and their divergence."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STD_FLOOR = 1e-8
"""The smallest standard deviation of a latent; that of latents which have none of their own."""


def posterior_moments(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (..., D) from a posterior head's output (..., 2D)."""
    mean, scale = parameters.float().chunk(2, dim=-1)
    return mean, F.softplus(scale + 0.5) + STD_FLOOR


def prior_moments(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Bounded mean and standard deviation (..., D) from a prior's output (..., 2D)."""
    mean, scale = parameters.float().chunk(2, dim=-1)
    return mean.tanh(), (scale + 4).sigmoid() + 1e-4


def monte_carlo_kl(
    latents: Tensor, posterior: tuple[Tensor, Tensor], prior: tuple[Tensor, Tensor]
) -> Tensor:
    """log q(z|x) - log p(z) at drawn latents, from means and deviations: all of one shape."""
    return _log_prob(latents, *posterior) - _log_prob(latents, *prior)


def standard_normal(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of an N(0, 1) prior for latents of any shape."""
    return torch.zeros_like(latents), torch.ones_like(latents)


def _log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log-density up to the constant, which cancels between posterior and prior."""
    return -0.5 * ((value - mean) / std).square() - std.log()


class AutoregressivePrior(nn.Module):
    """p(z_k | z_<k): an LSTM over the slots in the order they were drawn; the first is N(0, 1).

    Always in float32: it is small, the KL is a difference of large numbers, and not every CPU has
    a half precision LSTM.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(latent_dim, 4 * latent_dim, batch_first=True)
        self.linear = nn.Linear(4 * latent_dim, 2 * latent_dim)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every slot given the ones before it: (B, K, D) each."""
        first = standard_normal(latents[:, :1])
        if latents.shape[1] == 1:  # flexible slots may stop at one; an LSTM needs a step
            return first
        with torch.autocast(latents.device.type, enabled=False):
            mean, std = prior_moments(self.linear(self.lstm(latents[:, :-1])[0]))
        return torch.cat([first[0], mean], dim=1), torch.cat([first[1], std], dim=1)

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, K, D) from standard normal noise (B, K, D), one slot after the other."""
        latents = [noise[:, 0]]
        state: tuple[Tensor, Tensor] | None = None
        with torch.autocast(noise.device.type, enabled=False):
            for step in range(1, noise.shape[1]):
                hidden, state = self.lstm(latents[-1][:, None], state)
                mean, std = prior_moments(self.linear(hidden[:, 0]))
                latents.append(mean + std * noise[:, step])
        return torch.stack(latents, dim=1)
