"""Sketchy: camera images of a robot arm over a basket of objects, without masks.

https://github.com/google-deepmind/deepmind-research/tree/master/sketchy. Crops and splits as the
GENESIS-V2 paper's (arXiv 2104.09958): 14 images of each timestep, 7 crops of two cameras.
"""

from __future__ import annotations

import bz2
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote

import cv2
import numpy as np

from training.datasets.images import centre_crop, check_size, decode_rgb
from training.datasets.inputs import input_files, is_clutter
from training.datasets.layout import DatasetError, UInt8, check_at_least
from training.datasets.parts import PartWriter
from training.datasets.recordings import fingerprint
from training.datasets.tasks import FileTask, follow
from training.tfrecord import Record, RecordError, parse_example, read_file, read_records

CAMERAS = {
    # key in the Example: rows of its 600 x 960 image that show the basket
    "pixels/basket_front_left": slice(71, -81),
    "pixels/basket_front_right": slice(91, -61),
}
_COLUMNS = slice(144, -144)
_ARCHIVE = ".tar.bz2"
_EPISODE_SUFFIXES = ("", ".tfrecord", ".tfrecords")


@dataclass(frozen=True)
class Sketchy:
    """Robot episodes of Sketchy, from the .tar.bz2 archives as downloaded or extracted.

    In the order of their names, the first tenth of the episodes is val, the next test, the rest
    train. There are no masks.

    Args:
        source: directory with archives, extracted episodes or both, at any depth
        image_size: height and width of the images in pixels; the paper's is 128
    """

    source: Path
    image_size: int = 128

    untold_before: ClassVar[frozenset[str]] = frozenset({"files"})
    name: ClassVar[str] = "sketchy"
    unit: ClassVar[str] = "B"

    def __post_init__(self) -> None:
        check_at_least(1, image_size=self.image_size)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = fingerprint(self._paths(), self.source)
        return {"image_size": self.image_size, "files": files}

    def _paths(self) -> list[Path]:
        return [
            path
            for path in input_files(self.source)[0]
            if path.name.endswith(_ARCHIVE) or path.suffix in _EPISODE_SUFFIXES
        ]

    def tasks(self) -> list[FileTask]:
        """Archives and extracted episodes in the order of their names."""
        paths = self._paths()
        if not paths:
            raise DatasetError(
                f"{self.source} has no Sketchy data; expected *{_ARCHIVE} as downloaded, or the "
                "episodes extracted from them (files without an extension)"
            )
        return [FileTask.of(path, self.source) for path in paths]

    def run(self, task: FileTask, parts: PartWriter) -> None:
        """Write a part for every episode of a file."""
        with open(task.path, "rb") as file:
            advance = follow(file, parts)
            if task.path.name.endswith(_ARCHIVE):
                self._run_archive(file, task.path, parts, advance)
            elif not parts.done(key := quote(task.path.name)):
                records = read_file(file, str(task.path), parts.problem)
                self._write(key, str(task.path), records, parts, advance)
            file.seek(0, 2)
            advance()

    def _run_archive(
        self, file: BinaryIO, path: Path, parts: PartWriter, advance: Callable[[], None]
    ) -> None:
        """Read an archive as a stream: episode by episode, with nothing extracted to disk."""
        try:
            with bz2.open(file) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
                for member in archive:
                    advance()
                    episode = PurePosixPath(member.name)
                    if not member.isfile() or episode.suffix not in _EPISODE_SUFFIXES:
                        continue
                    if is_clutter(episode):
                        parts.skip()
                        continue
                    if parts.done(key := quote(episode.name)):
                        continue
                    stream = archive.extractfile(member)
                    assert stream is not None  # as the member is a file
                    name = f"{path}:{member.name}"
                    records = read_records(stream, name, parts.problem)
                    self._write(key, name, records, parts, advance)
        except (EOFError, OSError, tarfile.TarError) as error:
            reason = f"cannot read on ({error}); the rest of the archive is lost"
            parts.problem(RecordError(str(path), file.tell(), reason))

    def _write(
        self,
        key: str,
        name: str,
        records: Iterator[Record],
        parts: PartWriter,
        advance: Callable[[], None],
    ) -> None:
        """Write the part of an episode."""
        images = []
        for record in records:
            advance()
            try:
                example = parse_example(record.data)
            except ValueError as error:
                parts.problem(RecordError(name, record.offset, str(error)))
                continue
            for camera, rows in CAMERAS.items():
                try:
                    if camera not in example:
                        raise ValueError("the timestep has no such image")
                    image = decode_rgb(example[camera].joined_bytes())
                    check_size(image, 600, 960)
                except ValueError as error:
                    parts.problem(RecordError(name, record.offset, f"{camera}: {error}"))
                    continue
                images += crops(image[rows, _COLUMNS], self.image_size)
        size = self.image_size
        parts.write(key, np.stack(images) if images else np.empty((0, size, size, 3), np.uint8))


def crops(image: UInt8, size: int) -> list[UInt8]:
    """The paper's 7 crops of the 448 x 672 basket view, each resized bilinearly to size x size.

    First the central 448 x 448 pixels; then 352 x 352 pixels of the top left, centre and right and
    the bottom left, centre and right.
    """
    views = [centre_crop(image, 448)]
    for top in (0, 448 - 352):
        for left in (0, (672 - 352) // 2, 672 - 352):
            views.append(image[top : top + 352, left : left + 352])
    return [cv2.resize(view, (size, size), interpolation=cv2.INTER_LINEAR) for view in views]
