"""The bytes of image messages as arrays. Imports numpy only: planners use it.

A message is whatever has the fields of a sensor_msgs message: ROS 2's own, or that of rosbags.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Pixels: TypeAlias = npt.NDArray[np.uint8]
Message: TypeAlias = Any
"""With the fields of the sensor_msgs type that the function names."""

_SHOWN_TEXT = 60  # characters of a message's text that an error repeats


class ImageError(ValueError):
    """A message that holds no usable image.

    The text says what was given and what was expected.

    Attributes:
        kind: the same in one of few words.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def packed_pixels(message: Message, bytes_per_pixel: int) -> Pixels:
    """The bytes of an Image's pixels, uint8 (H, W, bytes_per_pixel), without padding.

    A view of the message: don't write to it.

    Raises:
        ImageError: size, step and length of the message contradict each other.
    """
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ImageError("size", f"the image has no pixels (width {width}, height {height})")
    if step < width * bytes_per_pixel:
        raise ImageError(
            "step",
            f"step {step} is too short: a row of {width} {message.encoding} pixels "
            f"has {width * bytes_per_pixel} bytes",
        )
    if len(message.data) != step * height:
        raise ImageError(
            "length",
            f"data has {len(message.data)} bytes, "
            f"but step {step} x height {height} = {step * height}",
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, : width * bytes_per_pixel]
    return rows.reshape(height, width, bytes_per_pixel)


def shown(text: str) -> str:
    """A text from a message, fit to be shown in one of ours: in quotes, on one line, not long."""
    return repr(text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "...")
