"""Evaluation of checkpoints: values that follow from the data, tables, JSON, errors."""

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
from numpy.typing import NDArray

from genesis_core import (
    GenesisV2,
    GenesisV2Config,
    SlotModel,
    build_model,
    config_from_dict,
    save_model,
)
from genesis_core.models.losses import readable_latents, sgmm_nll
from training.datasets.prepared import DatasetError, PreparedDataset
from training.evaluate import evaluate, image_statistics, main, sample_statistics
from training.fid import frechet_distance
from training.scoring import ScoredBatch, choose_images, mean_over_images, score
from training.tables import main as tabulate
from training.tables import report

ROOT = Path(__file__).resolve().parents[2]
EVALUATE = ROOT / "training" / "evaluate.py"
SLOTS = 4
# Foreground objects in each of the 6 images below, and each object's share of the image.
OBJECTS = (0, 1, 2, 3, 1, 2)
OBJECT_SHARE = 8 * 8 / 32**2


def scenes(size: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey images with up to three square objects of a quarter of the side."""
    rng = np.random.default_rng(0)
    images = np.full((len(OBJECTS), size, size, 3), 128, np.uint8)
    masks = np.zeros((len(OBJECTS), size, size), np.uint8)
    side = size // 4
    for image, mask, count in zip(images, masks, OBJECTS, strict=True):
        for label in range(1, count + 1):
            place = (slice(0, side), slice(label * side, (label + 1) * side))
            image[place] = rng.integers(0, 255, 3)
            mask[place] = label
    return images, masks


def write_dataset(
    folder: Path,
    *,
    size: int = 32,
    masks: bool = True,
    dataset: str = "sprites",
    depth: bool = False,
) -> Path:
    images, labels = scenes(size)
    if depth:
        images = np.concatenate([images, 50 * labels[..., None]], axis=3)
    split = folder / "test"
    split.mkdir(parents=True)
    np.save(split / "images.npy", images)
    if masks:
        np.save(split / "masks.npy", labels)
    info = {
        "format": 1,
        "dataset": dataset,
        "split": "test",
        "count": len(images),
        "image_size": size,
        "channels": images.shape[3],
        "source": "made up",
        "options": {},
        "version": "0",
    }
    (split / "info.json").write_text(json.dumps(info))
    return folder


def tiny_model(seed: int = 0) -> GenesisV2:
    torch.manual_seed(seed)
    config = GenesisV2Config(image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS)
    return GenesisV2(config).eval()


BASELINES = ("genesis_v1", "monet", "slot_attention")
SMALL: dict[str, dict[str, Any]] = {
    "genesis_v1": {"mask_width": 4, "component_width": 4},
    "monet": {"attention_width": 4, "component_width": 4},
    "slot_attention": {"feature_dim": 4},
}


def baseline(name: str) -> SlotModel:
    torch.manual_seed(0)
    settings = {"model": name, "image_size": 32, "num_slots": SLOTS, **SMALL[name]}
    return build_model(config_from_dict(settings)).eval()


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return PreparedDataset(write_dataset(tmp_path / "data"), "test")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(tiny_model(), path)
    return path


def test_slots_and_their_error(dataset: PreparedDataset) -> None:
    metrics = evaluate(tiny_model(), dataset)
    assert metrics["images"] == len(OBJECTS)
    assert metrics["fixed"]["slots"] == SLOTS
    assert metrics["fixed"]["slots_mae"] == np.mean([abs(SLOTS - n - 1) for n in OBJECTS])


def test_flexible_slots_that_stop_at_once_leave_one_segment(dataset: PreparedDataset) -> None:
    # No mask reaches a threshold of the whole image, so the first slot takes all of it, and every
    # score follows from the areas of the objects alone.
    flexible = evaluate(tiny_model(), dataset, stop_threshold=64 * 64)["flexible"]
    assert flexible["slots"] == 1
    assert flexible["slots_mae"] == np.mean(OBJECTS)
    for masks in ("decoder", "attention"):
        scores = flexible[masks]
        assert scores["ari"] == pytest.approx(1 / len(OBJECTS))  # the empty scene is 1
        assert scores["ari_fg"] == pytest.approx(np.mean([n < 2 for n in OBJECTS]))
        assert scores["msc_fg"] == pytest.approx(OBJECT_SHARE * np.mean([n > 0 for n in OBJECTS]))
        assert scores["msc"] == pytest.approx(np.mean([1 / (n + 1) for n in OBJECTS]))
        assert scores["sc_fg"] == scores["msc_fg"]  # equal areas


def test_objects_found_are_a_share_of_all_objects(dataset: PreparedDataset) -> None:
    """One segment, the whole image, is nobody's; an object of the whole image would be found."""
    flexible = evaluate(tiny_model(), dataset, stop_threshold=64 * 64)["flexible"]
    assert flexible["attention"]["r50"] == flexible["attention"]["r75"] == 0
    dataset.masks = np.array(dataset.masks)
    dataset.masks[1] = 1  # the only object of its image, of nine in all
    dataset.masks[2, :24] = 2  # its two objects have 1 and 3 quarters: IoU .75
    dataset.masks[2, 24:] = 1
    flexible = evaluate(tiny_model(), dataset, stop_threshold=64 * 64)["flexible"]
    assert flexible["attention"]["r50"] == flexible["decoder"]["r75"] == pytest.approx(2 / 9)


def test_the_robot_is_not_an_object_to_be_found(dataset: PreparedDataset) -> None:
    dataset.masks = np.array(dataset.masks)
    dataset.masks[1] = 3  # the whole image, and so found; one of nine
    found = evaluate(tiny_model(), dataset, stop_threshold=64 * 64)["flexible"]["attention"]
    assert found["r50"] == pytest.approx(1 / 9)
    dataset.robot_label = 3
    without = evaluate(tiny_model(), dataset, stop_threshold=64 * 64)["flexible"]["attention"]
    assert without["r50"] == 0
    assert without["ari_fg"] == found["ari_fg"]


def test_depth_is_used_unless_left_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_dataset(tmp_path / "data")
    _, labels = scenes()
    np.save(folder / "test" / "depths.npy", 1000 + 100 * labels.astype(np.uint16))
    camera = np.tile(np.array([40, 40, 16, 16], np.float32), (len(labels), 1))
    np.save(folder / "test" / "intrinsics.npy", camera)
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS, points=True
    )
    save_model(GenesisV2(config), tmp_path / "model.safetensors")
    command = ["--checkpoint", str(tmp_path / "model.safetensors"), "--data", str(folder)]
    found = {}
    for name, options in {"with": [], "without": ["--no-depth"]}.items():
        output = tmp_path / f"{name}.json"
        main([*command, "--device", "cpu", *options, "--output", str(output)])
        found[name] = json.loads(output.read_text())["models"][0]["metrics"]["fixed"]
    assert found["with"]["elbo"] != found["without"]["elbo"]
    tabulate(["--runs", str(tmp_path)])
    assert "without.json" in (err := capsys.readouterr().err)
    assert "evaluated with depth left aside" in err


