"""Images in a folder, with instance masks and depth where there are some.

    photos/table.jpg                the images: of any size, in any format that OpenCV reads
    photos/table.label.png          its mask (or table.mask.png, table_mask.png)
    photos/table.json               or its mask drawn with labelme
    photos/table.depth.png          its depth: 16 bits, in units of --depth-unit
    photos/instances.json           or the masks of all images in COCO's format

Masks and depth may lie in folders of their own instead: images/table.jpg, masks/table.png and
depth/table.png. Such a folder is known by the words of its name: so are Pascal VOC's
SegmentationObject beside JPEGImages, and depth_raw. As in BOP, each object may have a mask of its
own: rgb/000001.png, mask_visib/000001_000000.png. Depth may also be a .tif or .npy file with
metres.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.jpeg import whole_jpeg
from training.datasets.annotations import (
    Annotation,
    CocoImage,
    Labels,
    coco_images,
    is_coco,
    is_labelme,
    read_annotation,
)
from training.datasets.folder_names import (
    DEPTH_SUFFIXES,
    JPEG_SUFFIXES,
    LEFT_OUT,
    SUFFIXES,
    Before,
    Kind,
    Names,
    is_of_visible,
    read_before,
    suffixes_of,
)
from training.datasets.images import decode_rgb
from training.datasets.inputs import input_files
from training.datasets.instance_masks import decode_instance_mask, read_object_mask
from training.datasets.layout import SPLITS, DatasetError, Float32, UInt8
from training.datasets.parts import PartWriter
from training.datasets.recordings import (
    MIN_RECORDINGS,
    OwnData,
    Shares,
    fingerprint,
    named_split,
    natural_order,
)
from training.datasets.shots import Camera, Shot, ShotPart
from training.datasets.tasks import Chunk, chunk_key
from training.datasets.video import SUFFIXES as VIDEO_SUFFIXES

_DECODING = 2  # files are read in another way than by earlier versions
_NAMES_BEFORE = "as before"  # the paths say what they said to earlier versions
_JSON_READING = "outlines"  # those with boxes alone are no masks, as they were in earlier versions
_OBJECTS_READING = "objects"  # masks of single objects were left out by earlier versions
_HEIC = frozenset({".heic", ".heif"})
_PNG, _GREY_OR_PALETTE = b"\x89PNG\r\n\x1a\n", (0, 3)  # the colour types of one channel
_OF_NO_IMAGE = "masks or depths that belong to no image"
_SPARE = "masks or depths of images that have one in a folder called masks or depth"
_WHOLE_OBJECTS = "masks of objects with their hidden parts, as there are those of the visible ones"
_TRIED_PAIRS = 20
_MOST_COVERED = 0.05  # of an object by others, if its mask shows all of it

_KINDS: tuple[Kind, ...] = ("image", "mask", "depth")

MaskUse = Literal["auto", "need", "ignore"]


class ObjectMasks(NamedTuple):
    """The masks of an image that has one for each object."""

    files: tuple[Path, ...]
    visible: bool
    """Whether they show the parts of the objects that can be seen."""


class Item(NamedTuple):
    """An image and the files that belong to it."""

    image: Path
    mask: Annotation | ObjectMasks | None = None
    depth: Path | None = None


@dataclass(frozen=True)
class FolderTask(Chunk):
    """Images of a split that become one part.

    Attributes:
        masks, depths: whether the data set has them.
        left_out: what the folder holds besides, with the first task.
    """

    items: tuple[Item, ...]
    masks: bool
    depths: bool
    left_out: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Folder(OwnData):
    """Images in a folder and its sub-folders, with masks and depth where there are some.

    Sub-folders train, val and test are the splits. Otherwise, from ten sub-folders on, whole ones
    are val and test; of fewer, the last images of each. A mask is NAME.label.png or NAME.mask.png
    beside NAME.jpg, masks/NAME.png, NAME.json of labelme, or in a COCO file; with one for each
    object masks/NAME_0.png, masks/NAME_1.png. A depth is NAME.depth.png or depth/NAME.png.

    Args:
        masks: folder with masks, or a COCO file, if they are not in the source
        use_masks: auto takes masks if all images have one; need leaves images without one out;
            ignore takes no masks
        depth_unit: metres of a step of 16-bit depth images; floats are metres, or millimetres if
            they cannot be metres
        intrinsics: fx, fy, cx and cy in pixels of the images, for depth; by default those of a
            usual camera
    """

    masks: Path | None = None
    use_masks: MaskUse = "auto"
    depth_unit: float = 0.001
    intrinsics: tuple[float, float, float, float] | None = None

    name: ClassVar[str] = "folder"
    unit: ClassVar[str] = "images"
    former_options: ClassVar[dict[str, Any]] = OwnData.former_options | {"names": _NAMES_BEFORE}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth_unit <= 0:
            raise ValueError(f"depth_unit is {self.depth_unit}; expected metres, more than 0")

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = _listing(self.source)
        names = Names(_others(files, self.source, self.masks))
        pairs = [path for _, path in _masks_called_as_images(names, self.source)]
        return {
            **self.own_options(),
            "masks": None if self.masks is None else str(self.masks),
            "use_masks": self.use_masks,
            "depth_unit": self.depth_unit,
            "decoding": _DECODING,
            "intrinsics": self.intrinsics,
            "files": fingerprint(files, self.source),
            "mask_files": self._mask_files(files, names, pairs),
            # So data in which masks were taken for photos are no longer up to date.
            "names": "by words" if pairs or self._are_new(files, names) else _NAMES_BEFORE,
        }

    def tasks(self) -> list[FolderTask]:
        """Chunks of the images of each split."""
        found = scan(self.source, self.masks, self.use_masks)
        with_masks, items, left_out = self._choose(found)
        depths = any(item.depth for item in items)
        splits = self._split(items)
        length = self.form().part_length
        tasks: list[FolderTask] = []
        for split in SPLITS:
            for start in range(0, len(splits[split]), length):
                taken = tuple(splits[split][start : start + length])
                tasks.append(
                    FolderTask(
                        chunk_key(split, start),
                        len(taken),
                        split,
                        start,
                        start + len(taken),
                        taken,
                        with_masks,
                        depths,
                        () if tasks else tuple(left_out.items()),
                    )
                )
        return tasks

    def run(self, task: FolderTask, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        form = self.form(masks=task.masks, depths=task.depths)
        part = ShotPart(parts, task.name, task.split, form)
        part.left_out.update(dict(task.left_out))
        floats = DepthUnit()
        for item in task.items:
            parts.advance(1)
            try:
                part.add(self._read(item, task, floats))
            except (OSError, ValueError) as error:
                parts.problem(f"{item.image}: {error}")
        part.write()

    def _are_new(self, files: Sequence[Path], names: Names) -> bool:
        """Whether earlier versions took other files for images, or for the masks or depth of one.

        Args:
            files: of the source.
            names: what their paths say.
        """
        with_masks = self.use_masks != "ignore"
        before = Before([path.relative_to(self.source) for path in files], with_masks=with_masks)
        others = _others(files, self.source, self.masks)
        then, now = before.belonging, names.belonging(others, with_masks=with_masks)
        if self.masks is not None and self.masks.is_dir() and with_masks:
            images = names.by_kind["image"]
            inside = _inside(self.masks, self.source)
            for path, short, key in _keys_elsewhere(self.masks, self.source, names):
                if path.suffix.lower() not in SUFFIXES | {".json"}:
                    continue
                mask = path if inside is None else inside / short
                for image in before.images.get(read_before(short)[1], ()):
                    then[image].add(mask)
                owner = names.owner(key)
                if owner is not None and names(short).kind not in LEFT_OUT:
                    for image in images[owner]:
                        now[image].add(mask)
        return then != now

    def _mask_files(self, files: Sequence[Path], names: Names, pairs: Sequence[Path]) -> str | None:
        """What tells whether the masks are the same; None where there are none, or none is used.

        Args:
            files: of the source.
            names: what their paths say.
            pairs: those that are masks, as they are called as an image is.
        """
        if self.use_masks == "ignore":
            return None
        relative = {path: path.relative_to(self.source) for path in files}
        called = set(pairs)
        inside = [path for path in files if path in called or names.may_be_mask(relative[path])]
        told = [fingerprint(inside, self.source, times=True)] if inside else []
        beside = [] if self.masks is None else _mask_listing(self.masks)
        drawn = [relative[path] for path in inside]
        if self.masks is not None:
            drawn += [path.relative_to(self.masks) for path in beside]
        keys = {names(path).key for path in drawn if path.suffix.lower() in SUFFIXES}
        if {names.owner(key) for key in keys} - keys - {None}:
            told.append(_OBJECTS_READING)
        if any(path.suffix.lower() == ".json" for path in (*inside, *beside)):
            told.append(_JSON_READING)
        if self.masks is not None:
            told.append(fingerprint(beside, self.masks, times=True))
        return "-".join(told) or None

    def _read(self, item: Item, task: FolderTask, floats: DepthUnit) -> Shot:
        """An image with what belongs to it.

        Raises:
            ValueError, OSError: something cannot be read.
        """
        data = whole_jpeg(item.image.read_bytes())
        if data is None:  # OpenCV would fill up what is missing, and say nothing
            raise ValueError("the JPEG is cut off")
        image = decode_rgb(data)  # upright, as EXIF says
        depth = None
        if task.depths and item.depth is not None:
            depth = read_depth(item.depth, self.depth_unit, floats)
        camera: Camera | None = self.intrinsics
        if not task.masks or item.mask is None:
            return Shot(image, None, depth, camera)
        mask = item.mask
        labels = _join(mask) if isinstance(mask, ObjectMasks) else read_annotation(mask)
        if labels.shape != image.shape[:2]:
            # Some programs draw on photos as they are stored, lying on their side.
            lying = _decode_lying(data)
            image = lying if lying.shape[:2] == labels.shape else image
        drawn = isinstance(mask, CocoImage) or (
            isinstance(mask, Path) and mask.suffix.lower() == ".json"
        )
        return Shot(image, labels, depth, camera, is_blank=drawn and not labels.any())

    def _choose(self, found: Found) -> tuple[bool, list[Item], Counter[str]]:
        """Whether masks are used, the images to take, and what is left out.

        Raises:
            DatasetError: some images have masks, and what is wanted is not said.
        """
        left_out = Counter(found.left_out)
        labelled = [item for item in found.items if item.mask is not None]
        count, all_count = len(labelled), len(found.items)
        if self.use_masks == "ignore" or (self.use_masks == "auto" and not labelled):
            return False, found.items, left_out
        if self.use_masks == "auto" and count < all_count:
            raise DatasetError(
                f"{self.source}: {count} of {all_count} images have a mask. --use-masks need takes "
                "these only, --use-masks ignore takes all images and no mask; do both, into two "
                "outputs, to use everything"
            )
        if not labelled:
            raise DatasetError(f"{self.source}: none of {all_count} images has a mask")
        if count < all_count:
            left_out["images without a mask (--use-masks need)"] = all_count - count
        return True, labelled, left_out

    def _split(self, items: Sequence[Item]) -> dict[str, list[Item]]:
        """The images of each split, in their order.

        Where some have masks, those are split first, and the others beside them. So an image is in
        the same split whether the others are prepared with it or not, and what one preparation
        holds out the other does not train on.
        """
        of_folders: dict[PurePath, str] = {}
        split_of: dict[Path, str] = {}
        labelled = [item for item in items if item.mask is not None]
        self._split_part(labelled, self._shares_of(labelled), of_folders, split_of)
        others = [item for item in items if item.mask is None]
        self._split_part(others, self._shares_of(items), of_folders, split_of)
        splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
        for item in items:
            splits[split_of[item.image]].append(item)
        return splits

    def _shares_of(self, items: Sequence[Item]) -> Shares:
        """The shares of what folders do not call val or test."""
        return self.shares.rest([named_split(self._inside(item)) for item in items])

    def _inside(self, item: Item) -> Path:
        return item.image.relative_to(self.source)

    def _split_part(
        self,
        items: Sequence[Item],
        rest: Shares,
        of_folders: dict[PurePath, str],
        split_of: dict[Path, str],
    ) -> None:
        """Add the splits of some images, and of folders that are in one split as a whole."""
        folders: dict[PurePath, list[Item]] = {}
        for item in items:
            path = self._inside(item)
            name = named_split(path)
            if name in ("val", "test"):
                split_of[item.image] = name
            elif path.parent in of_folders:
                split_of[item.image] = of_folders[path.parent]
            else:
                folders.setdefault(path.parent, []).append(item)
        groups = list(folders.values())
        if len(groups) >= MIN_RECORDINGS:
            of_folders |= zip(folders, rest.of_count(len(groups)), strict=True)
            for folder, group in folders.items():
                split_of |= {item.image: of_folders[folder] for item in group}
            return
        if not any(len(group) >= MIN_RECORDINGS for group in groups):
            groups = [[item for group in groups for item in group]]  # each too small for a share
        for group in groups:
            shares = rest if len(group) >= MIN_RECORDINGS or len(groups) == 1 else Shares(0, 0)
            split_of |= zip(
                (item.image for item in group), shares.of_count(len(group)), strict=True
            )


class Found(NamedTuple):
    """What a folder holds."""

    items: list[Item]
    left_out: dict[str, int]
    """Reasons, and the number of files or annotations."""


def _listing(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DatasetError(f"{source} is not a folder; expected one with images")
    return sorted(input_files(source)[0], key=natural_order)


def scan(source: Path, masks: Path | None, use_masks: MaskUse = "auto") -> Found:
    """The images of a folder, and what belongs to each.

    Raises:
        DatasetError: there are none, a COCO file belongs to no image, or two files may be the mask
            or the depth of an image, or the image itself.
    """
    relative = _others(_listing(source), source, masks)
    names = Names(relative)
    left_out: Counter[str] = Counter()
    jsons: list[Path] = []
    for inside in relative:
        suffix, kind = inside.suffix.lower(), names(inside).kind
        if suffix == ".json":
            jsons.append(source / inside)
        elif kind in LEFT_OUT and suffix in SUFFIXES | DEPTH_SUFFIXES:
            left_out[LEFT_OUT[kind]] += 1
        elif kind not in LEFT_OUT and suffix in suffixes_of(kind):
            continue
        elif suffix in _HEIC:
            left_out["HEIC photos, which cannot be read: convert them to JPEG"] += 1
        elif suffix in VIDEO_SUFFIXES:
            left_out["videos, which prepare video takes"] += 1
        else:
            left_out[f"files of another kind ({suffix or 'without a suffix'})"] += 1
    images, masks_inside, depths_inside = (
        {key: [source / path for path in paths] for key, paths in names.by_kind[kind].items()}
        for kind in _KINDS
    )
    if not images:
        told_of = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DatasetError(
            f"{source} has no images; expected files such as .jpg or .png"
            + (f", found {told_of}" if told_of else "")
        )
    for key, path in _masks_called_as_images(names, source):
        images[key].remove(path)
        masks_inside.setdefault(key, []).append(path)
    lost = Counter[str]({_SPARE: names.spare} if names.spare else {})
    # What --masks names settles which of several masks is meant.
    decide = masks is None and use_masks != "ignore"
    annotations = _masks_of(masks_inside, names, lost, decide=decide)
    if masks is not None:
        elsewhere = _masks_elsewhere(masks, source, jsons, names, left_out)
        annotations |= _masks_of(elsewhere, names, lost, decide=use_masks != "ignore")
    coco: list[tuple[Path, dict[str, CocoImage]]] = []
    for path in jsons:
        content = _json(path)
        if is_labelme(content):
            key = _labelme_key(path, content, source, names)
            if key in images:
                annotations.setdefault(key, path)
            else:
                lost[_OF_NO_IMAGE] += 1
        elif is_coco(content):
            entries = coco_images(path, content)
            if without := sum(entry.without for entry in entries.values()):
                left_out["annotations without the outline of one object (crowds, boxes)"] += without
            coco.append((path, entries))
        else:
            left_out["JSON files that are neither COCO's nor labelme's"] += 1
    depths: dict[str, Path] = {}
    for key, paths in depths_inside.items():
        if key in images:
            depths[key] = _only(paths, "depth", "move one out of the source")
        else:
            lost[_OF_NO_IMAGE] += len(paths)
    used = annotations.keys() if use_masks != "ignore" else frozenset[str]()
    _check_meant(images, used | depths.keys())
    keys = {path: key for key, paths in images.items() for path in paths}
    every = sorted(keys, key=natural_order)
    drawn = _match_coco(coco, every)
    items = [
        Item(path, drawn.get(path) or annotations.get(keys[path]), depths.get(keys[path]))
        for path in every
    ]
    return Found(items, dict(left_out + lost))


def read_depth(path: Path, unit: float, floats: DepthUnit) -> Float32:
    """Depth (H, W) in metres, NaN or 0 where unknown.

    Args:
        unit: metres of a step of 16 bits.
        floats: decides what those of one camera are.

    Raises:
        ValueError, OSError: the file holds no depth.
    """
    if path.suffix.lower() == ".npy":
        depth = np.load(path, allow_pickle=False)
    else:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        depth = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if depth is None or depth.ndim != 2 or depth.dtype.kind not in "uf" or depth.itemsize < 2:
        raise ValueError(f"{path} holds no depth; expected one channel of 16 bits, or metres")
    values: Float32 = depth.astype(np.float32)
    return values * np.float32(unit) if depth.dtype.kind == "u" else floats.metres(values)


def _decode_lying(data: bytes) -> UInt8:
    """An image as it is stored, not turned as its EXIF says."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _inside(masks: Path | None, source: Path) -> PurePath | None:
    """The path of --masks relative to the source; None if it is not inside."""
    if masks is None or not masks.resolve().is_relative_to(source.resolve()):
        return None
    inside = masks.resolve().relative_to(source.resolve())
    return None if inside == PurePath() else inside  # masks and images may lie in one folder


