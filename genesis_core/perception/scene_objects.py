"""From the model's slots to the objects of an image, in plain arrays (no ROS).

A slot's soft mask becomes an 8-bit mask, and every pixel gets the label of the slot that explains
it best. An image's masks sum to exactly 255 at every pixel that the model saw, and each labelled
pixel's mask is the largest there, so masks, label image, areas and centroids cannot disagree.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from genesis_core.kinds import SURROUNDINGS
from genesis_core.ops.mask_operations import NOBODY, drop_small, settle
from genesis_core.ops.mask_operations import equal as _equal

MAX_OBJECTS = 254
"""Labels are 1 to 254: label 0 means no object, and 255 marks unseen pixels on the way."""
_CLUTTER_OWN = 0.25  # of a clutter slot's mask, less than this share lies where it wins


class SceneLike(Protocol):
    """What is read of genesis_core.Scene."""

    @property
    def masks(self) -> npt.NDArray[Any]: ...  # (K, H, W), float32, or uint8 in a quantised scene
    @property
    def labels(self) -> npt.NDArray[Any]: ...  # (H, W), slot; not seen: -1, or 255 if quantised
    @property
    def latent_mean(self) -> npt.NDArray[np.float32]: ...  # (K, D)
    @property
    def latent_std(self) -> npt.NDArray[np.float32]: ...  # (K, D)
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...  # (K,)
    @property
    def kinds(self) -> npt.NDArray[np.str_] | None: ...  # (K,)


class Box(NamedTuple):
    """Pixels x to x + width - 1, y to y + height - 1."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an (H, W) array."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class SceneObject(NamedTuple):
    """One object of an image; pixel coordinates as in ObjectMask.msg."""

    label: int  # 1..n
    slot: int  # index into the scene's arrays
    background: bool
    score: float
    area: int
    centroid: tuple[float, float]  # x, y
    box: Box  # where the mask is not zero
    own_box: Box  # around the pixels that carry its label
    mask: npt.NDArray[np.uint8]  # (box.height, box.width), 255 = certain
    latent_mean: npt.NDArray[np.float32]  # (D,)
    latent_std: npt.NDArray[np.float32]  # (D,)
    kind: str = ""  # "object", "robot" or "surroundings"; "": the model does not tell


class SceneObjects(NamedTuple):
    """The objects of an image and its label image (H, W), 0 = no object.

    Attributes:
        seen: the part of the image that the model saw; None: all of it.
    """

    objects: list[SceneObject]
    labels: npt.NDArray[np.uint8]
    seen: Box | None = None


def find_objects(
    scene: SceneLike,
    *,
    min_area: float = 0.0005,
    mask_floor: float = 0.1,
    background_border: float = 0.3,
    background_span: float = 0.7,
    clutter_score: float = 0.5,
) -> SceneObjects:
    """Objects of a scene, labelled 1..n in the order of their slots.

    Where the model tells kinds, those of kind surroundings are flagged as background. Otherwise an
    object is, if it is

    - the scene behind the objects: it wins at least background_border of the border of the image,
      or reaches across more than background_span of both its width and its height. Table, floor
      and tray do, an arm comes in from one side and an object to grasp is smaller;
    - or clutter: its score is below clutter_score and more than three quarters of its mask lie
      where other slots win. Such a slot is what the others have left over.

    Its border is that of what the model saw of the image, and so are its width and height.

    Args:
        scene: a quantised one is much faster; its masks are used up: they are changed in place.
        min_area: slots that win a smaller share of what the model saw are left out; their pixels
            go to the next best slot. (0..1)
        mask_floor: smaller probabilities become 0, which keeps the crops small; the pixel's best
            slot takes them, so that masks still sum to one. (0..1)
        background_border, background_span, clutter_score: see above; a span of 1, like a score of
            0, switches the comparison off. (0..1)

    Raises:
        ValueError: masks are not finite, or of another size than the labels, there are more slots
            than labels, or a value is not in 0..1.
    """
    check_shares(
        min_area=min_area,
        mask_floor=mask_floor,
        background_border=background_border,
        background_span=background_span,
        clutter_score=clutter_score,
    )
    num_slots, height, width = scene.masks.shape
    if num_slots > MAX_OBJECTS:
        raise ValueError(
            f"{num_slots} slots; a mono8 label image holds at most {MAX_OBJECTS} objects"
        )
    if scene.labels.shape != (height, width):
        raise ValueError(
            f"labels are {scene.labels.shape}, masks {scene.masks.shape}; expected the same height "
            "and width"
        )
    masks = scene.masks if scene.masks.dtype == np.uint8 else _quantise(scene.masks)
    if not masks.flags.writeable:  # of a file, perhaps
        masks = masks.copy()
    winners = scene.labels.astype(np.uint8)  # -1 becomes 255, NOBODY
    seen = Box(*cv2.boundingRect(1 - _equal(winners, NOBODY)))
    kept = drop_small(masks, winners, min_area * seen.width * seen.height)
    threshold = int(np.ceil(mask_floor * 255.0)) - 1
    settled = settle(masks, winners, kept, threshold)

    border = _border(winners[seen.slices])
    objects: list[SceneObject] = []
    for index, slot in enumerate(kept):
        box, own_box = (Box(*each[index].tolist()) for each in (settled.boxes, settled.own_boxes))
        score = float(scene.scores[slot])
        kind = "" if scene.kinds is None else str(scene.kinds[slot])
        if kind:
            background = kind == SURROUNDINGS
        else:
            background = bool(
                np.count_nonzero(border == slot) >= background_border * border.size
                or _spans(own_box, seen, background_span)
                or (score < clutter_score and settled.own_shares[index] < _CLUTTER_OWN)
            )
        x, y = settled.centroids[index].tolist()
        objects.append(
            SceneObject(
                label=index + 1,
                slot=slot,
                background=background,
                score=score,
                area=int(settled.areas[index]),
                centroid=(x, y),
                box=box,
                own_box=own_box,
                # Whoever keeps an object need not keep all masks of its image.
                mask=masks[slot][box.slices].copy(),
                latent_mean=scene.latent_mean[slot],
                latent_std=scene.latent_std[slot],
                kind=kind,
            )
        )
    return SceneObjects(objects, settled.labels, seen)


def check_shares(**values: float) -> None:
    """Raise ValueError, with its name, for the first value that is not in 0..1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; expected a share, 0 to 1")


def _spans(pixels: Box, seen: Box, share: float) -> bool:
    """Whether the pixels reach across more than this share of the seen image both ways."""
    return pixels.width > share * seen.width and pixels.height > share * seen.height


def _quantise(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Probabilities (K, H, W) to 0..255, rounded down so that no pixel's sum exceeds 255."""
    num_slots, height, width = masks.shape
    rows = np.ascontiguousarray(masks).reshape(num_slots * height, width)
    if not np.isfinite(cv2.sumElems(rows)[0]):
        raise ValueError("the model's masks are not finite (NaN or infinity)")
    # convertScaleAbs rounds to nearest; half a step less rounds down, but for 255 itself.
    return cv2.convertScaleAbs(rows, alpha=255.0, beta=-0.4999).reshape(masks.shape)


def _border(winners: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The outermost pixels (P,), clockwise from the upper left."""
    return np.concatenate([winners[:1].ravel(), winners[1:, -1:].ravel(),
                           winners[1:, :-1][-1:].ravel(), winners[1:-1, :1].ravel()])  # fmt: skip
