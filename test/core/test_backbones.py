"""The pretrained backbone: EfficientNet-Lite0 as published, and what depth adds to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genesis_core.models.backbones import PaperBackbone, PretrainedBackbone
from genesis_core.models.efficientnet import CHANNELS, MEAN, STAGES, STD, EfficientNetLite0
from genesis_core.models.points import back_project
from genesis_core.ops.convolution import freeze


def _plainly(weights: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """The published network step by step: SAME padding, batch normalisation, ReLU6."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1, relu: bool = True) -> Tensor:
        weight = weights[f"{conv}.weight"]
        size, kernel = x.shape[-1], weight.shape[-1]
        padding = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        x = F.pad(x, (padding // 2, padding - padding // 2) * 2)
        x = F.conv2d(x, weight, stride=stride, groups=x.shape[1] // weight.shape[1])
        x = F.batch_norm(
            x,
            weights[f"{norm}.running_mean"],
            weights[f"{norm}.running_var"],
            weights[f"{norm}.weight"],
            weights[f"{norm}.bias"],
            eps=1e-3,
        )
        return x.clamp(0, 6) if relu else x

    x, index, maps = layer((images - MEAN) / STD, "_conv_stem", "_bn0", 2), 0, []
    for stage in STAGES:
        for repeat in range(stage.blocks):
            block = f"_blocks.{index}."
            y = layer(x, f"{block}_expand_conv", f"{block}_bn0") if stage.expand > 1 else x
            stride = stage.stride if repeat == 0 else 1
            y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride)
            y = layer(y, f"{block}_project_conv", f"{block}_bn2", relu=False)
            x, index = (y if repeat == 0 else x + y), index + 1
        maps.append(x)
    return [maps[stage] for stage in (0, 1, 2, 4, 6)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 96])
def test_the_trunk_is_the_published_network(
    size: int, published_weights: dict[str, Tensor]
) -> None:
    weights = published_weights
    trunk = EfficientNetLite0()
    trunk.load_published(weights)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = trunk(images)
        for found, expected in zip(maps, _plainly(weights, images), strict=True):
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert [(m.shape[1], size // m.shape[2]) for m in maps] == list(
        zip(CHANNELS, (2, 4, 8, 16, 32), strict=True)
    )


def test_weights_of_another_network_are_refused(published_weights: dict[str, Tensor]) -> None:
    weights = dict(published_weights)
    del weights["_blocks.3._project_conv.weight"]
    with pytest.raises(KeyError, match=r"_blocks\.3\._project_conv"):
        EfficientNetLite0().load_published(weights)


@pytest.fixture(params=["pretrained", "paper"])
def backbone(request: pytest.FixtureRequest) -> PretrainedBackbone | PaperBackbone:
    torch.manual_seed(0)
    if request.param == "paper":
        made: PretrainedBackbone | PaperBackbone = PaperBackbone(64, 3, 16, points=True)
    else:
        made = PretrainedBackbone(16, points=True)
        assert made.branch is not None
        for conv in made.branch.to_trunk:
            torch.nn.init.normal_(conv.weight, std=0.1)  # type: ignore[arg-type]
    return made.eval()


def _inputs(size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, size, size, generator=generator)
    depth = 0.8 + 0.2 * torch.rand(2, size, size, generator=generator)
    return images, back_project(depth, torch.tensor([[60.0, 60.0, 32.0, 32.0]]).expand(2, 4))


@pytest.mark.slow
@torch.no_grad()
def test_depth_matters_and_images_without_it_are_images_of_colour(
    backbone: PretrainedBackbone | PaperBackbone,
) -> None:
    images, points = _inputs()
    without = backbone(images, None)
    assert (backbone(images, points) - without).abs().max() > 1e-3
    assert torch.equal(backbone(images, torch.zeros_like(points)), without)


@pytest.mark.slow
@torch.no_grad()
def test_images_do_not_look_at_each_other(backbone: PretrainedBackbone | PaperBackbone) -> None:
    """One without depth beside one with it gives what it gives alone."""
    images, points = _inputs()
    points[1] = 0
    together = backbone(images, points)
    torch.testing.assert_close(together[:1], backbone(images[:1], points[:1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together[1:], backbone(images[1:], None), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_frozen_weights_give_the_same() -> None:
    torch.manual_seed(0)
    backbone = PretrainedBackbone(16, points=True).eval()
    images, points = _inputs()
    expected = backbone(images, points)
    freeze(backbone, torch.float32)
    torch.testing.assert_close(backbone(images, points), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_gradients_reach_every_weight() -> None:
    torch.manual_seed(0)
    backbone = PretrainedBackbone(16, points=True)
    images, points = _inputs()
    # Through two steps: what starts at zero hides what is behind it from the first gradient.
    optimizer = torch.optim.SGD(backbone.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        backbone(images, points).square().mean().backward()
        optimizer.step()
    without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_restyling_moves_the_means_of_the_blocks_channels() -> None:
    trunk = EfficientNetLite0()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first = STAGES[0].channels  # the first block's, whose output is the first map
    style = torch.zeros(2, trunk.style_channels)
    style[1, 3] = 0.5
    with torch.no_grad():
        plain = trunk(images)
        with trunk.restyled(style):
            moved = trunk(images)
        again = trunk(images)
    for expected, found in zip(plain, again, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(moved[0][0], plain[0][0])  # of the other image nothing moves
    difference = moved[0][1] - plain[0][1]
    others = [channel for channel in range(first) if channel != 3]
    assert not difference[others].any()
    spread = plain[0][1, 3, ::2, ::2].std(correction=0)
    torch.testing.assert_close(difference[3], (0.5 * spread).expand_as(difference[3]))
    assert not torch.equal(moved[1][1], plain[1][1])  # later scales see it
    assert sum(stage.channels * stage.blocks for stage in STAGES) == trunk.style_channels
