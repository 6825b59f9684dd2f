"""Layers against PyTorch's own and against the specification's tables."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genesis_core.models.layers import BroadcastDecoder, UNet, UpConv, pixel_coordinates
from genesis_core.ops.convolution import (
    _add_phases_native,
    _Convolution,
    _to_planes,
    add_conv_enlarged,
    phase_kernel,
)

# In float32 on a CPU, transposed convolutions are computed otherwise than in other precisions.
BOTH_WAYS = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
CLOSE = {
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
    torch.float32: {"rtol": 1e-4, "atol": 1e-4},
}


def test_coordinates_run_from_minus_one_to_one() -> None:
    rows, columns = pixel_coordinates(3, 5)
    assert rows.tolist() == [[-1.0] * 5, [0.0] * 5, [1.0] * 5]
    assert columns.tolist() == [[-1.0, -0.5, 0.0, 0.5, 1.0]] * 3


@BOTH_WAYS
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (7, 5)])
def test_up_convolution_equals_the_transposed_convolution(
    size: tuple[int, int], dtype: torch.dtype
) -> None:
    """Values, and gradients of input, weights and bias."""
    ours = UpConv(5, 3).to(dtype)
    reference = nn.ConvTranspose2d(5, 3, 5, stride=2, padding=2, output_padding=1).to(dtype)
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, *size, dtype=dtype)
    ours_x, reference_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual, expected = ours(ours_x), reference(reference_x)
    assert actual.shape == (2, 3, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(actual, expected, **CLOSE[dtype])
    cotangent = torch.randn_like(expected)
    actual.backward(cotangent)
    expected.backward(cotangent)
    torch.testing.assert_close(ours_x.grad, reference_x.grad, **CLOSE[dtype])
    for name, parameter in reference.named_parameters():
        actual_grad = ours.get_parameter(name).grad
        torch.testing.assert_close(actual_grad, parameter.grad, **CLOSE[dtype])


@pytest.mark.parametrize("frozen", [None, "x", "weight", "bias"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("up", [False, True])
def test_gradients_of_convolutions(
    up: bool, layout: torch.memory_format, frozen: str | None
) -> None:
    """Against finite differences; what is frozen gets none."""
    shapes = {"x": (2, 3, 2, 4), "weight": (3, 2, 5, 5) if up else (2, 3, 3, 3), "bias": (2,)}
    inputs = []
    for name, shape in shapes.items():
        tensor = torch.randn(shape, dtype=torch.float64)
        tensor = tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor
        inputs.append(tensor.requires_grad_(name != frozen))
    geometry = (2, 2, True) if up else (1, 1, False)
    assert torch.autograd.gradcheck(_Convolution.apply, (*inputs, *geometry))
    _Convolution.apply(*inputs, *geometry).sum().backward()
    for name, tensor in zip(shapes, inputs, strict=True):
        assert (tensor.grad is None) == (name == frozen), name


def test_planes_hold_the_same_numbers() -> None:
    x = torch.randn(2, 64, 64, 66).contiguous(memory_format=torch.channels_last)
    for view in (x, x[:, :, ::2, ::2], x[:, :, :8, :9], x[:, 3:40], x.contiguous()):
        assert torch.equal(_to_planes(view), view)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5)])
def test_convolution_of_an_enlarged_map_equals_enlarging_and_convolving(
    size: tuple[int, int], layout: torch.memory_format
) -> None:
    """Values, and gradients of both maps and the weights, in float64."""
    base = torch.randn(2, 3, 2 * size[0], 2 * size[1], dtype=torch.float64)
    x = torch.randn(2, 5, *size, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(3, 5, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    ours = [tensor.clone().requires_grad_() for tensor in (base, x, weight)]
    reference = [tensor.clone().requires_grad_() for tensor in (base, x, weight)]
    # It may overwrite what it adds to.
    actual = add_conv_enlarged(1 * ours[0], ours[1], phase_kernel(ours[2]))
    enlarged = F.interpolate(reference[1], scale_factor=2.0, mode="nearest")
    expected = reference[0] + F.conv2d(enlarged, reference[2], padding=1)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn_like(expected)
    actual.backward(cotangent)
    expected.backward(cotangent)
    for one, other in zip(ours, reference, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@BOTH_WAYS
@pytest.mark.parametrize("image_size", [32, 64])
def test_decoder_equals_its_description(image_size: int, dtype: torch.dtype) -> None:
    """Broadcast, coordinates, four times [up, GroupNorm(8), ReLU], 1x1, from standard parts."""
    decoder = BroadcastDecoder(image_size, 6, 16, 4).to(dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.ndim == 1:  # norms start at one and zero, which hides a wrong order
                parameter.normal_()
    state = decoder.state_dict()

    def reference(latents: Tensor) -> Tensor:
        side = image_size // 16
        grid = latents[:, :, None, None].expand(-1, -1, side, side)
        coordinates = pixel_coordinates(side, side).to(dtype).expand(len(latents), -1, -1, -1)
        x = torch.cat([grid, coordinates], dim=1)
        for index in (1, 4, 7, 10):
            x = F.conv_transpose2d(x, state[f"{index}.weight"], state[f"{index}.bias"], 2, 2, 1)
            x = F.group_norm(x, 8, state[f"{index + 1}.weight"], state[f"{index + 1}.bias"])
            x = F.relu(x)
        return F.conv2d(x, state["13.weight"], state["13.bias"])

    latents = torch.randn(3, 6, dtype=dtype)
    actual, expected = latents.clone().requires_grad_(), latents.clone().requires_grad_()
    torch.testing.assert_close(decoder(actual), reference(expected), **CLOSE[dtype])
    weights = torch.randn(3, 4, image_size, image_size, dtype=dtype)
    (decoder(actual) * weights).sum().backward()
    (reference(expected) * weights).sum().backward()
    scale = expected.grad.abs().max()
    torch.testing.assert_close(actual.grad / scale, expected.grad / scale, **CLOSE[dtype])


@pytest.mark.parametrize(
    ("image_size", "down", "up_in", "up_out"),
    [
        (64, [8, 8, 16, 16, 16], [32, 32, 32, 16, 16], [16, 16, 8, 8, 8]),
        (128, [8, 8, 8, 16, 16, 16], [32, 32, 32, 16, 16, 16], [16, 16, 8, 8, 8, 8]),
    ],
)
def test_backbone_has_the_specified_channels(
    image_size: int, down: list[int], up_in: list[int], up_out: list[int]
) -> None:
    unet = UNet(image_size, 3, 8)
    convolutions = [block[0] for block in [*unet.down, *unet.up]]
    assert [conv.in_channels for conv in convolutions] == [3, *down[:-1], *up_in]
    assert [conv.out_channels for conv in convolutions] == [*down, *up_out]
    assert all(conv.bias is None for conv in convolutions)
    assert [m.out_features for m in unet.mlp if isinstance(m, nn.Linear)] == [128, 128, 16 * 4 * 4]


@pytest.mark.parametrize("image_size", [32, 64])
def test_backbone_equals_its_description(image_size: int) -> None:
    """Nearest sampling by two, a three-layer MLP at 4x4, skips taken before downsampling."""
    unet = UNet(image_size, 3, 8).double()
    state = unet.state_dict()

    def block(x: Tensor, name: str) -> Tensor:
        x = F.conv2d(x, state[f"{name}.0.weight"], padding=1)
        return F.relu(F.group_norm(x, 8, state[f"{name}.1.weight"], state[f"{name}.1.bias"]))

    images = torch.rand(2, 3, image_size, image_size, dtype=torch.float64)
    x, skips, levels = images, [], len(unet.down)
    for level in range(levels):
        if level:
            x = F.interpolate(x, scale_factor=0.5, mode="nearest")
        x = block(x, f"down.{level}")
        skips.append(x)
    assert x.shape[-2:] == (4, 4)
    flat = x.flatten(1)
    for layer in (1, 3, 5):
        flat = F.relu(F.linear(flat, state[f"mlp.{layer}.weight"], state[f"mlp.{layer}.bias"]))
    x = flat.view_as(x)
    for level in range(levels):
        if level:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = block(torch.cat([x, skips[-1 - level]], dim=1), f"up.{level}")
    torch.testing.assert_close(unet(images), x)


def test_channels_last_memory_changes_nothing() -> None:
    unet, decoder = UNet(32, 3, 8), BroadcastDecoder(32, 6, 8, 4)
    images, latents = torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    expected = unet(images), decoder(latents)
    unet.to(memory_format=torch.channels_last)
    decoder.to(memory_format=torch.channels_last)
    actual = unet(images.contiguous(memory_format=torch.channels_last)), decoder(latents)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1, 1, 8), (2, 3, 5, 24), (1, 8, 4, 64)])
def test_phases_are_added_at_their_pixels(
    size: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    batch, height, width, channels = size
    pixels = torch.randn(batch, 2 * height, 2 * width, channels).to(dtype)
    phases = torch.randn(batch, height + 1, width + 1, 2, 2, channels).to(dtype)
    expected = pixels.clone()
    for p in (0, 1):
        for q in (0, 1):
            expected[:, p::2, q::2] += phases[:, p : p + height, q : q + width, p, q]
    assert _add_phases_native(pixels, phases)
    assert torch.equal(pixels, expected)
    assert not _add_phases_native(pixels.double(), phases.double())
    if height > 1:  # a layout that it does not know: nothing happens
        assert not _add_phases_native(pixels, phases.transpose(1, 2).contiguous().transpose(1, 2))
        assert torch.equal(pixels, expected)
