"""The perception node, or segment_bag, with rules in the model's place, that take depth.

The rules tell kinds, too. What the programs do with depth and kinds then shows in every pixel.
Slots: 0 whatever is dark (surroundings), 1 green (robot), 2 red (object), 3 nearer than half a
metre (object; only with depth). Everything but the model is the programs' own.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

from genesis_core import Segmenter, pipeline
from genesis_core.perception.scene import Scene, to_scene

KINDS = np.array(["surroundings", "robot", "object", "object"])


class RuleSegmenter(Segmenter):
    """A Segmenter whose slots are rules."""

    uses_depth = True
    has_kinds = True

    def __call__(  # type: ignore[override]
        self,
        images: Any,
        depth: Any = None,
        intrinsics: Any = None,
        *,
        region: Any = None,
        quantised: bool = False,
    ) -> list[Scene]:
        print("a pass begins", flush=True)
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))  # as slow as a model may be
        if os.environ.get("STAND_IN_FAULT") and any(image[0, 0, 2] > 200 for image in images):
            raise RuntimeError(os.environ["STAND_IN_FAULT"])  # of a GPU, at a blue image
        depth, intrinsics = depth or [None] * len(images), intrinsics or [None] * len(images)
        return [
            _scene(image, near, matrix, quantised)
            for image, near, matrix in zip(images, depth, intrinsics, strict=True)
        ]


def _scene(image: np.ndarray, depth: Any, matrix: Any, quantised: bool) -> Scene:
    red, green, _ = np.moveaxis(image.astype(int), -1, 0)
    winner = np.where(red > 128, 2, np.where(green > 128, 1, 0))
    if depth is not None:
        assert depth.shape == image.shape[:2] and depth.dtype == np.float32
        assert matrix.shape == (3, 3) and abs(matrix[0, 2] - (image.shape[1] - 1) / 2) < 1
        winner = np.where((depth > 0) & (depth < 0.5), 3, winner)
    masks = (winner == np.arange(4)[:, None, None]).astype(np.float32)
    latents = np.eye(4, dtype=np.float32)
    height, width = winner.shape
    whole = slice(0, height), slice(0, width)
    scene = to_scene(
        masks, latents, latents + 1, size=(height, width), window=whole, quantised=quantised
    )
    scene.kinds = KINDS
    return scene


if __name__ == "__main__":
    pipeline.Segmenter = RuleSegmenter  # type: ignore[misc]
    if sys.argv[1] == "segment_bag":
        from genesis_ros import segment_bag

        sys.exit(segment_bag.main(sys.argv[2:]))
    from genesis_ros import perception_node

    if os.environ.get("STAND_IN_LOST"):  # the fault stays
        perception_node.is_usable = lambda device: False

    sys.exit(perception_node.main())
