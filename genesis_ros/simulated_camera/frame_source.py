"""What every source of camera images has in common (no ROS)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_bags.reader import Warn


class SourceError(ValueError):
    """The source cannot be opened, or has no readable image; the message names it and why."""


@dataclass(frozen=True)
class SourceFrame:
    """One image of a source."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    name: str
    """What a message about this frame calls it: a file name or a position in the source."""
    intrinsics: NDArray[np.float64] | None = None
    """(3, 3) pinhole matrix in pixels, None where the source does not know it."""
    depth: NDArray[np.float32] | None = None
    """(H, W) [m] along the optical axis, 0 where unknown; None where the source has none."""
    distortion: tuple[str, Sequence[float]] | None = None
    """The lens's model and coefficients as in a CameraInfo; None: the image has no distortion."""


class FrameSource(ABC):
    """A finite sequence of frames that can be played more than once."""

    description: str
    """What is played, for the log."""
    has_depth = False
    """Whether its frames have depth."""

    @abstractmethod
    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        """Yield one pass; unreadable images are skipped.

        Args:
            epoch: the number of passes so far.
        """

    def close(self) -> None:  # noqa: B027 - most sources hold nothing between passes
        """Free what the source holds."""


def once(warn: Warn) -> Warn:
    """The same, but told of nothing twice: sources are played again and again."""
    told: set[str] = set()

    def say(text: str) -> None:
        if text not in told:
            told.add(text)
            warn(text)

    return say


def play(source: FrameSource, *, loop: bool) -> Iterator[SourceFrame]:
    """Yield the source's frames once, or again and again.

    Raises:
        SourceError: a whole pass had no readable image.
    """
    for epoch in itertools.count():
        empty = True
        for frame in source.frames(epoch):
            empty = False
            yield frame
        if empty:
            raise SourceError(f"{source.description}: no readable image in it")
        if not loop:
            return
