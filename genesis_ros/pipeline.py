"""From camera messages to what is published about them, for the node and segment_bag alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from genesis_bags.decoding.images import ImageReader
from genesis_bags.decoding.messages import ImageMessage
from genesis_core import Perceived, Perception, Region, View
from genesis_core.perception import Tracker
from genesis_core.pipeline import DepthImage, DepthProvider
from genesis_ros.messages.object_masks import DescribedObjects
from genesis_ros.outputs import Result


class CameraMessage(NamedTuple):
    """An image message and what belongs to it.

    Attributes:
        received: when it arrived [ns, any clock].
        camera: its name; "" for an image that somebody asked about.
        depth: see View.
        tracker: see View.
        taken: when it was taken [s], as the camera's ImageClock says; tracks need it.
        reader: the camera's; None: the image is read by itself.
        region: see View.
    """

    message: ImageMessage
    received: int
    camera: str = ""
    depth: DepthImage | DepthProvider | None = None
    tracker: Tracker | None = None
    taken: float = 0.0
    reader: ImageReader | None = None
    region: Region | None = None


def perceive(
    perception: Perception, messages: Sequence[CameraMessage]
) -> Iterator[Result | Exception]:
    """Find out what is to be published about each message.

    All that hold a usable image share one pass of the model.

    Yields:
        For each message, in their order, its result, or the error that cost it: ImageError means
        that the message holds no usable image.
    """
    views: list[View | Exception] = []
    for item in messages:
        try:
            reader = item.reader or ImageReader()
            image = reader(item.message, item.taken)
            views.append(View(image, item.depth, item.tracker, item.taken, item.region))
        except Exception as error:  # noqa: BLE001 - out of memory, say: the other images go on
            views.append(error)
    outcomes = perception([view for view in views if isinstance(view, View)])
    for item, view in zip(messages, views, strict=True):
        if isinstance(view, Exception):
            yield view
            continue
        outcome = next(outcomes)
        yield outcome if isinstance(outcome, Exception) else _result(perception, item, outcome)


def with_new_ids(perception: Perception, item: CameraMessage, result: Result) -> Result:
    """A message's result with ids that were never given before; its tracker forgets all others."""
    if item.tracker is None:
        return result
    item.tracker.reset()
    if not any(result.perceived.track_ids):  # no objects, or tracking is switched off
        return result
    perceived = result.perceived
    view = perceived.view
    track_ids = item.tracker.update(perceived.found, view.stamp, view.image)
    return _result(perception, item, perceived._replace(track_ids=track_ids))


def _result(perception: Perception, item: CameraMessage, perceived: Perceived) -> Result:
    height, width = perceived.found.labels.shape
    described = DescribedObjects(
        perceived.found.objects,
        header=item.message.header,
        height=height,
        width=width,
        camera=item.camera,
        model=perception.model_name,
        track_ids=perceived.track_ids,
        measurements=perceived.measurements,
    )
    return Result(described, perceived)
