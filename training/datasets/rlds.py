"""Robot episodes in the RLDS layout of TensorFlow Datasets, as of Open X-Embodiment.

https://github.com/google-research/rlds. Each record of the TFRecord files is an episode, whose
images are lists of JPEG or PNG files under keys such as steps/observation/image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from training.datasets.images import decode_rgb
from training.datasets.inputs import input_files
from training.datasets.layout import DatasetError, check_at_least
from training.datasets.parts import PartWriter, Task
from training.datasets.recordings import OwnData, Recorded, Shares, fingerprint, natural_order
from training.datasets.shots import Shot
from training.datasets.tasks import follow
from training.tfrecord import Feature, RecordError, count_records, parse_example, read_file

_STEPS, _OBSERVATION = "steps/", "steps/observation/"
_SPLIT = re.compile(r"-(train|val|valid|validation|test)\.tfrecord")
_ENCODED = (b"\xff\xd8\xff", b"\x89PNG")


@dataclass(frozen=True)
class EpisodeFile(Task):
    """A file; its episodes' splits, None where an episode's end is val and test."""

    path: Path
    splits: tuple[str | None, ...]
    shares: Shares


@dataclass(frozen=True)
class Rlds(OwnData):
    """Episodes in TFRecord files as TensorFlow Datasets writes them (RLDS); without masks.

    Splits named by the files (NAME-val.tfrecord-...) stay. Of the others, from ten episodes on
    whole ones are val and test; of fewer, the end of each is.

    Args:
        cameras: such as steps/observation/image, or image for short; by default all colour images
            of observations
        every: take every so-manieth step
    """

    cameras: tuple[str, ...] = ()
    every: int = 3

    name: ClassVar[str] = "rlds"
    unit: ClassVar[str] = "B"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(1, every=self.every)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = fingerprint(self._files, self.source)
        return {
            **self.own_options(),
            "cameras": self.cameras,
            "every": self.every,
            "files": files,
        }

    def tasks(self) -> list[EpisodeFile]:
        """One for each file."""
        counts = []
        for path in self._files:
            with path.open("rb") as file:
                counts.append(count_records(file))
        named = [
            _named_split(path)
            for path, count in zip(self._files, counts, strict=True)
            for _ in range(count)
        ]
        rest = self.shares.rest(named)
        splits = iter(self.shares.of_recordings(named))
        base = self.source if self.source.is_dir() else self.source.parent
        return [
            EpisodeFile(
                path.relative_to(base).as_posix(),
                path.stat().st_size,
                path,
                tuple(next(splits) for _ in range(count)),
                rest,
            )
            for path, count in zip(self._files, counts, strict=True)
        ]

    def run(self, task: EpisodeFile, parts: PartWriter) -> None:
        """Write the parts of a file."""
        lost = 0

        def left_out(problem: RecordError) -> None:
            nonlocal lost
            lost += 1  # The episodes after a corrupt one keep their splits.
            parts.problem(problem)

        recorded: dict[str, Recorded] = {}
        with task.path.open("rb") as file:
            advance = follow(file, parts)
            for count, record in enumerate(read_file(file, str(task.path), left_out)):
                advance()
                split = task.splits[min(count + lost, len(task.splits) - 1)]
                try:
                    self._read(record.data, split, task, parts, recorded)
                except ValueError as error:
                    parts.problem(RecordError(str(task.path), record.offset, str(error)))
            file.seek(0, 2)
            advance()
        for images in recorded.values():
            images.close()

    def _read(
        self,
        data: bytes,
        split: str | None,
        task: EpisodeFile,
        parts: PartWriter,
        recorded: dict[str, Recorded],
    ) -> None:
        """Take the images of an episode.

        Raises:
            ValueError: it has none of the cameras, or one image cannot be decoded.
        """
        example = parse_example(data)
        for camera in self._cameras(example):
            if camera not in recorded:
                name = f"{task.name}:{camera}"
                recorded[camera] = Recorded(parts, name, task.shares, self.form())
            target = recorded[camera]
            images = example[camera].bytes_list()
            for step, encoded in enumerate(images):
                if step % self.every:
                    target.skip("between the samples of --every")
                elif not encoded:
                    target.skip("steps without an image")
                elif target.wants(step / len(images), split):
                    try:
                        target.add(Shot(decode_rgb(encoded)))
                    except ValueError as error:
                        parts.problem(f"{task.path}: {camera}, step {step}: {error}")

    def _cameras(self, example: dict[str, Feature]) -> list[str]:
        """The features of an episode to take."""
        if self.cameras:
            chosen = [name if name in example else f"{_OBSERVATION}{name}" for name in self.cameras]
            if unknown := [name for name in chosen if name not in example]:
                there = ", ".join(sorted(name for name in example if _is_colour(example[name])))
                raise ValueError(f"the episode has no {', '.join(unknown)}; its images are {there}")
            return chosen
        steps = [name for name in sorted(example) if name.startswith(_STEPS)]
        observed = [name for name in steps if name.startswith(_OBSERVATION)] or steps
        found = [name for name in observed if _is_colour(example[name])]
        if not found:
            raise ValueError("the episode has no colour images among its steps/observation/...")
        return found

    @cached_property
    def _files(self) -> list[Path]:
        files, _ = input_files(self.source)
        if self.source.is_dir():
            files = [path for path in files if ".tfrecord" in path.name]
        if not files:
            raise DatasetError(
                f"{self.source} has no *.tfrecord* files; expected a data set of TensorFlow "
                "Datasets, or the folder of one of its versions"
            )
        return sorted(files, key=natural_order)


def _named_split(path: Path) -> str | None:
    """The split in a name such as bridge-val.tfrecord-00000-of-00008."""
    found = _SPLIT.search(path.name)
    if found is None:
        return None
    return "val" if found[1].startswith("val") else found[1]


def _is_colour(feature: Feature) -> bool:
    """Whether a feature is a list of encoded colour images; depth has one channel."""
    try:
        first = next(filter(None, feature.bytes_list()), b"")
    except ValueError:  # numbers
        return False
    if not first.startswith(_ENCODED):
        return False
    image = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_UNCHANGED)
    return image is not None and image.dtype == np.uint8 and image.ndim == 3
