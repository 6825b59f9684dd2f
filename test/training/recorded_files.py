"""Videos and robot data sets in their true formats, whose frames tell their number."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
from pyarrow import parquet

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
