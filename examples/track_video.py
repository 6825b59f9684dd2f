"""Follow the objects of a video: each keeps its number and colour from frame to frame.

python -m examples.track_video genesis_ros/data/tabletop.mp4 tracked.mp4
"""

import argparse
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_core import Segmenter, default_checkpoint
from genesis_core.kinds import ROBOT
from genesis_core.perception import Tracker, draw_overlay, find_objects


def main() -> None:
    parser = argparse.ArgumentParser(description="Follow the objects of a video.")
    parser.add_argument("video", help="a video file")
    parser.add_argument("output", help="where to write the video (.mp4) with the objects drawn in")
    parser.add_argument("--frames", type=int, help="stop after so many frames")
    arguments = parser.parse_args()
    video = cv2.VideoCapture(arguments.video)
    if not video.isOpened():
        parser.error(f"cannot read a video from {arguments.video}")
    rate = video.get(cv2.CAP_PROP_FPS) or 30.0
    writer = cv2.VideoWriter()

    segmenter, tracker = Segmenter(default_checkpoint()), Tracker()
    for number, image in enumerate(frames(video, arguments.frames)):
        scene = segmenter(image, quantised=True)  # 8-bit masks: enough for pixels, and faster
        found = find_objects(scene)
        ids = tracker.update(found, stamp=number / rate, image=image)

        objects = [track for track, item in zip(ids, found.objects, strict=True)
                   if track and not item.background and item.kind != ROBOT]  # fmt: skip
        print(f"frame {number}: objects {sorted(objects)}", flush=True)
        if not writer.isOpened():
            size = (image.shape[1], image.shape[0])
            if not writer.open(arguments.output, cv2.VideoWriter.fourcc(*"mp4v"), rate, size):
                parser.error(f"cannot write a video to {arguments.output}")
        overlay = draw_overlay(image, found, alpha=0.5, track_ids=ids)
        writer.write(cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
    writer.release()


def frames(video: cv2.VideoCapture, most: int | None) -> Iterator[NDArray[np.uint8]]:
    """The video's frames, RGB (H, W, 3)."""
    number = 0
    while number != most:
        there, frame = video.read()
        if not there:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        number += 1


if __name__ == "__main__":
    main()
