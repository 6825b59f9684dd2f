"""Runs that start from a checkpoint: what they take over, and that they go on without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from genesis_core import GenesisV2, GenesisV2Config, find_checkpoint, load_model, save_model
from training.datasets.sprites import render_range
from training.run_folder import MODEL
from training.train import main
from training.train_config import TrainConfig, parse

SETTINGS = {
    "batch_size": 4,
    "device": "cpu",
    "precision": "fp32",
    "eval_every": 0,
    "picture_every": 0,
    "objective.masks_only": "true",
    "objective.mask_supervision": 1,
}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    save_model(
        model, tmp_path / "start.safetensors", {"stop_threshold": 12.0, "trained": {"steps": 7}}
    )
    return tmp_path / "start.safetensors"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    images, labels = render_range(0, 6, image_size=32, split="train", min_objects=2)
    (path / "train").mkdir()
    np.save(path / "train" / "images.npy", images)
    np.save(path / "train" / "masks.npy", labels)
    info = {"format": 1, "dataset": "sprites", "split": "train", "count": 6, "image_size": 32}
    (path / "train" / "info.json").write_text(json.dumps(info))
    return path


def train(data: Path, run: Path, **settings: Any) -> dict[str, Any]:
    """Train through the command's entry point; the model's metadata."""
    given = {**SETTINGS, "data.path": data, "run": run, **settings}
    main([f"--{name}={value}" for name, value in given.items()])
    return load_model(run / MODEL).metadata


def test_init_brings_the_models_settings() -> None:
    shipped = load_model(find_checkpoint("tabletop_small")).config
    assert parse(["--init", "tabletop_small"], "")[0].model == shipped
    changed = parse(["--init=tabletop_small", "--model.num_slots", "5"], "")[0].model
    assert changed.num_slots == 5 and changed.image_size == shipped.image_size


def test_null_in_a_later_file_undoes_an_earlier_ones_init(tmp_path: Path) -> None:
    files = {"first": "init: tabletop_small\n", "later": "init: null\n", "none": "seed: 3\n"}
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    shipped = load_model(find_checkpoint("tabletop_small")).config

    def parsed(*names: str) -> TrainConfig:
        given = [part for name in names for part in ("--config", str(tmp_path / f"{name}.yaml"))]
        return parse(given, "")[0]

    assert parsed("first", "none").model == shipped
    undone = parsed("first", "later")
    assert (undone.init, undone.model) == (None, GenesisV2Config())
    assert parsed("later", "first").model == shipped


def test_what_a_model_is_used_with_is_carried_on(data: Path, start: Path, tmp_path: Path) -> None:
    metadata = train(data, tmp_path / "run", steps=1, init=start)
    assert metadata["stop_threshold"] == 12 and metadata["trained"]["started_from"]["steps"] == 7
    assert train(data, tmp_path / "run", steps=2, init=start, resume="true")["stop_threshold"] == 12


def test_masks_come_from_where_the_start_takes_them_until_labels_say_otherwise(
    data: Path, tmp_path: Path
) -> None:
    for source in ("attention", "decoder"):
        torch.manual_seed(0)
        model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
        save_model(model, tmp_path / "start.safetensors", {"mask_source": source})
        given = {"init": tmp_path / "start.safetensors", "objective.masks_only": "false"}
        assert train(data, tmp_path / source, steps=1, **given)["mask_source"] == source
        given["resume"] = "true"
        assert train(data, tmp_path / source, steps=2, **given)["mask_source"] == source


def test_another_start_of_a_run_that_goes_on_is_named(
    data: Path, start: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(start.read_bytes())
    train(data, tmp_path / "run", steps=1, init=start)
    train(data, tmp_path / "run", steps=2, init=start, resume="true")
    assert "started from" not in "".join(capfd.readouterr())
    shape = {"model.image_size": 32, "model.num_slots": 3, "model.feature_dim": 8}
    shape |= {"model.latent_dim": 8}
    train(data, tmp_path / "run", steps=3, resume="true", **shape)  # its start may be gone
    assert "started from" not in "".join(capfd.readouterr())
    train(data, tmp_path / "run", steps=4, init=other, resume="true")
    said = "".join(capfd.readouterr())
    assert f"started from {start} and goes on from there; init {other} is not read" in said
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["init"], config["encoder_weights"]) == (str(start), None)


@pytest.mark.parametrize("kind", ["mask", "colour", "image"])
def test_a_thumbnail_starts_as_if_it_was_not_there(
    kind: str, data: Path, start: Path, tmp_path: Path
) -> None:
    """And learns: other parts that the start lacks would change what it does."""
    run = tmp_path / "run"
    given = {"init": start, f"model.{kind}_thumbnail": 4, "objective.masks_only": "false"}
    train(data, run, steps=1, **given, **{"optimizer.lr": 1e-12})
    images, draws = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    found = load_model(run / MODEL)
    assert isinstance(found, GenesisV2)
    noise = torch.zeros(2, 3, 8)
    with torch.no_grad():
        before = load_model(start)(images, seed_scores=draws, noise=noise)
        after = found(images, seed_scores=draws, noise=noise)
    torch.testing.assert_close(after.latent_mean, before.latent_mean, atol=1e-5, rtol=1e-4)
    train(data, tmp_path / "other", steps=2, **given, **{"optimizer.lr": 1e-2})
    learned = load_model(tmp_path / "other" / MODEL)
    assert isinstance(learned, GenesisV2)
    last = {"mask": "shape_head.2", "colour": "colour_head.2", "image": "image_head"}[kind]
    assert learned.state_dict()[f"{last}.weight"].abs().max() > 1e-4
    with pytest.raises(SystemExit, match="does not fit the model"):
        train(data, tmp_path / "none", steps=1, init=start, **{"model.kinds": "true"})


def test_a_run_goes_on_when_its_start_is_gone(data: Path, start: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "run", steps=1, init=start)
    start.unlink()
    metadata = train(data, tmp_path / "run", steps=2, init=start, resume="true")
    assert metadata["trained"]["steps"] == 2 and metadata["trained"]["started_from"]["steps"] == 7
    with pytest.raises(SystemExit, match=r"start\.safetensors"):
        train(data, tmp_path / "other", steps=2, init=start, resume="true")
