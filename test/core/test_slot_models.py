"""What every model promises: one interface, checkpoints, and segmentation behind one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genesis_core import (
    MODELS,
    CheckpointError,
    ConfigError,
    Scene,
    Segmenter,
    SlotModel,
    build_model,
    config_from_dict,
    load_model,
    save_model,
)

ModelBuilder = Callable[..., SlotModel]

NAMES = ("genesis_v2", "genesis_v1", "monet", "slot_attention")
FIXED = NAMES[1:]
GENERATIVE = NAMES[:3]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total_loss(model: SlotModel, images: Tensor, **options: Any) -> Tensor:
    """The plain sum of all terms: enough to train on, and to reach every weight."""
    losses = model.losses(images, model(images, **options))
    total = losses.nll.mean() + losses.kl.sum(dim=1).mean()
    return total if losses.mask_kl is None else total + losses.mask_kl.mean()


def test_every_model_is_known_by_name() -> None:
    assert set(MODELS) == set(NAMES)
    for name in NAMES:
        config = config_from_dict({"model": name, "num_slots": 3})
        assert (config.model, config.num_slots) == (name, 3)
        assert config_from_dict(config.to_dict()) == config


# The forward pass


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("size", [32, 64, 128])
def test_outputs_have_the_same_form(name: str, size: int, build_small: ModelBuilder) -> None:
    model = build_small(name, image_size=size, num_slots=3, image_channels=4)
    images = torch.rand(2, 4, size, size, generator=seeded(0))
    with torch.no_grad():
        out = model(images)
        losses = model.losses(images, out)
    assert out.log_attention.shape == out.log_masks.shape == (2, 3, 1, size, size)
    for log_masks in (out.log_attention, out.log_masks):
        torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones(2, 1, size, size))
    assert out.means.shape == (2, 3, 4, size, size)
    assert out.reconstruction.shape == images.shape
    assert out.latents.shape == out.latent_mean.shape == out.latent_std.shape == (2, 3, 6)
    assert model.latent_dim == 6
    assert (out.latent_std > 0).all()
    assert out.num_slots.tolist() == [3, 3] and out.used.all()
    assert losses.nll.shape == (2,) and losses.kl.shape == (2, 3)
    assert losses.nll.isfinite().all() and losses.kl.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_repeatable_and_training_is_not(
    name: str, build_small: ModelBuilder, images: Tensor
) -> None:
    model = build_small(name)
    with torch.no_grad():
        together = model(images)
        alone = model(images[1:2])
        torch.testing.assert_close(alone.latents, together.latents[1:2], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.log_masks, together.log_masks[1:2], rtol=0, atol=1e-4)
        first, again, other = (model(images, generator=seeded(s)).latents for s in (1, 1, 2))
        assert torch.equal(first, again) and not torch.allclose(first, other)
        noise = torch.randn(4, 4, 6, generator=seeded(3))
        assert torch.equal(model(images, noise=noise).latents, model(images, noise=noise).latents)
        training = build_small(name).train()
        assert not torch.allclose(training(images).latents, training(images).latents)


@pytest.mark.parametrize("name", NAMES)
def test_more_slots_than_trained_with(name: str, build_small: ModelBuilder, images: Tensor) -> None:
    with torch.no_grad():
        out = build_small(name)(images, num_slots=6)
    assert out.log_masks.shape[1] == out.latents.shape[1] == 6
    torch.testing.assert_close(out.log_masks.exp().sum(dim=1), torch.ones(4, 1, 32, 32))


@pytest.mark.parametrize("name", FIXED)
def test_without_the_decoder_there_are_attention_masks(
    name: str, build_small: ModelBuilder, images: Tensor
) -> None:
    model = build_small(name)
    with torch.no_grad():
        expected, out = model(images), model(images, decode=False)
    assert out.log_masks is None and out.means is None and out.reconstruction is None
    assert torch.equal(out.log_attention, expected.log_attention)
    assert torch.equal(out.latent_mean, expected.latent_mean)
    with pytest.raises(ValueError, match="decode=True"):
        model.losses(images, out)


@pytest.mark.parametrize("name", FIXED)
def test_bad_inputs_are_refused_by_name(
    name: str, build_small: ModelBuilder, images: Tensor
) -> None:
    model = build_small(name)
    with pytest.raises(ValueError, match=f"stop_threshold is 20, but {name} uses a fixed number"):
        model(images, stop_threshold=20)
    with pytest.raises(ValueError, match="num_slots is 1; expected at least 2"):
        model(images, num_slots=1)
    with pytest.raises(ValueError, match=r"noise has shape \(4, 4, 5\); expected \(4, 4, 6\)"):
        model(images, noise=torch.zeros(4, 4, 5))
    with pytest.raises(ValueError, match=r"images have shape .*expected \(B, 3, 32, 32\)"):
        model(images[:, :, :16])
    with pytest.raises(ValueError, match=r"images are torch\.uint8"):
        model((images * 255).byte())


# Training


@pytest.mark.parametrize("name", FIXED)
def test_every_weight_learns(name: str, build_small: ModelBuilder, images: Tensor) -> None:
    model = build_small(name).train()
    noise = torch.randn(4, 4, 6, generator=seeded(0))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(6):
        loss = total_loss(model, images, noise=noise)
        optimizer.zero_grad()
        loss.backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    after = dict(model.named_parameters())
    for parameter_name, before in build_small(name).named_parameters():
        assert not torch.equal(before, after[parameter_name]), parameter_name


@pytest.mark.parametrize("name", FIXED)
def test_half_precision_is_close(name: str, build_small: ModelBuilder, images: Tensor) -> None:
    model = build_small(name)
    with torch.no_grad():
        exact = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images)
            losses = model.losses(images, out)
    for value in (out.log_masks, out.latents, out.reconstruction, losses.nll, losses.kl):
        assert value.dtype == torch.float32
    assert (out.log_masks.exp() - exact.log_masks.exp()).abs().mean() < 0.02
    torch.testing.assert_close(losses.nll, model.losses(images, exact).nll, rtol=0.02, atol=0)


# Samples


@pytest.mark.parametrize("name", GENERATIVE)
def test_samples_are_proper_scenes(name: str, build_small: ModelBuilder) -> None:
    model = build_small(name)
    assert model.generative
    out = model.sample(3, seeded(0))
    assert out.log_masks is not None and out.means is not None and out.reconstruction is not None
    assert out.reconstruction.shape == (3, 3, 32, 32)
    assert out.log_attention is out.latent_mean is out.latent_std is None
    assert out.num_slots.tolist() == [4, 4, 4]
    torch.testing.assert_close(out.log_masks.exp().sum(dim=1), torch.ones(3, 1, 32, 32))
    mixture = (out.log_masks.exp() * out.means).sum(dim=1)
    torch.testing.assert_close(out.reconstruction, mixture)
    assert out.reconstruction.min() >= 0 and out.reconstruction.max() <= 1
    assert torch.equal(model.sample(3, seeded(0)).latents, out.latents)
    assert not torch.equal(model.sample(3, seeded(1)).latents, out.latents)
    assert model.sample(1, seeded(0), num_slots=1).latents.shape == (1, 1, 6)
    assert model.sample(1, seeded(0), num_slots=9).latents.shape == (1, 9, 6)
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        model.sample(0)


# Checkpoints


@pytest.mark.parametrize("name", FIXED)
def test_a_saved_model_comes_back(
    name: str, build_small: ModelBuilder, images: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model = build_small(name)
    with torch.no_grad():
        model.train()(images)  # moves what is no parameter, such as running statistics
    save_model(model.eval(), path, {"steps": 3})
    loaded = load_model(path)
    assert type(loaded) is type(model) and loaded.config == model.config
    assert loaded.metadata == {"steps": 3} and not loaded.training
    with torch.no_grad():
        expected, actual = model(images), loaded(images)
    assert torch.equal(actual.log_masks, expected.log_masks)
    assert torch.equal(actual.latents, expected.latents)
    assert load_model(path, num_slots=6).config.num_slots == 6
    with pytest.raises(ConfigError, match=f"kernel is 'gaussian', but .* holds a {name} model"):
        load_model(path, kernel="gaussian")


def test_weights_of_another_model_are_refused(build_small: ModelBuilder, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = build_small("monet")
    model.config = build_small("slot_attention").config
    save_model(model, path)
    with pytest.raises(CheckpointError, match="does not fit its config"):
        load_model(path)


# Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "unknown model None; expected one of genesis_v1, genesis_v2, monet, slot_attention"),
        ({"model": "vae"}, "unknown model 'vae'"),
        ({"model": "monet", "kernel": "gaussian"}, "unknown model settings: kernel"),
        ({"model": "monet", "image_size": 48}, "image_size is 48; expected a power of two"),
        ({"model": "monet", "latent_dim": 0}, "latent_dim is 0"),
        ({"model": "monet", "attention_width": 1.5}, "attention_width is 1.5"),
        ({"model": "monet", "pixel_std": 0}, "pixel_std is 0; expected a positive number"),
        ({"model": "genesis_v1", "image_size": 256}, "power of two from 32 to 128"),
        ({"model": "genesis_v1", "num_slots": 1}, "num_slots is 1"),
        ({"model": "genesis_v1", "mask_width": 0}, "mask_width is 0"),
        ({"model": "genesis_v1", "pixel_std": -1.0}, "pixel_std is -1.0"),
        ({"model": "slot_attention", "iterations": 0}, "iterations is 0"),
        ({"model": "slot_attention", "pixel_std": 0.7}, "unknown model settings: pixel_std"),
    ],
)
def test_bad_settings_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_a_config_describes_one_model() -> None:
    for name in NAMES:
        config_class = MODELS[name].config_class
        with pytest.raises(ConfigError, match=f"model is 'other'; expected '{name}'"):
            config_class(model="other")
        assert isinstance(build_model(config_class(image_size=32)), MODELS[name])


# Segmentation


def picture(height: int, width: int) -> np.ndarray:
    """A smooth random picture: coarse noise, enlarged."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1))


