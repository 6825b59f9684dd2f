"""How well track ids hold on generated sequences: the arm pushes, lifts and hides objects.

python -m benchmarks.tracking [--sequences 10] [--frames 100] [--modes '[sketchy, varied]']

Every sequence is tracked several times, with objects of different origin:
  model     what the Segmenter finds with a checkpoint, as in the perception node
  truth     the renderer's masks in random slot order, with noisy latents
  dropouts  the same, but objects vanish for up to 1.5 s now and then
  merges    the same, but objects melt into their neighbour for up to 1.5 s now and then
What goes wrong in the last three is the tracker's own doing. Only objects count: the robot is
neither right nor wrong, and an object that shows less than 0.05 % of the image is out of sight.

"flag right" and "flag found" are precision and recall of the background flag: which slots have it,
and which show mostly background. Needs requirements/benchmarks.txt.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from genesis_core import PerceptionSettings, Scene, Segmenter, default_checkpoint
from genesis_core.perception import SceneObjects, Tracker, find_objects
from genesis_sim import Frame, TabletopRenderer
from genesis_sim.sampling import Mode

RATE = 12.0  # Hz, of the renderer's sequences
BACKGROUND, ROBOT, FIRST_OBJECT = 0, 1, 2  # labels of the renderer
VISIBLE = 0.0005  # share of the image below which an object is out of sight
MATCH = 0.5  # IoU from which an object counts as found
# What happens to the true masks, per object and image.
DISTURBANCES: dict[str, dict[str, float]] = {
    "truth": {},
    "dropouts": {"dropout": 0.02},
    "merges": {"merge": 0.02},
}
METRICS = {
    "num_objects": "object-frames",
    "num_detections": "found",
    "num_false_positives": "false",
    "num_switches": "switches",
    "mota": "mota",
    "idf1": "idf1",
}

Labels = npt.NDArray[np.uint8]


def bench(
    sequences: int = 10,
    frames: int = 100,
    modes: list[Mode] = ["sketchy", "varied"],  # noqa: B006 - jsonargparse shows it as the default
    seed: int = 0,
    width: int = 128,
    height: int = 128,
    checkpoint: Path | None = None,
    device: str = "auto",
    max_age: float = PerceptionSettings().track_max_age,
    min_similarity: float = PerceptionSettings().track_min_similarity,
    output: Path = Path("tracking.json"),
) -> None:
    """Render sequences, find objects, track them and score the tracks.

    Args:
        sequences: how many of each mode
        frames: images per sequence, at 12 Hz
        modes: of the renderer: sketchy, varied, mixed
        seed: of the first sequence
        width: of the images
        height: of the images
        checkpoint: of the model; by default the one that ships with the package
        device: auto, cpu, cuda or cuda:n
        max_age: of the tracker, s
        min_similarity: of the tracker
        output: JSON file to write
    """
    if sequences < 1 or frames < 1:
        sys.exit(f"tracking.py: {sequences} sequences of {frames} frames; expected at least 1 each")
    segmenter = Segmenter(checkpoint or default_checkpoint(), device=device)
    rows: list[dict[str, Any]] = []
    for mode in modes:
        scores = {name: Score(max_age, min_similarity) for name in ("model", *DISTURBANCES)}
        progress = tqdm(total=sequences * frames, unit="frame", desc=mode, disable=None)
        with progress, TabletopRenderer(width, height, mode) as renderer:
            for sequence in range(seed, seed + sequences):
                truths = {name: TruthScenes(sequence, **d) for name, d in DISTURBANCES.items()}
                for score in scores.values():
                    score.start()
                for index, frame in enumerate(renderer.sequence(sequence, frames)):
                    scenes = {name: truth(frame.labels) for name, truth in truths.items()}
                    scenes["model"] = segmenter(frame.image, quantised=True)
                    for name, scene in scenes.items():
                        found = find_objects(scene)
                        scores[name].add(frame, found, index / RATE)
                    progress.update()
        rows += [{"mode": mode, "masks": name, **score.row()} for name, score in scores.items()]
    _print(rows)
    facts: dict[str, Any] = {"sequences": sequences, "frames": frames, "seed": seed}
    facts |= {"width": width, "height": height}
    facts |= {"max_age": max_age, "min_similarity": min_similarity}
    output.write_text(json.dumps({**facts, "rows": rows}, indent=2) + "\n")
    print(f"wrote {output}")


class Score:
    """Tracks sequences and compares the tracks with the truth."""

    def __init__(self, max_age: float, min_similarity: float) -> None:
        self._options = {"max_age": max_age, "min_similarity": min_similarity}
        self._accumulators: list[Any] = []
        self._times: list[float] = []
        self._flags = np.zeros((2, 2), np.int64)  # slots by: background, flagged as background

    def start(self) -> None:
        """Begin a new sequence."""
        self._tracker = Tracker(**self._options)
        self._accumulators.append(_motmetrics().MOTAccumulator(auto_id=True))

    def add(self, frame: Frame, found: SceneObjects, stamp: float) -> None:
        """Track the next image.

        Args:
            frame: the image, with its true labels.
            found: the objects to track.
            stamp: when the image was taken [s].
        """
        before = time.thread_time()
        ids = self._tracker.update(found, stamp, frame.image)
        self._times.append(time.thread_time() - before)
        labels = frame.labels
        common = _common_pixels(labels, found.labels, len(found.objects) + 1)
        union = common.sum(1, keepdims=True) + common.sum(0) - common
        distance = 1 - common / np.maximum(union, 1)
        distance[distance > 1 - MATCH] = np.nan
        visible = np.flatnonzero(common.sum(axis=1) >= VISIBLE * labels.size)
        objects = visible[visible >= FIRST_OBJECT]
        mainly = common.argmax(axis=0)
        for item in found.objects:
            self._flags[int(mainly[item.label] == BACKGROUND), int(item.background)] += 1
        ours = [
            item for item in found.objects if not item.background and mainly[item.label] != ROBOT
        ]
        self._accumulators[-1].update(
            objects.tolist(),
            [ids[item.label - 1] for item in ours],
            distance[objects][:, [item.label for item in ours]],
        )

    def row(self) -> dict[str, float]:
        """Scores of all sequences together."""
        summary = (
            _motmetrics()
            .metrics.create()
            .compute_many(self._accumulators, metrics=list(METRICS), generate_overall=True)
        )
        row = {name: float(summary.loc["OVERALL", key]) for key, name in METRICS.items()}
        row["per 1000"] = 1000 * row["switches"] / max(1.0, row["object-frames"])
        row["flag right"], row["flag found"] = (
            float(self._flags[1, 1] / max(1, total))
            for total in (self._flags[:, 1].sum(), self._flags[1].sum())
        )
        row["cpu ms"] = 1e3 * statistics.median(self._times)
        return row


class TruthScenes:
    """True labels as a model's slots, with what makes tracking hard. One instance per sequence.

    Args:
        seed: of all that is random.
        dropout, merge: probability per object and image that it vanishes into the background, or
            into the slot of the nearest other object, for 1 to 18 images.
        noise: deviation of the latents from image to image, in deviations between objects.
    """

    def __init__(
        self, seed: int, *, dropout: float = 0.0, merge: float = 0.0, noise: float = 0.3
    ) -> None:
        self._rng = np.random.default_rng([seed, 3])
        self._probabilities = {"dropout": dropout, "merge": merge}
        self._noise = noise
        self._codes = self._rng.normal(size=(256, 16))
        self._until: dict[tuple[str, int], int] = {}
        self._image = 0

    def __call__(self, labels: Labels) -> Scene:
        """The slots of the next image with these true labels (H, W)."""
        self._image += 1
        shown = self._disturb(labels)
        present, winners = np.unique(shown, return_inverse=True)
        order = self._rng.permutation(len(present))
        winners = order[winners.reshape(labels.shape)]
        # A slot that holds two objects has a bit of the latents of each.
        pixels = _common_pixels(labels, winners, len(present))
        latents = (pixels / pixels.sum(axis=0)).T @ self._codes[: len(pixels)]
        latents += self._noise * self._rng.normal(size=latents.shape)
        return Scene(
            masks=(winners == np.arange(len(present))[:, None, None]).astype(np.float32),
            labels=winners,
            latent_mean=latents.astype(np.float32),
            latent_std=np.full_like(latents, self._noise, np.float32),
            scores=np.ones(len(present), np.float32),
            num_slots=len(present),
        )

    def _disturb(self, labels: Labels) -> Labels:
        """The labels (H, W) with objects that are lost in others or in the background."""
        shown = labels.copy()
        centres = {
            int(label): np.argwhere(labels == label).mean(axis=0)
            for label in np.unique(labels[labels >= FIRST_OBJECT])
        }
        for label, centre in centres.items():
            if self._happens("dropout", label):
                shown[labels == label] = 0
            elif self._happens("merge", label) and len(centres) > 1:
                distances = {
                    other: float(np.hypot(*(there - centre)))
                    for other, there in centres.items()
                    if other != label
                }
                shown[labels == label] = min(distances, key=distances.__getitem__)
        return shown

    def _happens(self, what: str, label: int) -> bool:
        if self._rng.random() < self._probabilities[what]:
            self._until[what, label] = self._image + int(self._rng.integers(1, 19))
        return self._image < self._until.get((what, label), 0)


def _common_pixels(
    true: Labels, ours: npt.NDArray[np.integer], count: int
) -> npt.NDArray[np.int64]:
    """How many pixels each true label shares with each of our labels (T, count)."""
    rows = int(true.max()) + 1
    index = true.astype(np.int64) * count + ours
    return np.bincount(index.ravel(), minlength=rows * count).reshape(rows, count)


def _motmetrics() -> Any:
    try:
        import motmetrics
    except ImportError as error:
        sys.exit(f"tracking.py: {error}; run  pip install -r requirements/benchmarks.txt  first")
    return motmetrics


def _print(rows: list[dict[str, Any]]) -> None:
    names = [name for name in rows[0] if name not in ("mode", "masks")]
    print(f"{'mode':<8} {'masks':<8}" + "".join(f" {name:>{max(8, len(name))}}" for name in names))
    for row in rows:
        cells = (f" {row[name]:>{max(8, len(name))}.4g}" for name in names)
        print(f"{row['mode']:<8} {row['masks']:<8}" + "".join(cells))


if __name__ == "__main__":
    jsonargparse.auto_cli(bench, as_positional=False)