def _others(files: Sequence[Path], source: Path, masks: Path | None) -> list[PurePath]:
    """The files of the source, relative to it, but for the masks that --masks names.

    Photos may lie beside these: JPEGs, and what has a mask of its own there.
    """
    relative: list[PurePath] = [path.relative_to(source) for path in files]
    inside = _inside(masks, source)
    if inside is None:
        return relative
    named = [path for path in relative if path.is_relative_to(inside)]
    names = Names(named)
    told = {path: names(path) for path in named}
    with_mask = {
        told[path].key
        for path in named
        if told[path].kind == "mask" or path.suffix.lower() == ".json"
    }

    def is_photo(path: PurePath) -> bool:
        kind, key, _ = told[path]
        suffix = path.suffix.lower()
        may_be = suffix in JPEG_SUFFIXES or (suffix in SUFFIXES and key in with_mask)
        return kind == "image" and may_be

    return [path for path in relative if path not in told or is_photo(path)]


def _pairs(files: Iterable[Path]) -> Iterator[Path]:
    """PNGs beside a JPEG of the same name."""
    files = list(files)
    jpegs = {path.with_suffix("") for path in files if path.suffix.lower() in JPEG_SUFFIXES}
    for path in files:
        if path.suffix.lower() == ".png" and path.with_suffix("") in jpegs:
            yield path


