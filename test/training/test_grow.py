"""A model grown for larger images keeps what it has learned of the scale it has learned it at."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from genesis_core import ConfigError, GenesisV2, GenesisV2Config, load_model, save_model
from training.grow import enlarge, run, widen, widen_latents

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small() -> GenesisV2:
    torch.manual_seed(1)
    return GenesisV2(GenesisV2Config(image_size=32, num_slots=4, feature_dim=8, latent_dim=8))


@pytest.mark.parametrize(("size", "extra"), [(64, 1), (128, 2)])
def test_inner_levels_keep_their_weights(small: GenesisV2, size: int, extra: int) -> None:
    grown = enlarge(small, size)
    assert (grown.config.image_size, grown.config.num_slots) == (size, 4)
    levels = len(small.backbone.down)
    for level in range(1, levels):
        old, new = small.backbone.down[level], grown.backbone.down[level + extra]
        assert torch.equal(old[0].weight, new[0].weight)
    for level in range(levels - 1):
        old, new = small.backbone.up[level], grown.backbone.up[level]
        assert torch.equal(old[0].weight, new[0].weight)
    assert torch.equal(small.backbone.down[0][0].weight, grown.backbone.down[0][0].weight)
    assert torch.equal(small.backbone.up[-1][0].weight, grown.backbone.up[-1][0].weight)
    for old, new in zip(small.decoder.parameters(), grown.decoder.parameters(), strict=True):
        assert torch.equal(old, new)
    assert torch.equal(small.icsbp.log_scale, grown.icsbp.log_scale)
    out = grown(torch.rand(1, 3, size, size))
    assert out.log_attention.shape == (1, 4, 1, size, size)


@pytest.mark.slow
def test_from_the_command_line(small: GenesisV2, tmp_path: Path) -> None:
    source, target = tmp_path / "small.safetensors", tmp_path / "large.safetensors"
    save_model(small, source, {"mask_source": "attention", "trained": {"steps": 7}})
    command = [sys.executable, "-m", "training.grow", "--checkpoint", str(source), "--output",
               str(target)]  # fmt: skip
    grow = [*command, "--image-size", "64", "--feature-dim", "16"]
    assert subprocess.run(grow, cwd=ROOT, check=False).returncode == 0
    grown = load_model(target)
    assert (grown.config.image_size, grown.config.feature_dim) == (64, 16)
    assert grown.metadata["mask_source"] == "attention"
    assert grown.metadata["trained"] == {
        "steps": 7,
        "grown_from_image_size": 32,
        "grown_from_feature_dim": 8,
    }
    for arguments, message in (
        (["--image-size", "16"], "image_size is 16; expected more than the model's 32"),
        ([], "nothing would grow"),
    ):
        result = subprocess.run(
            [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert message in result.stderr


def test_a_wider_model_computes_the_same(small: GenesisV2) -> None:
    """But for rounding; its copies of a channel get gradients of their own, though."""
    wide = widen(small.eval(), 24).eval()
    assert wide.config.feature_dim == 24
    images = torch.rand(2, 3, 32, 32)
    expected, found = small(images), wide(images)
    assert torch.equal(expected.clusters.seeds, found.clusters.seeds)
    for name in ("log_attention", "latent_mean", "latent_std", "log_masks", "reconstruction"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-4
        )
    wide.losses(images, found).elbo.sum().backward()
    for layer, axis in ((wide.backbone.down[1][0], 0), (wide.feature_head[0][0], 0),
                        (wide.decoder[4], 1)):  # fmt: skip
        copies = layer.weight.grad.unflatten(axis, (-1, 3)).unbind(axis + 1)
        assert not torch.allclose(copies[0], copies[1], rtol=1e-2)


def test_wider_heads_of_latents_compute_the_same() -> None:
    """With all of the thumbnails' heads in use, as after training; the new units can learn."""
    torch.manual_seed(1)
    model = GenesisV2(
        GenesisV2Config(
            image_size=32, num_slots=4, feature_dim=8, latent_dim=8,
            mask_thumbnail=4, colour_thumbnail=6, image_thumbnail=8,
        )
    ).eval()  # fmt: skip
    assert model.shape_head is not None and model.colour_head is not None
    assert model.image_head is not None
    for layer in (model.shape_head[-1], model.colour_head[-1], model.image_head):
        torch.nn.init.normal_(layer.weight)
    wide = widen_latents(model, 40).eval()
    assert wide.config == replace(model.config, latent_width=40)
    images = torch.rand(2, 3, 32, 32)
    randomness = {n: d.fixed(2, images.device) for n, d in model.draws(4).items()}
    expected, found = model(images, **randomness), wide(images, **randomness)
    for name in ("log_attention", "latent_mean", "latent_std", "log_masks", "reconstruction"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    wide.losses(images, found).elbo.sum().backward()
    gradient = wide.latent_head[-1].weight.grad
    assert gradient is not None and gradient[:, 16:].any(0).sum() > 8
    for width in (16, 12):
        with pytest.raises(ValueError, match=f"latent_width is {width}; expected more than 16"):
            widen_latents(model, width)


def test_widths_that_no_wider_model_has(small: GenesisV2) -> None:
    for width in (8, 12, 4):
        with pytest.raises(ValueError, match=f"feature_dim is {width}; expected twice"):
            widen(small, width)


def test_another_encoder_has_the_same_weights_at_any_size(tmp_path: Path) -> None:
    model = GenesisV2(
        GenesisV2Config(
            image_size=96, num_slots=3, feature_dim=8, latent_dim=8, encoder="efficientnet_lite0"
        )
    )
    source, target = tmp_path / "small.safetensors", tmp_path / "other.safetensors"
    save_model(model, source, {"stop_threshold": 8.0})
    for size in (128, 64):
        run(source, target, image_size=size, half=True)
        found = load_model(target)
        assert found.config == replace(model.config, image_size=size)
        assert found.metadata["stop_threshold"] == 8
        for name, weight in found.state_dict().items():
            torch.testing.assert_close(weight, model.state_dict()[name].half().to(weight))
        with torch.no_grad():
            out = found(torch.rand(1, 3, size, size))
        assert out.log_attention.shape == (1, 3, 1, size // 2, size // 2)
    with pytest.raises(ValueError, match="encoder is efficientnet_lite0; only the paper's"):
        widen(model, 16)
    with pytest.raises(ConfigError, match="image_size is 100"):
        enlarge(model, 100)


def test_a_model_with_depth_and_kinds_grows_with_them() -> None:
    """The points are channels of the input, and stay what they were."""
    torch.manual_seed(1)
    small = GenesisV2(
        GenesisV2Config(
            image_size=32, num_slots=3, feature_dim=8, latent_dim=8, points=True, kinds=True
        )
    ).eval()
    grown = enlarge(small, 64)
    assert grown.takes_points and grown.tells_kinds
    wide = widen(small, 16).eval()
    points = torch.rand(2, 4, 32, 32, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, out = small(images, points=points), wide(images, points=points)
    for name in ("log_attention", "latent_mean", "kind_logits"):
        torch.testing.assert_close(
            getattr(out, name), getattr(expected, name), atol=1e-4, rtol=1e-3
        )
