"""What is drawn anew each time an image is used: crops, colours, a camera's faults, lost depth.

Everything runs on whole batches, on the device that trains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core import ConfigError
from genesis_core.models.points import back_project
from training.counter_random import CounterRandom

RGB = 3
_PURPOSE = 1  # of the random numbers, see CounterRandom
_MOST_LABELS = 32  # instances that get each its own colour and texture; others share
_SURROUNDINGS = 0  # their label


@dataclass(frozen=True)
class AugmentConfig:
    """What is drawn anew each time an image is used; the defaults change nothing.

    Depth is cropped and mirrored with the image.

    Attributes:
        crop_scale: smallest share of the image that the longer side of a crop keeps.
        crop_aspect: largest ratio by which the other side is shorter.
        flip: whether to mirror half of the images left to right.
        brightness: largest relative change of all colour channels together.
        colour: largest relative change of each colour channel by itself.
        saturation: largest relative change of the colours' distance from grey.
        gamma: largest change of the exponent's natural logarithm.
        recolour: share of the instances that take another's mean colour, or any (needs labels).
        texture: share of the instances, surroundings included, into which a texture is mixed:
            another place of the image, turned, scaled and in other colours (needs labels).
        blur: largest standard deviation of the blur, in pixels; half of the images are blurred.
        noise: largest standard deviation of added pixel noise, in grey values of 255.
        jpeg: share of the images that are compressed and decompressed, at qualities 20 to 95.
        cut_out: share of the images in which a rectangle is painted over.
        exposure: mean grey value, 0 to 1, that each image is exposed to in the end; 0 leaves it.
            See the same option of training/datasets/tabletop.py.
        depth_drop: share of the images that lose their depth.
        depth_noise: largest standard deviation of added depth noise, as a share of the distance.
        depth_holes: largest share of the depth that is lost in blobs.
    """

    crop_scale: float = 1.0
    crop_aspect: float = 1.0
    flip: bool = False
    brightness: float = 0.0
    colour: float = 0.0
    saturation: float = 0.0
    gamma: float = 0.0
    recolour: float = 0.0
    texture: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    jpeg: float = 0.0
    cut_out: float = 0.0
    exposure: float = 0.0
    depth_drop: float = 0.0
    depth_noise: float = 0.0
    depth_holes: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.crop_scale <= 1:
            raise ConfigError(f"augment.crop_scale is {self.crop_scale}; expected 0.1 to 1")
        if not 1 <= self.crop_aspect <= 4:
            raise ConfigError(f"augment.crop_aspect is {self.crop_aspect}; expected 1 to 4")
        highest = {
            "brightness": 0.9,
            "colour": 0.9,
            "saturation": 1.0,
            "gamma": 2.0,
            "blur": 10.0,
            "noise": 100.0,
            "exposure": 0.99,
            "depth_noise": 0.5,
        }
        for field in fields(self):
            if field.name in ("crop_scale", "crop_aspect", "flip"):
                continue
            value, high = getattr(self, field.name), highest.get(field.name, 1.0)
            if not 0 <= value <= high:
                raise ConfigError(f"augment.{field.name} is {value}; expected 0 to {high:g}")


@dataclass
class RawImages:
    """Images as a data set holds them, on the device.

    Attributes:
        images: (B, N, N, C) uint8, C = 3, or 4 with depth as a channel.
        labels: (B, N, N) uint8, or None.
        depth: (B, N, N) int32 in millimetres, 0 where unknown; or None.
        intrinsics: (B, 4) float32, fx, fy, cx, cy in pixels; or None.
    """

    images: Tensor
    labels: Tensor | None = None
    depth: Tensor | None = None
    intrinsics: Tensor | None = None


@dataclass
class Batch:
    """Images as a model wants them.

    Attributes:
        images: (B, C, S, S) float32 in [0, 1], channels last.
        labels: (B, S, S) uint8, or None; those of the first images, if there are fewer than B.
        points: (B, 4, S, S) float32, metres, and 1 where known (``back_project``); or None.
    """

    images: Tensor
    labels: Tensor | None = None
    points: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)


def augment(raw: RawImages, config: AugmentConfig, size: int, seed: int, places: Tensor) -> Batch:
    """Draw a batch.

    Args:
        raw: B images.
        size: S, the model's height and width.
        seed: of the run.
        places: (B,) int64, place of each image in the run's order: with the seed it decides what
            is drawn.
    """
    random = CounterRandom(seed, places, _PURPOSE)
    images, labels = raw.images.permute(0, 3, 1, 2).float().div_(255), raw.labels
    depth = None if raw.depth is None else raw.depth.float() / 1000
    intrinsics = raw.intrinsics
    if (config.crop_scale, config.crop_aspect, config.flip) != (1.0, 1.0, False) or (
        images.shape[-1] != size
    ):
        centre, half = _windows(config, random)
        if intrinsics is not None:
            intrinsics = _seen_through(intrinsics, centre, half, raw.images.shape[1], size)
        while images.shape[-1] * config.crop_scale >= 2 * size and images.shape[-1] % 2 == 0:
            # Of that the smallest crop has enough. Images of between two and 2 / crop_scale times
            # the model's size are not pooled: their largest crops leave some pixels out.
            images = F.avg_pool2d(images, 2)
        images = _resample(images, centre, half, size, smooth=True)
        if labels is not None:
            labels = _resample(labels[:, None], centre, half, size)[:, 0]
        if depth is not None:
            depth = _resample(depth[:, None], centre, half, size)[:, 0]
    colours = images[:, :RGB]
    if labels is not None and (config.texture or config.recolour):
        instances = _Instances(labels)
        if config.texture:
            colours = _retextured(colours, instances, config, random)
        if config.recolour:
            colours = _recoloured(colours, instances, config, random)
    colours = _camera(colours, config, random)
    images = colours if images.shape[1] == RGB else torch.cat([colours, images[:, RGB:]], dim=1)
    points = None
    if depth is not None and intrinsics is not None:
        points = back_project(_lose_depth(depth, config, random), intrinsics)
    return Batch(images.contiguous(memory_format=torch.channels_last), labels, points)


# Places


def _windows(config: AugmentConfig, random: CounterRandom) -> tuple[Tensor, Tensor]:
    """Centre and half size (B, 2) of each crop, x and y, where the image reaches from -1 to 1.

    A half width below zero mirrors.
    """
    scale = random.uniform(low=config.crop_scale)
    stretch = random.uniform(low=-1, high=1) * math.log(config.crop_aspect)
    # A wide crop loses height, a tall one width; neither grows beyond the image.
    half = scale[:, None] * torch.stack([stretch.clamp_max(0), (-stretch).clamp_max(0)], 1).exp()
    centre = random.uniform(2, low=-1, high=1) * (1 - half)
    if config.flip:
        mirror = torch.where(random.chance(0.5), -1.0, 1.0)
        half = half * torch.stack([mirror, torch.ones_like(mirror)], 1)
    return centre, half


def _resample(
    maps: Tensor, centre: Tensor, half: Tensor, size: int, *, smooth: bool = False
) -> Tensor:
    """The crops of maps (B, C, N, N) at size x size, nearest pixels or, smooth, blends of four."""
    steps = (torch.arange(size, device=maps.device) * 2 + 1) / size - 1
    places = centre[:, None] + half[:, None] * steps[:, None]  # (B, S, 2)
    shape = (len(maps), size, size)
    if smooth:
        grid = torch.stack(
            [places[:, None, :, 0].expand(shape), places[:, :, None, 1].expand(shape)], dim=3
        )
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)
    last = maps.shape[-1] - 1
    index = ((places + 1) / 2 * maps.shape[-1]).floor().long().clamp(0, last)
    batch = torch.arange(len(maps), device=maps.device)[:, None, None]
    picked = maps.permute(0, 2, 3, 1)[batch, index[:, :, None, 1], index[:, None, :, 0]]
    return picked.permute(0, 3, 1, 2)


def _seen_through(
    intrinsics: Tensor, centre: Tensor, half: Tensor, before: int, size: int
) -> Tensor:
    """Intrinsics (B, 4) of the crops."""
    scale = size / (half * before)  # (B, 2), pixels of the crop for one of the image
    # A pixel's centre is at its whole number: shift by a half to scale, and back.
    first = (centre - half + 1) / 2 * before
    # What is mirrored is a scene of its own, seen by a camera as any other: its focal length is
    # positive, and right is where the picture has it.
    focal = intrinsics[:, :2] * scale.abs()
    principal = (intrinsics[:, 2:] + 0.5 - first) * scale - 0.5
    return torch.cat([focal, principal], dim=1)


# Colours


class _Instances:
    """Which pixels are whose.

    Args:
        labels: (B, S, S) uint8.
    """

    def __init__(self, labels: Tensor) -> None:
        self._index = labels.flatten(1).long().clamp_max(_MOST_LABELS - 1)  # (B, HW)
        numbers = torch.arange(_MOST_LABELS, device=labels.device)
        self._member = (self._index[..., None] == numbers).float()  # (B, HW, L)
        self.area = self._member.sum(dim=1)  # (B, L)
        self._size = labels.shape[1:]

    def mean(self, values: Tensor) -> Tensor:
        """Each instance's mean (B, C, L) of values (B, C, S, S), zero where there is no pixel."""
        return values.flatten(2) @ self._member / self.area.clamp_min(1)[:, None]

    def of_pixels(self, values: Tensor) -> Tensor:
        """The instances' values (B, C, L) at their pixels, (B, C, S, S)."""
        where = self._index[:, None].expand(-1, values.shape[1], -1)
        return values.gather(2, where).unflatten(2, self._size)


