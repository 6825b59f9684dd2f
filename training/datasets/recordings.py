"""What the data sets of one's own share: options, splits that leak nothing, order in time."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePath
from typing import Any, ClassVar

from training.datasets.images import Fit
from training.datasets.layout import SPLITS, check_at_least
from training.datasets.parts import PartWriter, Task, part_name
from training.datasets.shots import Form, Shot, ShotPart
from training.datasets.tasks import chunk_key

MIN_RECORDINGS = 10
"""From so many recordings on, whole ones are val and test; of fewer, the end of each is."""
_GAP = 0.01  # of a recording, left out on each side of where a split ends
_FOLDER_NAMES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_BETWEEN = "between two splits"


@dataclass(frozen=True)
class OwnData:
    """Images of one's own.

    Args:
        source: what to read
        image_size: height and width of the images in pixels
        fit: crop takes the central square, as the node does with fit:=crop; resize takes all of the
            image, squeezed, as the node does by default
        exposure: mean grey value, 0 to 1, that all images are exposed to; 0 leaves them as they are
        val: share of the images to validate on
        test: share of the images to test on
        min_change: grey levels by which a part of the image must have changed since the image
            before, 0 to 255. What changed less is left out, and so is a training image that nearly
            equals one to validate or test on; 0 keeps all
    """

    source: Path
    image_size: int = 256
    exposure: float = 0.0
    val: float = 0.1
    test: float = 0.1
    min_change: float = 12.0
    fit: Fit = "crop"

    former_options: ClassVar[dict[str, Any]] = {"fit": "crop"}
    """What options were before there was a choice."""

    def __post_init__(self) -> None:
        check_at_least(1, image_size=self.image_size)
        if not 0 <= self.exposure < 1:
            raise ValueError(f"exposure is {self.exposure}; expected 0 to below 1")
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(
                f"val is {self.val} and test {self.test}; expected shares that leave some to train"
            )
        if not 0 <= self.min_change <= 255:
            raise ValueError(f"min_change is {self.min_change}; expected 0 to 255")

    def __getstate__(self) -> dict[str, Any]:
        """What travels to worker processes: the options, not what was found by them."""
        return {option.name: getattr(self, option.name) for option in fields(self)}

    @property
    def shares(self) -> Shares:
        """The shares of the splits."""
        return Shares(self.val, self.test)

    def own_options(self) -> dict[str, Any]:
        """The options here that shape the arrays."""
        return {
            "image_size": self.image_size,
            "fit": self.fit,
            "exposure": self.exposure,
            "val": self.val,
            "test": self.test,
            "min_change": self.min_change,
        }

    def form(self, *, masks: bool = False, depths: bool = False) -> Form:
        """What the images become."""
        return Form(self.image_size, self.exposure, masks, depths, self.min_change, self.fit)


@dataclass(frozen=True)
class Shares:
    """How much of the data is for what; what is left trains. In the order train, val, test."""

    val: float
    test: float

    def of_recordings(self, named: Sequence[str | None]) -> list[str | None]:
        """The split of each recording, in the given order; None: the end of each is val and test.

        Args:
            named: the split that the source itself says, None where it does not.
        """
        free = [place for place, name in enumerate(named) if name in (None, "train")]
        chosen: list[str | None] = [None] * len(free)
        if len(free) >= MIN_RECORDINGS:
            chosen = list(self.rest(named).of_count(len(free)))
        splits = list(named)
        for place, split in zip(free, chosen, strict=True):
            splits[place] = split
        return splits

    def rest(self, named: Sequence[str | None]) -> Shares:
        """The shares of what the source does not call val or test: nothing, if it does of some."""
        return Shares(0.0 if "val" in named else self.val, 0.0 if "test" in named else self.test)

    def of_count(self, count: int) -> list[str]:
        """The splits of so many images or recordings in their order; 1 at least where there are 3.

        Returns:
            As many names.
        """
        least = int(count >= len(SPLITS))
        val = max(least, round(count * self.val)) if self.val else 0
        test = max(least, round(count * self.test)) if self.test else 0
        return ["train"] * (count - val - test) + ["val"] * val + ["test"] * test

    def at(self, place: float) -> str | None:
        """The split at a place of a recording, 0 to 1; None between two splits."""
        ends = {"train": 1 - self.val - self.test, "val": 1 - self.test}
        place = min(max(place, 0.0), 1 - 1e-9)
        inner = [end for end in ends.values() if end < 1]
        if any(abs(place - end) < _GAP for end in inner):
            return None
        return next((split for split, end in ends.items() if place < end), "test")


@dataclass(frozen=True)
class RecordingTask(Task):
    """A file that holds a recording, or a folder that does.

    Attributes:
        split: of all of it; None: the end is val and test.
        shares: what is val and test then.
    """

    path: Path
    split: str | None
    shares: Shares


class Recorded:
    """Writes the images of a task, which come in the order of time, as parts of their splits.

    Args:
        name: names the parts.
    """

    def __init__(self, parts: PartWriter, name: str, shares: Shares, form: Form) -> None:
        self._parts = parts
        self._name = part_name(name)
        self._shares = shares
        self._form = form
        self._wanted: Counter[str] = Counter()  # images by split
        self._open: dict[str, ShotPart | None] = {}  # by split; None: the part is done already
        self._current: ShotPart | None = None
        self._skipped: Counter[str] = Counter()

    def wants(self, place: float, split: str | None = None) -> bool:
        """Whether the next image is needed: not if its part is done, or it lies between splits.

        Args:
            place: where in its recording it is, 0 to 1.
            split: of the whole recording; None: of this place, as ``Shares.at`` says.
        """
        split = split or self._shares.at(place)
        if split is None:
            self.skip(_BETWEEN)
            return False
        number = self._wanted[split]
        self._wanted[split] += 1
        if number % self._form.part_length == 0:
            self._close(split)
            key = f"{self._name}-{chunk_key(split, number)}"
            done = self._parts.done(key)
            self._open[split] = None if done else ShotPart(self._parts, key, split, self._form)
        self._current = self._open[split]
        return self._current is not None

    @property
    def part_key(self) -> str:
        """Key of the part that takes the image for which ``wants`` was last true."""
        assert self._current is not None
        return self._current.key

    def add(self, shot: Shot) -> None:
        """Take the image that was wanted.

        Raises:
            ValueError: it cannot be used, see ``shots.fit``.
        """
        assert self._current is not None
        self._current.add(shot)

    def skip(self, reason: str) -> None:
        """Count an image that is left out."""
        self._skipped[reason] += 1

    def close(self) -> None:
        """Write the parts that are not full."""
        for split in list(self._open):
            self._close(split)

    def _close(self, split: str) -> None:
        if split not in self._open:
            return
        part = self._open.pop(split)
        if part is not None:
            part.left_out.update(self._skipped)
            part.write()
        # What was skipped around a part that is done has been counted with it.
        self._skipped.clear()


class Sampler:
    """Chooses frames at a steady rate.

    Args:
        rate: a second; 0 takes every frame.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._last = -1
        self._frames = -1

    def take(self, seconds: float) -> int | None:
        """The number of the sample that the next frame is; None: it is none.

        Args:
            seconds: since the recording began.
        """
        self._frames += 1
        sample = self._frames
        if self._rate:
            # A frame that comes a little early, as times are rounded, is not left to the next one.
            sample = int(seconds * self._rate + 0.01)
        if sample <= self._last:
            return None
        self._last = sample
        return sample


def named_split(path: PurePath) -> str | None:
    """The split that a folder of a relative path is named after (train2017); None: none is."""
    names = (_FOLDER_NAMES.get(part.lower().rstrip("0123456789")) for part in path.parts[:-1])
    return next(filter(None, names), None)


def natural_order(path: PurePath) -> tuple[tuple[int, int, str], ...]:
    """A key to sort paths by in which 9 comes before 10."""
    pieces = re.split(r"(\d+)", path.as_posix().lower())
    return tuple(
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece
    )


def fingerprint(files: Sequence[Path], source: Path, *, times: bool = False) -> str:
    """What tells whether the files of a source are the same: names and sizes.

    Args:
        times: whether to look at when they were changed, too: a mask that is mended may keep its
            size.
    """
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(source) if path != source else path.name
        stat = path.stat()
        changed = f" {stat.st_mtime_ns}" if times else ""
        digest.update(f"{name} {stat.st_size}{changed}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def check_rate(rate: float) -> None:
    """Check a rate of frames.

    Raises:
        ValueError: it is negative.
    """
    if rate < 0:
        raise ValueError(f"rate is {rate}; expected frames a second, or 0 for all")
