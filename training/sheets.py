"""Picture sheets of what a model does: reconstructions, masks, components, generated scenes.

All functions return uint8 RGB (height, width, 3), for PNG files and TensorBoard alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import SlotOutput
from genesis_core.files import write_atomically
from training.datasets.layout import IGNORED, RGB

Picture = NDArray[np.uint8]

MIN_TILE = 96  # smaller images are enlarged by a whole factor, so that a caption fits above them
CAPTION_HEIGHT = 14
GAP = 4
BACKGROUND = 255
UNUSED = 235  # an unused slot is an empty light tile
CAPTION_COLOUR = (70, 70, 70)
OVERLAY_OPACITY = 0.55
OBJECT_TILE = (180, 240)  # height, width
DARK = 70
# Slot colours that stay apart when blended with a photo; more slots go round the hue circle.
PALETTE = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 110, 220),
    (255, 200, 25),
    (145, 30, 180),
    (70, 230, 230),
    (245, 130, 48),
    (250, 120, 220),
    (128, 128, 0),
    (0, 128, 128),
    (150, 80, 30),
    (190, 190, 190),
)


def reconstruction_sheet(
    images: Tensor, out: SlotOutput, truth: NDArray[np.integer] | None = None
) -> Picture:
    """What the model makes of images: three rows of tiles per image.

    Left: data and reconstruction; the segments of the attention and of the decoder masks, painted
    over the data; the ground truth, and the depth, if there are any. Right, slot by slot:
    attention mask, decoder mask, and component (the component's mean where its decoder mask is,
    fading to white). Black is 0 and white is 1 in a mask. A slot has the same colour in both
    segmentations.

    Args:
        images: (B, C, H, W) in [0, 1], RGB or RGB and depth.
        out: the model's output for these images; decoder tiles are left empty where it was not
            decoded.
        truth: (B, H, W) instance labels, 0 = background.
    """
    if out.log_attention is None:
        raise ValueError("these are samples from the prior: draw them with sample_sheet")
    pictures = to_pictures(images)
    attention = _masks(out.log_attention)
    decoder = None if out.log_masks is None else _masks(out.log_masks)
    rebuilt = None if out.reconstruction is None else to_pictures(out.reconstruction)
    components = _components(out)
    depth = images[:, RGB:].detach().float().cpu().numpy()  # (B, 0 or 1, H, W)
    used = out.used[:, : attention.shape[1]].cpu().numpy()
    rows = []
    for i, picture in enumerate(pictures):
        top = [_tile("data", picture), _tile("reconstruction", _at(rebuilt, i), picture)]
        middle = [
            _tile("attention segments", overlay(picture, attention[i].argmax(0))),
            _tile(
                "decoder segments",
                None if decoder is None else overlay(picture, decoder[i].argmax(0)),
                picture,
            ),
        ]
        labels = None if truth is None else overlay(picture, np.asarray(truth[i]), background=True)
        bottom = [
            _tile("" if labels is None else "ground truth", labels, picture),
            _tile("depth", depth[i, 0]) if depth.shape[1] else _tile("", None, picture),
        ]
        for slot in range(attention.shape[1]):
            name = f"{slot + 1}" if used[i, slot] else f"{slot + 1} (unused)"
            shown = used[i, slot]
            mask = attention[i, slot] if shown else None
            top.append(_tile(f"attention {name}", mask, picture))
            mask = decoder[i, slot] if shown and decoder is not None else None
            middle.append(_tile(f"decoder {name}", mask, picture))
            component = components[i, slot] if shown and components is not None else None
            bottom.append(_tile(f"component {name}", component, picture))
        rows += [top, middle, bottom]
    return _assemble(rows, rows_per_group=3)


def sample_sheet(out: SlotOutput) -> Picture:
    """Generated scenes, one per row: the scene, its segments, then component by component.

    Args:
        out: what ``model.sample(n)`` returns.
    """
    components = _components(out)
    if out.reconstruction is None or out.log_masks is None or components is None:
        raise ValueError("the scenes are not decoded: there is nothing to draw")
    scenes, masks = to_pictures(out.reconstruction), _masks(out.log_masks)
    rows = []
    for scene, mask, parts in zip(scenes, masks, components, strict=True):
        row = [_tile("scene", scene), _tile("segments", overlay(scene, mask.argmax(0)))]
        row += [_tile(f"component {slot + 1}", part) for slot, part in enumerate(parts)]
        rows.append(row)
    return _assemble(rows, rows_per_group=1)


class SegmentedImage(NamedTuple):
    """An image with objects, for ``object_sheet``.

    image: (H, W, 3) uint8 RGB. truth, found: (H, W) labels, 0 = background, 255 = not scored.
    caption: what is said of the result.
    """

    name: str
    image: Picture
    truth: NDArray[np.integer]
    found: NDArray[np.integer]
    caption: str


def object_sheet(images: Sequence[SegmentedImage]) -> Picture:
    """A row for each image: itself, the true objects, the found ones, and these over the image."""
    rows = []
    for item in images:
        image = _fitted(item.image, cv2.INTER_AREA)
        truth, found = (_fitted(labels.astype(np.uint8)) for labels in (item.truth, item.found))
        found = np.where(truth == IGNORED, IGNORED, found).astype(np.uint8)
        visible = np.where(found == IGNORED, 0, found)
        rows.append(
            [
                _tile(item.name, image),
                _tile(f"truth: {_count(item.truth)} objects", painted(truth)),
                _tile(f"found: {_count(item.found)} objects", painted(found)),
                _tile(item.caption, overlay(image, visible, background=True)),
            ]
        )
    return _assemble(rows, rows_per_group=1)


def _count(labels: NDArray[np.integer]) -> int:
    return int(np.setdiff1d(labels, [0, IGNORED]).size)


def painted(labels: NDArray[np.uint8]) -> Picture:
    """Objects in their colours, the background dark, what is not scored black."""
    colours = np.zeros((256, 3), np.uint8)
    colours[0] = DARK
    colours[1:IGNORED] = slot_colours(IGNORED - 1)
    return colours[labels]


def _fitted(array: NDArray[np.uint8], interpolation: int = cv2.INTER_NEAREST) -> NDArray[np.uint8]:
    """An image or a label image (H, W[, C]) as large as a tile allows, its rest white or black."""
    height, width = array.shape[:2]
    scale = min(OBJECT_TILE[0] / height, OBJECT_TILE[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.full((*OBJECT_TILE, *array.shape[2:]), BACKGROUND, np.uint8)
    small = cv2.resize(array, size, interpolation=interpolation)
    tile[: size[1], : size[0]] = small
    return tile


def overlay(picture: Picture, labels: NDArray[np.integer], background: bool = False) -> Picture:
    """Paint segments over a picture, with white lines between them.

    Args:
        picture: uint8 RGB (H, W, 3).
        labels: (H, W), or smaller; label k has the k-th colour. Negative labels are left as they
            are.
        background: label 0 is background: left as it is, and colours start at label 1.
    """
    labels = _as_large_as(labels.astype(np.int16), picture)
    picture, labels = _enlarge(picture), _enlarge(labels)
    first = 1 if background else 0
    painted = slot_colours(int(labels.max(initial=0)) + 1)[np.maximum(labels - first, 0)]
    blended = (1 - OVERLAY_OPACITY) * picture + OVERLAY_OPACITY * painted
    result = np.where((labels < first)[..., None], picture, blended)
    edges = np.zeros(labels.shape, bool)
    edges[1:] |= labels[1:] != labels[:-1]
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    result[edges] = 255
    rounded: Picture = result.round().astype(np.uint8)
    return rounded


def slot_colours(count: int) -> NDArray[np.uint8]:
    """(count, 3) RGB: the palette, then hues a golden angle apart."""
    extra = max(count - len(PALETTE), 0)
    hsv = np.full((1, extra, 3), (0, 170, 230), np.uint8)
    hsv[0, :, 0] = np.arange(extra) * 68.75 % 180  # OpenCV halves degrees to fit a byte
    more = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0] if extra else hsv[0]
    colours: NDArray[np.uint8] = np.concatenate([np.array(PALETTE, np.uint8), more])[:count]
    return colours


def to_pictures(images: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) in [0, 1] to uint8 RGB (N, H, W, 3); depth is left out."""
    array = images[:, :RGB].detach().float().clamp(0, 1).mul(255).round().byte()
    result: NDArray[np.uint8] = array.permute(0, 2, 3, 1).cpu().numpy()
    return result


