"""Where the objects of an image are and how large, from a depth image (no ROS).

The depth image is registered to the colour image: it shows the same view, pixel by pixel, though
it may have fewer or more of them. Depth is the distance along the optical axis [m] and NaN,
infinite, zero, negative or beyond 150 m where unknown. Points are in the camera's optical frame: x
right, y down, z forward.

Masks are never exact, and depth cameras put pixels between an object and what is behind it. So
stray fragments of a mask are left out, the object's range of depth is taken from the pixels where
depth does not jump, and what the mask holds outside that range is not the object (find_surface).

Measuring stands here twice: in C++ (native/surfaces.cpp), and in array operations for machines
without a compiler, where it takes several times as long.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch

from genesis_core.models.points import FARTHEST_METRES
from genesis_core.ops.native_library import array_pointers, native_library, sizes
from genesis_core.perception.lens import Distortion, Rays, pixel_rays

_Pixel = TypeVar("_Pixel", bound=np.generic)

MIN_PIXELS = 20
"""Fewer known depth pixels say nothing about an object."""

NEAREST, FARTHEST = 0.02, FARTHEST_METRES
"""In metres. A median distance beyond these is a mistake of the unit, not a scene. A pixel beyond
the latter is unknown.
"""
_UNIT_STEP = 8  # px
_WIDEST, _NARROWEST = 0.04, 60.0
"""Focal length by the image's width, of a view of 170 degrees and of one of 1 degree."""
_MOST_SQUEEZED = 3.0  # between the focal lengths in x and y
_ROUNDING = 1e-6  # of a matrix that was inverted twice, say
_STEEPEST = math.tan(math.radians(84.0))  # of a surface against the image plane; more is a jump
_LEAST_JUMP = 0.01  # m; less may be noise
_BIN = 0.01  # of the distance: resolution at which ranges of depth are told apart
_LEAST_BIN = 1e-6  # m
_THIN = 0.02  # of the fullest bin's pixels; an emptier bin is a gap
_MOST_BINS = 10_000
_FRAGMENT = 0.1  # of a mask's largest part; smaller parts of it are stray
_TRIM = 0.002  # share of the points that does not count at either end of an axis
_SAMPLES = 4096  # px; of a larger object, every second, third... row and column may be enough


class Measurement(NamedTuple):
    """What depth says about one object: only of the surface that the camera sees."""

    position: npt.NDArray[np.float64]  # (3,) mean of the visible surface's points [m]
    size: npt.NDArray[np.float64]  # (3,) full extent of the visible surface along x, y, z [m]
    box_centre: npt.NDArray[np.float64]  # (3,) middle of that extent [m]


def prepare() -> None:
    """Compile now rather than in the first call, where nothing is in the cache yet."""
    _library()


def locate(
    labels: npt.NDArray[np.integer],
    wanted: Sequence[int],
    depth: npt.NDArray[np.float32],
    intrinsics: npt.NDArray[np.float64],
    distortion: Distortion | None = None,
) -> list[Measurement | None]:
    """Position and size of the visible surface of each wanted object.

    Args:
        labels: (H, W), the label of each pixel of the colour image.
        wanted: labels to measure.
        depth: (H', W') float32 [m], of the same view.
        intrinsics: pinhole matrix (3, 3) of the depth image [px], the centre of the upper left
            pixel being (0, 0).
        distortion: of the lens; None: the images are rectified, or have none.

    Returns:
        A measurement of each wanted object, in their order. None where fewer than MIN_PIXELS pixels
        of an object's surface are known.

    Raises:
        TypeError: the depth is of whole numbers: millimetres, perhaps.
        ValueError: the depth is in another unit than metres (`check_unit`), labels and depth have
            different shapes (aspect ratios), no camera has these intrinsics, or the distortion is
            unknown.
    """
    if not np.issubdtype(depth.dtype, np.floating):
        raise TypeError(
            f"the depth is {depth.dtype}; expected float32 in metres (millimetres of a depth "
            "camera: depth.astype(numpy.float32) / 1000)"
        )
    check_unit(depth)
    check_intrinsics(intrinsics, depth.shape)
    check_same_view(depth.shape, labels.shape)
    labels = resize_nearest(labels, depth.shape)
    rays = pixel_rays(intrinsics, distortion, depth.shape)
    focal_length = float(intrinsics[0, 0])
    measured = _native_locate(labels, wanted, depth, rays, focal_length)
    if measured is None:
        measured = [_measure(labels == label, depth, rays, focal_length) for label in wanted]
    return measured


