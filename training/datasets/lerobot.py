"""LeRobot data sets (v2.x and v3.0): robot episodes as Parquet and video files in a local folder.

https://huggingface.co/docs/lerobot. Needs PyAV and PyArrow (requirements/data.txt).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from training.datasets.images import decode_rgb
from training.datasets.inputs import input_files
from training.datasets.layout import DatasetError, read_json
from training.datasets.parts import PartWriter, Task, report
from training.datasets.recordings import (
    OwnData,
    Recorded,
    Sampler,
    Shares,
    check_rate,
    fingerprint,
)
from training.datasets.shots import Shot
from training.datasets.video import BETWEEN_SAMPLES, is_cut_off, read_frames, to_rgb

INFO_FILE = Path("meta", "info.json")
_EPISODES_V2, _EPISODES_V3 = Path("meta", "episodes.jsonl"), Path("meta", "episodes")
_VERSIONS = ("v2.", "v3.")
_BATCH = 16  # rows that are decoded at once


@dataclass(frozen=True)
class Clip:
    """An episode's place in a file.

    Attributes:
        start, stop: of its frames [s], from the beginning of a video file on; in a Parquet file,
            times count from the beginning of each episode.
        split: of the whole episode; None: its end is val and test.
    """

    episode: int
    start: float
    stop: float
    split: str | None


@dataclass(frozen=True)
class CameraFile(Task):
    """The episodes of one camera in one file, in the order in which they stand there."""

    path: Path
    camera: str
    clips: tuple[Clip, ...]
    shares: Shares


@dataclass(frozen=True)
class LeRobot(OwnData):
    """A LeRobotDataset, v2.0 to v3.0, in a local folder; without masks.

    From ten episodes on, whole ones are val and test; of fewer, the end of each is. Splits that the
    data set itself names (val, test) stay.

    Args:
        cameras: such as observation.images.top, or top for short; by default all colour cameras
        rate: frames a second to take; 0 takes all
    """

    cameras: tuple[str, ...] = ()
    rate: float = 2.0

    name: ClassVar[str] = "lerobot"
    unit: ClassVar[str] = "frames"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rate(self.rate)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        return {
            **self.own_options(),
            "rate": self.rate,
            "cameras": self._cameras,
            "version": self._info["codebase_version"],
            "episodes": len(self._episodes),
            "files": fingerprint(input_files(self.source)[0], self.source),
        }

    def tasks(self) -> list[CameraFile]:
        """One for each file of each camera."""
        named = self._named_splits()
        rest = self.shares.rest(named)
        splits = self.shares.of_recordings(named)
        files: dict[tuple[str, Path], list[Clip]] = {}
        for episode, split in zip(self._episodes, splits, strict=True):
            for camera in self._cameras:
                path, start, stop = self._place(episode, camera)
                clip = Clip(int(episode["episode_index"]), start, stop, split)
                files.setdefault((camera, path), []).append(clip)
        tasks = []
        for (camera, path), clips in files.items():
            name = f"{camera}:{path.relative_to(self.source).as_posix()}"
            frames = sum(round((clip.stop - clip.start) * self._fps) for clip in clips)
            ordered = tuple(sorted(clips, key=lambda clip: (clip.start, clip.episode)))
            tasks.append(CameraFile(name, max(frames, 1), path, camera, ordered, rest))
        return tasks

    def run(self, task: CameraFile, parts: PartWriter) -> None:
        """Write the parts of a file."""
        recorded = Recorded(parts, task.name, task.shares, self.form())
        left = task.size
        is_video = self._info["features"][task.camera]["dtype"] == "video"
        try:
            for clip, sampled, seconds, frame in (
                self._video(task, parts) if is_video else self._images(task)
            ):
                parts.advance(min(left, 1))
                left -= min(left, 1)
                if not sampled:
                    recorded.skip(BETWEEN_SAMPLES)
                elif recorded.wants(seconds / max(clip.stop - clip.start, 1e-3), clip.split):
                    try:
                        image = decode_rgb(frame) if isinstance(frame, bytes) else to_rgb(frame)
                        recorded.add(Shot(image))
                    except ValueError as error:  # the other images go on
                        where = f"episode {clip.episode}, {seconds:g} s"
                        parts.problem(f"{task.path}, {where}: {error}")
        except (OSError, ValueError, KeyError) as error:  # PyArrow's are among them
            parts.problem(f"{task.path}: {error}")
        recorded.close()
        parts.advance(left)

    def _video(
        self, task: CameraFile, parts: PartWriter
    ) -> Iterator[tuple[Clip, bool, float, Any]]:
        """Episode, whether it is a sample, time in the episode [s] and frame, of a video file.

        A file that ends too early is reported: its last frame alone shows that it was cut off.
        """
        clips = iter(task.clips)
        clip, sampler = next(clips), Sampler(self.rate)
        early = 0.5 / self._fps  # times of frames are rounded
        seconds = -1.0  # of the last frame
        for seconds, frame in read_frames(task.path, parts.problem, clip.start):
            while seconds >= clip.stop - early:
                following = next(clips, None)
                if following is None:
                    return
                clip, sampler = following, Sampler(self.rate)
            if seconds >= clip.start - early:
                within = max(0.0, seconds - clip.start)
                yield clip, sampler.take(within) is not None, within, frame
        last = task.clips[-1]
        unread = last.stop - seconds
        if seconds < last.start - early or is_cut_off(unread, last.stop - last.start):
            place = f"before {clip.start:.1f}" if seconds < 0 else f"after {seconds:.1f}"
            where = f"{place} of {last.stop:.1f} s, in episode {clip.episode}"
            parts.problem(f"{task.path}: cut off {where}")

    def _images(self, task: CameraFile) -> Iterator[tuple[Clip, bool, float, bytes]]:
        """The same of a Parquet file with encoded images in it."""
        from pyarrow import parquet

        clips = {clip.episode: clip for clip in task.clips}
        samplers: dict[int, Sampler] = {}
        with parquet.ParquetFile(task.path) as file:
            columns = [task.camera, "episode_index", "frame_index"]
            for batch in file.iter_batches(_BATCH, columns=columns):
                for row in batch.to_pylist():
                    clip = clips.get(row["episode_index"])
                    if clip is None:
                        continue
                    seconds = row["frame_index"] / self._fps
                    sampler = samplers.setdefault(clip.episode, Sampler(self.rate))
                    yield clip, sampler.take(seconds) is not None, seconds, self._encoded(row, task)

    def _encoded(self, row: dict[str, Any], task: CameraFile) -> bytes:
        """The file of an image: in the row, or where the row says."""
        image = row[task.camera]
        content: bytes | None = image["bytes"]
        return content or (self.source / image["path"]).read_bytes()

    @cached_property
    def _info(self) -> dict[str, Any]:
        try:
            info = read_json(self.source / INFO_FILE)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.source} has no {INFO_FILE}; expected the folder of a LeRobotDataset"
            ) from error
        version = str(info.get("codebase_version"))
        if not version.startswith(_VERSIONS):
            raise DatasetError(
                f"{self.source / INFO_FILE}: version {version}; expected v2.0, v2.1 or v3.0"
            )
        missing = [key for key in ("features", "fps", "data_path") if not info.get(key)]
        if missing:
            raise DatasetError(f"{self.source / INFO_FILE} lacks {', '.join(missing)}")
        return info

    @property
    def _fps(self) -> float:
        return float(self._info["fps"])

    @cached_property
    def _cameras(self) -> list[str]:
        features: dict[str, Any] = self._info["features"]
        known = [name for name, item in features.items() if item["dtype"] in ("video", "image")]
        depth = [name for name in known if _is_depth(features[name])]
        if not self.cameras:
            for name in depth:
                report(f"{name} left out: it is depth, of which the intrinsics are unknown")
            chosen = [name for name in known if name not in depth]
        else:
            short = {name.rpartition(".")[2]: name for name in known}
            wanted = [short.get(name, name) for name in self.cameras]
            if unknown := [name for name in wanted if name not in known]:
                raise DatasetError(
                    f"{self.source} has no camera {', '.join(unknown)}; it has {', '.join(known)}"
                )
            chosen = list(dict.fromkeys(wanted))
        if not chosen:
            raise DatasetError(f"{self.source} has no images of a camera")
        return chosen

    @cached_property
    def _episodes(self) -> list[dict[str, Any]]:
        """What meta/ says of each episode."""
        if self._info["codebase_version"].startswith("v2."):
            path = self.source / _EPISODES_V2
            try:
                lines = path.read_text().splitlines()
                found = [json.loads(line) for line in lines if line.strip()]
            except (OSError, ValueError) as error:
                raise DatasetError(f"{path} cannot be read: {error}") from error
        else:
            found = self._read_episodes_v3()
        if not found:
            raise DatasetError(f"{self.source} has no episodes")
        return sorted(found, key=lambda episode: int(episode["episode_index"]))

    def _read_episodes_v3(self) -> list[dict[str, Any]]:
        from pyarrow import ArrowException, parquet

        wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        for camera in self._cameras:
            names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
            wanted += [f"videos/{camera}/{name}" for name in names]
        found: list[dict[str, Any]] = []
        for path in sorted((self.source / _EPISODES_V3).rglob("*.parquet")):
            try:
                # Their statistics, the most of them, are not read.
                there = set(parquet.read_schema(path).names)
                columns = [name for name in wanted if name in there]
                found += parquet.read_table(path, columns=columns).to_pylist()
            except (OSError, ArrowException) as error:
                raise DatasetError(f"{path} cannot be read: {error}") from error
        return found

    def _named_splits(self) -> list[str | None]:
        """The splits that the data set names, such as {"train": "0:40", "val": "40:50"}."""
        named: dict[int, str] = {}
        for name, places in (self._info.get("splits") or {}).items():
            split = {"validation": "val", "valid": "val"}.get(name, name)
            first, _, last = str(places).partition(":")
            if split in ("val", "test") and first.isdecimal() and last.isdecimal():
                named |= dict.fromkeys(range(int(first), int(last)), split)
        return [named.get(int(episode["episode_index"])) for episode in self._episodes]

    def _place(self, episode: dict[str, Any], camera: str) -> tuple[Path, float, float]:
        """The file with an episode's images of a camera, and where in it they begin and end [s]."""
        info, number = self._info, int(episode["episode_index"])
        seconds = int(episode["length"]) / self._fps
        is_video = info["features"][camera]["dtype"] == "video"
        template = info["video_path"] if is_video else info["data_path"]
        try:
            if info["codebase_version"].startswith("v2."):
                chunk = number // int(info.get("chunks_size", 1000))
                path = template.format(episode_chunk=chunk, episode_index=number, video_key=camera)
                return self.source / path, 0.0, seconds
            prefix = f"videos/{camera}" if is_video else "data"
            path = template.format(
                video_key=camera,
                chunk_index=episode[f"{prefix}/chunk_index"],
                file_index=episode[f"{prefix}/file_index"],
            )
            if not is_video:
                return self.source / path, 0.0, seconds
            start, stop = episode[f"{prefix}/from_timestamp"], episode[f"{prefix}/to_timestamp"]
            return self.source / path, float(start), float(stop)
        except KeyError as error:
            raise DatasetError(
                f"{self.source}: meta/ does not say {error} of episode {number}"
            ) from error


def _is_depth(feature: dict[str, Any]) -> bool:
    """Whether a camera feature holds depth."""
    told = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
    shape = [int(size) for size in feature.get("shape", [])]
    return bool(told.get("video.is_depth_map") or told.get("is_depth_map")) or 1 in shape