def write_png(path: Path, picture: Picture) -> None:
    """Write a picture, in a folder that is made if need be; a viewer never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    write_atomically(path, data.tobytes())


def _masks(log_masks: Tensor) -> NDArray[np.float32]:
    """(B, K, 1, H, W) log-probabilities to (B, K, H, W) probabilities."""
    result: NDArray[np.float32] = log_masks.detach().float().exp()[:, :, 0].cpu().numpy()
    return result


def _components(out: SlotOutput) -> NDArray[np.uint8] | None:
    """(B, K, H, W, 3): each component's mean, fading to white outside its mask."""
    if out.means is None or out.log_masks is None:
        return None
    masks = out.log_masks.exp()
    faded = masks * out.means + (1 - masks)
    pictures = to_pictures(faded.flatten(0, 1))
    return pictures.reshape(*masks.shape[:2], *pictures.shape[1:])


def _at(pictures: NDArray[np.uint8] | None, index: int) -> Picture | None:
    return None if pictures is None else pictures[index]


def _tile(
    caption: str,
    content: NDArray[Any] | None,
    like: Picture | None = None,
) -> Picture:
    """A captioned tile: a picture, a mask in [0, 1], or nothing (None), as big as ``like``."""
    if content is None:
        assert like is not None
        content = np.full_like(like, UNUSED if caption else BACKGROUND)
    elif like is not None:
        content = _as_large_as(content, like)
    if content.ndim == 2:
        content = (255 * content[..., None].repeat(3, axis=2)).round().astype(np.uint8)
    content = _enlarge(content)
    strip = np.full((CAPTION_HEIGHT, content.shape[1], 3), BACKGROUND, np.uint8)
    scale = 0.35
    width = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
    scale *= min(1.0, content.shape[1] / max(width, 1))
    place = (0, CAPTION_HEIGHT - 4)
    cv2.putText(
        strip, caption, place, cv2.FONT_HERSHEY_SIMPLEX, scale, CAPTION_COLOUR, 1, cv2.LINE_AA
    )
    return np.concatenate([strip, content])


