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
from genesis_core.device import check_choice
from genesis_core.perception.depth import (
    MIN_PIXELS,
    Measurement,
    check_depth,
    check_intrinsics,
    check_same_view,
    check_unit,
    known,
    locate,
    resize_nearest,
    scale_intrinsics,
)
from genesis_core.perception.depth import prepare as prepare_to_locate
from genesis_core.perception.lens import Distortion
from genesis_core.perception.scene import Region, Scene
from genesis_core.perception.scene_objects import (
    MAX_OBJECTS,
    SceneObjects,
    check_shares,
    find_objects,
)
from genesis_core.perception.tracking import Tracker
from genesis_core.segmenter import Segmenter

Pixels = NDArray[np.uint8]

USES_OF_DEPTH = ("auto", "never")


@dataclass(frozen=True)
class PerceptionSettings:
    """What decides what is found in an image.

    Attributes:
        checkpoint: path, or the name of a checkpoint that ships with the package; "": the default
            one.
        device, precision, mask_source, fit: see ``Segmenter``.
        max_slots: 0 for as many as the checkpoint says.
        stop_threshold: pixels at 64x64; 0 for a fixed number of slots, -1 for what the checkpoint
            says.
        use_depth: "auto": depth goes into the model, if the checkpoint takes it; "never": it serves
            for positions only.
        min_area, mask_floor, background_border, background_span, clutter_score: see
            ``find_objects``.
        tracking: give objects ids.
        track_max_age, track_min_similarity: see ``Tracker``.
    """

    checkpoint: str = ""
    device: str = "auto"
    precision: str = "auto"
    max_slots: int = 0
    stop_threshold: float = -1.0
    mask_source: str = "auto"
    fit: str = "resize"
    use_depth: str = "auto"
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

    Attributes:
        depth: (H', W') float32 [m], of any size; NaN, infinite, zero, negative or beyond 150 m
            where unknown.
        intrinsics: pinhole matrix (3, 3) [px] of this image.
        source: what an error calls it.
        distortion: of the lens; None: the images are rectified, or have none. Positions take it
            into account; the model sees the pinhole camera.
    """

    depth: NDArray[np.float32]
    intrinsics: NDArray[np.float64]
    source: str = "depth"
    distortion: Distortion | None = None


DepthProvider: TypeAlias = Callable[[], DepthImage]
"""Gives the depth image when it is needed; raises ValueError, which says why, if there is none.
It may be asked again after the model's pass."""


class View(NamedTuple):
    """An image and what belongs to it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth: None for a camera without.
        tracker: of the camera that took it; None: no ids. ``PerceptionSettings`` say how it tracks,
            whatever it was made with.
        stamp: when it was taken [s].
        region: the part that the model is to see; None: all of it.
    """

    image: Pixels
    depth: DepthImage | DepthProvider | None = None
    tracker: Tracker | None = None
    stamp: float = 0.0
    region: Region | None = None


class Perceived(NamedTuple):
    """What is known about a view.

    Attributes:
        view: what was given.
        found: the objects.
        track_ids: of each object, 0 = untracked.
        measurements: of each object, None = unknown, as it is for background.
        depth_problem: why nothing was measured; None: something was, or the camera has no depth.
        used_depth: whether the model saw the depth.
        slots: that the model used.
        inference: time of the model's pass [s], resizing included; all views of a batch share it.
        processor: processor time that this process used meanwhile [s], in all its threads.
    """

    view: View
    found: SceneObjects
    track_ids: Sequence[int]
    measurements: Sequence[Measurement | None]
    depth_problem: str | None
    used_depth: bool
    slots: int
    inference: float
    processor: float


class _SlotSettings(TypedDict):
    max_slots: int | None
    stop_threshold: float | None
    fit: str


class _ObjectSettings(TypedDict):
    min_area: float
    mask_floor: float
    background_border: float
    background_span: float
    clutter_score: float


class _TrackSettings(TypedDict):
    max_age: float
    min_similarity: float


