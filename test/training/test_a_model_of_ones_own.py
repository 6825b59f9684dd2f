"""A model that is one file: defined here, it trains, evaluates, is tabulated and segments."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genesis_core import (
    MODELS,
    ConfigError,
    GenerativeConfig,
    Losses,
    ModelConfig,
    Segmenter,
    SlotModel,
    SlotOutput,
    config_from_dict,
    load_model,
)
from genesis_core.models.latents import monte_carlo_kl, posterior_moments, standard_normal
from genesis_core.models.losses import sgmm_nll
from training import evaluate, tables
from training.datasets.sprites import render_range
from training.train import main

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class StripesConfig(GenerativeConfig):
    """Settings of ``Stripes``.

    Attributes:
        latent_dim: D.
        model: the model's name.
    """

    latent_dim: int = 4
    model: Literal["stripes"] = "stripes"

    def __post_init__(self) -> None:
        self._check(128, latent_dim=1)


@pytest.fixture
def stripes() -> Iterator[type[SlotModel]]:
    """A model whose slots are learned vertical stripes of one colour each, known for one test."""

    class Stripes(SlotModel):
        config_class = StripesConfig
        default_mask_source = "attention"
        config: StripesConfig

        def __init__(self, config: StripesConfig) -> None:
            super().__init__(config)
            self.latent_dim = config.latent_dim
            self.logits = nn.Parameter(torch.randn(config.num_slots, 1, 1, config.image_size))
            self.encoder = nn.Linear(config.image_channels, 2 * config.latent_dim)
            self.decoder = nn.Linear(config.latent_dim, config.image_channels)

        def _explain(self, images: Tensor, *, noise: Tensor, decode: bool) -> SlotOutput:
            batch, slots = noise.shape[:2]
            size = self.config.image_size
            log_masks = self.logits.log_softmax(dim=0).expand(batch, slots, 1, size, size)
            colours = (log_masks.exp() * images[:, None]).mean(dim=(3, 4))
            mean, std = posterior_moments(self.encoder(colours))
            out = SlotOutput(
                num_slots=torch.full((batch,), slots, device=images.device),
                log_attention=log_masks,
                latent_mean=mean,
                latent_std=std,
                latents=mean + std * noise,
            )
            return self._decoded(out, log_masks) if decode else out

        def _decoded(self, out: SlotOutput, log_masks: Tensor) -> SlotOutput:
            size = self.config.image_size
            colours = self.decoder(out.latents).float().sigmoid()
            out.log_masks = log_masks
            out.means = colours[..., None, None].expand(-1, -1, -1, size, size)
            out.reconstruction = (log_masks.exp() * out.means).sum(dim=1)
            return out

        def losses(self, images: Tensor, out: SlotOutput) -> Losses:
            assert out.log_masks is not None and out.means is not None
            assert out.latent_mean is not None and out.latent_std is not None
            posterior = out.latent_mean, out.latent_std
            return Losses(
                nll=sgmm_nll(images, out.log_masks, out.means, self.pixel_std),
                kl=monte_carlo_kl(out.latents, posterior, standard_normal(out.latents)).sum(dim=2),
                mask_kl=None,
            )

        @torch.no_grad()
        def sample(
            self,
            n: int,
            generator: torch.Generator | None = None,
            *,
            num_slots: int | None = None,
        ) -> SlotOutput:
            latents = self._prior_noise(n, num_slots, generator)
            size, slots = self.config.image_size, latents.shape[1]
            log_masks = self.logits.log_softmax(dim=0).expand(n, slots, 1, size, size)
            out = SlotOutput(num_slots=torch.full((n,), slots), latents=latents)
            return self._decoded(out, log_masks)

    yield Stripes
    del MODELS["stripes"]


def write_data(path: Path) -> Path:
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        images, labels = render_range(0, count, image_size=32, split=split, min_objects=2)
        folder = path / split
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images)
        np.save(folder / "masks.npy", labels)
        info = {"format": 1, "dataset": "sprites", "split": split, "channels": 3}
        (folder / "info.json").write_text(json.dumps({**info, "count": count, "image_size": 32}))
    return path


@pytest.mark.slow
def test_a_model_of_ones_own(stripes: type[SlotModel], tmp_path: Path) -> None:
    data, run = write_data(tmp_path / "data"), tmp_path / "runs" / "stripes"
    settings = {
        "run": run,
        "data.path": data,
        "model.model": "stripes",
        "model.image_size": 32,
        "model.num_slots": 3,
        "model.latent_dim": 5,
        "steps": 3,
        "batch_size": 4,
        "device": "cpu",
        "eval_every": 3,
        "picture_every": 3,
    }
    assert main([f"--{name}={value}" for name, value in settings.items()])
    checkpoint = run / "model.safetensors"
    model = load_model(checkpoint)
    assert type(model) is stripes and model.config.latent_dim == 5

    results = run / "results.json"
    scores = evaluate.run([checkpoint], data, device="cpu", output=results)
    fixed = scores["models"][0]["metrics"]["fixed"]
    assert 0 <= fixed["attention"]["msc_fg"] <= 1 and fixed["elbo"] < 0
    assert scores["models"][0]["metrics"]["flexible"] is None

    tables.main(["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "tables")])
    text = (tmp_path / "tables" / "tables.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| stripes ")]
    assert f"{fixed['attention']['msc_fg']:.2f}" in rows[0]

    segment = Segmenter(checkpoint, device="cpu")
    segment.warm_up()
    scene = segment(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    assert scene.masks.shape == (3, 48, 64) and scene.latent_mean.shape == (3, 5)
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, rtol=1e-5)


def test_what_the_model_has_not_is_refused_by_name(
    stripes: type[SlotModel], tmp_path: Path
) -> None:
    model = stripes(StripesConfig(image_size=32, num_slots=3)).eval()
    images = torch.rand(2, 3, 32, 32)
    for options, message in (
        ({"stop_threshold": 20.0}, "stop_threshold is 20.0, but stripes uses a fixed number"),
        ({"hard_masks": True}, "hard_masks are of IC-SBP, which stripes does not have"),
        ({"seed_scores": torch.rand(2, 1, 32, 32)}, "stripes has no use for seed_scores"),
        ({"points": torch.rand(2, 4, 32, 32)}, "points were given, but this stripes model takes"),
    ):
        with pytest.raises(ValueError, match=message):
            model(images, **options)
    with pytest.raises(SystemExit, match=r"mask_supervision is 1\.0, but model stripes has"):
        main(["--model.model=stripes", "--objective.mask_supervision=1", f"--run={tmp_path}"])


def test_a_name_is_taken_once_and_goes_with_its_config(stripes: type[SlotModel]) -> None:
    assert MODELS["stripes"] is stripes
    assert config_from_dict({"model": "stripes", "latent_dim": 2}) == StripesConfig(latent_dim=2)
    with pytest.raises(ConfigError, match="latent_dim is 0"):
        config_from_dict({"model": "stripes", "latent_dim": 0})

    with pytest.raises(TypeError, match="Other and Stripes are both named 'stripes'"):

        class Other(SlotModel):
            config_class = StripesConfig

    @dataclass(frozen=True, kw_only=True)
    class PlainConfig(ModelConfig):
        model: Literal["plain"] = "plain"

    with pytest.raises(TypeError, match="its config must be a GenerativeConfig"):

        class Plain(SlotModel):
            config_class = PlainConfig

    class Variant(stripes):  # type: ignore[valid-type,misc]
        """A variant of a known model is none of its own."""

    assert MODELS["stripes"] is stripes and "plain" not in MODELS
