"""What is published about an image: one table for the node and segment_bag.

A new topic is one more row of OUTPUTS, or of the two tables of what the node alone publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from genesis_bags.decoding.pixels import Pixels
from genesis_core import Perceived
from genesis_core.perception import draw_overlay
from genesis_ros.messages import detections
from genesis_ros.messages.cdr import image_bytes
from genesis_ros.messages.images import png_message, to_message
from genesis_ros.messages.markers import pose_markers, to_markers
from genesis_ros.messages.object_masks import DescribedObjects
from genesis_ros.messages.object_poses import to_object_poses
from genesis_ros.msg import ObjectMasks, ObjectPoses


@dataclass(frozen=True, eq=False)
class Result:
    """What is known about one image. Whatever is published about it carries the image's stamp.

    Attributes:
        transform: from the camera's frame to target_frame; TARGET_OUTPUTS need it.
    """

    described: DescribedObjects
    perceived: Perceived
    transform: TransformStamped | None = None
    _drawn: dict[float, Pixels] = field(default_factory=dict, init=False, repr=False)

    @property
    def header(self) -> Header:
        """That of the image."""
        return self.described.header

    @property
    def camera(self) -> str:
        """Name of the camera; "" for an image that somebody asked about."""
        return self.described.camera

    @property
    def masks(self) -> ObjectMasks:
        """The message of the objects; made when it is asked for, which takes a millisecond."""
        return self.described.message

    def overlay(self, alpha: float) -> Pixels:
        """The image with the objects drawn over it, uint8 (H, W, 3); drawn once."""
        if alpha not in self._drawn:
            view, found, track_ids = self.perceived[:3]
            self._drawn[alpha] = draw_overlay(view.image, found, alpha, track_ids)
        return self._drawn[alpha]


class Output(NamedTuple):
    """A topic, below the node's namespace.

    Attributes:
        make: the message, from a result and the setting overlay_alpha.
        shared: with several cameras, all of them publish on it, beside each camera's own topic.
            Others are published on the cameras' own topics only.
        needs_depth: says something about cameras with depth only.
        for_people: a picture, which is large and of no use to programs.
        write: the same message as bytes, where that is faster.
    """

    name: str
    kind: type[Any]
    make: Callable[[Result, float], Any]
    shared: bool = False
    needs_depth: bool = False
    for_people: bool = False
    write: Callable[[Result, float], bytes] | None = None

    def topics(self, camera: str, *, several: bool) -> tuple[str, ...]:
        """Where this camera's messages go.

        Args:
            several: it is not the only camera.
        """
        if not several:
            return (self.name,)
        own = f"{camera}/{self.name}"
        return (self.name, own) if self.shared else (own,)


def _poses(result: Result) -> ObjectPoses:
    assert result.transform is not None
    return to_object_poses(result.masks, result.transform)


OUTPUTS: tuple[Output, ...] = (
    Output(
        "object_masks",
        ObjectMasks,
        lambda result, _: result.masks,
        shared=True,
        write=lambda result, _: result.described.to_bytes(),
    ),
    Output(
        "markers",
        MarkerArray,
        lambda result, _: to_markers(result.masks),
        shared=True,
        needs_depth=True,
    ),
    Output(
        "label_image",
        Image,
        lambda result, _: to_message(result.perceived.found.labels, result.header),
        write=lambda result, _: image_bytes(result.perceived.found.labels, result.header),
    ),
    Output(
        "overlay",
        Image,
        lambda result, alpha: to_message(result.overlay(alpha), result.header),
        for_people=True,
        write=lambda result, alpha: image_bytes(result.overlay(alpha), result.header),
    ),
)

if detections.AVAILABLE:
    from vision_msgs.msg import Detection2DArray, Detection3DArray

    OUTPUTS += (
        Output(
            "detections_2d",
            Detection2DArray,
            lambda result, _: detections.to_detections_2d(
                result.masks, [item.own_box for item in result.perceived.found.objects]
            ),
        ),
        Output(
            "detections_3d",
            Detection3DArray,
            lambda result, _: detections.to_detections_3d(result.masks),
            needs_depth=True,
        ),
    )

# The node publishes the pictures as PNG, too, for viewers at the other end of a slow link. The
# names are those of image_transport.
COMPRESSED_OUTPUTS = (
    Output(
        "label_image/compressed",
        CompressedImage,
        lambda result, _: png_message(result.perceived.found.labels, result.header),
    ),
    Output(
        "overlay/compressed",
        CompressedImage,
        lambda result, alpha: png_message(result.overlay(alpha), result.header),
        for_people=True,
    ),
)

# The node publishes the first as soon as a camera's result is there, the second after the masks of
# all cameras.
PROMPT_OUTPUTS = tuple(output for output in OUTPUTS if not output.for_people)
PICTURE_OUTPUTS = (*(output for output in OUTPUTS if output.for_people), *COMPRESSED_OUTPUTS)

# Where the parameter target_frame names a frame.
TARGET_OUTPUTS = (
    Output(
        "object_poses",
        ObjectPoses,
        lambda result, _: _poses(result),
        shared=True,
        needs_depth=True,
    ),
    Output(
        "object_poses/markers",
        MarkerArray,
        lambda result, _: pose_markers(_poses(result)),
        shared=True,
        needs_depth=True,
    ),
)
