"""Files that lie among the inputs of a data set and are no data: they are skipped and counted."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}
_NAMES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_TEXTS = {
    *("readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"),
    *("md5sum", "md5sums", "sha1sums", "sha256sum", "sha256sums", "checksums"),
}
_TEXT_SUFFIXES = {"", ".txt", ".md", ".rst", ".html", ".pdf", ".cff", ".bib"}


def is_clutter(path: PurePath) -> bool:
    """Whether a path is of the kind that comes along with data and is none.

    That is: whatever is hidden (macOS's ._ files and .DS_Store among it), what Windows, macOS and
    storage devices leave in folders, READMEs, licences and lists of checksums.

    Args:
        path: relative to the source: what the folders above the source are called says nothing.
    """
    *folders, name = (part.lower() for part in path.parts)
    if name.startswith(".") or name in _NAMES:
        return True
    if any(folder.startswith(".") or folder in _FOLDERS for folder in folders):
        return True
    return PurePath(name).stem in _TEXTS and PurePath(name).suffix in _TEXT_SUFFIXES


def _leads_up(link: str, folders: Iterable[str]) -> bool:
    """Whether a link leads to one of these folders (real paths), or to one that holds it."""
    target = os.path.realpath(link)
    return any(os.path.commonpath([target, folder]) == target for folder in folders)


def input_files(source: Path) -> tuple[list[Path], list[Path]]:
    """All files below a folder in the order of their names, parted into data and clutter.

    A source that is itself a file, or a link to one, is data whatever it is called.
    """
    if not source.is_dir():
        return [source], []
    data: list[Path] = []
    clutter: list[Path] = []
    visited: set[str] = set()
    above = os.path.realpath(source)
    waiting = [str(source)]  # links come after all folders: what has two names keeps its own
    for start in waiting:
        for folder, below, names in os.walk(start):
            if (real := os.path.realpath(folder)) in visited:
                below.clear()
                continue
            visited.add(real)
            links = [os.path.join(folder, name) for name in sorted(below)]
            links = [path for path in links if os.path.islink(path)]
            waiting += [path for path in links if not _leads_up(path, [above, real])]
            for name in names:
                path = Path(folder, name)
                (clutter if is_clutter(path.relative_to(source)) else data).append(path)
    return sorted(data), sorted(clutter)
