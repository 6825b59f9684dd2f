"""Instance masks that people and programs drew: label images, COCO and labelme files.

COCO (https://cocodataset.org/#format-data) has all images of a data set in one JSON file, labelme
one beside each image. Outlines become masks by pycocotools (requirements/data.txt).
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from training.datasets.instance_masks import decode_instance_mask, read_instance_mask
from training.datasets.layout import DatasetError

Labels: TypeAlias = NDArray[np.int32]
_CIRCLE_CORNERS = 64


@dataclass(frozen=True)
class CocoImage:
    """What a COCO file says of an image.

    Attributes:
        segments: what each object covers: polygons [[x, y, x, y, ...], ...] in pixels, or a
            run-length encoding.
        without: how many annotations are no outline of one object.
        boxes: how many of these tell of objects: boxes and crowds; captions do not.
    """

    height: int
    width: int
    segments: tuple[Any, ...]
    without: int = 0
    boxes: int = 0

    @property
    def says_nothing(self) -> bool:
        """Whether there is something else than outlines, and none of these."""
        return bool(self.without and not self.segments)


Annotation: TypeAlias = Path | CocoImage
"""A label image, a labelme file, or an entry of a COCO file."""


def read_annotation(annotation: Annotation) -> Labels:
    """Instance labels (H, W), 0 = background. What comes later covers what comes before.

    Raises:
        ValueError, OSError: it cannot be read.
    """
    if isinstance(annotation, CocoImage):
        return _draw(annotation.height, annotation.width, annotation.segments)
    if annotation.suffix.lower() == ".json":
        return _read_labelme(annotation)
    return read_instance_mask(annotation).astype(np.int32)


def is_coco(content: Any) -> bool:
    """Whether this is the content of a COCO file with instances."""
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def is_labelme(content: Any) -> bool:
    """Whether this is the content of a labelme file."""
    return isinstance(content, dict) and "shapes" in content and "imagePath" in content


def coco_images(path: Path, content: dict[str, Any]) -> dict[str, CocoImage]:
    """What a COCO file says, by the images' file names.

    Crowds, which are several objects in one, and boxes have no outline of one object.

    Raises:
        DatasetError: the file is not as COCO's are.
    """
    try:
        segments: dict[Any, list[Any]] = {image["id"]: [] for image in content["images"]}
        without, boxes = Counter[Any](), Counter[Any]()
        for annotation in content["annotations"]:
            outline = annotation.get("segmentation")
            if not outline or annotation.get("iscrowd"):
                without[annotation["image_id"]] += 1
                boxes[annotation["image_id"]] += bool(annotation.get("bbox") or outline)
            else:
                segments[annotation["image_id"]].append(outline)
        return {
            image["file_name"]: CocoImage(
                int(image["height"]),
                int(image["width"]),
                tuple(segments[image["id"]]),
                without[image["id"]],
                boxes[image["id"]],
            )
            for image in content["images"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} is not as COCO files are ({type(error).__name__}: {error})"
        ) from error


def _draw(height: int, width: int, segments: Sequence[Any]) -> Labels:
    """Labels 1, 2, ... of what each segment covers."""
    from pycocotools import mask

    labels = np.zeros((height, width), np.int32)
    for label, segment in enumerate(segments, start=1):
        try:
            if isinstance(segment, list):
                # Fewer than three corners enclose nothing.
                parts = [outline for outline in segment if len(outline) >= 6]
                if not parts:
                    continue
                encoded = mask.merge(mask.frPyObjects(parts, height, width))
            elif isinstance(segment["counts"], list):
                encoded = mask.frPyObjects(segment, height, width)
            else:
                encoded = segment
            covered = mask.decode(encoded).astype(bool)
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f"object {label} has an outline that cannot be read") from error
        if covered.shape != labels.shape:
            raise ValueError(
                f"object {label} is drawn on {covered.shape[1]} x {covered.shape[0]} pixels, the "
                f"image has {width} x {height}"
            )
        labels[covered] = label
    return labels


def _read_labelme(path: Path) -> Labels:
    """Labels of the shapes in a labelme file: polygons, rectangles, circles and masks.

    Shapes of one group are one object. Points and lines are none.
    """
    try:
        content = json.loads(path.read_text())
        height, width = int(content["imageHeight"]), int(content["imageWidth"])
        objects: dict[Any, list[Any]] = {}
        for number, shape in enumerate(content["shapes"]):
            group = shape.get("group_id")
            key = ("shape", number) if group is None else ("group", group, shape.get("label"))
            objects.setdefault(key, []).append(shape)
        labels = np.zeros((height, width), np.int32)
        label = 0
        for shapes in objects.values():
            covered = np.zeros((height, width), bool)
            for shape in shapes:
                covered |= _shape(shape, height, width)
            if covered.any():
                label += 1
                labels[covered] = label
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no labelme file ({type(error).__name__}: {error})") from error
    return labels


def _shape(shape: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """What one shape covers (H, W)."""
    kind = shape.get("shape_type") or "polygon"
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if kind == "mask":
        covered = np.zeros((height, width), bool)
        drawn = decode_instance_mask(base64.b64decode(shape["mask"])) > 0
        left, top = np.floor(points[0]).astype(int)
        covered[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
        return covered
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)  # some programs write 4 corners
        points = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    elif kind == "circle":
        centre, edge = points
        angles = np.arange(_CIRCLE_CORNERS) * (2 * math.pi / _CIRCLE_CORNERS)
        radius = np.hypot(*(edge - centre))
        points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    elif kind != "polygon":
        return np.zeros((height, width), bool)
    return _draw(height, width, [[points.ravel().tolist()]]) > 0
