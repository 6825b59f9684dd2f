"""ReLU(GroupNorm(x)) as Triton kernels, forward and backward, for GPUs.

PyTorch's GroupNorm changes the layout of a map that is stored channels last, computes in float32
under autocast, and leaves the ReLU and the interleaving of the decoder's phases to passes of their
own. Here a map is read twice and written once on the way forward, and read twice (with its
gradient) and written once on the way back, in its own precision; sums and arithmetic are float32.

A map is (N, H, W, P * C): N images of H x W pixels, of each pixel P phases of C channels. With
P = 4 the phases are a 2 x 2 block of pixels (row by row), which the result (N, 2H, 2W, C) takes
apart. All phases of a channel belong to the channel's group.

The pixels of an image are shared by several programs, each of which leaves partial results to a
second kernel: nothing depends on the order in which programs run, so results repeat exactly.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 4096  # numbers that a program holds at a time: 32 for each of its 128 threads
_PARTS = 128  # of an image, at most, that leave partial results
_LARGEST_DEPTH = 1024  # phases times channels


class _Plan(NamedTuple):
    """How an image is divided among programs.

    Attributes:
        pixels: of an image.
        block: pixels of a tile.
        tiles: of an image.
        part_tiles: of a part of an image.
        parts: of an image.
        tile: what kernels that work on tiles are compiled for.
        joining: what kernels that join the partial results of a group are compiled for.
    """

    pixels: int
    block: int
    tiles: int
    part_tiles: int
    parts: int
    tile: dict[str, int]
    joining: dict[str, int]

    @classmethod
    def of(cls, x: Tensor, groups: int) -> _Plan:
        _, height, width, phases, channels = x.shape
        pixels = height * width
        padded = triton.next_power_of_2(phases * channels)
        block = min(_TILE // padded, triton.next_power_of_2(pixels))
        tiles = triton.cdiv(pixels, block)
        part_tiles = triton.cdiv(tiles, _PARTS)
        parts = triton.cdiv(tiles, part_tiles)
        shape = {"PHASES": phases, "CHANNELS": channels, "GROUPS": groups}
        joining = {
            "ROWS": triton.next_power_of_2(parts * phases),
            "PER_GROUP": triton.next_power_of_2(channels // groups),
        }
        tile = {"PADDED": padded, "BLOCK": block}
        return cls(pixels, block, tiles, part_tiles, parts, shape | tile, shape | joining)

    def partial(self, x: Tensor) -> Tensor:
        """Room for two numbers of each part, phase and channel: (N, parts, 2, P * C) float32."""
        depth = self.tile["PHASES"] * self.tile["CHANNELS"]
        return x.new_empty(len(x), self.parts, 2, depth, dtype=torch.float32)


def fits(depth: int) -> bool:
    """Whether a tile of maps with so many numbers per pixel (phases times channels) can be held."""
    return depth <= _LARGEST_DEPTH


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU(GroupNorm(x)), and the groups' means and inverse deviations.

    Args:
        x: (N, H, W, P, C), contiguous; P is 1 or 4.
        weight, bias: (C,) float32.

    Returns:
        (N, H, W, C) or, with 4 phases, (N, 2H, 2W, C), of x's type; two tensors (N, G) float32.
    """
    plan = _Plan.of(x, groups)
    images, height, width, phases, channels = x.shape
    side = 2 if phases == 4 else 1
    y = x.new_empty(images, side * height, side * width, channels)
    partial = plan.partial(x)
    mean, rstd = (x.new_empty(images, groups, dtype=torch.float32) for _ in range(2))
    with _on(x):
        _moments[images, plan.parts](x, partial, plan.pixels, plan.part_tiles, **plan.tile)
        _join_moments[images, groups](
            partial, mean, rstd, plan.pixels, plan.parts, plan.block * plan.part_tiles, eps,
            **plan.joining,
        )  # fmt: skip
        _normalise[images, plan.tiles](
            x, weight, bias, mean, rstd, y, plan.pixels, width, **plan.tile
        )
    return y, mean, rstd


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias.

    Args:
        gradient: of y, contiguous and of x's type.
        x, weight, bias, mean, rstd: as given to ``forward``, or by it.
    """
    images, groups = mean.shape
    plan = _Plan.of(x, groups)
    width, channels = x.shape[2], x.shape[4]
    x_gradient = torch.empty_like(x)
    partial = plan.partial(x)
    affine = x.new_empty(images, 2, channels, dtype=torch.float32)
    sums = x.new_empty(images, 2, groups, dtype=torch.float32)
    given = gradient, x, weight, bias, mean, rstd
    with _on(x):
        _slopes[images, plan.parts](
            *given, partial, plan.pixels, width, plan.part_tiles, **plan.tile
        )
        _join_slopes[images, groups](
            partial, weight, affine, sums, plan.pixels, plan.parts, **plan.joining
        )
        _differentiate[images, plan.tiles](
            *given, sums, x_gradient, plan.pixels, width, **plan.tile
        )
        weight_gradient, bias_gradient = affine.sum(dim=0)
    return x_gradient, weight_gradient, bias_gradient


def _on(x: Tensor) -> Any:
    """Triton starts its kernels on the current device."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


