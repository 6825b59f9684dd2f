"""Pictures of results for people: contact sheets and videos of image and overlay (no ROS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_GAP = 8
_CAPTION = 24
_PAPER = 255
_INK = (40, 40, 40)
_TALLEST = 4  # a picture's height in widths


@dataclass(frozen=True)
class Pair:
    """An image beside its overlay.

    Attributes:
        image: (H, W, 3) RGB.
        overlay: (H, W, 3) RGB.
        caption: a line of text above them.
    """

    image: Pixels
    overlay: Pixels
    caption: str


def fit(image: Pixels, width: int, height: int) -> Pixels:
    """The whole image in a frame of the given size, its proportions kept, borders black."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, size, interpolation=interpolation)
    framed = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    framed[top : top + size[1], left : left + size[0]] = resized
    return framed


def contact_sheet(pairs: Sequence[Pair], columns: int = 2) -> Pixels:
    """All pairs in a grid, row by row; every cell has the first pair's size.

    Returns:
        The sheet, (H, W, 3) RGB.
    """
    if not pairs:
        raise ValueError("a contact sheet needs at least one pair of images")
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    height, width = pairs[0].image.shape[:2]
    cell_width, cell_height = 2 * width + _GAP, height + _CAPTION + _GAP
    sheet = np.full(
        (rows * cell_height + _GAP, columns * (cell_width + 2 * _GAP), 3), _PAPER, np.uint8
    )
    for number, pair in enumerate(pairs):
        row, column = divmod(number, columns)
        top, left = row * cell_height + _GAP, column * (cell_width + 2 * _GAP) + _GAP
        origin = (left, top + _CAPTION - 8)
        cv2.putText(sheet, pair.caption, origin, _FONT, 0.5, _INK, 1, cv2.LINE_AA)
        for index, image in enumerate((pair.image, pair.overlay)):
            x = left + index * (width + _GAP)
            y = top + _CAPTION
            sheet[y : y + height, x : x + width] = fit(image, width, height)
    return sheet


def write_image(path: Path, image: Pixels) -> None:
    """Write an RGB image, by rename; the name's ending chooses the format."""
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(encoded.tobytes())
    partial.replace(path)


class PairSampler:
    """Keeps a bounded number of small pairs, spread evenly over a sequence of unknown length.

    Pairs of an image that has been kept before are left out: a short folder played many times fills
    no sheet with repetitions.
    """

    def __init__(self, limit: int = 12, width: int = 320) -> None:
        self._limit = limit
        self._width = width
        self._kept: list[Pair] = []
        self._seen: set[int] = set()
        self._stride = 1
        self._distinct = 0

    def add(self, pair: Pair) -> None:
        """Consider the next pair; it is made small if it is kept."""
        key = hash(pair.image.tobytes())
        if key in self._seen:
            return
        self._seen.add(key)
        if self._distinct % self._stride == 0:
            height = round(pair.image.shape[0] * self._width / pair.image.shape[1])
            height = min(max(height, 1), _TALLEST * self._width)  # of strips, what can be shown
            self._kept.append(
                Pair(
                    fit(pair.image, self._width, height),
                    fit(pair.overlay, self._width, height),
                    pair.caption,
                )
            )
            if len(self._kept) == 4 * self._limit:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._distinct += 1

    def pairs(self) -> list[Pair]:
        """At most `limit` pairs in order, the first and the last kept one among them."""
        count = min(self._limit, len(self._kept))
        indices = np.linspace(0, len(self._kept) - 1, count).round().astype(int)
        return [self._kept[index] for index in indices]


class PairVideo:
    """A video of image and overlay side by side; all frames take the size of the first.

    MPEG-4 where OpenCV can encode it, otherwise Motion JPEG, which it always can. Use it in a
    `with` block.

    Attributes:
        path: the file, known after the first frame.
    """

    def __init__(self, stem: Path, rate: float, max_width: int = 1280) -> None:
        self._stem = stem
        self._rate = rate
        self._max_width = max_width
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self.path: Path | None = None

    def add(self, pair: Pair) -> None:
        """Append one frame."""
        if self._writer is None:
            self._writer = self._open(pair.image)
        width, height = self._size
        frame = np.hstack([fit(image, width, height) for image in (pair.image, pair.overlay)])
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def _open(self, image: Pixels) -> cv2.VideoWriter:
        scale = min(1.0, self._max_width / 2 / image.shape[1])
        # Encoders want even sizes.
        self._size = (
            max(2, round(image.shape[1] * scale / 2) * 2),
            max(2, round(image.shape[0] * scale / 2) * 2),
        )
        for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG")):
            self.path = self._stem.with_suffix(suffix)
            writer = cv2.VideoWriter(
                str(self.path),
                cv2.VideoWriter.fourcc(*codec),
                self._rate,
                (2 * self._size[0], self._size[1]),
            )
            if writer.isOpened():
                return writer
        raise OSError(f"OpenCV cannot write a video to {self._stem.parent}")

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> PairVideo:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
