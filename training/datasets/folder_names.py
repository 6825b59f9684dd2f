"""What the paths in a folder of images say of its files. No file is opened.

They say which files are images, masks or depth, and which of these belong together. A folder is
known by the words of its name: masks, SegmentationObject, depth_raw. A file is known by the end of
its name: table.label.png, table_depth.png.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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
_Needs = Literal["nothing", "images", "match"]

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
_KNOWN_BEFORE = _MASKS | {"depth", "depths"}
"""Names of folders that earlier versions knew."""
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
        needs: what else must hold, so that they are, see ``Names``: for a name of several
            meanings that there are "images", for one with further words that its files "match".
        rest: the further words.
        with_images: whether it speaks of images.
    """

    kind: Kind | None
    needs: _Needs
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
    sure = bool(found & (_MASKS | _DEPTHS))
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
    needs: _Needs = "nothing"
    if kind in ("mask", "depth") and (rest or not sure):
        needs = "match" if rest else "images"
    return _FolderName(kind, needs, rest, bool(found & _IMAGES))


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


class Names:
    """What the paths of a source say of its files.

    A folder called masks holds masks. Names of several meanings (gt, instance, seg) say masks only
    if there are images besides, and no JPEGs in it. A name with further words (old_masks,
    depth_left) may be one of photos: it says so only if no file there is a JPEG, and half of them
    are called as images are in the folder above, in one that the further words name, or in one
    called like it (rgb_left).

    Args:
        files: relative to the source.

    Attributes:
        images: the keys of those that are images, whatever belongs to them.
        are_new: whether earlier versions took some for something else.
    """

    def __init__(self, files: Sequence[PurePath]) -> None:
        # Folders with names of several meanings that hold photos.
        self._of_photos = _folders_above(
            path for path in files if path.suffix.lower() in JPEG_SUFFIXES
        )
        self._stands_for: dict[PurePath, str] = {}  # folders with further words: that of the images
        self._by_folder: dict[PurePath, tuple[Kind, str]] = {}
        self._find_images(files)
        if not self.images:
            self._of_photos = _folders_above(files)
            self._find_images(files)
        self._match(files)
        self._find_images(files)
        self.are_new = any(map(self._is_new, files))

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
        told, suffix = self(relative), relative.suffix.lower()
        by_ending = _ENDINGS.get(told.ending) == "mask" and told.ending not in _LATER_ENDINGS
        if suffix == ".json" or by_ending:
            return True
        return told.kind == "mask" and (suffix in SUFFIXES or _was_known(relative))

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
        found: dict[Kind, int] = {}
        perhaps = -1
        kept: dict[int, str] = {}
        for place, folder in enumerate(reversed([lowest, *lowest.parents][:-1])):
            name = _read_name(folder.name)
            if name.kind is None or (name.needs == "match" and folder not in self._stands_for):
                kept[place] = folder.name
            elif name.needs == "images":
                kept[place] = folder.name
                perhaps = perhaps if folder in self._of_photos else place
            else:
                found[name.kind] = place
                kept[place] = self._stands_for.get(folder, "")
        kinds: tuple[Kind, ...] = ("drawing", "classes", "mask", "depth")
        kind: Kind = next((kind for kind in kinds if kind in found), "image")
        # Of gt/images and images/gt the inner folder counts.
        if kind == "image" and perhaps > found.get("image", -1):
            kind, kept[perhaps] = "mask", ""
        return kind, "".join(f"{name}/" for name in kept.values() if name)

    def _match(self, files: Sequence[PurePath]) -> None:
        """Find the folders with further words whose files belong to images."""
        below: dict[PurePath, list[PurePath]] = {}
        folders: dict[PurePath, set[str]] = {}
        for path in files:
            for folder in path.parents[:-1]:
                folders.setdefault(folder.parent, set()).add(folder.name)
                if _read_name(folder.name).needs == "match":
                    below.setdefault(folder, []).append(path)
        for folder, paths in below.items():
            name = _read_name(folder.name)
            suffixes = suffixes_of(name.kind)
            own = [path for path in paths if path.suffix.lower() in suffixes]
            if not own or any(path.suffix.lower() in JPEG_SUFFIXES for path in paths):
                continue
            like_it = [
                other
                for other in sorted(folders[folder.parent])
                if _read_name(other).kind is None
                and _read_name(other).with_images
                and _read_name(other).rest == name.rest
            ]
            for other in (*like_it, name.rest, ""):
                self._stands_for[folder] = other
                self._by_folder.clear()
                if 2 * sum(self.owner(self(path).key) is not None for path in own) >= len(own):
                    break
            else:
                del self._stands_for[folder]
                self._by_folder.clear()

    def _is_new(self, relative: PurePath) -> bool:
        """Whether earlier versions did not understand what the folders of a file say."""
        kind, _ = self._of_folder(relative.parent)
        if kind == "image" or relative.suffix.lower() not in suffixes_of(kind):
            return False
        return kind in LEFT_OUT or not _was_known(relative)


def suffixes_of(kind: Kind | None) -> frozenset[str]:
    """The suffixes that files of a kind may have."""
    return DEPTH_SUFFIXES if kind == "depth" else SUFFIXES


def _folders_above(files: Iterable[PurePath]) -> set[PurePath]:
    """All folders that relative paths lead through."""
    return {folder for path in files for folder in path.parents}


def _may_be_photo(told: Told, path: PurePath) -> bool:
    """Whether a file whose name ends like a mask's or a depth's is one that may be a photo."""
    return bool(told.ending) and path.suffix.lower() in SUFFIXES & suffixes_of(told.kind)


def _was_known(relative: PurePath) -> bool:
    """Whether earlier versions knew a folder of a file."""
    return not _KNOWN_BEFORE.isdisjoint(part.lower() for part in relative.parts[:-1])


def is_of_visible(path: PurePath) -> bool:
    """Whether a mask shows what can be seen of an object (BOP's mask_visib)."""
    return not _VISIBLE.isdisjoint(_words(path.parent.name))