# A program's first index is its image, the second its part of it, its tile, or its group. What is
# beyond the last pixel or channel is masked.


@triton.jit
def _moments(
    x, partial, pixels, tiles,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each phase and channel, over a part's pixels: mean, and sum of squares around it."""
    DEPTH: tl.constexpr = PHASES * CHANNELS
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, PADDED)
    mean = tl.zeros([PADDED], tl.float32)
    spread = tl.zeros([PADDED], tl.float32)
    count = 0.0
    for tile in range(tiles):
        first = (part * tiles + tile) * BLOCK
        rows = first + tl.arange(0, BLOCK)
        inside = (rows < pixels)[:, None] & (columns < DEPTH)[None, :]
        places = image * pixels * DEPTH + rows[:, None] * DEPTH + columns[None, :]
        values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        more = tl.minimum(tl.maximum(pixels - first, 0), BLOCK).to(tl.float32)
        own = tl.sum(values, 0) / tl.maximum(more, 1.0)
        centred = tl.where(inside, values - own[None, :], 0.0)
        # Two sets of numbers become one (Chan et al.): sums of plain squares would lose digits.
        share = more / tl.maximum(count + more, 1.0)
        between = own - mean
        spread += tl.sum(centred * centred, 0) + between * between * count * share
        mean += between * share
        count += more
    target = partial + (image * tl.num_programs(1) + part) * 2 * DEPTH + columns
    tl.store(target, mean, mask=columns < DEPTH)
    tl.store(target + DEPTH, spread, mask=columns < DEPTH)


