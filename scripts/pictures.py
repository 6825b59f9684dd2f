"""Draw the pictures of docs: what the default model finds in generated scenes.

    python -m scripts.pictures

Always the same scenes, whatever the model makes of them; household scenes need the asset pack that
docs/assets.md describes to look as they do there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_core import Segmenter, find_checkpoint
from genesis_core.perception import find_objects
from genesis_core.perception.overlay import draw_overlay
from genesis_sim.depth_sensor import measure_frame
from genesis_sim.frame import Frame
from genesis_sim.modes import make_renderer
from training.sheets import write_png

_DOCS = Path(__file__).resolve().parents[1] / "docs"
_SIZE = 384
_HOUSEHOLD = (100_001, 100_004, 100_005, 100_007, 100_009, 100_012)
_SKETCHY = (100_002, 100_006)

Image = NDArray[np.uint8]


def main() -> None:
    segmenter = Segmenter(find_checkpoint("tabletop"))
    columns = []
    for seed, frame in zip(_HOUSEHOLD, _frames("household", _HOUSEHOLD), strict=True):
        depth = measure_frame(frame, np.random.default_rng(seed))
        columns.append(
            np.vstack(
                [
                    frame.image,
                    _found(segmenter, frame.image),
                    _found(segmenter, frame.image, depth, frame.intrinsics),
                    _coloured(depth),
                ]
            )
        )
    _write("household.png", cv2.resize(np.hstack(columns), None, fx=0.375, fy=0.375,
                                       interpolation=cv2.INTER_AREA))  # fmt: skip
    pairs = [
        np.hstack([frame.image, _found(segmenter, frame.image)])
        for frame in _frames("sketchy", _SKETCHY)
    ]
    _write("demo.png", cv2.resize(np.hstack(pairs), None, fx=0.7, fy=0.7,
                                  interpolation=cv2.INTER_AREA))  # fmt: skip


def _frames(mode: Any, seeds: tuple[int, ...]) -> list[Frame]:
    renderer = make_renderer(_SIZE, _SIZE, mode)
    try:
        return [renderer.sample(seed) for seed in seeds]
    finally:
        renderer.close()


def _found(segmenter: Segmenter, image: Image, *depth: Any) -> Image:
    return draw_overlay(image, find_objects(segmenter(image, *depth, quantised=True)), 0.6)


def _coloured(depth: NDArray[np.float32]) -> Image:
    near, far = np.quantile(depth[depth > 0], (0.02, 0.98))
    grey = np.clip(255 * (depth - near) / max(far - near, 1e-3), 0, 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    coloured[depth == 0] = 0
    return np.asarray(coloured, np.uint8)


def _write(name: str, picture: Any) -> None:
    write_png(_DOCS / name, picture)
    print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
