"""Records what stands in for generated scenes without OpenGL: tabletop.mp4 and tabletop_depth.npz.

scripts/run python -m scripts.record_clip [--depth-only]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from genesis_ros.simulated_camera.sources import CLIP_DEPTH, TABLETOP_CLIP
from genesis_sim import Frame, TabletopRenderer

SIZE = (640, 480)
RATE = 10.0
SEEDS = (2, 3, 5, 4)
FRAMES_PER_SCENE = 30
STRIDE = 2  # of the renderer's frames, so that more happens in a short clip
DEPTH_STEP = 2  # px; the depth has every second row and column


def main(arguments: Sequence[str] | None = None) -> None:
    """Render the scenes and write the files, by rename."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth-only", action="store_true", help="leave the video as it is")
    options = parser.parse_args(arguments)
    TABLETOP_CLIP.parent.mkdir(exist_ok=True)
    if not options.depth_only:
        _write_video(_partial(TABLETOP_CLIP))
        _complete(TABLETOP_CLIP)
    _write_depth(_partial(CLIP_DEPTH))
    _complete(CLIP_DEPTH)


def _frames() -> Iterator[Frame]:
    with TabletopRenderer(*SIZE, mode="mixed") as renderer:
        for seed in SEEDS:
            frames = renderer.sequence(seed, FRAMES_PER_SCENE * STRIDE)
            yield from (frame for index, frame in enumerate(frames) if index % STRIDE == 0)


def _write_video(path: Path) -> None:
    # The one codec that every build of OpenCV with FFmpeg can write and read.
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), RATE, SIZE)
    for frame in _frames():
        # Camera noise would triple the file.
        smooth = cv2.GaussianBlur(frame.image, (0, 0), 1.0)
        video.write(cv2.cvtColor(smooth, cv2.COLOR_RGB2BGR))
    video.release()


def _write_depth(path: Path) -> None:
    """Millimetres as differences from frame to frame, which make a small file."""
    frames = list(_frames())
    millimetres = np.stack(
        [frame.depth[::DEPTH_STEP, ::DEPTH_STEP] * 1000 for frame in frames]
    ).round()
    changes = np.diff(millimetres.astype(np.int16), axis=0, prepend=np.int16(0))
    matrices = np.stack([frame.intrinsics for frame in frames])
    with path.open("wb") as file:
        np.savez_compressed(file, changes=changes, intrinsics=matrices, size=np.array(SIZE))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}")


def _complete(path: Path) -> None:
    _partial(path).replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
