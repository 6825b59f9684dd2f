"""The trainer, as a user sees it: command lines, the files of a run, messages, exit."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genesis_core import (
    MODELS,
    ConfigError,
    GenesisV2,
    GenesisV2Config,
    build_model,
    config_from_dict,
    load_model,
    save_model,
)
from genesis_core.models.losses import (
    gaussian_floor,
    latent_anchor,
    mask_distillation,
    mask_supervision,
    region_mixture,
    sgmm_nll,
)
from training.augment import Batch
from training.compare import ENTRIES
from training.datasets.prepared import PreparedDataset
from training.datasets.sprites import render_range
from training.evaluate import evaluate
from training.objective import Objective, ObjectiveConfig
from training.report import PAGE
from training.run_folder import CHECKPOINT, METRICS, MODEL, RunFolder, read_metrics
from training.train import Trainer, main
from training.train_config import OptimizerConfig, TrainConfig, parse

pytestmark = pytest.mark.usefixtures("one_thread")  # runs are compared bit by bit

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "config" / "training"
PAPER_DATA = {  # image size, slots, goal (Appendix E)
    "sketchy": (128, 10, 0.5645),
    "apc": (128, 10, 0.5655),
    "objects_room": (64, 7, 0.5655),
    "shapestacks": (64, 9, 0.5655),
    "tabletop": (64, 8, 0.5655),
}


def names(folder: str) -> list[str]:
    return sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob(f"{folder}/*.yaml"))


# As a user lays them over each other: a data set's config, then a model's or a variant's.
LAYERS = [(name,) for name in names(".")]
LAYERS += [(f"{data}.yaml", name) for data in PAPER_DATA for name in names("models")]
LAYERS += [
    (f"{data}.yaml", name)
    for data in ("objects_room", "shapestacks", "tabletop")
    for name in names("ablations")
]
LAYERS += [("tabletop.yaml", name) for name in names("variants")]
LAYERS += [("general.yaml", "budgets/cpu.yaml")]
LAYERS += [
    tuple(str(config.relative_to(CONFIGS)) for config in entry.configs)
    for entry in ENTRIES.values()
]
ALL_TERMS = {
    "objective.mask_supervision": 100,
    "objective.region_mixture": 10,
    "objective.mask_distillation": 1,
    "objective.latent_anchor": 1,
}


TINY = {
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
}


def write_data(
    path: Path,
    size: int = 32,
    train: int = 10,
    val: int = 6,
    masks: bool = True,
    depth: bool = False,
    sensor_depth: bool = False,
) -> Path:
    """A prepared data set of sprites; with depth, sprites of higher labels are nearer."""
    for split, count in (("train", train), ("val", val)):
        images, labels = render_range(0, count, image_size=size, split=split, min_objects=2)
        if depth:
            images = np.concatenate([images, 200 - 20 * labels[..., None]], axis=3)
        folder = path / split
        folder.mkdir(parents=True)
        np.save(folder / "images.npy", images)
        if masks:
            np.save(folder / "masks.npy", labels)
        if sensor_depth:
            np.save(folder / "depths.npy", 1_000 - 100 * labels.astype(np.uint16))
            camera = np.array([size, size, size / 2, size / 2], np.float32)
            np.save(folder / "intrinsics.npy", np.tile(camera, (count, 1)))
        info = {"format": 1, "dataset": "sprites", "split": split, "channels": images.shape[3]}
        content = {**info, "count": count, "image_size": size}
        (folder / "info.json").write_text(json.dumps(content))
    return path


def arguments(settings: dict[str, Any]) -> list[str]:
    return [f"--{name}={_text(value)}" for name, value in settings.items()]


def train(run: Path, data: Path, settings: dict[str, Any]) -> None:
    """Train through the command's entry point, with tiny settings but for the given ones."""
    main(arguments({**TINY, "run": run, "data.path": data, **settings}))


def checkpoint(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / CHECKPOINT, weights_only=True)
    return state


def metrics(run: Path, kind: str = "train") -> list[dict[str, Any]]:
    return [line for line in read_metrics(run / METRICS) if line["kind"] == kind]


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """Where two nested states differ by as much as a bit."""
    if isinstance(first, torch.Tensor):
        return [] if torch.equal(first, second) else [name]
    if isinstance(first, (dict, list)):
        if len(first) != len(second):
            return [name]
        keys = first if isinstance(first, dict) else range(len(first))
        return [d for key in keys for d in differences(first[key], second[key], f"{name}.{key}")]
    return [] if first == second else [name]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "sprites")


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "unlabelled", masks=False)


def error_of(run: Path, data: Path, settings: dict[str, Any]) -> str:
    """The message that a run ends with."""
    with pytest.raises(SystemExit) as stopped:
        train(run, data, settings)
    assert isinstance(stopped.value.code, str), "a message was expected"
    return stopped.value.code


# The configs in the repository


@pytest.fixture(scope="module")
def full_size_data(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    """By image size and number of channels."""
    folder = tmp_path_factory.mktemp("full_size")
    return {
        (size, 4 if depth else 3): write_data(
            folder / name, size, train=2, val=1, depth=depth, sensor_depth=not depth
        )
        for name, size, depth in (
            ("32", 32, False),
            ("64", 64, False),
            ("128", 128, False),
            ("160", 160, False),
            ("192", 192, False),
            ("32_depth", 32, True),
            ("64_depth", 64, True),
        )
    }


def layered(files: Sequence[str]) -> list[str]:
    return [f"--config={CONFIGS / file}" for file in files]


@cache
def settings_of(files: tuple[str, ...]) -> TrainConfig:
    return parse(layered(files), "")[0]


@pytest.mark.parametrize("files", LAYERS, ids="+".join)
def test_every_config_is_complete(files: tuple[str, ...]) -> None:
    """Its settings are possible together; run and data are named after what it is for."""
    config = settings_of(files)
    assert config.run.startswith("runs/") and config.data.path.startswith("data/")
    with torch.device("meta"):  # no memory, no time: whether such a model can be built
        assert build_model(config.model).config == config.model


def distinct() -> list[tuple[str, ...]]:
    """Of the layers, the smallest ones with each kind of model and of objective."""
    chosen: dict[str, tuple[str, ...]] = {}
    for files in sorted(LAYERS, key=lambda files: settings_of(files).model.image_size):
        config = settings_of(files)
        model: list[Any] = [config.model.model, config.model.image_channels]
        model += [value for value in vars(config.model).values() if isinstance(value, (bool, str))]
        numbers = ("goal", "geco_step_size", "beta_init")  # which no objective is without
        terms = {n: bool(v) for n, v in vars(config.objective).items() if n not in numbers}
        chosen.setdefault(repr([model, terms, bool(config.init), config.freeze]), files)
    return sorted(chosen.values())


@pytest.mark.slow
@pytest.mark.parametrize("files", distinct(), ids="+".join)
def test_configs_train_two_steps(
    files: tuple[str, ...],
    full_size_data: dict[tuple[int, int], Path],
    published_weights: dict[str, torch.Tensor],
    tmp_path: Path,
) -> None:
    """Each model with each objective, of the true size; two slots and one image a step."""
    config = settings_of(files)
    data = full_size_data[config.model.image_size, config.model.image_channels]
    expected = replace(config.model, num_slots=2)
    settings: dict[str, Any] = {"model.num_slots": 2, "batch_size": 1, "steps": 2, "log_every": 1}
    settings |= {"run": tmp_path / "run", "data.path": data, "device": "cpu"}
    settings |= {"eval_every": 0, "picture_every": 0}
    if config.data.unlabelled_path:
        settings |= {"data.unlabelled_path": data, "batch_size": 2}
    if config.init:
        save_model(build_model(expected), tmp_path / "init.safetensors")
        settings["init"] = tmp_path / "init.safetensors"
    if config.encoder_weights:
        torch.save(published_weights, tmp_path / "encoder.pth")
        settings["encoder_weights"] = tmp_path / "encoder.pth"
    main([*layered(files), *arguments(settings)])
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2]
    assert load_model(tmp_path / "run" / MODEL).config == expected


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]], ids=["two words", "one"])
def test_configs_that_ship_are_found_by_name(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("tabletop", "models/monet.yaml")
    config, _ = parse([part.format(name) for name in names for part in form], "")
    assert config == parse(layered(["tabletop.yaml", "models/monet.yaml"]), "")[0]
    assert config.run == "runs/tabletop_monet"
    Path("tabletop").write_text("steps: 7")  # a file of the user's goes before
    assert parse([part.format("tabletop") for part in form], "")[0].steps == 7


@pytest.mark.parametrize(
    "setting", ["steps", "objective.goal", "data.augment.crop_scale", "model.num_slots"]
)
def test_a_null_that_cannot_be_is_named(setting: str, tmp_path: Path) -> None:
    *outer, inner = setting.split(".")
    content: Any = {inner: None}
    for name in reversed(outer):
        content = {name: content}
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=f"^{setting} is null"):
        parse(["--config", "sprites", "--config", str(file)], "")
    file.write_text("{objective: {initial_std: null}, data: {unlabelled_path: null}, init: null}")
    parse(["--config", "sprites", "--config", str(file)], "")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER_DATA)