def test_a_model_that_ships_is_evaluated_by_its_name(dataset: PreparedDataset) -> None:
    found = main(["--checkpoint=tabletop_small", f"--data={dataset.path}", "--num_images=1"])
    (model,) = found["models"]
    assert Path(model["checkpoint"]).name == "tabletop_small.safetensors"


@torch.no_grad()
def test_slots_are_scored_by_their_kind() -> None:
    """Two slots: the left half of the image, which is called an object, and the right one."""
    masks = np.zeros((1, 32, 32), np.uint8)
    masks[:, :, :20] = 2  # all of the left half, and less than half of the right one
    images = torch.rand(1, 3, 32, 32)
    out = tiny_model()(images)
    halves = torch.zeros(1, SLOTS, 1, 32, 32)
    halves[:, 0, ..., :16] = halves[:, 1, ..., 16:] = 1
    out.log_attention = halves.log()
    out.kind_logits = torch.zeros(1, SLOTS, 3)
    out.kind_logits[0, 0, 0] = out.kind_logits[0, 1, 2] = 1  # object, surroundings

    def scored(robot_label: int | None) -> dict[str, Any]:
        batch = ScoredBatch(images, masks, {}, robot_label)
        return mean_over_images([score(tiny_model(), batch, out)])

    assert scored(None)["kind_accuracy"] == 1
    assert scored(None)["robot_told"] is None
    assert scored(2)["kind_accuracy"] == 0.5
    assert scored(2)["robot_told"] == scored(2)["robot_recall"] == 0


