"""prepare video, lerobot and rlds: which frames become which images, from real files."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from training.datasets.layout import DatasetError
from training.datasets.parts import Task
from training.datasets.prepared import PreparedDataset
from training.datasets.recordings import Sampler, Shares, fingerprint
from training.prepare import main, reader_for

SPLITS = ("train", "val", "test")
Build = Callable[..., bytes]
COLOURS = [
    (40, 40, 40),
    (220, 40, 40),
    (40, 220, 40),
    (40, 40, 220),
    (220, 220, 40),
    (220, 40, 220),
]


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Three rows of three squares, RGB: the digits of the number to the base of six colours.

    Digits stand in the central square only, in reading order; compression does not confuse them.
    """
    image = np.zeros((height, width, 3), np.uint8)
    side = min(height, width) // 3
    top, left = (height - 3 * side) // 2, (width - 3 * side) // 2
    for place in range(9):
        digit = number // 6 ** (8 - place) % 6
        row, column = top + side * (place // 3), left + side * (place % 3)
        image[row : row + side, column : column + side] = COLOURS[digit]
    return image


def number_in(image: np.ndarray) -> int:
    """The number that a square picture shows."""
    number = 0
    size = len(image)
    for place in range(9):
        row, column = (2 * (place // 3) + 1) * size // 6, (2 * (place % 3) + 1) * size // 6
        colour = image[row - 1 : row + 2, column - 1 : column + 2].mean((0, 1))
        distances = [np.abs(colour - np.array(known)).sum() for known in COLOURS]
        assert min(distances) < 120, f"no digit at {place}: {colour}"
        number = 6 * number + int(np.argmin(distances))
    return number


def numbers_in(images: np.ndarray) -> list[int]:
    return [number_in(image) for image in images]


def write_video(
    path: Path, numbers: Sequence[int], fps: int = 10, codec: str = "libx264", **size: int
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        height, width, _ = picture(0, **size).shape
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.bit_rate = 2_000_000
        stream.time_base = Fraction(1, fps)
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(picture(number, **size), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def write_lerobot(
    root: Path,
    episodes: Sequence[Sequence[int]],
    *,
    version: str = "v3.0",
    dtype: str = "video",
    cameras: Sequence[str] = ("observation.images.top",),
    fps: int = 10,
    splits: dict[str, str] | None = None,
    episodes_in_file: int = 3,
) -> Path:
    """A LeRobotDataset. The second camera's numbers are those of the first plus 1000, and so on."""
    v3 = version.startswith("v3")
    feature = {"dtype": dtype, "shape": [48, 64, 3], "names": ["height", "width", "channels"]}
    info: dict[str, Any] = {
        "codebase_version": version,
        "fps": fps,
        "chunks_size": 4,
        "total_episodes": len(episodes),
        "splits": splits or {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": {
            **dict.fromkeys(cameras, feature),
            "action": {"dtype": "float32", "shape": [7], "names": None},
            "observation.images.depth": {
                **feature,
                "info": {"video.is_depth_map": True},
            },
        },
    }
    if dtype != "video":
        info["video_path"] = None
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    if not v3:
        lines = [
            json.dumps({"episode_index": number, "tasks": ["lift"], "length": len(frames)})
            for number, frames in enumerate(episodes)
        ]
        (root / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
    in_file = episodes_in_file if v3 else 1
    rows = []
    for first in range(0, len(episodes), in_file):
        together = episodes[first : first + in_file]
        # Files per chunk, so that both numbers in a path count.
        chunk, file = divmod(first // in_file, 2) if v3 else (first // 4, first)
        table: dict[str, list[Any]] = {"episode_index": [], "frame_index": [], "timestamp": []}
        table |= {camera: [] for camera in cameras if dtype == "image"}
        for number, frames in enumerate(together, first):
            for index, shown in enumerate(frames):
                table["episode_index"].append(number)
                table["frame_index"].append(index)
                table["timestamp"].append(index / fps)
                for place, camera in enumerate(cameras):
                    if dtype == "image":
                        content = png(picture(shown + 1000 * place))
                        table[camera].append({"bytes": content, "path": f"{index}.png"})
        if v3:
            data = root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
        else:
            data = root / f"data/chunk-{chunk:03d}/episode_{first:06d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table(table), data)
        for place, camera in enumerate(cameras if dtype == "video" else ()):
            if v3:
                video = root / f"videos/{camera}/chunk-{chunk:03d}/file-{file:03d}.mp4"
            else:
                video = root / f"videos/chunk-{chunk:03d}/{camera}/episode_{first:06d}.mp4"
            write_video(video, [1000 * place + shown for f in together for shown in f], fps)
        start = 0.0
        for number, frames in enumerate(together, first):
            stop = start + len(frames) / fps
            row = {"episode_index": number, "length": len(frames), "stats/action/mean": [0.0]}
            row |= {"data/chunk_index": chunk, "data/file_index": file}
            for camera in cameras:
                prefix = f"videos/{camera}"
                row |= {f"{prefix}/chunk_index": chunk, f"{prefix}/file_index": file}
                row |= {f"{prefix}/from_timestamp": start, f"{prefix}/to_timestamp": stop}
            rows.append(row)
            start = stop
    if v3:
        # Episodes are listed in several files, too.
        for file, some in enumerate((rows[:2], rows[2:])):
            path = root / f"meta/episodes/chunk-000/file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            if some:
                parquet.write_table(pa.Table.from_pylist(some), path)
    return root


def prepare(command: str, source: Path, output: Path, *options: str) -> None:
    given = ["--source", str(source), "--output", str(output), "--workers", "1"]
    main([command, *given, "--image-size", "48", *options])


def error_of(command: str, source: Path, output: Path, *options: str) -> str:
    with pytest.raises(SystemExit) as caught:
        prepare(command, source, output, *options)
    return str(caught.value.code)


def numbers(output: Path) -> dict[str, list[int]]:
    """The numbers that the images of each split show."""
    found = {}
    for split in SPLITS:
        try:
            found[split] = numbers_in(PreparedDataset(output, split).images)
        except DatasetError as error:
            assert "no images" in str(error)
            found[split] = []
    return found


def test_pictures_tell_their_number() -> None:
    for number in (0, 7, 4321):
        assert number_in(picture(number)[:, 8:56]) == number


# --- video


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "codec"), [(".mp4", "libx264"), (".avi", "mpeg4"), (".mkv", "libx264"),
                          (".webm", "libvpx"), (".mov", "libx264")]
)  # fmt: skip
def test_video(tmp_path: Path, suffix: str, codec: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(tmp_path / f"clip{suffix}", range(200), codec=codec)
    prepare("video", tmp_path / f"clip{suffix}", tmp_path / "out")
    # Two of ten frames a second, a tenth at the end for each of val and test, and a gap between.
    found = numbers(tmp_path / "out")
    assert found["train"] == list(range(0, 160, 5))
    assert found["val"] == [165, 170, 175]
    assert found["test"] == [185, 190, 195]
    printed = capsys.readouterr().out
    assert "left out: 160 between the samples of --rate" in printed
    assert "left out: 2 between two splits" in printed


def test_every_frame_of_a_video_and_what_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The camera stands still for a while.
    shown = [*range(10), *[10] * 8, *range(11, 33)]
    write_video(tmp_path / "clip.mp4", shown)
    prepare("video", tmp_path / "clip.mp4", tmp_path / "out", "--rate", "0", "--test", "0")
    found = numbers(tmp_path / "out")
    assert found == {"train": list(range(29)), "val": [30, 31, 32], "test": []}
    printed = capsys.readouterr().out
    assert "left out: 7 nearly the same as the image before (--min-change)" in printed
    prepare("video", tmp_path / "clip.mp4", tmp_path / "slow", "--rate", "1")
    assert "left out: 36 between the samples of --rate" in capsys.readouterr().out


def test_of_ten_videos_whole_ones_are_held_out(tmp_path: Path) -> None:
    for clip in range(10):
        write_video(tmp_path / "in" / f"clip{clip + 1}.mp4", [10 * clip, 10 * clip + 5], fps=2)
    prepare("video", tmp_path / "in", tmp_path / "out")
    found = numbers(tmp_path / "out")
    assert sorted(found["train"]) == [5 * n for n in range(16)]
    assert found["val"] == [80, 85] and found["test"] == [90, 95]  # clip10 comes last


def test_videos_in_folders_of_splits(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "train" / "a.mp4", range(20))
    write_video(tmp_path / "in" / "test" / "b.mp4", range(20, 40))
    prepare("video", tmp_path / "in", tmp_path / "out", "--rate", "5", "--val", "0.2")
    found = numbers(tmp_path / "out")
    assert found["test"] == list(range(20, 40, 2))
    assert found["train"] == list(range(0, 16, 2)) and found["val"] == [18]


def turned(path: Path, degrees: int) -> None:
    """Write into a video's track header how the phone was held: its display matrix."""
    one = 1 << 16
    a, b = {90: (0, one), 180: (-one, 0), 270: (0, -one)}[degrees]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes
    for place, value in ((0, a), (4, b), (12, -b), (16, a)):
        content[at + place : at + place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_videos_of_phones_are_upright(tmp_path: Path, degrees: int) -> None:
    path = write_video(tmp_path / "clip.mp4", [54321, 12345], fps=2)
    turned(path, degrees)
    prepare("video", path, tmp_path / "out", "--val", "0", "--test", "0")
    images = PreparedDataset(tmp_path / "out", "train").images
    # Players turn what is stored clockwise by so much.
    stored = [np.rot90(image, degrees // 90) for image in images]
    assert numbers_in(np.array(stored)) == [54321, 12345]


def test_a_damaged_video_gives_what_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "clip.avi", range(60), codec="mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert "clip.avi: cut off after 1." in error_of("video", tmp_path, tmp_path / "out")
    prepare("video", tmp_path, tmp_path / "out2", "--on-error", "skip", "--val", "0", "--test", "0")
    train = numbers(tmp_path / "out2")["train"]
    assert train[:3] == [0, 5, 10]
    problems = (tmp_path / "out2" / "problems.txt").read_text()
    assert "empty.mp4" in problems and "clip.avi: cut off after 1." in problems


def test_folders_without_videos(tmp_path: Path) -> None:
    assert f"{tmp_path} has no videos" in error_of("video", tmp_path, tmp_path / "out")
    (tmp_path / "sound.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert "there is no video in this file" in error_of("video", tmp_path, tmp_path / "out")


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "clip.mp4", range(3))
    monkeypatch.setitem(sys.modules, "av", None)
    message = error_of("video", path, tmp_path / "out")
    assert "video needs av: pip install -r requirements/data.txt" in message


@pytest.mark.slow
def test_an_interrupted_video_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.datasets.shots.CHUNK", 10)  # images in a part
    path = write_video(tmp_path / "clip.mp4", range(60))
    options = ("--rate", "0", "--val", "0", "--test", "0")
    prepare("video", path, tmp_path / "whole", *options)

    class Killed(Exception):
        pass

    taken = 0

    def fail_later(*arguments: object) -> bool:
        nonlocal taken
        taken += 1
        if taken > 25:
            raise Killed
        return False

    with monkeypatch.context() as patch:
        patch.setattr("training.datasets.shots.are_alike", fail_later)
        with pytest.raises(Killed):
            prepare("video", path, tmp_path / "out", *options)
    done = {part: part.stat().st_mtime_ns for part in (tmp_path / "out" / "parts").glob("*.npz")}
    assert len(done) == 2
    written = []
    from training.datasets.parts import PartWriter

    write = PartWriter.write

    def note(self: PartWriter, key: str, *arguments: object, **more: object) -> None:
        written.append(key)
        write(self, key, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(PartWriter, "write", note)
    prepare("video", path, tmp_path / "out", *options)
    assert len(written) == 4  # of six
    for name in ("images.npy", "info.json"):
        found = (tmp_path / "out" / "train" / name).read_bytes()
        assert found == (tmp_path / "whole" / "train" / name).read_bytes()


# --- LeRobot


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["video", "image"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot(tmp_path: Path, version: str, dtype: str) -> None:
    # Of seven episodes, which differ in length, the end of each is held out.
    episodes = [range(100 * n, 100 * n + 20 + 2 * n) for n in range(7)]
    write_lerobot(tmp_path / "in", episodes, version=version, dtype=dtype)
    prepare("lerobot", tmp_path / "in", tmp_path / "out", "--rate", "5")
    found = numbers(tmp_path / "out")
    for number, frames in enumerate(episodes):
        count = len(frames)
        sampled = [(place, frames[place]) for place in range(0, count, 2)]
        for split, low, high in (("train", 0, 0.79), ("val", 0.81, 0.89), ("test", 0.91, 1)):
            inside = [shown for place, shown in sampled if low <= place / count < high]
            mine = [shown for shown in found[split] if shown // 100 == number]
            assert mine == inside


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_with_many_episodes_and_cameras(tmp_path: Path, version: str) -> None:
    episodes = [[10 * n, 10 * n + 1] for n in range(10)]
    cameras = ("observation.images.top", "observation.images.wrist")
    write_lerobot(tmp_path / "in", episodes, version=version, cameras=cameras)
    prepare("lerobot", tmp_path / "in", tmp_path / "out", "--rate", "0")
    found = numbers(tmp_path / "out")
    assert sorted(found["test"]) == [90, 91, 1090, 1091]
    assert sorted(found["val"]) == [80, 81, 1080, 1081]
    assert len(found["train"]) == 32
    one = ("--cameras", "[wrist]")
    prepare("lerobot", tmp_path / "in", tmp_path / "one", "--rate", "0", *one)
    assert numbers(tmp_path / "one")["test"] == [1090, 1091]


def test_lerobot_says_which_episodes_are_for_what(tmp_path: Path) -> None:
    episodes = [[10 * n, 10 * n + 1] for n in range(12)]
    splits = {"train": "0:10", "validation": "10:12"}
    write_lerobot(tmp_path / "in", episodes, splits=splits)
    prepare("lerobot", tmp_path / "in", tmp_path / "out", "--rate", "0")
    found = numbers(tmp_path / "out")
    assert found["val"] == [100, 101, 110, 111] and found["test"] == [90, 91]


def test_lerobot_data_sets_that_cannot_be_used(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no meta/info.json" in error_of("lerobot", empty, tmp_path / "out")
    root = write_lerobot(tmp_path / "in", [range(4)])
    message = error_of("lerobot", root, tmp_path / "out", "--cameras", "[front]")
    assert "has no camera front; it has observation.images.top" in message
    info = json.loads((root / "meta" / "info.json").read_text())
    (root / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    assert "version v1.6; expected v2.0" in error_of("lerobot", root, tmp_path / "out")


def test_lerobot_without_one_of_its_videos(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "in", [range(10 * n, 10 * n + 4) for n in range(6)])
    lost = root / "videos/observation.images.top/chunk-000/file-001.mp4"
    lost.unlink()
    assert str(lost) in error_of("lerobot", root, tmp_path / "out")
    options = ("--on-error", "skip", "--val", "0", "--test", "0", "--rate", "0")
    prepare("lerobot", root, tmp_path / "out2", *options)
    assert numbers(tmp_path / "out2")["train"] == [*range(4), *range(10, 14), *range(20, 24)]


def cut_off(path: Path, share: float) -> None:
    """Keep the beginning of a video that has its index in front: it opens, and just ends early.

    The cut lies between two packets, so that none is damaged.
    """
    streamed = path.with_name(f"streamed_{path.name}")
    with av.open(str(path)) as source:
        options = {"movflags": "faststart"}
        with av.open(str(streamed), "w", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    with av.open(str(streamed)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(streamed.read_bytes()[: ends[round(share * len(ends)) - 1]])
    streamed.unlink()


@pytest.mark.parametrize(("share", "episode"), [(0.6, 1), (0.3, 0)])
def test_lerobot_with_a_video_that_was_cut_off(tmp_path: Path, share: float, episode: int) -> None:
    root = write_lerobot(tmp_path / "in", [range(20), range(100, 120)])
    options = ("--val", "0", "--test", "0", "--rate", "0")
    (file,) = root.rglob("*.mp4")
    cut_off(file, share)
    # When exactly: the codec stores some frames before those that they are made from.
    told = re.escape(f"{file}: cut off after ") + rf"\d\.\d of 4\.0 s, in episode {episode}\b"
    assert re.search(told, error_of("lerobot", root, tmp_path / "out", *options))
    prepare("lerobot", root, tmp_path / "out2", *options, "--on-error", "skip")
    assert re.search(told, (tmp_path / "out2" / "problems.txt").read_text())
    assert len(numbers(tmp_path / "out2")["train"]) == round(share * 40)


def test_lerobot_with_a_video_that_was_cut_off_before_its_only_episode(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "in", [range(100), range(100, 104)])
    (listed,) = root.rglob("meta/episodes/**/*.parquet")
    rows = parquet.read_table(listed).to_pylist()
    parquet.write_table(pa.Table.from_pylist(rows[1:]), listed)
    (file,) = root.rglob("*.mp4")
    cut_off(file, 0.5)
    message = error_of("lerobot", root, tmp_path / "out")
    assert f"{file}: cut off before 10.0 of 10.4 s, in episode 1" in message


def test_lerobot_that_ends_a_few_frames_early_is_whole(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "in", [range(20), range(100, 120)])
    (file,) = root.rglob("*.mp4")
    cut_off(file, 0.85)
    prepare("lerobot", root, tmp_path / "out", "--val", "0", "--test", "0", "--rate", "0")
    assert len(numbers(tmp_path / "out")["train"]) == 34


def test_lerobot_recorded_anew_is_another_data_set(tmp_path: Path) -> None:
    root = write_lerobot(tmp_path / "in", [range(4)], dtype="image")
    prepare("lerobot", root, tmp_path / "out")
    shutil.rmtree(root)
    write_lerobot(root, [range(5, 12)], dtype="image")
    message = error_of("lerobot", root, tmp_path / "out")
    assert "holds another data set" in message and "files of the source were added" in message


# --- RLDS


def episode(first: int, count: int) -> dict[str, object]:
    """An episode as TensorFlow Datasets flattens it."""
    depth = png(np.full((48, 64), 900, np.uint16))
    return {
        "steps/observation/image": [png(picture(first + n)) for n in range(count)],
        "steps/observation/wrist_image": [png(picture(1000 + first + n)) for n in range(count)],
        "steps/observation/depth": [depth] * count,
        "steps/observation/state": np.zeros(7 * count, np.float32),
        "steps/language_instruction": [b"lift the cube"] * count,
        "steps/is_last": np.arange(count) == count - 1,
        "episode_metadata/file_path": [b"somewhere"],
    }


def write_rlds(folder: Path, tfrecords: Build, files: dict[str, list[dict[str, object]]]) -> Path:
    folder.mkdir(parents=True)
    for name, records in files.items():
        (folder / name).write_bytes(tfrecords(records))
    (folder / "features.json").write_text("{}")
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_rlds(tmp_path: Path, tfrecords: Build) -> None:
    names = [f"bridge-train.tfrecord-{n:05d}-of-00002" for n in range(2)]
    files = {
        name: [episode(60 * file + 10 * n, 4) for n in range(6)] for file, name in enumerate(names)
    }
    folder = write_rlds(tmp_path / "bridge" / "0.1.0", tfrecords, files)
    prepare("rlds", tmp_path / "bridge", tmp_path / "out", "--every", "2")
    found = numbers(tmp_path / "out")
    assert sorted(found["test"]) == [110, 112, 1110, 1112]
    assert sorted(found["val"]) == [100, 102, 1100, 1102]
    assert len(found["train"]) == 10 * 4
    prepare("rlds", folder, tmp_path / "one", "--every", "1", "--cameras", "[image]")
    assert numbers(tmp_path / "one")["test"] == [110, 111, 112, 113]
    message = error_of("rlds", folder, tmp_path / "bad", "--cameras", "[left]")
    assert "the episode has no steps/observation/left; its images are" in message
    assert "steps/observation/image, steps/observation/wrist_image" in message


def test_rlds_files_that_are_packed(tmp_path: Path, tfrecords: Build) -> None:
    folder = write_rlds(tmp_path / "in", tfrecords, {"x.tfrecord": [episode(0, 4), episode(9, 4)]})
    file = folder / "x.tfrecord"
    file.write_bytes(gzip.compress(file.read_bytes()))
    prepare("rlds", folder, tmp_path / "out", "--every", "1", "--cameras", "[image]")
    assert sum(map(len, numbers(tmp_path / "out").values())) == 8


def test_rlds_splits_that_files_name(tmp_path: Path, tfrecords: Build) -> None:
    files = {
        "x-train.tfrecord-00000-of-00001": [episode(0, 20)],
        "x-val.tfrecord-00000-of-00001": [episode(100, 4)],
    }
    folder = write_rlds(tmp_path / "in", tfrecords, files)
    options = ("--every", "1", "--cameras", "[image]")
    prepare("rlds", folder, tmp_path / "out", *options)
    found = numbers(tmp_path / "out")
    assert found["val"] == [100, 101, 102, 103]
    assert found["train"] == list(range(18)) and found["test"] == [19]


def test_rlds_with_a_damaged_episode(tmp_path: Path, tfrecords: Build) -> None:
    broken = episode(10, 4)
    broken["steps/observation/image"] = [
        b"",
        b"\xff\xd8\xffno",
        *broken["steps/observation/image"][2:],
    ]  # type: ignore[index]
    records = [episode(0, 4), broken, episode(20, 4)]
    folder = write_rlds(tmp_path / "in", tfrecords, {"x.tfrecord": records})
    content = bytearray((folder / "x.tfrecord").read_bytes())
    content[-300] ^= 1  # of the third
    (folder / "x.tfrecord").write_bytes(content)
    options = ("--every", "1", "--cameras", "[image]", "--val", "0", "--test", "0")
    assert "step 1" in error_of("rlds", folder, tmp_path / "out", *options)
    prepare("rlds", folder, tmp_path / "out2", *options, "--on-error", "skip")
    assert numbers(tmp_path / "out2")["train"] == [0, 1, 2, 3, 12, 13]
    problems = (tmp_path / "out2" / "problems.txt").read_text()
    assert "CRC of a record's data is wrong" in problems and "step 1: the image" in problems


# --- what they share


def test_the_reader_for_recordings(tmp_path: Path, tfrecords: Build) -> None:
    assert reader_for(write_video(tmp_path / "clip.mp4", range(3))) == "video"
    write_video(tmp_path / "clips" / "a" / "clip.mov", range(3))
    assert reader_for(tmp_path / "clips") == "video"
    assert reader_for(write_lerobot(tmp_path / "robot", [range(3)])) == "lerobot"
    files = {"x-train.tfrecord-00000-of-00001": [episode(0, 2)]}
    write_rlds(tmp_path / "rlds" / "1.0.0", tfrecords, files)
    assert reader_for(tmp_path / "rlds") == "rlds"


def test_what_is_meant_by_photos_beside_a_bag(tmp_path: Path) -> None:
    assert cv2.imwrite(str(tmp_path / "a.png"), picture(0))
    (tmp_path / "metadata.yaml").write_text("title: Kitchen")  # no bag's
    assert reader_for(tmp_path) == "folder"
    (tmp_path / "metadata.yaml").unlink()
    (tmp_path / "run.mcap").touch()
    (tmp_path / "run2.mcap").touch()
    with pytest.raises(DatasetError, match=r"holds images and bags, a\.png and run\.mcap"):
        reader_for(tmp_path)


@pytest.mark.parametrize("name", ["Записи/" + "кухня " * 30, "b\udcff" * 80, "plain"])
def test_tasks_of_any_name_have_a_marker(tmp_path: Path, name: str) -> None:
    marker = Task(name, 1).marker(tmp_path)
    marker.touch()
    assert marker != Task(f"{name}2", 1).marker(tmp_path)
    assert fingerprint([marker], tmp_path)


def test_the_sampler_keeps_its_rate() -> None:
    uneven = [0.0, 0.1, 0.2, 0.62, 0.7, 0.999, 1.4, 5.0, 5.1]
    sampler = Sampler(2.0)
    assert [t for t in uneven if sampler.take(t) is not None] == [0.0, 0.62, 0.999, 5.0]
    assert [n for n in range(4) if Sampler(0).take(n / 10) is not None] == [0, 1, 2, 3]


def test_shares() -> None:
    shares = Shares(0.1, 0.2)
    assert shares.of_count(10) == ["train"] * 7 + ["val"] + ["test"] * 2
    assert shares.of_count(3) == ["train", "val", "test"]
    assert shares.of_count(2) == ["train", "train"]
    assert Shares(0, 0.5).of_count(4) == ["train", "train", "test", "test"]
    assert [shares.at(place) for place in (0, 0.68, 0.7, 0.75, 0.801, 0.9, 1)] == [
        *("train", "train", None, "val", None, "test", "test"),
    ]
    assert {Shares(0, 0).at(place) for place in (0, 0.5, 1)} == {"train"}
    assert shares.of_recordings([None] * 9) == [None] * 9
    assert shares.of_recordings(["val", *[None] * 10]) == ["val"] + ["train"] * 8 + ["test"] * 2
