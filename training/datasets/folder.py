"""Images in a folder, with instance masks and depth where there are some.

    photos/table.jpg                the images: of any size, in any format that OpenCV reads
    photos/table.label.png          its mask (or table.mask.png, table_mask.png)
    photos/table.json               or its mask drawn with labelme
    photos/table.depth.png          its depth: 16 bits, in units of --depth-unit
    photos/instances.json           or the masks of all images in COCO's format

Masks and depth may lie in folders of their own instead: images/table.jpg, masks/table.png and
depth/table.png. Depth may also be a .tif or .npy file with metres.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
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
    coco_images,
    is_coco,
    is_labelme,
    read_annotation,
)
from training.datasets.images import decode_rgb
from training.datasets.inputs import input_files
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

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".jpe", ".pbm", ".pgm", ".png", ".pnm"}
    | {".ppm", ".tif", ".tiff", ".webp"}
)
_DECODING = 2  # files are read in another way than by earlier versions
_JSON_READING = "outlines"  # those with boxes alone are no masks, as they were in earlier versions
_HEIC = frozenset({".heic", ".heif"})
_MASK_FOLDERS = frozenset(
    {"annotation", "annotations", "instances", "label", "labels", "mask", "masks"}
    | {"segm", "segmentation", "segmentations"}
)
_DEPTH_FOLDERS = frozenset({"depth", "depths"})
_IMAGE_FOLDERS = frozenset({"color", "colour", "image", "images", "img", "imgs", "rgb"})
Kind = Literal["image", "mask", "depth"]
_ENDINGS: dict[str, Kind] = {
    **dict.fromkeys(("label", "labels", "mask", "masks", "segm", "instances"), "mask"),
    "depth": "depth",
    **dict.fromkeys(("color", "colour", "rgb"), "image"),
}
_ENDING = re.compile(f"[._-]({'|'.join(_ENDINGS)})$", re.IGNORECASE)
_DEPTH_SUFFIXES = frozenset({".npy", ".png", ".tif", ".tiff"})

MaskUse = Literal["auto", "need", "ignore"]


class Item(NamedTuple):
    """An image and the files that belong to it."""

    image: Path
    mask: Annotation | None = None
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
    beside NAME.jpg, masks/NAME.png, NAME.json of labelme, or in a COCO file; a depth is
    NAME.depth.png or depth/NAME.png.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth_unit <= 0:
            raise ValueError(f"depth_unit is {self.depth_unit}; expected metres, more than 0")

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays."""
        files = _listing(self.source)
        return {
            **self.own_options(),
            "masks": None if self.masks is None else str(self.masks),
            "use_masks": self.use_masks,
            "depth_unit": self.depth_unit,
            "decoding": _DECODING,
            "intrinsics": self.intrinsics,
            "files": fingerprint(files, self.source),
            "mask_files": self._mask_files(files),
        }

    def tasks(self) -> list[FolderTask]:
        """Chunks of the images of each split."""
        found = scan(self.source, self.masks)
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

    def _mask_files(self, files: Sequence[Path]) -> str | None:
        """What tells whether the masks are the same; None where there are none, or none is used.

        Args:
            files: of the source.
        """
        if self.use_masks == "ignore":
            return None
        inside = [path for path in files if _may_be_mask(path.relative_to(self.source))]
        told = [fingerprint(inside, self.source, times=True)] if inside else []
        beside = [] if self.masks is None else _mask_listing(self.masks)
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
        labels = read_annotation(item.mask)
        if labels.shape != image.shape[:2]:
            # Some programs draw on photos as they are stored, lying on their side.
            lying = _decode_lying(data)
            image = lying if lying.shape[:2] == labels.shape else image
        drawn = isinstance(item.mask, CocoImage) or item.mask.suffix.lower() == ".json"
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
        """The images of each split, in their order."""
        relative = [item.image.relative_to(self.source) for item in items]
        named = [named_split(path) for path in relative]
        rest = self.shares.rest(named)
        splits: dict[str, list[Item]] = {split: [] for split in SPLITS}
        folders: dict[PurePath, list[Item]] = {}
        for item, path, name in zip(items, relative, named, strict=True):
            if name in ("val", "test"):
                splits[name].append(item)
            else:
                folders.setdefault(path.parent, []).append(item)
        groups = list(folders.values())
        if len(groups) >= MIN_RECORDINGS:
            for group, split in zip(groups, rest.of_count(len(groups)), strict=True):
                splits[split] += group
            return splits
        if not any(len(group) >= MIN_RECORDINGS for group in groups):
            groups = [[item for group in groups for item in group]]  # each too small for a share
        for group in groups:
            shares = rest if len(group) >= MIN_RECORDINGS or len(groups) == 1 else Shares(0, 0)
            for item, split in zip(group, shares.of_count(len(group)), strict=True):
                splits[split].append(item)
        return splits


class Found(NamedTuple):
    """What a folder holds."""

    items: list[Item]
    left_out: dict[str, int]
    """Reasons, and the number of files or annotations."""


def _listing(source: Path) -> list[Path]:
    if not source.is_dir():
        raise DatasetError(f"{source} is not a folder; expected one with images")
    return sorted(input_files(source)[0], key=natural_order)


