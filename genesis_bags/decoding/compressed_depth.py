"""Depth images that image_transport compressed: compressedDepth (PNG and RVL) and plain PNG."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt

from genesis_bags.decoding.declared_size import declared_size
from genesis_bags.decoding.messages import AnyCompressedImage
from genesis_bags.decoding.pixels import ImageError, shown

COMPRESSED_DEPTH = "/compressedDepth"
"""Of a topic with a depth camera's compressed images."""

Counts = npt.NDArray[np.uint16]

_HEADER = struct.Struct("<iff")  # what compressed_depth_image_transport puts before the file
_RVL_SIZE = struct.Struct("<II")
_PNG = b"\x89PNG"
_JPEG = b"\xff\xd8"
_SHIFTS = np.arange(28, -1, -4, dtype=np.uint32)  # of a word's nibbles, the first one highest
MAX_DEPTH_PIXELS = 2**24
"""Larger depth images are refused: twenty bytes of RVL may claim any size."""

_MOST_NIBBLES = 9  # of one number: as many bits as the number of pixels has
_MOST_BYTES = 5  # for a pixel, with all that leads up to it


def is_depth_format(text: str) -> bool:
    """Whether the format of a compressed image says that it is a depth image."""
    return "compressedDepth" in text or _source(text) in ("16UC1", "32FC1")


def decode_depth(message: AnyCompressedImage) -> Counts | npt.NDArray[np.float32]:
    """What the depth camera sent, (H, W): uint16 of 16UC1, 0 = unknown; float32 of 32FC1, NaN.

    Raises:
        ImageError: the message holds no depth image.
    """
    source = _source(message.format)
    is_float = source == "32FC1"
    if not is_float and source not in ("16UC1", "mono16"):
        raise ImageError(
            "encoding",
            f"format {shown(message.format)} is no compressed depth; expected 16UC1 or 32FC1 with "
            "compressedDepth, or 16UC1 with png",
        )
    data = np.frombuffer(message.data, np.uint8).tobytes()
    quantisation: tuple[float, float] | None = None
    if not data.startswith(_PNG):
        if len(data) <= _HEADER.size or data.startswith(_JPEG):
            what = "a JPEG, which does not keep distances" if data.startswith(_JPEG) else "cut off"
            raise ImageError(
                "undecodable", f"{len(data)} bytes of format {shown(message.format)} are {what}"
            )
        _, *numbers = _HEADER.unpack_from(data)
        quantisation = numbers[0], numbers[1]
        data = data[_HEADER.size :]
    counts = _from_png(data) if data.startswith(_PNG) else _from_rvl(data)
    if not is_float:
        return counts
    if quantisation is None:
        raise ImageError(
            "undecodable", "a PNG of 32FC1 does not say how its values were made of distances"
        )
    return _from_inverse(counts, *quantisation)


def _source(text: str) -> str:
    """The encoding of what was compressed, which a format begins with."""
    return text.partition(";")[0].strip()


def _from_inverse(counts: Counts, scale: float, offset: float) -> npt.NDArray[np.float32]:
    """Distances of what is stored: scale / distance + offset, 0 where unknown."""
    if not (np.isfinite([scale, offset]).all() and scale > 0):
        raise ImageError(
            "undecodable", f"the compressed depth has a quantisation of {scale:g} and {offset:g}"
        )
    inverse = counts.astype(np.float32) - np.float32(offset)
    inverse[(counts == 0) | (inverse <= 0)] = np.nan
    with np.errstate(over="ignore"):
        return np.float32(scale) / inverse


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_DEPTH_PIXELS:
        raise ImageError(
            "too large" if width * height else "size",
            f"the compressed depth claims to be an image of {width}x{height}; expected 1 to "
            f"{MAX_DEPTH_PIXELS} pixels",
        )


def _from_png(data: bytes) -> Counts:
    size = declared_size(data)
    if size is not None:
        _check_size(*size)
        counts = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if counts is not None and counts.ndim == 2 and counts.dtype == np.uint16:
            return counts
    raise ImageError(
        "undecodable", f"{len(data)} bytes of compressed depth hold no PNG of one channel, 16 bits"
    )


def _from_rvl(data: bytes) -> Counts:
    """Run length and variable length coding (A. Wilson, Fast Lossless Depth Image Compression).

    A number is told in nibbles of three bits each, the lowest first, whose fourth bit says that
    another one follows. Numbers alternate: how many pixels are 0, how many are not, and of the
    latter the differences to the pixel before, signs in the lowest bit.
    """
    if len(data) < _RVL_SIZE.size:
        raise ImageError("undecodable", f"{len(data)} bytes are no depth compressed by RVL or PNG")
    width, height = _RVL_SIZE.unpack_from(data)
    _check_size(width, height)
    total = width * height
    body = data[_RVL_SIZE.size : _RVL_SIZE.size + _MOST_BYTES * (total + 1)]
    numbers = _numbers(np.frombuffer(body[: len(body) // 4 * 4], "<u4"))
    runs, end = _runs(numbers, total)
    if end != total:
        raise ImageError(
            "undecodable",
            f"{len(data)} bytes of compressed depth end before, or do not fit, its "
            f"{width}x{height} pixels",
        )
    pixels, places, lengths = np.array(runs, np.int64).reshape(-1, 3).T
    # Within a run both go on by one.
    ahead = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    told = numbers[np.repeat(places, lengths) + ahead]
    counts = np.zeros(total, np.uint16)
    counts[np.repeat(pixels, lengths) + ahead] = np.cumsum((told >> 1) ^ -(told & 1))
    return counts.reshape(height, width)


def _runs(numbers: npt.NDArray[np.int64], total: int) -> tuple[list[tuple[int, int, int]], int]:
    """The runs of pixels that are not 0, as first pixel, first number and length, and their end.

    The end is less than the total where the numbers do not fit.
    """
    runs: list[tuple[int, int, int]] = []
    told: list[int] = numbers.tolist()  # several times faster to look at one by one
    pixel = place = 0
    while pixel < total and place + 1 < len(told):
        zeros, others = told[place], told[place + 1]
        place += 2
        if not 0 < zeros + others <= total - pixel or place + others > len(told):
            break
        runs.append((pixel + zeros, place, others))
        pixel += zeros + others
        place += others
    return runs, pixel


def _numbers(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """The numbers that words of eight nibbles tell."""
    nibbles = ((words[:, np.newaxis] >> _SHIFTS) & 15).astype(np.uint8).ravel()
    ends = np.flatnonzero(nibbles < 8)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > _MOST_NIBBLES:
        raise ImageError("undecodable", "the compressed depth holds numbers that no pixel has")
    numbers = np.zeros(len(ends), np.int64)
    for number in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > number)
        bits = (nibbles[starts[longer] + number] & 7).astype(np.int64)
        numbers[longer] |= bits << 3 * number
    return numbers
