"""How large a compressed image says it is, read before anything is decoded."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # signature, and the first chunk's length and type
_JPEG = b"\xff\xd8"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LONE = frozenset([0x00, 0x01, *range(0xD0, 0xD8)])  # markers that no length follows
_END_OF_HEADERS = frozenset([0xD9, 0xDA])


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height [px] in the header of a JPEG or PNG file; None if it is neither."""
    try:
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, len(_PNG))
            return width, height
        return _jpeg_size(data) if data.startswith(_JPEG) else None
    except struct.error:  # the file ends before its size
        return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """As libjpeg reads it: whatever stands between a segment and the next 0xFF is skipped."""
    place = data.find(0xFF, len(_JPEG))
    while place >= 0:
        (marker,) = struct.unpack_from(">B", data, place + 1)
        if marker in _FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", data, place + 5)
            return width, height
        if marker in _END_OF_HEADERS:
            return None
        if marker == 0xFF:  # padding
            place += 1
            continue
        place += 2
        if marker not in _LONE:
            place += struct.unpack_from(">H", data, place)[0]
        place = data.find(0xFF, place)
    return None
