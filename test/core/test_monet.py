"""MONet-G against golden tensors, its own definition, and reference checkpoints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from genesis_core import Monet, SlotModel, load_model, save_model

Golden = Callable[[str], tuple[Path, dict[str, Any]]]
ModelBuilder = Callable[..., SlotModel]


@pytest.fixture
def model(build_small: ModelBuilder) -> Monet:
    built = build_small("monet")
    assert isinstance(built, Monet)
    return built


def assert_close(actual: Tensor | None, expected: np.ndarray, name: str) -> None:
    """1e-4 relative; values that nearly cancel are measured against the tensor's largest."""
    assert actual is not None, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name
    )


def test_golden_forward_pass_and_losses(golden: Golden, tmp_path: Path) -> None:
    path, expected = golden("monet_64.npz")
    settings = json.loads(str(expected["config"]))
    model = load_model(path.with_suffix(".ckpt"))
    config = model.config
    assert (config.model, config.image_size) == ("monet", settings["img_size"])
    assert config.num_slots == settings["K_steps"]
    assert config.latent_dim == settings["comp_ldim"]
    assert config.attention_width == settings["filter_start"]
    assert config.pixel_std == settings["pixel_std1"]
    save_model(model, tmp_path / "model.safetensors")
    images = torch.from_numpy(expected["input"])
    batch, slots = expected["log_m"].shape[:2]
    noise = expected["eps_0"].reshape(slots, batch, -1).swapaxes(0, 1)  # drawn slot by slot
    for same in (model, load_model(tmp_path / "model.safetensors")):
        out = same(images, noise=torch.from_numpy(noise.copy()))
        losses = same.losses(images, out)
        assert_close(out.log_attention, expected["log_m"], "log_attention")
        assert_close(out.latent_mean, expected["mu"], "latent_mean")
        assert_close(out.latent_std, expected["sigma"], "latent_std")
        assert_close(out.latents, expected["z"], "latents")
        assert_close(out.means, expected["x_r"], "means")
        assert_close(out.reconstruction, expected["recon"], "reconstruction")
        assert_close(losses.nll, expected["err"], "nll")
        assert_close(losses.kl, expected["kl_l"], "kl")
        assert_close(losses.mask_kl, expected["kl_m"], "mask_kl")


def test_losses_follow_their_definition(model: Monet, images: Tensor) -> None:
    with torch.no_grad():
        out = model(images, generator=torch.Generator().manual_seed(0))
        losses = model.losses(images, out)
    attention, decoded = out.log_attention.double().exp(), out.log_masks.double().exp()
    density = Normal(out.means.double(), 0.7).log_prob(images.double()[:, None]).exp()
    nll = -(attention * density).sum(dim=1).log().sum(dim=(1, 2, 3))
    torch.testing.assert_close(losses.nll.double(), nll, rtol=1e-5, atol=0)
    posterior = Normal(out.latent_mean, out.latent_std).log_prob(out.latents)
    kl = (posterior - Normal(0.0, 1.0).log_prob(out.latents)).sum(dim=2)
    torch.testing.assert_close(losses.kl, kl, rtol=1e-4, atol=1e-4)
    mask_kl = (attention * (attention / decoded).log()).sum(dim=(1, 2, 3, 4))  # no mask is < 1e-5
    assert attention.min() > 1e-5 and decoded.min() > 1e-5
    torch.testing.assert_close(losses.mask_kl.double(), mask_kl, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(out.reconstruction, (attention * out.means).sum(dim=1).float())
    assert not torch.allclose(attention, decoded, atol=1e-3)


def test_the_mask_loss_teaches_both_kinds_of_masks(model: Monet, images: Tensor) -> None:
    out = model(images)
    losses = model.losses(images, out)
    attention, decoded = torch.autograd.grad(
        losses.mask_kl.sum(), [out.log_attention, out.log_masks]
    )
    assert attention.abs().max() > 0 and decoded.abs().max() > 0


def test_each_step_sees_the_image_and_what_is_left(model: Monet, images: Tensor) -> None:
    with torch.no_grad():
        out = model(images)
        log_scope = torch.zeros(4, 1, 32, 32)
        for step in range(3):
            seen = torch.cat([images, log_scope], dim=1)
            logits = model.attention.head(model.attention.unet(seen))
            mask = log_scope + F.logsigmoid(logits)
            torch.testing.assert_close(out.log_attention[:, step], mask)
            log_scope = log_scope + F.logsigmoid(-logits)
        torch.testing.assert_close(out.log_attention[:, 3], log_scope)


def test_samples_are_standard_normal_latents_under_decoded_masks(model: Monet) -> None:
    out = model.sample(3, torch.Generator().manual_seed(0))
    noise = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(out.latents, noise)
    with torch.no_grad():
        decoded = model.component_vae.decode(noise)
    torch.testing.assert_close(out.log_masks, decoded[:, :, 3:].log_softmax(dim=1))
    torch.testing.assert_close(out.means, decoded[:, :, :3].sigmoid())


def reference_state(model: Monet) -> dict[str, Tensor]:
    """A model's weights under the names of the reference implementation."""
    renamed = {
        "attention.head.": "att_process.core.final_conv.",
        "attention.unet.": "att_process.core.",
        "component_vae.encoder.": "comp_vae.encoder_module.module.",
        "component_vae.decoder.": "comp_vae.decoder_module.seq.",
    }
    state = {"std": torch.full((1, 1, 1, 1, model.config.num_slots), 0.5)}
    for name, value in model.state_dict().items():
        prefix = next(prefix for prefix in renamed if name.startswith(prefix))
        state[renamed[prefix] + name.removeprefix(prefix)] = value
    return state


@pytest.mark.parametrize("size", [32, 64, 128])
def test_a_reference_checkpoint_is_the_same_model(
    size: int, build_small: ModelBuilder, tmp_path: Path
) -> None:
    model = build_small("monet", image_size=size, num_slots=3, pixel_std=0.5)
    assert isinstance(model, Monet)
    path = tmp_path / "model.ckpt"
    torch.save({"model_state_dict": reference_state(model)}, path)
    loaded = load_model(path)
    assert loaded.config == model.config
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(loaded(images).reconstruction, model(images).reconstruction)
    assert load_model(path, num_slots=6).config.num_slots == 6