def _retextured(
    images: Tensor, instances: _Instances, config: AugmentConfig, random: CounterRandom
) -> Tensor:
    """Some instances with another texture under their own light: it tells them apart no more.

    The texture is a piece of the same image, so that it depends on no other of the batch. It is
    turned and scaled; every instance has it in colours and a contrast of its own.
    """
    piece = _piece(images, random)
    piece = piece - piece.mean(dim=(2, 3), keepdim=True)
    # How its colours depend on the piece's, row by row: more than half of it is brightness.
    mixing = random.uniform(RGB * RGB, _MOST_LABELS, low=-0.5, high=0.5)
    mixing = mixing + random.uniform(1, _MOST_LABELS, low=-0.5, high=0.5)
    rows = [(instances.of_pixels(row) * piece).sum(dim=1) for row in mixing.chunk(RGB, dim=1)]
    mean = random.uniform(1, _MOST_LABELS) + random.uniform(RGB, _MOST_LABELS, low=-0.3, high=0.3)
    texture = (torch.stack(rows, dim=1) + instances.of_pixels(mean.clamp(0, 1))).clamp(0, 1)
    share = random.uniform(1, _MOST_LABELS, low=0.4, high=1.0)
    share[:, :, _SURROUNDINGS] *= 0.4  # lest objects that are not there appear as clearly as others
    share = torch.where(random.chance(config.texture, 1, _MOST_LABELS), share, 0.0)
    mixed = torch.lerp(images, texture * _light(images, instances), instances.of_pixels(share))
    return mixed.clamp(0, 1)


