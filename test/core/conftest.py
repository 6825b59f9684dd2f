"""What the tests of genesis_core share."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from genesis_core import (
    GenesisV2,
    GenesisV2Config,
    SlotModel,
    build_model,
    config_from_dict,
)
from genesis_core.ops.native_library import native_library

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""Beside the repository where the project is developed; nowhere else."""

ModelFactory = Callable[..., GenesisV2]

SMALL = {
    "genesis_v2": {"feature_dim": 8, "latent_dim": 6},
    "genesis_v1": {
        "mask_latent_dim": 4,
        "component_latent_dim": 2,
        "mask_width": 4,
        "component_width": 4,
    },
    "monet": {"latent_dim": 6, "attention_width": 4, "component_width": 4},
    "slot_attention": {"latent_dim": 6, "feature_dim": 4, "hidden_dim": 8},
}
"""Settings of small models, each with slots' latents of six numbers."""


@pytest.fixture
def native_libraries(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType], list[object]]:
    """The libraries that a module asks for from now on, None for each that cannot be had."""

    def watch(module: ModuleType) -> list[object]:
        used: list[object] = []

        def watched(*names: str) -> object:
            used.append(native_library(*names))
            return used[-1]

        monkeypatch.setattr(module, "native_library", watched)
        return used

    return watch


@pytest.fixture
def golden() -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """The path and the arrays of a golden file; skips the test where there is no ../shared."""

    def load(name: str) -> tuple[Path, dict[str, Any]]:
        if not SHARED.is_dir():
            pytest.skip("no golden files (../shared/golden) on this machine")
        path = SHARED / "golden" / name
        if not path.is_file():
            pytest.fail(f"{path} is missing, although {SHARED} is here")
        return path, dict(np.load(path, allow_pickle=False))

    return load


@pytest.fixture(scope="session")
def make_model() -> ModelFactory:
    """Small models in evaluation mode, with random weights that make images matter.

    A fresh model clusters by position alone (its gate is zero) and decodes nearly equal masks;
    here the gate is open and the decoder's last layer ten times as strong.
    """

    def make(**config: Any) -> GenesisV2:
        small = {"image_size": 32, "num_slots": 4, "feature_dim": 8, "latent_dim": 6}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GenesisV2(GenesisV2Config(**{**small, **config}))
        with torch.no_grad():
            if model.config.semi_conv:
                model.embedding.gate.fill_(1.0)
            model.decoder[-1].weight.mul_(10)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def build_small() -> Callable[..., SlotModel]:
    """A small model by name, in evaluation mode, with random weights."""

    def build(name: str, **config: Any) -> SlotModel:
        small = {"model": name, "image_size": 32, "num_slots": 4, **SMALL[name], **config}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_model(config_from_dict(small)).eval()

    return build


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    """Four images of bright boxes on a noisy ground: (4, 3, 32, 32)."""
    generator = torch.Generator().manual_seed(1)
    batch = 0.3 * torch.rand(4, 3, 32, 32, generator=generator)
    for index, image in enumerate(batch):
        image[0, 4 : 12 + 4 * index, 3:15] = 0.9
        image[2, 20:29, 10 + 3 * index : 28] = 0.8
    return batch


@pytest.fixture
def checkpoint(make_model: ModelFactory, tmp_path: Path) -> Path:
    """A small model's checkpoint that prefers the decoder's masks."""
    from genesis_core import (
        save_model,
    )  # needs more than PyTorch and NumPy, as tests on GPUs do not

    path = tmp_path / "model.safetensors"
    save_model(make_model(), path, {"mask_source": "decoder"})
    return path
