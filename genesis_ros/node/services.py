"""The services of the perception node: masks on request, pause, forgetting tracks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from genesis_ros.msg import ObjectMasks
from genesis_ros.srv import SegmentImage

#: More requests than this at a time are refused, as they would wait for long.
MAX_WAITING_REQUESTS = 8

# The usual service keeps 10 requests and forgets the oldest without a word; whoever sent it waits
# for ever. This many fit while the node changes its state and looks at none.
_QOS = QoSProfile(depth=100)


class Request(NamedTuple):
    """An image that somebody asked about, and whom to tell."""

    message: Image
    received: float  # s, monotonic
    answer: Callable[[ObjectMasks], None]
    refuse: Callable[[str], None]  # with the reason


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
                    time.monotonic(),
                    lambda masks: finish(masks, ""),
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


def _attempt(action: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, action()
    except RuntimeError as error:
        return False, str(error)
