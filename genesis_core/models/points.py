"""What a depth image says, as channels for an encoder."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core.ops.native_library import native_library, pointers, runs_native, sizes

POINT_CHANNELS = 8
REACH_METRES = 0.5
"""Distance from the points' mean that becomes one; further than twice that is cut off."""
FARTHEST_METRES = 150.0
"""Depth beyond is unknown: numbers that stand for the sky, or for nothing. One of them would move
the mean of all points.
"""


def prepare() -> None:
    """Compile now rather than in the first call, where nothing is in the cache yet."""
    _library()


def back_project(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points in the camera's optical frame, and which of them are known: (B, 4, H, W) float32.

    Args:
        depth: (B, H, W) metres; 0, negative, NaN, infinite and beyond ``FARTHEST_METRES`` where
            unknown.
        intrinsics: (B, 4), fx, fy, cx, cy in pixels of the depth image.
    """
    depth = depth.float()
    valid = (depth > 0) & (depth <= FARTHEST_METRES)
    depth = torch.where(valid, depth, 0.0)
    height, width = depth.shape[1:]
    fx, fy, cx, cy = (each[:, None, None] for each in intrinsics.float().unbind(1))
    columns = torch.arange(width, device=depth.device, dtype=torch.float32)
    rows = torch.arange(height, device=depth.device, dtype=torch.float32)[:, None]
    x, y = (columns - cx) / fx * depth, (rows - cy) / fy * depth
    return torch.stack([x, y, depth, valid.float()], dim=1)


def point_features(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Channels that describe the surface at each pixel, whatever the distance of the whole scene.

    Points, centred on their mean and divided by ``REACH_METRES``; surface normals, from
    differences of smoothed points; the share of known points around, and whether there are any at
    the pixel. Unknown is zero everywhere.

    Args:
        points: (B, 4, S, S) from ``back_project``: metres, and 1 where known.
        size: height and width of the result; S is a multiple of it.

    Returns: (B, ``POINT_CHANNELS``, size, size), and (B,) whether an image has any known point: 1
    or 0.
    """
    points = points.float()
    stride = points.shape[-1] // size
    # At a finer scale neighbours are nearer, and noise would drown their difference.
    reach = max(1, size // 64)
    described = _native_features(points, size, stride, reach)
    if described is not None:
        return described
    with torch.autocast(points.device.type, enabled=False):
        known = points[:, 3:]
        places = torch.where(known > 0, points[:, :3], 0.0)
        if stride > 1:
            share = F.avg_pool2d(known, stride)
            places = F.avg_pool2d(places, stride) / share.clamp_min(1e-6)
            known = (share > 0).float()
        count = known.sum((2, 3), keepdim=True)
        centre = (places * known).sum((2, 3), keepdim=True) / count.clamp_min(1)
        centred = (places - centre) * known
        window = 2 * reach + 1
        share = F.avg_pool2d(known, window, 1, reach)
        smooth = F.avg_pool2d(centred, window, 1, reach) / share.clamp_min(1e-3)
        wide = F.pad(smooth, (reach,) * 4, mode="replicate")
        across = wide[..., reach:-reach, 2 * reach :] - wide[..., reach:-reach, : -2 * reach]
        down = wide[..., 2 * reach :, reach:-reach] - wide[..., : -2 * reach, reach:-reach]
        normals = torch.linalg.cross(across, down, dim=1)
        # On the CPU Tensor.norm takes 50 times as long.
        lengths = normals.square().sum(dim=1, keepdim=True).sqrt()
        normals = normals / lengths.clamp_min(1e-9) * known
        scaled = (centred / REACH_METRES).clamp(-2, 2)
        features = torch.cat([scaled, normals, known * share, known], dim=1)
    return features, (count[:, 0, 0, 0] > 0).float()


def _native_features(
    points: Tensor, size: int, stride: int, reach: int
) -> tuple[Tensor, Tensor] | None:
    """``point_features`` in C++, in channels last; None where that cannot be."""
    batch, whole = len(points), size * stride
    if not runs_native(points) or points.shape != (batch, 4, whole, whole) or not stride:
        return None
    library = _library()
    if library is None:
        return None
    points = points.contiguous()
    features = points.new_empty(batch, size, size, POINT_CHANNELS)
    present = points.new_empty(batch)
    library.describe_points(
        *pointers(points),
        *sizes(batch, size, stride, reach),
        ctypes.c_float(REACH_METRES),
        *pointers(features, present),
        torch.get_num_threads(),
    )
    return features.permute(0, 3, 1, 2), present


def _library() -> ctypes.CDLL | None:
    return native_library("points.cpp", "images with depth will take longer")