class Perception:
    """A loaded model, and everything from its slots to objects.

    Args:
        settings: the defaults if left out.

    Raises:
        FileNotFoundError, CheckpointError, DeviceError: see ``Segmenter``.
        ValueError: see ``Segmenter`` and ``check``.
    """

    def __init__(self, settings: PerceptionSettings | None = None) -> None:
        settings = settings or PerceptionSettings()
        self.checkpoint = find_checkpoint(settings.checkpoint)
        self.segmenter = Segmenter(
            self.checkpoint,
            device=settings.device,
            precision=settings.precision,
            mask_source=settings.mask_source,
        )
        self.configure(settings)

    @property
    def model_name(self) -> str:
        """The checkpoint's name."""
        return self.checkpoint.stem

    @property
    def latents_are_trained(self) -> bool:
        """Whether latents mean something: False for a model that was trained for masks only."""
        return decoder_is_trained(self.segmenter.model.metadata.get("trained"))

    @property
    def takes_depth(self) -> bool:
        """Whether the model sees depth where there is some: the checkpoint and use_depth say so."""
        return self.segmenter.uses_depth and self._settings.use_depth == "auto"

    def check(self, settings: PerceptionSettings) -> None:
        """Check that the model can work with these settings.

        Raises:
            ValueError: it cannot, or a setting is not one of those that ``PerceptionSettings`` and
                the parts that it names describe.
        """
        self.segmenter.check(**self._slot_settings(settings))
        if (settings.max_slots or 0) > MAX_OBJECTS:
            raise ValueError(f"max_slots is {settings.max_slots}; expected at most {MAX_OBJECTS}")
        if not isinstance(settings.tracking, bool):
            raise ValueError(f"tracking is {settings.tracking!r}; expected True or False")
        check_choice("use_depth", settings.use_depth, USES_OF_DEPTH)
        check_shares(**_object_settings(settings))
        try:
            Tracker.check(**_track_settings(settings))
        except ValueError as error:  # which begins with the tracker's name of the setting
            raise ValueError(f"track_{error}") from error

    def configure(self, settings: PerceptionSettings) -> None:
        """Take over what can change without loading the model again, from the next call on.

        Raises:
            ValueError: ``check`` says no; nothing is changed then.
        """
        self.check(settings)
        self.segmenter.configure(**self._slot_settings(settings))
        self._settings = settings

    def warm_up(self, batch_size: int = 1) -> None:
        """Prepare for batches of this size; see ``Segmenter.warm_up``."""
        self.segmenter.warm_up(batch_size)
        prepare_to_locate()

    def __call__(self, views: Sequence[View]) -> Iterator[Perceived | Exception]:
        """What is in each view, in their order, as soon as it is known; or the error that cost it.

        All share one pass of the model. If that fails they go one by one, so that one view's
        trouble, or a lack of memory for all at once, does not cost the others.
        """
        return self._see(views, [_ViewDepth(view) for view in views])

    def _see(
        self, views: Sequence[View], depths: Sequence[_ViewDepth]
    ) -> Iterator[Perceived | Exception]:
        if not views:
            return
        settings = self._settings  # the same for the whole batch, whoever configures meanwhile
        failure: Exception | None = None
        try:
            if self.takes_depth:
                for depth in depths:
                    depth.prepare_for_model()
            started, used = time.monotonic(), time.process_time()
            scenes = self._segment(views, depths)
        except Exception as error:  # noqa: BLE001 - out of memory and the like: lose the view only
            failure = error
        if failure is not None:
            if isinstance(failure, torch.OutOfMemoryError):
                failure.__traceback__ = None  # whose frames hold the tensors of the failed pass
                free_memory()  # gives the next view, or another process, a chance
            if len(views) == 1:
                yield failure
            else:
                for view, depth in zip(views, depths, strict=True):
                    yield from self._see([view], [depth])
            return
        inference, processor = time.monotonic() - started, time.process_time() - used
        for depth, scene in zip(depths, scenes, strict=True):
            outcome: Perceived | Exception
            try:
                outcome = _describe(depth, scene, settings, inference, processor)
            except Exception as error:  # noqa: BLE001 - the other views go on
                outcome = error
            yield outcome

    def _segment(self, views: Sequence[View], depths: Sequence[_ViewDepth]) -> list[Scene]:
        """In one pass; views with depth and without may come together."""
        images, regions = [view.image for view in views], [view.region for view in views]
        if not any(depth.model_input for depth in depths):
            return self.segmenter(images, region=regions, quantised=True)
        return self.segmenter(
            images,
            [depth.model_input and depth.model_input.depth for depth in depths],
            [depth.model_input and depth.model_input.intrinsics for depth in depths],
            region=regions,
            quantised=True,
        )

    def _slot_settings(self, settings: PerceptionSettings) -> _SlotSettings:
        """The settings that a segmenter can change while it runs, as it takes them."""
        return {
            "max_slots": settings.max_slots or None,
            "stop_threshold": settings.stop_threshold,
            "fit": settings.fit,
        }


