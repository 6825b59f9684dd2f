"""Learning from images without labels: what the teacher labels, and what is learned from that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genesis_core import (
    GenesisV2,
    GenesisV2Config,
    SlotModel,
    SlotOutput,
    find_checkpoint,
    load_model,
    save_model,
)
from genesis_core.models.losses import UNKNOWN_LABEL, mask_supervision
from genesis_core.models.points import back_project
from training.adaptation import Teacher, TeacherConfig, consensus, mirrored_points
from training.augment import Batch, RawImages
from training.batches import join
from training.datasets.sprites import render_range
from training.objective import Objective, ObjectiveConfig
from training.run_folder import MODEL, read_metrics
from training.train import main
from training.train_config import parse

pytestmark = pytest.mark.usefixtures("one_thread")  # runs are compared bit by bit

U = UNKNOWN_LABEL
OBJECT, ROBOT, SURROUNDINGS = range(3)


def agreed(*passes: list[int], kinds: list[list[int]] | None = None, **options: Any) -> list[int]:
    """The consensus of passes over one row of pixels, each with the slots 0 to 3 of its pixels.

    kinds: of each pass, those of its slots.
    """
    rows = torch.tensor(passes)[:, None]
    masks = torch.nn.functional.one_hot(rows, 4).float().permute(0, 1, 3, 2)[:, :, :, None]
    given = None
    if kinds is not None:
        given = torch.nn.functional.one_hot(torch.tensor(kinds), 3).float()[:, None]
    settings = {"agreement": 0.5, "confidence": 0.6, "smallest": 0.0, **options}
    return consensus(masks, given, **settings)[0, 0].tolist()


def test_slots_agree_whatever_their_numbers() -> None:
    assert agreed([0, 0, 1, 1, 2], [3, 3, 2, 2, 0]) == [1, 1, 2, 2, 3]


def test_of_slots_that_overlap_the_common_pixels_are_known() -> None:
    first, second = [0, 0, 0, 1, 1, 1], [2, 2, 3, 3, 3, 3]  # IoU 2/3 and 3/4
    assert agreed(first, second) == [1, 1, U, 2, 2, 2]
    assert agreed(first, second, agreement=0.7) == [U, U, U, 2, 2, 2]
    assert agreed(first, second, agreement=0.8) == [U] * 6
    assert agreed(first, second, confidence=0.5) == [1, 1, 1, 2, 2, 2], "the first pass decides"


def test_the_majority_of_the_passes_decides() -> None:
    whole, split = [0, 0, 0, 0, 1, 1], [0, 0, 2, 2, 1, 1]
    assert agreed(split, whole, whole) == [1, 1, 1, 1, 2, 2]
    assert agreed(whole, split, split) == [1, 1, 3, 3, 2, 2]


def test_what_no_pass_repeats_is_unknown() -> None:
    assert agreed([0, 0, 1, 1], [0, 1, 0, 1]) == [U] * 4


def test_small_slots_are_unknown() -> None:
    assert agreed([0, 0, 0, 1], [0, 0, 0, 1], smallest=0.3) == [1, 1, 1, U]


def test_surroundings_and_robot_are_one_label_each_however_they_fall_apart() -> None:
    first, second = [0, 0, 1, 2, 2, 3], [0, 1, 1, 2, 2, 3]
    kinds = [SURROUNDINGS, SURROUNDINGS, OBJECT, ROBOT]
    assert agreed(first, second, kinds=[kinds, kinds]) == [0, 0, 0, 3, 3, 5]


def test_what_the_passes_take_for_another_kind_is_unknown() -> None:
    row = [0, 0, 1, 1]
    sure, other = [SURROUNDINGS, OBJECT, 0, 0], [SURROUNDINGS, SURROUNDINGS, 0, 0]
    assert agreed(row, row, kinds=[sure, sure]) == [0, 0, 2, 2]
    assert agreed(row, row, row, kinds=[sure, sure, other]) == [0, 0, 2, 2]
    assert agreed(row, row, row, kinds=[sure, other, other]) == [0, 0, 0, 0]


def test_mirrored_points_are_those_of_the_mirrored_scene() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 6, 6, generator=generator) + 0.5
    depth[0, 2, 3] = 0
    camera = torch.tensor([[7.0, 8.0, 2.0, 3.0]]).expand(2, 4)
    mirrored = camera.clone()
    mirrored[:, 2] = 5 - camera[:, 2]
    expected = back_project(depth.flip(-1), mirrored)
    torch.testing.assert_close(mirrored_points(back_project(depth, camera)), expected)


class ByColour(SlotModel):
    """Slot k is what is as red as k / 4; ``by_place`` parts the image left and right instead."""

    flexible_slots = True
    latent_dim = 2

    def __init__(self, kinds: list[int] | None = None, *, by_place: bool = False) -> None:
        super().__init__(GenesisV2Config(image_size=32, num_slots=4))
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.kinds = kinds
        self.by_place = by_place

    def _explain(self, images: Tensor, **_: Any) -> SlotOutput:
        slots = (images[:, 0] * 4).round().long().clamp(0, 3)
        if self.by_place:
            slots = torch.zeros_like(slots)
            slots[..., 20:] = 1
        masks = torch.nn.functional.one_hot(slots, 4).permute(0, 3, 1, 2)[:, :, None]
        masks = masks * 0.94 + 0.015
        kinds = None
        if self.kinds is not None:
            kinds = torch.nn.functional.one_hot(torch.tensor(self.kinds), 3).float()
            kinds = kinds.expand(len(images), 4, 3)
        count = torch.full((len(images),), 4)
        return SlotOutput(count, torch.zeros(len(images), 4, 2), log_attention=masks.log(),
                          kind_logits=kinds)  # fmt: skip


def four_columns(size: int = 64) -> tuple[Tensor, Tensor]:
    """An image (1, N, N, 3) of four columns, as red as 0, 1/4, 1/2, 3/4; and their numbers."""
    numbers = torch.arange(size)[None, None].expand(1, size, size) * 4 // size
    images = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    images[..., 0] = (numbers * 63.75).round().to(torch.uint8)
    return images, numbers


def test_the_teacher_labels_what_it_finds_mirrored_too() -> None:
    images, numbers = four_columns()
    labels = Teacher(ByColour(), TeacherConfig())(RawImages(images))
    assert labels.dtype == torch.uint8 and labels.shape == (1, 64, 64)
    assert (labels == numbers + 1).all()
    # What has its border elsewhere when mirrored is unknown between the two borders.
    by_place = Teacher(ByColour(by_place=True), TeacherConfig())(RawImages(images))
    assert [int(by_place[0, 9, column]) for column in (0, 23, 24, 39, 40, 63)] == [1, 1, U, U, 2, 2]


def test_slots_of_one_kind_are_one_label() -> None:
    images, numbers = four_columns()
    kinds = [SURROUNDINGS, OBJECT, SURROUNDINGS, ROBOT]
    teacher = Teacher(ByColour(kinds), TeacherConfig())
    labels = teacher(RawImages(images))
    assert (labels == torch.tensor([0, 2, 0, 5])[numbers]).all()
    assert teacher.num_labels == 6


def test_the_teacher_is_asked_for_confidence() -> None:
    images, _ = four_columns()
    assert (Teacher(ByColour(), TeacherConfig(confidence=0.96))(RawImages(images)) == U).all()


def test_labels_that_there_are_go_before_the_teachers() -> None:
    images, numbers = four_columns()
    labels = torch.full((2, 64, 64), U, dtype=torch.uint8)
    labels[0, :, :32] = 9  # one image is labelled, as far as anybody knows
    raw = RawImages(images.expand(2, 64, 64, 3), labels)
    taught = Teacher(ByColour(), TeacherConfig(use_labels=True))(raw)
    assert (taught[0] == labels[0]).all() and (taught[1] == numbers[0] + 1).all()
    assert (Teacher(ByColour(), TeacherConfig())(raw) == numbers + 1).all()


# The objective


def test_true_and_taught_labels_are_two_terms() -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    labels = torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8)
    labels[3, :, :16] = U
    config = ObjectiveConfig(masks_only=True, mask_supervision=3.0, self_training=5.0)
    images, scores = torch.rand(4, 3, 32, 32), torch.rand(4, 1, 32, 32)
    objective = Objective(model, config, num_labels=3)
    batch = Batch(images, labels, taught=2)
    loss, terms = objective(batch, {"seed_scores": scores}, torch.tensor(0.0))
    clusters = model.find_masks(images, seed_scores=scores)
    each = mask_supervision(clusters, labels, 3)
    true, taught = each[:2].mean().item(), each[2:].mean().item()
    assert terms["mask_supervision"].item() == pytest.approx(true)
    assert terms["self_training"].item() == pytest.approx(taught)
    assert terms["taught_pixels"].item() == pytest.approx(0.75)
    assert loss.item() == pytest.approx(3 * true + 5 * taught)


def test_a_joined_batch_keeps_the_labels_of_all_its_parts() -> None:
    images = torch.rand(2, 3, 4, 4)
    true, taught = (torch.full((2, 4, 4), n, dtype=torch.uint8) for n in (1, 2))
    both = join([Batch(images, true), Batch(images, taught, taught=2)])
    assert both.labels is not None and both.labels[:, 0, 0].tolist() == [1, 1, 2, 2]
    assert both.taught == 2 and len(both) == 4
    alone = join([Batch(images, true), Batch(images)])
    assert alone.labels is not None and len(alone.labels) == 2 and alone.taught == 0


# Training

SETTINGS = {
    "model.image_size": 32,
    "model.num_slots": 3,
    "model.feature_dim": 8,
    "model.latent_dim": 8,
    "batch_size": 4,
    "device": "cpu",
    "precision": "fp32",
    "log_every": 1,
    "eval_every": 0,
    "picture_every": 0,
    "data.unlabelled_fraction": 0.5,
    "objective.masks_only": "true",
    "objective.mask_supervision": 1,
    "objective.self_training": 1,
    "optimizer.ema_decay": 0.9,
    "teacher.agreement": 0.1,
    "teacher.confidence": 0.0,
}


def write_data(path: Path, *, masks: bool) -> Path:
    for split in ("train", "val"):
        images, labels = render_range(0, 6, image_size=32, split=split, min_objects=2)
        folder = path / split
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images)
        if masks:
            np.save(folder / "masks.npy", labels)
        info = {"format": 1, "dataset": "sprites", "split": split, "count": 6, "image_size": 32}
        (folder / "info.json").write_text(json.dumps(info))
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    labelled = write_data(folder / "labelled", masks=True)
    return {"labelled": labelled, "unlabelled": write_data(folder / "unlabelled", masks=False)}


def train(run: Path, folders: dict[str, Path], **settings: Any) -> list[dict[str, Any]]:
    """Train through the command's entry point; what was logged at each step."""
    paths = {"data.path": folders["labelled"], "data.unlabelled_path": folders["unlabelled"]}
    given = {**SETTINGS, **paths, "run": run, **settings}
    main([f"--{name}={value}" for name, value in given.items() if value is not None])
    return [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.slow
def test_a_run_learns_from_its_teacher(folders: dict[str, Path], tmp_path: Path) -> None:
    taught = train(tmp_path / "taught", folders, steps=4)
    assert all(line["self_training"] > 0 and line["taught_pixels"] > 0 for line in taught)
    trained = load_model(tmp_path / "taught" / MODEL).metadata["trained"]
    assert trained["self_training"] == 1
    alone = train(tmp_path / "alone", folders, steps=4, **{"objective.self_training": 0})
    assert alone[0]["mask_supervision"] == taught[0]["mask_supervision"]
    assert alone[3]["mask_supervision"] != taught[3]["mask_supervision"], "it changed the weights"


def test_a_taught_run_resumes_exactly(folders: dict[str, Path], tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", folders, steps=4)
    train(tmp_path / "parts", folders, steps=2)
    parts = train(tmp_path / "parts", folders, steps=4, resume="true")
    keys = ("loss", "self_training", "taught_pixels", "gradient_norm")
    assert [[line[k] for k in keys] for line in parts] == [
        [line[k] for k in keys] for line in whole
    ]
    models = [load_model(tmp_path / run / MODEL).state_dict() for run in ("whole", "parts")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())


def test_labels_of_real_images_are_used_when_asked_for(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    real = {"labelled": folders["labelled"], "unlabelled": folders["labelled"]}
    without = train(tmp_path / "without", real, steps=1, **{"teacher.agreement": 1})
    used = train(
        tmp_path / "with", real, steps=1, **{"teacher.agreement": 1, "teacher.use_labels": "true"}
    )
    assert used[0]["taught_pixels"] == 1 and without[0]["taught_pixels"] < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.ema_decay": 0}, "averaged weights"),
        ({"data.unlabelled_path": None, "data.unlabelled_fraction": 0}, "data.unlabelled_path"),
        ({"teacher.passes": 1}, r"teacher.passes is 1; expected at least 2"),
        ({"teacher.agreement": 1.5}, r"teacher.agreement is 1.5; expected 0 to 1"),
        ({"objective.self_training": -1}, "self_training is -1.0; expected 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], message: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        train(tmp_path / "run", folders, steps=1, **settings)


# Starting from a checkpoint


def test_init_brings_the_models_settings() -> None:
    shipped = load_model(find_checkpoint("tabletop_small")).config
    assert parse(["--init", "tabletop_small"], "")[0].model == shipped
    changed = parse(["--init=tabletop_small", "--model.num_slots", "5"], "")[0].model
    assert changed.num_slots == 5 and changed.image_size == shipped.image_size


def test_what_a_model_is_used_with_is_carried_on(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    start = tmp_path / "start.safetensors"
    save_model(model, start, {"stop_threshold": 12.0, "trained": {"steps": 7}})
    train(tmp_path / "run", folders, steps=1, init=start)
    metadata = load_model(tmp_path / "run" / MODEL).metadata
    assert metadata["stop_threshold"] == 12 and metadata["trained"]["started_from"]["steps"] == 7
    train(tmp_path / "run", folders, steps=2, init=start, resume="true")
    assert load_model(tmp_path / "run" / MODEL).metadata["stop_threshold"] == 12
