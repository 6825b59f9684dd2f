"""Calibration finds the kernel again that fits the weights, and leaves the weights alone."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genesis_core import load_model, save_model
from genesis_core.checkpoint import find_checkpoint
from genesis_core.models.genesis_v2 import GenesisV2, GenesisV2Config
from training.calibrate import (
    STOP_THRESHOLDS,
    Choice,
    as_given,
    calibrated,
    choose,
    score,
    segmenter_of,
)
from training.datasets.prepared import PreparedDataset

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"training.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes") / "data"
    made = run(
        "prepare", "tabletop", "--mode", "varied", "--image_size", 128, "--sensor_depth", "true",
        "--train", 1, "--val", 6, "--test", 1, "--workers", 1, "--output", folder,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return folder


@pytest.mark.slow
def test_a_kernel_that_reaches_too_far_is_narrowed(scenes: Path, tmp_path: Path) -> None:
    shipped = load_model(find_checkpoint("tabletop"))
    assert isinstance(shipped, GenesisV2)
    distance = shipped.config.kind_distance
    wide, output = tmp_path / "wide.safetensors", tmp_path / "model.safetensors"
    save_model(calibrated(shipped, Choice(3.0, distance, 12.0)), wide)
    result = run("calibrate", "--checkpoint", wide, "--data", scenes, "--output", output)
    assert result.returncode == 0, result.stderr

    model, started = load_model(output), load_model(wide)
    assert isinstance(model, GenesisV2) and isinstance(started, GenesisV2)
    factor = math.exp(float((model.icsbp.log_scale - started.icsbp.log_scale).detach()))
    assert 0.2 < factor < 0.75
    assert model.metadata["stop_threshold"] in (4, 8, 12, 20)
    trained = dict(model.metadata["trained"])
    assert trained.pop("kernel_scale") == pytest.approx(3 * factor, rel=1e-3)
    assert trained == shipped.metadata["trained"]
    dataset = PreparedDataset(scenes, "val")
    assert score(model, dataset, range(6)) > score(started, dataset, range(6))
    weight = "backbone.trunk.stem.weight"
    assert torch.allclose(model.state_dict()[weight], started.state_dict()[weight], rtol=1e-3)


def test_a_model_without_a_threshold_is_measured_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all its slots, as a Segmenter uses it, and it may stay so."""
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    given = as_given(model)
    assert given.stop_threshold == 0
    assert segmenter_of(calibrated(model, given)).model.metadata["stop_threshold"] == 0
    model.metadata = {"stop_threshold": 6.0}
    assert as_given(model).stop_threshold == 6

    images = np.zeros((1, 32, 32, 3), np.uint8)
    (tmp_path / "val").mkdir()
    np.save(tmp_path / "val" / "images.npy", images)
    info = {"format": 1, "dataset": "sprites", "split": "val", "count": 1, "image_size": 32}
    (tmp_path / "val" / "info.json").write_text(json.dumps(info))
    model.metadata = {}
    tried: list[float] = []

    def fewer_is_better(model: GenesisV2, *_: object) -> float:
        tried.append(model.metadata["stop_threshold"])
        return -tried[-1]

    monkeypatch.setattr("training.calibrate.score", fewer_is_better)
    assert choose(model, PreparedDataset(tmp_path, "val")).stop_threshold == 0
    assert tried[0] == 0 and set(tried) == {0, *STOP_THRESHOLDS}


@pytest.mark.slow
def test_too_great_a_bias_is_taken_back(scenes: Path, tmp_path: Path) -> None:
    """A model that calls nearly everything surroundings finds objects again."""
    shipped = load_model(find_checkpoint("tabletop"))
    assert isinstance(shipped, GenesisV2)
    dataset = PreparedDataset(scenes, "val")
    biased = calibrated(shipped, as_given(shipped)._replace(surroundings_bias=6.0))
    chosen = choose(biased, dataset, images=6)
    assert chosen.surroundings_bias < 2
    better = score(calibrated(biased, chosen), dataset, range(6))
    assert better > score(biased, dataset, range(6)) + 0.2
    output = tmp_path / "model.safetensors"
    save_model(calibrated(shipped, chosen), output)
    model = load_model(output)
    assert isinstance(model, GenesisV2)
    assert model.config.surroundings_bias == chosen.surroundings_bias


@pytest.mark.slow
def test_what_cannot_be_calibrated_is_refused(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    (scenes / "test" / "masks.npy").unlink()
    result = run(
        "calibrate", "--checkpoint", find_checkpoint("tabletop"), "--data", scenes,
        "--split", "test", "--output", output,
    )  # fmt: skip
    assert result.returncode == 1 and "instance masks" in result.stderr
    assert "Traceback" not in result.stderr and not output.exists()
