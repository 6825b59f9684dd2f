"""What a slot's latent can be computed from beside its features: its mask's shape, and colours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MOMENTS = 5
"""Share of the image, row and column of the centre, spread along both."""
_REACH = 2.5
"""How far from its centre a thumbnail shows a slot, in spreads: a disk's edge is at 2."""

_PLACES = 3
"""Across a pixel of the thumbnail: points far apart would miss what is between them."""


class SlotFrames(NamedTuple):
    """Where B images' K slots are and how far they reach; all (B, K) float32, without gradient."""

    share: Tensor
    """Of the image, 0 to 1."""
    row: Tensor
    """Of the centre, -1 to 1."""
    column: Tensor
    spread_of_rows: Tensor
    """Standard deviation, in the same unit."""
    spread_of_columns: Tensor

    def moments(self) -> Tensor:
        """(B, K, MOMENTS): square root of the share, the centre, twice the spreads."""
        return torch.stack(
            [
                self.share.sqrt(),
                self.row,
                self.column,
                2 * self.spread_of_rows,
                2 * self.spread_of_columns,
            ],
            dim=2,
        )

    def places(self, side: int, least: float) -> Tensor:
        """Where a thumbnail of ``side`` pixels looks: (B, K, n, n, 2), column and row, -1 to 1.

        Around the centre, stretched so that slots of all sizes and proportions fill it alike; n is
        three times ``side``. A spread counts as ``least`` at least.
        """
        fine = _PLACES * side
        steps = torch.linspace(-_REACH, _REACH, fine, dtype=self.row.dtype, device=self.row.device)
        rows, columns = (
            centre[..., None] + spread.clamp_min(least)[..., None] * steps
            for centre, spread in (
                (self.row, self.spread_of_rows),
                (self.column, self.spread_of_columns),
            )
        )
        return torch.stack(
            [
                columns[:, :, None, :].expand(-1, -1, fine, -1),
                rows[:, :, :, None].expand(-1, -1, -1, fine),
            ],
            dim=4,
        )


def slot_frames(weights: Tensor) -> SlotFrames:
    """Where slots are, from how much each pixel counts for them, (B, K, H, W)."""
    with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
        height, width = weights.shape[2:]
        weights = weights.float()
        # By rows and by columns: sums of H + W numbers are cheaper than three of H * W.
        of_rows, of_columns = weights.sum(dim=3), weights.sum(dim=2)  # (B, K, H), (B, K, W)
        rows, columns = (
            torch.linspace(-1, 1, n, dtype=weights.dtype, device=weights.device)
            for n in (height, width)
        )
        mass = of_rows.sum(dim=2)
        centres, spreads = [], []
        for sums, places in ((of_rows, rows), (of_columns, columns)):
            centre = sums @ places / mass.clamp_min(1e-3)
            square = sums @ places.square() / mass.clamp_min(1e-3)
            centres.append(centre)
            spreads.append((square - centre.square()).clamp_min(0).sqrt())
        return SlotFrames(mass / (height * width), *centres, *spreads)


def mask_shape(masks: Tensor, frames: SlotFrames, side: int) -> Tensor:
    """Moments and a thumbnail of each mask: (B, K, MOMENTS + side * side) float32.

    The thumbnail shows the mask in its frame, minus one half. A pixel of it is the mean of nine
    places. No gradient reaches the masks.

    Args:
        masks: (B, K, H, W).
        frames: of the same slots.
        side: of the thumbnail, in pixels.
    """
    with torch.no_grad(), torch.autocast(masks.device.type, enabled=False):
        seen = _at(masks.float(), frames.places(side, 1 / masks.shape[2]))
        thumbnails = F.avg_pool2d(seen, _PLACES).flatten(2)
        return torch.cat([frames.moments(), thumbnails - 0.5], dim=2)


def mask_colours(images: Tensor, masks: Tensor, frames: SlotFrames, side: int) -> Tensor:
    """A thumbnail of what each mask shows: (B, K, C * side * side) float32.

    The image minus one half, times the mask, in the slot's frame: zero where the mask is not. A
    pixel of it is the mean of nine places. No gradient reaches images and masks.

    Args:
        images: (B, C, H, W) in [0, 1], of the masks' size or another one.
        masks: (B, K, H, W).
        frames: of the same slots.
        side: of the thumbnail, in pixels.
    """
    with torch.no_grad(), torch.autocast(masks.device.type, enabled=False):
        batch, slots = masks.shape[:2]
        places = frames.places(side, 1 / masks.shape[2])
        mask = _at(masks.float(), places)
        fine = mask.shape[-1]
        # All slots' places in one image, one below the other: it is not copied for each of them.
        colours = F.grid_sample(
            images.float() - 0.5,
            places.reshape(batch, slots * fine, fine, 2),
            padding_mode="zeros",
            align_corners=True,
        )
        colours = colours.unflatten(2, (slots, fine)).transpose(1, 2)  # (B, K, C, n, n)
        seen = (colours * mask[:, :, None]).flatten(0, 1)
        return F.avg_pool2d(seen, _PLACES).reshape(batch, slots, -1)


def masked_image(images: Tensor, masks: Tensor, side: int) -> Tensor:
    """What of an image each mask shows, and the mask: (B, K, (C + 1) * side * side) float32.

    The image minus one half, times the mask, and the mask minus one half, averaged to ``side``
    pixels a side. Things stay where they are in the image. No gradient reaches images and masks.

    Args:
        images: (B, C, H, W) in [0, 1].
        masks: (B, K, H, W).
        side: of the thumbnail, in pixels.
    """
    with torch.no_grad(), torch.autocast(masks.device.type, enabled=False):
        mask = masks.float()[:, :, None]
        colours = (images.float() - 0.5)[:, None] * mask
        seen = torch.cat([colours, mask - 0.5], dim=2).flatten(0, 1)
        return F.adaptive_avg_pool2d(seen, side).reshape(*masks.shape[:2], -1)


def _at(masks: Tensor, places: Tensor) -> Tensor:
    """Each mask at its places: (B, K, n, n)."""
    seen = F.grid_sample(
        masks.flatten(0, 1)[:, None],
        places.flatten(0, 1),
        padding_mode="zeros",
        align_corners=True,
    )
    return seen.reshape(*masks.shape[:2], *seen.shape[2:])
