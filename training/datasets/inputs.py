"""Files that lie among the inputs of a data set and are no data: they are skipped and counted."""

from __future__ import annotations

import os
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


def _leads_up(folder: str, link: str, source: str) -> bool:
    """Whether a link leads to the source (a real path) or to a folder that it lies in."""
    target = os.path.realpath(os.path.join(folder, link))
    return os.path.commonpath([target, source]) == target


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
    for folder, below, names in os.walk(source, followlinks=True):
        if (real := os.path.realpath(folder)) in visited:  # by a link
            below.clear()
            continue
        visited.add(real)
        links = {name for name in below if os.path.islink(os.path.join(folder, name))}
        # Links come last. What leads to a folder that the source lies in would take in all of it.
        below[:] = sorted(
            (name for name in below if name not in links or not _leads_up(folder, name, above)),
            key=lambda name: (name in links, name),
        )
        for name in names:
            path = Path(folder, name)
            (clutter if is_clutter(path.relative_to(source)) else data).append(path)
    return sorted(data), sorted(clutter)
