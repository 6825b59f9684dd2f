"""Slot Attention against its definition, computed independently with numpy in float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import SlotAttention, SlotModel

ModelBuilder = Callable[..., SlotModel]
Array = NDArray[np.float64]

SLOTS, DIM, SIZE = 3, 6, 32


@pytest.fixture
def model(build_small: ModelBuilder) -> SlotAttention:
    """Weights twice as large as usual, and norms and biases that matter."""
    built = build_small("slot_attention", num_slots=SLOTS)
    assert isinstance(built, SlotAttention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(1.5).add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return built


# The definition


def convolve(x: Array, weight: Array, bias: Array) -> Array:
    """(B, I, H, W) with (O, I, s, s), padded to keep height and width."""
    pad = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
    return np.einsum("bihwst,oist->bohw", windows, weight, optimize=True) + bias[:, None, None]


def convolve_transposed(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Each input pixel (B, I, H, W) paints its kernel (I, O, s, s); the map grows by the stride."""
    height, width, side = x.shape[2], x.shape[3], weight.shape[2]
    painted = np.zeros((len(x), weight.shape[1], stride * height + side, stride * width + side))
    for row in range(height):
        for column in range(width):
            patch = np.einsum("bi,iost->bost", x[:, :, row, column], weight)
            top, left = stride * row, stride * column
            painted[:, :, top : top + side, left : left + side] += patch
    first = side // 2
    cut = painted[:, :, first : first + stride * height, first : first + stride * width]
    return cut + bias[:, None, None]


def positions(side: int, weight: Array, bias: Array) -> Array:
    """(C, side, side): a linear map of the distances to top, left, bottom and right."""
    down, right = np.mgrid[:side, :side] / (side - 1)
    grid = np.stack([down, right, 1 - down, 1 - right], axis=-1)
    return (grid @ weight.T + bias).transpose(2, 0, 1)


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5) * weight + bias


def softmax(x: Array, axis: int) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def expected_output(model: SlotAttention, images: Tensor, noise: Tensor) -> dict[str, Array]:
    """Slots, attention weights, masks, component means and reconstruction."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}

    def linear(x: Array, name: str) -> Array:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.float64(0))

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    x = images.double().numpy()
    for layer in (0, 2, 4, 6):
        name = f"encoder.convs.{layer}"
        x = np.maximum(convolve(x, w[f"{name}.weight"], w[f"{name}.bias"]), 0)
    name = "encoder.position.linear"
    x = x + positions(SIZE, w[f"{name}.weight"], w[f"{name}.bias"])
    pixels = norm(x.reshape(*x.shape[:2], -1).swapaxes(1, 2), "encoder.mlp.0")
    pixels = linear(np.maximum(linear(pixels, "encoder.mlp.1"), 0), "encoder.mlp.3")

    inputs = norm(pixels, "slot_updates.norm_inputs")
    keys = linear(inputs, "slot_updates.key")
    values = linear(inputs, "slot_updates.value")
    log_std = w["slot_updates.log_std"]
    slots = w["slot_updates.mean"] + np.exp(log_std) * noise.double().numpy()
    for _ in range(3):
        queries = linear(norm(slots, "slot_updates.norm_slots"), "slot_updates.query")
        weights = softmax(queries @ keys.swapaxes(1, 2) / np.sqrt(DIM), axis=1)
        shares = weights + 1e-8
        updates = shares / shares.sum(axis=2, keepdims=True) @ values
        wi, bi = w["slot_updates.gru.weight_ih"], w["slot_updates.gru.bias_ih"]
        wh, bh = w["slot_updates.gru.weight_hh"], w["slot_updates.gru.bias_hh"]
        reset_i, keep_i, new_i = np.split(updates @ wi.T + bi, 3, axis=2)
        reset_h, keep_h, new_h = np.split(slots @ wh.T + bh, 3, axis=2)
        keep = sigmoid(keep_i + keep_h)
        candidate = np.tanh(new_i + sigmoid(reset_i + reset_h) * new_h)
        slots = (1 - keep) * candidate + keep * slots
        hidden = np.maximum(linear(norm(slots, "slot_updates.mlp.0"), "slot_updates.mlp.1"), 0)
        slots = slots + linear(hidden, "slot_updates.mlp.3")

    y = np.broadcast_to(slots.reshape(-1, DIM, 1, 1), (slots.shape[0] * SLOTS, DIM, 8, 8))
    y = y + positions(8, w["decoder.1.linear.weight"], w["decoder.1.linear.bias"])
    # 8 -> 16 -> 32, and twice more at full size.
    for layer, stride in ((2, 2), (4, 2), (6, 1), (8, 1)):
        name = f"decoder.{layer}"
        y = convolve_transposed(y, w[f"{name}.weight"], w[f"{name}.bias"], stride)
        y = y if layer == 8 else np.maximum(y, 0)
    y = y.reshape(-1, SLOTS, 4, SIZE, SIZE)
    masks = softmax(y[:, :, 3:], axis=1)
    return {
        "slots": slots,
        "attention": weights.reshape(-1, SLOTS, 1, SIZE, SIZE),
        "masks": masks,
        "means": y[:, :, :3],
        "reconstruction": (masks * y[:, :, :3]).sum(axis=1),
    }


def test_the_model_is_its_definition(model: SlotAttention, images: Tensor) -> None:
    noise = torch.randn(2, SLOTS, DIM, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = model(images[:2], noise=noise)
        losses = model.losses(images[:2], out)
    expected = expected_output(model, images[:2], noise)
    for name, actual in (
        ("slots", out.latents),
        ("slots", out.latent_mean),
        ("attention", out.log_attention.exp()),
        ("masks", out.log_masks.exp()),
        ("means", out.means),
        ("reconstruction", out.reconstruction),
    ):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            actual.numpy(), expected[name], rtol=1e-4, atol=1e-4 * scale, err_msg=name
        )
    # The comparison means something: slots, masks and components are not all alike.
    for name in ("slots", "attention", "masks", "means"):
        assert np.abs(np.diff(expected[name], axis=1)).max() > 0.05, name
    error = (expected["reconstruction"] - images[:2].numpy()) ** 2
    np.testing.assert_allclose(losses.nll.numpy(), error.mean(axis=(1, 2, 3)), rtol=1e-4)
    assert (losses.kl == 0).all() and losses.mask_kl is None


# What it promises


def test_slots_can_be_exchanged(model: SlotAttention, images: Tensor) -> None:
    """Exchanging the noise of two slots exchanges the slots, and nothing else."""
    noise = torch.randn(4, SLOTS, DIM, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        out, exchanged = model(images, noise=noise), model(images, noise=noise.flip(1))
    torch.testing.assert_close(exchanged.latents, out.latents.flip(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(exchanged.log_masks, out.log_masks.flip(1), rtol=0, atol=1e-3)
    torch.testing.assert_close(exchanged.reconstruction, out.reconstruction, rtol=0, atol=1e-4)


def test_the_noise_to_segment_with_keeps_slots_apart(model: SlotAttention, images: Tensor) -> None:
    noise = model.inference_randomness(4, SLOTS)["noise"]
    assert torch.equal(noise, model.inference_randomness(4, SLOTS)["noise"])
    assert torch.equal(noise[0], noise[3])
    with torch.no_grad():
        slots = model(images, noise=noise).latents
    assert (slots[:, 0] - slots[:, 1]).abs().amax(dim=1).min() > 0.01


def test_it_cannot_generate(model: SlotAttention) -> None:
    assert not model.generative
    with pytest.raises(NotImplementedError, match="cannot generate scenes: it has no prior"):
        model.sample(2)
