"""From images to a model in one go: what is made, said and recommended."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from genesis_core import GenesisV2, GenesisV2Config, load_model, save_model
from training import adapt
from training.adaptation import Adaptation, Trial, best
from training.datasets.prepared import PreparedDataset
from training.datasets.sprites import render_range
from training.run_folder import MODEL


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
    config = GenesisV2Config(
        image_size=64, num_slots=3, feature_dim=8, latent_dim=8, encoder="efficientnet_lite0"
    )
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save_model(GenesisV2(config), path, {"stop_threshold": 12.0})
    return path


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("generated"), masks=True)


def run(images: Path, output: Path, start: Path, generated: Path) -> None:
    options = {"input": images, "output": output, "checkpoint": start, "generated": generated}
    command = [f"--{name}={value}" for name, value in options.items()]
    adapt.main(command)


def trials(*images: float) -> tuple[Trial, ...]:
    """Of strengths 0, 0.1 ... with scores of images."""
    return tuple(Trial(round(0.1 * n, 1), 0.5, score) for n, score in enumerate(images))


def fixed(monkeypatch: pytest.MonkeyPatch, *images: float) -> None:
    """Let adapting give the trial with the best of these scores, and a changed model."""

    def give(start: GenesisV2, _: PreparedDataset, *others: Any) -> Adaptation:
        images_of = others[-1]
        tried = trials(*images)
        chosen = best(tried)
        with torch.no_grad():
            start.embedding.conv.weight.add_(chosen.strength)
        return Adaptation(start, chosen, tried, by_labels=images_of.masks is not None)

    monkeypatch.setattr(adapt, "adapt", give)


@pytest.mark.slow
def test_labelled_images_give_a_model_scores_and_a_page(
    start: Path,
    generated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fixed(monkeypatch, 0.3, 0.5, 0.4)
    images, output = prepared(tmp_path / "images", masks=True), tmp_path / "out"
    run(images, output, start, generated)
    printed = capsys.readouterr().out
    model = load_model(output / MODEL)
    assert model.metadata["adapted"] == 0.1 and model.metadata["stop_threshold"] == 12
    for name in ("images", "scenes"):
        content = json.loads((output / f"scores_{name}.json").read_text())
        paths = [entry["checkpoint"] for entry in content["models"]]
        assert paths == [str(start), str(output / MODEL)]
        assert content["data"]["split"] == "test"
    record = json.loads((output / "adaptation.json").read_text())
    assert record["chosen"] == 0.1 and record["by"] == "labels"
    assert [trial["images"] for trial in record["trials"]] == [0.3, 0.5, 0.4]
    page = (output / "report.html").read_text()
    assert page.count('class="card"') == 12, "six images, before and after"
    assert 'data-result="start.safetensors"' in page and 'data-result="model.safetensors"' in page
    assert "score by your labels" in printed and "0.1  0.500, 0.500  <- kept" in printed
    assert "Objects found in your images: " in printed
    (launch,) = [line for line in printed.splitlines() if "ros2 launch" in line]
    assert launch.split("checkpoint:=")[1] in (str(start), str((output / MODEL).resolve()))

    fixed(monkeypatch, 0.3, 0.2)
    run(images, output, start, generated)
    printed = capsys.readouterr().out
    assert "the model stays as it was" in printed and f"checkpoint:={start}" in printed
    assert " after." not in printed, "there is no other model to compare with"
    assert not (output / MODEL).exists(), "what another call has made is not this one's result"


@pytest.mark.slow
def test_images_without_labels_are_shown_and_not_scored(
    start: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = prepared(tmp_path / "images", masks=False, splits=("train",))
    run(images, tmp_path / "out", start, generated)
    printed = capsys.readouterr().out
    adapted = (tmp_path / "out" / MODEL).exists()  # chance decides: the model has learned nothing
    assert ("The page's images have no labels" in printed) == adapted
    assert "the page shows those that decided" in printed
    assert "Objects found in generated scenes" in printed and "in your images: " not in printed
    assert "agreement with the mirrored image" in printed and printed.count("<- kept") == 1


def test_another_encoder_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    photos = prepared(tmp_path / "images", masks=False)
    with pytest.raises(SystemExit, match="with encoder unet cannot be adapted"):
        adapt.main(
            [f"--input={photos}", f"--output={tmp_path / 'out'}", "--checkpoint=tabletop_small"]
        )
    assert not (tmp_path / "out").exists()


def test_what_would_be_lost_is_refused(start: Path, generated: Path, tmp_path: Path) -> None:
    images, output = prepared(tmp_path / "images", masks=False), tmp_path / "out"
    output.mkdir()
    mine = output / MODEL
    mine.write_bytes(start.read_bytes())
    with pytest.raises(SystemExit, match="would be overwritten: take another --output"):
        run(images, output, mine, generated)
    assert mine.read_bytes() == start.read_bytes()
    with pytest.raises(SystemExit, match="lies inside --input"):
        run(images, images / "out", start, generated)


@pytest.mark.slow
def test_a_folder_of_which_some_images_are_labelled(
    start: Path, generated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    images, labels = render_range(0, 30, image_size=64, split="train", min_objects=2)
    for number, (image, mask) in enumerate(zip(images, labels, strict=True)):
        cv2.imwrite(str(photos / f"{number:02}.png"), image[..., ::-1])
        if number % 2:
            cv2.imwrite(str(photos / f"{number:02}.label.png"), mask)
    run(photos, output, start, generated)
    for name in ("images", "labelled"):  # as the node will see them
        assert (
            json.loads((output / name / "train/info.json").read_text())["options"]["fit"]
            == "resize"
        )
    printed = capsys.readouterr().out

    def count(name: str) -> int:
        splits = ("train", "val", "test")
        return sum(len(PreparedDataset(output / name, split)) for split in splits)

    assert (count("images"), count("labelled")) == (30, 15)
    assert "score by your labels" in printed and "Objects found in your images: " in printed
    record = json.loads((output / "adaptation.json").read_text())
    assert record["by"] == "labels"


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


@pytest.mark.parametrize(
    ("info", "fit"),
    [
        ({"dataset": "folder", "options": {"fit": "resize"}}, "resize"),
        ({"dataset": "video", "options": {"fit": "crop"}}, "crop"),
        ({"dataset": "bag", "options": {}}, "crop"),  # prepared before there was a choice
        ({"dataset": "tabletop", "options": {}}, "resize"),
    ],
)
def test_the_launched_node_sees_images_as_they_were_prepared(
    info: dict[str, Any], fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/info.json").write_text(json.dumps(info))
    assert adapt.fit_of(tmp_path) == fit
    adapted = adapt.Adapted(Path("before"), Path("after"), scores(0.5, 0.6), scores(0.5, 0.5))
    adapt.conclude(adapted, "test", Path("out"), fit)
    assert ("fit:=crop" in capsys.readouterr().out) == (fit == "crop")


def test_the_line_that_launches_it_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    model = Path("/home/me/my photos/model.safetensors")
    adapted = adapt.Adapted(Path("before"), model, scores(0.5, 0.6), scores(0.5, 0.5))
    adapt.conclude(adapted, "test", Path("out"), "resize")
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line)[-1] == f"checkpoint:={model}"


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"adapt\.py: error: --input \S*nowhere does not exist"):
        adapt.main(["--input", str(tmp_path / "nowhere")])
