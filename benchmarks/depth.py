"""How well objects are measured in depth images: generated scenes with ground truth.

python -m benchmarks.depth [--scenes 20] [--modes '[sketchy, varied]'] [--output depth.json]

Masks: those of the renderer (exact), and those that the Segmenter finds with a checkpoint (model;
objects whose mask overlaps the true one by half). Depth: as rendered, and with the faults of a
structured-light camera (noise of 2 mm at 1 m, steps of 1 mm, 20% missing, smeared edges).

An error is the distance between the measured position and the mean of the points of the true
visible surface; "at 1 m" is the median of the errors divided by the distance.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import jsonargparse
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from genesis_core import Perceived, Perception, PerceptionSettings, View
from genesis_core.perception import Measurement, locate
from genesis_sim import Frame, TabletopRenderer

SMALLEST = 0.003  # share of the image; smaller objects do not count
MATCH = 0.5  # IoU from which an object counts as found

Labels = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]


def bench(
    scenes: int = 20,
    modes: list[str] = ["sketchy", "varied"],  # noqa: B006 - jsonargparse shows it as the default
    seed: int = 5000,
    width: int = 640,
    height: int = 480,
    checkpoint: Path | None = None,
    device: str = "auto",
    output: Path = Path("depth.json"),
) -> None:
    """Render scenes, measure their objects and compare.

    Args:
        scenes: how many of each mode
        modes: of the renderer: sketchy, varied, mixed
        seed: of the first scene
        width: of the images
        height: of the images
        checkpoint: of the model; by default the one that ships with the package
        device: auto, cpu, cuda or cuda:n
        output: JSON file to write
    """
    if scenes < 1:
        sys.exit(f"depth.py: {scenes} scenes; expected at least 1")
    settings = PerceptionSettings(str(checkpoint or ""), device=device)
    perception = Perception(settings)
    rows = []
    for mode in modes:
        scores = {(m, d): Score() for m in ("exact", "model") for d in ("rendered", "camera")}
        with TabletopRenderer(width, height, mode) as renderer:  # type: ignore[arg-type]
            for number in tqdm(range(seed, seed + scenes), unit="scene", desc=mode, disable=None):
                frame = renderer.sample(number)
                (perceived,) = perception([View(frame.image)])
                if not isinstance(perceived, Perceived):
                    raise perceived
                depths = {
                    "rendered": frame.depth,
                    "camera": camera_depth(frame, np.random.default_rng([number, 4])),
                }
                labels = {"exact": frame.labels, "model": perceived.found.labels}
                for (masks, depth), score in scores.items():
                    score.add(frame, labels[masks], depths[depth])
        rows += [
            {"mode": mode, "masks": masks, "depth": depth, **score.row()}
            for (masks, depth), score in scores.items()
        ]
    _print(rows)
    facts = {"scenes": scenes, "seed": seed, "width": width, "height": height}
    output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    print(f"wrote {output}")


class Score:
    """Errors and times of many scenes."""

    def __init__(self) -> None:
        self._positions: list[float] = []
        self._relative: list[float] = []
        self._sizes: list[float] = []
        self._times: list[float] = []
        self._missed = 0

    def add(self, frame: Frame, labels: Labels, depth: Depth) -> None:
        """Measure a scene's objects.

        Args:
            frame: the scene.
            labels: (H, W), those of the true objects, or of a model's.
            depth: (H, W) [m].
        """
        truth = {item.label: frame.labels == item.label for item in frame.objects}
        matched = {
            label: _best_label(mask, labels)
            for label, mask in truth.items()
            if mask.mean() >= SMALLEST
        }
        wanted = [label for label in matched.values() if label is not None]
        before = time.perf_counter()
        measured = dict(zip(wanted, locate(labels, wanted, depth, frame.intrinsics), strict=True))
        self._times.append(time.perf_counter() - before)
        for label, ours in matched.items():
            if ours is None:
                self._missed += 1
            else:
                self._compare(_surface(frame, truth[label]), measured[ours])

    def _compare(self, points: npt.NDArray[np.float64], found: Measurement | None) -> None:
        if found is None:
            self._missed += 1
            return
        centre = points.mean(axis=0)
        error = float(np.linalg.norm(found.position - centre))
        self._positions.append(error)
        self._relative.append(error / centre[2])
        self._sizes.append(float(abs(found.size - np.ptp(points, axis=0)).max()))

    def row(self) -> dict[str, float]:
        """Errors in mm, times in ms."""
        row: dict[str, float] = {"objects": len(self._positions), "missed": self._missed}
        if self._positions:
            row["median"] = 1e3 * statistics.median(self._positions)
            row["p90"] = 1e3 * float(np.percentile(self._positions, 90))
            row["at 1 m"] = 1e3 * statistics.median(self._relative)
            row["size median"] = 1e3 * statistics.median(self._sizes)
        row["scene ms"] = 1e3 * statistics.median(self._times)
        return row


def camera_depth(frame: Frame, rng: np.random.Generator) -> Depth:
    """A frame's depth (H, W) as a structured-light camera would give it."""
    depth = frame.depth.copy()
    jump = cv2.dilate(depth, np.ones((3, 3))) - cv2.erode(depth, np.ones((3, 3))) > 0.02
    smeared = jump & (rng.random(depth.shape) < 0.7)
    depth[smeared] = cv2.blur(frame.depth, (3, 3))[smeared]
    depth += np.float32(0.002) * rng.standard_normal(depth.shape, np.float32) * depth**2
    depth = (depth * 1000).round() / np.float32(1000)
    depth[rng.random(depth.shape) < 0.2] = 0
    return depth


def _best_label(mask: npt.NDArray[np.bool_], labels: Labels) -> int | None:
    """The label that overlaps a mask best, None if that is no match."""
    label = int(np.bincount(labels[mask]).argmax())
    found = labels == label
    matches = (mask & found).sum() >= MATCH * (mask | found).sum()
    return label if matches and label > 0 else None


def _surface(frame: Frame, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Points of what is seen of an object (P, 3)."""
    rows, columns = np.nonzero(mask)
    pixels = np.stack([columns, rows, np.ones(len(rows))])
    points = np.linalg.inv(frame.intrinsics) @ pixels * frame.depth[mask]
    return points.T.astype(np.float64)


def _print(rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    texts = [[_text(row.get(name, float("nan"))) for name in names] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(names, *texts, strict=True)]
    for line in (names, *texts):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
    print("errors in mm")


def _text(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    jsonargparse.auto_cli(bench, as_positional=False)
