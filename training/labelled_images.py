"""Images of real cameras with label images beside them, to measure on.

A folder of them holds either an index.json, a list of entries with

    image, label             files; the label image is an 8-bit PNG: 0 background, 1.. objects,
                             255 not scored
    depth_mm                 optional: 16-bit PNG, millimetres along the optical axis, 0 unknown
    intrinsics_fx_fy_cx_cy   optional: in pixels of the image
    name, group              optional: images of a group are summed up together
    names                    optional: what each label from 1 on shows; "robot" is no object
    robot                    optional: the label, or the list of labels, of the robot

or images with NAME.label.png, and where there is depth NAME.depth.png, beside NAME.jpg or NAME.png.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.datasets.folder_names import SUFFIXES
from training.datasets.images import read_grey, read_rgb
from training.datasets.inputs import is_clutter
from training.datasets.layout import IGNORED, DatasetError, UInt8

INDEX = "index.json"
LABEL, DEPTH = ".label.png", ".depth.png"
_FIRST = (".png", ".jpg", ".jpeg")
IMAGE_SUFFIXES = (*_FIRST, *sorted(SUFFIXES.difference(_FIRST)))
GUESSED_FOCAL_LENGTH = 0.9
"""Of a camera whose intrinsics are unknown, in widths of its image."""


@dataclass(frozen=True)
class LabelledImage:
    """One image and what is known of it; nothing is read before it is asked for.

    Every ``read_`` method raises DatasetError, naming the file that is missing or of another form.
    """

    name: str
    group: str
    image: Path
    label: Path
    depth: Path | None = None
    camera: tuple[float, float, float, float] | None = None
    """fx, fy, cx, cy in pixels."""
    robot: frozenset[int] = frozenset()
    """The labels of the robot."""

    def read_image(self) -> UInt8:
        """RGB, uint8 (H, W, 3)."""
        return _read(self.image, read_rgb)

    def read_labels(self, height: int, width: int) -> NDArray[np.int64]:
        """(H, W): 0 background, 1.. objects, 255 not scored."""
        labels = _read(self.label, read_grey)
        if labels.shape != (height, width):
            raise DatasetError(
                f"{self.label} is {labels.shape[1]}x{labels.shape[0]} pixels, but its image "
                f"{width}x{height}"
            )
        return labels.astype(np.int64)

    def shows_object(self) -> bool:
        """Whether something in it is to be found."""
        labels = np.unique(_read(self.label, read_grey)).tolist()
        return any(label not in {0, IGNORED, *self.robot} for label in labels)

    def read_depth(self, height: int, width: int) -> NDArray[np.float32]:
        """Metres along the optical axis at the image's pixels, float32 (H, W); 0 = unknown."""
        if self.depth is None:
            raise DatasetError(f"{self.image} has no depth image")
        depth = cv2.imread(str(self.depth), cv2.IMREAD_UNCHANGED)
        if depth is None or depth.dtype != np.uint16 or depth.ndim != 2:
            raise DatasetError(f"{self.depth} is missing or no 16-bit grey image of millimetres")
        if depth.shape != (height, width):
            depth = cv2.resize(depth, (width, height), interpolation=cv2.INTER_NEAREST)
        return depth.astype(np.float32) / 1000

    def intrinsics(self, height: int, width: int) -> NDArray[np.float64]:
        """(3, 3), in pixels; where they are unknown, a usual camera's."""
        focal = GUESSED_FOCAL_LENGTH * width
        fx, fy, cx, cy = self.camera or (focal, focal, width / 2, height / 2)
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def find_labelled(folder: Path) -> list[LabelledImage]:
    """The labelled images of a folder, in the order of its index or of their names.

    Raises:
        DatasetError: the folder holds none, or its index is broken.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder; expected one with labelled images")
    index = folder / INDEX
    found = _from_index(index) if index.is_file() else _from_names(folder)
    if not found:
        raise DatasetError(
            f"{folder} holds no labelled images: expected {INDEX}, or images NAME.png or NAME.jpg "
            f"with NAME{LABEL} beside them"
        )
    return found


def _from_index(index: Path) -> list[LabelledImage]:
    folder = index.parent
    try:
        return [_entry(folder, entry) for entry in json.loads(index.read_text())]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(
            f"{index} is no list of entries with image and label ({type(error).__name__}: {error})"
        ) from error


def _entry(folder: Path, entry: dict[str, Any]) -> LabelledImage:
    image, depth = folder / entry["image"], entry.get("depth_mm")
    camera = entry.get("intrinsics_fx_fy_cx_cy")
    if camera is not None:
        fx, fy, cx, cy = map(float, camera)
        camera = (fx, fy, cx, cy)
    robot = entry.get("robot", [])
    labels = {int(label) for label in (robot if isinstance(robot, list) else [robot])}
    labels |= {k for k, name in enumerate(entry.get("names", []), start=1) if name == "robot"}
    return LabelledImage(
        name=entry.get("name", image.stem),
        group=entry.get("group", folder.name),
        image=image,
        label=folder / entry["label"],
        depth=folder / depth if depth else None,
        camera=camera,
        robot=frozenset(labels),
    )


def _from_names(folder: Path) -> list[LabelledImage]:
    found = []
    others = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_file()}
    for label in sorted(folder.glob(f"*{LABEL}")):
        if is_clutter(label.relative_to(folder)):
            continue
        name = label.name.removesuffix(LABEL)
        exact = [folder / (name + suffix) for suffix in IMAGE_SUFFIXES]
        images = [path for path in exact if path.is_file()]
        images += [others[path.name.lower()] for path in exact if path.name.lower() in others]
        image = images[0] if images else None
        if image is None:
            raise DatasetError(f"{label} has no image {name}.png or {name}.jpg beside it")
        depth = folder / (name + DEPTH)
        existing = depth if depth.is_file() else None
        found.append(LabelledImage(name, folder.name, image, label, existing))
    return found


def _read(path: Path, read: Callable[[Path], UInt8]) -> UInt8:
    try:
        return read(path)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: {error}") from error
