"""The shape of a slot's mask, in numbers that a latent can be computed from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOMENTS = 5
"""Share of the image, row and column of the centre, spread along both."""
_REACH = 2.5
"""How far from its centre a thumbnail shows a mask, in spreads: a disk's edge is at 2."""

_PLACES = 3
"""Across a pixel of the thumbnail: points far apart would miss what is between them."""


def mask_shape(masks: Tensor, weights: Tensor, side: int) -> Tensor:
    """Moments and a thumbnail of each mask: (B, K, MOMENTS + side * side) float32.

    The moments are the square root of the mask's share of the image, row and column of its centre
    (-1 to 1), and twice its standard deviation along both. The thumbnail shows the mask around its
    centre, stretched so that masks of all sizes and proportions fill it alike, minus one half. A
    pixel of it is the mean of nine places.

    No gradient reaches the masks.

    Args:
        masks: (B, K, H, W).
        weights: (B, K, H, W), how much each pixel counts for the moments.
        side: of the thumbnail, in pixels.
    """
    with torch.no_grad(), torch.autocast(masks.device.type, enabled=False):
        batch, slots, height, width = masks.shape
        masks, weights = masks.float(), weights.float()
        # By rows and by columns: sums of H + W numbers are cheaper than three of H * W.
        of_rows, of_columns = weights.sum(dim=3), weights.sum(dim=2)  # (B, K, H), (B, K, W)
        rows, columns = (torch.linspace(-1, 1, n, device=masks.device) for n in (height, width))
        mass = of_rows.sum(dim=2)
        centres, spreads = [], []
        for sums, places in ((of_rows, rows), (of_columns, columns)):
            centre = sums @ places / mass.clamp_min(1e-3)
            square = sums @ places.square() / mass.clamp_min(1e-3)
            centres.append(centre)
            spreads.append((square - centre.square()).clamp_min(0).sqrt())
        share = (mass / (height * width)).sqrt()
        moments = torch.stack([share, *centres, *(2 * spread for spread in spreads)], dim=2)
        fine = _PLACES * side
        steps = torch.linspace(-_REACH, _REACH, fine, device=masks.device)
        least = 1 / height  # half a pixel
        at_rows, at_columns = (
            centre.flatten()[:, None] + spread.flatten().clamp_min(least)[:, None] * steps
            for centre, spread in zip(centres, spreads, strict=True)
        )
        places = torch.stack(
            [
                at_columns[:, None, :].expand(-1, fine, -1),
                at_rows[:, :, None].expand(-1, -1, fine),
            ],
            dim=3,
        )
        thumbnails = F.grid_sample(
            masks.reshape(batch * slots, 1, height, width),
            places,
            padding_mode="zeros",
            align_corners=True,
        )
        thumbnails = F.avg_pool2d(thumbnails, _PLACES)
        return torch.cat([moments, thumbnails.reshape(batch, slots, side * side) - 0.5], dim=2)
