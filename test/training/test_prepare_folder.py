"""prepare folder: photos as people have them, and masks and depth in every way they are stored."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from training.datasets import assembly
from training.datasets.folder import Folder, MaskUse, scan
from training.datasets.images import resize_image
from training.datasets.inputs import input_files
from training.datasets.layout import DatasetError
from training.datasets.prepared import PreparedDataset
from training.datasets.recordings import fingerprint
from training.prepare import main, reader_for

SPLITS = ("train", "val", "test")
SIZE = ("--image-size", "32")


def prepare(source: Path, output: Path, *options: str) -> None:
    main(["folder", "--source", str(source), "--output", str(output), "--workers", "1", *options])


def error_of(source: Path, output: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        prepare(source, output, *options)
    return str(caught.value.code)


def photo(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Four quarters, RGB (H, W, 3): no two numbers are alike, and it shows which way is up."""
    rng = np.random.default_rng(number)
    image = np.zeros((height, width, 3), np.uint8)
    for rows in (slice(0, height // 2), slice(height // 2, height)):
        for columns in (slice(0, width // 2), slice(width // 2, width)):
            image[rows, columns] = rng.integers(0, 256, 3)
    return image


def write(path: Path, image: np.ndarray, options: list[int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = image[..., ::-1] if image.ndim == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, stored, options or [])[1].tobytes())
    return path


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF tag that says how the camera was held."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 0)
    exif = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def quarters(image: np.ndarray) -> np.ndarray:
    """The colours (2, 2, 3) in the middle of the quarters of a square image."""
    size = len(image)
    return image[size // 4 :: size // 2, size // 4 :: size // 2].astype(int)


def order(output: Path) -> dict[str, list[int]]:
    """Which photos (by their number) are in which split, in their order."""
    known = {tuple(quarters(photo(number))[0, 0]): number for number in range(400)}
    found: dict[str, list[int]] = {}
    for split in SPLITS:
        try:
            images = PreparedDataset(output, split).images
        except DatasetError:  # no image at all
            images = np.empty((0, 32, 32, 3), np.uint8)
        found[split] = [known[tuple(quarters(image)[0, 0])] for image in images]
    return found


def photos(folder: Path, numbers: Any, suffix: str = ".png") -> None:
    for number in numbers:
        write(folder / f"{number}{suffix}", photo(number))


# --- images


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".ppm", ".avif"])
def test_common_formats(tmp_path: Path, suffix: str) -> None:
    photos(tmp_path / "in", range(10), suffix)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    images = PreparedDataset(tmp_path / "out", "train").images
    assert images.shape == (8, 32, 32, 3)
    for number, image in enumerate(images):
        error = np.abs(quarters(image) - quarters(photo(number)[:, 8:56]))
        assert error.max() <= (0 if suffix in (".png", ".bmp", ".tif", ".ppm") else 25)


def test_sizes_and_bit_depths(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.png", photo(1, 300, 200))
    write(tmp_path / "in" / "2.png", photo(2, 20, 90))
    write(tmp_path / "in" / "3.png", np.full((40, 40), 90, np.uint8))
    bgra = np.dstack([photo(4)[..., ::-1], np.full((48, 64), 9, np.uint8)])
    (tmp_path / "in" / "4.png").write_bytes(cv2.imencode(".png", bgra)[1].tobytes())
    write(tmp_path / "in" / "5.png", photo(5).astype(np.uint16) * 257)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    images = np.concatenate([PreparedDataset(tmp_path / "out", s).images for s in SPLITS])
    assert images.shape == (5, 32, 32, 3)
    np.testing.assert_array_equal(quarters(images[0]), quarters(photo(1, 200, 200)))
    assert (images[2] == 90).all()
    np.testing.assert_array_equal(quarters(images[3]), quarters(photo(4, 48, 48)))
    np.testing.assert_array_equal(quarters(images[4]), quarters(photo(5, 48, 48)))


def test_photos_are_upright(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", photo(1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.jpg").write_bytes(with_orientation(jpeg, 6))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    (image,) = PreparedDataset(tmp_path / "out", "train").images
    upright = np.rot90(photo(1), -1)  # the tag: the top of the scene is at the right of the file
    assert np.abs(quarters(image) - quarters(upright[8:56])).max() <= 6


def test_exposure(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.png", np.full((40, 40, 3), 50, np.uint8))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--exposure", "0.4")
    assert (PreparedDataset(tmp_path / "out", "train").images == 102).all()


# --- what is left out


def test_what_is_no_image_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    photos(source, range(6))
    for name in ("README.md", ".DS_Store", "._1.jpg", "notes.docx", "IMG_1.HEIC", "VID_1.mp4"):
        (source / name).write_bytes(b"no image")
    prepare(source, tmp_path / "out", *SIZE)
    printed = capsys.readouterr()
    for told in ("1 HEIC photos", "1 videos", "1 files of another kind (.docx)"):
        assert f"left out: {told}" in printed.out
    assert "skipped 3 files that are no data: .DS_Store, ._1.jpg, README.md" in printed.err
    info = json.loads((tmp_path / "out" / "train" / "info.json").read_text())
    assert sum(info["left_out"].values()) == 3 and info["skipped"] == 3


def test_a_broken_photo_stops_or_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "in"
    photos(source, range(6), ".jpg")
    whole = (source / "3.jpg").read_bytes()
    (source / "3.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "4.jpg").write_bytes(b"<html>")
    message = error_of(source, tmp_path / "out", *SIZE)
    assert "3.jpg: the JPEG is cut off" in message and "--on-error skip" in message
    prepare(source, tmp_path / "out", *SIZE, "--on-error", "skip")
    problems = (tmp_path / "out" / "problems.txt").read_text()
    assert "3.jpg" in problems and "4.jpg: the image cannot be decoded" in problems
    assert sum(len(PreparedDataset(tmp_path / "out", s)) for s in ("train", "test")) == 4


@pytest.mark.parametrize("ending", [b"", bytes(20)])
def test_a_jpeg_may_lack_its_end_marker(tmp_path: Path, ending: bytes) -> None:
    source = tmp_path / "in"
    source.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    (source / "1.jpg").write_bytes(whole[:-2] + ending)
    prepare(source, tmp_path / "out", *SIZE)
    (source / "1.jpg").write_bytes(whole)
    prepare(source, tmp_path / "whole", *SIZE)
    found, expected = (
        PreparedDataset(tmp_path / name, "train").images for name in ("out", "whole")
    )
    assert len(expected) == 1
    np.testing.assert_array_equal(found, expected)


def test_folders_without_images(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    assert f"{source} has no images" in error_of(source, tmp_path / "out")
    (source / "a.mp4").write_bytes(b"")
    assert "found 1 videos" in error_of(source, tmp_path / "out")


def test_new_photos_are_another_data_set(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(6))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    photos(tmp_path / "in", [7])
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert "holds another data set: files of the source were added, removed or changed" in message


def test_another_fit_is_another_data_set(tmp_path: Path) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    photos(source, range(6))
    prepare(source, output, *SIZE)
    for path in output.glob("*/info.json"):  # as it was before there was a choice
        info = json.loads(path.read_text())
        del info["options"]["fit"]
        path.write_text(json.dumps(info))
    prepare(source, output, *SIZE)
    message = error_of(source, output, *SIZE, "--fit", "resize")
    assert "holds another data set: fit was 'crop', now 'resize'; remove it first" in message


def test_what_was_begun_is_not_finished_as_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    photos(source, range(6))

    def stop(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(SystemExit, match="disk full"):
        patched.setattr(assembly, "_join", stop)
        prepare(source, output, *SIZE)
    message = error_of(source, output, *SIZE, "--fit", "resize")
    assert "was begun with other options or another source: fit was 'crop', now 'res" in message
    prepare(source, output, *SIZE)
    assert len(PreparedDataset(output, "train")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("place", ["beside", "elsewhere", "coco"])
def test_masks_that_were_mended_are_another_data_set(tmp_path: Path, place: str) -> None:
    source, options = tmp_path / "in", [*SIZE]
    photos(source, range(6))
    mask = source / "3.label.png"
    if place != "beside":
        options += ["--masks", str(tmp_path / "masks")]
        mask = tmp_path / "masks" / "3.png"
    for number in range(6):
        write(mask.with_name(mask.name.replace("3", str(number))), halves())
    if place == "coco":
        options[-1] = str(mask := tmp_path / "masks.json")
        mask.write_text(json.dumps(coco([f"{number}.png" for number in range(6)])))
    prepare(source, tmp_path / "out", *options)
    prepare(source, tmp_path / "out", *options)
    size = mask.stat().st_size
    content = mask.read_bytes()
    time.sleep(0.02)  # file systems' clocks are coarse
    mask.write_bytes(content)
    assert mask.stat().st_size == size
    message = error_of(source, tmp_path / "out", *options)
    assert "holds another data set: masks were added, removed or changed since" in message
    prepare(source, tmp_path / "no masks", *SIZE, "--use-masks", "ignore")
    mask.touch()
    prepare(source, tmp_path / "no masks", *SIZE, "--use-masks", "ignore")


# --- splits


def test_the_end_of_a_folder_is_held_out_in_the_order_of_numbers(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(20))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--val", "0.2")
    found = order(tmp_path / "out")
    assert found == {"train": list(range(14)), "val": [14, 15, 16, 17], "test": [18, 19]}


def test_folders_are_the_splits(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "images" / "train2017", range(12))
    photos(tmp_path / "in" / "images" / "validation", range(12, 15))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    # There is no folder for tests, so they are from the training images.
    found = order(tmp_path / "out")
    assert found == {"train": list(range(11)), "val": [12, 13, 14], "test": [11]}


def test_of_many_folders_whole_ones_are_held_out(tmp_path: Path) -> None:
    for folder in range(10):
        photos(tmp_path / "in" / f"scene {folder}", range(3 * folder, 3 * folder + 3))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    found = order(tmp_path / "out")
    assert found == {"train": list(range(24)), "val": [24, 25, 26], "test": [27, 28, 29]}


def test_of_few_folders_each_gives_to_every_split(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "kitchen", range(10))
    photos(tmp_path / "in" / "office", range(10, 20))
    photos(tmp_path / "in" / "too few", range(20, 23))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    found = order(tmp_path / "out")
    assert found["val"] == [8, 18] and found["test"] == [9, 19]
    assert set(found["train"]) >= {20, 21, 22}


def test_nearly_the_same_is_never_in_two_splits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for place, number in enumerate([0, 1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 11, 11]):
        noise = rng.normal(0, 3, (48, 64, 3))
        image = (photo(number) + noise).clip(0, 255).astype(np.uint8)
        write(tmp_path / "in" / f"{place}.png", image)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--val", "0.15", "--test", "0.15")
    printed = capsys.readouterr().out
    datasets = {split: PreparedDataset(tmp_path / "out", split) for split in SPLITS}
    # 11 of the original: train 0 to 8, val 2 and 0, test 11 and again 11.
    assert {split: len(data) for split, data in datasets.items()} == {
        "train": 7,
        "val": 2,
        "test": 1,
    }
    assert "left out: 2 train images nearly the same as one to validate or test on" in printed
    assert "left out: 1 nearly the same as the image before" in printed
    for number in (0, 2):
        colours = np.abs(datasets["train"].images.astype(int) - photo(number)[0, 8])[:, 2, 2]
        assert (colours.max(axis=1) > 10).all()
    prepare(tmp_path / "in", tmp_path / "all", *SIZE, "--min-change", "0")
    assert sum(len(PreparedDataset(tmp_path / "all", split)) for split in SPLITS) == 13


@pytest.mark.parametrize("length", [1, 2, 3, 100])
def test_nearly_the_same_is_left_out_wherever_parts_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr("training.datasets.shots.CHUNK", length)  # images in a part
    numbers = [0, 1, 1, 1, 1, 1, 2, 3, 3, 0, 0, 4]
    for place, number in enumerate(numbers):
        write(tmp_path / "in" / f"{place}.png", photo(number))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--val", "0", "--test", "0")
    assert order(tmp_path / "out")["train"] == [0, 1, 2, 3, 0, 4]
    info = json.loads((tmp_path / "out" / "train" / "info.json").read_text())
    assert info["left_out"] == {"nearly the same as the image before (--min-change)": 6}


def test_a_slow_change_is_kept_wherever_parts_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.datasets.shots.CHUNK", 1)
    for place in range(12):
        write(tmp_path / "in" / f"{place}.png", np.full((40, 40, 3), 5 * place, np.uint8))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--val", "0", "--test", "0")
    images = PreparedDataset(tmp_path / "out", "train").images
    assert images[:, 0, 0, 0].tolist() == [0, 15, 30, 45]


def test_a_source_of_one_view_is_named(tmp_path: Path) -> None:
    for place in range(6):
        write(tmp_path / "in" / f"{place}.png", photo(place % 2))
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert "every image of" in message and "--min-change 0" in message


# --- masks


def check_halves(output: Path, left: int = 1, right: int = 2) -> None:
    """Every image is `left` in its left half and `right` in its right one."""
    data = PreparedDataset(output, "train")
    assert data.masks is not None
    for mask in data.masks:
        assert (mask[:, :14] == left).all() and (mask[:, 18:] == right).all()


def halves(height: int = 48, width: int = 64) -> np.ndarray:
    mask = np.full((height, width), 7, np.uint8)
    mask[:, width // 2 :] = 19
    return mask


@pytest.mark.parametrize(
    "name",
    [
        *("{}.label.png", "{}.mask.png", "{}_mask.png", "masks/{}.png", "../masks/{}.png"),
        *("{}_seg.png", "{}-segmentation.png", "{}_instance.png", "{}.png"),
        *("../instance_masks/{}.png", "../InstanceMasks/{}.png", "../object masks/{}.png"),
        *("../gt/{}.png", "../seg/{}.png", "../instance/{}.png", "../GroundTruth/{}.png"),
        *("../SegmentationObject/{}.png", "../semantic_instance/{}.png"),
        # With words that say nothing of masks, if the files are called as the images are.
        *("../sam_masks/{}.png", "../masks2024/{}.png", "../masks_pred/{}_mask.png"),
    ],
)
def test_grey_masks_beside_images_or_in_a_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in" / "images"
    photos(folder, range(6), ".jpg")
    for number in range(6):
        write(folder / name.format(number), halves())
    source = tmp_path / "in" if name.startswith("..") else folder
    prepare(source, tmp_path / "out", *SIZE)
    check_halves(tmp_path / "out")


def left_out(output: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads((output / "train" / "info.json").read_text())["left_out"]
    return found


@pytest.mark.parametrize("word", ["train", "left", "0"])
def test_further_words_of_a_folder_tell_its_images(tmp_path: Path, word: str) -> None:
    """Images of another camera have the same names."""
    source, other = tmp_path / "in", {"train": "more", "left": "right", "0": "1"}[word]
    for number, name in enumerate((word, other)):
        photos(source / f"rgb_{name}", range(6 * number, 6 * number + 6))
        for place in range(6):
            path = source / f"rgb_{name}" / f"{6 * number + place}.png"
            path.rename(path.with_name(f"{place}.png"))
            mask = halves() if name == word else halves()[:, ::-1]
            write(source / f"{name}_masks" / f"{place}.png", mask)
            depth = np.full((48, 64), 1000 * (1 + number), np.uint16)
            write(source / f"depth_{name}" / f"{place}.png", depth)
    prepare(source, tmp_path / "out", *SIZE, "--val", "0", "--test", "0")
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.masks is not None and data.depths is not None and len(data) == 12
    known = {tuple(quarters(photo(number))[0, 0]): number for number in range(12)}
    for image, mask, depth in zip(data.images, data.masks, data.depths, strict=True):
        is_other = known[tuple(quarters(image)[0, 0])] >= 6
        assert (mask[0, 3], mask[0, 28]) == ((2, 1) if is_other else (1, 2))
        assert (depth == (2000 if is_other else 1000)).all()


def voc(folder: Path) -> Path:
    """What labelme2voc writes, which is Pascal VOC's layout."""
    palette = np.zeros((256, 3), np.uint8)
    palette[[7, 19]] = (128, 0, 0), (0, 128, 0)
    for number in range(6):
        name = f"2007_{number:06d}"
        write(folder / "JPEGImages" / f"{name}.jpg", photo(number))
        write(folder / "SegmentationObject" / f"{name}.png", palette[halves()])
        one_class = (halves() > 0).astype(np.uint8)
        write(folder / "SegmentationClass" / f"{name}.png", palette[7 * one_class])
        np.save(folder / "SegmentationClass" / f"{name}.npy", one_class)
        for kind in ("Class", "Object"):
            drawing = folder / f"Segmentation{kind}Visualization" / f"{name}.jpg"
            write(drawing, photo(number) // 2 + palette[halves()] // 2)
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    return folder


def test_the_layout_of_pascal_voc(tmp_path: Path) -> None:
    source = voc(tmp_path / "VOC")
    prepare(source, tmp_path / "out", *SIZE)
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 6
    check_halves(tmp_path / "out", 2, 1)  # in the order of colours
    assert left_out(tmp_path / "out") == {
        "masks of classes, which do not tell one object from another": 12,
        "drawings of masks or depth (visualisations)": 12,
        "files of another kind (.xml)": 6,
    }


@pytest.mark.parametrize("source", ["VOC", "VOC/JPEGImages", "."])
def test_a_folder_with_masks_that_is_named(tmp_path: Path, source: str) -> None:
    masks = voc(tmp_path / "in" / "VOC") / "SegmentationObject"
    options = (*SIZE, "--masks", str(masks))
    prepare(tmp_path / "in" / source, tmp_path / "out", *options)
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 6
    check_halves(tmp_path / "out", 2, 1)


@pytest.mark.parametrize("name", ["drawn", "SegmentationClass"])
def test_masks_that_are_named_are_wanted_and_no_images(tmp_path: Path, name: str) -> None:
    source = voc(tmp_path / "in")
    shutil.rmtree(source / "SegmentationClass")
    (source / "SegmentationObject").rename(source / name)
    prepare(source, tmp_path / "out", *SIZE, "--masks", str(source / name))
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 6
    check_halves(tmp_path / "out", 2, 1)


def bop(scene: Path, overlap: int = 0) -> None:
    """A scene in BOP's layout: two objects, the right one in front, and one that is hidden."""
    left, right = halves() == 7, halves() == 19
    whole = left.copy()
    whole[:, 32 : 32 + overlap] = True
    for number in range(6):
        write(scene / "rgb" / f"{number:06d}.png", photo(number))
        write(scene / "depth" / f"{number:06d}.png", np.full((48, 64), 500, np.uint16))
        masks = {"mask": (right, whole, left), "mask_visib": (right, left, left & right)}
        for folder, of_objects in masks.items():
            for place, mask in enumerate(of_objects):
                path = scene / folder / f"{number:06d}_{place:06d}.png"
                write(path, 255 * mask.astype(np.uint8))
    (scene / "scene_gt.json").write_text('{"0": []}')


def test_the_layout_of_bop(tmp_path: Path) -> None:
    for place in range(2):
        bop(tmp_path / "in" / f"{place:06d}", overlap=9)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--depth-unit", "0.0001", "--min-change", "0")
    check_halves(tmp_path / "out", 2, 1)
    data = PreparedDataset(tmp_path / "out", "train")
    assert data.depths is not None and (data.depths == 50).all()
    told = left_out(tmp_path / "out")
    hidden = "masks of objects with their hidden parts, as there are those of the visible ones"
    assert told[hidden] == 36 and told["JSON files that are neither COCO's nor labelme's"] == 2
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 12
    # A hidden part of an object is not known to be hidden.
    masks = ("--masks", str(tmp_path / "in" / "000001" / "mask"))
    message = error_of(tmp_path / "in" / "000001", tmp_path / "whole", *SIZE, *masks)
    assert "overlaps masks of other objects: which one is in front is not known" in message


@pytest.mark.parametrize("place", ["in the source", "named"])
def test_masks_of_single_objects(tmp_path: Path, place: str) -> None:
    source = tmp_path / "in"
    photos(source / "images", range(6), ".jpg")
    masks = source / "masks" if place == "in the source" else tmp_path / "drawn"
    for number in range(6):
        for label in (7, 19):
            write(masks / f"{number}_{label}.png", (halves() == label).astype(np.uint8))
    options = [] if place == "in the source" else ["--masks", str(masks)]
    prepare(source, tmp_path / "out", *SIZE, *options)
    check_halves(tmp_path / "out")
    assert not left_out(tmp_path / "out")
    # Where images are numbered in this way, a number tells no object.
    write(source / "images" / "0_1.jpg", photo(8))
    error = error_of(source, tmp_path / "other", *SIZE, *options)
    assert "5 of 7 images have a mask" in error
    write(masks / "1_30.png", np.ones((24, 32), np.uint8))
    (source / "images" / "0_1.jpg").unlink()
    error = error_of(source, tmp_path / "sizes", *SIZE, *options)
    assert "1.jpg: the masks of its objects differ in size" in error


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("objects/{}.png", "images_gt/{}.png"), 12),
        (("instance_images/{}.png", "class_images/{}.png"), 12),
        (("class_1/{}.png", "class_2/{}.png"), 12),
        (("shipping_labels/{}.png", "boxes/{}.png"), 12),
        (("images/{}.jpg", "face_masks/{}.jpg"), 12),
        (("seg_01/{}.jpg", "seg_02/{}.jpg"), 12),
        (("gt/{}.png",), 6),
        (("images/{}.jpg", "gt/{}.jpg"), 12),
        (("vis/{}.png", "ir/{}.png"), 12),
        (("color_aligned_to_depth/{}.png", "depth_of_field/{}.png"), 12),
        (("orange_seg{}.png", "orange_{}_seg.png"), 12),
        (("gt/images/{}.png", "images/{}.png"), 12),
    ],
)
def test_photos_in_folders_of_many_names(
    tmp_path: Path, names: tuple[str, ...], expected: int
) -> None:
    numbers = iter(range(20))
    for name in names:
        for place in range(6):
            write(tmp_path / "in" / name.format(place), photo(next(numbers)))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--min-change", "0")
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == expected
    assert PreparedDataset(tmp_path / "out", "train").masks is None


def test_drawings_alone_are_no_images(tmp_path: Path) -> None:
    photos(tmp_path / "in" / "mask_overlay", range(6))
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert "has no images" in message and "found 6 drawings of masks or depth" in message


def test_two_masks_of_an_image(tmp_path: Path) -> None:
    source = tmp_path / "in"
    photos(source / "images", range(6))
    for number in range(6):
        write(source / "masks" / f"{number}.png", halves())
        write(source / "gt" / f"{number}.png", halves()[:, ::-1])
    message = error_of(source, tmp_path / "out", *SIZE)
    gt, masks = source / "gt" / "0.png", source / "masks" / "0.png"
    assert f"{gt} and {masks} both may be the mask of one image: name the folder" in message
    prepare(source, tmp_path / "gt", *SIZE, "--masks", str(source / "gt"))
    check_halves(tmp_path / "gt", 2, 1)
    prepare(source, tmp_path / "none", *SIZE, "--use-masks", "ignore")
    assert sum(len(PreparedDataset(tmp_path / "none", split)) for split in SPLITS) == 6


def lay(source: Path, *names: str) -> None:
    """Three files of each name: colours, masks where it starts with "mask:", or labelme."""
    for place, name in enumerate(names):
        for number in range(3):
            path = source / name.removeprefix("mask:").format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                path.write_text(labelme([], "none.png"))
            elif path.suffix == ".npy":
                np.save(path, np.ones((48, 64), np.float32))
            else:
                write(path, halves() if name.startswith("mask:") else photo(3 * place + number))


def read(source: Path, masks: Path | None = None, use_masks: MaskUse = "auto") -> set[str]:
    """The images called 0, each with its mask and its depth, if it has these."""
    found = set()
    for item in scan(source, masks, use_masks).items:
        paths = [item.image] if use_masks == "ignore" else [item.image, item.mask]
        told = [path for path in (*paths, item.depth) if isinstance(path, Path)]
        found.add(" ".join(str(path.relative_to(source)) for path in told))
    return {line for line in found if "0" in line.split()[0]}


AS_BEFORE = [
    # A name of telling words alone may be that of a whole data set.
    {"instance_segmentation/images/{}.jpg": "instance_segmentation/masks/{}.png"},
    {"instance_segmentation/{}.jpg": "instance_segmentation/{}.json"},
    {"semantic_segmentation/images/{}.png": "semantic_segmentation/masks/{}.png"},
    {"semantic/images/{}.png": "semantic/masks/{}.png"},
    {"semantic/{}.jpg": "semantic/{}.json"},
    {"label_images/{}.jpg": "label_images/{}.json"},
    {"depth_images/rgb/{}.png": "depth_images/depth/{}.png"},
    {"depth_rgb/rgb/{}.png": "depth_rgb/depth/{}.png"},
    {"object_depth/{}_rgb.png": "object_depth/{}_depth.png"},
    # Recordings with further words.
    {"table/rgb/{}.png": "", "table_depth/rgb/{}.png": ""},
    {"{}.png": "", "label_test/images/{}.png": ""},
    {
        "scene/rgb/{}.png": "scene/depth/{}.png",
        "scene_depth/rgb/{}.png": "scene_depth/depth/{}.png",
    },
    {"scene/{}.png": "scene/{}_depth.png", "scene_depth/{}.png": "scene_depth/{}_depth.png"},
    {"scene/{}_rgb.png": "", "scene_depth/{}_rgb.png": ""},
    {"images/{}.png": "masks/{}.png", "segm_test/images/{}.png": "segm_test/masks/{}.png"},
    # Names of several meanings.
    {"seg/{}.png": "seg/{}.json", "det/{}.png": "det/{}.json"},
    {"input/{}.png": "", "gt/{}.png": ""},
    # What an image has besides its mask or depth.
    {"{}.png": "masks/{}.png", "masks/semantic/{}.png": None},
    {"{}.png": "masks/{}.png", "masks/mask_overlay/{}.jpg": None},
    {"{}.png": "masks/{}.png", "masks/instance/{}.png": None},
    {"{}.png": "depth/{}.png", "depth/depth_color/{}.png": None},
    {"rgb/{}.png": "depth/{}.png", "depth_raw/{}.npy": None},
    # Images of one name.
    {"IMG_{}.jpg": "", "IMG_{}.png": ""},
    {"{}.jpg": "", "{}.webp": "", "{}.jpeg": ""},
    {"{}.tif": "", "{}.png": ""},
    {"{}.jpg": "{}_mask.png", "{}.png": "{}_mask.png"},
]


@pytest.mark.parametrize("use_masks", ["auto", "ignore"])
@pytest.mark.parametrize("layout", AS_BEFORE, ids=lambda layout: " ".join(layout))
def test_what_was_read_well_is_read_as_before(
    tmp_path: Path, layout: dict[str, str | None], use_masks: MaskUse
) -> None:
    """The images, what belongs to each, and None where a file is no image."""
    lay(tmp_path, *layout, *(name for name in layout.values() if name))
    expected = set()
    for image, besides in layout.items():
        if besides is not None:
            used = besides if use_masks == "auto" or "depth" in besides else ""
            expected.add(f"{image} {used}".strip().format(0, 0))
    assert read(tmp_path, use_masks=use_masks) == expected
    assert Folder(tmp_path, use_masks=use_masks).options()["names"] == "as before"


def test_photos_in_the_folder_that_masks_names(tmp_path: Path) -> None:
    lay(tmp_path, "train/{}.jpg", "train/{}.json", "val/{}.jpg", "{}.png")
    masks = tmp_path / "train"
    expected = {"train/0.jpg train/0.json", "val/0.jpg", "0.png"}
    assert read(tmp_path, masks) == expected
    (masks / "0.json").unlink()  # and a photo is no mask of itself
    assert read(tmp_path, masks) == {"train/0.jpg", "val/0.jpg", "0.png"}
    lay(tmp_path, "day/{}.png", "day/{}.label.png")
    assert "day/0.png day/0.label.png" in read(tmp_path, tmp_path / "day")


@pytest.mark.parametrize("kind", ["colour", "depth", "webp", "grey"])
def test_images_of_one_name(tmp_path: Path, kind: str) -> None:
    """Such a pair is two photos, as long as neither is an instance mask."""
    source = tmp_path / "in"
    photos(source, range(6), ".jpg")
    for number in range(6):
        if kind == "depth":
            ramp = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)
            write(source / f"{number}.png", ramp)
        elif kind == "grey":
            noise = np.random.default_rng(number).integers(0, 256, (48, 64), np.uint8)
            write(source / f"{number}.png", noise)
        else:
            suffix = ".png" if kind == "colour" else ".webp"
            write(source / f"{number}{suffix}", photo(number + 6))
    assert len(scan(source, None).items) == 12
    options = Folder(source).options()
    assert options["names"] == "as before" and options["mask_files"] is None
    write(source / "3.png", halves())
    found = {item.image.name: item.mask for item in scan(source, None).items}
    assert len(found) == (12 if kind == "webp" else 11)  # 3.webp is a photo still
    assert found["3.jpg"] == source / "3.png" and found["2.jpg"] is None
    assert Folder(source).options()["names"] == "by words"


def test_which_image_a_mask_belongs_to(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for number in range(3):
        write(source / f"{number}.png", photo(number))
        write(source / f"{number}.color.png", photo(number + 3))
    prepare(source, tmp_path / "out", *SIZE, "--min-change", "0")
    write(source / "1.label.png", halves())
    message = error_of(source, tmp_path / "out2", *SIZE)
    assert f"{source / '1.color.png'} and 1.png: either may be the image that a mask" in message
    assert len(scan(source, None, "ignore").items) == 6


def test_what_was_prepared_before_stays_valid(tmp_path: Path) -> None:
    """Of layouts that were understood, no option has changed."""
    source, masks = tmp_path / "in", tmp_path / "in" / "masks"
    photos(source / "images", range(6))
    listed = [write(masks / f"{number}.png", halves()) for number in range(6)]
    listed.append(write(masks / "semantic" / "0.png", halves()))
    for number in range(6):
        write(source / "depth" / f"{number}.png", np.ones((48, 64), np.uint16))
    (source / "gt").mkdir()
    (source / "gt" / "gt.txt").write_text("boxes")
    (source / "masks.txt").write_text("1.png")
    options = Folder(source).options()
    assert options["names"] == "as before" and options["decoding"] == 2
    assert options["mask_files"] == fingerprint(listed, source, times=True)
    assert Folder(source / "images").options()["mask_files"] is None
    # It was not written down.
    prepare(source, tmp_path / "out", *SIZE)
    for path in (tmp_path / "out").glob("*/info.json"):
        info = json.loads(path.read_text())
        del info["options"]["names"]
        path.write_text(json.dumps(info))
    prepare(source, tmp_path / "out", *SIZE)
    # What was taken for photos is not.
    masks.rename(source / "instance_masks")
    assert Folder(source).options()["names"] == "by words"
    message = error_of(source, tmp_path / "out", *SIZE)
    assert "files taken for photos by an earlier version are now masks or depth" in message


@pytest.mark.parametrize(
    ("names", "masks", "ignored"),
    [
        (("{}.jpg", "{}_seg.png"), None, "by words"),
        (("{}.jpg", "mask:{}.png"), None, "by words"),
        (("VOC/JPEGImages/{}.jpg", "VOC/masks/{}.png"), None, "as before"),
        (("images_jpg/{}.jpg", "images_png/{}.png", "masks/{}.png"), None, "as before"),
        (("{}.jpg", "../drawn/{}_seg.png"), "drawn", "as before"),
        (("images/{}.jpg", "drawn/{}.png"), "in/drawn", "by words"),
    ],
)
def test_what_is_read_in_another_way_is_prepared_again(
    tmp_path: Path, names: tuple[str, ...], masks: str | None, ignored: str
) -> None:
    source = tmp_path / "in"
    lay(source, *names)
    folder = None if masks is None else tmp_path / masks
    assert Folder(source, masks=folder).options()["names"] == "by words"
    assert Folder(source, masks=folder, use_masks="ignore").options()["names"] == ignored


def test_colour_masks_elsewhere(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(6))
    colours = np.zeros((20, 3), np.uint8)
    colours[7], colours[19] = (10, 200, 3), (250, 0, 0)
    for number in range(6):
        write(tmp_path / "drawn" / f"{number}.png", colours[halves()])
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--masks", str(tmp_path / "drawn"))
    check_halves(tmp_path / "out")


def test_folders_that_are_links(tmp_path: Path) -> None:
    photos(tmp_path / "disk" / "day1", range(3))
    photos(tmp_path / "in" / "day2", range(3, 6))
    (tmp_path / "in" / "day1").symlink_to(tmp_path / "disk" / "day1")
    (tmp_path / "in" / "day2" / "all").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "up").symlink_to("..")
    (tmp_path / "in" / "again").symlink_to("day2")
    (tmp_path / "in" / "before" / "it").mkdir(parents=True)
    (tmp_path / "in" / "before" / "link").symlink_to("../day2")
    (tmp_path / "disk" / "day1" / "up").symlink_to("..")
    photos(tmp_path / "disk" / "day0", range(8, 9))
    photos(tmp_path / "beside", range(6, 8))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    found = order(tmp_path / "out")
    assert sorted(number for split in SPLITS for number in found[split]) == list(range(6))
    files = input_files(tmp_path / "in")[0]
    assert {path.parent.name for path in files} == {"day1", "day2"}


def test_an_output_in_the_source_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(6))
    inside = tmp_path / "in" / "prepared"
    message = error_of(tmp_path / "in", inside, *SIZE)
    assert f"--output {inside} lies inside --source {tmp_path / 'in'}" in message
    assert not inside.exists()


def test_a_split_that_shows_nothing_new_is_empty(tmp_path: Path) -> None:
    """As the end of a recording at rest: val looks like test."""
    photos(tmp_path / "in", range(10))
    write(tmp_path / "in" / "8.png", photo(9))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    assert order(tmp_path / "out") == {"train": list(range(8)), "val": [], "test": [9]}


def test_a_photo_of_a_label_is_a_photo(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(5))
    write(tmp_path / "in" / "shipping-label.jpg", photo(9))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 6


def coco(names: list[str], *, rle: bool = False) -> dict[str, Any]:
    """A COCO file with two objects, a crowd and a box in each image."""
    polygons: list[Any] = [[[0, 0, 32, 0, 32, 48, 0, 48]], [[32, 0, 64, 0, 64, 48, 32, 48]]]
    if rle:  # column by column: first what is not covered
        polygons = [
            {"size": [48, 64], "counts": [0, 32 * 48, 32 * 48]},
            {"size": [48, 64], "counts": [32 * 48, 32 * 48]},
        ]
    images = [
        {"id": 10 + n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(names)
    ]
    annotations = [
        {"id": 100 * image["id"] + n, "image_id": image["id"], "segmentation": polygon}
        for image in images
        for n, polygon in enumerate(polygons)
    ]
    everything = {"size": [48, 64], "counts": [0, 48 * 64]}
    annotations.append(
        {"id": 1, "image_id": 10, "iscrowd": 1, "segmentation": everything, "bbox": [0, 0, 9, 9]}
    )
    annotations.append({"id": 2, "image_id": 10, "bbox": [0, 0, 9, 9]})
    return {"images": images, "annotations": annotations, "categories": []}


@pytest.mark.parametrize("rle", [False, True])
def test_coco(tmp_path: Path, rle: bool, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path / "in" / "images", range(6))
    content = coco([f"{number}.png" for number in range(6)], rle=rle)
    file = tmp_path / "in" / "annotations" / "instances.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    check_halves(tmp_path / "out")
    assert "left out: 2 annotations without the outline of one object" in capsys.readouterr().out
    file.rename(tmp_path / "coco.json")
    options = ("--masks", str(tmp_path / "coco.json"))
    prepare(tmp_path / "in", tmp_path / "out2", *SIZE, *options)
    check_halves(tmp_path / "out2")


def test_coco_boxes_alone_are_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images with boxes have objects, only nobody knows where they end: they are not empty."""
    photos(tmp_path / "in", range(6))
    content = coco([f"{number}.png" for number in range(6)])
    for annotation in content["annotations"]:
        if annotation["image_id"] >= 13 or annotation.get("iscrowd"):
            annotation["segmentation"] = []
    file = tmp_path / "in" / "coco.json"
    file.write_text(json.dumps(content))
    assert "3 of 6 images have a mask" in error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, "--use-masks", "need")
    assert sum(len(PreparedDataset(tmp_path / "out", split)) for split in SPLITS) == 3
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    file.write_text(json.dumps(content))
    capsys.readouterr()
    prepare(tmp_path / "in", tmp_path / "none", *SIZE)
    assert PreparedDataset(tmp_path / "none", "train").masks is None
    assert "left out: 14 annotations without the outline" in capsys.readouterr().out


def test_several_coco_files_of_the_same_images(tmp_path: Path) -> None:
    """As captions and empty files beside the instances."""
    photos(tmp_path / "in" / "images", range(6))
    names = [f"{number}.png" for number in range(6)]
    folder = tmp_path / "in" / "annotations"
    folder.mkdir()
    instances, captions, points = (coco(names) for _ in range(3))
    captions["annotations"] = [{"image_id": 10 + n, "caption": "a cup"} for n in range(6)]
    points["annotations"] = []
    instances["annotations"] = [a for a in instances["annotations"] if a["image_id"] != 15]
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "key_points.json").write_text(json.dumps(points))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    masks = [PreparedDataset(tmp_path / "out", split).masks for split in SPLITS]
    found = [int(mask.max()) for each in masks if each is not None for mask in each]
    assert found == [2, 2, 2, 2, 2, 0]  # that of which a caption alone tells is empty
    points["annotations"] = [{"image_id": 13, "bbox": [0, 0, 9, 9]}]
    instances["annotations"] = [a for a in instances["annotations"] if a["image_id"] != 13]
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "key_points.json").write_text(json.dumps(points))
    assert "5 of 6 images have a mask" in error_of(tmp_path / "in", tmp_path / "out1", *SIZE)
    (folder / "key_points.json").write_text(json.dumps(instances))
    message = error_of(tmp_path / "in", tmp_path / "out2", *SIZE)
    assert "instances.json" in message and "key_points.json both outline objects of" in message


def test_coco_files_beside_images_of_equal_names(tmp_path: Path) -> None:
    for day in ("day1", "day2"):
        photos(tmp_path / "in" / day, range(3) if day == "day1" else range(3, 6))
        if day == "day2":
            for number in range(3):
                path = tmp_path / "in" / day / f"{number + 3}.png"
                path.rename(path.with_name(f"{number}.png"))
        content = coco([f"{number}.png" for number in range(3)])
        (tmp_path / "in" / day / "_annotations.coco.json").write_text(json.dumps(content))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    check_halves(tmp_path / "out")


def test_coco_images_without_objects_are_labelled(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(6))
    content = coco([f"{number}.png" for number in range(6)])
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] < 12]
    (tmp_path / "in" / "coco.json").write_text(json.dumps(content))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    masks = PreparedDataset(tmp_path / "out", "train").masks
    assert masks is not None
    assert [int(mask.max()) for mask in masks] == [2, 2, 0, 0]


def test_coco_of_other_images_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(6))
    file = tmp_path / "in" / "coco.json"
    file.write_text(json.dumps(coco(["cat.png"])))
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert f"{file} names none of the images; its first is cat.png, theirs 0.png" in message
    file.write_text('{"images": [{"id": 1}], "annotations": []}')
    assert "is not as COCO files are" in error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    file.write_text('{"images": ')
    assert f"{file} is no JSON file" in error_of(tmp_path / "in", tmp_path / "out", *SIZE)


def labelme(shapes: list[dict[str, Any]], name: str) -> str:
    content = {"imagePath": name, "imageHeight": 48, "imageWidth": 64, "shapes": shapes}
    return json.dumps(content)


def test_labelme(tmp_path: Path) -> None:
    source = tmp_path / "in"
    photos(source, range(6))
    drawn = cv2.imencode(".png", np.full((48, 32), 255, np.uint8))[1].tobytes()
    shapes: list[dict[str, Any]] = [
        {"shape_type": "point", "label": "p", "points": [[3, 3]]},
        {"label": "cup", "points": [[0, 0], [20, 0], [20, 48], [0, 48]], "group_id": 4},
        {"label": "cup", "points": [[20, 0], [32, 48]], "shape_type": "rectangle", "group_id": 4},
        {
            "label": "box",
            "points": [[32, 0], [63, 47]],
            "shape_type": "mask",
            "mask": base64.b64encode(drawn).decode(),
        },
    ]
    for number in range(6):
        (source / f"{number}.json").write_text(labelme(shapes, f"{number}.png"))
    # One whose name differs from its image's is found by the path in it.
    (source / "5.json").rename(source / "five.json")
    prepare(source, tmp_path / "out", *SIZE)
    check_halves(tmp_path / "out")


def test_labelme_circles(tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.png", photo(1))
    circle = {"label": "c", "points": [[32, 24], [44, 24]], "shape_type": "circle"}
    (tmp_path / "in" / "1.json").write_text(labelme([circle], "1.png"))
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    masks = PreparedDataset(tmp_path / "out", "train").masks
    assert masks is not None
    # A radius of 12 of 48 px is one of 8 of 32.
    assert masks[0].sum() == pytest.approx(np.pi * 8**2, rel=0.05)
    assert masks[0, 16, 16] == 1 and masks[0, 3, 3] == 0


def test_some_images_have_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    photos(source, range(9))
    for number in range(5):
        write(source / f"{number}.label.png", halves())
    assert "5 of 9 images have a mask. --use-masks need" in error_of(source, tmp_path / "a", *SIZE)
    prepare(source, tmp_path / "labelled", *SIZE, "--use-masks", "need")
    check_halves(tmp_path / "labelled")
    assert "left out: 4 images without a mask" in capsys.readouterr().out
    prepare(source, tmp_path / "all", *SIZE, "--use-masks", "ignore")
    assert PreparedDataset(tmp_path / "all", "train").masks is None
    assert len(PreparedDataset(tmp_path / "all", "train")) == 3 + 2
    photos(tmp_path / "none", range(5))
    assert "none of 5 images has a mask" in error_of(
        tmp_path / "none", tmp_path / "b", "--use-masks", "need"
    )


@pytest.mark.parametrize("pattern", ["{0}", "{1}/{0}", "{2}/{0}"], ids=["flat", "few", "many"])
def test_what_is_held_out_with_masks_does_not_train_without_them(
    pattern: str, tmp_path: Path
) -> None:
    """In one folder, in two, and in so many that each is in one split."""
    source = tmp_path / "in"
    for number in range(48):
        name = pattern.format(number, number // 24, number // 3)
        write(source / f"{name}.png", photo(number))
        if number % 24 < 20:
            write(source / f"{name}.label.png", halves())
    prepare(source, tmp_path / "labelled", *SIZE, "--use-masks", "need")
    prepare(source, tmp_path / "all", *SIZE, "--use-masks", "ignore")

    def images(folder: str, split: str) -> set[bytes]:
        return {image.tobytes() for image in PreparedDataset(tmp_path / folder, split).images}

    for split in ("train", "val", "test"):
        assert images("labelled", split) < images("all", split)
    assert sum(len(images("all", split)) for split in ("train", "val", "test")) == 48


def test_masks_of_another_size(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(4))
    for number in range(4):
        write(tmp_path / "in" / f"{number}.label.png", halves(24, 32))
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert "the image has 64 x 48 pixels, its mask 32 x 24" in message


def test_a_mask_drawn_on_the_photo_as_it_is_stored(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        jpeg = cv2.imencode(".jpg", photo(number)[..., ::-1])[1].tobytes()
        (tmp_path / "in" / f"{number}.jpg").write_bytes(with_orientation(jpeg, 6))
        write(tmp_path / "in" / f"{number}.label.png", halves())
    prepare(tmp_path / "in", tmp_path / "out", *SIZE)
    check_halves(tmp_path / "out")
    (image,) = PreparedDataset(tmp_path / "out", "train").images
    assert np.abs(quarters(image) - quarters(photo(0)[:, 8:56])).max() <= 25


# --- depth


@pytest.mark.parametrize(
    "kind",
    [
        *("png", "npy", "npy in millimetres", "tif", "depth/{}.png"),
        *("depth_raw/{}.png", "Depth16/{}.png", "aligned_depth_to_color/{}.png"),
        *("depth_images/{}.png", "kinect_depth/{}.png"),
    ],
)
def test_depth(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in"
    photos(source, range(5))
    metres = np.full((24, 32), 1.5, np.float32)
    metres[:, 16:] = 0.75
    metres[:3] = 0
    for number in range(4):
        if kind == "npy":
            np.save(source / f"{number}.depth.npy", metres)
        elif kind == "npy in millimetres":
            np.save(source / f"{number}.depth.npy", 1000 * metres)
        elif kind == "tif":
            write(source / f"{number}.depth.tif", metres)
        else:
            name = "{}.depth.png" if kind == "png" else kind
            write(source / name.format(number), (5000 * metres).astype(np.uint16))
    camera = ("--intrinsics", "[60, 61, 31.5, 23.5]", "--depth-unit", "0.0002")
    prepare(source, tmp_path / "out", *SIZE, *camera)
    train = PreparedDataset(tmp_path / "out", "train")
    assert train.depths is not None and train.intrinsics is not None and len(train) == 3
    assert not left_out(tmp_path / "out")
    for depth in train.depths:
        assert (depth[5:, :14] == 1500).all() and (depth[5:, 18:] == 750).all()
        assert not depth[:3].any()
    # 48 pixels became 32; the principal point is in the middle still.
    np.testing.assert_allclose(train.intrinsics[0], [40, 61 * 2 / 3, 15.5, 15.5], atol=1e-4)
    # An image without depth is unknown everywhere.
    test = PreparedDataset(tmp_path / "out", "test")
    assert test.depths is not None and not test.depths.any()


def test_a_camera_that_is_guessed_is_said(tmp_path: Path) -> None:
    source = tmp_path / "in"
    photos(source, range(6))
    for number in range(4):
        write(source / "depth" / f"{number}.png", np.full((48, 64), 900, np.uint16))
        write(source / "depth_colormap" / f"{number}.png", photo(number))
    prepare(source, tmp_path / "out", *SIZE)
    assert left_out(tmp_path / "out") == {
        "drawings of masks or depth (visualisations)": 4,
        "intrinsics, as none were given: those of a usual camera stand for them": 4,
    }


def test_all_of_an_image_squeezed(tmp_path: Path) -> None:
    """Image, mask, depth and camera: 48 x 96 pixels become 32 x 32, from edge to edge."""
    labels, depth = np.zeros((48, 96), np.uint8), np.full((48, 96), 1000, np.uint16)
    labels[:12, :24], labels[36:, 72:], depth[24:, 48:] = 1, 2, 2000
    for number in range(10):
        write(tmp_path / f"in/{number}.png", photo(number, 48, 96))
        write(tmp_path / f"in/{number}.label.png", labels)
        write(tmp_path / f"in/{number}.depth.png", depth)
    camera = ("--intrinsics", "[60, 61, 47.5, 23.5]")
    prepare(tmp_path / "in", tmp_path / "out", *SIZE, *camera, "--fit", "resize")
    train = PreparedDataset(tmp_path / "out", "train")
    for number, image in enumerate(train.images):
        np.testing.assert_array_equal(quarters(image), photo(number, 2, 2))
    assert train.masks is not None and train.depths is not None and train.intrinsics is not None
    expected = np.zeros((32, 32), np.uint8)
    expected[:8, :8], expected[24:, 24:] = 1, 2
    np.testing.assert_array_equal(train.masks[0], expected)
    far = np.full((32, 32), 1000, np.uint16)
    far[16:, 16:] = 2000
    np.testing.assert_array_equal(train.depths[0], far)
    np.testing.assert_allclose(train.intrinsics[0], [20, 61 * 2 / 3, 15.5, 15.5], atol=1e-4)


def test_one_side_shrinks_and_one_grows() -> None:
    """Columns are averaged, or else every second one of fine stripes would be seen."""
    stripes = np.zeros((24, 128, 3), np.uint8)
    stripes[:, ::2] = 200
    assert (resize_image(stripes, 32, 32) == 100).all()


def test_depth_of_another_view(tmp_path: Path) -> None:
    photos(tmp_path / "in", range(4))
    for number in range(4):
        write(tmp_path / "in" / f"{number}.depth.png", np.ones((40, 64), np.uint16))
    message = error_of(tmp_path / "in", tmp_path / "out", *SIZE)
    assert "its depth 64 x 40: they cannot show the same view" in message
    for number in range(4):
        write(tmp_path / "in" / f"{number}.depth.png", np.ones((48, 64), np.uint8))
    assert "holds no depth; expected" in error_of(tmp_path / "in", tmp_path / "out2", *SIZE)


# --- the rest


@pytest.mark.slow
def test_real_labelled_images(shared_data: Path, tmp_path: Path) -> None:
    options = ("--use-masks", "need", "--val", "0", "--test", "0", "--image-size", "64")
    prepare(shared_data / "real", tmp_path, *options, "--min-change", "0")
    data = PreparedDataset(tmp_path, "train")
    assert data.masks is not None
    images = list((shared_data / "real").glob("*.label.png"))
    assert len(data) == len(images)
    assert all(mask.any() for mask in data.masks)


def test_the_reader_for_a_path(tmp_path: Path) -> None:
    photos(tmp_path / "photos", range(3))
    (tmp_path / "photos" / "clip.mp4").write_bytes(b"")
    assert reader_for(tmp_path / "photos") == "folder"
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.docx").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"nothing that can be prepared.*found 1 \.docx"):
        reader_for(tmp_path / "notes")
    with pytest.raises(DatasetError, match="does not exist"):
        reader_for(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--val", "0.6", "--test", "0.5"), "expected shares that leave some to train"),
        (("--min-change", "300"), "min_change is 300.0; expected 0 to 255"),
        (("--exposure", "7"), "exposure is 7.0"),
        (("--depth-unit", "0"), "depth_unit is 0.0"),
    ],
)
def test_bad_options(
    tmp_path: Path, options: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path / "in", range(3))
    message = error_of(tmp_path / "in", tmp_path / "out", *options)
    assert expected in message + capsys.readouterr().err
