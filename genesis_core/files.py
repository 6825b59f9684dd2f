"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, contended: bool = False) -> Iterator[Path]:
    """A path to write to; what is there when the block ends takes ``path``'s place, by rename.

    Readers see the old file or the whole new one, even after a power failure. If the block raises,
    the old file stays. The path to write to lies in the same folder and ends like ``path``, so that
    whoever chooses a format by the name's ending chooses the same one.

    Args:
        path: the file; its folder exists.
        contended: whether other processes or threads may write the same file at the same time.
            The path is then one of its own. Otherwise it is always the same one: what a killed
            process left there is overwritten and does not pile up.

    Raises:
        OSError: the block wrote no file, or it cannot be put in its place.
    """
    path = Path(path)
    writer = f"-{os.getpid()}-{threading.get_ident()}" if contended else ""
    partial = path.with_name(f".partial{writer}.{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())  # else a power failure may leave the new name without content
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, contended: bool = False) -> Iterator[BinaryIO]:
    """A binary file to write, which takes ``path``'s place when the block ends; see atomic_path."""
    with atomic_path(path, contended=contended) as partial, partial.open("wb") as file:
        yield file


def write_atomically(
    path: str | os.PathLike[str], content: bytes | memoryview | str, *, contended: bool = False
) -> None:
    """Write a whole file, text in UTF-8; see ``atomic_path``."""
    with atomic_file(path, contended=contended) as file:
        file.write(content.encode() if isinstance(content, str) else content)
