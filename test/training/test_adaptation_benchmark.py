"""The benchmark of adapting: halves that share no image, sources it reads, a table, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.adaptation import _labelled, bench, halves
from genesis_core import GenesisV2, GenesisV2Config, save_model
from training.datasets.layout import DatasetError
from training.datasets.prepared import PreparedDataset
from training.datasets.sprites import render_range
from training.labelled_images import LabelledImage


def image(name: str, group: str) -> LabelledImage:
    return LabelledImage(name, group, Path(name), Path(name))


def test_halves_are_every_second_image_or_group() -> None:
    images = [image(name, name[0]) for name in ("a1", "a2", "a3", "b1", "b2", "c1")]
    first, second = halves(images, by_group=False)
    assert [one.name for one in first] == ["a1", "a3", "b1", "c1"]
    assert [one.name for one in second] == ["a2", "b2"]
    first, second = halves(images, by_group=True)
    assert [one.name for one in first] == ["a1", "a2", "a3", "c1"]
    assert [one.name for one in second] == ["b1", "b2"]
    with pytest.raises(DatasetError, match="1 images in 1 groups are too few for halves"):
        halves(images[:1], by_group=False)


def test_sketchys_objects_are_told_by_their_colours(shared_data: Path, tmp_path: Path) -> None:
    images, by_group = _labelled(shared_data / "sketchy", tmp_path)
    assert by_group and len(images) == 4 * 2 * 7
    assert {one.group for one in images} == {"left", "right"}
    (centre,) = [one for one in images if one.name.endswith("_0_left_0")]
    picture, labels = centre.read_image(), centre.read_labels(352, 352)
    # Each object is there, and is of its colour: red, green, blue.
    for channel in range(3):
        seen = picture[labels == channel + 1].mean(axis=0)
        assert int(seen.argmax()) == channel, channel + 1
    assert (labels == 0).mean() > 0.9


def test_apcs_frames_bring_their_labels(shared_data: Path, tmp_path: Path) -> None:
    images, by_group = _labelled(shared_data / "apc", tmp_path)
    assert not by_group and len(images) == 5
    for one in images:
        assert np.unique(one.read_labels(480, 640)).tolist() == [0, 1, 2, 3, 4]


def test_a_source_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="neither labelled images nor APC nor Sketchy"):
        _labelled(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_before_and_after_are_measured_once(tmp_path: Path) -> None:
    source, generated, output = (tmp_path / name for name in ("source", "generated", "out"))
    pictures, labels = render_range(0, 4, image_size=64, split="test", min_objects=2)
    source.mkdir()
    for number, (picture, truth) in enumerate(zip(pictures, labels, strict=True)):
        cv2.imwrite(str(source / f"{number}.png"), picture[..., ::-1])
        cv2.imwrite(str(source / f"{number}.label.png"), truth)
    for split in ("train", "val", "test"):
        folder = generated / split
        folder.mkdir(parents=True)
        scenes, masks = render_range(0, 4, image_size=32, split=split, min_objects=2)
        np.save(folder / "images.npy", scenes)
        np.save(folder / "masks.npy", masks)
        info = {"format": 1, "dataset": "sprites", "split": split, "count": 4, "image_size": 32}
        (folder / "info.json").write_text(json.dumps(info))
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=64, num_slots=3, feature_dim=8, latent_dim=8, encoder="efficientnet_lite0"
    )
    save_model(GenesisV2(config), tmp_path / "start.safetensors")

    def run(seeds: list[int]) -> str:
        bench(
            source, generated, output, seeds, str(tmp_path / "start.safetensors"),
            other=source, num_scenes=4, device="cpu",
        )  # fmt: skip
        return (output / "adaptation.md").read_text()

    text = run([0])
    for title in ("other images: 2 images", "adapted to: 2", "other places: 4", "generated: 4"):
        assert f"### {title}" in text
    adapted_to = PreparedDataset(output / "images", "train")
    assert adapted_to.masks is None and len(adapted_to) == 2
    record = json.loads((output / "seed_0" / "adaptation.json").read_text())
    assert len(record["trials"]) == 4 and record["by"] == "agreement"
    difference = adapted_to.images[1, ::4, ::4].astype(int) - pictures[2]
    assert np.abs(difference).mean() < 3, "every second image is adapted to"
    kept = (output / "seed_0" / "adaptation.json").stat().st_mtime_ns
    text = run([0, 1])
    assert (output / "seed_0" / "adaptation.json").stat().st_mtime_ns == kept
    assert text.count("| mean of 2 |") == 4 and text.count("| seed 1 |") == 4
    with pytest.raises(ValueError, match="was made with other swap: take another --output"):
        bench(
            source, generated, output, [0], str(tmp_path / "start.safetensors"),
            other=source, num_scenes=4, device="cpu", swap=True,
        )  # fmt: skip