@triton.jit
def _join_moments(
    partial, mean, rstd, pixels, parts, part_pixels, eps,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, PER_GROUP: tl.constexpr,
):  # fmt: skip
    """Mean and inverse deviation of a group of an image."""
    DEPTH: tl.constexpr = PHASES * CHANNELS
    WIDTH: tl.constexpr = CHANNELS // GROUPS
    image, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.arange(0, ROWS)  # a part and a phase
    part = rows // PHASES
    columns = tl.arange(0, PER_GROUP)
    inside = (part < parts)[:, None] & (columns < WIDTH)[None, :]
    places = (part * 2 * DEPTH + rows % PHASES * CHANNELS)[:, None] + columns[None, :]
    source = partial + image * parts * 2 * DEPTH + group * WIDTH + places
    means = tl.load(source, mask=inside, other=0.0)
    spreads = tl.load(source + DEPTH, mask=inside, other=0.0)
    counts = tl.minimum(tl.maximum(pixels - part * part_pixels, 0), part_pixels).to(tl.float32)
    total = 1.0 * pixels * (PHASES * WIDTH)
    centre = tl.sum(means * counts[:, None]) / total
    between = tl.where(inside, means - centre, 0.0)
    variance = tl.sum(spreads + between * between * counts[:, None]) / total
    place = image * GROUPS + group
    tl.store(mean + place, centre)
    tl.store(rstd + place, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _targets(
    rows, columns, width, PHASES: tl.constexpr, CHANNELS: tl.constexpr
):  # fmt: skip
    """Where an image of y has the numbers that x has at these pixels and columns."""
    if PHASES == 1:
        return rows[:, None] * CHANNELS + columns[None, :]
    # The left upper pixel of a block, and the way from there to the phase's.
    corner = (rows // width * 4 * width + rows % width * 2)[:, None]
    phase = (columns // CHANNELS)[None, :]
    pixel = corner + phase // 2 * (2 * width) + phase % 2
    return pixel * CHANNELS + (columns % CHANNELS)[None, :]


@triton.jit
def _affine(
    image, columns, weight, bias, mean, rstd,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Weight, bias, mean and inverse deviation that belong to each column."""
    known = columns < PHASES * CHANNELS
    channels = columns % CHANNELS
    groups = image * GROUPS + channels // (CHANNELS // GROUPS)
    return (
        tl.load(weight + channels, mask=known, other=0.0),
        tl.load(bias + channels, mask=known, other=0.0),
        tl.load(mean + groups, mask=known, other=0.0),
        tl.load(rstd + groups, mask=known, other=0.0),
    )


@triton.jit
def _normalise(
    x, weight, bias, mean, rstd, y, pixels, width,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of y."""
    DEPTH: tl.constexpr = PHASES * CHANNELS
    image = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.arange(0, PADDED)
    inside = (rows < pixels)[:, None] & (columns < DEPTH)[None, :]
    a, b, centre, scale = _affine(
        image, columns, weight, bias, mean, rstd, PHASES, CHANNELS, GROUPS
    )
    start = image * pixels * DEPTH  # as many numbers has an image of y
    places = start + rows[:, None] * DEPTH + columns[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    values = (values - centre[None, :]) * scale[None, :] * a[None, :] + b[None, :]
    values = tl.where(values < 0.0, 0.0, values)  # what is not a number stays so
    targets = start + _targets(rows, columns, width, PHASES, CHANNELS)
    tl.store(y + targets, values.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _slopes(
    gradient, x, weight, bias, mean, rstd, partial, pixels, width, tiles,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each phase and channel, over a part's pixels: sums of g, and of g times the normalised x.

    g is the gradient of y where the ReLU lets it through.
    """
    DEPTH: tl.constexpr = PHASES * CHANNELS
    image, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, PADDED)
    a, b, centre, scale = _affine(
        image, columns, weight, bias, mean, rstd, PHASES, CHANNELS, GROUPS
    )
    first_sum = tl.zeros([PADDED], tl.float32)
    second_sum = tl.zeros([PADDED], tl.float32)
    start = image * pixels * DEPTH
    for tile in range(tiles):
        rows = (part * tiles + tile) * BLOCK + tl.arange(0, BLOCK)
        inside = (rows < pixels)[:, None] & (columns < DEPTH)[None, :]
        places = start + rows[:, None] * DEPTH + columns[None, :]
        values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
        values = (values - centre[None, :]) * scale[None, :]
        targets = start + _targets(rows, columns, width, PHASES, CHANNELS)
        g = tl.load(gradient + targets, mask=inside, other=0.0).to(tl.float32)
        g = tl.where(values * a[None, :] + b[None, :] > 0.0, g, 0.0)
        first_sum += tl.sum(g, 0)
        second_sum += tl.sum(g * values, 0)
    target = partial + (image * tl.num_programs(1) + part) * 2 * DEPTH + columns
    tl.store(target, first_sum, mask=columns < DEPTH)
    tl.store(target + DEPTH, second_sum, mask=columns < DEPTH)


@triton.jit
def _join_slopes(
    partial, weight, affine, sums, pixels, parts,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    ROWS: tl.constexpr, PER_GROUP: tl.constexpr,
):  # fmt: skip
    """An image's share of the gradients of weight and bias; a group's means of weighted slopes."""
    DEPTH: tl.constexpr = PHASES * CHANNELS
    WIDTH: tl.constexpr = CHANNELS // GROUPS
    image, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    rows = tl.arange(0, ROWS)  # a part and a phase
    part = rows // PHASES
    columns = tl.arange(0, PER_GROUP)
    inside = (part < parts)[:, None] & (columns < WIDTH)[None, :]
    places = (part * 2 * DEPTH + rows % PHASES * CHANNELS)[:, None] + columns[None, :]
    source = partial + image * parts * 2 * DEPTH + group * WIDTH + places
    to_bias = tl.sum(tl.load(source, mask=inside, other=0.0), 0)
    to_weight = tl.sum(tl.load(source + DEPTH, mask=inside, other=0.0), 0)
    known = columns < WIDTH
    target = affine + image * 2 * CHANNELS + group * WIDTH + columns
    tl.store(target, to_weight, mask=known)
    tl.store(target + CHANNELS, to_bias, mask=known)
    weights = tl.load(weight + group * WIDTH + columns, mask=known, other=0.0)
    total = 1.0 * pixels * (PHASES * WIDTH)
    place = sums + image * 2 * GROUPS + group
    tl.store(place, tl.sum(weights * to_bias) / total)
    tl.store(place + GROUPS, tl.sum(weights * to_weight) / total)


@triton.jit
def _differentiate(
    gradient, x, weight, bias, mean, rstd, sums, x_gradient, pixels, width,
    PHASES: tl.constexpr, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    PADDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient of x."""
    DEPTH: tl.constexpr = PHASES * CHANNELS
    image = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.arange(0, PADDED)
    inside = (rows < pixels)[:, None] & (columns < DEPTH)[None, :]
    a, b, centre, scale = _affine(
        image, columns, weight, bias, mean, rstd, PHASES, CHANNELS, GROUPS
    )
    groups = columns % CHANNELS // (CHANNELS // GROUPS)
    source = sums + image * 2 * GROUPS + groups
    level = tl.load(source, mask=columns < DEPTH, other=0.0)
    bend = tl.load(source + GROUPS, mask=columns < DEPTH, other=0.0)
    start = image * pixels * DEPTH
    places = start + rows[:, None] * DEPTH + columns[None, :]
    values = tl.load(x + places, mask=inside, other=0.0).to(tl.float32)
    values = (values - centre[None, :]) * scale[None, :]
    targets = start + _targets(rows, columns, width, PHASES, CHANNELS)
    g = tl.load(gradient + targets, mask=inside, other=0.0).to(tl.float32)
    g = tl.where(values * a[None, :] + b[None, :] > 0.0, g, 0.0)
    slopes = (a[None, :] * g - level[None, :] - values * bend[None, :]) * scale[None, :]
    tl.store(x_gradient + places, slopes.to(x_gradient.dtype.element_ty), mask=inside)