@torch.no_grad()
def test_readable_latents_are_scored_by_the_variance_they_explain() -> None:
    torch.manual_seed(0)
    model, images = tiny_model(), torch.rand(3, 3, 32, 32)
    out = model(images)
    assert out.log_attention is not None and out.latent_mean is not None
    _, targets = readable_latents(images, out.log_attention)
    mean = targets.mean((0, 1), keepdim=True)
    scored = {}
    for name, said in {
        "right": targets,
        "nothing": mean.expand_as(targets),
        "half": (targets + mean) / 2,
    }.items():
        out.latent_mean = torch.cat([said, torch.randn(3, SLOTS, 1)], dim=2)
        batch = ScoredBatch(images, None, {})
        scored[name] = mean_over_images([score(model, batch, out)])["latent_r2"]
    assert scored["right"] == pytest.approx(1)
    assert scored["nothing"] == pytest.approx(0, abs=1e-6)
    assert scored["half"] == pytest.approx(0.75, abs=1e-6)  # a quarter of the variance is left


def test_decoder_and_attention_masks_are_scored_apart(dataset: PreparedDataset) -> None:
    fixed = evaluate(tiny_model(), dataset)["fixed"]
    assert fixed["decoder"].keys() == fixed["attention"].keys()
    assert fixed["decoder"] != fixed["attention"]
    # Before training, attention clusters by position and the decoder's masks are noise.
    assert fixed["attention"]["msc_fg"] > fixed["decoder"]["msc_fg"]


def test_results_do_not_depend_on_the_batch_size_but_on_the_seed(dataset: PreparedDataset) -> None:
    def elbo_and_ari(**options: Any) -> list[float]:
        fixed = evaluate(tiny_model(), dataset, **options)["fixed"]
        return [fixed["elbo"], fixed["attention"]["ari"]]

    expected = elbo_and_ari(batch_size=6)
    assert elbo_and_ari(batch_size=4) == pytest.approx(expected, rel=1e-6)
    assert elbo_and_ari(batch_size=1) == pytest.approx(expected, rel=1e-6)
    assert elbo_and_ari(seed=1) != pytest.approx(expected, rel=1e-6)


def test_elbo_is_the_negative_of_nll_and_kl(dataset: PreparedDataset) -> None:
    fixed = evaluate(tiny_model(), dataset)["fixed"]
    assert fixed["elbo"] == pytest.approx(-(fixed["nll"] + fixed["kl"]), rel=1e-6)
    # sigma 0.7 costs at least 0.5623 nats per element; a grey image explained by grey is near it.
    floor = 0.5 * np.log(2 * np.pi * 0.7**2) * 3 * 32 * 32
    assert floor < fixed["nll"] < 1.3 * floor


@pytest.mark.parametrize("name", BASELINES)
def test_other_models_are_evaluated_alike(name: str, dataset: PreparedDataset) -> None:
    """Whatever the batch size; what a model cannot do is None."""
    model = baseline(name)
    metrics, again = evaluate(model, dataset), evaluate(model, dataset, batch_size=4)
    fixed = metrics["fixed"]
    assert metrics["flexible"] is None and metrics["stop_threshold"] is None
    assert fixed["slots"] == SLOTS
    assert fixed["slots_mae"] == np.mean([abs(SLOTS - n - 1) for n in OBJECTS])
    assert set(fixed["decoder"]) == set(fixed["attention"]) >= {"ari", "ari_fg", "msc_fg"}
    assert fixed["mse"] == pytest.approx(again["fixed"]["mse"], rel=1e-5)
    assert fixed["decoder"] == pytest.approx(again["fixed"]["decoder"], abs=1e-6)
    if name == "slot_attention":
        assert fixed["elbo"] is fixed["nll"] is fixed["kl"] is None
    else:
        assert fixed["elbo"] == pytest.approx(-(fixed["nll"] + fixed["kl"]), rel=1e-6)
        assert fixed["elbo"] == pytest.approx(again["fixed"]["elbo"], rel=1e-6)


