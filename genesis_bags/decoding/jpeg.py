"""Whether a JPEG is whole: OpenCV fills what is missing with grey and reports success."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import cv2
import numpy as np

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LONE = frozenset([0x00, 0x01, 0xFF, *range(0xD0, 0xD9)])  # in scans; no length follows
_COEFFICIENTS = frozenset(range(64))
_RANDOM = random.Random(0)
_FILLERS = tuple(_RANDOM.randbytes(200).replace(b"\xff", b"\x7f") for _ in range(2))
"""What may follow a whole image's last scan, and would be seen in one that is cut off."""


def whole_jpeg(data: bytes) -> bytes | None:
    """A JPEG that decodes to all of its image, or None if a part of the image is missing.

    Some cameras leave out the end marker, or pad the file with zeros in its place: such a file
    comes back with the marker. Other files come back as they are.
    """
    if not data.startswith(_START) or _has_end(data):
        return data
    if not _has_all_scans(data):
        return None
    body = data.rstrip(b"\0")
    # A last 0xFF is the first half of the marker, or of a pair that ends with a zero.
    candidates = [body[:-1], body + b"\0"] if body.endswith(b"\xff") else [body]
    return next((file + _END for file in candidates if _needs_nothing_more(file)), None)


def _has_end(data: bytes) -> bool:
    """Whether the end marker follows the last scan; one before can belong to a thumbnail."""
    end, scan = data.rfind(_END), data.rfind(b"\xff\xda")
    return end >= 0 and end > scan


def _needs_nothing_more(data: bytes) -> bool:
    """Whether the last scan is whole, so that nothing is read of what is put behind it."""
    images = [
        cv2.imdecode(np.frombuffer(data + filler + _END, np.uint8), cv2.IMREAD_COLOR)
        for filler in (b"", *_FILLERS)
    ]
    first = images[0]
    return first is not None and all(
        image is not None and np.array_equal(image, first) for image in images
    )


def _has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component begins to be told to its last bit.

    A progressive JPEG tells them in several scans, coarse ones first.
    """
    components: set[int] = set()
    told: defaultdict[int, set[int]] = defaultdict(set)
    try:
        for marker, segment in _segments(data):
            if marker in _FRAMES:
                components = {segment[6 + 3 * index] for index in range(segment[5])}
            elif marker == _SCAN:
                count = segment[0]
                first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
                if bits & 15 == 0:
                    for index in range(count):
                        told[segment[1 + 2 * index]] |= set(range(first, last + 1))
    except (IndexError, ValueError):  # it ends within a header
        return False
    return bool(components) and all(told[name] >= _COEFFICIENTS for name in components)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers and what their headers hold, as far as there are whole ones."""
    place = data.find(0xFF, len(_START))
    while 0 <= place < len(data) - 3:
        marker = data[place + 1]
        if marker in _LONE:
            place += 1 if marker == 0xFF else 2
        else:
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            yield marker, data[place + 4 : end]
            place = end
        place = data.find(0xFF, place)
