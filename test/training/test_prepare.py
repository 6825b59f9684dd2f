"""Preparing every data set from files in its true format, whole, damaged and interrupted."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from genesis_sim import RenderingError, TabletopRenderer
from training.datasets.parts import OPTIONS, PARTS, make_parts
from training.datasets.prepared import PreparedDataset
from training.datasets.sketchy import Sketchy
from training.datasets.sprites import Sprites
from training.datasets.tabletop import Tabletop, scene_seed
from training.prepare import main
from training.tfrecord import parse_example, read_file

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("train", "val", "test")

Build = Callable[..., bytes]


def prepare(dataset: str, source: Path | None, output: Path, *options: str) -> None:
    given = [] if source is None else ["--source", str(source)]
    main([dataset, *given, "--output", str(output), "--workers", "1", *options])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message with which a preparation ends."""
    with pytest.raises(SystemExit) as caught:
        prepare(*arguments)  # type: ignore[arg-type]
    assert caught.value.code not in (0, None)
    return str(caught.value.code) + capsys.readouterr().err


def arrays(output: Path) -> dict[str, bytes]:
    """All files of a prepared data set."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file()
    }


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    """An RGB or grey image as a file's bytes."""
    if image.ndim == 3:
        image = image[..., ::-1]
    return cv2.imencode(suffix, image)[1].tobytes()


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(image))