def test_the_elbo_of_monet_is_of_its_decoded_masks(dataset: PreparedDataset) -> None:
    """The note to Table 3: neither of the attention masks, nor with the masks' divergence."""
    model = baseline("monet")
    with torch.no_grad():
        model.get_parameter("attention.head.weight").mul_(100)  # masks unlike the decoder's
        images = torch.from_numpy(np.array(dataset.images)).permute(0, 3, 1, 2).float() / 255
        out = model(images, noise=torch.zeros(len(images), SLOTS, model.latent_dim))
        losses = model.losses(images, out)
        assert out.log_masks is not None and out.means is not None
        decoded = sgmm_nll(images, out.log_masks, out.means, 0.7)
    assert not torch.allclose(decoded, losses.nll, rtol=1e-5)
    torch.testing.assert_close(losses.elbo, -(decoded + losses.kl.sum(dim=1)))


def test_different_models_share_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_dataset(tmp_path / "data", dataset="shapestacks", size=64)
    names = ("genesis_v2", *BASELINES)
    for name in names:
        model = tiny_model() if name == "genesis_v2" else baseline(name)
        save_model(model, tmp_path / f"{name}.safetensors")
    checkpoints = [str(tmp_path / f"{name}.safetensors") for name in names]
    main(["--checkpoint", *checkpoints, "--data", str(data), "--stop-threshold", "50"])
    printed = capsys.readouterr().out
    for row in (
        ["MONet-G", "paper", "attention", "0.70", "±", "0.04", "0.57", "±", "0.12"],
        ["Slot", "Attention", "paper", "decoder", "0.76", "±", "0.01", "0.70", "±", "0.05"],
        ["GENESIS", "paper", "-7082", "±", "15", "186.8", "±", "18.0"],
    ):
        assert row in [line.split() for line in printed.splitlines()]
    flexible = [line.split()[5:7] for line in printed.splitlines() if " flexible " in line]
    ours = "genesis_v2.safetensors"
    assert flexible == [["paper", "decoder"], [ours, "decoder"], [ours, "attention"]]


def test_hard_masks_use_as_few_slots_as_explain_the_image(dataset: PreparedDataset) -> None:
    """A kernel so wide that the first seed takes every pixel: one slot, whatever K is."""
    model = tiny_model()
    with torch.no_grad():
        model.icsbp.log_scale.fill_(20.0)
    soft = evaluate(model, dataset)["fixed"]
    hard = evaluate(model, dataset, hard_masks=True)["fixed"]
    assert soft["slots"] == SLOTS
    assert hard["slots"] == 1
    assert hard["slots_mae"] == np.mean(OBJECTS)
    assert hard["attention"]["msc"] == pytest.approx(np.mean([1 / (n + 1) for n in OBJECTS]))
    assert hard["kl"] < soft["kl"], "unused slots have none"
    with pytest.raises(ValueError, match="hard_masks are of IC-SBP, which a monet model does not"):
        evaluate(baseline("monet"), dataset, hard_masks=True)


def test_more_slots_than_in_training(
    tmp_path: Path, checkpoint: Path, dataset: PreparedDataset
) -> None:
    """As for scenes with more objects than the model has seen."""
    output = tmp_path / "results.json"
    command = ["--checkpoint", str(checkpoint), "--data", str(dataset.path), "--device", "cpu"]
    main([*command, "--num-slots", "9", "--hard-masks", "--output", str(output)])
    results = json.loads(output.read_text())
    assert results["hard_masks"] is True
    assert results["models"][0]["config"]["num_slots"] == 9
    assert results["models"][0]["metrics"]["fixed"]["slots"] <= 9


def test_images_are_chosen_by_the_seed(dataset: PreparedDataset) -> None:
    chosen = choose_images(dataset, 4, seed=3)
    assert len(set(chosen)) == 4
    assert chosen.tolist() == sorted(chosen)
    assert choose_images(dataset, 4, seed=3).tolist() == chosen.tolist()
    assert choose_images(dataset, 100, seed=3).tolist() == list(range(len(OBJECTS)))


