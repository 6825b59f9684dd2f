"""Arrays as image messages. (genesis_bags/decoding reads them.)

cv_bridge makes raw ones. It is not used for reading: the wheel takes padded rows for pixels and
knows no YUV, and no cv_bridge refuses all that a robot needs refused.
"""

from __future__ import annotations

from array import array

import cv2
import numpy as np
from cv_bridge import CvBridge
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from genesis_bags.decoding.pixels import Pixels

_BRIDGE = CvBridge()


def to_message(pixels: Pixels, header: Header) -> Image:
    """Image message of uint8 pixels: (H, W) becomes mono8, (H, W, 3) rgb8."""
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(f"expected uint8 (H, W) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    # numpy would write out the rows of a larger image's part byte by byte.
    pixels = np.ascontiguousarray(pixels)
    # The wheel's cv_bridge, unlike newer ones, takes no header.
    message = _BRIDGE.cv2_to_imgmsg(pixels, "mono8" if pixels.ndim == 2 else "rgb8")
    message.header = header
    return message


def png_message(image: Pixels, header: Header) -> CompressedImage:
    """RGB pixels (H, W, 3) or labels (H, W) as a PNG, named as image_transport names it."""
    grey = image.ndim == 2
    pixels = image if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    written, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert written
    kind = "mono8; png compressed mono8" if grey else "rgb8; png compressed bgr8"
    return CompressedImage(header=header, format=kind, data=array("B", content.tobytes()))


def jpeg_message(image: Pixels, header: Header, quality: int = 90) -> CompressedImage:
    """RGB pixels (H, W, 3) as a JPEG, named as image_transport names it."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return CompressedImage(
        header=header, format="rgb8; jpeg compressed bgr8", data=array("B", encoded.tobytes())
    )