def test_paper_configs_have_the_papers_settings(name: str) -> None:
    size, slots, goal = PAPER_DATA[name]
    model = GenesisV2Config(image_size=size, num_slots=slots)
    config, _ = parse(layered([f"{name}.yaml"]), "")
    assert config.model == model
    assert config.objective == ObjectiveConfig(goal=goal)
    assert config.optimizer == OptimizerConfig(lr=1e-4)
    assert (config.steps, config.batch_size, config.data.path) == (500_000, 32, f"data/{name}")
    assert config.run == f"runs/{name}"
    for baseline in ("genesis_v1", "monet"):
        other, _ = parse(layered([f"{name}.yaml", f"models/{baseline}.yaml"]), "")
        its_model = MODELS[baseline].config_class(image_size=size, num_slots=slots)
        assert other == replace(config, model=its_model, run=f"runs/{name}_{baseline}")


def test_slot_attention_has_its_authors_settings() -> None:
    config, _ = parse(layered(["shapestacks.yaml", "models/slot_attention.yaml"]), "")
    assert config.model == MODELS["slot_attention"].config_class(image_size=64, num_slots=9)
    optimizer = config.optimizer
    assert (optimizer.lr, config.batch_size, config.steps) == (4e-4, 64, 500_000)
    assert (optimizer.warmup_steps, optimizer.schedule) == (10_000, "exponential")
    assert optimizer.halving_steps == 100_000


def test_models_on_the_way_are_kept(data: Path, tmp_path: Path) -> None:
    """Each is what a run gives that ends there, also after an interruption."""
    settings = {"keep_every": 2, "optimizer.schedule": "constant"}
    train(tmp_path / "long", data, {**settings, "steps": 3})
    train(tmp_path / "long", data, {**settings, "steps": 5, "resume": True})
    kept = sorted(path.name for path in (tmp_path / "long").glob("model*"))
    assert kept == ["model-2.safetensors", "model-4.safetensors", MODEL]
    for step in (2, 4):
        model = load_model(tmp_path / "long" / f"model-{step}.safetensors")
        assert model.metadata["trained"]["steps"] == step
        short = tmp_path / str(step)
        train(short, data, {**settings, "keep_every": 0, "steps": step})
        assert differences(load_model(short / MODEL).state_dict(), model.state_dict()) == []


@pytest.mark.slow
def test_a_budget_is_the_same_for_every_model() -> None:
    configs = {
        name: parse([f"--config={path}" for path in entry.configs], "")[0]
        for name, entry in ENTRIES.items()
        if not entry.supervised
    }
    first = configs["genesis_v2"]
    beside, alone = configs.pop("region_mixture"), configs.pop("regions")
    assert replace(first.objective, region_mixture=300.0) == beside.objective
    assert replace(beside, objective=first.objective, run=first.run) == first
    assert replace(first.objective, masks_only=True, region_mixture=1.0) == alone.objective
    assert replace(first.optimizer, clip_norm=1.0) == alone.optimizer
    same = {"objective": first.objective, "optimizer": first.optimizer, "run": first.run}
    assert replace(alone, **same) == first
    assert len({str(config.model) for config in configs.values()}) == len(configs) == 10
    for name, config in configs.items():
        assert (config.model.image_size, config.model.num_slots) == (32, 8)
        assert config.optimizer.schedule == "cosine"
        if name == "mask_loss":  # see Appendix B
            assert config.objective.beta_init == 1e-10
            config = replace(config, objective=first.objective)
        same = replace(config, model=first.model, run=first.run, optimizer=first.optimizer)
        assert same == first
        assert replace(config.optimizer, halving_steps=100_000) == first.optimizer


def test_ablations_change_what_their_table_says() -> None:
    model = GenesisV2Config(image_size=64, num_slots=7)
    independent = replace(model, autoregressive_prior=False)
    expected = {
        "independent_gaussian": independent,
        "independent_laplacian": replace(independent, kernel="laplacian"),
        "independent_epanechnikov": replace(independent, kernel="epanechnikov"),
        "plain_convolution": replace(model, semi_conv=False),
        "mask_loss": replace(model, mask_loss=True),
    }
    for name, config in expected.items():
        found, _ = parse(layered(["objects_room.yaml", f"ablations/{name}.yaml"]), "")
        assert found.model == config
        assert found.run == f"runs/objects_room_{name}"


# What a run leaves behind