def test_images_with_depth(tmp_path: Path, dataset: PreparedDataset) -> None:
    """Evaluated with all channels; the FID sees the colours alone."""

    def mean_colour(images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == 3
        return images.mean(dim=(2, 3))

    deep = PreparedDataset(write_dataset(tmp_path / "deep", depth=True), "test")
    config = GenesisV2Config(
        image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS, image_channels=4
    )
    model = GenesisV2(config).eval()
    fixed = evaluate(model, deep)["fixed"]
    assert fixed["nll"] > 0.5 * np.log(2 * np.pi * 0.7**2) * 4 * 32 * 32
    assert fixed["slots_mae"] == np.mean([abs(SLOTS - n - 1) for n in OBJECTS])
    real = image_statistics(model, deep, mean_colour)
    np.testing.assert_allclose(real.mean, scenes()[0].mean((0, 1, 2)) / 255, atol=1e-6)
    assert sample_statistics(model, mean_colour, num_images=3).count == 3
    with pytest.raises(DatasetError, match="images of 3 channels; the model takes 4"):
        evaluate(model, dataset)


def test_data_of_another_size_is_resized_to_the_model(tmp_path: Path) -> None:
    large = PreparedDataset(write_dataset(tmp_path, size=64), "test")
    flexible = evaluate(tiny_model(), large, stop_threshold=64 * 64)["flexible"]
    assert flexible["slots_mae"] == np.mean(OBJECTS)
    assert flexible["decoder"]["msc"] == pytest.approx(np.mean([1 / (n + 1) for n in OBJECTS]))


def test_object_rooms_have_the_papers_threshold(tmp_path: Path, dataset: PreparedDataset) -> None:
    rooms = PreparedDataset(write_dataset(tmp_path / "rooms", dataset="objects_room"), "test")
    assert evaluate(tiny_model(), rooms, num_images=1)["stop_threshold"] == 70
    assert evaluate(tiny_model(), dataset, num_images=1)["stop_threshold"] == 20


def test_samples_and_images_are_compared_at_the_size_that_is_drawn(
    dataset: PreparedDataset,
) -> None:
    """A model may see larger images than it draws."""
    config = replace(tiny_model().config, decoder_size=16)
    model = GenesisV2(config).eval()
    sizes: set[tuple[int, ...]] = set()

    def features(images: torch.Tensor) -> torch.Tensor:
        sizes.add(tuple(images.shape[1:]))
        return images.mean(dim=(2, 3))

    real = image_statistics(model, dataset, features)
    sample_statistics(model, features, num_images=real.count)
    assert sizes == {(3, 16, 16)}
    np.testing.assert_allclose(real.mean, scenes()[0].mean((0, 1, 2)) / 255, atol=1e-6)


def test_samples_and_images_are_compared_in_equal_numbers(dataset: PreparedDataset) -> None:
    def mean_colour(images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))

    model = tiny_model()
    real = image_statistics(model, dataset, mean_colour, batch_size=4)
    samples = sample_statistics(model, mean_colour, num_images=real.count, batch_size=4)
    assert real.count == samples.count == len(OBJECTS)
    np.testing.assert_allclose(real.mean, scenes()[0].mean((0, 1, 2)) / 255, atol=1e-6)
    again = sample_statistics(model, mean_colour, num_images=real.count, batch_size=4)
    assert frechet_distance(samples, again) == pytest.approx(0, abs=1e-12)


