"""GENESIS against golden tensors, its own definition, and reference checkpoints."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from genesis_core import CheckpointError, GenesisV1, SlotModel, load_model, save_model
from genesis_core.models.genesis_v1 import stick_breaking

Golden = Callable[[str], tuple[Path, dict[str, Any]]]
ModelBuilder = Callable[..., SlotModel]


@pytest.fixture
def model(build_small: ModelBuilder, images: Tensor) -> GenesisV1:
    """With the statistics of these images: a fresh model's masks hardly depend on anything."""
    built = build_small("genesis_v1").train()
    assert isinstance(built, GenesisV1)
    for layer in built.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        built(images, generator=torch.Generator().manual_seed(0))
    return built.eval()


def assert_close(actual: Tensor | None, expected: np.ndarray, name: str) -> None:
    """1e-4 relative; values that nearly cancel are measured against the tensor's largest."""
    assert actual is not None, name
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=1e-4, atol=1e-5 * scale, err_msg=name
    )


def golden_noise(expected: dict[str, Any]) -> Tensor:
    """The draws: one per slot for the masks, then the components' (K*B, 16), slot by slot."""
    batch, slots = expected["log_m"].shape[:2]
    masks = np.stack([expected[f"eps_{slot}"] for slot in range(slots)], axis=1)
    components = expected[f"eps_{slots}"].reshape(slots, batch, -1).swapaxes(0, 1)
    return torch.from_numpy(np.concatenate([masks, components], axis=2))


def test_golden_forward_pass_and_losses(golden: Golden, tmp_path: Path) -> None:
    path, expected = golden("genesis_v1_32.npz")
    settings = json.loads(str(expected["config"]))
    model = load_model(path.with_suffix(".ckpt"))
    config = model.config
    assert (config.model, config.image_size) == ("genesis_v1", settings["img_size"])
    assert config.num_slots == settings["K_steps"]
    assert config.mask_latent_dim == settings["attention_latents"]
    assert config.component_latent_dim == settings["comp_ldim"]
    assert config.pixel_std == settings["pixel_std1"]
    save_model(model, tmp_path / "model.safetensors")
    images = torch.from_numpy(expected["input"])
    for same in (model, load_model(tmp_path / "model.safetensors")):
        out = same(images, noise=golden_noise(expected))
        losses = same.losses(images, out)
        assert_close(out.log_attention, expected["log_m"], "log_attention")
        assert_close(out.log_masks, expected["log_m"], "log_masks")
        assert_close(out.means, expected["x_r"], "means")
        assert_close(out.reconstruction, expected["recon"], "reconstruction")
        for ours, masks, components in (
            (out.latent_mean, "att_mu", "mu"),
            (out.latent_std, "att_sigma", "sigma"),
            (out.latents, "att_z", "z"),
        ):
            assert_close(ours[:, :, :64], expected[masks], masks)
            assert_close(ours[:, :, 64:], expected[components], components)
        assert_close(losses.nll, expected["err"], "nll")
        assert_close(losses.kl, expected["kl_m_k"] + expected["kl_l"], "kl")
        assert losses.mask_kl is None
        mean, std = same.prior(out.latents)
        posterior = Normal(out.latent_mean, out.latent_std).log_prob(out.latents)
        kl = posterior - Normal(mean, std).log_prob(out.latents)
        assert_close(kl[:, :, :64].sum(dim=2), expected["kl_m_k"], "kl of masks")
        assert_close(kl[:, :, 64:].sum(dim=2), expected["kl_l"], "kl of components")


def test_each_mask_takes_its_share_of_what_is_left() -> None:
    shares = torch.tensor([0.25, 0.5, 0.9])
    log_masks = stick_breaking(shares.logit()[None, :, None])
    expected = torch.tensor([0.25, 0.75 * 0.5, 0.375 * 0.9, 0.375 * 0.1])
    torch.testing.assert_close(log_masks.exp()[0, :, 0], expected)
    extreme = stick_breaking(torch.tensor([[-200.0, 200.0, 200.0]]))
    assert extreme.isfinite().all()
    torch.testing.assert_close(extreme.exp(), torch.tensor([[0.0, 1.0, 0.0, 0.0]]))


def test_mask_latents_decide_the_masks_and_components_the_colours(
    model: GenesisV1, images: Tensor
) -> None:
    noise = torch.zeros(4, 4, 6)
    other_masks, other_components = noise.clone(), noise.clone()
    other_masks[:, :, :4] = 3
    other_components[:, :, 4:] = 3
    with torch.no_grad():
        out = model(images, noise=noise)
        masks, components = model(images, noise=other_masks), model(images, noise=other_components)
    assert not torch.allclose(masks.log_masks, out.log_masks, atol=1e-4)
    assert torch.equal(components.log_masks, out.log_masks)
    assert torch.equal(components.latents[:, :, :4], out.latents[:, :, :4])
    assert not torch.allclose(components.means, out.means, atol=1e-4)


def test_later_masks_depend_on_the_draws_before_them(model: GenesisV1, images: Tensor) -> None:
    noise = torch.zeros(4, 4, 6)
    changed = noise.clone()
    changed[:, 1, :4] = 2
    with torch.no_grad():
        before, after = model(images, noise=noise), model(images, noise=changed)
    same = (after.latent_mean[:, :, :4] - before.latent_mean[:, :, :4]).abs().amax(dim=(0, 2))
    assert same[0] == same[1] == 0
    assert same[2] > 1e-5 and same[3] > 1e-5