def to_points(
    depth: npt.NDArray[np.float32],
    intrinsics: npt.NDArray[np.float64],
    distortion: Distortion | None = None,
) -> npt.NDArray[np.float32]:
    """The point that each pixel shows, (H, W, 3) [m], NaN where the depth is unknown.

    The arguments are those of `locate`.
    """
    rays = pixel_rays(intrinsics, distortion, depth.shape)
    z = np.where(known(depth), depth, np.float32(np.nan))
    return np.stack([z * rays.x, z * rays.y, z], axis=-1, dtype=np.float32)


def known(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Where depth is a distance: positive and no further than ``FARTHEST``."""
    return (depth > 0) & (depth <= FARTHEST)


def check_depth(depth: npt.NDArray[np.float32]) -> None:
    """Check that a depth image says something, and that it is in metres.

    Args:
        depth: (H, W) [m].

    Raises:
        ValueError: it has another shape, no known pixel, or another unit than metres.
    """
    if not np.issubdtype(depth.dtype, np.floating):
        raise ValueError(f"the depth is {depth.dtype}; expected float32 in metres")
    if depth.ndim != 2 or depth.size == 0:
        raise ValueError(f"the depth has shape {depth.shape}; expected (H, W) with H, W >= 1")
    if not check_unit(depth):
        raise ValueError(
            "no pixel of the depth image is known: 0 of "
            f"{depth.size} are usable (all are 0, NaN or infinite)"
        )


def check_unit(depth: npt.NDArray[np.float32]) -> bool:
    """Check that a depth image (H, W) is in metres; whether any pixel of it is known.

    Raises:
        ValueError: no scene is as far away, or as near. Numbers that stand for the sky count, too:
            more than half of them look like millimetres.
    """
    median = median_distance(depth)
    if median is None:
        return False
    if median > FARTHEST:
        raise ValueError(
            f"half of the depth is beyond {median:.0f} m: are these millimetres? Expected metres"
        )
    if median < NEAREST:
        raise ValueError(
            f"half of the depth is nearer than {median * 1e3:.1f} mm: are these metres? They were "
            "taken for a smaller unit"
        )
    return True


def check_intrinsics(matrix: object, shape: tuple[int, ...]) -> None:
    """Check that a pinhole matrix can be that of a camera with images of a shape.

    Args:
        matrix: (3, 3) array [px].
        shape: H, W of the image.

    Raises:
        ValueError: it has another form, or no camera has such a matrix.
    """
    if not isinstance(matrix, np.ndarray) or matrix.shape != (3, 3):
        found = getattr(matrix, "shape", type(matrix).__name__)
        raise ValueError(f"the intrinsics are {found}; expected an array (3, 3) in pixels")
    if fault := intrinsics_fault(matrix, (shape[0], shape[1])):
        raise ValueError(f"the intrinsics are no camera's ({fault})")


def intrinsics_fault(matrix: npt.NDArray[np.float64], size: tuple[int, int]) -> str | None:
    """Why a matrix (3, 3) cannot be that of a camera with images of this size (H, W) [px]."""
    height, width = size
    (focal_x, focal_y), (centre_x, centre_y) = np.diagonal(matrix)[:2], matrix[:2, 2]
    told = f"fx {focal_x:g}, fy {focal_y:g}, cx {centre_x:g}, cy {centre_y:g}"
    if not np.isfinite(matrix).all():
        return f"{told}: not finite"
    if not (focal_x > 0 and focal_y > 0):
        return f"{told}: no focal length"
    # A last number of 0 is one that a driver has left out.
    rest = [matrix[1, 0], *matrix[2, :2], matrix[2, 2] and matrix[2, 2] - 1]
    if not np.allclose(rest, 0, atol=_ROUNDING):
        rows = ", ".join(f"{a:g} {b:g} {c:g}" for a, b, c in matrix)
        return f"its rows are {rows}; expected fx 0 cx, 0 fy cy, 0 0 1: is it transposed?"
    if not (
        _WIDEST <= focal_x / width <= _NARROWEST
        and 1 / _MOST_SQUEEZED <= focal_x / focal_y <= _MOST_SQUEEZED
    ):
        return f"{told}: no camera of {width}x{height} pixels has such focal lengths"
    if not (-width <= centre_x <= 2 * width and -height <= centre_y <= 2 * height):
        return f"{told}: the centre is far outside of {width}x{height} pixels"
    return None


def median_distance(depth: npt.NDArray[np.float32]) -> float | None:
    """About the median of all finite, positive numbers of a depth image (H, W); None: no such."""
    # A sample is enough for a unit; sparse depth may have nothing in it.
    values = _numbers(depth[::_UNIT_STEP, ::_UNIT_STEP])
    if not len(values):
        values = _numbers(depth)
    return float(np.median(values)) if len(values) else None


def _numbers(depth: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The finite, positive ones (N,), those beyond any scene included: they tell the unit."""
    return depth[(depth > 0) & (depth < np.inf)]


def resize_nearest(image: npt.NDArray[_Pixel], shape: tuple[int, ...]) -> npt.NDArray[_Pixel]:
    """An image (H, W), sampled at the pixels of another size.

    Args:
        image: (H, W) labels, truth values or depth.
        shape: height and width of the result, about as wide for its height (`check_same_view`).
    """
    if image.shape == tuple(shape):
        return image
    (height, width), (new_height, new_width) = image.shape, shape
    # Pixel centres; OpenCV's nearest neighbour takes the upper left of the pixels in question.
    rows = ((np.arange(new_height) + 0.5) * (height / new_height)).astype(int)
    columns = ((np.arange(new_width) + 0.5) * (width / new_width)).astype(int)
    return image[rows[:, np.newaxis], columns]


def check_same_view(depth: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Check by their shapes, (H', W') and (H, W), that a depth image may show what an image does.

    Raises:
        ValueError: their aspect ratios differ by more than 2%.
    """
    if not 0.98 <= (depth[0] * image[1]) / (depth[1] * image[0]) <= 1.02:
        raise ValueError(
            f"the depth is {depth[1]}x{depth[0]}, the image {image[1]}x{image[0]}: they cannot "
            "show the same view; register the depth to the colour camera"
        )


def scale_intrinsics(
    matrix: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The pinhole matrix of an image that is enlarged.

    The upper left pixel's corner stays in place: (-0.5, -0.5), as its centre is (0, 0).

    Args:
        matrix: (3, 3), of the image as it was.
        scale: (2,), the factors in x and y.

    Returns:
        (3, 3).
    """
    scaled = np.array(matrix, np.float64)
    scaled[:2, 2] = (scaled[:2, 2] + 0.5) * scale - 0.5
    scaled[:2, :2] *= scale[:, np.newaxis]
    return scaled


def find_surface(
    mask: npt.NDArray[np.bool_], depth: npt.NDArray[np.float32], focal_length: float
) -> npt.NDArray[np.bool_]:
    """The pixels of a mask (H, W) that show the object's surface, as far as depth can tell."""
    mask = _without_fragments(mask)
    step = math.ceil(math.sqrt(np.count_nonzero(mask) / _SAMPLES))
    surface = _surface(step, mask, depth, focal_length) if step else mask
    if step > 1 and np.count_nonzero(surface) < MIN_PIXELS:
        # Sparse depth: the pixels that are known may lie between those that were looked at.
        surface = _surface(1, mask, depth, focal_length)
    return surface


def _native_locate(
    labels: npt.NDArray[np.integer],
    wanted: Sequence[int],
    depth: npt.NDArray[np.float32],
    rays: Rays,
    focal_length: float,
) -> list[Measurement | None] | None:
    """``locate`` in C++; None without a compiler, or if numbers are not of the usual types."""
    library = _library()
    usual = labels.dtype == np.uint8 and depth.dtype == np.float32
    if library is None or not usual or any(not 0 <= label < 256 for label in wanted):
        return None
    jump, bins = (_LEAST_JUMP, _STEEPEST), (_BIN, _LEAST_BIN, _THIN, _MOST_BINS)
    rules = np.array([FARTHEST, MIN_PIXELS, _SAMPLES, _FRAGMENT, *jump, *bins, _TRIM], np.float64)
    labels, depth = np.ascontiguousarray(labels), np.ascontiguousarray(depth)
    each = [np.broadcast_to(part, depth.shape) for part in rays]
    size = each[0].itemsize
    steps = np.array([stride // size for part in each for stride in part.strides], np.int64)
    labelled, found = np.array(wanted, np.uint8), np.zeros(len(wanted), np.uint8)
    results = np.empty((len(wanted), 3, 3))
    library.measure_surfaces(
        *array_pointers(rules, labels, depth),
        *sizes(*depth.shape),
        *array_pointers(*each),
        each[0].dtype == np.float64,
        *array_pointers(steps),
        ctypes.c_double(focal_length),
        *array_pointers(labelled),
        *sizes(len(wanted)),
        *array_pointers(results, found),
        torch.get_num_threads(),
    )
    return [
        Measurement(*result) if there else None
        for result, there in zip(results, found, strict=True)
    ]


def _library() -> ctypes.CDLL | None:
    return native_library("surfaces.cpp", "positions and sizes will take longer")


def _measure(
    mask: npt.NDArray[np.bool_], depth: npt.NDArray[np.float32], rays: Rays, focal_length: float
) -> Measurement | None:
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    # One more on each side shows whether depth jumps at the mask's edge.
    crop = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
    depth = depth[crop]
    rays_x, rays_y = (np.broadcast_to(part, mask.shape)[crop] for part in rays)
    covered = np.isfinite(rays_x) & np.isfinite(rays_y)  # by the model of the lens
    surface = find_surface(mask[crop] & covered, depth, focal_length)
    if np.count_nonzero(surface) < MIN_PIXELS:
        return None
    z = depth[surface].astype(np.float64)
    points = np.stack([z * rays_x[surface], z * rays_y[surface], z])
    trimmed = round(_TRIM * len(z))
    ordered = np.partition(points, (trimmed, len(z) - 1 - trimmed), axis=1)
    low, high = ordered[:, trimmed], ordered[:, -1 - trimmed]
    return Measurement(points.mean(axis=1), high - low, (low + high) / 2)


def _surface(
    step: int, mask: npt.NDArray[np.bool_], depth: npt.NDArray[np.float32], focal_length: float
) -> npt.NDArray[np.bool_]:
    """The mask's pixels in the range of depth that each second, third... row and column tells."""
    good = known(depth)
    surface = mask & good
    sampled = (slice(None, None, step),) * 2
    z, reliable, inside = depth[sampled], good[sampled], surface[sampled]
    if np.count_nonzero(inside) < MIN_PIXELS:
        return np.zeros_like(mask)
    jumps = _jumps(z, reliable, focal_length / step)
    if step > 1:
        # Between pixels far apart depth may jump that does not beside them; between pixels side by
        # side noise may look steep.
        jumps &= _jumps(depth, good, focal_length)[sampled]
    sure = inside & ~jumps
    if np.count_nonzero(sure) < MIN_PIXELS:  # too small or too sparse to be choosy
        sure = inside
    near, far = _main_range(z, sure, focal_length / step)
    return surface & (depth >= near) & (depth <= far)


def _without_fragments(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask's larger parts; an object that something hides in the middle has several."""
    count, parts, facts, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    if count <= 2:  # nothing, the background being a part, or one piece
        return mask
    areas = facts[:, cv2.CC_STAT_AREA]
    kept = areas >= _FRAGMENT * areas[1:].max()
    kept[0] = False
    return kept[parts]


def _jumps(
    depth: npt.NDArray[np.float32], good: npt.NDArray[np.bool_], focal_length: float
) -> npt.NDArray[np.bool_]:
    """Where depth changes more between neighbours than on any surface that a camera can see."""
    around = np.ones((3, 3), np.uint8)
    farthest = cv2.dilate(np.where(good, depth, np.float32(0)), around)
    nearest = cv2.erode(np.where(good, depth, np.float32(1e9)), around)
    return farthest - nearest > _allowed(nearest, 2, focal_length)


def _allowed(
    nearest: npt.NDArray[np.float32], pixels: int, focal_length: float
) -> npt.NDArray[np.float32]:
    """How much depth may change over some pixels of a surface that a camera can see [m]."""
    slope = np.float32(pixels * _STEEPEST / focal_length)
    return np.maximum(np.float32(_LEAST_JUMP), nearest * slope)


def _main_range(
    depth: npt.NDArray[np.float32], sure: npt.NDArray[np.bool_], focal_length: float
) -> tuple[float, float]:
    """Nearest and farthest depth of the range, without a gap in it, that holds most sure pixels.

    If another holds half as many, the nearest of them: what is behind an object gets into its mask
    more often than what is in front, and objects have more missing depth than walls.
    """
    z = depth[sure]
    low = float(z.min())
    width = max(_BIN * float(np.median(z)), _LEAST_BIN)
    bins = np.full(depth.shape, -1)
    bins[sure] = np.minimum((z - low) / width, _MOST_BINS)
    counts = np.bincount(bins[sure])
    # On a surface that is seen at a low angle neighbours are bins apart: that is no gap.
    lower, higher, rise = _slopes(depth, bins, focal_length)
    starts, ends = (np.bincount(at, minlength=len(counts)) for at in (lower + 1, higher))
    thin = counts + np.cumsum(starts - ends) < max(1.0, _THIN * counts.max())
    counts[thin] = 0
    ranges = np.cumsum(thin)  # the same number from one thin bin to the next
    sums = np.bincount(ranges, weights=counts)
    chosen = (sums >= 0.5 * sums.max()).argmax()
    (occupied,) = np.nonzero((ranges == chosen) & ~thin)
    first, last = occupied[0], occupied[-1]
    # The range's own ends are thin, too; and the next row may be as far away as the one before.
    before, after = (
        max(width, float(at_end.mean(dtype=np.float64)) if len(at_end) else 0.0)
        for at_end in (rise[lower == first], rise[higher == last])
    )
    return low + float(first) * width - before, low + float(last + 1) * width + after


def _slopes(
    depth: npt.NDArray[np.float32], bins: npt.NDArray[np.int64], focal_length: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Neighbours with other bins between theirs, on a surface that is seen at a low angle.

    There depth goes on changing, which it does not beside an edge.

    Returns:
        Of each two, the nearer one's bin, the farther one's and the difference of depth [m].
    """
    found = []
    for axis in (0, 1):
        at = np.moveaxis(bins, axis, 0)
        z = np.where(at >= 0, np.moveaxis(depth, axis, 0), np.float32(np.nan))
        change = z[1:] - z[:-1]
        joined = abs(change) <= _allowed(np.minimum(z[1:], z[:-1]), 1, focal_length)
        change = np.pad(np.where(joined, change, np.float32(0)), ((2, 2), (0, 0)))
        this = change[2:-2]
        before_last, before, after, after_next = (
            change[start : len(this) + start] * np.sign(this) >= abs(this) / 2
            for start in (0, 1, 3, 4)
        )
        goes_on = (before & (before_last | after)) | (after & after_next)
        slope = (this != 0) & goes_on & (abs(at[1:] - at[:-1]) > 1)
        pair = np.sort([at[:-1][slope], at[1:][slope]], axis=0)
        found.append((*pair, abs(this[slope])))
    lower, higher, rise = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return lower, higher, rise
