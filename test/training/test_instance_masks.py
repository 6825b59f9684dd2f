"""Masks in every format that people keep instances in, and pictures that are no masks."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from training.datasets.inputs import input_files, is_clutter
from training.datasets.instance_masks import decode_instance_mask, read_instance_mask


def truth() -> np.ndarray:
    """Three rectangles on background, (48, 64)."""
    labels = np.zeros((48, 64), np.uint8)
    labels[4:20, 4:24] = 1
    labels[10:40, 30:50] = 2
    labels[44:47, 10:60] = 3
    return labels


def png(image: np.ndarray, suffix: str = ".png", *parameters: int) -> bytes:
    return cv2.imencode(suffix, image, list(parameters))[1].tobytes()


def pillow(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def indexed(labels: np.ndarray, palette: list[tuple[int, int, int]], **options: object) -> bytes:
    image = Image.fromarray(labels, "P")
    image.putpalette([value for colour in palette for value in colour])
    return pillow(image, **options)


def coloured(*colours: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """The truth in BGR colours; the background's is black."""
    table = np.array([(0,) * len(colours[0]), *colours], dtype)
    return table[truth()]


GREEN = ((0, 80, 0), (0, 160, 0), (0, 255, 0))
MIXED = ((200, 0, 0), (0, 180, 0), (10, 20, 220))
VOC = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]


@pytest.mark.parametrize(
    "data",
    [
        png(truth()),
        png(truth() * 80),
        png(np.array([0, 3, 700, 65535], np.uint16)[truth()]),
        png(coloured(*GREEN)),
        png(coloured(*reversed(MIXED[:2]), MIXED[2])),
        png(coloured(*MIXED), ".bmp"),
        png(coloured(*MIXED), ".tiff"),
        png(coloured(*MIXED), ".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
        png(coloured((0, 0, 256), (0, 0, 300), (0, 0, 301), dtype=np.uint16)),
        png(np.dstack([coloured(*GREEN), np.full((48, 64), 255, np.uint8)])),
        png(np.dstack([coloured(*GREEN), np.full((48, 64), 0, np.uint8)])),
        indexed(truth(), VOC),
        indexed(truth(), VOC, bits=2),
        indexed(truth(), [(60, 0, 80), (128, 0, 0), (0, 128, 0), (128, 128, 0)]),
        indexed(truth(), [(0, 0, 0)] * 4),
    ],
    ids=[
        *("grey", "spread grey", "16 bits", "green", "colours", "bmp", "tiff", "lossless webp"),
        *("16 bit colours", "opaque", "alpha without meaning", "palette", "2 bit palette"),
        *("palette without black", "palette never set"),
    ],
)
def test_every_format_gives_the_instances(data: bytes) -> None:
    labels = decode_instance_mask(data)
    assert labels.dtype == np.uint8
    assert_same_instances(labels, truth())


def assert_same_instances(labels: np.ndarray, expected: np.ndarray) -> None:
    """The background is the same, and so is which pixels belong together."""
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == expected.max() + 1
    assert (pairs[:, 0] == 0).all()


def test_labels_are_in_the_order_of_values() -> None:
    np.testing.assert_array_equal(decode_instance_mask(png(truth() * 80)), truth())
    np.testing.assert_array_equal(decode_instance_mask(indexed(truth(), VOC)), truth())
    np.testing.assert_array_equal(decode_instance_mask(png(coloured(*GREEN))), truth())


def test_one_bit() -> None:
    image = Image.fromarray((truth() == 2).astype(np.uint8) * 255).convert("1")
    labels = decode_instance_mask(pillow(image))
    np.testing.assert_array_equal(labels, truth() == 2)


def test_a_palette_sorted_by_frequency() -> None:
    """Programs that make palettes themselves give black any index."""
    colours = [(128, 0, 0), (0, 0, 0), (0, 128, 0), (128, 128, 0)]
    indices = np.array([1, 0, 2, 3], np.uint8)[truth()]
    assert_same_instances(decode_instance_mask(indexed(indices, colours)), truth())


def test_the_outline_of_pascal_voc_is_background() -> None:
    palette = [*VOC, *[(9, 9, 9)] * 251, (224, 224, 192)]
    labels = truth()
    labels[3, 3:25] = 255
    np.testing.assert_array_equal(decode_instance_mask(indexed(labels, palette)), truth())
    colours = coloured(*GREEN)
    colours[3, 3:25] = (192, 224, 224)
    np.testing.assert_array_equal(decode_instance_mask(png(colours)), truth())


def test_transparent_is_background() -> None:
    image = np.dstack([np.full((48, 64, 3), 90, np.uint8), truth() * 80])
    np.testing.assert_array_equal(decode_instance_mask(png(image)), truth() > 0)
    image[..., :3] = 0  # All black: the alpha alone tells the objects.
    np.testing.assert_array_equal(decode_instance_mask(png(image)), truth())


def test_nothing_but_background() -> None:
    assert not decode_instance_mask(png(np.zeros((48, 64, 3), np.uint8))).any()


def test_an_image_without_background_keeps_all_its_instances() -> None:
    labels = decode_instance_mask(png(truth() + 1))
    np.testing.assert_array_equal(labels, truth() + 1)


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(truth() * 80, ".jpg"), "stored with loss"),
        (png(coloured(*GREEN), ".webp", cv2.IMWRITE_WEBP_QUALITY, 80), "stored with loss"),
        (png(noise()), "at most 254 instances"),
        (png(cv2.GaussianBlur(truth() * 80, (0, 0), 1.5)), "its edges are smoothed"),
        (
            png(cv2.imdecode(np.frombuffer(png(truth() * 80, ".jpg"), np.uint8), 0)),
            "its edges are smoothed, or it was stored with loss",
        ),
        (png(truth().astype(np.float32), ".tiff"), "float32; expected whole numbers"),
        (png(truth())[:60], "cannot be decoded"),
        (indexed(truth(), VOC)[:50], "cannot be decoded"),
        (b"", "cannot be decoded (0 bytes)"),
        (b"instances", "cannot be decoded"),
    ],
    ids=[
        *("jpeg", "lossy webp", "picture", "smoothed", "once a jpeg", "float"),
        *("cut off", "palette cut off", "empty", "text"),
    ],
)
def test_what_is_no_mask_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        decode_instance_mask(data)
    assert reason in str(caught.value)