def test_samples_come_from_the_prior_of_training(model: GenesisV1) -> None:
    """Standardising with the prior whose KL is trained gives back the noise that was drawn."""
    with torch.no_grad():
        for weights in (model.component_prior[-1], model.mask_prior.linear):
            weights.bias[: len(weights.bias) // 2] = 3.0  # tanh bounds the means: 3 becomes 0.995
        latents = model.sample(50, torch.Generator().manual_seed(0)).latents
        mean, std = model.prior(latents)
    noise = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((latents - mean) / std, noise, rtol=0, atol=1e-4)
    assert mean.abs().max() <= 1
    torch.testing.assert_close(latents[:, 0, :4], noise[:, 0, :4])  # the first mask's is N(0, 1)


def test_sampling_while_training_does_not_change_the_model(model: GenesisV1) -> None:
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = model.sample(2, torch.Generator().manual_seed(0))
    assert model.training and all(part.training for part in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    again = model.eval().sample(2, torch.Generator().manual_seed(0))
    assert torch.equal(again.reconstruction, first.reconstruction)


def test_sampling_that_fails_leaves_the_model_training(model: GenesisV1) -> None:
    model.train()
    model.mask_decoder[-1] = torch.nn.Conv2d(99, 1, 1)  # does not fit the layer before it
    with pytest.raises(RuntimeError, match="99 channels"):
        model.sample(2)
    assert all(part.training for part in model.modules())


def test_evaluation_uses_the_statistics_of_training(model: GenesisV1, images: Tensor) -> None:
    with torch.no_grad():
        before = model(images[:1]).log_masks
        model.train()(1 - images)
        after = model.eval()(images[:1]).log_masks
    assert not torch.allclose(before, after, atol=1e-3)


# Reference checkpoints


def reference_state(model: GenesisV1) -> dict[str, Tensor]:
    """A model's weights under the names of the reference implementation."""
    renamed = {
        "lstm.": "att_process.lstm.",
        "later_head.": "att_process.linear.",
        "component_vae.encoder.": "comp_vae.encoder_module.module.",
        "component_vae.decoder.": "comp_vae.decoder_module.seq.",
        "mask_prior.lstm.": "prior_lstm.",
        "mask_prior.linear.": "prior_linear.",
        "component_prior.": "prior_mlp.",
        "mask_decoder.7.": "att_process.core.p_x_mean.",
    }
    state = {"std": torch.full((1, 1, 1, 1, model.config.num_slots), 0.7)}
    for name, value in model.state_dict().items():
        halves = (value, value) if value.ndim == 0 else value.chunk(2)
        if name.startswith("first_head."):
            kind = name.removeprefix("first_head.")
            state[f"att_process.core.q_z_mean.{kind}"] = halves[0].clone()
            state[f"att_process.core.q_z_var.0.{kind}"] = halves[1].clone()
        elif name.startswith(("mask_encoder.", "mask_decoder.")) and "decoder.7." not in name:
            part, index, layer, kind = name.split(".")
            place = f"q_z_nn.{index}" if part == "mask_encoder" else f"p_x_nn.{int(index) - 1}"
            if layer == "0":
                state[f"att_process.core.{place}.conv.{kind}"] = value
            else:
                state[f"att_process.core.{place}.h_norm.{kind}"] = halves[0].clone()
                state[f"att_process.core.{place}.g_norm.{kind}"] = halves[1].clone()
        else:
            prefix = next(prefix for prefix in renamed if name.startswith(prefix))
            state[renamed[prefix] + name.removeprefix(prefix)] = value
    return state


@pytest.mark.slow
@pytest.mark.parametrize(("size", "prefix"), [(32, "module."), (64, ""), (128, "")])
def test_a_reference_checkpoint_is_the_same_model(
    size: int, prefix: str, build_small: ModelBuilder, tmp_path: Path
) -> None:
    model = build_small("genesis_v1", image_size=size, num_slots=5)
    assert isinstance(model, GenesisV1)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        model.train()(images)
        expected = model.eval()(images)
    path = tmp_path / "model.ckpt-500000"
    state = {prefix + name: value for name, value in reference_state(model).items()}
    torch.save({"model_state_dict": state}, path)
    loaded = load_model(path)
    assert loaded.config == model.config
    with torch.no_grad():
        assert torch.equal(loaded(images).reconstruction, expected.reconstruction)


def test_what_a_reference_checkpoint_does_not_state_is_assumed_with_a_warning(
    model: GenesisV1, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.ckpt"
    state = reference_state(model)
    del state["std"]
    torch.save({"model_state_dict": state}, path)
    with caplog.at_level(logging.WARNING):
        assert load_model(path).config.num_slots == 7
    assert "does not state {'num_slots': 7}" in caplog.text
    caplog.clear()
    assert load_model(path, num_slots=4).config == model.config
    assert not caplog.records
    state["std"] = torch.tensor([0.5, 0.6, 0.6])
    torch.save({"model_state_dict": state}, path)
    assert load_model(path).config.pixel_std == 0.6
    assert "differ between slots; 0.6 is used for all" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("att_process.core.q_z_nn.1.g_norm.weight", None, "does not fit its config"),
        ("att_process.core.q_z_nn.1.g_norm.weight", torch.zeros(3, 3), "is not a GENESIS-V2, GEN"),
        ("att_process.linear.weight", None, r"it has no later_head\.weight"),
        ("comp_vae.encoder_module.module.9.weight", torch.zeros(8, 9), "image_size is 16"),
        ("prior_mlp.0.bias", torch.tensor(float("nan")).expand(256), "NaN or infinite"),
        ("std", torch.zeros(4), "pixel_std is 0.0"),
        ("std", 0.7, "is not a GENESIS-V2, GENESIS or MONet checkpoint"),
    ],
)
def test_damaged_reference_weights_are_refused(
    entry: str, value: Any, message: str, model: GenesisV1, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    state = {**reference_state(model), entry: value}
    torch.save({"model_state_dict": {k: v for k, v in state.items() if v is not None}}, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)