@pytest.fixture(scope="module")
def watched_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run with everything that is logged."""
    run = tmp_path_factory.mktemp("runs") / "watched"
    watched = {"eval_every": 2, "picture_every": 2, "steps": 4, "optimizer.ema_decay": 0.5}
    train(run, data, {**ALL_TERMS, **watched})
    return run


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator


@pytest.mark.slow
def test_tensorboard_has_scalars_and_pictures(watched_run: Path) -> None:
    log = events(watched_run)
    for name in ("train/loss", "train/elbo", "train/beta", "train/images_per_second"):
        assert [event.step for event in log.Scalars(name)] == [1, 2, 3, 4]
    assert [event.step for event in log.Scalars("val/decoder_ari_fg")] == [2, 4]
    for name in ("reconstructions", "samples"):
        pictures = log.Images(name)
        assert [picture.step for picture in pictures] == [2, 4]
        assert pictures[0].encoded_image_string.startswith(b"\x89PNG")
        assert pictures[0].width > 96 * 4  # more than four tiles beside each other


def test_metrics_agree_with_tensorboard_and_with_each_other(watched_run: Path) -> None:
    lines = metrics(watched_run)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    logged = [event.value for event in events(watched_run).Scalars("train/loss")]
    assert [line["loss"] for line in lines] == pytest.approx(logged)
    beta = 1.0  # in a step's loss is the beta from before its update
    for line in lines:
        assert line["elbo"] == pytest.approx(-(line["nll"] + line["kl"]))
        extra = 100 * line["mask_supervision"] + 10 * line["region_mixture"]
        extra += line["mask_distillation"] + line["latent_anchor"]
        assert line["loss"] == pytest.approx(line["nll"] + beta * line["kl"] + extra, rel=1e-5)
        beta = line["beta"]
    for line in metrics(watched_run, "val"):
        assert line["elbo"] == pytest.approx(-(line["nll"] + line["kl"]))
        for name in ("attention_ari_fg", "attention_msc_fg", "decoder_ari_fg", "decoder_msc_fg"):
            assert -0.5 <= line[name] <= 1
    last = metrics(watched_run, "val")[-1]
    better = "attention" if last["attention_ari_fg"] > last["decoder_ari_fg"] else "decoder"
    assert load_model(watched_run / MODEL).metadata["mask_source"] == better


def test_beta_follows_geco(watched_run: Path) -> None:
    elements = 3 * 32 * 32
    beta, average = 1.0, None
    for line in metrics(watched_run):
        average = line["nll"] if average is None else 0.99 * average + 0.01 * line["nll"]
        slack = 0.5655 * elements - average
        step_size = 1e-5 * 64**2 / 32**2
        beta *= math.exp(step_size * slack * (10 if slack > 0 else 1))
        assert line["beta"] == pytest.approx(beta, rel=1e-6)


def test_run_folder_says_what_was_run(watched_run: Path) -> None:
    versions = yaml.safe_load((watched_run / "versions.json").read_text())
    assert versions["torch"] == torch.__version__
    assert {"genesis_core", "git_revision", "python", "device", "precision"} <= set(versions)
    trained = load_model(watched_run / MODEL).metadata["trained"]
    assert (trained["steps"], trained["mask_supervision"]) == (4, 100)
    assert not list(watched_run.glob(".partial*"))


@pytest.mark.slow
def test_a_runs_settings_are_a_config_for_the_same_run(watched_run: Path, tmp_path: Path) -> None:
    main(arguments({"config": watched_run / "config.yaml", "run": tmp_path / "again"}))
    assert differences(checkpoint(watched_run), checkpoint(tmp_path / "again")) == []


def test_without_images_to_validate_on_the_way_out_is_named(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "val")
    error = error_of(tmp_path / "run", tmp_path / "data", {"eval_every": 1, "steps": 1})
    assert f"{tmp_path / 'data' / 'val'}" in error
    without = ["--eval_every", "0", "--picture_every", "0"]
    assert " ".join(without) in error
    given = {"steps": 1, "eval_every": 0, "picture_every": 0}
    train(tmp_path / "run", tmp_path / "data", given)
    assert checkpoint(tmp_path / "run")["step"] == 1


def test_changes_of_instances_without_masks_are_said_to_do_nothing(
    data: Path, unlabelled: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = {"steps": 1, "data.augment.recolour": 0.1, "data.augment.texture": 0.2}
    train(tmp_path / "labelled", data, given)
    assert "of no effect" not in "".join(capfd.readouterr())
    train(tmp_path / "unlabelled", unlabelled, given)
    said = "".join(capfd.readouterr())
    assert f"data.augment.recolour is 0.1, and of no effect: {unlabelled} has no instance" in said
    assert f"data.augment.texture is 0.2, and of no effect: {unlabelled} has no instance" in said


def test_validation_scores_as_evaluation_does(data: Path, tmp_path: Path) -> None:
    """The split val has 6 images, each counted once, with evaluate.py's seed scores and noise."""
    train(tmp_path, data, {"steps": 1, "eval_every": 1})
    expected = evaluate(load_model(tmp_path / MODEL), PreparedDataset(data, "val"))["fixed"]
    (found,) = metrics(tmp_path, "val")
    for name in ("elbo", "nll", "kl", "mse"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    for source in ("attention", "decoder"):
        for name in ("ari_fg", "msc_fg"):
            assert found[f"{source}_{name}"] == pytest.approx(expected[source][name]), name


# Objective and optimiser


def test_learning_rate_warms_up_and_decays(data: Path, tmp_path: Path) -> None:
    settings = {"optimizer.lr": 1e-3, "optimizer.warmup_steps": 4, "optimizer.schedule": "cosine"}
    train(tmp_path, data, {**settings, "steps": 10})
    found = [line["learning_rate"] for line in metrics(tmp_path)]
    warmup = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * step / 10)) / 2 for step in range(10)]
    assert found == pytest.approx([1e-3 * w * c for w, c in zip(warmup, cosine, strict=True)])


def test_gate_and_kernel_scale_learn_faster_by_their_factor(data: Path, tmp_path: Path) -> None:
    """Adam's first step has the size of the learning rate."""
    for factor in (1, 10):
        settings = {"optimizer.clustering_lr_scale": factor, "optimizer.lr": 1e-4, "steps": 1}
        train(tmp_path / str(factor), data, settings)
        weights = checkpoint(tmp_path / str(factor))["model"]
        assert abs(float(weights["embedding.gate"])) == pytest.approx(1e-4 * factor, rel=1e-3)
        moved = float(weights["icsbp.log_scale"]) - math.log(1 / (3 * math.log(2)))
        assert abs(moved) == pytest.approx(1e-4 * factor, rel=1e-2)


@pytest.mark.slow
def test_averaged_weights_are_the_moving_average(data: Path, tmp_path: Path) -> None:
    """The first step's weights, then 0.75 of the average and 0.25 of the new ones."""
    weights = []
    for steps in (1, 2, 3):  # the same run, made longer
        settings = {"steps": steps, "optimizer.ema_decay": 0.75, "optimizer.lr": 1e-2}
        train(tmp_path, data, {**settings, "freeze": "[decoder]", "resume": True})
        weights.append(checkpoint(tmp_path)["model"])
    averaged = load_model(tmp_path / MODEL).state_dict()
    for name, value in averaged.items():
        expected = weights[0][name]
        for later in weights[1:]:
            expected = 0.75 * expected + 0.25 * later[name]
        assert torch.allclose(value, expected, atol=1e-6), name
        assert torch.equal(value, weights[0][name]) == name.startswith("decoder."), name


def test_learning_rate_is_halved_again_and_again(data: Path, tmp_path: Path) -> None:
    settings = {"optimizer.lr": 1e-3, "optimizer.warmup_steps": 2, "steps": 6}
    exponential = {"optimizer.schedule": "exponential", "optimizer.halving_steps": 2}
    train(tmp_path, data, {**settings, **exponential})
    found = [line["learning_rate"] for line in metrics(tmp_path)]
    assert found == pytest.approx(
        [1e-3 * f * 0.5 ** (s / 2) for s, f in enumerate((0.5, *[1] * 5))]
    )


def test_the_posterior_starts_as_narrow_as_asked(data: Path, tmp_path: Path) -> None:
    settings = {"steps": 1, "objective.initial_std": 0.1, "optimizer.lr": 1e-9}
    train(tmp_path / "run", data, settings)
    out = load_model(tmp_path / "run" / MODEL)(torch.rand(2, 3, 32, 32))
    torch.testing.assert_close(out.latent_std, torch.full_like(out.latent_std, 0.1))


def test_frozen_parts_stay_bit_identical(data: Path, tmp_path: Path) -> None:
    start = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    save_model(start, tmp_path / "start.safetensors", {"trained": {"mask_supervision": 1.0}})
    settings = {"init": tmp_path / "start.safetensors", "freeze": "[backbone,embedding,icsbp]"}
    train(tmp_path / "run", data, {**settings, **ALL_TERMS, "steps": 3, "optimizer.lr": 1e-2})
    model = load_model(tmp_path / "run" / MODEL)
    assert model.metadata["trained"]["started_from"] == {"mask_supervision": 1.0}
    trained = model.state_dict()
    for name, value in start.state_dict().items():
        frozen = name.split(".")[0] in ("backbone", "embedding", "icsbp")
        assert torch.equal(trained[name], value) == frozen, name


def test_a_run_widens_the_heads_of_latents_that_it_starts_from(data: Path, tmp_path: Path) -> None:
    config = GenesisV2Config(
        image_size=32, num_slots=3, feature_dim=8, latent_dim=8, colour_thumbnail=4
    )
    save_model(GenesisV2(config), tmp_path / "start.safetensors")
    settings = {"init": tmp_path / "start.safetensors", "optimizer.lr": 1e-9, "steps": 1}
    train(tmp_path / "run", data, {**settings, "model.latent_width": 24})
    before, after = load_model(tmp_path / "start.safetensors"), load_model(tmp_path / "run" / MODEL)
    assert after.config == replace(config, latent_width=24)
    images = torch.rand(2, 3, 32, 32)
    randomness = {n: d.fixed(2, images.device) for n, d in before.draws(3).items()}
    with torch.no_grad():
        torch.testing.assert_close(
            after(images, **randomness).latent_mean, before(images, **randomness).latent_mean
        )
    error = error_of(tmp_path / "none", data, {**settings, "model.latent_width": 12})
    assert "does not fit the model" in error