def _as_large_as(array: NDArray[Any], like: Picture) -> NDArray[Any]:
    """(H, W[, C]) at the height and width of a picture: masks may be smaller than images."""
    height, width = like.shape[:2]
    if array.shape[:2] == (height, width):
        return array
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST)


def _enlarge(array: NDArray[Any]) -> NDArray[Any]:
    """Repeat pixels of (H, W[, C]) until the width reaches MIN_TILE."""
    factor = -(-MIN_TILE // array.shape[1])
    return array.repeat(factor, axis=0).repeat(factor, axis=1)


def _assemble(rows: Sequence[Sequence[Picture]], rows_per_group: int) -> Picture:
    """Tiles to one sheet, with wider gaps between groups of rows."""
    height, width = rows[0][0].shape[:2]
    groups = (len(rows) - 1) // rows_per_group
    sheet = np.full(
        (
            len(rows) * (height + GAP) + groups * 3 * GAP + GAP,
            max(map(len, rows)) * (width + GAP) + GAP,
            3,
        ),
        BACKGROUND,
        np.uint8,
    )
    for i, row in enumerate(rows):
        y = GAP + i * (height + GAP) + (i // rows_per_group) * 3 * GAP
        for j, tile in enumerate(row):
            x = GAP + j * (width + GAP)
            sheet[y : y + height, x : x + width] = tile
    return sheet
