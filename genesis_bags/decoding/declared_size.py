"""How large a compressed image says it is, read before anything is decoded."""

from __future__ import annotations

import struct

_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"  # signature, and the first chunk's length and type
_JPEG = b"\xff\xd8"
# Order of bytes, and whether places have 8 bytes.
_TIFF = {
    b"II*\0": ("<", False),
    b"MM\0*": (">", False),
    b"II+\0": ("<", True),
    b"MM\0+": (">", True),
}
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_WIDTH, _HEIGHT, _BITS = 256, 257, 258
_MOST_TIFF_TAGS = 1000
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LONE = frozenset([0x00, 0x01, *range(0xD0, 0xD8)])  # markers that no length follows
_END_OF_HEADERS = frozenset([0xD9, 0xDA])


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height [px] in the header of an image file, before anything is decoded.

    JPEG, PNG, WebP, and TIFF of 8 or 16 bits; None if it is none of these.
    """
    try:
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">II", data, len(_PNG))
            return width, height
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
        if data[:4] in _TIFF:
            return _tiff_size(data)
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


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Of the first chunk: lossy, lossless, or the canvas of one with extras."""
    kind = data[12:16]
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and data[20:21] == b"\x2f":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low, high = struct.unpack_from("<IH", data, 24)
        return (low & 0xFFFFFF) + 1, (low >> 24 | high << 8) + 1
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Of the first page; None where its values have more than 16 bits, as floats have."""
    order, big = _TIFF[data[:4]]
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, place)
    place += 8 if big else 2
    numbers = {}
    for _ in range(min(count, _MOST_TIFF_TAGS)):
        tag, kind, items = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
        at, room = (place + 12, 8) if big else (place + 8, 4)
        letter = _TIFF_NUMBERS.get(kind)
        if letter and tag in (_WIDTH, _HEIGHT, _BITS):
            if items * struct.calcsize("=" + letter) > room:
                (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
            (numbers[tag],) = struct.unpack_from(order + letter, data, at)
        place += 20 if big else 12
    if numbers.get(_BITS, 1) > 16 or not {_WIDTH, _HEIGHT} <= numbers.keys():
        return None
    return numbers[_WIDTH], numbers[_HEIGHT]