def check_that_masks_alone_were_trained(model: GenesisV2) -> None:
    """Seed 0's first weights, but for the parts that make IC-SBP's masks."""
    torch.manual_seed(0)
    start = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    trained = model.state_dict()
    for name, value in start.state_dict().items():
        used = name.split(".")[0] in ("backbone", "embedding", "icsbp")
        assert torch.equal(trained[name], value) != used, name


def test_masks_alone_leave_decoder_and_latents_as_they_are(data: Path, tmp_path: Path) -> None:
    settings = {"objective.masks_only": True, "objective.mask_supervision": 1, "steps": 2}
    train(tmp_path, data, {**settings, "eval_every": 2, "picture_every": 2})
    assert "nll" not in metrics(tmp_path)[0]
    assert set(metrics(tmp_path, "val")[0]) >= {"attention_ari_fg", "attention_msc_fg"}
    model = load_model(tmp_path / MODEL)
    assert model.metadata["mask_source"] == "attention"
    check_that_masks_alone_were_trained(model)


def test_regions_alone_need_no_labels(unlabelled: Path, tmp_path: Path) -> None:
    settings = {"objective.masks_only": True, "objective.region_mixture": 1, "steps": 2}
    train(tmp_path, unlabelled, {**settings, "optimizer.lr": 1e-2, "eval_every": 2})
    assert all(line["loss"] == line["region_mixture"] for line in metrics(tmp_path))
    (validation,) = metrics(tmp_path, "val")
    assert -12 < validation["region_mixture"] < 0 and "attention_ari_fg" not in validation
    model = load_model(tmp_path / MODEL)
    trained = model.metadata["trained"]
    assert (trained["masks_only"], trained["region_mixture"]) == (True, 1)
    assert trained["mask_supervision"] == 0
    check_that_masks_alone_were_trained(model)


def test_supervision_in_a_mixed_batch_looks_at_the_labelled_images_only() -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    config = ObjectiveConfig(mask_supervision=100.0)
    images, scores = torch.rand(4, 3, 32, 32), torch.rand(4, 1, 32, 32)
    noise, labels = torch.randn(4, 3, 8), torch.randint(0, 3, (3, 32, 32), dtype=torch.uint8)
    drawn = {"seed_scores": scores, "noise": noise}
    loss, terms = Objective(model, config)(Batch(images, labels), drawn, torch.tensor(2.0))
    out = model(images, seed_scores=scores, noise=noise)
    losses = model.losses(images, out)
    _, clusters = model.cluster(images[:3], scores[:3])
    supervision = mask_supervision(clusters, labels).mean()
    assert terms["mask_supervision"].item() == pytest.approx(supervision.item(), rel=1e-5)
    expected = losses.nll.mean() + 2 * losses.kl.sum(1).mean() + 100 * supervision
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_some_images_are_decoded_and_all_of_them_supervised_and_anchored() -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    config = ObjectiveConfig(
        mask_supervision=100.0,
        region_mixture=5.0,
        latent_anchor=7.0,
        attention_likelihood=True,
        decoded_images=2,
    )
    images, scores = torch.rand(4, 3, 32, 32), torch.rand(4, 1, 32, 32)
    noise, labels = torch.randn(4, 3, 8), torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8)
    drawn = {"seed_scores": scores, "noise": noise}
    loss, terms = Objective(model, config)(Batch(images, labels), drawn, torch.tensor(2.0))
    decoded = images[2:]
    out = model(decoded, seed_scores=scores[2:], noise=noise[2:])
    assert terms["mse"].item() == pytest.approx(
        (out.reconstruction - decoded).square().mean().item()
    )
    nll = sgmm_nll(decoded, out.log_attention, out.means, model.config.pixel_std).mean()
    kl = model.losses(decoded, out).kl.sum(1).mean()
    everything = model(images, seed_scores=scores, noise=noise, decode=False)
    anchor = latent_anchor(images, everything.log_attention, everything.latent_mean).mean()
    supervision = mask_supervision(everything.clusters, labels).mean()
    regions = region_mixture(images, everything.log_attention).mean()
    assert terms["nll"].item() == pytest.approx(nll.item(), rel=1e-5)
    expected = nll + 2 * kl + 100 * supervision + 7 * anchor + 5 * regions
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("decoded_images", [0, 2])
def test_slots_that_stop_early_are_those_that_are_decoded(decoded_images: int) -> None:
    """The loss is that of the model as it is used, and slots that nobody uses learn nothing."""
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=6, feature_dim=8, latent_dim=8))
    stop = 400.0  # pixels at 64x64
    config = ObjectiveConfig(
        mask_distillation=3.0, latent_anchor=7.0, attention_likelihood=True, stop_threshold=stop,
        decoded_images=decoded_images,
    )  # fmt: skip
    images, scores, noise = (
        torch.rand(3, 3, 32, 32), torch.rand(3, 1, 32, 32), torch.randn(3, 6, 8),
    )  # fmt: skip
    given = {"seed_scores": scores, "noise": noise}
    widths: list[int] = []
    model.decoder.register_forward_hook(lambda module, given, out: widths.append(len(out)))
    loss, terms = Objective(model, config)(Batch(images), given, torch.tensor(2.0))
    loss.backward()
    out = model(images, **given, stop_threshold=stop)
    assert 2 * 3 < out.num_slots.sum() < 6 * 3, "the threshold should leave some slots out"
    count = decoded_images or 3
    last = out[-count:]
    decoded = images[-count:]
    assert widths[0] == last.num_slots.sum()
    nll = sgmm_nll(decoded, last.log_attention, last.means, model.config.pixel_std).mean()
    distilled = mask_distillation(last.log_attention, last.log_masks).mean()
    anchor = latent_anchor(images, out.log_attention, out.latent_mean).mean()
    kl = model.losses(decoded, last).kl.sum(1).mean()
    expected = nll + 2 * kl + 3 * distilled + 7 * anchor
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert terms["mask_distillation"].item() == pytest.approx(distilled.item(), rel=1e-4)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_the_likelihood_under_attention_masks_does_not_train_them() -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8))
    images, scores = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32)
    drawn = {"seed_scores": scores, "noise": torch.zeros(2, 3, 8)}
    config = ObjectiveConfig(attention_likelihood=True)
    model.feature_head.requires_grad_(False)
    # What the latents say of the masks is another way; with constant latents it is closed.
    for parameter in model.latent_head[-1].parameters():
        torch.nn.init.zeros_(parameter)
    loss, _ = Objective(model, config)(Batch(images), drawn, torch.tensor(0.0))
    loss.backward()
    assert model.icsbp.log_scale.grad is not None and not model.icsbp.log_scale.grad.any()
    assert model.decoder[-1].weight.grad.any()


