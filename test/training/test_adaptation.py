"""Adapting to images without labels: what is moved, how far, and by what it is chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import CheckpointError, GenesisV2, GenesisV2Config, find_checkpoint, load_model
from genesis_core.models.backbones import PretrainedBackbone
from training import adaptation
from training.adaptation import Trial, adapt, agreement, best, shifted
from training.datasets.layout import DatasetError
from training.datasets.prepared import PreparedDataset
from training.datasets.sprites import render_range

UInt8 = NDArray[np.uint8]


@pytest.fixture(scope="module")
def tabletop() -> GenesisV2:
    model = load_model(find_checkpoint("tabletop"))
    assert isinstance(model, GenesisV2)
    return model


def sprites(count: int, *, size: int = 64, start: int = 0) -> tuple[UInt8, UInt8]:
    return render_range(start, count, image_size=size, split="train", min_objects=2)


def batch(images: UInt8) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def dataset(folder: Path, images: UInt8, masks: UInt8 | None = None) -> PreparedDataset:
    (folder / "train").mkdir(parents=True)
    np.save(folder / "train" / "images.npy", images)
    if masks is not None:
        np.save(folder / "train" / "masks.npy", masks)
    info = {"format": 1, "dataset": "d", "split": "train", "count": len(images)}
    info |= {"image_size": images.shape[1], "channels": images.shape[3]}
    (folder / "train" / "info.json").write_text(json.dumps(info))
    return PreparedDataset(folder, "train")


def means(model: GenesisV2, images: Tensor) -> list[Tensor]:
    """Of each channel at the trunk's five scales."""
    assert isinstance(model.backbone, PretrainedBackbone)
    with torch.no_grad():
        return [scale.mean(dim=(0, 2, 3)) for scale in model.backbone.trunk(images)]


def distance(model: GenesisV2, images: Tensor, targets: list[Tensor]) -> list[float]:
    """Of the means over images from other means, at each scale."""
    pairs = zip(means(model, images), targets, strict=True)
    return [float((mean - target).norm()) for mean, target in pairs]


# Moving the means


def test_the_whole_way_gives_images_the_means_of_scenes(tabletop: GenesisV2) -> None:
    scenes = batch(sprites(6)[0])
    images = (scenes.flip(0) * 0.5).clamp(0, 1)  # darker
    targets = means(tabletop, scenes)
    before = distance(tabletop, images, targets)
    after = distance(shifted(tabletop, images, scenes, 1.0), images, targets)
    assert all(late < 1e-3 * early for late, early in zip(after, before, strict=True))
    half = distance(shifted(tabletop, images, scenes, 0.5), images, targets)
    assert all(a < h < b for a, h, b in zip(after, half, before, strict=True))


def test_no_step_and_equal_images_leave_the_model_as_it_was(tabletop: GenesisV2) -> None:
    scenes = batch(sprites(4)[0])
    for images, strength in ((scenes * 0.5, 0.0), (scenes, 1.0)):
        same = shifted(tabletop, images, scenes, strength)
        for name, value in tabletop.state_dict().items():
            torch.testing.assert_close(same.state_dict()[name], value, atol=1e-5, rtol=0)


def test_the_start_is_not_touched_and_only_shifts_change(tabletop: GenesisV2) -> None:
    before = {name: value.clone() for name, value in tabletop.state_dict().items()}
    scenes = batch(sprites(4)[0])
    adapted = shifted(tabletop, scenes * 0.5, scenes, 0.3).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in tabletop.state_dict().items())
    changed = {name for name, value in adapted.items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith(".project.shift") for name in changed)


# Choosing


def test_the_best_images_win_among_scenes_that_are_as_good() -> None:
    start = Trial(0.0, scenes=0.60, images=0.40)
    better, forgets = Trial(0.1, 0.59, 0.45), Trial(0.2, 0.57, 0.50)
    assert best([start, better, forgets]) == better
    assert best([start, forgets]) == start, "it would forget more than it may"
    assert best([start, Trial(0.1, 0.70, 0.39)]) == start, "it is worse on the images"
    assert best([start, Trial(0.1, 0.60, 0.42)]) == start, "that may be chance"


