"""What the paths in a folder of images say of its files. No file is opened.

They say which files are images, masks or depth, and which of these belong together. A folder is
known by the words of its name: masks, SegmentationObject, depth_raw. A file is known by the end of
its name: table.label.png, table_depth.png.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePath
from typing import Literal, NamedTuple

# Suffixes of images, of the JPEGs among them, and of depth.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".jpe", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)
JPEG_SUFFIXES = frozenset({".jpe", ".jpeg", ".jpg"})
DEPTH_SUFFIXES = frozenset({".npy", ".png", ".tif", ".tiff"})

Kind = Literal["image", "mask", "depth", "classes", "drawing"]
LEFT_OUT: dict[Kind, str] = {
    "classes": "masks of classes, which do not tell one object from another",
    "drawing": "drawings of masks or depth (visualisations)",
}
"""What the files are that are left out, by their kind."""

# Words of folders' names.
_MASKS = frozenset(
    {"annotation", "annotations", "instances", "label", "labels", "mask", "masks"}
    | {"segm", "segmentation", "segmentations"}
)
_PERHAPS_MASKS = frozenset({"groundtruth", "gt", "instance", "seg", "truth"})
_CLASSES = frozenset({"categories", "category", "class", "classes", "sem"})
_CLASS_MASKS = frozenset({"panoptic", "semantic", "semantics"})
_OBJECTS = frozenset({"instance", "instances", "obj", "object", "objects"})
_DEPTHS = frozenset({"depth", "depthmap", "depthmaps", "depths"})
_DRAWINGS = frozenset(
    {"colored", "colorized", "colormap", "coloured", "overlay", "overlays", "preview", "previews"}
    | {"vis", "viz", "visualisation", "visualisations", "visualization", "visualizations"}
)
_COLOURS = frozenset({"color", "colour", "rgb"})
_IMAGES = _COLOURS | {"image", "images", "img", "imgs"}
_VISIBLE = frozenset({"visib", "visible"})
_SUFFIX_WORDS = frozenset({"jpeg", "jpg", "npy", "png", "tif", "tiff"})
# Those that say neither what is in a folder nor which images it belongs to.
_SILENT = (_OBJECTS | _VISIBLE | _SUFFIX_WORDS) | (
    {"aligned", "binary", "bit", "coarse", "fine", "ground", "id", "ids", "map", "maps", "mm"}
    | {"raw", "rect", "rectified", "registered"}
)
_TELLING = (
    _MASKS | _PERHAPS_MASKS | _CLASSES | _CLASS_MASKS | _DEPTHS | _DRAWINGS | _IMAGES | _SILENT
)
# What earlier versions knew.
_DEPTHS_BEFORE = frozenset({"depth", "depths"})
_KNOWN_BEFORE = _MASKS | _DEPTHS_BEFORE
# SegmentationObject, JPEGImages, mask_visib, depth16
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+|[^\W\d_]+")

# Ends of files' names.
_LATER_ENDINGS = frozenset({"instance", "seg", "segmentation"})  # earlier versions lacked them
_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys(("label", "labels", "mask", "masks", "segm", "instances"), "mask"),
    **dict.fromkeys(_LATER_ENDINGS, "mask"),
    "depth": "depth",
    **dict.fromkeys(("color", "colour", "rgb"), "image"),
}
_ENDING = re.compile(f"[._-]({'|'.join(_ENDINGS)})$", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+)_\d+")  # 000001_000000: an object of 000001


class _FolderName(NamedTuple):
    """What the name of a folder says.

    Attributes:
        kind: of the files in it; None: it does not say.
        must_match: whether it says so only if they are called as images are, see ``Names``.
        rest: the further words.
        with_images: whether it speaks of images.
    """

    kind: Kind | None
    must_match: bool
    rest: str
    with_images: bool


@cache
def _words(folder: str) -> tuple[str, ...]:
    """SegmentationObject: segmentation, object."""
    if folder.lower() in _TELLING:
        return (folder.lower(),)
    return tuple(word.lower() for word in _WORD.findall(folder))


@cache
def _read_name(folder: str) -> _FolderName:
    """What a folder's name says, whatever there is besides."""
    words = list(_words(folder))
    if "to" in words and not _DEPTHS.isdisjoint(words[: words.index("to")]):
        del words[words.index("to") :]  # depth_to_color is depth
    found = set(words)
    rest = "_".join(word for word in words if word not in _TELLING)
    kind: Kind | None = None
    if found & _DEPTHS:
        if found & _DRAWINGS or words[-1] in _COLOURS:
            kind = "drawing"
        elif not found & _COLOURS:  # color_depth may hold both
            kind = "depth"
    elif found & (_MASKS | _PERHAPS_MASKS) or (found & _CLASS_MASKS and not rest):
        if found & _DRAWINGS:
            kind = "drawing"
        elif found & (_CLASSES | _CLASS_MASKS) and not found & _OBJECTS:
            kind = "classes"
        elif found & (_MASKS | {"seg"}) or not found & _IMAGES:
            kind = "mask"  # gt_images and instance_images are photos
    elif found & _IMAGES and found <= _IMAGES | _SUFFIX_WORDS:
        kind = "image"
    known = folder.lower() in _KNOWN_BEFORE
    must_match = kind in ("mask", "depth", "classes") and not known
    return _FolderName(kind, must_match, rest, bool(found & _IMAGES))