@pytest.mark.parametrize("palette", [True, False])
def test_no_mask_is_read_that_lacks_a_part(palette: bool) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (40, 40), np.uint8).repeat(4, 0).repeat(4, 1)
    whole = indexed(labels, VOC) if palette else png(labels)
    np.testing.assert_array_equal(decode_instance_mask(whole), labels)
    for length in range(0, len(whole) - 20, 7):
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_instance_mask(whole[:length])


def test_a_few_thin_objects_are_none_of_smoothed_edges() -> None:
    labels = truth()
    labels[41] = 4  # a cable
    labels[:, 62] = 5
    labels[42] = 6
    np.testing.assert_array_equal(decode_instance_mask(png(labels)), labels)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(png(truth()))
    np.testing.assert_array_equal(read_instance_mask(tmp_path / "mask.png"), truth())
    with pytest.raises(FileNotFoundError):
        read_instance_mask(tmp_path / "none.png")


# --- What lies among the data


CLUTTER = [
    "README",
    "README.md",
    "readme.txt",
    "LICENSE",
    "Thumbs.db",
    "desktop.ini",
    ".DS_Store",
    "a/._frame-000000.color.png",
    "__MACOSX/a/frame.png",
    ".git/HEAD",
    "SHA256SUMS",
]
DATA = ["a/frame-000000.png", "lift-00000.tar.bz2", "0001_b615a417", "a/readme/000.png", "md5.png"]


@pytest.mark.parametrize("name", CLUTTER)
def test_clutter_is_known(name: str) -> None:
    assert is_clutter(Path(name))


@pytest.mark.parametrize("name", DATA)
def test_data_are_no_clutter(name: str) -> None:
    assert not is_clutter(Path(name))


def test_files_are_parted_wherever_the_source_lies(tmp_path: Path) -> None:
    source = tmp_path / ".hidden" / "README"
    for name in (*CLUTTER, *DATA):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(b"")
    data, clutter = input_files(source)
    assert data == sorted(source / name for name in DATA)
    assert clutter == sorted(source / name for name in CLUTTER)
    assert input_files(source / ".DS_Store") == ([source / ".DS_Store"], [])