def check_scene(scene: Scene, height: int, width: int, slots: int) -> None:
    assert scene.num_slots == slots
    assert scene.masks.shape == (slots, height, width) and scene.masks.dtype == np.float32
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)
    assert (scene.masks.argmax(axis=0) == scene.labels).all()
    assert scene.latent_mean.shape == scene.latent_std.shape == (slots, 6)
    assert scene.latent_mean.dtype == scene.latent_std.dtype == np.float32
    assert np.isfinite(scene.latent_mean).all() and (scene.latent_std > 0).all()


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_checkpoint_decides_the_model(
    name: str, precision: str, build_small: ModelBuilder, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    model = build_small(name)
    save_model(model, path)
    image = picture(48, 64)
    # Another batch size may take another kernel; bf16 then differs by steps of 2**-8 relative.
    alike = {"fp32": 1e-3, "bf16": 1e-2}[precision]
    sources = []
    for source in ("auto", "decoder", "attention"):
        segment = Segmenter(path, device="cpu", precision=precision, mask_source=source)
        segment.warm_up()
        scene, again = segment([image, image])
        check_scene(scene, 48, 64, 4)
        np.testing.assert_allclose(again.masks, scene.masks, atol=1e-6)
        np.testing.assert_allclose(segment(image).masks, scene.masks, atol=alike)
        # Slots differ: none of them starts, or ends, as a copy of another.
        for slot in range(1, 4):
            assert np.abs(scene.latent_mean[slot] - scene.latent_mean[0]).max() > 1e-4
        sources.append(segment.mask_source)
        segment.configure(max_slots=6, stop_threshold=None, fit="resize")
        check_scene(segment(image), 48, 64, 6)
    assert sources == [type(model).default_mask_source, "decoder", "attention"]


def test_which_masks_are_used_where_the_checkpoint_does_not_say(
    build_small: ModelBuilder, images: Tensor, tmp_path: Path
) -> None:
    image = (images[0].permute(1, 2, 0) * 255).byte().numpy()
    exact = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    for name, kind in (("monet", "log_attention"), ("slot_attention", "log_masks")):
        path = tmp_path / f"{name}.safetensors"
        model = build_small(name)
        save_model(model, path)
        scene = Segmenter(path, device="cpu", precision="fp32")(image)
        with torch.no_grad():
            out = model(exact, **model.inference_randomness(1, 4))
        expected = getattr(out, kind)[0, :, 0].exp().numpy()
        np.testing.assert_allclose(scene.masks, expected, atol=1e-4)
        save_model(model, path, {"mask_source": "decoder"})
        assert Segmenter(path, device="cpu").mask_source == "decoder"


@pytest.mark.parametrize("name", FIXED)
def test_a_stop_threshold_is_refused_where_the_number_of_slots_is_fixed(
    name: str, build_small: ModelBuilder, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(build_small(name), path)
    with pytest.raises(ValueError, match=f"stop_threshold is 20.0, but .* holds a {name} model"):
        Segmenter(path, device="cpu", stop_threshold=20.0)
    segment = Segmenter(path, device="cpu")
    with pytest.raises(ValueError, match=f"stop_threshold is 20.0, but .* holds a {name} model"):
        segment.configure(max_slots=None, stop_threshold=20.0, fit="resize")
    assert segment(picture(32, 32)).num_slots == 4


@pytest.mark.cuda
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_cuda_scenes_agree_with_the_cpus(
    name: str, precision: str, build_small: ModelBuilder, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(build_small(name), path)
    image = picture(48, 64)
    expected = Segmenter(path, device="cpu", precision="fp32")(image)
    scene = Segmenter(path, device="cuda", precision=precision)(image)
    check_scene(scene, 48, 64, 4)
    assert np.abs(scene.masks - expected.masks).mean() < 0.02
