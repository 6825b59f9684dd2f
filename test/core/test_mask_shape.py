"""What latents are computed from beside features: moments and thumbnails of masks and colours."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genesis_core import ConfigError, GenesisV2, GenesisV2Config, Segmenter, save_model
from genesis_core.models.losses import readable_latents
from genesis_core.models.mask_shape import (
    MOMENTS,
    mask_colours,
    mask_shape,
    masked_image,
    slot_frames,
)


def rectangle(top: int, left: int, height: int, width: int, size: int = 96) -> Tensor:
    """(size, size), one inside."""
    mask = torch.zeros(size, size)
    mask[top : top + height, left : left + width] = 1
    return mask


def test_moments_are_those_that_latents_are_to_say() -> None:
    masks = torch.rand(2, 3, 96, 96) ** 4
    weights = masks.square()
    moments = mask_shape(masks, slot_frames(weights), 8)[..., :MOMENTS]
    share, readable = readable_latents(torch.rand(2, 3, 96, 96), weights[:, :, None].log())
    torch.testing.assert_close(moments[..., 0], share.sqrt())
    torch.testing.assert_close(moments[..., 1:], readable[..., 3:], rtol=1e-3, atol=1e-4)


def test_a_thumbnail_shows_a_mask_whatever_its_place_and_size() -> None:
    """An L, then the same twice as large, shifted and stretched to double height."""

    def letter(top: int, left: int, rows: int, columns: int) -> Tensor:
        upright = rectangle(top, left, 6 * rows, 2 * columns)
        foot = rectangle(top + 4 * rows, left, 2 * rows, 6 * columns)
        return torch.maximum(upright, foot)

    masks = torch.stack([letter(20, 30, 2, 2), letter(8, 50, 8, 4)])[None]
    first, second = (
        mask_shape(masks, slot_frames(masks), 12)[0, :, MOMENTS:].unflatten(1, (12, 12)) + 0.5
    )
    assert (first - second).abs().mean() < 0.04
    # Its upper right is empty, its other corners are not.
    rows = first.round().int().tolist()
    inside = [(r, c) for r in range(12) for c in range(12) if rows[r][c]]
    top, bottom = min(r for r, _ in inside), max(r for r, _ in inside)
    left, right = min(c for _, c in inside), max(c for _, c in inside)
    corners = [rows[top][left], rows[top][right], rows[bottom][left], rows[bottom][right]]
    assert corners == [1, 0, 1, 1]
    assert rows[0] == [0] * 12 and rows[-1] == [0] * 12


def test_a_mask_of_nothing_and_one_of_a_pixel_have_finite_shapes() -> None:
    masks = torch.stack([torch.zeros(96, 96), rectangle(3, 5, 1, 1)])[None]
    shape = mask_shape(masks, slot_frames(masks), 4)
    assert shape.shape == (1, 2, MOMENTS + 16) and bool(shape.isfinite().all())
    row, column = -1 + 2 * 3 / 95, -1 + 2 * 5 / 95
    assert shape[0, 1, :3].tolist() == pytest.approx([1 / 96, row, column], abs=1e-6)


def test_colours_are_those_in_the_mask_wherever_it_is() -> None:
    """A block of red above blue, and one elsewhere of blue beside red; both images at once."""
    images = torch.zeros(2, 3, 48, 48)
    images[:, 1] = 1  # green all around
    images[0, :, 8:24, 8:24] = torch.tensor([1.0, 0, 0])[:, None, None]
    images[0, :, 24:40, 8:24] = torch.tensor([0.0, 0, 1])[:, None, None]
    images[1, :, 4:12, 20:28] = torch.tensor([0.0, 0, 1])[:, None, None]
    images[1, :, 4:12, 28:36] = torch.tensor([1.0, 0, 0])[:, None, None]
    masks = torch.zeros(2, 2, 96, 96)  # twice as fine as the images
    masks[0, 1, 16:80, 16:48], masks[1, 0, 8:24, 40:72] = 1, 1
    seen = mask_colours(images, masks, slot_frames(masks), 4).unflatten(2, (3, 4, 4))
    assert seen[0, 0].abs().max() == seen[1, 1].abs().max() == 0  # masks of nothing
    first, second = seen[0, 1], seen[1, 0]
    # The block's edges are at 1.73 of 2.5 spreads: the middle four pixels see nothing else.
    red, blue = torch.tensor([0.5, -0.5, -0.5]), torch.tensor([-0.5, -0.5, 0.5])
    for column in (1, 2):
        torch.testing.assert_close(first[:, 1, column], red, atol=1e-5, rtol=0)
        torch.testing.assert_close(first[:, 2, column], blue, atol=1e-5, rtol=0)
    for row in (1, 2):
        torch.testing.assert_close(second[:, row, 1], blue, atol=1e-5, rtol=0)
        torch.testing.assert_close(second[:, row, 2], red, atol=1e-5, rtol=0)
    # Of what is around the block hardly anything is seen: green is never above one half.
    assert first[1].max() < 0.05 and second[1].max() < 0.05


def test_a_masked_image_shows_each_slot_where_it_is() -> None:
    """Two images of four by four quarters; a mask covers the upper left one, half of it another."""
    images = torch.zeros(2, 3, 24, 24)
    images[:, 0] = 1  # red
    images[1, :, 12:] = torch.tensor([0.0, 0.0, 1.0])[:, None, None]  # blue below
    masks = torch.zeros(2, 2, 24, 24)
    masks[0, 0, :12, :12], masks[1, 1, 6:18, 12:] = 1, 0.5
    seen = masked_image(images, masks, 2).unflatten(2, (4, 2, 2))
    assert seen.shape == (2, 2, 4, 2, 2)
    red, nothing = torch.tensor([0.5, -0.5, -0.5, 0.5]), torch.tensor([0.0, 0.0, 0.0, -0.5])
    expected = nothing[None, None, :, None, None].repeat(2, 2, 1, 2, 2)
    expected[0, 0, :, 0, 0] = red
    # Half of each right quarter, by half: a quarter of its colour, and of its mask.
    expected[1, 1, :, 0, 1] = torch.tensor([0.125, -0.125, -0.125, -0.25])
    expected[1, 1, :, 1, 1] = torch.tensor([-0.125, -0.125, 0.125, -0.25])
    torch.testing.assert_close(seen, expected)


def test_a_masked_image_has_any_side() -> None:
    """Of pixels that it does not divide: their mean stays what it is."""
    images, masks = torch.rand(1, 3, 24, 24), torch.rand(1, 2, 24, 24)
    seen = masked_image(images, masks, 7).unflatten(2, (4, 49))
    assert seen.shape == (1, 2, 4, 49)
    torch.testing.assert_close(seen[:, :, 3].mean(2), masks.mean((2, 3)) - 0.5, atol=0.02, rtol=0)


def _model(side: int, colours: int = 0, whole: int = 0) -> GenesisV2:
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=32, num_slots=3, feature_dim=8, latent_dim=8,
        mask_thumbnail=side, colour_thumbnail=colours, image_thumbnail=whole,
    )  # fmt: skip
    return GenesisV2(config).eval()


@pytest.mark.parametrize("side", [0, 4])
@pytest.mark.parametrize("kind", ["colour", "image"])
def test_latents_know_what_is_where_in_their_mask(kind: str, side: int) -> None:
    """The same features and masks: only the image can tell."""
    plain = _model(side)
    model = _model(side, 6) if kind == "colour" else _model(side, 0, 6)
    model.load_state_dict({**model.state_dict(), **plain.state_dict()})
    features, masks = torch.ones(1, 8, 32, 32), rectangle(6, 6, 20, 20, 32)[None, None]
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, :16] = 1  # bright above
    with torch.no_grad():
        before = plain.posterior(features, masks)
        # A new head is zero.
        torch.testing.assert_close(model.posterior(features, masks, images), before)
        _last(model, kind).weight.normal_()
        above, below = (
            model.posterior(features, masks, each)[0] for each in (images, images.flip(2))
        )
    assert (above - below).abs().max() > 0.01
    with pytest.raises(ValueError, match="computed from the images, too"):
        model.posterior(features, masks)


def _last(model: GenesisV2, kind: str) -> nn.Linear:
    """The last layer of the head of a kind of thumbnail."""
    head = model.get_submodule(f"{kind}_head")
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear)
    return last


def test_a_posterior_can_be_set_whatever_its_heads_learned() -> None:
    model = _model(4, 6, 6)
    for kind in ("shape", "colour", "image"):
        torch.nn.init.normal_(_last(model, kind).weight)
        torch.nn.init.normal_(_last(model, kind).bias)
    given = torch.rand(1, 8, 32, 32), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model.posterior(*given)
        model.set_posterior_std(0.25)
        mean, std = model.posterior(*given)
    torch.testing.assert_close(mean, before[0])
    torch.testing.assert_close(std, torch.full_like(std, 0.25))
    assert (before[1] - 0.25).abs().max() > 0.1


def test_latents_know_the_shape_of_their_mask() -> None:
    """The same features everywhere: only the thumbnail can tell a bar from a block."""
    plain, shaped = _model(0), _model(8)
    shaped.load_state_dict({**shaped.state_dict(), **plain.state_dict()})
    features = torch.ones(1, 8, 32, 32)
    masks = torch.stack([rectangle(10, 10, 4, 16, 32), rectangle(10, 10, 8, 8, 32)])[None]
    with torch.no_grad():
        before = plain.posterior(features, masks)
        # A new shape head is zero.
        torch.testing.assert_close(shaped.posterior(features, masks), before)
        assert shaped.shape_head is not None
        shaped.shape_head[-1].weight.normal_()
        mean, _ = shaped.posterior(features, masks)
    torch.testing.assert_close(before[0][:, 0], before[0][:, 1])
    assert (mean[:, 0] - mean[:, 1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["shape", "colour", "image"])
def test_the_gradient_reaches_masks_by_the_features_alone(kind: str) -> None:
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    features, gradients = torch.rand(1, 8, 32, 32), []
    soft = torch.rand(1, 2, 32, 32)
    for weight in (0.0, 1.0):
        sides = {"shape": (8, 0, 0), "colour": (0, 8, 0), "image": (0, 0, 8)}
        model = _model(*sides[kind])
        last = _last(model, kind)
        model.latent_head[1].weight.data.abs_()  # so that no hidden unit is off
        model.latent_head[1].bias.data.fill_(100)
        last.weight.data.fill_(weight)
        masks = soft.clone().requires_grad_()
        model.posterior(features, masks, images)[0].sum().backward()
        gradients.append(masks.grad)
        assert last.weight.grad is not None and last.weight.grad.abs().max() > 0
    assert images.grad is None
    torch.testing.assert_close(gradients[0], gradients[1])


def test_parts_of_a_batch_have_latents_of_their_own_images() -> None:
    """Where only some images are encoded, and fewer decoded, as in training."""
    model = _model(4, 6, 8)
    for kind in ("colour", "image"):
        _last(model, kind).weight.data.normal_()
    images, drawn = torch.rand(4, 3, 32, 32), model.inference_randomness(4, 3)
    with torch.no_grad():
        whole = model(images, **drawn)
        part = model.explain_partly(images, encode=slice(1, 4), decode=slice(1, 3), **drawn)
    assert whole.latent_mean is not None and part.encoded.latent_mean is not None
    torch.testing.assert_close(part.encoded.latent_mean, whole.latent_mean[1:])
    torch.testing.assert_close(part.decoded.latent_mean, whole.latent_mean[2:])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("colours, whole", [(0, 0), (6, 0), (0, 16), (6, 16)])
def test_a_segmenter_gives_latents_that_know_shapes(
    colours: int, whole: int, precision: str, tmp_path: Path
) -> None:
    """Those of the model itself, from a file, with the other encoder and slots left out."""
    torch.manual_seed(0)
    model = GenesisV2(
        GenesisV2Config(
            image_size=64, num_slots=4, feature_dim=8, latent_dim=8, mask_thumbnail=8,
            encoder="efficientnet_lite0", decoder_size=16, decoder_dim=8,
            pooling_exponent=2.0, small_slots="skip", colour_thumbnail=colours,
            image_thumbnail=whole,
        )
    ).eval()  # fmt: skip
    for kind, side in (("shape", 8), ("colour", colours), ("image", whole)):
        if side:
            torch.nn.init.normal_(_last(model, kind).weight, std=1.0 if kind != "image" else 0.1)
    save_model(model, tmp_path / "model.safetensors", {"mask_source": "attention"})
    segmenter = Segmenter(tmp_path / "model.safetensors", device="cpu", precision=precision)
    image = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    scene = segmenter(image.numpy())
    with torch.no_grad():
        drawn = model.inference_randomness(1, 4)
        out = model(image.permute(2, 0, 1)[None] / 255, decode=False, **drawn)
    assert out.latent_mean is not None
    close = 1e-3 if precision == "fp32" else 0.1
    torch.testing.assert_close(
        torch.from_numpy(scene.latent_mean), out.latent_mean[0], rtol=close, atol=close
    )


def test_a_thumbnail_misses_nothing_between_its_points() -> None:
    """A slit of four pixels in a block of forty, wherever it is."""
    changes = []
    for column in range(30, 62):
        block = rectangle(28, 26, 40, 40)
        frames = slot_frames(block[None, None])
        whole = mask_shape(block[None, None], frames, 8)[0, 0, MOMENTS:]
        slit = block.clone()
        slit[28:60, column : column + 4] = 0
        found = mask_shape(slit[None, None], frames, 8)[0, 0, MOMENTS:]
        changes.append(float((whole - found).abs().sum()))
    assert min(changes) > 0.5 * max(changes) > 0


@pytest.mark.parametrize("side", [1, 33, -2, 2.5, True])
@pytest.mark.parametrize("name", ["mask_thumbnail", "colour_thumbnail", "image_thumbnail"])
def test_sides_that_thumbnails_cannot_have_are_refused(name: str, side: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        GenesisV2Config(**{name: side})  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [-8, 2.5, True])
def test_widths_that_the_heads_of_latents_cannot_have_are_refused(width: float) -> None:
    with pytest.raises(ConfigError, match="latent_width is"):
        GenesisV2Config(latent_width=width)  # type: ignore[arg-type]


def test_half_precision_gives_the_same_shape() -> None:
    masks = rectangle(20, 30, 17, 9)[None, None]
    with torch.autocast("cpu", torch.bfloat16):
        half = mask_shape(masks, slot_frames(masks), 8)
    torch.testing.assert_close(half, mask_shape(masks, slot_frames(masks), 8), atol=0, rtol=0)
    # A bar of 17 rows has a standard deviation of the rows' numbers 0 to 16, in halves of 95.
    expected = 2 * math.sqrt((17**2 - 1) / 12) * 2 / 95
    assert half[0, 0, 3].item() == pytest.approx(expected, rel=1e-4)
