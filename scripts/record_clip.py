"""Records genesis_ros/data/tabletop.mp4, which stands in for generated scenes without OpenGL.

scripts/run python -m scripts.record_clip
"""

from __future__ import annotations

import cv2

from genesis_ros.simulated_camera.sources import TABLETOP_CLIP
from genesis_sim import TabletopRenderer

SIZE = (640, 480)
RATE = 10.0
SEEDS = (2, 3, 5, 4)
FRAMES_PER_SCENE = 30
STRIDE = 2  # of the renderer's frames, so that more happens in a short clip


def main() -> None:
    """Render the scenes and write the video, by rename."""
    partial = TABLETOP_CLIP.with_name(f".{TABLETOP_CLIP.name}")
    TABLETOP_CLIP.parent.mkdir(exist_ok=True)
    # The one codec that every build of OpenCV with FFmpeg can write and read.
    video = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), RATE, SIZE)
    with TabletopRenderer(*SIZE, mode="mixed") as renderer:
        for seed in SEEDS:
            frames = renderer.sequence(seed, FRAMES_PER_SCENE * STRIDE)
            for index, frame in enumerate(frames):
                if index % STRIDE == 0:
                    # Camera noise would triple the file.
                    smooth = cv2.GaussianBlur(frame.image, (0, 0), 1.0)
                    video.write(cv2.cvtColor(smooth, cv2.COLOR_RGB2BGR))
    video.release()
    partial.replace(TABLETOP_CLIP)
    print(f"{TABLETOP_CLIP}: {TABLETOP_CLIP.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