def _masks_called_as_images(names: Names, source: Path) -> list[tuple[str, Path]]:
    """Masks that are called as their image is, 1.png beside 1.jpg, with their keys.

    Such a PNG has one channel, and the image no other mask. What is no mask is a photo.
    """
    pairs = [
        (key, png)
        for key, paths in names.by_kind["image"].items()
        if len(paths) > 1 and key not in names.by_kind["mask"]
        for png in _pairs(source / path for path in paths)
        if _is_one_channel(png)
    ]
    # Where all of some are masks, the others are looked at when they are read.
    if all(_is_mask(png) for _, png in pairs[:: len(pairs) // _TRIED_PAIRS + 1]):
        return pairs
    return [(key, png) for key, png in pairs if _is_mask(png)]


def _is_mask(png: Path) -> bool:
    try:
        decode_instance_mask(png.read_bytes())
    except ValueError:
        return False
    return True


def _is_one_channel(png: Path) -> bool:
    """Whether a PNG is grey or has a palette, as masks are."""
    with png.open("rb") as file:
        head = file.read(26)
    return head.startswith(_PNG) and len(head) == 26 and head[25] in _GREY_OR_PALETTE


def _check_meant(images: dict[str, list[Path]], keys: Collection[str]) -> None:
    """Check that it is clear which image a mask or a depth belongs to.

    Args:
        keys: those of masks and depths.

    Raises:
        DatasetError: it may be either of two in a folder, such as 1.png and 1.color.png. It is
            that of both 1.png and 1.jpg.
    """
    for key in sorted(keys):
        by_folder: dict[Path, Path] = {}
        for path in images[key]:
            other = by_folder.setdefault(path.parent, path)
            if other.with_suffix("") != path.with_suffix(""):
                raise DatasetError(
                    f"{other} and {path.name}: either may be the image that a mask or depth of "
                    f"{key} belongs to; rename one, or move it out of the source"
                )


def _masks_of(
    files: dict[str, list[Path]], names: Names, lost: Counter[str], *, decide: bool
) -> dict[str, Annotation | ObjectMasks]:
    """The mask of each image, by its key.

    Args:
        files: by their own keys.
        lost: takes the reasons for which some are none.
        decide: whether several masks of an image are an error; otherwise the last one is taken.

    Raises:
        DatasetError: an image has several.
    """
    whole: dict[str, list[Path]] = {}
    single: dict[str, list[Path]] = {}
    for key, paths in files.items():
        owner = names.owner(key)
        if owner is None:
            lost[_OF_NO_IMAGE] += len(paths)
        else:
            (whole if owner == key else single).setdefault(owner, []).extend(paths)
    advice = "name the folder that counts by --masks, or move one out of the source"
    found: dict[str, Annotation | ObjectMasks] = {}
    for key, paths in whole.items():
        chosen = [path for path in paths if is_of_visible(path)] or paths
        found[key] = _only(chosen, "mask", advice) if decide else chosen[-1]
    for key, paths in single.items():
        if key in found:
            lost["masks of objects, as there is one of the whole image"] += len(paths)
            continue
        visible = [path for path in paths if is_of_visible(path)]
        chosen = visible or paths
        lost[_WHOLE_OBJECTS] += len(paths) - len(chosen)
        folders = {path.parent: path for path in chosen}
        if decide:
            _only(list(folders.values()), "mask", advice)
        files_of_one = [path for path in chosen if path.parent == chosen[-1].parent]
        found[key] = ObjectMasks(tuple(sorted(files_of_one, key=natural_order)), bool(visible))
    return found


def _only(paths: Sequence[Path], what: str, advice: str) -> Path:
    """The file that is meant; of one name in several formats the last.

    Raises:
        DatasetError: several may be.
    """
    names = {path.with_suffix("") for path in paths}
    if len(names) > 1:
        raise DatasetError(
            f"{paths[0]} and {paths[-1]} both may be the {what} of one image: {advice}"
        )
    return paths[-1]


def _join(masks: ObjectMasks) -> Labels:
    """The labels 1, 2, ... of objects that have a mask each.

    A smaller object covers a larger one: it lies on it, as far as both are visible.

    Raises:
        ValueError: one cannot be read, they differ in size, or hidden parts are drawn as well.
        OSError: one cannot be read.
    """
    drawn = []
    for path in masks.files:
        try:
            drawn.append(read_object_mask(path) > 0)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    sizes = {mask.shape for mask in drawn}
    if len(sizes) > 1:
        raise ValueError(f"the masks of its objects differ in size: {masks.files[0]} and others")
    labels: Labels = np.zeros(drawn[0].shape, np.int32)
    for place in sorted(range(len(drawn)), key=lambda place: -int(drawn[place].sum())):
        covered = int(np.count_nonzero(labels[drawn[place]]))
        if not masks.visible and covered > _MOST_COVERED * np.count_nonzero(drawn[place]):
            raise ValueError(
                f"{masks.files[place]} overlaps masks of other objects: which one is in front is "
                "not known; expected masks of what is visible"
            )
        labels[drawn[place]] = place + 1
    return labels


def _mask_listing(masks: Path) -> list[Path]:
    """The files of a folder with masks; a COCO file is the only one of itself.

    Raises:
        DatasetError: there is no such folder or file.
    """
    if not masks.exists():
        raise DatasetError(f"masks: {masks} does not exist")
    return input_files(masks)[0]


def _keys_elsewhere(
    masks: Path, source: Path, names: Names
) -> Iterator[tuple[Path, PurePath, str]]:
    """The files of a folder that --masks names, but for images of the source.

    With each, its path relative to the folder, and what it shares with its image.
    """
    files = _mask_listing(masks)
    root, base = source.resolve(), masks.resolve()
    if root.is_relative_to(base):  # what lies in the source has been seen
        seen = root.relative_to(base)
        files = [path for path in files if not path.relative_to(masks).is_relative_to(seen)]
    inside = _inside(masks, source)
    if inside is not None:
        images = {path for paths in names.by_kind["image"].values() for path in paths}
        files = [path for path in files if inside / path.relative_to(masks) not in images]
    relative: list[PurePath] = [path.relative_to(masks) for path in files]
    keys = [names(path).key for path in relative]
    if inside is not None:
        # VOC/SegmentationObject, where the source holds VOC: its images are VOC/JPEGImages.
        of_source = [names(inside / path).key for path in relative]
        keys = max(of_source, keys, key=lambda keys: sum(map(bool, map(names.owner, keys))))
    return zip(files, relative, keys, strict=True)


def _masks_elsewhere(
    masks: Path, source: Path, jsons: list[Path], names: Names, left_out: Counter[str]
) -> dict[str, list[Path]]:
    """The masks of a folder that --masks names, by what they share with their images.

    A COCO file is added to the JSON files.
    """
    if masks.is_file():
        jsons.append(masks)
        return {}
    found: dict[str, tuple[int, list[Path]]] = {}
    for path, short, key in _keys_elsewhere(masks, source, names):
        kind, suffix = names(short).kind, path.suffix.lower()
        if suffix == ".json" and (is_coco(_json(path)) or names.owner(key) is None):
            jsons.append(path)  # one of labelme may name its image
        elif suffix in SUFFIXES and kind in LEFT_OUT:
            left_out[LEFT_OUT[kind]] += 1
        elif suffix in SUFFIXES or suffix == ".json":
            # Copies of the images may lie there: 1.jpg or 1.png beside 1.json or 1.label.png.
            rank = 2 if suffix == ".json" else 3 if suffix in JPEG_SUFFIXES else int(kind != "mask")
            best, _ = found.setdefault(key, (rank, []))
            if rank < best:
                found[key] = rank, []
            if rank <= best:
                found[key][1].append(path)
    return {key: paths for key, (_, paths) in found.items()}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON file: {error}") from error


def _labelme_key(path: Path, content: dict[str, Any], source: Path, names: Names) -> str:
    """The key of the image that a labelme file belongs to: that beside it, or the one it names."""
    inside = path.relative_to(source) if path.is_relative_to(source) else PurePath(path.name)
    key = names(inside).key
    if key in names.images:
        return key
    named = PurePath(str(content["imagePath"]).replace("\\", "/")).name
    return names(inside.with_name(named)).key


def _match_coco(
    files: Sequence[tuple[Path, dict[str, CocoImage]]], images: Sequence[Path]
) -> dict[Path, CocoImage]:
    """The entry of each image that COCO files name, but for those of which no outline is known.

    An entry's file_name may be a path or the end of one; it must fit one image only, or one of
    those beside the file.

    Raises:
        DatasetError: a file names none of the images, an entry fits several, or two files outline
            objects of one image.
    """
    by_name: dict[str, list[Path]] = {}
    for path in images:
        by_name.setdefault(path.name, []).append(path)
    matched: dict[Path, CocoImage] = {}
    outlined: dict[Path, Path] = {}  # where the outlines of an image come from
    not_empty: set[Path] = set()  # somebody saw objects, and did not outline them
    for file, entries in files:
        hits = 0
        for name, entry in entries.items():
            wanted = PurePath(name.replace("\\", "/"))
            fitting = [
                path
                for path in by_name.get(wanted.name, [])
                if path.parts[-len(wanted.parts) :] == wanted.parts
            ] or by_name.get(wanted.name, [])
            if len(fitting) > 1:
                beside = [path for path in fitting if path.is_relative_to(file.parent)]
                fitting = beside if len(beside) == 1 else fitting
            if len(fitting) > 1:
                # images/val/1.jpg and images/train/1.jpg: the file's own name may say which.
                split = next((word for word in SPLITS if word in file.stem.lower()), None)
                fitting = [
                    path for path in fitting if split and split in str(path.parent)
                ] or fitting
            if len(fitting) > 1:
                raise DatasetError(f"{file}: {name} may be {fitting[0]} or {fitting[1]}")
            for path in fitting:
                hits += 1
                if entry.boxes:
                    not_empty.add(path)
                if entry.segments:
                    if path in outlined:
                        raise DatasetError(
                            f"{outlined[path]} and {file} both outline objects of {path}: choose "
                            "one by --masks, and leave the other one out of the source"
                            if outlined[path] != file
                            else f"{file} outlines objects of {path} under two names, one of "
                            f"which is {name}"
                        )
                    outlined[path] = file
                    matched[path] = entry
                elif not entry.says_nothing:
                    matched.setdefault(path, entry)
        if not hits:
            raise DatasetError(
                f"{file} names none of the images; its first is "
                f"{next(iter(entries), 'none at all')}, theirs {images[0].name}"
            )
    return {
        path: entry for path, entry in matched.items() if path in outlined or path not in not_empty
    }
