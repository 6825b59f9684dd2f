"""What the simulated camera can play: image files, videos and generated scenes."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from genesis_ros.simulated_camera.frame_source import SourceError, play
from genesis_ros.simulated_camera.sources import (
    CLIP_DEPTH,
    TABLETOP_CLIP,
    RecordedScenes,
    VideoSource,
    open_path,
    read_image,
)

SHARED = Path(__file__).resolve().parents[3] / "shared"
APC = SHARED / "data" / "apc" / "scene-0000"


def colour(value: tuple[int, int, int], height: int = 24, width: int = 32) -> np.ndarray:
    """An image of one RGB colour."""
    return np.full((height, width, 3), value, np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)
    return path


def save_video(path: Path, images: list[np.ndarray]) -> Path:
    height, width = images[0].shape[:2]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (width, height))
    for image in images:
        video.write(image[..., ::-1])
    video.release()
    return path


def test_a_folder_plays_in_natural_order_and_in_rgb(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        save(tmp_path / f"frame{number}.png", colour((number, 0, 200)))
    (tmp_path / "notes.txt").write_text("not an image")
    frames = list(play(open_path(str(tmp_path), warn=pytest.fail), loop=False))
    assert [frame.name for frame in frames] == ["frame1.png", "frame9.png", "frame10.png"]
    assert [tuple(frame.image[0, 0]) for frame in frames] == [(n, 0, 200) for n in (1, 9, 10)]
    assert all(frame.image.dtype == np.uint8 for frame in frames)


def test_unreadable_images_are_named_once_and_skipped(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    good = save(tmp_path / "a_good.jpg", noise)
    content = good.read_bytes()
    (tmp_path / "b_cut_off.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "c_empty.png").touch()
    (tmp_path / "d_text.png").write_text("this is no image")
    save(tmp_path / "e_depth.png", np.full((8, 8), 4000, np.uint16))
    save(tmp_path / "f_good.png", noise)
    warnings: list[str] = []
    source = open_path(str(tmp_path), warn=warnings.append)
    names = [frame.name for frame in islice(play(source, loop=True), 6)]
    assert names == ["a_good.jpg", "f_good.png"] * 3
    reasons = {
        "b_cut_off.jpg": "cut off",
        "c_empty.png": "empty",
        "d_text.png": "not a readable image",
        "e_depth.png": "depth",
    }
    assert len(warnings) == len(reasons)
    for warning, (name, reason) in zip(warnings, reasons.items(), strict=True):
        assert str(tmp_path / name) in warning
        assert reason in warning


def test_16_bit_colour_keeps_its_high_byte(tmp_path: Path) -> None:
    save(tmp_path / "deep.png", np.full((8, 8, 3), (0x1234, 0x5678, 0x9ABC), np.uint16))
    (frame,) = play(open_path(str(tmp_path / "deep.png"), warn=pytest.fail), loop=False)
    assert tuple(frame.image[0, 0]) == (0x12, 0x56, 0x9A)


@pytest.mark.parametrize(
    ("channels", "reason"),
    [(3, "float32 image with three channels: colours are expected in 8"), (1, "one-channel float")],
)
def test_a_float_tiff_is_called_what_it_is(tmp_path: Path, channels: int, reason: str) -> None:
    pixels = np.random.default_rng(0).random((8, 8, channels)).astype(np.float32)
    path = tmp_path / "deep.tiff"
    assert cv2.imwrite(str(path), pixels)
    with pytest.raises(ValueError, match=reason):
        read_image(path)


def test_a_folder_without_a_readable_image_ends_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("this is no image")
    source = open_path(str(tmp_path), warn=lambda text: None)
    with pytest.raises(SourceError, match="no readable image"):
        list(play(source, loop=True))


def test_what_cannot_be_played_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bags").mkdir()
    for name in ("two.bag", "one.bag"):
        (tmp_path / "bags" / name).touch()
    (tmp_path / "text.mp4").write_text("this is no video")
    for path, reason in (
        ("", "no path given"),
        (str(tmp_path / "missing"), "no such file"),
        (str(tmp_path / "*.jpg"), "no such file"),
        (str(tmp_path / "empty"), "neither a bag nor a folder of images"),
        (str(tmp_path / "bags"), r"a folder of bags \(one.bag, two.bag\); give one of them"),
        (str(tmp_path / "text.mp4"), "not a video"),
    ):
        with pytest.raises(SourceError, match=reason) as error:
            open_path(path, warn=pytest.fail)
        assert path in str(error.value)


def test_a_pattern_picks_files(tmp_path: Path) -> None:
    for name in ("0.colour.png", "0.mask.png", "1.colour.png"):
        save(tmp_path / name, colour((1, 2, 3)))
    source = open_path(str(tmp_path / "*.colour.png"), warn=pytest.fail)
    names = [frame.name for frame in play(source, loop=False)]
    assert names == ["0.colour.png", "1.colour.png"]


def test_a_video_plays_again_in_the_size_asked_for(tmp_path: Path) -> None:
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    path = save_video(tmp_path / "clip.avi", [colour(value, 48, 64) for value in colours])
    frames = list(islice(play(open_path(str(path), warn=pytest.fail), loop=True), 6))
    for frame, expected in zip(frames, colours * 2, strict=True):
        assert frame.image.shape == (48, 64, 3)
        # JPEG does not keep colours exactly.
        np.testing.assert_allclose(frame.image.mean((0, 1)), expected, atol=6)
    small = next(VideoSource(path, size=(32, 16)).frames())
    assert small.image.shape == (16, 32, 3)


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_video_that_is_cut_off_or_spoilt_says_so_once(tmp_path: Path, spoilt: bool) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(40)]
    path = save_video(tmp_path / "clip.avi", images)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + (bytes(3000) + content[half + 3000 :] if spoilt else b""))
    warnings: list[str] = []
    source = open_path(str(path), warn=warnings.append)
    frames = [len(list(source.frames(epoch))) for epoch in range(3)]
    assert 15 < frames[0] < 25 and frames == frames[:1] * 3
    assert warnings == [f"{path}: ended after {frames[0]} of 40 frames: perhaps cut off or damaged"]


def test_the_recorded_clip_moves() -> None:
    frames = [frame.image[::8, ::8] for frame in VideoSource(TABLETOP_CLIP).frames()]
    assert len(frames) == 120
    assert {frame.shape for frame in frames} == {(60, 80, 3)}
    # The arm comes into the first scene, and the scene changes.
    changes = [np.abs(frame.astype(int) - frames[0]).mean() for frame in frames]
    assert changes[29] > 2
    assert min(changes[30:]) > 10


def test_the_recorded_clip_has_the_depth_of_its_images() -> None:
    """Where depth jumps by 3 cm, at an object's edge, the image has an edge, too."""
    with np.load(CLIP_DEPTH) as track:
        assert len(track["changes"]) == 120
    source = RecordedScenes((640, 480))
    assert source.has_depth
    for number, frame in enumerate(islice(source.frames(), 0, 120, 25)):
        assert frame.depth is not None and frame.depth.shape == (480, 640), number
        assert frame.depth.min() > 0.15 and frame.depth.max() < 3
        grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        contrast = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8))
        jumps = cv2.morphologyEx(frame.depth, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0.03
        shifted = np.roll(jumps, (40, 40), (0, 1))
        assert contrast[jumps].mean() > 1.5 * contrast[shifted].mean(), number
    again = next(source.frames(1))
    assert again.depth is not None and again.intrinsics is not None


def test_the_recorded_clip_is_what_the_renderer_renders(render: Any) -> None:
    """The first frame of the second scene, in half of the size."""
    truth = render(lambda renderer: next(iter(renderer.sequence(3, 1))), 640, 480, "mixed")
    frame = next(islice(RecordedScenes((320, 240)).frames(), 30, None))
    assert frame.depth is not None and frame.intrinsics is not None
    assert np.median(np.abs(frame.depth - truth.depth[::2, ::2])) < 0.001
    np.testing.assert_allclose(np.diag(frame.intrinsics), np.diag(truth.intrinsics) * [0.5, 0.5, 1])
    # The ray through the corner of the image is the same.
    for axis, size in ((0, 640), (1, 480)):
        full, half = (
            (edge - 0.5 - matrix[axis, 2]) / matrix[axis, axis]
            for edge, matrix in ((size, truth.intrinsics), (size / 2, frame.intrinsics))
        )
        assert half == pytest.approx(full)


def test_scenes_are_repeatable_and_go_on() -> None:
    from genesis_ros.simulated_camera.sources import SceneSource
    from genesis_sim import RenderingError, TabletopRenderer

    try:
        renderer = TabletopRenderer(64, 48, "sketchy")
    except RenderingError as error:
        pytest.skip(str(error))
    source = SceneSource(renderer, "sketchy", seed=5, frames_per_scene=3)
    first, again = ([frame.image for frame in source.frames(0)] for _ in range(2))
    (other, *_) = source.frames(1)
    assert len(first) == 3
    np.testing.assert_array_equal(first, again)
    assert np.abs(other.image.astype(int) - first[0]).mean() > 1
    assert other.intrinsics is not None
    assert other.intrinsics[0, 0] > 0
    source.close()


@pytest.mark.skipif(not SHARED.is_dir(), reason="no APC sample (../shared/data) on this machine")
def test_real_frames_play_without_their_depth_images() -> None:
    warnings: list[str] = []
    frames = list(play(open_path(str(APC), warn=warnings.append), loop=False))
    assert [frame.name for frame in frames] == [f"frame-00000{n}.color.png" for n in range(5)]
    assert {frame.image.shape for frame in frames} == {(480, 640, 3)}
    assert len(warnings) == 5
    assert all("depth.png" in warning for warning in warnings)


def test_16_bit_colours_of_a_file_are_visible(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 64) * np.ones((48, 1))
    pixels = (ramp[..., None] * [1000, 2000, 4000]).astype(np.uint16)  # BGR in 12 bits
    cv2.imwrite(str(tmp_path / "0.png"), pixels)
    (frame,) = play(open_path(str(tmp_path), warn=pytest.fail), loop=False)
    bright = frame.image[20, 60]
    assert bright[0] > 230
    np.testing.assert_allclose(bright / bright[0], [1, 0.5, 0.25], atol=0.02)


def test_16_bit_colours_do_not_flicker_from_file_to_file(tmp_path: Path) -> None:
    """As those of a bag: one bright thing more does not darken all others."""
    scene = np.tile(np.linspace(0, 4000, 64), (48, 1))[..., np.newaxis] * [1, 0.9, 0.8]
    for number in range(4):
        values = scene.copy()
        values[:, 60:] += 40 * number
        save(tmp_path / f"{number}.png", values.astype(np.uint16))
    source = open_path(str(tmp_path), warn=pytest.fail)
    frames = [frame.image[:, :50].astype(int) for frame in source.frames()]
    assert max(np.abs(frame - frames[0]).max() for frame in frames) <= 1


def test_a_pattern_plays_folder_by_folder_at_any_depth(tmp_path: Path) -> None:
    for folder in ("run10/left", "run2", "run9"):
        (tmp_path / folder).mkdir(parents=True)
        for number in (10, 2):
            save(tmp_path / folder / f"{number}.png", colour((number, len(folder), 3)))
    for pattern, folders in (("run?/*.png", (4, 4)), ("**/*.png", (4, 4, 10)), ("**", (4, 4, 10))):
        source = open_path(str(tmp_path / pattern), warn=pytest.fail)
        seen = [tuple(frame.image[0, 0, :2].tolist()) for frame in source.frames()]
        assert seen == [(number, length) for length in folders for number in (2, 10)], pattern


def test_an_image_that_claims_to_be_huge_is_skipped(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + rest)
    save(tmp_path / "small.png", colour((1, 2, 3)))
    warnings: list[str] = []
    frames = list(open_path(str(tmp_path), warn=warnings.append).frames())
    assert [frame.name for frame in frames] == ["small.png"]
    (warning,) = warnings
    assert "huge.png" in warning and "60000x60000" in warning


def test_what_opencv_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which formats raise depends on how OpenCV was built: EXR does where it is disabled."""

    def refuse(*arguments: object) -> None:
        raise cv2.error("codec is disabled")

    path = save(tmp_path / "0.png", colour((1, 2, 3)))
    monkeypatch.setattr(cv2, "imdecode", refuse)
    with pytest.raises(ValueError, match="not a readable image"):
        read_image(path)


def test_sources_need_neither_ros_nor_torch() -> None:
    code = (
        "import sys, genesis_ros.simulated_camera.sources\n"
        "print(*({name.split('.')[0] for name in sys.modules} & {'rclpy', 'torch', 'mujoco'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