def test_command_prints_the_papers_tables_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", dataset="objects_room", size=64)
    for seed in (0, 1):
        (tmp_path / f"seed_{seed}").mkdir()
        save_model(tiny_model(seed), tmp_path / f"seed_{seed}" / "model.safetensors")
    checkpoints = [str(tmp_path / f"seed_{seed}" / "model.safetensors") for seed in (0, 1)]
    output = tmp_path / "new" / "results.json"
    main(["--checkpoint", *checkpoints, "--data", str(data), "--output", str(output)])

    results = json.loads(output.read_text())
    assert [model["checkpoint"] for model in results["models"]] == checkpoints
    assert results["models"][0]["config"]["num_slots"] == SLOTS
    assert results["data"]["dataset"] == "objects_room"
    printed = capsys.readouterr().out.splitlines()
    table_1 = printed.index("Table 1: segmentation, foreground")
    assert printed[table_1 + 1].split() == ["Model", "Source", "Masks", "ARI-FG", "MSC-FG"]
    rows = [line.split() for line in printed[table_1 + 3 : table_1 + 10]]
    theirs = ["decoder", "0.85", "±", "0.01", "0.59", "±", "0.01"]
    assert rows[0] == ["GENESIS-V2", "paper", *theirs]
    values = [model["metrics"]["fixed"]["decoder"]["ari_fg"] for model in results["models"]]
    for seed, value in enumerate(values):
        ours = ["GENESIS-V2", f"seed_{seed}/model.safetensors", "decoder", f"{value:.3f}"]
        assert rows[1 + 2 * seed][:4] == ours
        assert rows[2 + 2 * seed][2] == "attention"
    mean = ["mean", "of", "2", "decoder", f"{np.mean(values):.3f}", "±"]
    assert rows[5][:8] == ["GENESIS-V2", *mean, f"{np.std(values, ddof=1):.3f}"]
    assert any(line.startswith("Table 2: slots (flexible: down to 70 px") for line in printed)
    theirs = ["GENESIS-V2", "paper", "-7040", "±", "2", "52.6", "±", "2.7"]
    assert theirs in [line.split() for line in printed]


def results_for(dataset: str, metadata: dict[str, Any]) -> dict[str, Any]:
    scores = {"ari": 0.51, "msc": 0.62, "ari_fg": 0.73, "msc_fg": 0.84}
    mode = {"slots": 5.0, "slots_mae": 1.0, "elbo": -7000.4, "decoder": scores, "attention": None}
    metrics = {"images": 3, "image_size": 64, "stop_threshold": 20.0, "fixed": mode}
    return {
        "data": {"path": "d", "split": "test", "dataset": dataset},
        "seed": 0,
        "models": [
            {
                "checkpoint": "run/m.safetensors",
                "config": {"model": "genesis_v2"},
                "metadata": metadata,
                "metrics": {**metrics, "flexible": mode, "fid": 99.96, "fid_images": 10000},
            }
        ],
    }


def test_single_object_data_is_scored_over_all_pixels() -> None:
    lines = report(results_for("apc", {})).splitlines()
    table = lines.index("Table 4: segmentation, all pixels")
    assert lines[table + 3].split() == ["GENESIS-V2", "paper", "decoder", "0.55", "0.67"]
    ours = ["GENESIS-V2", "m.safetensors"]
    assert lines[table + 4].split() == [*ours, "decoder", "0.510", "0.620"]
    assert lines[table + 5].split() == [*ours, "attention", "—", "—"]
    assert not any("ARI-FG" in line for line in lines)
    generation = lines.index("Table 3: density estimation and generation (FID of 10000 images)")
    assert lines[generation + 4].split() == [*ours, "-7000", "100.0"]


def test_models_whose_masks_had_a_loss_of_their_own_are_marked() -> None:
    marked = report(results_for("tabletop", {"trained": {"mask_supervision": 3000.0}}))
    assert "m.safetensors (mask supervision)" in marked
    later = {"mask_supervision": 0.0, "started_from": {"mask_supervision": 1.0}}
    assert "(mask supervision)" in report(results_for("tabletop", {"trained": later}))
    both = {**later, "region_mixture": 1.0}
    marked = report(results_for("tabletop", {"trained": both}))
    assert "m.safetensors (mask supervision and region mixture)" in marked
    unsupervised = report(results_for("tabletop", {"trained": {"region_mixture": 1.0}}))
    assert "m.safetensors (region mixture)" in unsupervised
    assert "m.safetensors (" not in report(results_for("tabletop", {}))
    anchored = {"region_mixture": 1.0, "settings": {"objective.latent_anchor": 5.0}}
    marked = report(results_for("tabletop", {"trained": anchored}))
    assert "m.safetensors (region mixture, objective.latent_anchor 5.0)" in marked