class Told(NamedTuple):
    """What a path says of its file.

    Attributes:
        kind: what it is.
        key: what it shares with the files that belong to the same image.
        ending: that of its name which says that it is a mask or depth; "": none does.
    """

    kind: Kind
    key: str
    ending: str


Belonging = dict[PurePath, set[PurePath]]
"""The images, and the files that belong to each."""


class Names:
    """What the paths of a source say of its files.

    A folder called masks holds masks. Any other name (gt, instance_masks, depth_left) may be one
    of photos: it says masks or depth only if half of the files there are called as images are in
    the folder above, in one that its further words name, or in one called like it (rgb_left). It
    does not if a file there is a JPEG, is called 1_rgb.png or has a mask or depth beside it, or if
    a folder there is called images, masks or depth.

    Args:
        files: relative to the source.

    Attributes:
        images: the keys of those that are images, whatever belongs to them.
        by_kind: the files of each kind that can be read, by their keys.
        spare: how many masks and depths are left out, as an image has one where earlier versions
            found it.
    """

    def __init__(self, files: Sequence[PurePath]) -> None:
        # Folders that hold one called images, masks or depth: their own names say nothing.
        self._above_others = {
            above
            for folder in {path.parent for path in files}
            for inner in (folder, *folder.parents)
            if _read_name(inner.name).kind == "image" or inner.name.lower() in _KNOWN_BEFORE
            for above in inner.parents
        }
        # Folders whose files must match: that of their images; None: it holds photos.
        self._stands_for: dict[PurePath, str | None] = {
            folder: None for path in files for folder in path.parents if folder.name
        }
        self._by_folder: dict[PurePath, tuple[Kind, str]] = {}
        self._find_images(files)
        self._match(files)
        self._find_images(files)
        self.by_kind: dict[Kind, dict[str, list[PurePath]]] = {"image": {}, "mask": {}, "depth": {}}
        for path in files:
            told = self(path)
            if told.kind not in LEFT_OUT and path.suffix.lower() in suffixes_of(told.kind):
                self.by_kind[told.kind].setdefault(told.key, []).append(path)
        self.spare = 0
        for kind in ("mask", "depth"):
            for key, paths in self.by_kind[kind].items():
                chosen = _known_first(kind, key, paths)
                self.spare += len(paths) - len(chosen)
                self.by_kind[kind][key] = chosen

    def __call__(self, relative: PurePath) -> Told:
        """What a file is by its path, relative to the source or to a folder with masks."""
        told = self._read(relative)
        # shipping-label.jpg is a photo, if there is no shipping.jpg.
        alone = _may_be_photo(told, relative) and told.key not in self._plain
        return told._replace(kind="image") if alone else told

    def owner(self, key: str) -> str | None:
        """The key of the image that a mask belongs to, be it of all objects or of one."""
        if key in self.images:
            return key
        numbered = _NUMBERED.fullmatch(key)
        # Where images are numbered in this way, cup_3.png is no mask of an object of cup.jpg.
        if numbered is None or numbered[1] not in self.images or numbered[1] in self._numbered:
            return None
        return numbered[1]

    def may_be_mask(self, relative: PurePath) -> bool:
        """Whether a file of the source is a mask, or a JSON file that may hold some.

        As in earlier versions: whatever is called so, be it a photo or no image.
        """
        suffix = relative.suffix.lower()
        if suffix == ".json" or read_before(relative)[0] == "mask":
            return True
        return self(relative).kind == "mask" and suffix in SUFFIXES

    def belonging(self, files: Sequence[PurePath], *, with_masks: bool) -> Belonging:
        """The images of the source's files, and what belongs to each.

        Args:
            with_masks: whether masks and JSON files count.
        """
        images = self.by_kind["image"]
        found: dict[str, set[PurePath]] = {key: set() for key in images}
        for key, paths in self.by_kind["depth"].items():
            found.get(key, set()).update(paths[-1:])
        if with_masks:
            masks = self.by_kind["mask"]
            for key, paths in masks.items():
                owner = self.owner(key)
                if owner == key:
                    found[key].update(paths[-1:])
                elif owner is not None and owner not in masks:
                    found[owner].update(paths)
            for path in files:
                if path.suffix.lower() == ".json":
                    found.get(self(path).key, set()).add(path)
        return {path: found[key] for key, paths in images.items() for path in paths}

    def _read(self, relative: PurePath) -> Told:
        """What a file is by its path, whatever there is besides."""
        kind, kept = self._of_folder(relative.parent)
        stem, said = relative.stem, ""
        while ending := _ENDING.search(stem):  # scene.color.label: a mask of scene.color
            stem = stem[: ending.start()]
            if kind == "image" and _ENDINGS[ending[1].lower()] != "image":
                said = ending[1].lower()
                kind = _ENDINGS[said]
        return Told(kind, f"{kept}{stem}", said)

    def _find_images(self, files: Sequence[PurePath]) -> None:
        """Find the keys of the images, by what is known of the folders so far."""
        self._by_folder.clear()
        told = [(self._read(path), path) for path in files if path.suffix.lower() in SUFFIXES]
        self._plain = frozenset(image.key for image, _ in told if image.kind == "image")
        alone = {image.key for image, path in told if _may_be_photo(image, path)}
        self.images = self._plain | alone
        numbered = map(_NUMBERED.fullmatch, self.images)
        self._numbered = frozenset(found[1] for found in numbered if found)

    def _of_folder(self, folder: PurePath) -> tuple[Kind, str]:
        """What the files of a folder are, and how their keys begin."""
        if folder not in self._by_folder:
            self._by_folder[folder] = self._read_folder(folder)
        return self._by_folder[folder]

    def _read_folder(self, lowest: PurePath) -> tuple[Kind, str]:
        """The same, read from the names of the folder and of those above it."""
        found: set[Kind] = set()
        kept: list[str] = []
        for folder in reversed([lowest, *lowest.parents][:-1]):
            name = _read_name(folder.name)
            stands_for: str | None = ""
            if name.must_match:  # of folders that --masks names it is not known
                stands_for = self._stands_for.get(folder, None if name.rest else "")
            elif name.kind == "drawing" and folder in self._above_others:
                stands_for = None
            if name.kind is None or stands_for is None:
                kept.append(folder.name)
                continue
            found.add(name.kind)
            kept += [stands_for] if stands_for else []
        kinds: tuple[Kind, ...] = ("drawing", "classes", "mask", "depth")
        kind: Kind = next((kind for kind in kinds if kind in found), "image")
        return kind, "".join(f"{name}/" for name in kept)

    def _match(self, files: Sequence[PurePath]) -> None:
        """Find the folders whose files must belong to images, and do."""
        below: dict[PurePath, list[PurePath]] = {}
        called_like: dict[tuple[PurePath, str], set[str]] = {}  # rgb_left: left
        for path in files:
            for folder in path.parents[:-1]:
                name = _read_name(folder.name)
                if name.must_match:
                    below.setdefault(folder, []).append(path)
                elif name.kind is None and name.with_images and name.rest:
                    called_like.setdefault((folder.parent, name.rest), set()).add(folder.name)
        for folder, paths in below.items():
            name = _read_name(folder.name)
            suffixes = suffixes_of(name.kind)
            own = [path for path in paths if path.suffix.lower() in suffixes]
            if not own or folder in self._above_others or self._are_photos(paths):
                continue
            like_it = sorted(called_like.get((folder.parent, name.rest), ()))
            for other in dict.fromkeys((*like_it, name.rest, "")):
                self._stands_for[folder] = other
                self._by_folder.clear()
                if 2 * sum(self.owner(self(path).key) is not None for path in own) >= len(own):
                    break
            else:
                self._stands_for[folder] = None
                self._by_folder.clear()

    def _are_photos(self, paths: Sequence[PurePath]) -> bool:
        """Whether files of a folder show that it holds photos, see ``Names``."""
        told = list(map(self._read, paths))
        plain = {image.key for image in told if image.kind == "image"}
        if any(path.suffix.lower() in JPEG_SUFFIXES for path in paths):
            return True
        if any(besides.ending and besides.key in plain for besides in told):
            return True
        endings = map(_ENDING.search, (path.stem for path in paths))
        return any(end and _ENDINGS[end[1].lower()] == "image" for end in endings)


