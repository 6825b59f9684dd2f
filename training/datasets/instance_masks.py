"""Reading a picture as instance labels, in whatever way its author wrote down which pixel is whose.

Grey of 8 or 16 bits, 1 bit, palettes, colours with and without alpha: each value or colour is an
instance, and 0, which is black, the background. What cannot be meant so is refused.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.layout import UInt8

MAX_INSTANCES = 254  # label 255 is for pixels that are unknown
_PNG = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3
"""The colour type of a PNG with a palette."""
_VOID = (224, 224, 192)
"""RGB of the outline around objects in Pascal VOC: it is nobody's."""


_LOSSY = "it is stored with loss (JPEG or lossy WebP): its labels are not exact"


def read_instance_mask(path: Path) -> UInt8:
    """Instance labels (H, W) of an image file, see ``decode_instance_mask``.

    Raises:
        ValueError, OSError: it cannot be read, or is no instance mask; the message says why.
    """
    return decode_instance_mask(path.read_bytes())


def read_object_mask(path: Path) -> UInt8:
    """The mask (H, W) of one object: 1 where an image file is not 0 or black, whatever it is there.

    Raises:
        ValueError, OSError: it cannot be read, or was stored with loss.
    """
    data = path.read_bytes()
    if _is_lossy(data):
        raise ValueError(_LOSSY)
    image = _decode(data)
    colours = image[..., :3] if image.ndim == 3 else image[..., np.newaxis]
    return np.asarray(colours.any(axis=2), np.uint8)


def decode_instance_mask(data: bytes) -> UInt8:
    """Instance labels (H, W) of an encoded image: 0 = background, then 1, 2, ... without gaps.

    Labels are in the order of grey values, palette indices, or colours as red-green-blue numbers.
    Background is what is 0 or black, or transparent in an image where not all is. In a palette
    without black it is the first entry. Pascal VOC's light outline is background, too.

    Raises:
        ValueError: it cannot be decoded, was stored with loss, has smoothed edges or more than 254
            instances, or does not hold whole numbers.
    """
    if _is_lossy(data):
        raise ValueError(_LOSSY)
    palette = _palette(data)
    if palette is None:
        return _labels(_values(_decode(data)))
    indices = _decode(_with_grey_palette(data))[..., 0].astype(np.int64)
    # A palette that a program sorted by frequency has black, the background, anywhere.
    used = np.unique(indices)
    sorted_otherwise = palette[0].any() and not palette[used].any(1).all()
    if sorted_otherwise:
        return _labels(_values(palette[indices][..., ::-1]))
    indices[(palette == _VOID).all(1)[indices] & (indices == 255)] = 0
    return _labels(indices)


def _is_lossy(data: bytes) -> bool:
    return data[:3] == b"\xff\xd8\xff" or (data[8:12] == b"WEBP" and b"VP8 " in data[12:64])


def _decode(data: bytes) -> NDArray[Any]:
    """The image as OpenCV gives it: (H, W), or (H, W, 3 or 4) with blue first."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise ValueError(f"the image cannot be decoded ({len(data)} bytes)")
    return image


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of a PNG's chunks, as far as they are whole; none of other formats."""
    found: list[tuple[bytes, bytes]] = []
    place = len(_PNG)
    while data.startswith(_PNG) and place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        name, content = data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length
        if place <= len(data):
            found.append((name, content))
    return found


def _palette(data: bytes) -> UInt8 | None:
    """The palette (256, 3) RGB of a PNG that has one, filled up with black."""
    chunks = dict(_chunks(data))
    header = chunks.get(b"IHDR", b"")
    if len(header) < 10 or header[9] != _PALETTE:
        return None
    entries = np.frombuffer(chunks.get(b"PLTE", b"")[:768], np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(entries) // 3] = entries[: len(entries) // 3 * 3].reshape(-1, 3)
    return palette


def _with_grey_palette(data: bytes) -> bytes:
    """A PNG with palette whose colours are its indices: OpenCV does not give indices away."""
    parts = [_PNG]
    entries = 256
    for name, content in _chunks(data):
        if name == b"IHDR":
            entries = 1 << min(content[8], 8)
        elif name == b"PLTE":
            content = bytes(np.repeat(np.arange(entries, dtype=np.uint8), 3))
        elif name == b"tRNS":
            continue
        checksum = zlib.crc32(name + content)
        parts += [len(content).to_bytes(4, "big"), name, content, checksum.to_bytes(4, "big")]
    return b"".join(parts)


def _values(image: NDArray[Any]) -> NDArray[np.int64]:
    """One number (H, W) for each pixel, different for different colours; 0 is background.

    Raises:
        ValueError: the image holds no whole numbers.
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"its values are {image.dtype}; expected whole numbers of 8 or 16 bits")
    if image.ndim == 2:
        return image.astype(np.int64)
    bits = 8 * image.dtype.itemsize
    blue, green, red = (image[..., channel].astype(np.int64) for channel in range(3))
    values: NDArray[np.int64] = red << 2 * bits | green << bits | blue
    if image.dtype == np.uint8:
        red_of_void, green_of_void, blue_of_void = _VOID
        values[values == red_of_void << 16 | green_of_void << 8 | blue_of_void] = 0
    if image.shape[2] == 4 and np.ptp(alpha := image[..., 3]) > 0:
        values[alpha == 0] = 0
        if not values.any():  # Black objects on what is transparent: the alpha is the mask.
            values = alpha.astype(np.int64)
    return values


def _labels(values: NDArray[np.int64]) -> UInt8:
    """The numbers (H, W) counted through: 0, then 1, 2, ... in their order.

    Raises:
        ValueError: there are too many for instances, or they look like a picture's.
    """
    found, places = np.unique(values, return_inverse=True)
    instances = int((found > 0).sum())
    if instances > MAX_INSTANCES:
        raise ValueError(
            f"it has {instances} colours or values besides the background; expected at most "
            f"{MAX_INSTANCES} instances: it is a picture, or stored with loss"
        )
    labels = places.reshape(values.shape) + int(found[0] != 0)
    _check_edges(labels, instances)
    return labels.astype(np.uint8)


def _check_edges(labels: NDArray[Any], instances: int) -> None:
    """Check that most instances have an inside.

    Smoothed edges, or noise of a compression, give values that scarcely fill 2 x 2 pixels
    anywhere; as instances they would be rings of single pixels around each object.

    Raises:
        ValueError: most have none.
    """
    corner = labels[:-1, :-1]
    alike = (corner == labels[1:, :-1]) & (corner == labels[:-1, 1:]) & (corner == labels[1:, 1:])
    inside = np.bincount(corner[alike], minlength=instances + 1)[1:]
    ragged = int((inside < 0.25 * np.bincount(labels.ravel(), minlength=instances + 1)[1:]).sum())
    if ragged >= 4 and ragged > instances / 2:
        raise ValueError(
            f"{ragged} of its {instances} values fill no area: its edges are smoothed, or it was "
            "stored with loss; expected one exact value for each instance"
        )
