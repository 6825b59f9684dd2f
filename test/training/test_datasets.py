"""Prepared data sets, their batches, and the generated sprites."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from training.datasets.layout import DatasetError
from training.datasets.prepared import BatchLoader, PreparedDataset
from training.datasets.sprites import Sprites, render_range

COUNT, SIZE = 23, 8


def write_split(
    folder: Path, *, count: int = COUNT, masks: bool = True, split: str = "train"
) -> Path:
    """A split whose image i has the value i everywhere, and its mask too."""
    target = folder / split
    target.mkdir(parents=True)
    values = np.arange(count, dtype=np.uint8)
    images = np.broadcast_to(values[:, None, None, None], (count, SIZE, SIZE, 3))
    np.save(target / "images.npy", images)
    if masks:
        np.save(target / "masks.npy", images[..., 0])
    info = {"format": 1, "split": split, "count": count, "image_size": SIZE}
    (target / "info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    return PreparedDataset(write_split(tmp_path / "data"), "train")


def seen(batch: tuple[torch.Tensor, torch.Tensor | None]) -> list[int]:
    """Which images a batch holds."""
    return batch[0][:, 0, 0, 0].tolist()


def test_a_batch_is_images_with_their_masks(dataset: PreparedDataset) -> None:
    images, masks = BatchLoader(dataset, batch_size=4, seed=0).batch(0)
    assert images.shape == (4, SIZE, SIZE, 3) and images.dtype == torch.uint8
    assert masks is not None and masks.shape == (4, SIZE, SIZE) and masks.dtype == torch.uint8
    assert torch.equal(images[..., 0], masks)


def test_data_without_masks(tmp_path: Path) -> None:
    dataset = PreparedDataset(write_split(tmp_path, masks=False), "train")
    assert dataset.masks is None
    assert BatchLoader(dataset, batch_size=4, seed=0).batch(0)[1] is None


def test_depths_and_intrinsics_are_there_where_they_were_written(tmp_path: Path) -> None:
    plain = PreparedDataset(write_split(tmp_path / "plain"), "train")
    assert plain.depths is None and plain.intrinsics is None and plain.robot_label is None
    folder = write_split(tmp_path / "deep") / "train"
    depths = np.full((COUNT, SIZE, SIZE), 1234, np.uint16)
    np.save(folder / "depths.npy", depths)
    with pytest.raises(DatasetError, match=r"intrinsics\.npy is missing"):
        PreparedDataset(tmp_path / "deep", "train")
    np.save(folder / "intrinsics.npy", np.ones((COUNT, 4), np.float32))
    deep = PreparedDataset(tmp_path / "deep", "train")
    assert (
        deep.depths is not None and deep.depths.dtype == np.uint16 and deep.depths[3, 0, 0] == 1234
    )
    assert deep.intrinsics is not None and deep.intrinsics.shape == (COUNT, 4)
    np.save(folder / "depths.npy", depths.astype(np.float32))
    with pytest.raises(DatasetError, match=r"depths\.npy holds float32 .* says uint16"):
        PreparedDataset(tmp_path / "deep", "train")


def test_every_epoch_is_a_shuffle_of_its_own_without_replacement(dataset: PreparedDataset) -> None:
    loader = BatchLoader(dataset, batch_size=5, seed=0)
    # The batches run on across the ends of epochs, 23 images each.
    order = [index for step in range(23) for index in seen(loader.batch(step))]
    epochs = [order[start : start + COUNT] for start in range(0, len(order), COUNT)]
    assert len(epochs) == 5
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_larger_than_the_data_set(dataset: PreparedDataset) -> None:
    batch = seen(BatchLoader(dataset, batch_size=50, seed=0).batch(1))
    assert len(batch) == 50
    assert set(batch) == set(range(COUNT))


def test_order_depends_on_seed_and_step_alone(dataset: PreparedDataset) -> None:
    one = BatchLoader(dataset, batch_size=6, seed=1)
    forward = [seen(one.batch(step)) for step in range(8)]
    again = BatchLoader(dataset, batch_size=6, seed=1)
    assert [seen(again.batch(step)) for step in reversed(range(8))] == forward[::-1]
    assert [seen(BatchLoader(dataset, batch_size=6, seed=2).batch(s)) for s in range(8)] != forward


def test_the_global_batch_is_the_same_on_any_number_of_processes(dataset: PreparedDataset) -> None:
    for step in range(6):
        whole = seen(BatchLoader(dataset, batch_size=12, seed=3).batch(step))
        for world_size in (2, 3, 4):
            ranks = [
                BatchLoader(
                    dataset,
                    batch_size=12 // world_size,
                    seed=3,
                    rank=rank,
                    world_size=world_size,
                ).batch(step)
                for rank in range(world_size)
            ]
            assert [index for batch in ranks for index in seen(batch)] == whole


@pytest.mark.parametrize("threads", [1, 3])
def test_iterating_gives_the_batches_from_any_step_on(
    dataset: PreparedDataset, threads: int
) -> None:
    loader = BatchLoader(dataset, batch_size=4, seed=0)
    for start in (0, 7):
        batches = list(islice(loader.iterate(start, threads=threads), 10))
        assert [seen(b) for b in batches] == [seen(loader.batch(start + s)) for s in range(10)]


def test_batches_are_resized(tmp_path: Path) -> None:
    folder = write_split(tmp_path, count=1)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:, 1::2] = 100
    labels = np.zeros((SIZE, SIZE), np.uint8)
    labels[:, 4:] = 3
    np.save(folder / "train" / "images.npy", image[None])
    np.save(folder / "train" / "masks.npy", labels[None])
    dataset = PreparedDataset(folder, "train")
    images, masks = BatchLoader(dataset, batch_size=1, seed=0, image_size=4).batch(0)
    assert masks is not None
    assert images.shape == (1, 4, 4, 3)
    assert (images == 50).all()  # columns of 0 and 100 are averaged
    assert masks[0].tolist() == [[0, 0, 3, 3]] * 4  # labels are not
    larger, masks = BatchLoader(dataset, batch_size=1, seed=0, image_size=16).batch(0)
    assert masks is not None
    assert larger.shape == (1, 16, 16, 3) and set(masks.unique().tolist()) == {0, 3}


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 0), ("seed", -1), ("rank", 2), ("rank", -1), ("image_size", 0)],
)
def test_bad_loader_options_are_named(dataset: PreparedDataset, option: str, value: int) -> None:
    options = {"batch_size": 4, "seed": 0, "rank": 0, "world_size": 2, option: value}
    with pytest.raises(ValueError, match=option):
        BatchLoader(dataset, **options)


def test_a_negative_step(dataset: PreparedDataset) -> None:
    with pytest.raises(ValueError, match="step"):
        BatchLoader(dataset, batch_size=4, seed=0).batch(-1)


def fails(folder: Path, expected: str, split: str = "train") -> None:
    with pytest.raises(DatasetError, match=expected) as caught:
        PreparedDataset(folder, split)
    assert str(folder) in str(caught.value)


def test_a_missing_directory(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "not a directory")


def test_an_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'training'; expected one of train, val, test"):
        PreparedDataset(tmp_path, "training")


def test_an_empty_directory(tmp_path: Path) -> None:
    fails(tmp_path, "info.json is missing: expected a data set from training/prepare.py")


def test_an_unfinished_preparation(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    fails(tmp_path, "not finished, run the same command again to resume")


def test_a_split_without_images(tmp_path: Path) -> None:
    fails(write_split(tmp_path, count=0, split="val"), "holds no images", split="val")


@pytest.mark.parametrize("name", ["images.npy", "masks.npy"])
def test_a_truncated_array(tmp_path: Path, name: str) -> None:
    path = write_split(tmp_path) / "train" / name
    for kept in (len(path.read_bytes()) - 1, 60, 0):
        path.write_bytes(path.read_bytes()[:kept])
        fails(tmp_path, f"{name} is truncated or not an .npy file")


def test_missing_images(tmp_path: Path) -> None:
    (write_split(tmp_path) / "train" / "images.npy").unlink()
    fails(tmp_path, "images.npy is missing")


@pytest.mark.parametrize(
    "masks",
    [
        np.zeros((COUNT - 1, SIZE, SIZE), np.uint8),
        np.zeros((COUNT, SIZE, SIZE, 1), np.uint8),
        np.zeros((COUNT, SIZE, SIZE), np.int64),
    ],
)
def test_masks_that_do_not_fit(tmp_path: Path, masks: np.ndarray) -> None:
    np.save(write_split(tmp_path) / "train" / "masks.npy", masks)
    fails(tmp_path, rf"masks.npy holds {masks.dtype} .* says uint8 \(23, 8, 8\)")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "split": "val"}'])
def test_a_bad_info_file(tmp_path: Path, content: str) -> None:
    (write_split(tmp_path) / "train" / "info.json").write_text(content)
    fails(tmp_path, "info.json")


def test_sprites_depend_on_seed_split_and_index_alone() -> None:
    images, labels = render_range(0, 12, image_size=32, seed=5)
    for start in range(0, 12, 4):
        some_images, some_labels = render_range(start, start + 4, image_size=32, seed=5)
        np.testing.assert_array_equal(some_images, images[start : start + 4])
        np.testing.assert_array_equal(some_labels, labels[start : start + 4])
    assert not np.array_equal(render_range(0, 12, image_size=32, seed=6)[0], images)
    assert not np.array_equal(render_range(0, 12, image_size=32, seed=5, split="val")[0], images)


def test_sprites_have_one_colour_and_the_mask_of_their_pixels() -> None:
    images, labels = render_range(0, 60, image_size=64, min_objects=2, max_objects=3)
    assert images.shape == (60, 64, 64, 3) and images.dtype == np.uint8
    assert labels.shape == (60, 64, 64) and labels.dtype == np.uint8
    visible = []
    for image, label in zip(images, labels, strict=True):
        assert set(np.unique(label)) <= {0, 1, 2, 3}
        visible.append(len(np.unique(label)) - 1)
        (background,) = np.unique(image[label == 0], axis=0)
        assert background[0] == background[1] == background[2]
        for instance in np.unique(label)[1:]:
            (colour,) = np.unique(image[label == instance], axis=0)
            assert np.abs(colour.astype(int) - background).max() >= 64
    assert max(visible) == 3
    assert np.mean(visible) > 1.8  # seldom is one hidden altogether
    assert 0.02 < (labels > 0).mean() < 0.4


def test_impossible_numbers_of_sprites() -> None:
    with pytest.raises(ValueError, match="not 3 and 2"):
        Sprites(min_objects=3, max_objects=2)
