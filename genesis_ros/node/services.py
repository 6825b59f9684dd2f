"""The services of the perception node: masks on request, pause, forgetting tracks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from genesis_bags.decoding.images import ImageReader
from genesis_ros.messages.depth_pairing import DepthPairing, DepthView, registration_problem
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.parameters import NodeSettings
from genesis_ros.outputs import Result
from genesis_ros.pipeline import CameraMessage
from genesis_ros.srv import SegmentImage

#: More requests than this at a time are refused, as they would wait for long.
MAX_WAITING_REQUESTS = 8

# The usual service keeps 10 requests and forgets the oldest without a word; whoever sent it waits
# for ever. This many fit while the node changes its state and looks at none.
_QOS = QoSProfile(depth=100)


class Request(NamedTuple):
    """An image that somebody asked about, and whom to tell."""

    message: Image
    depth: DepthView | None
    received: float  # s, monotonic
    reply: Callable[[ObjectMasks, str], None]  # with what is wrong with the depth; "": nothing
    refuse: Callable[[str], None]  # with the reason

    def answer(self, result: Result) -> None:
        """Tell what was found."""
        problem = result.perceived.depth_problem
        if problem is None and self.depth is not None:
            problem = registration_problem(
                "depth", self.depth.image.header.frame_id, self.message.header.frame_id
            )
        self.reply(result.masks, problem or "")

    def prepare(self, settings: NodeSettings) -> CameraMessage:
        """The image with its depth, as the settings read them."""
        reader, received = ImageReader(settings.reading()), round(self.received * 1e9)
        depth = None
        if self.depth is not None:
            sent = DepthPairing("depth", "camera_info")
            sent.unit.given = settings.depth_unit
            sent.use_projection = settings.use_projection
            depth = partial(sent.convert, self.depth)
        return CameraMessage(self.message, received, depth=depth, reader=reader)


class ServedNode(Protocol):
    """What the services need of the node."""

    def submit_request(self, name: str, request: Request) -> None:
        """Let a request wait for its turn.

        Raises:
            RuntimeError: the node does not work now.
        """

    def reset_tracks(self) -> str:
        """Forget all tracks; says what was done."""

    def pause(self, paused: bool) -> str:
        """Stop looking at the cameras, or go on; says what was done."""


class Services:
    """segment_image, reset_tracks and pause, next to the node's topics: /genesis/pause."""

    def __init__(self, node: Node, served: ServedNode) -> None:
        self._node = node
        self._served = served
        self._numbers = itertools.count()
        self._waiting = 0
        # In the node's own group a request that waits would hold up everything else.
        node.create_service(
            SegmentImage,
            "segment_image",
            self._segment,
            qos_profile=_QOS,
            callback_group=ReentrantCallbackGroup(),
        )
        node.create_service(Trigger, "reset_tracks", self._reset_tracks)
        node.create_service(SetBool, "pause", self._pause)

    async def _segment(
        self, request: SegmentImage.Request, response: SegmentImage.Response
    ) -> SegmentImage.Response:
        """Waits for the worker while the node goes on with everything else."""
        executor = self._node.executor
        done: Future[SegmentImage.Response] = Future(executor=executor)

        def finish(masks: ObjectMasks | None, reason: str) -> None:
            response.success, response.message = masks is not None, reason
            if masks is not None:
                response.object_masks = masks
            done.set_result(response)
            if executor is not None and self._node.context.ok():
                executor.wake()  # it looks at waiting coroutines only when something happens

        if self._waiting >= MAX_WAITING_REQUESTS:
            response.message = f"{self._waiting} requests wait already; ask again later"
            return response
        self._waiting += 1
        try:
            self._served.submit_request(
                f"request {next(self._numbers)}",
                Request(
                    request.image,
                    _depth_of(request),
                    time.monotonic(),
                    finish,
                    lambda reason: finish(None, reason),
                ),
            )
            await done
        except RuntimeError as error:
            response.message = str(error)
        finally:
            self._waiting -= 1
        return response

    def _reset_tracks(
        self, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        response.success, response.message = _attempt(self._served.reset_tracks)
        return response

    def _pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = _attempt(lambda: self._served.pause(request.data))
        return response


def _depth_of(request: SegmentImage.Request) -> DepthView | None:
    """What was sent beside the image; None if its image is empty."""
    depth = request.depth
    if not (depth.data or depth.width or depth.height):
        return None
    return DepthView(depth, request.camera_info)


def _attempt(action: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, action()
    except RuntimeError as error:
        return False, str(error)
