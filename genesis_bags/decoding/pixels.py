"""The bytes of image messages as arrays.

Imports numpy only, as planners use it: OpenCV and the model take seconds to load.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genesis_bags.decoding.messages import AnyImage

Pixels: TypeAlias = npt.NDArray[np.uint8]

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


def mono8_pixels(message: AnyImage) -> Pixels:
    """Pixels of a mono8 image (a mask or a label image), uint8 (H, W), a view of the message.

    Raises:
        ImageError: the message is not a well-formed mono8 image.
    """
    if message.encoding != "mono8":
        raise ImageError(
            "encoding", f"encoding {shown(message.encoding)} found where mono8 was expected"
        )
    return packed_pixels(message, 1)[..., 0]


def packed_pixels(message: AnyImage, bytes_per_pixel: int) -> Pixels:
    """The bytes of the message's pixels, uint8 (H, W, bytes_per_pixel), without padding.

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