def suffixes_of(kind: Kind | None) -> frozenset[str]:
    """The suffixes that files of a kind may have."""
    return DEPTH_SUFFIXES if kind == "depth" else SUFFIXES


def _may_be_photo(told: Told, path: PurePath) -> bool:
    """Whether a file whose name ends like a mask's or a depth's is one that may be a photo."""
    return bool(told.ending) and path.suffix.lower() in SUFFIXES & suffixes_of(told.kind)


def _was_known(relative: PurePath) -> bool:
    """Whether earlier versions knew a folder of a file."""
    return not _KNOWN_BEFORE.isdisjoint(part.lower() for part in relative.parts[:-1])


def _known_first(kind: Kind, key: str, paths: list[PurePath]) -> list[PurePath]:
    """Of several depths of an image those that earlier versions found, if they found any.

    Of several masks, too, but there may be others outside of folders that they knew.
    """
    known = [path for path in paths if read_before(path) == (kind, key)]
    if kind == "mask" and known:
        return [path for path in paths if path in known or not _was_known(path)]
    return known or paths


def read_before(relative: PurePath) -> tuple[Kind, str]:
    """What a file is by its path, as earlier versions read it, and its key."""
    kind, stem = _folder_before(relative), relative.stem
    told = _KNOWN_BEFORE | _IMAGES
    kept = [folder for folder in relative.parts[:-1] if folder.lower() not in told]
    while (ending := _ENDING.search(stem)) and ending[1].lower() not in _LATER_ENDINGS:
        stem = stem[: ending.start()]
        kind = _ENDINGS[ending[1].lower()] if kind == "image" else kind
    return kind, "/".join([*kept, stem])