def plain(value: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


# --- Sketchy


def timestep(value: int) -> dict[str, object]:
    """A timestep whose cameras see `value` and value + 100."""
    return {
        "pixels/basket_front_left": encode(plain(value, 600, 960)),
        "pixels/basket_front_right": encode(plain(value + 100, 600, 960)),
        "pixels/usbcam0": b"not needed",
        "sawyer/joints/angle": np.zeros(7, np.float32),
        "a key of tomorrow": np.arange(3),
    }


def episodes(tfrecords: Build, count: int = 12) -> dict[str, bytes]:
    """Episodes of one timestep, but of two where the number is odd."""
    return {
        f"{number:020d}_b615a417": tfrecords([timestep(number)] * (1 + number % 2))
        for number in range(count)
    }


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:bz2") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def archives(tmp_path: Path, tfrecords: Build) -> Path:
    """12 episodes in two archives, in another order than that of their names."""
    content = list(episodes(tfrecords).items())
    source = tmp_path / "archives"
    write_archive(source / "lift-00000-of-00002.tar.bz2", dict(content[:5:-1]))
    write_archive(source / "lift-00001-of-00002.tar.bz2", dict(content[5::-1]))
    (source / "metadata.sqlite").write_bytes(b"not an episode")
    return source


def test_sketchy_real_episode(shared_data: Path, tmp_path: Path) -> None:
    prepare("sketchy", shared_data / "sketchy", tmp_path)
    dataset = PreparedDataset(tmp_path, "train")
    assert dataset.images.shape == (4 * 2 * 7, 128, 128, 3)
    assert dataset.masks is None
    assert dataset.info["dataset"] == "sketchy" and dataset.info["problems"] == 0
    with open(shared_data / "sketchy" / "example_data.tfrecords", "rb") as file:
        steps = [parse_example(record.data) for record in read_file(file, "example")]
    views = [("left", slice(71, -81)), ("right", slice(91, -61))]
    windows = [(slice(0, 448), slice(112, 560))]
    windows += [
        (slice(top, top + 352), slice(left, left + 352))
        for top in (0, 96)
        for left in (0, 160, 320)
    ]
    position = 0
    for step in steps:
        for camera, rows in views:
            (jpeg,) = step[f"pixels/basket_front_{camera}"].bytes_list()
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            basket = image[rows, 144:-144]
            assert basket.shape == (448, 672, 3)
            for window in windows:
                expected = cv2.resize(np.ascontiguousarray(basket[window]), (128, 128))
                np.testing.assert_array_equal(dataset.images[position], expected)
                position += 1


def test_sketchy_splits_by_the_order_of_names(archives: Path, tmp_path: Path) -> None:
    prepare("sketchy", archives, tmp_path / "out", "--image-size", "32")
    found = {
        split: PreparedDataset(tmp_path / "out", split).images[::7, 16, 16, 0].tolist()
        for split in SPLITS
    }
    assert found["val"] == [0, 100]
    assert found["test"] == [1, 101] * 2
    assert found["train"] == [value for n in range(2, 12) for value in [n, n + 100] * (1 + n % 2)]


def test_sketchy_that_has_grown_is_noticed(
    archives: Path, tmp_path: Path, tfrecords: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second download beside the first; what was prepared before this was told stays."""
    out, size = tmp_path / "out", ("--image-size", "16")
    prepare("sketchy", archives, out, *size)
    prepare("sketchy", archives, out, *size)
    assert "is prepared already" in capsys.readouterr().out
    infos = [(path, json.loads(path.read_text())) for path in out.glob("*/info.json")]
    for path, info in infos:
        told = {name: value for name, value in info["options"].items() if name != "files"}
        path.write_text(json.dumps(info | {"options": told}))
    prepare("sketchy", archives, out, *size)
    assert "is prepared already" in capsys.readouterr().out
    for path, info in infos:
        path.write_text(json.dumps(info))
    write_archive(archives / "stack.tar.bz2", {"new": next(iter(episodes(tfrecords).values()))})
    message = error_of(capsys, "sketchy", archives, out, *size)
    assert "files of the source were added, removed or changed since; remove it first" in message


@pytest.mark.slow
def test_sketchy_is_the_same_by_whatever_way(
    archives: Path, tmp_path: Path, tfrecords: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--image-size", "16")
    prepare("sketchy", archives, tmp_path / "archives_out", *size)
    expected = arrays(tmp_path / "archives_out")

    extracted = tmp_path / "extracted"
    for number, (name, content) in enumerate(episodes(tfrecords).items()):
        folder = extracted / ("first" if number % 2 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    prepare("sketchy", extracted, tmp_path / "extracted_out", *size)

    prepare("sketchy", archives, tmp_path / "parallel_out", *size, "--workers", "3")

    for output in ("extracted_out", "parallel_out"):
        found = arrays(tmp_path / output)
        assert found.keys() == expected.keys()
        assert all(found[name] == expected[name] for name in found if name.endswith(".npy"))

    capsys.readouterr()
    prepare("sketchy", archives, tmp_path / "archives_out", *size)
    assert "prepared already" in capsys.readouterr().out
    message = error_of(capsys, "sketchy", archives, tmp_path / "archives_out")
    assert "image_size was 16, now 128" in message


def test_sketchy_corrupt_records(
    tmp_path: Path, tfrecords: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    good = tfrecords([timestep(1), timestep(2), timestep(3)])
    second = len(tfrecords([timestep(1)]))
    bad = bytearray(good)
    bad[second + 40] ^= 1
    episode = source / "episode"
    episode.write_bytes(bad)

    message = error_of(capsys, "sketchy", source, output)
    assert f"{episode}: byte {second}: CRC of a record's data is wrong" in message
    assert "--on-error skip" in message

    prepare("sketchy", source, output, "--on-error", "skip")
    images = PreparedDataset(output, "train").images
    assert images[::7, 64, 64, 0].tolist() == [1, 101, 3, 103]
    assert f"{episode}: byte {second}" in (output / "problems.txt").read_text()
    assert json.loads((output / "train" / "info.json").read_text())["problems"] == 1


@pytest.mark.slow
def test_sketchy_input_that_was_mended_is_made_again(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, size = tmp_path / "out", ("--image-size", "16")
    prepare("sketchy", archives, tmp_path / "whole", *size)
    broken = archives / "lift-00000-of-00002.tar.bz2"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) * 2 // 3])
    # All parts are made, one with damage, and nothing is joined yet.
    make_parts(Sketchy(archives, 16), output, workers=1, on_error="skip")
    assert f"{broken}: byte" in capsys.readouterr().err
    broken.write_bytes(content)
    prepare("sketchy", archives, output, *size)
    found, expected = arrays(output), arrays(tmp_path / "whole")
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut off", "flipped"])
def test_sketchy_damaged_archive(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    # The members in the middle of the second archive, 5 to 0, cannot be read.
    broken = archives / "lift-00001-of-00002.tar.bz2"
    content = bytearray(broken.read_bytes())
    if damage == "cut off":
        content = content[:-20]
    else:
        content[len(content) // 2] ^= 0xFF
    broken.write_bytes(content)
    size = ("--image-size", "16")
    message = error_of(capsys, "sketchy", archives, tmp_path / "out", *size)
    assert str(broken) in message and "byte" in message
    prepare("sketchy", archives, tmp_path / "out", *size, "--on-error", "skip")
    assert str(broken) in (tmp_path / "out" / "problems.txt").read_text()
    train = PreparedDataset(tmp_path / "out", "train").images[:, 8, 8, 0]
    assert {6, 7, 8, 9, 10, 11} <= set(train.tolist())


def test_sketchy_timesteps_that_lack_an_image(
    tmp_path: Path, tfrecords: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = timestep(1)
    del missing["pixels/basket_front_right"]
    small = {**timestep(2), "pixels/basket_front_left": encode(plain(0, 300, 480))}
    broken = timestep(3)
    broken["pixels/basket_front_left"] = broken["pixels/basket_front_left"][:-30]  # type: ignore[index]
    source = tmp_path / "in"
    source.mkdir()
    (source / "episode").write_bytes(tfrecords([missing, small, broken, b"\x08\x01\x0b"]))
    prepare("sketchy", source, tmp_path / "out", "--on-error", "skip")
    reported = capsys.readouterr().err
    assert "byte 0: pixels/basket_front_right: the timestep has no such image" in reported
    assert "expected 600 x 960 pixels, found (300, 480)" in reported
    assert "pixels/basket_front_left: the image cannot be decoded" in reported
    assert "not a tf.train.Example" in reported
    images = PreparedDataset(tmp_path / "out", "train").images
    assert images[::7, 64, 64, 0].tolist() == [1, 102, 103]


def test_sketchy_with_nothing_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "episode").write_bytes(b"<html>404 Not Found</html>")
    message = error_of(capsys, "sketchy", source, tmp_path / "out", "--on-error", "skip")
    assert "holds no images" in message


# --- APC


@pytest.fixture
def apc(tmp_path: Path) -> Path:
    """20 scenes and the empty one, of two 640 x 480 frames with the object at the left."""
    for number in range(20):
        scene = (
            tmp_path / "in" / "training" / "shelf" / f"object_{number % 3}" / f"scene-{number:04d}"
        )
        mask = np.zeros((480, 640), np.uint8)
        mask[:, :320] = 255 if number % 2 else 1  # both occur
        for frame in range(2):
            write_image(scene / f"frame-{frame:06d}.color.png", plain(10 * number, 480, 640))
            write_image(scene / f"frame-{frame:06d}.depth.png", np.zeros((480, 640), np.uint16))
            write_image(scene / "masks" / f"frame-{frame:06d}.mask.png", mask)
    empty = tmp_path / "in" / "training" / "tote" / "scene-empty"
    write_image(empty / "frame-000000.color.png", plain(255, 480, 640))
    return tmp_path / "in"


@pytest.mark.slow
def test_apc(apc: Path, tmp_path: Path) -> None:
    prepare("apc", apc, tmp_path / "out")
    scenes = []
    for split, count in (("train", 17), ("val", 2), ("test", 2)):
        dataset = PreparedDataset(tmp_path / "out", split)
        assert dataset.masks is not None
        assert dataset.images.shape[1:] == (128, 128, 3)
        values = dataset.images[:, 64, 64, 0].tolist()
        # Scenes are shuffled, but no scene is in two splits.
        assert len(set(values)) == count
        scenes += sorted(set(values))
        for value, image, mask in zip(values, dataset.images, dataset.masks, strict=True):
            assert (image == value).all()
            if value == 255:
                assert not mask.any()
            else:
                assert mask[:, :64].all() and not mask[:, 64:].any()
    assert sorted(scenes) == [*range(0, 200, 10), 255]

    # The split does not depend on which folder is named as the source.
    prepare("apc", apc / "training", tmp_path / "inner")
    for split in SPLITS:
        first, second = (PreparedDataset(tmp_path / out, split) for out in ("out", "inner"))
        np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.slow
def test_apc_missing_mask(apc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = apc / "training" / "shelf" / "object_0" / "scene-0003"
    (scene / "masks" / "frame-000001.mask.png").unlink()
    (scene / "frame-000000.color.png").write_bytes(b"")
    message = error_of(capsys, "apc", apc, tmp_path / "out")
    assert str(scene) in message
    prepare("apc", apc, tmp_path / "out", "--on-error", "skip")
    problems = (tmp_path / "out" / "problems.txt").read_text()
    assert "frame-000001.mask.png is missing" in problems
    assert "frame-000000.color.png: the image cannot be decoded (0 bytes)" in problems
    counts = [PreparedDataset(tmp_path / "out", split).info["count"] for split in SPLITS]
    assert sum(counts) == 41 - 2


def test_apc_real_frames(shared_data: Path, tmp_path: Path) -> None:
    prepare("apc", shared_data / "apc", tmp_path)
    dataset = PreparedDataset(tmp_path, "train")
    assert dataset.images.shape == (5, 128, 128, 3)
    assert dataset.masks is not None
    grey_values = [48, 114, 132, 144]
    for number, mask in enumerate(dataset.masks):
        assert np.unique(mask).tolist() == [0, 1, 2, 3, 4]
        path = shared_data / "apc" / "scene-0000" / "segm" / f"frame-{number:06d}.segm.png"
        grey = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, 80:-80]
        for label, value in enumerate(grey_values, 1):
            # The same share of the image, but for the pixels at the edges.
            assert abs((mask == label).mean() - (grey == value).mean()) < 0.005
    # The first frame shows a blue-green box in the middle, label 3.
    box = dataset.images[0][dataset.masks[0] == 3].mean(0)
    assert box[2] > box[0] + 30


def two_objects() -> np.ndarray:
    """Labels (480, 640) with an object at the left and one at the right."""
    labels = np.zeros((480, 640), np.uint8)
    labels[:, :300], labels[:, 340:] = 1, 2
    return labels


def palette_png(labels: np.ndarray) -> bytes:
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 0, 128, 0, 0, 0, 128])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


GREENS = np.array([[0, 0, 0], [0, 128, 0], [0, 255, 0]], np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask",
    [
        palette_png(two_objects()),
        encode(GREENS[two_objects()]),
        encode(GREENS[:, [0, 0, 1]][two_objects()]),
        encode(np.array([0, 256, 40000], np.uint16)[two_objects()]),
    ],
    ids=["palette", "green", "blue", "16 bits"],
)
def test_apc_segments_of_any_format_are_instances(
    apc: Path, tmp_path: Path, mask: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in list(apc.rglob("*.mask.png")):
        segments = path.parent.with_name("segm") / path.name.replace(".mask.", ".segm.")
        segments.parent.mkdir(exist_ok=True)
        segments.write_bytes(mask)
        path.unlink()
    prepare("apc", apc, tmp_path / "out", "--image-size", "64")
    for split in SPLITS:
        dataset = PreparedDataset(tmp_path / "out", split)
        assert dataset.masks is not None
        for image, labels in zip(dataset.images, dataset.masks, strict=True):
            if image[0, 0, 0] != 255:  # that of the empty scene
                assert np.unique(labels[:, :28]) == 1 and np.unique(labels[:, 36:]) == 2
        assert 0.8 < dataset.info["label_share"] <= 1
    assert "labelled pixels: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "mask",
    [
        encode(np.array([0, 128, 255], np.uint8)[two_objects()]),
        encode(cv2.blur(np.array([0, 255, 255], np.uint8)[two_objects()], (9, 9))),
        encode(GREENS[two_objects()]),
    ],
    ids=["greys", "smoothed", "green"],
)
def test_apc_masks_show_one_object_whatever_their_values(
    apc: Path, tmp_path: Path, mask: bytes
) -> None:
    for path in apc.rglob("*.mask.png"):
        path.write_bytes(mask)
    prepare("apc", apc, tmp_path / "out", "--image-size", "64")
    dataset = PreparedDataset(tmp_path / "out", "train")
    assert dataset.masks is not None
    shown = [labels for image, labels in zip(dataset.images, dataset.masks, strict=True)
             if image[0, 0, 0] != 255]  # fmt: skip
    for labels in shown:
        assert (labels[:, :28] == 1).all() and (labels[:, 36:] == 1).all()
        assert not labels[:, 32].any()
    assert len(shown) > 10


@pytest.mark.slow
def test_apc_masks_that_are_no_labels_are_refused(
    apc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = next(iter(sorted(apc.rglob("*.mask.png"))))
    mask.write_bytes(encode(two_objects() * 100, ".jpg"))
    message = error_of(capsys, "apc", apc, tmp_path / "out")
    assert f"its mask {mask}: it is stored with loss" in message


@pytest.mark.slow
def test_a_split_without_any_label_is_an_error(
    apc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in apc.rglob("*.mask.png"):
        write_image(path, np.zeros((480, 640), np.uint8))
    message = error_of(capsys, "apc", apc, tmp_path / "out", "--image-size", "16")
    assert "no pixel of the masks of" in message and "read as background alone" in message
    assert not (tmp_path / "out" / "train" / "info.json").exists()
    # Once mended, and the parts removed as the message says, it is prepared.
    assert f"remove {tmp_path / 'out' / 'parts'}" in message
    for path in apc.rglob("*.mask.png"):
        write_image(path, two_objects())
    shutil.rmtree(tmp_path / "out" / "parts")
    prepare("apc", apc, tmp_path / "out", "--image-size", "16")


def test_empty_scenes_alone_are_no_error(apc: Path, tmp_path: Path) -> None:
    prepare("apc", apc / "training" / "tote", tmp_path / "out", "--image-size", "16")
    assert PreparedDataset(tmp_path / "out", "train").info["label_share"] == 0


CLUTTER = ("README.md", ".DS_Store", "Thumbs.db")


@pytest.mark.slow
def test_apc_clutter_is_skipped_and_counted(
    apc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("apc", apc, tmp_path / "clean", "--image-size", "16")
    scene = apc / "training" / "shelf" / "object_0" / "scene-0000"
    for name in (*CLUTTER, "._frame-000000.color.png", "masks/._frame-000000.mask.png"):
        (scene / name).write_bytes(b"no image")
    copied = apc / "__MACOSX" / "scene-0000"
    write_image(copied / "frame-000000.color.png", plain(77, 480, 640))
    capsys.readouterr()
    prepare("apc", apc, tmp_path / "out", "--image-size", "16")
    captured = capsys.readouterr()
    assert "skipped 6 files that are no data: __MACOSX/scene-0000/frame-000000" in captured.err
    assert "and 1 more" in captured.err
    assert "files that are no data, skipped: 6" in captured.out
    for split in SPLITS:
        clean, found = (PreparedDataset(tmp_path / out, split) for out in ("clean", "out"))
        np.testing.assert_array_equal(clean.images, found.images)
        assert (clean.info["skipped"], found.info["skipped"]) == (0, 6)


@pytest.mark.slow
def test_sketchy_clutter_is_skipped_and_counted(
    archives: Path, tmp_path: Path, tfrecords: Build
) -> None:
    """READMEs look like extracted episodes: they have no suffix either."""
    size = ("--image-size", "16")
    prepare("sketchy", archives, tmp_path / "clean", *size)
    for name in ("README", "LICENSE", "._lift-00000-of-00002.tar.bz2", ".DS_Store"):
        (archives / name).write_bytes(b"no episode")
    more = {"lift/README": b"no episode", "lift/._00000000000000000001_b615a417": b"resources"}
    write_archive(archives / "lift-00002-of-00003.tar.bz2", more)
    prepare("sketchy", archives, tmp_path / "out", *size)
    for split in SPLITS:
        clean, found = (PreparedDataset(tmp_path / out, split) for out in ("clean", "out"))
        np.testing.assert_array_equal(clean.images, found.images)
        assert found.info["skipped"] == 6 and found.info["problems"] == 0
        assert "label_share" not in found.info


def test_objects_room_and_shapestacks_skip_clutter(
    shapestacks: Path, tmp_path: Path, tfrecords: Build
) -> None:
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    content = tfrecords([room(number, 7) for number in range(6)], compress=True)
    (rooms / "objects_room_train.tfrecords").write_bytes(content)
    (rooms / "._objects_room_train.tfrecords").write_bytes(b"resources")
    prepare("objects_room", rooms, tmp_path / "out", "--test", "2", "--val", "2")
    assert PreparedDataset(tmp_path / "out", "val").info["skipped"] == 1

    for folder in (shapestacks / "recordings").iterdir():
        (folder / "._rgb-w=3-f=1-l=2-c=unique-cam_1-mono-0.png").write_bytes(b"resources")
    prepare("shapestacks", shapestacks, tmp_path / "stacks")
    assert PreparedDataset(tmp_path / "stacks", "test").info["skipped"] == 3


def test_rooms_known_to_be_empty_need_no_labels(tmp_path: Path, tfrecords: Build) -> None:
    content = tfrecords([room(number, 4) for number in range(2)], compress=True)
    (tmp_path / "objects_room_test_empty_room.tfrecords").write_bytes(content)
    prepare("objects_room", tmp_path, tmp_path / "out", "--variant", "empty_room")
    assert PreparedDataset(tmp_path / "out", "test").info["label_share"] == 0


# --- ObjectsRoom


def one_byte_strings(array: np.ndarray) -> list[bytes]:
    """How multi_object_datasets stores an array: a string per byte."""
    return [bytes([value]) for value in array.tobytes()]


def room(number: int, entities: int) -> dict[str, object]:
    """Entity k fills the rows from 64 k / entities on."""
    rows = np.arange(64) * entities // 64
    masks = np.zeros((entities, 64, 64, 1), np.uint8)
    masks[rows, np.arange(64)] = 255
    image = np.full((64, 64, 3), number, np.uint8)
    return {"image": one_byte_strings(image), "mask": one_byte_strings(masks)}


def test_objects_room(tmp_path: Path, tfrecords: Build) -> None:
    content = tfrecords([room(number, 7) for number in range(9)], compress=True)
    (tmp_path / "objects_room_train.tfrecords").write_bytes(content)
    prepare("objects_room", tmp_path, tmp_path / "out", "--test", "2", "--val", "3")
    expected = {"test": [0, 1], "val": [2, 3, 4], "train": [5, 6, 7, 8]}
    for split, numbers in expected.items():
        dataset = PreparedDataset(tmp_path / "out", split)
        assert dataset.images[:, 0, 0, 0].tolist() == numbers
        assert dataset.masks is not None
        for mask in dataset.masks:
            # The first four entities are background.
            np.testing.assert_array_equal(
                mask, np.maximum(np.arange(64) * 7 // 64 - 3, 0)[:, None] + np.zeros(64, int)
            )


def test_objects_room_downloaded_anew_is_noticed(
    tmp_path: Path, tfrecords: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "objects_room_train.tfrecords"
    content = tfrecords([room(number, 7) for number in range(6)], compress=True)
    path.write_bytes(content[: len(content) // 2])  # the download was cut off
    options = ("--test", "1", "--val", "1")
    prepare("objects_room", tmp_path, tmp_path / "out", *options, "--on-error", "skip")
    path.write_bytes(content)
    message = error_of(capsys, "objects_room", tmp_path, tmp_path / "out", *options)
    assert "files of the source were added, removed or changed since" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "entities"), [("six_objects", 10), ("identical_color", 10), ("empty_room", 4)]
)
def test_objects_room_variants_are_test_sets(
    tmp_path: Path, tfrecords: Build, variant: str, entities: int
) -> None:
    for name, count in (("train", 7), (f"test_{variant}", entities)):
        content = tfrecords([room(1, count), room(2, count)], compress=True)
        (tmp_path / f"objects_room_{name}.tfrecords").write_bytes(content)
    prepare("objects_room", tmp_path, tmp_path / "out", "--variant", variant)
    dataset = PreparedDataset(tmp_path / "out", "test")
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 2]
    assert dataset.masks is not None and dataset.masks.max() == entities - 4


def test_objects_room_damage_does_not_move_the_splits(tmp_path: Path, tfrecords: Build) -> None:
    records = [room(number, 7) for number in range(6)]
    records[1]["mask"] = records[1]["mask"][:-1]  # type: ignore[index]
    content = bytearray(tfrecords(records))
    content[-50] ^= 1
    third = len(tfrecords(records[:3]))
    content[third + 30] ^= 1
    (tmp_path / "objects_room_train.tfrecords").write_bytes(content)
    options = ("--test", "2", "--val", "2", "--on-error", "skip")
    prepare("objects_room", tmp_path, tmp_path / "out", *options)
    found = {s: PreparedDataset(tmp_path / "out", s).images[:, 0, 0, 0].tolist() for s in SPLITS}
    assert found == {"test": [0], "val": [2], "train": [4]}
    problems = (tmp_path / "out" / "problems.txt").read_text()
    assert "mask has 28671 bytes, expected (7, 64, 64)" in problems
    assert f"byte {third}: CRC of a record's data is wrong" in problems


# --- ShapeStacks


@pytest.fixture
def shapestacks(tmp_path: Path) -> Path:
    """Three scenarios of two cameras; the image tells of its place, the masks of the camera."""
    source = tmp_path / "in"
    (source / "splits" / "default").mkdir(parents=True)
    rows, columns = np.mgrid[:224, :224].astype(np.uint8)
    for number, name in enumerate(("train", "eval", "test")):
        scenario = f"env_ccs-hard-h=3-vcom=0-vpsf=0-v={number}"
        (source / "splits" / "default" / f"{name}.txt").write_text(f"{scenario}\n")
        for camera in (1, 12):
            image = np.stack([rows, columns, np.full_like(rows, camera)], -1)
            write_image(
                source
                / "recordings"
                / scenario
                / f"rgb-w=3-f=1-l=2-c=unique-cam_{camera}-mono-0.png",
                image,
            )
            labels = np.zeros((224, 224), np.uint8)
            labels[:, 112:] = 2 if camera == 1 else 5
            red = np.dstack([labels * 32, np.full_like(labels, 7), np.full_like(labels, 9)])
            name_of_mask = f"iseg-w=0-f=0-l=0-c=original-cam_{camera}-mono-0"
            path = source / "iseg" / scenario / name_of_mask
            write_image(path, red)
            path.rename(path.with_name(f"{name_of_mask}.map"))
    return source


def test_shapestacks(shapestacks: Path, tmp_path: Path) -> None:
    prepare("shapestacks", shapestacks, tmp_path / "out", "--image-size", "98")
    for split in SPLITS:
        dataset = PreparedDataset(tmp_path / "out", split)
        assert dataset.images.shape == (2, 98, 98, 3)
        assert dataset.masks is not None
        cameras = {1: 2, 12: 5}
        assert sorted(dataset.images[:, 0, 0, 2].tolist()) == [1, 12]
        for image, mask in zip(dataset.images, dataset.masks, strict=True):
            # Every pixel is the mean of 2 x 2 of the central 196 x 196, from pixel 14 on.
            np.testing.assert_allclose(image[:, 0, 0], 14.5 + 2 * np.arange(98), atol=0.5)
            np.testing.assert_allclose(image[0, :, 1], 14.5 + 2 * np.arange(98), atol=0.5)
            label = cameras[int(image[0, 0, 2])]
            assert not mask[:, :49].any() and (mask[:, 49:] == label).all()


def test_shapestacks_damage(
    shapestacks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = sorted((shapestacks / "iseg").glob("*v=0/*.map"))
    first.unlink()
    second.write_bytes(encode(np.full((224, 224, 3), 33, np.uint8)))
    (shapestacks / "splits" / "default" / "test.txt").write_text("env_of_elsewhere\n")
    assert "No such file" in error_of(capsys, "shapestacks", shapestacks, tmp_path / "out")
    prepare("shapestacks", shapestacks, tmp_path / "out", "--on-error", "skip")
    problems = (tmp_path / "out" / "problems.txt").read_text()
    assert str(first) in problems
    assert f"{second} is no instance map: its values are not multiples of 32" in problems
    assert "env_of_elsewhere" in problems
    assert len(PreparedDataset(tmp_path / "out", "val")) == 2


# --- Tabletop


@pytest.mark.slow
def test_tabletop(tmp_path: Path) -> None:
    try:
        TabletopRenderer(32, 32, "mixed")
    except RenderingError as error:
        pytest.skip(str(error))
    options = ("--image-size", "32", "--train", "3", "--val", "1", "--test", "1")
    prepare("tabletop", None, tmp_path, *options)
    dataset = PreparedDataset(tmp_path, "train")
    assert dataset.images.shape == (3, 32, 32, 3)
    assert dataset.masks is not None and dataset.masks.any()
    assert dataset.info["options"]["mode"] == "mixed"


@pytest.mark.slow
def test_tabletop_with_depth_and_more_objects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        renderer = TabletopRenderer(32, 32, "varied", (9, 10))
    except RenderingError as error:
        pytest.skip(str(error))
    sizes = ("--image-size", "32", "--train", "2", "--val", "1", "--test", "1")
    options = ("--mode", "varied", "--min-objects", "9", "--max-objects", "10", "--depth", "true")
    prepare("tabletop", None, tmp_path / "out", *sizes, *options)
    dataset = PreparedDataset(tmp_path / "out", "train")
    assert dataset.images.shape == (2, 32, 32, 4) and dataset.channels == 4
    assert dataset.info["channels"] == 4
    assert dataset.info["options"]["max_objects"] == 10
    with renderer:
        for index, (image, mask) in enumerate(zip(dataset.images, dataset.masks, strict=True)):
            frame = renderer.sample(scene_seed(0, "train", index))
            assert (image[..., :3] == frame.image).all() and (mask == frame.labels).all()
            assert len(frame.objects) in (9, 10)
            # 255 stands for two metres and more.
            expected = np.minimum(frame.depth * 127.5, 255)
            np.testing.assert_allclose(image[..., 3], expected, atol=0.5001)
    many = ("--mode", "varied", "--min-objects", "9")
    message = error_of(capsys, "tabletop", None, tmp_path / "many", *sizes, *many)
    assert "num_objects is (9, 6); expected 1 <= fewest <= most" in message
    for given in ("--min-objects", "2"), ("--max-objects", "6"):
        message = error_of(capsys, "tabletop", None, tmp_path / "mixed", *sizes, *given)
        assert "6): only for modes varied and household, not mixed" in message


@pytest.mark.slow
def test_tabletop_with_the_depth_of_a_camera(tmp_path: Path) -> None:
    try:
        renderer = TabletopRenderer(32, 32, "varied")
    except RenderingError as error:
        pytest.skip(str(error))
    sizes = ("--image-size", "32", "--train", "3", "--val", "1", "--test", "1")
    options = ("--mode", "varied", "--sensor-depth", "true")
    prepare("tabletop", None, tmp_path / "out", *sizes, *options)
    prepare("tabletop", None, tmp_path / "plain", *sizes, "--mode", "varied")
    dataset = PreparedDataset(tmp_path / "out", "train")
    plain = PreparedDataset(tmp_path / "plain", "train")
    assert dataset.depths is not None and dataset.intrinsics is not None
    assert dataset.depths.shape == (3, 32, 32) and dataset.depths.dtype == np.uint16
    assert dataset.intrinsics.shape == (3, 4) and dataset.intrinsics.dtype == np.float32
    assert dataset.robot_label == plain.robot_label == 1
    assert plain.depths is None and plain.intrinsics is None
    # The sensor changes neither images nor masks.
    np.testing.assert_array_equal(dataset.images, plain.images)
    np.testing.assert_array_equal(dataset.masks, plain.masks)
    with renderer:
        for index in range(3):
            frame = renderer.sample(scene_seed(0, "train", index))
            k = frame.intrinsics
            np.testing.assert_allclose(
                dataset.intrinsics[index], [k[0, 0], k[1, 1], k[0, 2], k[1, 2]], rtol=1e-6
            )
            # Millimetres, where the sensor measured something, off by its noise alone.
            known = dataset.depths[index] > 0
            error = dataset.depths[index][known] - 1000 * frame.depth[known]
            assert np.median(np.abs(error)) < 15


@pytest.mark.slow
def test_tabletop_of_a_household(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENESIS_SIM_ASSETS", "")
    try:
        TabletopRenderer(32, 32, "varied").close()
    except RenderingError as error:
        pytest.skip(str(error))
    sizes = ("--image-size", "32", "--train", "4", "--val", "1", "--test", "1")
    options = ("--mode", "household", "--sensor-depth", "true", "--max-objects", "12")
    prepare("tabletop", None, tmp_path / "out", *sizes, *options)
    dataset = PreparedDataset(tmp_path / "out", "train")
    assert dataset.masks is not None and dataset.masks.any()
    assert dataset.depths is not None and (dataset.depths > 0).mean() > 0.3
    # Which pack it was made with belongs to the options: data of others do not mix with it.
    assert dataset.info["options"]["assets"] is None
    pack = tmp_path / "pack.npz"
    pack.write_bytes(b"no pack")
    message = error_of(
        capsys, "tabletop", None, tmp_path / "out", *sizes, *options, "--assets", str(pack)
    )
    assert "assets was None, now" in message
    # And so do the scenes themselves: half of other ones is not finished with those of today.
    monkeypatch.setattr("training.datasets.tabletop.HOUSEHOLD_REVISION", 99)
    prepare("tabletop", None, tmp_path / "out", *sizes, *options)
    assert "is prepared already" in capsys.readouterr().out
    half = tmp_path / "half" / PARTS
    half.mkdir(parents=True)
    begun = {"dataset": "tabletop", "source": None, "skipped": 0}
    begun["options"] = {**dataset.info["options"], "test": 1}
    (half / OPTIONS).write_text(json.dumps(begun))
    message = error_of(capsys, "tabletop", None, tmp_path / "half", *sizes, *options)
    assert "it draws other scenes than an earlier version" in message
    message = error_of(
        capsys, "tabletop", None, tmp_path / "new", *sizes, *options, "--assets", str(pack)
    )
    assert "pack.npz is no asset pack" in message
    message = error_of(capsys, "tabletop", None, tmp_path / "bad", *sizes, "--assets", str(pack))
    assert "assets is only for modes household, general, balanced, not mixed" in message
    many = ("--mode", "household", "--max-objects", "25")
    message = error_of(capsys, "tabletop", None, tmp_path / "bad", *sizes, *many)
    assert "expected 0 <= fewest <= most <= 24" in message


@pytest.mark.slow
def test_tabletop_exposed_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        renderer = TabletopRenderer(32, 32, "mixed")
    except RenderingError as error:
        pytest.skip(str(error))
    sizes = ("--image-size", "32", "--train", "4", "--val", "1", "--test", "1")
    prepare("tabletop", None, tmp_path / "out", *sizes, "--exposure", "0.3")
    dataset = PreparedDataset(tmp_path / "out", "train")
    assert dataset.info["options"]["exposure"] == 0.3
    with renderer:
        for index, image in enumerate(dataset.images):
            plain = renderer.sample(scene_seed(0, "train", index)).image
            assert image.mean() == pytest.approx(0.3 * 255, abs=3)  # a little is cut off at white
            gain = 0.3 * 255 / plain.mean()
            expected = np.minimum(plain * gain, 255)
            np.testing.assert_allclose(image, expected, atol=0.501)
    message = error_of(capsys, "tabletop", None, tmp_path / "bad", *sizes, "--exposure", "40")
    assert "exposure is 40.0; expected 0 to below 1" in message


def test_new_options_leave_data_valid_that_was_made_before_them() -> None:
    assert "depth" not in Tabletop().options() and "max_objects" not in Tabletop().options()
    assert Tabletop().options()["mode"] == "mixed"
    assert Tabletop(depth=True).options()["depth"] is True


def test_the_usual_numbers_of_objects_are_obeyed_where_they_are_asked_for() -> None:
    """Household scenes have none to 20 by themselves."""
    for given in ({"max_objects": 6}, {"min_objects": 1}, {"min_objects": 1, "max_objects": 6}):
        source = Tabletop(mode="household", **given)
        assert source.num_objects == (1, 6)
        assert source.options()["min_objects"] == 1 and source.options()["max_objects"] == 6
        # As before: those are varied scenes' own.
        assert "max_objects" not in Tabletop(mode="varied", **given).options()
    household = Tabletop(mode="household")
    assert household.num_objects is None and "max_objects" not in household.options()
    few = Tabletop(mode="varied", min_objects=1, max_objects=4)
    assert few.options() == Tabletop(mode="varied", max_objects=4).options()
    assert few.num_objects == (1, 4) and few.options()["max_objects"] == 4


@pytest.mark.slow
def test_household_scenes_have_as_many_objects_as_asked_for(tmp_path: Path) -> None:
    try:
        TabletopRenderer(32, 32).close()
    except RenderingError as error:
        pytest.skip(str(error))
    sizes = ("--image-size", "32", "--train", "12", "--val", "1", "--test", "1")
    given = ("--mode", "household", "--min-objects", "1", "--max-objects", "6")
    prepare("tabletop", None, tmp_path / "out", *sizes, *given)
    masks = PreparedDataset(tmp_path / "out", "train").masks
    assert masks is not None and max(len(np.unique(mask)) for mask in masks) <= 2 + 6


# --- All data sets


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("sketchy", "has no Sketchy data; expected *.tar.bz2 as downloaded"),
        ("apc", "has no APC data; expected scene-*/frame-*.color.png"),
        ("objects_room", "has no files *train*.tfrecords"),
        ("shapestacks", "train.txt is missing; expected ShapeStacks with splits/"),
    ],
)
def test_empty_and_missing_sources(
    dataset: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    message = error_of(capsys, dataset, tmp_path / "in", tmp_path / "out")
    assert str(tmp_path / "in") in message and expected in message
    message = error_of(capsys, dataset, tmp_path / "nowhere", tmp_path / "out")
    assert f"{tmp_path / 'nowhere'} does not exist" in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--workers", "0"), "workers must be at least 1"),
        (("--on-error", "panic"), "on_error"),
        (("--image-size", "0"), "image_size"),
        (("--size", "3"), "--size"),
    ],
)
def test_bad_options(
    options: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in error_of(capsys, "sprites", None, tmp_path / "out", *options)


def test_other_options_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--train", "10", "--val", "5", "--test", "5")
    make_parts(Sprites(train=10, val=5, test=5), tmp_path, workers=1, on_error="stop")
    message = error_of(capsys, "sprites", None, tmp_path, *few, "--seed", "1")
    assert "seed was 0, now 1" in message and "another --output" in message


# Ten parts, seconds of work: a signal sent after the second part comes long before the last.
SPRITES = ["--image-size", "64", "--train", "4000", "--val", "600", "--test", "0"]


def start(output: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "training" / "prepare.py"), "sprites", *SPRITES]
    command += ["--output", str(output), "--workers", "2"]
    # Tests that run in a shell's background ignore Ctrl-C, and so would what they start.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=heeding
    )


def wait_until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait for a state of the output, or for the process to end."""
    while process.poll() is None and not condition():
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_at_any_moment_and_resumed(tmp_path: Path) -> None:
    prepare("sprites", None, tmp_path / "unbroken", *SPRITES)
    output = tmp_path / "broken"

    def parts() -> int:
        return len(list(output.glob("parts/*.npz")))

    def joined_bytes() -> int:
        path = output / "train" / "images.npy.partial"
        return path.stat().st_size if path.exists() else 0

    # In the midst of making parts, by Ctrl-C and by a kill, then in the midst of joining them.
    process = start(output)
    wait_until(process, lambda: parts() >= 2)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert "the same command again resumes" in said, said
    assert process.returncode == 130
    made = parts()
    assert 2 <= made < 10

    process = start(output)
    wait_until(process, lambda: parts() > made)
    process.kill()
    process.communicate()  # Ends once the workers, which hold the pipe, have ended too.
    assert process.returncode == -signal.SIGKILL

    process = start(output)
    wait_until(process, lambda: joined_bytes() > 5_000_000)
    process.kill()
    process.communicate()

    process = start(output)
    process.communicate()
    assert process.returncode == 0
    assert arrays(output) == arrays(tmp_path / "unbroken")
