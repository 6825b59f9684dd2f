"""Transforms from cameras to the frame that the parameter target_frame names, by tf2."""

from __future__ import annotations

import math
import time
from typing import Any

from geometry_msgs.msg import TransformStamped
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header

# s; a transform is sent some milliseconds after an image of its time is.
_PATIENCE = 0.1
_REST = 1.0  # s without waiting, after a wait in vain


class TransformError(ValueError):
    """There is no transform. The text names the frames and says why."""


class Transforms:
    """Listens to /tf and /tf_static.

    They arrive in the node's executor; `lookup` may be called from another thread.

    Raises:
        TransformError: tf2_ros is not installed.
    """

    def __init__(self, node: Node, target_frame: str) -> None:
        try:
            import tf2_ros
        except ImportError as error:
            raise TransformError(
                f"parameter target_frame is {target_frame!r}, which needs tf2_ros, and that is not "
                f"installed (ros-<distro>-tf2-ros-py): {error}"
            ) from error
        self.target_frame = target_frame
        self._tf2: Any = tf2_ros
        self._buffer: Any = tf2_ros.Buffer()
        self._listener: Any = tf2_ros.TransformListener(self._buffer, node)
        # A simulation or a bag that starts again: what is newer than now comes from before.
        self._jumps = node.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-1), on_clock_change=True
            ),
            post_callback=lambda jump: self._buffer.clear(),
        )
        self._given_up: dict[str, float] = {}  # by source frame: when

    def lookup(self, header: Header, doubt: str | None = None) -> TransformStamped:
        """The transform from a message's frame to the target frame, at the message's stamp.

        It is waited for a little while, but not again within a second after that was in vain.

        Args:
            doubt: why the stamp does not say when the image was taken: static transforms alone
                count then, as they hold at any time. None: it does.

        Raises:
            TransformError: there is none.
        """
        # Time 0 asks tf2 for the newest transform. It gives that one's time: 0 if all are static.
        source, stamp = header.frame_id, Time() if doubt else Time.from_msg(header.stamp)
        try:
            try:
                transform = self._buffer.lookup_transform(self.target_frame, source, stamp)
            except self._tf2.ExtrapolationException:
                if time.monotonic() - self._given_up.get(source, -math.inf) < _REST:
                    raise
                patience = Duration(seconds=_PATIENCE)
                transform = self._buffer.lookup_transform(
                    self.target_frame, source, stamp, timeout=patience
                )
        except self._tf2.TransformException as error:
            self._note_failure(source)
            text = " ".join(str(error).split())
            raise TransformError(
                f"no transform from {source!r} to {self.target_frame!r} at the image's time: {text}"
            ) from error
        moves = source != self.target_frame and Time.from_msg(transform.header.stamp).nanoseconds
        if doubt and moves:
            raise TransformError(
                f"no transform from {source!r} to {self.target_frame!r} at the image's time: "
                f"{doubt}, and the frames move; let the camera's driver stamp its images"
            )
        self._given_up.pop(source, None)
        return transform

    def _note_failure(self, source: str) -> None:
        """Begin a rest from waiting, unless one goes on."""
        now = time.monotonic()
        if now - self._given_up.get(source, -math.inf) >= _REST:
            self._given_up[source] = now

    def close(self) -> None:
        """End the subscriptions (executor thread)."""
        self._listener.unregister()
        self._jumps.unregister()
