"""ObjectsRoom of multi_object_datasets: rendered rooms with objects and their masks.

https://github.com/google-deepmind/multi_object_datasets. Splits as in the GENESIS-V2 paper
(arXiv 2104.09958).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from training.datasets.inputs import is_clutter
from training.datasets.layout import DatasetError, UInt8, check_at_least
from training.datasets.parts import PartWriter
from training.datasets.recordings import fingerprint
from training.datasets.tasks import CHUNK, FileTask, chunk_key, follow
from training.tfrecord import Record, RecordError, parse_example, read_file

SIZE = 64
BACKGROUND = 4
"""The first entities are background: floor, sky and two walls."""

ENTITIES = {"train": 7, "six_objects": 10, "identical_color": 10, "empty_room": 4}

Variant = Literal["train", "six_objects", "identical_color", "empty_room"]


@dataclass(frozen=True)
class ObjectsRoom:
    """Rooms of coloured objects, 64 x 64 pixels, from GZIP TFRecords as downloaded.

    Of the train file, the first scenes are test, the next val, the rest train. The other variants
    were made for testing and are all test.

    Args:
        source: directory with the *.tfrecords files, or one file
        variant: the file to take, by its name: train, six_objects, identical_color or empty_room
        test: scenes at the beginning of the train file that are test; the paper's is 10000
        val: scenes after them that are val; the paper's is 10000
    """

    source: Path
    variant: Variant = "train"
    test: int = 10_000
    val: int = 10_000

    untold_before: ClassVar[frozenset[str]] = frozenset({"files"})
    name: ClassVar[str] = "objects_room"
    unit: ClassVar[str] = "B"

    def __post_init__(self) -> None:
        check_at_least(0, test=self.test, val=self.val)

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        splits = {"test": self.test, "val": self.val} if self.variant == "train" else {}
        path = self._path()
        files = fingerprint([path], path.parent)
        return {"image_size": SIZE, "variant": self.variant, **splits, "files": files}

    def tasks(self) -> list[FileTask]:
        """The file of the variant: a GZIP stream can only be read from its beginning."""
        path = self._path()
        return [FileTask.of(path, path.parent)]

    def _path(self) -> Path:
        """The file of the variant.

        Raises:
            DatasetError: there is none, or several.
        """
        if self.source.is_file():
            found = [self.source]
        else:
            found = [
                path
                for path in sorted(self.source.glob(f"*{self.variant}*.tfrecords"))
                if not is_clutter(path.relative_to(self.source))
            ]
        if len(found) != 1:
            raise DatasetError(
                f"{self.source} has {len(found) or 'no'} files *{self.variant}*.tfrecords; "
                "expected one, as downloaded from multi_object_datasets"
            )
        return found[0]

    def run(self, task: FileTask, parts: PartWriter) -> None:
        """Write all parts of the file."""
        current, wanted = "", False
        images: list[UInt8] = []
        masks: list[UInt8] = []
        lost = 0

        def left_out(problem: RecordError) -> None:
            nonlocal lost
            lost += 1  # The scenes after a corrupt record keep their splits.
            parts.problem(problem)

        def write() -> None:
            if wanted:
                shape = (-1, SIZE, SIZE)
                parts.write(
                    current,
                    np.reshape(np.array(images, np.uint8), (*shape, 3)),
                    np.reshape(np.array(masks, np.uint8), shape),
                    split=current.split("-")[0],
                    blank=len(images) if self.variant == "empty_room" else 0,
                )
            images.clear()
            masks.clear()

        with open(task.path, "rb") as file:
            advance = follow(file, parts)
            for count, record in enumerate(read_file(file, str(task.path), left_out)):
                advance()
                if current != (key := self._key(count + lost)):
                    write()
                    current, wanted = key, not parts.done(key)
                if not wanted:
                    continue
                try:
                    image, labels = read_scene(record, ENTITIES[self.variant])
                except ValueError as error:
                    parts.problem(RecordError(str(task.path), record.offset, str(error)))
                    continue
                images.append(image)
                masks.append(labels)
            write()
            file.seek(0, 2)
            advance()

    def _key(self, index: int) -> str:
        """Key of the part that a scene belongs to."""
        split, start = "test", 0
        if self.variant == "train" and index >= self.test:
            split, start = "val", self.test
            if index >= self.test + self.val:
                split, start = "train", self.test + self.val
        place = index - start
        return chunk_key(split, place - place % CHUNK)


def read_scene(record: Record, entities: int) -> tuple[UInt8, UInt8]:
    """Image (64, 64, 3) and instance labels (64, 64) of a record.

    Raises:
        ValueError: it has none.
    """
    example = parse_example(record.data)
    arrays = []
    for key, shape in (("image", (SIZE, SIZE, 3)), ("mask", (entities, SIZE, SIZE))):
        if key not in example:
            raise ValueError(f"no feature {key!r}")
        values = np.frombuffer(example[key].joined_bytes(), np.uint8)
        if values.size != np.prod(shape):
            raise ValueError(f"{key} has {values.size} bytes, expected {shape}")
        arrays.append(values.reshape(shape))
    image, masks = arrays
    labels = masks.argmax(0)
    return image, np.maximum(labels - (BACKGROUND - 1), 0).astype(np.uint8)