def _folder_before(relative: PurePath) -> Kind:
    """What the folders of a file say, as earlier versions read them."""
    names = {part.lower() for part in relative.parts[:-1]}
    if names & _MASKS:
        return "mask"
    return "depth" if names & _DEPTHS_BEFORE else "image"


class Before:
    """What earlier versions read from the paths of a source: to tell which data they read well.

    Args:
        files: relative to the source.
        with_masks: whether masks and JSON files count.

    Attributes:
        images: those of each key.
        belonging: the images, and the files that belong to each.
    """

    def __init__(self, files: Sequence[PurePath], *, with_masks: bool) -> None:
        self.images: dict[str, list[PurePath]] = {}
        besides: dict[Kind, dict[str, PurePath]] = {"mask": {}, "depth": {}}
        jsons: list[PurePath] = []
        for path in files:
            kind, key = read_before(path)
            if path.suffix.lower() == ".json":
                jsons.append(path)
            elif path.suffix.lower() in suffixes_of(kind):
                if kind == "image":
                    self.images.setdefault(key, []).append(path)
                else:
                    besides[kind][key] = path
        for key, path in [*besides["mask"].items(), *besides["depth"].items()]:
            alone = key not in self.images and _folder_before(path) == "image"
            if alone and path.suffix.lower() in SUFFIXES:
                self.images[key] = [path]
                besides["mask"].pop(key, None)
                besides["depth"].pop(key, None)
        found: dict[str, set[PurePath]] = {key: set() for key in self.images}
        belong = list(besides["depth"].items())
        if with_masks:
            belong += [*besides["mask"].items(), *((read_before(path)[1], path) for path in jsons)]
        for key, path in belong:
            found.get(key, set()).add(path)
        self.belonging: Belonging = {
            path: found[key] for key, paths in self.images.items() for path in paths
        }


def is_of_visible(path: PurePath) -> bool:
    """Whether a mask shows what can be seen of an object (BOP's mask_visib)."""
    return not _VISIBLE.isdisjoint(_words(path.parent.name))
