"""Masks and label images as arrays.

Imports numpy and the messages only, as planners use it: OpenCV and the model take seconds to load.
"""

from __future__ import annotations

from sensor_msgs.msg import Image

from genesis_bags.pixels import ImageError, Pixels, packed_pixels, shown


def mono8_pixels(message: Image) -> Pixels:
    """Pixels of a mono8 image (a mask or a label image), uint8 (H, W), a view of the message.

    Raises:
        ImageError: the message is not a well-formed mono8 image.
    """
    if message.encoding != "mono8":
        raise ImageError(
            "encoding", f"encoding {shown(message.encoding)} found where mono8 was expected"
        )
    return packed_pixels(message, 1)[..., 0]