def scan(source: Path, masks: Path | None) -> Found:
    """The images of a folder, and what belongs to each.

    Raises:
        DatasetError: there are none, or a mask or a COCO file belongs to no image.
    """
    left_out: Counter[str] = Counter()
    images: dict[str, list[Path]] = {}
    besides: dict[Kind, dict[str, Path]] = {"mask": {}, "depth": {}}
    jsons: list[Path] = []
    for path in _listing(source):
        suffix = path.suffix.lower()
        kind, key = _kind(path.relative_to(source))
        if suffix == ".json":
            jsons.append(path)
        elif suffix in (_DEPTH_SUFFIXES if kind == "depth" else SUFFIXES):
            if kind == "image":
                images.setdefault(key, []).append(path)
            else:
                besides[kind][key] = path
        elif suffix in _HEIC:
            left_out["HEIC photos, which cannot be read: convert them to JPEG"] += 1
        elif suffix in VIDEO_SUFFIXES:
            left_out["videos, which prepare video takes"] += 1
        else:
            left_out[f"files of another kind ({suffix or 'without a suffix'})"] += 1
    mask_files, depth_files = besides["mask"], besides["depth"]
    for key, path in [*mask_files.items(), *depth_files.items()]:
        # shipping-label.jpg is a photo, if there is no shipping.jpg.
        alone = key not in images and _folder_kind(path.relative_to(source)) == "image"
        if alone and path.suffix.lower() in SUFFIXES:
            images[key] = [path]
            mask_files.pop(key, None)
            depth_files.pop(key, None)
    if not images:
        told = "; ".join(f"{count} {reason}" for reason, count in left_out.items())
        raise DatasetError(
            f"{source} has no images; expected files such as .jpg or .png"
            + (f", found {told}" if told else "")
        )
    annotations: dict[str, Annotation] = dict(mask_files)
    if masks is not None:
        annotations |= _masks_elsewhere(masks, jsons)
    coco: list[tuple[Path, dict[str, CocoImage]]] = []
    for path in jsons:
        content = _json(path)
        if is_labelme(content):
            annotations.setdefault(_labelme_key(path, content, source, images), path)
        elif is_coco(content):
            entries = coco_images(path, content)
            if without := sum(entry.without for entry in entries.values()):
                left_out["annotations without the outline of one object (crowds, boxes)"] += without
            coco.append((path, entries))
        else:
            left_out["JSON files that are neither COCO's nor labelme's"] += 1
    every = sorted((path for paths in images.values() for path in paths), key=natural_order)
    drawn = _match_coco(coco, every)
    items = []
    for path in every:
        _, key = _kind(path.relative_to(source))
        items.append(Item(path, drawn.get(path) or annotations.get(key), depth_files.get(key)))
    lost = [str(annotations[key]) for key in annotations.keys() - images.keys()]
    lost += [str(path) for key, path in depth_files.items() if key not in images]
    if lost:
        left_out["masks or depths that belong to no image"] += len(lost)
    return Found(items, dict(left_out))


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


def _folder_kind(relative: PurePath) -> Kind:
    """What the folders of a file say that it is."""
    names = {part.lower() for part in relative.parts[:-1]}
    if names & _MASK_FOLDERS:
        return "mask"
    return "depth" if names & _DEPTH_FOLDERS else "image"


def _kind(relative: PurePath) -> tuple[Kind, str]:
    """What a file is by its path, and what it shares with those that belong to the same image."""
    kind, stem = _folder_kind(relative), relative.stem
    told = _MASK_FOLDERS | _DEPTH_FOLDERS | _IMAGE_FOLDERS
    kept = [folder for folder in relative.parts[:-1] if folder.lower() not in told]
    while ending := _ENDING.search(stem):  # scene.color.label: a mask of scene.color
        stem = stem[: ending.start()]
        kind = _ENDINGS[ending[1].lower()] if kind == "image" else kind
    return kind, "/".join([*kept, stem])


def _may_be_mask(relative: PurePath) -> bool:
    """Whether a file of the source is a mask, or a JSON file that may hold some."""
    return relative.suffix.lower() == ".json" or _kind(relative)[0] == "mask"


def _mask_listing(masks: Path) -> list[Path]:
    """The files of a folder with masks; a COCO file is the only one of itself.

    Raises:
        DatasetError: there is no such folder or file.
    """
    if not masks.exists():
        raise DatasetError(f"masks: {masks} does not exist")
    return input_files(masks)[0]


def _masks_elsewhere(masks: Path, jsons: list[Path]) -> dict[str, Annotation]:
    """The masks of a folder beside the source, by what they share with their images.

    A COCO file is added to the JSON files.
    """
    files = _mask_listing(masks)
    if masks.is_file():
        jsons += files
        return {}
    found: dict[str, Annotation] = {}
    for path in files:
        if path.suffix.lower() in SUFFIXES:
            found[_kind(path.relative_to(masks))[1]] = path
        elif path.suffix.lower() == ".json":
            if is_coco(_json(path)):
                jsons.append(path)
            else:
                found[_kind(path.relative_to(masks))[1]] = path
    return found


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DatasetError(f"{path} is no JSON file: {error}") from error


def _labelme_key(
    path: Path, content: dict[str, Any], source: Path, images: dict[str, list[Path]]
) -> str:
    """The key of the image that a labelme file belongs to: that beside it, or the one it names."""
    inside = path.relative_to(source) if path.is_relative_to(source) else PurePath(path.name)
    _, key = _kind(inside)
    if key in images:
        return key
    named = PurePath(str(content["imagePath"]).replace("\\", "/")).name
    return _kind(inside.with_name(named))[1]


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
