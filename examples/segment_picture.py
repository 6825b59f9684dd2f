"""Find the objects in a picture and draw them over it.

python -m examples.segment_picture scene.png objects.png
"""

import argparse

import cv2

from genesis_core import Segmenter, default_checkpoint
from genesis_core.perception import draw_overlay, find_objects


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the objects in a picture.")
    parser.add_argument("picture", help="an image file of any size")
    parser.add_argument("output", help="where to write the picture with the objects drawn over it")
    arguments = parser.parse_args()
    picture = cv2.imread(arguments.picture)
    if picture is None:
        parser.error(f"cannot read a picture from {arguments.picture}")
    image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)  # the model takes RGB, OpenCV reads BGR

    segmenter = Segmenter(default_checkpoint())
    scene = segmenter(image)  # masks (K, H, W) that sum to 1, labels (H, W), latents (K, D), scores
    found = find_objects(scene)

    for item in found.objects:
        # The robot is no background; kind is "" if the model cannot tell.
        kind = "background" if item.background else item.kind or "object"
        x, y = item.centroid
        print(f"{kind} {item.label}: {item.area} px around ({x:.0f}, {y:.0f}), {item.score:.2f}")
    overlay = draw_overlay(image, found, alpha=0.5)
    if not cv2.imwrite(arguments.output, cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR)):
        parser.error(f"cannot write a picture to {arguments.output}")


if __name__ == "__main__":
    main()
