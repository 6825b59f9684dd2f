"""From images to a model in one go: what is made, said and recommended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genesis_core import GenesisV2, GenesisV2Config, load_model, save_model
from training import adapt
from training.datasets.sprites import render_range
from training.run_folder import MODEL

BATCH = "--batch_size 4 --device cpu --precision fp32 --log_every 1"


def prepared(
    folder: Path, *, masks: bool, splits: tuple[str, ...] = ("train", "val", "test")
) -> Path:
    for split in splits:
        images, labels = render_range(0, 6, image_size=32, split=split, min_objects=2)
        (folder / split).mkdir(parents=True)
        np.save(folder / split / "images.npy", images)
        if masks:
            np.save(folder / split / "masks.npy", labels)
        info = {"format": 1, "dataset": "sprites", "split": split, "count": 6, "image_size": 32}
        (folder / split / "info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = GenesisV2Config(image_size=32, num_slots=3, feature_dim=8, latent_dim=8, pixel_std=0.2)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_model(GenesisV2(config), path, {"stop_threshold": 12.0})
    return path


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("generated"), masks=True)


def run(images: Path, output: Path, start: Path, generated: Path) -> None:
    options = {"input": images, "output": output, "checkpoint": start, "generated": generated}
    command = [f"--{name}={value}" for name, value in options.items()]
    adapt.main([*command, "--steps=2", f"--settings={BATCH}"])


@pytest.mark.slow
def test_labelled_images_give_a_model_scores_and_a_page(
    start: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = prepared(tmp_path / "images", masks=True), tmp_path / "out"
    run(images, output, start, generated)
    printed = capsys.readouterr().out
    model = load_model(output / "run" / MODEL)
    assert model.metadata["trained"]["steps"] == 2 and model.metadata["stop_threshold"] == 12
    for name in ("images", "scenes"):
        content = json.loads((output / f"scores_{name}.json").read_text())
        paths = [entry["checkpoint"] for entry in content["models"]]
        assert paths == [str(start), str(output / "run" / MODEL)]
        assert content["data"]["split"] == "test"
    page = (output / "report.html").read_text()
    assert page.count('class="card"') == 12, "six images, before and after"
    assert 'data-result="start.safetensors"' in page and 'data-result="model.safetensors"' in page
    assert "Objects found in your images: " in printed
    (launch,) = [line for line in printed.splitlines() if "ros2 launch" in line]
    assert launch.split("checkpoint:=")[1] in (str(start), str((output / "run" / MODEL).resolve()))

    run(images, output, start, generated)
    captured = capsys.readouterr()
    assert "is finished at step 2" in captured.out + captured.err, "nothing is trained twice"


@pytest.mark.slow
def test_images_without_labels_are_shown_and_not_scored(
    start: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = prepared(tmp_path / "images", masks=False, splits=("train",))
    run(images, tmp_path / "out", start, generated)
    printed = capsys.readouterr().out
    assert (
        "Your images have no labels" in printed and "those of the page were trained on" in printed
    )
    assert "Objects found in generated scenes" in printed and "in your images: " not in printed
    assert f"checkpoint:={(tmp_path / 'out' / 'run' / MODEL).resolve()}" in printed


def scores(before: float | None, after: float | None) -> dict[str, Any]:
    def metrics(value: float | None) -> dict[str, Any]:
        return {"fixed": {"attention": None if value is None else {"r50": value}}, "flexible": None}

    return {"models": [{"metrics": metrics(value)} for value in (before, after)]}


@pytest.mark.parametrize(
    ("images", "launched"),
    [((0.5, 0.6), "after"), ((0.5, 0.5), "after"), ((0.5, 0.4), "before"), ((None, None), "after")],
)
def test_a_model_that_became_worse_is_not_recommended(
    images: tuple[float | None, float | None],
    launched: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    adapted = adapt.Adapted(Path("before"), Path("after"), scores(*images), scores(0.5, 0.46))
    assert adapted.launched == Path(launched)
    adapt.conclude(adapted, "test", Path("out"))
    printed = capsys.readouterr().out
    assert f"checkpoint:={Path(launched).resolve()}" in printed
    assert ("keep the one that it started from" in printed) == (launched == "before")
    assert "Objects found in generated scenes: 50% before, 46% after." in printed
    assert "the adapted model finds less than before" in printed


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"adapt\.py: error: --input \S*nowhere does not exist"):
        adapt.main(["--input", str(tmp_path / "nowhere")])