class _ViewDepth:
    """The depth of a view, fetched when it is needed."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.model_input: DepthImage | None = None
        self.problem: str | None = None  # why there is none, or it is of no use
        self._image: DepthImage | None = None
        self._is_refused = False  # as no depth of this image
        self._bug: Exception | None = None

    def prepare_for_model(self) -> None:
        """Fetch the depth and give it the image's size; model_input stays None without depth."""
        image = self._fetch()
        if image is None or self.model_input is not None:
            return
        try:
            self.model_input = _fit(image, self.view.image.shape[:2])
        except ValueError as error:
            self.problem, self._is_refused = f"{image.source}: {error}", True

    def measure(self, found: SceneObjects) -> list[Measurement | None]:
        """Position and size of each object but background, None where they are not known."""
        measured: list[Measurement | None] = [None] * len(found.objects)
        image = self._fetch()
        if self._bug is not None:
            raise self._bug
        if image is None or self._is_refused:
            return measured
        wanted = [item for item in found.objects if not item.background]
        try:
            results = locate(
                found.labels,
                [item.label for item in wanted],
                image.depth,
                image.intrinsics,
                image.distortion,
            )
        except ValueError as error:
            self.problem = f"{image.source}: {error}"
            return measured
        for item, result in zip(wanted, results, strict=True):
            measured[item.label - 1] = result
        if wanted and all(result is None for result in results):
            self.problem = (
                f"{image.source}: {np.count_nonzero(known(image.depth))} of {image.depth.size} "
                f"pixels are usable, fewer than {MIN_PIXELS} on each of {len(wanted)} objects"
            )
        return measured

    def _fetch(self) -> DepthImage | None:
        given = self.view.depth
        if self._image is not None or given is None:
            return self._image
        self.problem = self._bug = None
        try:
            image = given() if callable(given) else given
        except ValueError as error:
            self.problem = str(error)
            return None
        except Exception as error:  # noqa: BLE001 - must not cost the other views
            self._bug = error
            return None
        try:
            check_depth(image.depth)
            check_intrinsics(image.intrinsics, image.depth.shape)
        except ValueError as error:
            self.problem = f"{image.source}: {error}"
            return None
        self._image = image
        return image


def free_memory() -> None:
    """Give back memory that nothing uses any more, that of the GPU included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _describe(
    depth: _ViewDepth,
    scene: Scene,
    settings: PerceptionSettings,
    inference: float,
    processor: float,
) -> Perceived:
    view = depth.view
    found = find_objects(scene, **_object_settings(settings))
    track_ids = _track(view, found, settings)
    measurements = depth.measure(found)
    return Perceived(
        view=view,
        found=found,
        track_ids=track_ids,
        measurements=measurements,
        depth_problem=depth.problem,
        used_depth=depth.model_input is not None,
        slots=scene.num_slots,
        inference=inference,
        processor=processor,
    )


def _track(view: View, found: SceneObjects, settings: PerceptionSettings) -> Sequence[int]:
    if view.tracker is None:
        return [0] * len(found.objects)
    if not settings.tracking:
        view.tracker.reset()
        return [0] * len(found.objects)
    view.tracker.configure(**_track_settings(settings))
    return view.tracker.update(found, view.stamp, view.image)


def _object_settings(settings: PerceptionSettings) -> _ObjectSettings:
    """The settings of ``find_objects``, as it takes them."""
    return {
        "min_area": settings.min_area,
        "mask_floor": settings.mask_floor,
        "background_border": settings.background_border,
        "background_span": settings.background_span,
        "clutter_score": settings.clutter_score,
    }


def _track_settings(settings: PerceptionSettings) -> _TrackSettings:
    """The settings of a tracker, as it takes them."""
    return {
        "max_age": settings.track_max_age,
        "min_similarity": settings.track_min_similarity,
    }


def _fit(image: DepthImage, shape: tuple[int, ...]) -> DepthImage:
    """The depth at the pixels of a colour image, unknown depth as it comes.

    Args:
        image: the depth image.
        shape: H, W of the colour image.

    Raises:
        ValueError: that would distort it; or the pixels that are left are in no known unit.
    """
    check_same_view(image.depth.shape, shape)
    depth = resize_nearest(image.depth, shape)
    check_unit(depth)
    scale = np.array([shape[1] / image.depth.shape[1], shape[0] / image.depth.shape[0]])
    return DepthImage(
        depth.astype(np.float32, copy=False),
        scale_intrinsics(image.intrinsics, scale),
        image.source,
    )