def _piece(images: Tensor, random: CounterRandom) -> Tensor:
    """Another place of each image (B, 3, S, S), turned and scaled, reflected at its borders."""
    angle = random.uniform(high=2 * math.pi)
    scale = random.uniform(low=math.log(0.25), high=math.log(2.5)).exp()
    centre = random.uniform(2, 1, low=-1, high=1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    affine = torch.cat([turn * scale[:, None, None], centre], dim=2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _light(images: Tensor, instances: _Instances) -> Tensor:
    """Smooth brightness relative to the instance's mean, (B, 1, S, S): the light on each pixel."""
    grey = images.mean(dim=1, keepdim=True)
    # Before it is smoothed: borders between bright and dark instances get no seams.
    relative = grey / instances.of_pixels(instances.mean(grey)).clamp_min(0.02)
    reach = max(images.shape[-1] // 24, 1)
    padded = F.pad(relative, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1).clamp(0.3, 2.0)


def _recoloured(
    images: Tensor, instances: _Instances, config: AugmentConfig, random: CounterRandom
) -> Tensor:
    """Some instances in the mean colour of another, or in any: colour tells them apart no more."""
    mean = instances.mean(images)  # (B, 3, L)
    # Whose colour: among the instances that there are, the larger the likelier.
    pixels = images.shape[2] * images.shape[3]
    liking = instances.area.clamp_max(0.02 * pixels).clamp_min(1e-3).log()
    gumbel = -(-random.uniform(_MOST_LABELS, _MOST_LABELS).clamp(1e-6, 1 - 1e-6).log()).log()
    other = (liking[:, None] + gumbel).argmax(dim=2)  # (B, L)
    target = mean.gather(2, other[:, None].expand_as(mean))
    any_colour = random.uniform(3, _MOST_LABELS)
    target = torch.where(random.chance(0.4, 1, _MOST_LABELS), any_colour, target)
    gain = ((target + 0.02) / (mean + 0.02)).clamp(0.2, 4.0)
    gain = torch.where(random.chance(config.recolour, 1, _MOST_LABELS), gain, 1.0)
    return (images * instances.of_pixels(gain)).clamp(0, 1)


def _camera(images: Tensor, config: AugmentConfig, random: CounterRandom) -> Tensor:
    """What a camera makes of the colours (B, 3, S, S)."""

    def around_one(range_: float, *shape: int) -> Tensor:
        return random.uniform(*shape, 1, 1, low=1 - range_, high=1 + range_)

    given = images
    if config.brightness or config.colour:
        images = images * around_one(config.brightness, 1) * around_one(config.colour, 3)
    if config.saturation:
        grey = images.mean(dim=1, keepdim=True)
        images = grey + (images - grey) * around_one(config.saturation, 1)
    if config.gamma:
        exponent = random.uniform(1, 1, 1, low=-config.gamma, high=config.gamma).exp()
        images = images.clamp_min(1e-4) ** exponent
    if config.blur:
        images = _blur(images, config.blur, random)
    if config.cut_out:
        images = _cut_out(images, config.cut_out, random)
    if config.noise:
        deviation = random.uniform(1, 1, 1, high=config.noise / 255)
        images = images + deviation * random.normal(*images.shape[1:])
    if config.jpeg:
        images = _jpeg(images.clamp(0, 1), config.jpeg, random)
    if config.exposure:
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = images * (config.exposure / mean.clamp_min(1 / 255))
    if images is given:
        return images
    return (images * 255).round().clamp(0, 255) / 255


def _blur(images: Tensor, most: float, random: CounterRandom) -> Tensor:
    """Half of the images blurred, each by its own Gaussian along rows and columns."""
    reach = max(1, math.ceil(2 * most))
    deviation = random.uniform(1, low=0.3, high=max(most, 0.31))
    steps = torch.arange(-reach, reach + 1, device=images.device)
    kernel = (-0.5 * (steps / deviation).square()).exp()
    alone = (steps == 0).float()
    kernel = torch.where(random.chance(0.5, 1), kernel / kernel.sum(dim=1, keepdim=True), alone)
    count, channels = images.shape[:2]
    kernels = kernel.repeat_interleave(channels, dim=0)[:, None, None]
    stacked = images.flatten(0, 1)[None]
    stacked = F.pad(stacked, (reach,) * 4, mode="replicate")
    stacked = F.conv2d(stacked, kernels, groups=count * channels)
    stacked = F.conv2d(stacked, kernels.transpose(2, 3), groups=count * channels)
    return stacked[0].unflatten(0, (count, channels))


def _cut_out(images: Tensor, share: float, random: CounterRandom) -> Tensor:
    """A rectangle of one colour over some images, a tenth to a third as wide and high."""
    half = random.uniform(2, low=0.1, high=0.35)
    centre = random.uniform(2, low=-1, high=1)
    size = images.shape[-1]
    steps = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
    inside = ((steps - centre[..., None]).abs() < half[..., None]) & random.chance(share, 1, 1)
    covered = inside[:, 0, None, :] & inside[:, 1, :, None]
    return torch.where(covered[:, None], random.uniform(RGB, 1, 1), images)


_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)  # Recommendation ITU-T T.81, Table K.1
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@lru_cache
def _jpeg_constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RGB to YCbCr and back (3, 3), rounding steps (8, 8) and cosines (8, 8).

    Made once: while a CUDA graph is recorded nothing can be copied to the device.
    """
    matrix = torch.tensor(_TO_YCC)
    table = torch.tensor(_LUMINANCE, dtype=torch.float32) / 255
    frequency = torch.arange(8)[:, None]
    cosines = (math.pi / 8 * (torch.arange(8) + 0.5) * frequency).cos() / 2
    cosines[0] /= math.sqrt(2)
    matrix, inverse, table, cosines = (
        each.to(device) for each in (matrix, matrix.inverse(), table, cosines)
    )
    return matrix, inverse, table, cosines


def _jpeg(images: Tensor, share: float, random: CounterRandom) -> Tensor:
    """What JPEG leaves of some images (B, 3, S, S): 8x8 cosine transforms, rounded coarsely.

    Colours are halved in resolution and rounded with the luminance's table at twice its steps.
    """
    size = images.shape[-1] // 16 * 16
    matrix, inverse, table, cosines = _jpeg_constants(images.device)
    quality = random.uniform(1, low=20, high=95)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None, None]
    whole = images[..., :size, :size]
    ycc = torch.einsum("ij,bjhw->bihw", matrix, whole)

    def rounded(plane: Tensor, steps: Tensor) -> Tensor:
        side = plane.shape[-1] // 8
        blocks = plane.unflatten(2, (side, 8)).unflatten(4, (side, 8)).permute(0, 1, 2, 4, 3, 5)
        blocks = cosines @ blocks @ cosines.T
        blocks = (blocks / steps).round() * steps
        blocks = cosines.T @ blocks @ cosines
        return blocks.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)

    steps = table * scale.clamp_min(0.02)
    luminance = rounded(ycc[:, :1], steps)
    colour = rounded(F.avg_pool2d(ycc[:, 1:], 2), 2 * steps)
    colour = F.interpolate(colour, scale_factor=2, mode="bilinear", align_corners=False)
    decoded = torch.einsum("ij,bjhw->bihw", inverse, torch.cat([luminance, colour], dim=1))
    if size != images.shape[-1]:
        decoded = F.pad(decoded, (0, images.shape[-1] - size) * 2, mode="replicate")
    return torch.where(random.chance(share, 1, 1, 1), decoded, images)


# Depth


def _lose_depth(depth: Tensor, config: AugmentConfig, random: CounterRandom) -> Tensor:
    """Depth (B, S, S) in metres with noise and holes, or without any: 0 is unknown."""
    size = depth.shape[-1]

    def smooth_field(cells: int) -> Tensor:
        coarse = random.normal(1, cells, cells)
        return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)[:, 0]

    if config.depth_noise:
        strength = config.depth_noise * random.uniform(1, 1).square()
        change = random.normal(size, size) + 1.5 * smooth_field(8)
        depth = depth * (1 + strength * change)
    if config.depth_holes:
        # The share of a normal distribution above a threshold, near enough.
        lost = config.depth_holes * random.uniform(1, 1)
        threshold = -torch.special.ndtri(lost.clamp(1e-4, 1 - 1e-4)) * 0.7
        depth = torch.where(smooth_field(16) > threshold, 0.0, depth)
    if config.depth_drop:
        depth = torch.where(random.chance(config.depth_drop, 1, 1), 0.0, depth)
    return depth
