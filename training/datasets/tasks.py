"""The two kinds of tasks: a file that is read as a stream, and a chunk of a list of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from training.datasets.parts import PartWriter, Task

CHUNK = 500
"""Images in a part: some 25 MB at 128 px."""


@dataclass(frozen=True)
class FileTask(Task):
    """A file of the source; the size in bytes."""

    path: Path

    @classmethod
    def of(cls, path: Path, source: Path) -> FileTask:
        """The task for a file, named by its path within the source."""
        return cls(path.relative_to(source).as_posix(), path.stat().st_size, path)


@dataclass(frozen=True)
class Chunk(Task):
    """The images start..stop-1 of a split; its name is also the key of its only part."""

    split: str
    start: int
    stop: int


def chunks(counts: dict[str, int]) -> list[Chunk]:
    """Chunks of splits that have these numbers of images."""
    tasks = []
    for split, count in counts.items():
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            tasks.append(Chunk(chunk_key(split, start), stop - start, split, start, stop))
    return tasks


def chunk_key(split: str, start: int) -> str:
    """Key of the part that begins at an image of a split; keys sort as the images do."""
    return f"{split}-{start:09d}"


def follow(file: BinaryIO, parts: PartWriter) -> Callable[[], None]:
    """A function that moves the progress bar on to where a file is being read."""
    last = 0

    def advance() -> None:
        nonlocal last
        position = file.tell()
        parts.advance(position - last)
        last = position

    return advance