def test_a_decoder_that_was_not_trained_has_no_figures() -> None:
    trained = {"mask_supervision": 1.0, "masks_only": True}
    text = report(results_for("objects_room", {"trained": trained}))
    ours = [line for line in text.splitlines() if "m.safetensors" in line]
    assert [line.partition("supervision)")[2].split() for line in ours] == [
        ["decoder", "—", "—"],
        ["attention", "—", "—"],
        ["decoder", "5.0", "1.0", "—", "—"],
        ["attention", "5.0", "1.0", "—", "—"],
        ["decoder", "5.0", "1.0", "—", "—"],
        ["attention", "5.0", "1.0", "—", "—"],
        ["—", "—"],
    ]
    assert "(FID of" not in text


def test_a_decoder_that_was_not_trained_is_not_run(
    tmp_path: Path, dataset: PreparedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor its latents scored, nor the weights of the FID read, for which nothing is drawn."""
    path, output = tmp_path / "masks.safetensors", tmp_path / "results.json"
    model = tiny_model()
    whole = evaluate(model, dataset)
    model.metadata = {"trained": {"masks_only": True, "mask_supervision": 1.0}}
    save_model(model, path)
    given = ["--checkpoint", str(path), "--data", str(dataset.path), "--output", str(output)]
    given += ["--report", str(tmp_path / "page"), "--fid", "--inception-weights", "absent.pth"]
    main(given)
    (found,) = json.loads(output.read_text())["models"]
    assert "fid" not in found["metrics"]
    assert f"{path} has no FID: it has not learned to generate images" in capsys.readouterr().err
    for mode in ("fixed", "flexible"):
        scores, before = found["metrics"][mode], whole[mode]
        for name in ("elbo", "nll", "kl", "mse", "latent_r2", "decoder"):
            assert scores[name] is None and before[name] is not None, name
        assert (scores["attention"], scores["slots"]) == (before["attention"], before["slots"])


def test_data_without_masks_still_gives_elbo_and_slots(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "unlabelled", masks=False)
    output = tmp_path / "results.json"
    main(["--checkpoint", str(checkpoint), "--data", str(data), "--output", str(output)])
    fixed = json.loads(output.read_text())["models"][0]["metrics"]["fixed"]
    assert fixed["decoder"] is None
    assert fixed["attention"] is None
    assert fixed["slots_mae"] is None
    assert fixed["elbo"] < 0
    assert fixed["slots"] == SLOTS
    captured = capsys.readouterr()
    assert "segmentation metrics are unavailable" in captured.err
    assert "model.safetensors  decoder         —       —" in captured.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--checkpoint", "absent.ckpt"],
            "evaluate.py: error: checkpoint absent.ckpt does not exist",
        ),
        (  # before anything is measured of the first
            ["--checkpoint", "tabletop_small", "absent.ckpt", "--num-images", "0"],
            "evaluate.py: error: checkpoint absent.ckpt does not exist",
        ),
        (["--data", "nowhere"], "evaluate.py: error: nowhere is not a directory"),
        (["--split", "night"], "evaluate.py: error: unknown split 'night'"),
        (["--device", "abacus"], "evaluate.py: error: device is 'abacus'"),
        (["--num-images", "0"], "evaluate.py: error: num_images is 0"),
        (["--stop-threshold", "-3"], "evaluate.py: error: stop_threshold is -3"),
        (["--fid", "--inception-weights", "w.pth"], "evaluate.py: error: Inception weights w.pth"),
    ],
)
def test_mistakes_are_named(
    tmp_path: Path, checkpoint: Path, options: list[str], message: str
) -> None:
    data = write_dataset(tmp_path / "data")
    given = ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu"]
    with pytest.raises(SystemExit) as error:
        main(given + options)
    assert str(error.value).startswith(message)


@pytest.mark.slow
@pytest.mark.parametrize("form", [["-m", "training.evaluate"], [str(EVALUATE)]], ids=["-m", "file"])
def test_runs_from_anywhere(form: list[str], tmp_path: Path, checkpoint: Path) -> None:
    """As a module, and as a file; scripts/ros_env.sh puts the checkout on the path."""
    data = write_dataset(tmp_path / "data")
    command = [sys.executable, *form, "--num-images", "2"]
    command += ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Table 1" in done.stdout
