"""Scenes drawn from the prior."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genesis_core import GenesisV2

ModelFactory = Callable[..., GenesisV2]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("prior", [True, False])
def test_samples_are_proper_scenes(prior: bool, make_model: ModelFactory) -> None:
    model = make_model(autoregressive_prior=prior)
    out = model.sample(3, seeded(0))
    assert out.reconstruction.shape == (3, 3, 32, 32)
    assert out.log_masks.shape == (3, 4, 1, 32, 32)
    assert out.means.shape == (3, 4, 3, 32, 32)
    assert out.latents.shape == (3, 4, 6)
    assert out.num_slots.tolist() == [4, 4, 4]
    assert out.log_attention is out.latent_mean is out.latent_std is None
    torch.testing.assert_close(out.log_masks.exp().sum(dim=1), torch.ones(3, 1, 32, 32))
    assert out.reconstruction.min() >= 0 and out.reconstruction.max() <= 1
    mixture = (out.log_masks.exp() * out.means).sum(dim=1)
    torch.testing.assert_close(out.reconstruction, mixture)
    assert not out.reconstruction.requires_grad


def test_a_generator_makes_samples_repeatable(make_model: ModelFactory) -> None:
    model = make_model()
    first, again, other = (model.sample(2, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.reconstruction, again.reconstruction)
    assert not torch.equal(first.reconstruction, other.reconstruction)
    torch.manual_seed(3)
    assert not torch.equal(model.sample(2).latents, model.sample(2).latents)


def test_the_independent_prior_is_standard_normal(make_model: ModelFactory) -> None:
    latents = make_model(autoregressive_prior=False).sample(500, seeded(0)).latents
    torch.testing.assert_close(latents.mean(dim=(0, 1)), torch.zeros(6), rtol=0, atol=0.1)
    torch.testing.assert_close(latents.std(dim=(0, 1)), torch.ones(6), rtol=0, atol=0.1)


def standardised(model: GenesisV2, latents: Tensor) -> Tensor:
    """Latents less the mean, over the standard deviation, that the prior gives them."""
    assert model.prior is not None
    mean, std = model.prior(latents)
    return (latents - mean) / std


def test_each_slot_is_drawn_from_the_prior_given_those_before(make_model: ModelFactory) -> None:
    """Standardising with the prior that training uses gives the noise back: standard normal."""
    model = make_model()
    with torch.no_grad():
        latents = model.sample(500, seeded(0)).latents
        noise = standardised(model, latents)
        torch.testing.assert_close(noise[:, 0], latents[:, 0])
        for slot in range(4):
            assert noise[:, slot].mean().abs() < 0.1
            assert (noise[:, slot].std() - 1).abs() < 0.1
        # Slots given other slots' history are not standard: the conditioning does matter.
        shuffled = torch.cat([latents[:, :1].roll(1, dims=0), latents[:, 1:]], dim=1)
        assert not torch.allclose(standardised(model, shuffled)[:, 1], noise[:, 1], atol=1e-3)


def test_number_of_slots_can_be_chosen(make_model: ModelFactory) -> None:
    assert make_model().sample(1, seeded(0), num_slots=9).latents.shape == (1, 9, 6)


@pytest.mark.parametrize(("n", "num_slots"), [(0, None), (-1, None), (1, 0)])
def test_nothing_to_sample_is_refused(
    n: int, num_slots: int | None, make_model: ModelFactory
) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        make_model().sample(n, num_slots=num_slots)


@pytest.mark.cuda
def test_a_cpu_generator_gives_cuda_the_same_samples(make_model: ModelFactory) -> None:
    expected = make_model().sample(2, seeded(0)).reconstruction
    actual = make_model().cuda().sample(2, seeded(0)).reconstruction
    # float32 convolutions are TF32 (10 bits) on CUDA unless told otherwise.
    torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0.02)
