"""The Inception network that the Fréchet Inception Distance is defined on.

Szegedy et al. (2016), "Rethinking the Inception Architecture", in the variant of the TensorFlow
graph of 2015-12-05 that Heusel et al. (2017) used: average pooling does not count the padding, and
the last block pools by maximum. Module names are those of the published PyTorch conversion of its
weights, so that the file loads as it is. The common InceptionV3 (2016-03-01) has the same shapes
but other weights; a distance on its features is not the FID.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 2048
INPUT_SIZE = 299


class Conv(NamedTuple):
    """One convolution of a branch; without padding where it strides, else keeping the size."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1


Pool = Callable[[Tensor], Tensor]
Step = Conv | Pool | tuple[Conv, ...]
Branch = tuple[Step, ...]

_average: Pool = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_maximum: Pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halve: Pool = partial(F.max_pool2d, kernel_size=3, stride=2)


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, pad: bool
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Parallel branches, concatenated. A tuple of convolutions within a branch is parallel too."""

    def __init__(self, inputs: int, *branches: Branch) -> None:
        super().__init__()
        self.branches = branches
        self.channels = 0
        for branch in branches:
            width = inputs
            for step in branch:
                if callable(step):
                    continue
                parallel = (step,) if isinstance(step, Conv) else step
                for conv in parallel:
                    module = ConvNorm(
                        width, conv.channels, conv.kernel, conv.stride, pad=conv.stride == 1
                    )
                    self.add_module(conv.name, module)
                width = sum(conv.channels for conv in parallel)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._run(branch, x) for branch in self.branches], dim=1)

    def _run(self, branch: Branch, x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self.get_submodule(step.name)(x)
            elif callable(step):
                x = step(x)
            else:
                x = torch.cat([self.get_submodule(conv.name)(x) for conv in step], dim=1)
        return x


def _block_a(inputs: int, pooled: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 64, (1, 1)),),
        (Conv("branch5x5_1", 48, (1, 1)), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_average, Conv("branch_pool", pooled, (1, 1))),
    )


def _block_b(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch3x3", 384, (3, 3), stride=2),),
        (
            Conv("branch3x3dbl_1", 64, (1, 1)),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), stride=2),
        ),
        (_halve,),
    )


def _block_c(inputs: int, inner: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 192, (1, 1)),),
        (
            Conv("branch7x7_1", inner, (1, 1)),
            Conv("branch7x7_2", inner, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", inner, (1, 1)),
            Conv("branch7x7dbl_2", inner, (7, 1)),
            Conv("branch7x7dbl_3", inner, (1, 7)),
            Conv("branch7x7dbl_4", inner, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (_average, Conv("branch_pool", 192, (1, 1))),
    )


def _block_d(inputs: int) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch3x3_1", 192, (1, 1)), Conv("branch3x3_2", 320, (3, 3), stride=2)),
        (
            Conv("branch7x7x3_1", 192, (1, 1)),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), stride=2),
        ),
        (_halve,),
    )


def _block_e(inputs: int, pool: Pool) -> Mixed:
    return Mixed(
        inputs,
        (Conv("branch1x1", 320, (1, 1)),),
        (
            Conv("branch3x3_1", 384, (1, 1)),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448, (1, 1)),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192, (1, 1))),
    )


class Inception(nn.Module):
    """Images to the 2048 features of the last average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2, pad=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), stride=1, pad=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3), stride=1, pad=True)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1), stride=1, pad=False)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), stride=1, pad=False)
        self.Mixed_5b = _block_a(192, pooled=32)
        self.Mixed_5c = _block_a(256, pooled=64)
        self.Mixed_5d = _block_a(288, pooled=64)
        self.Mixed_6a = _block_b(288)
        self.Mixed_6b = _block_c(768, inner=128)
        self.Mixed_6c = _block_c(768, inner=160)
        self.Mixed_6d = _block_c(768, inner=160)
        self.Mixed_6e = _block_c(768, inner=192)
        self.Mixed_7a = _block_d(768)
        self.Mixed_7b = _block_e(1280, _average)
        self.Mixed_7c = _block_e(2048, _maximum)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 2048) of images (B, 3, H, W) in [0, 1] of any size."""
        # Resized and scaled as pytorch-fid does, which the paper's figures were made with.
        size = (INPUT_SIZE, INPUT_SIZE)
        x = 2 * F.interpolate(images, size, mode="bilinear", align_corners=False) - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halve(x)))
        x = _halve(x)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean(dim=(2, 3))
