"""Perception in one call: settings in; images and depth in; objects, tracks and positions out.

The node, segment_bag and the benchmarks all go through it, so that what one of them does with an
image the others do, too. Nothing here knows ROS.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from genesis_core.checkpoint import decoder_is_trained, find_checkpoint
from genesis_core.perception.depth import Measurement, locate
from genesis_core.perception.scene import Scene
from genesis_core.perception.scene_objects import SceneObjects, find_objects
from genesis_core.perception.tracking import Tracker
from genesis_core.segmenter import Segmenter

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class PerceptionSettings:
    """What decides what is found in an image.

    checkpoint: path, or the name of a checkpoint that ships with the package; "": the default one.
    device, precision, mask_source, fit: see ``Segmenter``. 0 for max_slots or
    stop_threshold: as the checkpoint says.
    min_area, mask_floor, background_border, background_span, clutter_score: see ``find_objects``.
    tracking: give objects ids. track_max_age, track_min_similarity: see ``Tracker``.
    """

    checkpoint: str = ""
    device: str = "auto"
    precision: str = "auto"
    max_slots: int = 0
    stop_threshold: float = 0.0
    mask_source: str = "auto"
    fit: str = "resize"
    min_area: float = 0.0005
    mask_floor: float = 0.1
    background_border: float = 0.3
    background_span: float = 0.7
    clutter_score: float = 0.5
    tracking: bool = True
    track_max_age: float = 5.0
    track_min_similarity: float = 0.2


class DepthImage(NamedTuple):
    """A depth image that shows what the colour image shows (registered to it).

    depth: (H', W') float32 [m], of any size; NaN, infinite, zero or negative where unknown.
    intrinsics: pinhole matrix (3, 3) [px] of this image.
    source: what an error calls it.
    """

    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    source: str = "depth"


DepthProvider: TypeAlias = Callable[[], DepthImage]
"""Gives the depth image when it is needed; raises ValueError, which says why, if there is none."""


class View(NamedTuple):
    """An image and what belongs to it.

    image: (H, W, 3) uint8 RGB. depth: None where nobody wants positions.
    tracker: of the camera that took it; None: no ids. stamp: when it was taken [s].
    """

    image: Pixels
    depth: DepthImage | DepthProvider | None = None
    tracker: Tracker | None = None
    stamp: float = 0.0


class Perceived(NamedTuple):
    """What is known about a view.

    track_ids: of each object, 0 = untracked. measurements: of each object, None = unknown, as it is
    for background. depth_problem: why nothing was measured; None: something was, or nobody asked.
    slots: that the model used. inference: time of the model's pass [s], resizing included.
    """

    view: View
    found: SceneObjects
    track_ids: Sequence[int]
    measurements: Sequence[Measurement | None]
    depth_problem: str | None
    slots: int
    inference: float


class _SlotSettings(TypedDict):
    max_slots: int | None
    stop_threshold: float | None
    fit: str


class Perception:
    """A loaded model, and everything from its slots to objects.

    Raises:
        FileNotFoundError, CheckpointError, DeviceError, ValueError: see ``Segmenter``.
    """

    def __init__(self, settings: PerceptionSettings | None = None) -> None:
        settings = settings or PerceptionSettings()
        self.checkpoint = find_checkpoint(settings.checkpoint)
        self.segmenter = Segmenter(
            self.checkpoint,
            device=settings.device,
            precision=settings.precision,
            mask_source=settings.mask_source,
            **_slot_settings(settings),
        )
        self._settings = settings

    @property
    def model_name(self) -> str:
        """The checkpoint's name."""
        return self.checkpoint.stem

    @property
    def latents_are_trained(self) -> bool:
        """Whether latents mean something: False for a model that was trained for masks only."""
        return decoder_is_trained(self.segmenter.model.metadata.get("trained"))

    def check(self, settings: PerceptionSettings) -> None:
        """Raise ValueError if the model cannot work with these settings."""
        self.segmenter.check(**_slot_settings(settings))

    def configure(self, settings: PerceptionSettings) -> None:
        """Take over what can change without loading the model again, from the next call on.

        Raises ValueError, and changes nothing, for settings that the model cannot use.
        """
        self.segmenter.configure(**_slot_settings(settings))
        self._settings = settings

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of this size; see ``Segmenter.warm_up``."""
        self.segmenter.warm_up(batch_size)

    def __call__(self, views: Sequence[View]) -> Iterator[Perceived | Exception]:
        """What is in each view, in their order, as soon as it is known; or the error that cost it.

        All share one pass of the model. If that fails they go one by one, so that one view's
        trouble, or a lack of memory for all at once, does not cost the others.
        """
        if not views:
            return
        settings = self._settings  # the same for the whole batch, whoever configures meanwhile
        started = time.monotonic()
        try:
            scenes = self.segmenter([view.image for view in views], quantised=True)
        except Exception as error:  # noqa: BLE001 - out of memory and the like: lose the view only
            if isinstance(error, torch.OutOfMemoryError):
                free_memory()  # gives the next view, or another process, a chance
            if len(views) == 1:
                yield error
            else:
                for view in views:
                    yield from self([view])
            return
        inference = time.monotonic() - started
        for view, scene in zip(views, scenes, strict=True):
            outcome: Perceived | Exception
            try:
                outcome = _describe(view, scene, settings, inference)
            except Exception as error:  # noqa: BLE001 - the other views go on
                outcome = error
            yield outcome


def free_memory() -> None:
    """Give back memory that nothing uses any more, that of the GPU included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe(
    view: View, scene: Scene, settings: PerceptionSettings, inference: float
) -> Perceived:
    found = find_objects(
        scene,
        min_area=settings.min_area,
        mask_floor=settings.mask_floor,
        background_border=settings.background_border,
        background_span=settings.background_span,
        clutter_score=settings.clutter_score,
    )
    track_ids = _track(view, found, settings)
    measurements: list[Measurement | None] = [None] * len(found.objects)
    problem = None
    if view.depth is not None:
        try:
            measurements = _measure(view.depth, found)
        except ValueError as error:
            problem = str(error)
    return Perceived(view, found, track_ids, measurements, problem, scene.num_slots, inference)


def _track(view: View, found: SceneObjects, settings: PerceptionSettings) -> Sequence[int]:
    if view.tracker is None:
        return [0] * len(found.objects)
    if not settings.tracking:
        view.tracker.reset()
        return [0] * len(found.objects)
    view.tracker.configure(
        max_age=settings.track_max_age, min_similarity=settings.track_min_similarity
    )
    return view.tracker.update(found, view.stamp)


def _measure(given: DepthImage | DepthProvider, found: SceneObjects) -> list[Measurement | None]:
    """Position and size of each object but background, None where they are not known."""
    image = given() if callable(given) else given
    wanted = [item for item in found.objects if not item.background]
    try:
        results = locate(
            found.labels, [item.label for item in wanted], image.depth, image.intrinsics
        )
    except ValueError as error:
        raise ValueError(f"{image.source}: {error}") from error
    measured: list[Measurement | None] = [None] * len(found.objects)
    for item, result in zip(wanted, results, strict=True):
        measured[item.label - 1] = result
    return measured


def _slot_settings(settings: PerceptionSettings) -> _SlotSettings:
    """The settings that a segmenter can change while it runs, as it takes them (0 means None)."""
    return {
        "max_slots": settings.max_slots or None,
        "stop_threshold": settings.stop_threshold or None,
        "fit": settings.fit,
    }