@pytest.mark.slow
def test_labelled_and_unlabelled_images_train_together(
    data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    mix = {"data.unlabelled_path": unlabelled, "data.unlabelled_fraction": 0.25}
    train(tmp_path / "mix", data, {**mix, **ALL_TERMS, "steps": 2})
    assert all(line["mask_supervision"] > 0 for line in metrics(tmp_path / "mix"))
    train(tmp_path / "alone", data, {**ALL_TERMS, "steps": 2})
    first, alone = metrics(tmp_path / "mix")[0], metrics(tmp_path / "alone")[0]
    assert first["nll"] != alone["nll"], "the unlabelled image should count"
    train(tmp_path / "last", data, {**mix, **ALL_TERMS, "steps": 1, "objective.decoded_images": 1})
    (last,) = metrics(tmp_path / "last")
    assert last["mask_supervision"] == first["mask_supervision"]
    assert last["nll"] != first["nll"], "of the four images, the last should be decoded"


def test_bfloat16_on_the_cpu_agrees_with_float32(data: Path, tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        train(tmp_path / precision, data, {"precision": precision, "steps": 3})
        found[precision] = [line["nll"] for line in metrics(tmp_path / precision)]
    # bfloat16 has 8 bits of mantissa; the likelihood itself is computed in float32.
    assert found["bf16"] == pytest.approx(found["fp32"], rel=1e-2)
    assert found["bf16"] != found["fp32"]


def test_a_run_goes_on_in_the_precision_that_it_began_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever auto comes to on another machine."""

    def on_a_machine_with(native: str, steps: int, **settings: Any) -> dict[str, Any]:
        def resolved(asked: str, device: torch.device) -> str:
            return native if asked == "auto" else asked

        monkeypatch.setattr("training.train.resolve_precision", resolved)
        return {"precision": "auto", "steps": steps, "resume": True, **settings}

    train(tmp_path, data, on_a_machine_with("fp32", 1))
    assert load_model(tmp_path / MODEL).metadata["trained"]["precision"] == "fp32"
    for native in ("bf16", "fp16"):
        message = error_of(tmp_path, data, on_a_machine_with(native, 2))
        assert f"trained in fp32, and precision auto is {native} on cpu" in message
        assert "--precision fp32" in message
    train(tmp_path, data, on_a_machine_with("bf16", 1))  # nothing is left to train
    train(tmp_path, data, on_a_machine_with("bf16", 2, precision="fp32"))
    state = checkpoint(tmp_path)
    assert (state["step"], state.pop("precision")) == (2, "fp32")
    # A run of before did not say it, and is taken as it is.
    torch.save(state, tmp_path / CHECKPOINT)
    message = error_of(tmp_path, data, on_a_machine_with("bf16", 3))
    assert "precision was 'fp32', now 'auto'" in message
    state["settings"]["precision"] = "auto"
    torch.save(state, tmp_path / CHECKPOINT)
    train(tmp_path, data, on_a_machine_with("bf16", 3))
    assert checkpoint(tmp_path)["precision"] == "bf16"


@pytest.mark.cuda
def test_float16_on_cuda_trains_and_resumes(data: Path, tmp_path: Path) -> None:
    settings = {"device": "cuda", "precision": "fp16"}
    train(tmp_path, data, {**settings, "steps": 10})
    scale = checkpoint(tmp_path)["scaler"]["scale"]
    train(tmp_path, data, {**settings, "steps": 20, "resume": True})
    assert len(metrics(tmp_path)) == 20
    assert scale > 1 and checkpoint(tmp_path)["scaler"]["scale"] > 1
    assert metrics(tmp_path)[-1]["nll"] < metrics(tmp_path)[0]["nll"]


@pytest.mark.cuda
def test_a_step_captured_as_a_graph_is_the_plain_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        **ALL_TERMS,
        "device": "cuda",
        "steps": 8,
        "optimizer.warmup_steps": 5,
        "optimizer.ema_decay": 0.9,
        "objective.noise_warmup_steps": 6,
        "data.augment.crop_scale": 0.6,
        "data.augment.recolour": 0.5,
        "data.augment.texture": 0.5,
        "data.augment.jpeg": 0.5,
        "data.augment.noise": 5,
    }
    recorded: list[bool] = []
    run = Trainer.run

    def note(self: Trainer) -> None:
        run(self)
        recorded.append(self.captured is not None and self.captured.recorded)

    monkeypatch.setattr(Trainer, "run", note)
    train(tmp_path / "captured", data, settings)
    assert recorded == [True]
    monkeypatch.setattr(Trainer, "_build_captured", lambda self: None)
    train(tmp_path / "plain", data, settings)
    captured, plain = metrics(tmp_path / "captured"), metrics(tmp_path / "plain")
    assert len(captured) == 8
    for line, other in zip(captured, plain, strict=True):
        for name in ("loss", "nll", "kl", "beta", "mask_supervision", "learning_rate"):
            assert line[name] == pytest.approx(other[name], rel=1e-3), (line["step"], name)
    found, expected = (load_model(tmp_path / name / MODEL) for name in ("captured", "plain"))
    for (name, value), other in zip(
        found.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.cuda
def test_a_captured_run_resumes_where_it_was(data: Path, tmp_path: Path) -> None:
    """To rounding: the GPU adds in any order."""
    settings = {**ALL_TERMS, "device": "cuda", "optimizer.ema_decay": 0.9}
    train(tmp_path / "whole", data, {**settings, "steps": 12})
    train(tmp_path / "halves", data, {**settings, "steps": 6})
    train(tmp_path / "halves", data, {**settings, "steps": 12, "resume": True})
    whole, halves = metrics(tmp_path / "whole"), metrics(tmp_path / "halves")
    assert [line["step"] for line in halves] == [line["step"] for line in whole]
    for line, other in zip(halves, whole, strict=True):
        for name in ("loss", "nll", "kl", "beta", "learning_rate"):
            assert line[name] == pytest.approx(other[name], rel=1e-3), (line["step"], name)


@pytest.mark.cuda
def test_compiled_training_agrees_with_plain_training(data: Path, tmp_path: Path) -> None:
    for compiled in (False, True):
        settings = {**ALL_TERMS, "device": "cuda", "compile": compiled, "steps": 5}
        train(tmp_path / str(compiled), data, settings)
    plain, fast = (metrics(tmp_path / name) for name in ("False", "True"))
    for line, other in zip(plain, fast, strict=True):
        assert line["nll"] == pytest.approx(other["nll"], rel=1e-3)


# The other models

BASELINES = ("genesis_v1", "monet", "slot_attention")
SMALL: dict[str, dict[str, Any]] = {
    "genesis_v1": {"mask_latent_dim": 4, "component_latent_dim": 2, "mask_width": 4},
    "monet": {"latent_dim": 4, "attention_width": 4, "component_width": 4},
    "slot_attention": {"latent_dim": 8, "feature_dim": 4, "hidden_dim": 8},
}


def baseline(name: str, **model: Any) -> dict[str, Any]:
    """Settings of a tiny model, to be given to ``train_baseline``."""
    own = {"model": name, "image_size": 32, "num_slots": 3, **SMALL[name], **model}
    return {f"model.{key}": value for key, value in own.items()}


def train_baseline(run: Path, data: Path, settings: dict[str, Any]) -> None:
    common = {key: value for key, value in TINY.items() if not key.startswith("model.")}
    main(arguments({**common, "run": run, "data.path": data, **settings}))


@pytest.fixture(scope="module")
def baseline_runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A short run of each, with everything that is logged."""
    folder = tmp_path_factory.mktemp("baselines")
    watched = {"eval_every": 2, "picture_every": 4, "steps": 4, "optimizer.ema_decay": 0.5}
    for name in BASELINES:
        train_baseline(folder / name, data, {**baseline(name), **watched})
    return {name: folder / name for name in BASELINES}


@pytest.mark.slow
def test_averaged_weights_come_with_the_models_running_statistics(
    baseline_runs: dict[str, Path],
) -> None:
    run = baseline_runs["genesis_v1"]
    trained, averaged = checkpoint(run)["model"], load_model(run / MODEL).state_dict()
    statistics = [name for name in trained if "running" in name]
    assert statistics and any((trained[name] != 0).any() for name in statistics)
    for name in statistics:
        assert torch.equal(averaged[name], trained[name]), name


@pytest.mark.parametrize("name", ["genesis_v1", "monet"])
def test_generative_baselines_train_with_geco(name: str, baseline_runs: dict[str, Path]) -> None:
    beta, average = 1.0, None
    for line in metrics(baseline_runs[name]):
        kl = line["kl"] + line.get("mask_kl", 0)
        assert line["loss"] == pytest.approx(line["nll"] + beta * kl, rel=1e-5)
        average = line["nll"] if average is None else 0.99 * average + 0.01 * line["nll"]
        slack = 0.5655 * 3 * 32 * 32 - average
        beta *= math.exp(1e-5 * 64**2 / 32**2 * slack * (10 if slack > 0 else 1))
        assert line["beta"] == pytest.approx(beta, rel=1e-6)
        assert ("mask_kl" in line) == (name == "monet")
    for line in metrics(baseline_runs[name], "val"):
        assert line["elbo"] == pytest.approx(-(line["nll"] + line["kl"]))
    log = events(baseline_runs[name])
    assert len(log.Images("samples")) == len(log.Images("reconstructions")) == 1


def test_slot_attention_minimises_the_squared_error(baseline_runs: dict[str, Path]) -> None:
    lines = metrics(baseline_runs["slot_attention"])
    assert all(line["loss"] == pytest.approx(line["mse"], rel=1e-5) for line in lines)
    assert not {"nll", "kl", "elbo", "beta"} & set(lines[0])
    assert "mse" in metrics(baseline_runs["slot_attention"], "val")[0]
    assert "elbo" not in metrics(baseline_runs["slot_attention"], "val")[0]
    tags = events(baseline_runs["slot_attention"]).Tags()["images"]
    assert tags == ["reconstructions"]  # it cannot generate


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_a_baselines_settings_are_a_config_and_its_checkpoint_a_model(
    name: str, baseline_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = baseline_runs[name]
    main(arguments({"config": run / "config.yaml", "run": tmp_path / "again"}))
    assert differences(checkpoint(run), checkpoint(tmp_path / "again")) == []
    model = load_model(run / MODEL)
    assert model.config.model == name
    last = metrics(run, "val")[-1]
    scores = {source: last[f"{source}_ari_fg"] for source in ("decoder", "attention")}
    chosen = model.metadata["mask_source"]
    assert scores[chosen] == max(scores.values())
    if scores["decoder"] == scores["attention"]:
        assert chosen == MODELS[name].default_mask_source


@pytest.mark.slow
@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_resumes_exactly(
    name: str, baseline_runs: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Running statistics of batch normalisation and averaged weights included."""
    settings = {**baseline(name), "optimizer.ema_decay": 0.5}
    train_baseline(tmp_path, data, {**settings, "steps": 2})
    train_baseline(tmp_path, data, {**settings, "steps": 4, "resume": True})
    broken, unbroken = checkpoint(tmp_path), checkpoint(baseline_runs[name])
    for state in (broken, unbroken):
        del state["best_mask_source"]  # of a validation, which one of them has not had
    assert differences(unbroken, broken) == []
    with pytest.raises(SystemExit, match=r"model\.num_slots was 3, now 4"):
        train_baseline(tmp_path, data, {**settings, "model.num_slots": 4, "resume": True})
    with pytest.raises(SystemExit, match=f"model.model was '{name}', now 'genesis_v2'"):
        train(tmp_path, data, {"optimizer.ema_decay": 0.5, "resume": True})


@pytest.mark.slow
def test_a_frozen_parts_batch_normalisation_is_frozen(data: Path, tmp_path: Path) -> None:
    start = build_model(config_from_dict({"model": "genesis_v1", "image_size": 32, "num_slots": 3}
                                         | SMALL["genesis_v1"]))  # fmt: skip
    save_model(start, tmp_path / "start.safetensors")
    settings = {"init": tmp_path / "start.safetensors", "freeze": "[mask_encoder]", "eval_every": 1}
    train_baseline(tmp_path / "run", data, {**baseline("genesis_v1"), **settings, "steps": 3})
    trained = load_model(tmp_path / "run" / MODEL).state_dict()
    for name, value in start.state_dict().items():
        frozen = name.startswith("mask_encoder.")
        assert torch.equal(trained[name], value) == frozen, name


@pytest.mark.parametrize(
    ("name", "settings", "phrase"),
    [
        ("monet", {"objective.mask_supervision": 1}, "model monet has no IC-SBP"),
        ("genesis_v1", {"objective.mask_distillation": 1}, "model genesis_v1 has no IC-SBP"),
        ("monet", {"objective.attention_likelihood": True}, "model monet has no IC-SBP"),
        ("slot_attention", {"objective.decoded_images": 1}, "slot_attention has no IC-SBP"),
        ("genesis_v1", {"objective.stop_threshold": 8}, "model genesis_v1 has no IC-SBP"),
        ("genesis_v1", {"objective.region_mixture": 1}, "model genesis_v1 has no IC-SBP"),
        ("slot_attention", {"objective.noise_warmup_steps": 5}, "has no posterior: leave it out"),
        ("genesis_v1", {"objective.initial_std": 0.1}, "can be set: leave it out, or train"),
        ("monet", {"objective.goal": 0.5}, "Raise the goal"),
        ("monet", {"model.image_size": 48}, "image_size is 48"),
        ("monet", {"model.model": "vae"}, "unknown model 'vae'; expected one of genesis_v1"),
    ],
)
def test_what_a_model_does_not_have_is_refused(
    name: str, settings: dict[str, Any], phrase: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        train_baseline(tmp_path / "run", data, {**baseline(name), **settings})
    assert phrase in str(stopped.value.code)
    assert not (tmp_path / "run").exists()


def test_a_setting_of_another_model_is_unknown(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train_baseline(tmp_path, data, {**baseline("monet"), "model.kernel": "gaussian"})
    assert "--model.kernel" in capsys.readouterr().err


# Resuming


FULL_STATE = {
    **ALL_TERMS,
    "steps": 12,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_steps": 3,
    "optimizer.clip_norm": 10,
    "optimizer.clustering_lr_scale": 10,
    "optimizer.ema_decay": 0.9,
    "data.unlabelled_fraction": 0.25,
    "data.augment.crop_scale": 0.6,
    "data.augment.flip": True,
    "data.augment.noise": 5,
}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_stops_with_a_checkpoint_from_which_the_run_continues_exactly(
    number: signal.Signals,
    data: Path,
    unlabelled: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**FULL_STATE, "data.unlabelled_path": unlabelled}
    run, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    before = signal.getsignal(number)
    threading.Thread(target=_signal_at_step, args=(run, 2, number)).start()
    train(run, data, settings)
    stopped_at = checkpoint(run)["step"]
    assert 2 <= stopped_at < 12
    assert f"stopped at step {stopped_at}: continue with --resume true" in capsys.readouterr().out
    assert signal.getsignal(number) == before
    train(run, data, {**settings, "resume": True})
    train(unbroken, data, settings)
    assert differences(checkpoint(unbroken), checkpoint(run)) == []


def _signal_at_step(run: Path, step: int, number: signal.Signals) -> None:
    while not (run / METRICS).exists() or len(metrics(run)) < step:
        threading.Event().wait(0.002)
    signal.raise_signal(number)


@pytest.mark.slow
def test_what_was_logged_after_the_checkpoint_is_logged_once(data: Path, tmp_path: Path) -> None:
    """A kill leaves lines of steps that are repeated, and half a line."""
    train(tmp_path, data, {"steps": 2, "eval_every": 1})
    kept = (tmp_path / CHECKPOINT).read_bytes()
    time.sleep(1)  # TensorBoard orders what was logged by the second in which a run began
    train(tmp_path, data, {"steps": 4, "eval_every": 1, "resume": True})
    (tmp_path / CHECKPOINT).write_bytes(kept)
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 5, "kind": "tra')
    time.sleep(1)
    train(tmp_path, data, {"steps": 6, "eval_every": 1, "resume": True})
    for kind in ("train", "val"):
        assert [line["step"] for line in metrics(tmp_path, kind)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events(tmp_path).Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_run_with_a_constant_learning_rate_can_be_made_longer(data: Path, tmp_path: Path) -> None:
    train(tmp_path / "short", data, {"steps": 2})
    train(tmp_path / "short", data, {"steps": 4, "resume": True})
    train(tmp_path / "long", data, {"steps": 4})
    ours, theirs = checkpoint(tmp_path / "short"), checkpoint(tmp_path / "long")
    assert differences(ours, theirs) == []


def test_resume_without_a_checkpoint_starts_and_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "new", data, {"steps": 1, "resume": True})
    assert f"{tmp_path / 'new'} holds no checkpoint: starting at step 0" in capsys.readouterr().out
    assert checkpoint(tmp_path / "new")["step"] == 1


@pytest.fixture
def finished_run(watched_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(watched_run, tmp_path / "finished"))


def test_an_existing_run_is_not_overwritten(finished_run: Path, data: Path) -> None:
    before = (finished_run / CHECKPOINT).read_bytes()
    message = error_of(finished_run, data, {})
    assert "already holds a run" in message and "--resume true" in message
    assert (finished_run / CHECKPOINT).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "phrase"),
    [
        ({"optimizer.lr": 0.5}, "optimizer.lr was 0.0001, now 0.5"),
        ({"model.num_slots": 4}, "model.num_slots was 3, now 4"),
        ({"seed": 7}, "seed was 0, now 7"),
        ({"steps": 9, "optimizer.schedule": "cosine"}, "steps was 4, now 9"),
        ({"data.augment.flip": True}, "data.augment.flip was False, now True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_resuming_with_other_settings_is_refused(
    changed: dict[str, Any], phrase: str, finished_run: Path, data: Path
) -> None:
    same = {**ALL_TERMS, "steps": 4, "optimizer.ema_decay": 0.5, "resume": True}
    assert phrase in error_of(finished_run, data, {**same, **changed})


def test_a_run_with_a_setting_that_is_gone_is_not_resumed(
    finished_run: Path, data: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    state = checkpoint(run)
    state["settings"]["objective.unsupervised"] = False
    torch.save(state, run / CHECKPOINT)
    same = {**ALL_TERMS, "steps": 6, "optimizer.ema_decay": 0.5, "resume": True}
    assert "objective.unsupervised was False, now unknown" in error_of(run, data, same)


def test_a_finished_run_is_left_as_it_is(
    finished_run: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files name the code that trained it, here another than that of the second call."""
    (finished_run / "versions.json").write_text('{"git_revision": "earlier"}')
    before = {path.name: path.read_bytes() for path in finished_run.iterdir()}
    written = {name: (finished_run / name).stat().st_mtime_ns for name in (CHECKPOINT, MODEL)}
    same = {**TINY, **ALL_TERMS, "steps": 4, "optimizer.ema_decay": 0.5, "resume": True}
    assert main(arguments({**same, "run": finished_run, "data.path": data}))
    assert {path.name: path.read_bytes() for path in finished_run.iterdir()} == before
    assert {name: (finished_run / name).stat().st_mtime_ns for name in written} == written
    assert f"{finished_run} is finished at step 4: nothing is left" in capsys.readouterr().out
    # A run that was killed while it drew its page gets one.
    page = finished_run / PAGE
    page.unlink()
    assert main(arguments({**same, "run": finished_run, "data.path": data}))
    assert "Validation at step 4" in page.read_text()


def test_data_may_move_but_not_change(finished_run: Path, data: Path, tmp_path: Path) -> None:
    same = {**ALL_TERMS, "steps": 4, "optimizer.ema_decay": 0.5, "resume": True}
    moved = Path(shutil.copytree(data, tmp_path / "moved"))
    train(finished_run, moved, same)
    other = write_data(tmp_path / "other", train=11)
    message = error_of(finished_run, other, same)
    assert "10 images of sprites" in message and "11 images of sprites" in message
    info = moved / "train" / "info.json"
    told = {**json.loads(info.read_text()), "options": {"val": 7, "test": 3}}
    info.write_text(json.dumps(told))  # how many images others have changes nothing
    train(finished_run, moved, same)
    info.write_text(json.dumps({**told, "options": {"seed": 1}}))
    message = error_of(finished_run, moved, same)
    assert f"other images than those in {moved}: seed was None, now 1" in message
    larger = write_data(tmp_path / "larger", size=64)
    message = error_of(finished_run, larger, same)
    assert f"other images than those in {larger}: image_size was 32, now 64" in message
    # A run of before does not say how its data were made.
    state = checkpoint(finished_run)
    del state["data_options"]
    torch.save(state, finished_run / CHECKPOINT)
    train(finished_run, moved, same)


@pytest.mark.parametrize("damage", ["cut off", "garbage", "empty", "something else"])
def test_a_damaged_checkpoint_is_reported(damage: str, finished_run: Path, data: Path) -> None:
    path = finished_run / CHECKPOINT
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "something else":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes(b"not a checkpoint" * 100 if damage == "garbage" else b"")
    message = error_of(finished_run, data, {"resume": True})
    assert f"{path} cannot be read as a checkpoint" in message


def test_two_processes_cannot_train_in_one_folder(finished_run: Path, data: Path) -> None:
    other = RunFolder(finished_run)
    other.claim()
    same = {**ALL_TERMS, "steps": 4, "optimizer.ema_decay": 0.5, "resume": True}
    message = error_of(finished_run, data, same)
    assert f"another process is training in {finished_run}" in message
    other.release()
    train(finished_run, data, same)


# Failures


def test_divergence_stops_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    settings = {"optimizer.lr": 1e18, "checkpoint_minutes": 0, "steps": 50}
    message = error_of(tmp_path, data, settings)
    assert "training diverged at step" in message and str(tmp_path / CHECKPOINT) in message
    state = checkpoint(tmp_path)
    assert f"diverged at step {state['step']}:" in message  # nothing was saved after it
    assert all(bool(value.isfinite().all()) for value in state["model"].values())
    load_model(tmp_path / MODEL)


@pytest.mark.slow
def test_a_full_disk_stops_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: writing fails half-way in the same way."""
    train(tmp_path, data, {"steps": 1})
    kept = {name: (tmp_path / name).read_bytes() for name in (CHECKPOINT, MODEL)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (len(kept[MODEL]) // 2, (len(kept[MODEL]) + len(kept[CHECKPOINT])) // 2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            message = error_of(tmp_path, data, {"steps": 3, "resume": True})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert f"cannot write a checkpoint to {tmp_path}" in message
        assert "File too large" in message and str(tmp_path / CHECKPOINT) in message
        assert (tmp_path / CHECKPOINT).read_bytes() == kept[CHECKPOINT]
        assert not list(tmp_path.glob(".partial*"))
        load_model(tmp_path / MODEL)
    train(tmp_path, data, {"steps": 3, "resume": True})
    assert checkpoint(tmp_path)["step"] == 3


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"objective.goal": gaussian_floor(0.7)}, "Raise the goal"),
        ({"objective.goal": 0.5}, "Raise the goal"),
        ({"objective.beta_init": 0}, "objective.beta_init is 0"),
        ({"objective.masks_only": True}, "nothing to learn"),
        (
            {
                "objective.masks_only": True,
                "objective.mask_supervision": 1,
                "objective.mask_distillation": 1,
            },
            "so these have no effect: objective.mask_distillation. Leave",
        ),
        (
            {
                "objective.masks_only": True,
                "objective.mask_supervision": 1,
                "objective.initial_std": 0.1,
            },
            "so these have no effect: objective.initial_std. Leave",
        ),
        (
            {
                "objective.masks_only": True,
                "objective.region_mixture": 1,
                "objective.decoded_images": 2,
            },
            "so these have no effect: objective.decoded_images. Leave",
        ),
        ({"objective.region_mixture": -1}, "objective.region_mixture is -1.0; expected 0 or more"),
        ({"objective.initial_std": 0}, "objective.initial_std is 0"),
        ({"objective.stop_threshold": 0}, "objective.stop_threshold is 0"),
        ({"objective.hard_distillation": True}, "but objective.mask_distillation is 0"),
        ({"optimizer.lr": -1}, "optimizer.lr is -1"),
        ({"optimizer.schedule": "linear"}, "constant, cosine"),
        ({"optimizer.halving_steps": 0}, "optimizer.halving_steps is 0"),
        ({"freeze": "[encoder]"}, "freeze names ['encoder']; the model's parts are"),
        ({"freeze": "[backbone.nowhere]"}, "a part of one is named as backbone."),
        (
            {"freeze": "[backbone,embedding,icsbp,feature_head,latent_head,decoder,prior]"},
            "nothing to train",
        ),
        ({"init": "/nowhere.safetensors"}, "/nowhere.safetensors"),
        ({"data.unlabelled_fraction": 0.5}, "go together"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"model.feature_dim": 12}, "feature_dim is 12; expected a multiple of 8"),
        ({"data.augment.crop_scale": 2}, "augment.crop_scale is 2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], phrase: str, data: Path, tmp_path: Path
) -> None:
    assert phrase in error_of(tmp_path / "run", data, settings)
    assert not (tmp_path / "run").exists()


def test_device_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    assert "cuda:99" in error_of(tmp_path, data, {"device": "cuda:99"})


def test_compiling_on_a_cpu_is_refused(data: Path, tmp_path: Path) -> None:
    assert "compile is true" in error_of(tmp_path, data, {"device": "cpu", "compile": True})


@pytest.mark.slow
def test_depth_is_trained_on_and_reconstructed(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", depth=True)
    message = error_of(tmp_path / "run", data, {})
    assert f"model.image_channels is 3, but the images in {data} have 4 channels" in message
    settings = {"model.image_channels": 4, "eval_every": 2, "picture_every": 2, "steps": 2}
    train(tmp_path / "run", data, {**settings, **ALL_TERMS, "data.augment.noise": 5})
    floor = gaussian_floor(0.7) * 4 * 32 * 32
    assert metrics(tmp_path / "run")[0]["nll"] > floor
    model = load_model(tmp_path / "run" / MODEL)
    images = torch.rand(2, 4, 32, 32)
    assert model(images).reconstruction.shape == (2, 4, 32, 32)
    pictures = events(tmp_path / "run").Images("reconstructions")
    assert len(pictures) == 1


def test_supervision_without_masks_is_refused(unlabelled: Path, tmp_path: Path) -> None:
    message = error_of(tmp_path, unlabelled, ALL_TERMS)
    assert f"needs instance masks, which {unlabelled} has not" in message


def test_a_missing_validation_split_is_reported_before_training(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "train", tmp_path / "data" / "train")
    assert "val" in error_of(tmp_path / "run", tmp_path / "data", {"eval_every": 100})
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", tmp_path / "data", {"steps": 1})  # without validation it is not needed


def test_unknown_settings_are_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(tmp_path / "run", data, {"optimizer.learning_rate": 1})
    assert "optimizer.learning_rate" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("optimizer: {learning_rate: 1}")
    with pytest.raises(SystemExit):
        main(arguments({"config": tmp_path / "config.yaml"}))
    assert "learning_rate" in capsys.readouterr().err


def test_defaults_are_the_papers() -> None:
    """So that a config needs to state only what is particular to it."""
    config = TrainConfig()
    assert (config.steps, config.batch_size, config.optimizer.lr) == (500_000, 32, 1e-4)
    assert (config.objective.goal, config.objective.geco_step_size) == (0.5655, 1e-5)
    assert config.objective.mask_supervision == config.objective.mask_distillation == 0
    assert config.optimizer.clip_norm == config.optimizer.ema_decay == 0


# Real processes


# One thread everywhere: the order of a sum, and so its last bit, depends on their number.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(
    command: list[str], settings: dict[str, Any], variables: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command, "training.train", *arguments({**TINY, **settings})],
        cwd=ROOT,
        env={**ENVIRONMENT, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(
    data: Path, unlabelled: Path, tmp_path: Path
) -> None:
    """SIGKILL at random moments, two times; a checkpoint after every step, so while writing too."""
    settings = {**FULL_STATE, "data.path": data, "data.unlabelled_path": unlabelled}
    settings |= {"steps": 40, "checkpoint_minutes": 0, "resume": True}
    run, unbroken, random = tmp_path / "killed", tmp_path / "unbroken", Random()
    reached = [0]
    for _ in range(2):
        process = start([], {**settings, "run": run})
        while not (run / CHECKPOINT).exists() or checkpoint(run)["step"] == reached[-1]:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "it should not have finished yet"
        process.communicate()
        reached.append(checkpoint(run)["step"])
    assert 0 < reached[1] < reached[2] < 40
    settings["checkpoint_minutes"] = 5
    train(run, data, settings)
    train(unbroken, data, settings)
    assert differences(checkpoint(unbroken), checkpoint(run)) == [], f"killed at steps {reached}"
    models = [load_model(folder / MODEL).state_dict() for folder in (run, unbroken)]
    assert differences(models[0], models[1]) == []
    assert [line["step"] for line in metrics(run)] == list(range(1, 41))


# Without the two hyphens torchrun would take --run for an abbreviation of an option of its own.
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--"]


@pytest.mark.slow
def test_two_processes_train_as_one(data: Path, unlabelled: Path, tmp_path: Path) -> None:
    """The same global batches, so the same losses, beta and weights but for the order of sums.

    Width 16: with 8, GroupNorm's groups hold one channel each, whose bias gets a gradient that is
    zero but for rounding, which Adam would scale up to whole steps.
    """
    settings = {**FULL_STATE, "data.path": data, "data.unlabelled_path": unlabelled}
    settings |= {"steps": 6, "data.unlabelled_fraction": 0.5, "model.feature_dim": 16}
    settings |= {"freeze": "[latent_head]", "eval_every": 3, "picture_every": 6}
    process = start(TORCHRUN, {**settings, "run": tmp_path / "two"})
    output = process.communicate()[0]
    assert process.returncode == 0, output
    train(tmp_path / "one", data, settings)
    for kind in ("train", "val"):
        ours, theirs = metrics(tmp_path / "two", kind), metrics(tmp_path / "one", kind)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs]
        for two, one in zip(ours, theirs, strict=True):
            for name in set(one) - {"kind", "images_per_second"}:
                assert two[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
    two, one = checkpoint(tmp_path / "two"), checkpoint(tmp_path / "one")
    assert two["geco"]["beta"].item() == pytest.approx(one["geco"]["beta"].item(), rel=1e-6)
    for part in ("model", "ema"):
        for name, value in one[part].items():
            other = two[part][name]
            if name.endswith("decoder.13.bias"):
                # All slots' mask logits share their bias, which the softmax over slots cancels: its
                # gradient, too, is rounding.
                value, other = value[:-1], other[:-1]
            assert torch.allclose(other, value, rtol=0, atol=2e-5), name


@pytest.mark.slow
def test_machines_stop_together_and_need_one_run_folder(data: Path, tmp_path: Path) -> None:
    """Two processes with nothing in common but torchrun's variables, as if on two machines.

    They continue a run that the first one alone can see, train attention masks alone (most parts
    have no gradient), and both stop when the second gets a signal. One process finishes the run.
    """
    settings: dict[str, Any] = {"objective.masks_only": True, "objective.mask_supervision": 1}
    settings |= {"data.path": data, "model.feature_dim": 16}
    run = tmp_path / "run"
    train(run, data, {**settings, "steps": 2})
    with socket.create_server(("localhost", 0)) as server:
        address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(server.getsockname()[1])}
    settings |= {"resume": True, "steps": 5000}
    processes = [
        start([], {**settings, "run": run if rank == 0 else tmp_path / "elsewhere"}, variables)
        for rank, variables in enumerate(
            {**address, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"} for rank in (0, 1)
        )
    ]
    while len(metrics(run)) < 5:
        assert processes[0].poll() is None, processes[0].communicate()[0]
        time.sleep(0.02)
    processes[1].terminate()
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    stopped_at = checkpoint(run)["step"]
    assert 5 <= stopped_at < 5000
    assert f"stopped at step {stopped_at}: continue with --resume true" in outputs[0]
    assert not (tmp_path / "elsewhere").exists()

    train(run, data, {**settings, "steps": stopped_at + 2})
    train(tmp_path / "one", data, {**settings, "steps": stopped_at + 2})
    found, expected = metrics(run), metrics(tmp_path / "one")
    assert [line["step"] for line in found] == list(range(1, stopped_at + 3))
    # Differences in rounding grow with the number of steps, which is left to chance here: on a slow
    # machine there are hundreds before the signal.
    for line, other in zip(found[:50], expected[:50], strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=1e-2), line["step"]