@pytest.mark.slow
def test_agreement_is_that_of_objects_with_the_mirrored_images(
    tabletop: GenesisV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dataset(tmp_path / "data", sprites(2)[0])
    found: list[NDArray[np.int64]] = []
    monkeypatch.setattr(adaptation, "_objects", lambda scene: found.pop(0))
    plain, moved = np.zeros((2, 64, 64), np.int64)
    plain[10:20, 10:20] = 1
    moved[10:20, 15:25] = 1  # half of it is where the other one is: IoU 1/3

    found[:] = [plain, plain[:, ::-1]]
    assert agreement(tabletop, data, [0]) == 1
    found[:] = [plain, moved[:, ::-1]]
    assert agreement(tabletop, data, [0]) == pytest.approx(1 / 3)
    found[:] = [plain, plain[:, ::-1], plain, moved[:, ::-1]]
    assert agreement(tabletop, data, [0, 1]) == pytest.approx(2 / 3)
    found[:] = [plain * 0, plain * 0]
    assert agreement(tabletop, data, [0]) == 0, "nothing is found"


@pytest.mark.slow
def test_adapting_tries_strengths_and_keeps_the_best(
    tabletop: GenesisV2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptation, "STRENGTHS", (0.2,))
    scenes, masks = sprites(3, size=128)
    generated = dataset(tmp_path / "scenes", scenes, masks)
    images = dataset(tmp_path / "images", (scenes * 0.6).astype(np.uint8))
    result = adapt(tabletop, images, generated, generated)
    assert [trial.strength for trial in result.trials] == [0.0, 0.2]
    assert result.chosen == best(result.trials) and not result.by_labels
    assert all(0 <= trial.scenes <= 1 and 0 <= trial.images <= 1 for trial in result.trials)
    assert result.trials == adapt(tabletop, images, generated, generated).trials, "no chance"

    unknown = np.full_like(masks, 255)
    unknown[0] = masks[0]
    labelled = dataset(tmp_path / "labelled", images.images[:], unknown)
    by_labels = adapt(tabletop, labelled, generated, generated)
    assert by_labels.by_labels
    assert by_labels.trials[0].images == adaptation.score(tabletop, labelled, [0])


@pytest.mark.parametrize(("scores", "chosen"), [((0.4, 0.5, 0.6), 2), ((0.5, 0.4, 0.51), 0)])
def test_the_model_that_is_given_is_the_chosen_one(
    scores: tuple[float, ...],
    chosen: int,
    tabletop: GenesisV2,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptation, "STRENGTHS", (0.1, 0.3))
    given = list(scores)
    monkeypatch.setattr(adaptation, "agreement", lambda *_: given.pop(0))
    monkeypatch.setattr(adaptation, "score", lambda *_: 0.5)
    scenes, masks = sprites(2, size=128)
    generated = dataset(tmp_path / "scenes", scenes, masks)
    images = dataset(tmp_path / "images", (scenes * 0.6).astype(np.uint8))
    result = adapt(tabletop, images, generated, generated)
    real, known = (
        adaptation._stacked(of, [0, 1], tabletop.config.image_size) for of in (images, generated)
    )
    expected = (tabletop, None, shifted(tabletop, real, known, 0.3))[chosen]
    assert expected is not None and (result.model is tabletop) == (chosen == 0)
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(result.model.state_dict()[name], weight)


def test_what_cannot_be_adapted_is_named(tabletop: GenesisV2, tmp_path: Path) -> None:
    images, _ = sprites(1)
    data = dataset(tmp_path / "data", images)
    other = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    with pytest.raises(CheckpointError, match="genesis_v2 with encoder unet cannot be adapted"):
        adapt(other, data, data, data)
    with pytest.raises(DatasetError, match="has no instance masks to compare with"):
        adapt(tabletop, data, data, data)
