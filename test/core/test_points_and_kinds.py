"""GENESIS-V2 with another encoder, with depth and with kinds of slots; none of it in the paper."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import (
    CheckpointError,
    ConfigError,
    GenesisV2,
    GenesisV2Config,
    Scene,
    Segmenter,
    SlotModel,
    load_model,
    save_model,
)
from genesis_core.kinds import KINDS
from genesis_core.models.points import back_project
from genesis_core.ops import edges
from genesis_core.ops.edges import follow_edges

ModelFactory = Callable[..., GenesisV2]
Depth = NDArray[np.float32]
Matrix = NDArray[np.float64]

SLOTS = 4
OBJECT, ROBOT, SURROUNDINGS = (KINDS.index(kind) for kind in ("object", "robot", "surroundings"))
SMALL = {
    "unet": {"image_size": 32},
    "efficientnet_lite0": {"image_size": 64, "encoder": "efficientnet_lite0"},
}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(params=list(SMALL))
def encoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def make(make_model: ModelFactory) -> ModelFactory:
    """Small models of either encoder, in which depth and each slot's kind matter."""

    def build(encoder: str, **config: Any) -> GenesisV2:
        model = make_model(**{**SMALL[encoder], **config})
        branch = getattr(model.backbone, "branch", None)
        if branch is not None:
            generator = torch.Generator().manual_seed(1)
            for conv in branch.to_trunk:  # zero in a new model: the trunk would not see depth
                torch.nn.init.normal_(conv.weight, std=0.05, generator=generator)
            for value in branch.parameters():
                if value.ndim == 1:  # biases of zero would hide what the branch makes of nothing
                    value.data += 0.3 * torch.rand(value.shape, generator=generator)
        return model

    return build


def boxes(model: GenesisV2, batch: int = 2) -> Tensor:
    """Images of two boxes on a noisy ground, (B, 3, S, S)."""
    size = model.config.image_size
    images = 0.3 * torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    for index, image in enumerate(images):
        image[0, size // 8 : size // 2, 3 + 4 * index : size // 3 + 4 * index] = 0.9
        image[2, size // 2 : size - 4, size // 2 : size - 3 - index] = 0.8
    return images


def measured(model: GenesisV2, batch: int = 2) -> Tensor:
    """Points (B, 4, S, S) of a tilted plane with a box on it and a hole in it."""
    size = model.config.image_size
    depth = (1 + torch.linspace(0, 0.5, size)).repeat(batch, size, 1).transpose(1, 2).clone()
    depth[:, size // 4 : size // 2, size // 4 : size // 2] -= 0.2
    depth[:, -5:, :7] = 0
    camera = torch.tensor([size, size, size / 2, size / 2], dtype=torch.float32)
    return back_project(depth, camera.expand(batch, 4))


# The model


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("points", [False, True])
def test_every_variant_segments_encodes_and_decodes(
    encoder: str, points: bool, kinds: bool, make: ModelFactory
) -> None:
    model = make(encoder, points=points, kinds=kinds, decoder_size=16, decoder_dim=16)
    images = boxes(model)
    given = {"points": measured(model)} if points else {}
    out = model(images, **given)
    inside = 32  # UNet: the image's; EfficientNet-Lite0: half of its 64
    assert model.config.mask_size == inside and model.config.decoded_size == 16
    assert out.log_attention is not None and out.log_masks is not None
    assert out.log_attention.shape == (2, SLOTS, 1, inside, inside)
    assert out.log_masks.shape == (2, SLOTS, 1, 16, 16)
    assert out.means.shape == (2, SLOTS, 3, 16, 16)
    assert out.reconstruction.shape == (2, 3, 16, 16)
    assert out.latent_mean.shape == out.latents.shape == (2, SLOTS, 6)
    for log_masks in (out.log_attention, out.log_masks):
        torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones_like(log_masks[:, 0]))
    assert model.takes_points == points and model.tells_kinds == kinds
    if kinds:
        assert out.kind_logits.shape == (2, SLOTS, 3) and out.kind_logits.dtype == torch.float32
    else:
        assert out.kind_logits is None
    losses = model.losses(images, out)
    assert losses.nll.shape == (2,) and losses.kl.shape == (2, SLOTS)
    assert losses.elbo.isfinite().all()
    assert model.sample(2).reconstruction.shape == (2, 3, 16, 16)
    flexible = model(images, **given, stop_threshold=64 * 64 / 3)
    assert flexible.latents.shape[1] <= SLOTS
    assert (flexible.num_slots >= 1).all()


def test_losses_without_the_paper_are_of_the_image_averaged(make: ModelFactory) -> None:
    model = make("unet", decoder_size=16, pixel_std=0.5)
    images = boxes(model)
    out = model(images)
    assert out.log_masks is not None and out.means is not None
    small = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    density = torch.distributions.Normal(out.means, 0.5).log_prob(small[:, None])
    expected = -(out.log_masks + density).logsumexp(dim=1).flatten(1).sum(dim=1)
    torch.testing.assert_close(model.losses(images, out).nll, expected)


@torch.enable_grad()
def test_mask_consistency_compares_masks_of_one_size_and_has_finite_gradients(
    encoder: str, make: ModelFactory
) -> None:
    model = make(encoder, mask_loss=True, decoder_size=16, points=True, kinds=True).train()
    images = boxes(model)
    out = model(images, points=measured(model))
    losses = model.losses(images, out)
    assert losses.mask_kl is not None and (losses.mask_kl > 0).all()
    assert out.kind_logits is not None
    (losses.nll.mean() + losses.mask_kl.mean() + out.kind_logits.square().mean()).backward()
    broken = [n for n, p in model.named_parameters() if p.grad is not None and p.grad.isnan().any()]
    assert broken == []
    assert model.kind_head is not None and model.kind_head.weight.grad is not None
    assert model.kind_head.weight.grad.any()


def assert_same(actual: Any, expected: Any, names: tuple[str, ...]) -> None:
    for name in names:
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), atol=2e-4, rtol=1e-3, msg=name
        )


OUTPUTS = ("log_attention", "log_masks", "latent_mean", "latent_std", "kind_logits")


def test_images_without_depth_in_a_batch_with_it_give_what_they_give_alone(
    encoder: str, make: ModelFactory
) -> None:
    model = make(encoder, points=True, kinds=True)
    images, points = boxes(model, 3), measured(model, 3)
    points[1] = 0
    together = model(images, points=points)
    for index, alone in enumerate(
        (
            model(images[:1], points=points[:1]),
            model(images[1:2]),
            model(images[2:], points=points[2:]),
        )
    ):
        for name in OUTPUTS:
            torch.testing.assert_close(
                getattr(together, name)[index : index + 1],
                getattr(alone, name),
                atol=2e-4,
                rtol=1e-3,
                msg=f"{name} of image {index}",
            )
    assert (together.latent_mean - model(images).latent_mean)[0].abs().max() > 1e-3


@pytest.mark.parametrize("unknown", [0.0, math.nan, math.inf])
def test_depth_that_is_unknown_everywhere_is_no_depth(
    unknown: float, encoder: str, make: ModelFactory
) -> None:
    model = make(encoder, points=True, kinds=True)
    images, size = boxes(model), model.config.image_size
    nothing = back_project(torch.full((2, size, size), unknown), torch.full((2, 4), 30.0))
    assert_same(model(images, points=nothing), model(images), OUTPUTS)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            torch.rand(2, 4, 16, 16),
            r"points have shape \(2, 4, 16, 16\); expected \(2, 4, 32, 32\)",
        ),
        (torch.rand(2, 3, 32, 32), r"points have shape \(2, 3, 32, 32\)"),
        (torch.rand(1, 4, 32, 32), r"points have shape \(1, 4, 32, 32\)"),
        (torch.ones(2, 4, 32, 32, dtype=torch.int32), "points are torch.int32; expected floating"),
    ],
)
def test_points_of_another_form_are_refused(
    points: Tensor, message: str, make: ModelFactory
) -> None:
    model = make("unet", points=True)
    with pytest.raises(ValueError, match=message):
        model(boxes(model), points=points)
    with pytest.raises(ValueError, match=message):
        model.find_masks(boxes(model), points=points)


def test_points_are_refused_by_models_of_colour_alone(make: ModelFactory) -> None:
    model = make("unet")
    with pytest.raises(ValueError, match="this genesis_v2 model takes images only: leave them out"):
        model(boxes(model), points=torch.rand(2, 4, 32, 32))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"encoder": "resnet"}, "encoder is 'resnet'; expected one of unet, efficientnet_lite0"),
        ({"points": 1}, "points is 1; expected true or false"),
        ({"kinds": "yes"}, "kinds is 'yes'; expected true or false"),
        ({"decoder_size": 48}, "decoder_size is 48; expected a power of two from 16 to 256, or 0"),
        ({"decoder_size": 8}, "decoder_size is 8"),
        ({"decoder_dim": 12}, "decoder_dim is 12; expected a multiple of 8"),
        ({"decoder_dim": True}, "decoder_dim is True"),
        ({"encoder": "efficientnet_lite0", "image_size": 32}, "image_size is 32; encoder eff"),
        ({"encoder": "efficientnet_lite0", "image_size": 100}, "multiples of 32 from 64 to 512"),
        ({"encoder": "efficientnet_lite0", "image_size": 544}, "image_size is 544"),
        (
            {"encoder": "efficientnet_lite0", "image_channels": 4},
            "image_channels is 4; encoder efficientnet_lite0 takes 3. Depth reaches it as points",
        ),
        ({"image_size": 96}, "image_size is 96"),
    ],
)
def test_configs_that_no_model_has_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        GenesisV2Config(**config)
    assert message in str(error.value)


def test_sizes_between_powers_of_two_go_with_the_other_encoder() -> None:
    config = GenesisV2Config(image_size=96, encoder="efficientnet_lite0", decoder_size=32)
    assert (config.mask_size, config.decoded_size) == (48, 32)


# Published weights


def test_published_weights_fill_the_trunk(
    make: ModelFactory, published_weights: dict[str, Tensor]
) -> None:
    model = make("efficientnet_lite0", points=True)
    model.load_encoder(published_weights)
    assert torch.equal(
        model.backbone.trunk.stem.weight,
        published_weights["_conv_stem.weight"],
    )
    assert model.pretrained_part == "backbone.trunk"
    with pytest.raises(ConfigError, match="has no encoder with published weights"):
        make("unet").load_encoder(published_weights)


# Checkpoints


def test_a_checkpoint_in_half_precision_is_half_as_large_and_the_model_almost_the_same(
    encoder: str, make: ModelFactory, tmp_path: Path
) -> None:
    model = make(encoder, points=True, kinds=True)
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_model(model, full, {"stop_threshold": 30})
    save_model(model, half, {"stop_threshold": 30}, dtype=torch.float16)
    weights = sum(value.numel() for value in model.state_dict().values())
    assert full.stat().st_size - half.stat().st_size == pytest.approx(2 * weights, rel=1e-3)
    loaded = load_model(half)
    assert loaded.config == model.config and loaded.metadata == {"stop_threshold": 30}
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[name].half().float()), name
    images, points = boxes(model), measured(model)
    latents = [each(images, points=points).latent_mean for each in (model, loaded)]
    torch.testing.assert_close(*latents, atol=0.05, rtol=0)


def test_numbers_that_are_no_weights_stay_whole_in_half_precision(
    build_small: Callable[..., SlotModel], tmp_path: Path
) -> None:
    model = build_small("genesis_v1")
    counts = [n for n, v in model.state_dict().items() if not v.is_floating_point()]
    assert counts, "of batch normalisation"
    model.state_dict()[counts[0]].fill_(2**24 + 1)
    save_model(model, tmp_path / "half.safetensors", dtype=torch.float16)
    assert load_model(tmp_path / "half.safetensors").state_dict()[counts[0]] == 2**24 + 1


# The Segmenter


def segmenter(model: SlotModel, folder: Path, info: dict[str, Any], **options: Any) -> Segmenter:
    """In float32 on the CPU."""
    path = folder / "model.safetensors"
    save_model(model, path, info)
    return Segmenter(path, **{"device": "cpu", "precision": "fp32", **options})


def camera(focal: float = 60.0, x: float = 40.0, y: float = 30.0) -> Matrix:
    return np.array([[focal, 0, x], [0, 1.1 * focal, y], [0, 0, 1]])


def view(height: int = 60, width: int = 80, seed: int = 0) -> tuple[NDArray[np.uint8], Depth]:
    """A picture of coarse patches, and depth that has nothing to do with it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(10, 0).repeat(10, 1)[:height, :width])
    depth = 1 + 0.3 * rng.random((height, width))
    depth[:5, :7] = 0
    depth[-6:, -9:] = np.nan
    return image, depth.astype(np.float32)


def assert_scenes_agree(actual: Scene, expected: Scene, tolerance: float = 2e-4) -> None:
    assert actual.num_slots == expected.num_slots
    np.testing.assert_allclose(actual.masks, expected.masks, atol=tolerance)
    np.testing.assert_allclose(actual.latent_mean, expected.latent_mean, atol=tolerance)
    if expected.kinds is None:
        assert actual.kinds is None
    else:
        assert actual.kinds is not None and actual.kinds.tolist() == expected.kinds.tolist()


@pytest.mark.parametrize("mask_source", ["attention", "decoder"])
def test_scenes_with_depth_and_kinds(
    mask_source: str, encoder: str, make: ModelFactory, tmp_path: Path
) -> None:
    model = make(encoder, points=True, kinds=True, decoder_size=16)
    segment = segmenter(model, tmp_path, {}, mask_source=mask_source)
    assert segment.uses_depth and segment.has_kinds
    segment.warm_up()
    image, depth = view()
    scene = segment(image, depth=depth, intrinsics=camera())
    assert scene.masks.shape == (scene.num_slots, 60, 80)
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)
    assert scene.kinds is not None and scene.kinds.shape == (scene.num_slots,)
    assert set(scene.kinds) <= {"object", "robot", "surroundings"}
    without = segment(image)
    assert not np.allclose(scene.latent_mean[0], without.latent_mean[0], atol=1e-3)
    quantised = segment(image, depth=depth, intrinsics=camera(), quantised=True)
    assert quantised.masks.dtype == np.uint8
    assert quantised.kinds is not None and quantised.kinds.tolist() == scene.kinds.tolist()


def test_images_with_and_without_depth_in_one_call(
    encoder: str, make: ModelFactory, tmp_path: Path
) -> None:
    segment = segmenter(make(encoder, points=True), tmp_path, {})
    (first, depth), (second, _), (third, other) = (
        view(),
        view(50, 90, seed=1),
        view(64, 64, seed=2),
    )
    scenes = segment(
        [first, second, third],
        depth=[depth, None, other],
        intrinsics=[camera(), None, camera(80.0)],
    )
    assert_scenes_agree(scenes[0], segment(first, depth=depth, intrinsics=camera()))
    assert_scenes_agree(scenes[1], segment(second))
    assert_scenes_agree(scenes[2], segment(third, depth=other, intrinsics=camera(80.0)))
    for scene, alone in zip(segment([first, second]), (first, second), strict=True):
        assert_scenes_agree(scene, segment(alone))
    assert segment([], depth=[], intrinsics=[]) == []


@pytest.mark.parametrize("unknown", [math.nan, math.inf, -math.inf, -1.0, 151.0, 1e10, 3e38])
def test_unknown_depth_is_the_same_however_it_is_marked(
    unknown: float, make: ModelFactory, tmp_path: Path
) -> None:
    segment = segmenter(make("unet", points=True), tmp_path, {})
    image, depth = view()
    marked, zero = depth.copy(), depth.copy()
    marked[3:9, 5:20], zero[3:9, 5:20] = unknown, 0
    scene = segment(image, depth=marked, intrinsics=camera())
    assert_scenes_agree(scene, segment(image, depth=zero, intrinsics=camera()))


@pytest.mark.parametrize("unknown", [0.0, math.nan, math.inf, -1.0])
def test_a_depth_image_without_depth_is_none(
    unknown: float, make: ModelFactory, tmp_path: Path
) -> None:
    segment = segmenter(make("unet", points=True), tmp_path, {})
    image, depth = view()
    empty = np.full_like(depth, unknown)
    assert_scenes_agree(segment(image, depth=empty, intrinsics=camera()), segment(image))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_segmenter_that_has_worked_can_be_copied_and_pickled(
    encoder: str, precision: str, make: ModelFactory, tmp_path: Path
) -> None:
    """Then its weights are packed, which no other process can read."""
    segment = segmenter(make(encoder, points=True, kinds=True), tmp_path, {}, precision=precision)
    image, depth = view()
    expected = segment(image, depth=depth, intrinsics=camera())
    for twin in (copy.deepcopy(segment), pickle.loads(pickle.dumps(segment))):
        scene = twin(image, depth=depth, intrinsics=camera())
        np.testing.assert_array_equal(scene.masks, expected.masks)
        assert twin.model is twin._inference.model is not segment.model


def test_a_model_of_colour_alone_leaves_depth_aside(make: ModelFactory, tmp_path: Path) -> None:
    segment = segmenter(make("unet"), tmp_path, {})
    assert not segment.uses_depth and not segment.has_kinds
    image, depth = view()
    scene = segment(image, depth=depth, intrinsics=camera())
    assert scene.kinds is None
    assert_scenes_agree(scene, segment(image), tolerance=0)


def points_by_hand(
    depth: Depth, matrix: Matrix, size: int, left: int, side: tuple[int, int]
) -> Tensor:
    """Points of the depth at the middle of each pixel of the model, one by one: (1, 4, S, S)."""
    points = torch.zeros(1, 4, size, size)
    for row in range(size):
        for column in range(size):
            v = (row + 0.5) * side[0] / size - 0.5  # in pixels of the image
            u = (column + 0.5) * side[1] / size - 0.5 + left
            assert u == int(u) and v == int(v)
            z = float(depth[int(v), int(u)])
            x = (u - matrix[0, 2]) / matrix[0, 0] * z
            y = (v - matrix[1, 2]) / matrix[1, 1] * z
            points[0, :, row, column] = torch.tensor([x, y, z, 1.0])
    return points


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_intrinsics_follow_resizing_and_cropping(
    fit: str, make: ModelFactory, tmp_path: Path
) -> None:
    """The image is 3 model pixels high and 5 wide, or cropped to 3 by 3 in its middle."""
    model = make("unet", points=True, decoder_size=16)
    segment = segmenter(model, tmp_path, {}, fit=fit, mask_source="attention")
    grey = np.full((96, 160, 3), 90, np.uint8)
    depth = (1 + 0.5 * np.random.default_rng(0).random((96, 160))).astype(np.float32)
    matrix = camera(120.0, 70.0, 55.0)
    left, side = (0, (96, 160)) if fit == "resize" else (32, (96, 96))
    points = points_by_hand(depth, matrix, 32, left, side)
    images = torch.full((1, 3, 32, 32), 90 / 255)
    out = load_model(tmp_path / "model.safetensors")(images, points=points, **mean_noise())
    scene = segment(grey, depth=depth, intrinsics=matrix)
    np.testing.assert_allclose(scene.latent_mean, out.latent_mean[0].numpy(), atol=1e-4)
    for changed in (
        camera(124.0, 70.0, 55.0),
        camera(120.0, 78.0, 55.0),
        camera(120.0, 70.0, 60.0),
    ):
        other = segment(grey, depth=depth, intrinsics=changed)
        assert not np.allclose(other.latent_mean, out.latent_mean[0].numpy(), atol=1e-4)


def mean_noise() -> dict[str, Tensor]:
    return {"noise": torch.zeros(1, SLOTS, 6)}


@pytest.mark.parametrize(
    ("depth", "intrinsics", "error", "message"),
    [
        (np.ones((60, 80), np.uint16), camera(), TypeError, "depth 0 is uint16; expected a float"),
        (np.ones((60, 80)), camera(), TypeError, "depth 0 is float64; expected a float32 array"),
        ([[1.0]], camera(), TypeError, "depth 0 is list; expected a float32 array"),
        (np.full((60, 80), 900, np.float32), camera(), ValueError, "are these millimetres?"),
        (np.ones((30, 40), np.float32), camera(), ValueError, r"\(30, 40\); expected the image's"),
        (np.ones((60, 80, 1), np.float32), camera(), ValueError, r"shape \(60, 80, 1\)"),
        (np.ones((60, 80), np.float32), None, ValueError, r"depth 0 needs intrinsics \(3, 3\)"),
        (np.ones((60, 80), np.float32), np.ones(4), ValueError, r"are \(4,\); expected an array"),
        (np.ones((60, 80), np.float32), [[1.0]], ValueError, "are list; expected an array"),
        (np.ones((60, 80), np.float32), camera(-60.0), ValueError, "no focal length"),
        (np.ones((60, 80), np.float32), camera(math.nan), ValueError, "not finite"),
        (np.ones((60, 80), np.float32), np.eye(3), ValueError, "no camera of 80x60 pixels has"),
    ],
)  # fmt: skip
def test_depth_and_intrinsics_of_another_form_are_refused(
    depth: Any,
    intrinsics: Any,
    error: type[Exception],
    message: str,
    make: ModelFactory,
    tmp_path: Path,
) -> None:
    segment = segmenter(make("unet", points=True), tmp_path, {})
    image, _ = view()
    with pytest.raises(error, match=message):
        segment(image, depth=depth, intrinsics=intrinsics)


def test_lists_of_images_want_lists_of_depth(make: ModelFactory, tmp_path: Path) -> None:
    segment = segmenter(make("unet", points=True), tmp_path, {})
    image, depth = view()
    with pytest.raises(TypeError, match="depth is a ndarray; for a list of images expected a list"):
        segment([image, image], depth=np.stack([depth, depth]))
    with pytest.raises(ValueError, match="depth has 1 items for 2 images"):
        segment([image, image], depth=[depth], intrinsics=[camera(), camera()])
    with pytest.raises(ValueError, match="intrinsics has 3 items for 2 images"):
        segment([image, image], depth=[depth, None], intrinsics=3 * [camera()])
    with pytest.raises(ValueError, match="depth 1 needs intrinsics"):
        segment([image, image], depth=[None, depth], intrinsics=[camera(), None])


def test_the_unit_is_told_from_the_known_pixels(make: ModelFactory, tmp_path: Path) -> None:
    """A depth camera of millimetres that sees little; and a lidar's far wall, which is metres."""
    segment = segmenter(make("unet", points=True), tmp_path, {})
    image, depth = view()
    mostly_unknown = np.where(depth > 1.2, 1000 * depth, 0).astype(np.float32)
    with pytest.raises(ValueError, match="millimetres"):
        segment(image, depth=mostly_unknown, intrinsics=camera())
    segment(image, depth=60 * depth, intrinsics=camera())


# Kinds


def telling(model: GenesisV2, image: NDArray[np.uint8], kinds: list[int]) -> GenesisV2:
    """The model, its head solved for so that the slots of this image are of these kinds."""
    assert model.kind_head is not None
    pooled: list[Tensor] = []
    hook = model.kind_head.register_forward_hook(lambda _, given, __: pooled.append(given[0][0]))
    model((torch.from_numpy(image).permute(2, 0, 1)[None] / 255), **mean_noise())
    hook.remove()
    known = torch.cat([pooled[0], torch.ones(SLOTS, 1)], dim=1).double()  # (K, 2C + 1)
    wanted = 20 * torch.eye(len(KINDS), dtype=torch.float64)[kinds]
    solution = torch.linalg.lstsq(known, wanted, driver="gelsd").solution.float()
    model.kind_head.weight.copy_(solution[:-1].T)
    model.kind_head.bias.copy_(solution[-1])
    return model


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks as they are before they get the image's edges."""
    monkeypatch.setattr(edges, "follow_edges", lambda masks, image: masks)


@pytest.fixture
def with_specks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Specks stay where they are."""
    monkeypatch.setattr("genesis_core.segmenter._SPECK", 0)


@pytest.mark.usefixtures("coarse", "with_specks")
def test_surroundings_become_one_slot(encoder: str, make: ModelFactory, tmp_path: Path) -> None:
    size = SMALL[encoder]["image_size"]
    image, _ = view(size, size)  # type: ignore[arg-type]
    plain = segmenter(make(encoder), tmp_path, {}, mask_source="attention")(image)
    kinds = [SURROUNDINGS, ROBOT, SURROUNDINGS, ROBOT]  # whose masks stay as they are
    model = telling(make(encoder, kinds=True), image, kinds)
    scene = segmenter(model, tmp_path, {}, mask_source="attention")(image)
    # As many pixels as all of them had; the larger one's latent.
    areas = plain.masks.sum(axis=(1, 2))
    larger = 0 if areas[0] > areas[2] else 2
    kept = [slot for slot in range(SLOTS) if kinds[slot] != SURROUNDINGS or slot == larger]
    assert scene.num_slots == 3
    assert scene.kinds is not None
    assert scene.kinds.tolist() == [KINDS[kinds[slot]] for slot in kept]
    expected = plain.masks.copy()
    expected[larger] = plain.masks[0] + plain.masks[2]
    np.testing.assert_allclose(scene.masks, expected[kept], atol=1e-4)
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(scene.latent_mean, plain.latent_mean[kept], atol=1e-3)
    np.testing.assert_allclose(scene.latent_std, plain.latent_std[kept], atol=1e-3)
    assert (scene.masks.argmax(axis=0) == scene.labels).all()


@pytest.mark.parametrize(
    ("kinds", "slots"),
    [(SLOTS * [SURROUNDINGS], 1), (SLOTS * [OBJECT], 4), ([SURROUNDINGS, *3 * [OBJECT]], 4)],
)
def test_objects_and_a_single_slot_of_surroundings_stay(
    kinds: list[int], slots: int, make: ModelFactory, tmp_path: Path
) -> None:
    image, _ = view(32, 32)
    model = telling(make("unet", kinds=True), image, kinds)
    scene = segmenter(model, tmp_path, {})(image)
    assert scene.num_slots == slots and scene.kinds is not None
    assert scene.kinds.tolist() == [KINDS[kind] for kind in kinds[:slots]]
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)


@pytest.mark.usefixtures("coarse", "with_specks")
def test_crumbs_of_objects_go_to_what_surrounds_them(make: ModelFactory, tmp_path: Path) -> None:
    """Of objects only: of the robot no part may be lost, and surroundings lie in pieces."""
    image, _ = view(64, 64)
    plain = segmenter(make("efficientnet_lite0"), tmp_path, {}, mask_source="attention")(image)
    for kind in (OBJECT, ROBOT):
        model = telling(make("efficientnet_lite0", kinds=True), image, SLOTS * [kind])
        scene = segmenter(model, tmp_path, {}, mask_source="attention")(image)
        joined = np.abs(scene.masks - plain.masks).max(axis=0) > 0.1  # see test_mask_operations
        assert joined.any() == (kind == OBJECT)
        np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)


def count_specks(labels: NDArray[np.int64]) -> int:
    """Pieces of fewer than four pixels, not all of a label, with one other label all around."""
    count = 0
    for label in np.unique(labels):
        total, pieces, facts, _ = cv2.connectedComponentsWithStats((labels == label).view(np.uint8))
        for number in np.flatnonzero(facts[1:total, cv2.CC_STAT_AREA] < 4) + 1:
            piece = (pieces == number).view(np.uint8)
            ring = cv2.dilate(piece, np.ones((3, 3), np.uint8)) > piece
            alone = piece.sum() == (labels == label).sum()
            count += not alone and len(np.unique(labels[ring])) == 1
    return count


@pytest.mark.parametrize("kind", [OBJECT, ROBOT])
def test_specks_within_another_slot_are_its_own(
    kind: int, make: ModelFactory, tmp_path: Path
) -> None:
    image, _ = view(32, 32)  # as large as the masks
    plain = segmenter(make("unet"), tmp_path, {}, mask_source="attention")(image)
    model = telling(make("unet", kinds=True), image, SLOTS * [kind])
    scene = segmenter(model, tmp_path, {}, mask_source="attention")(image)
    assert count_specks(plain.labels) > 0 and count_specks(scene.labels) == 0
    np.testing.assert_allclose(scene.masks.sum(axis=0), 1, atol=1e-5)


def test_coarse_masks_get_the_edges_of_the_image(
    encoder: str, make: ModelFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the image that the model sees, whatever its size; masks of that size stay as they are."""
    size = SMALL[encoder]["image_size"]
    image, _ = view(size, size)  # type: ignore[arg-type]
    large = image.repeat(2, axis=0).repeat(2, axis=1)
    model = telling(make(encoder, kinds=True), image, [SURROUNDINGS, *3 * [ROBOT]])
    find = segmenter(model, tmp_path, {}, mask_source="attention")
    seen = []

    def follow(masks: np.ndarray, image: np.ndarray) -> np.ndarray:
        seen.append((masks, image))
        return follow_edges(masks, image)

    monkeypatch.setattr(edges, "follow_edges", follow)
    scene = find(large)
    if encoder == "unet":
        assert not seen
    else:
        ((masks, guide),) = seen
        assert masks.shape[1:] == (size // 2, size // 2)  # type: ignore[operator]
        np.testing.assert_array_equal(guide, image)
        expected = follow_edges(masks, image)
        for mask, place in zip(scene.masks, expected, strict=True):
            np.testing.assert_allclose(mask, cv2.resize(place, large.shape[:2]), atol=1e-5)


# The number of slots


@pytest.mark.parametrize(
    ("carried", "given", "expected"),
    [
        ({"stop_threshold": 400}, None, 400),
        ({"stop_threshold": 400}, -1, 400),
        ({"stop_threshold": 400}, 0, 0),
        ({"stop_threshold": 400}, 4096, 4096),
        ({}, None, 0),
        ({}, -1, 0),
        ({"stop_threshold": 0}, -1, 0),
    ],
)
def test_the_checkpoint_says_where_slots_stop_unless_told_otherwise(
    carried: dict[str, float],
    given: float | None,
    expected: float,
    make: ModelFactory,
    tmp_path: Path,
) -> None:
    image, _ = view()
    reference = segmenter(make("unet"), tmp_path, {}, stop_threshold=expected)(image)
    scene = segmenter(make("unet"), tmp_path, carried, stop_threshold=given)(image)
    assert_scenes_agree(scene, reference)
    if expected == 0:
        assert scene.num_slots == SLOTS
    if expected == 4096:
        assert scene.num_slots == 1


def test_a_threshold_can_be_set_aside_and_taken_up_again(
    make: ModelFactory, tmp_path: Path
) -> None:
    image, _ = view()
    segment = segmenter(make("unet"), tmp_path, {"stop_threshold": 4096})
    assert segment(image).num_slots == 1
    segment.configure(max_slots=None, stop_threshold=0, fit="resize")
    assert segment(image).num_slots == SLOTS
    segment.configure(max_slots=None, stop_threshold=-1, fit="resize")
    assert segment(image).num_slots == 1


@pytest.mark.parametrize("carried", ["many", -3, float("inf"), None])
def test_a_threshold_that_is_none_is_the_checkpoints_fault(
    carried: Any, make: ModelFactory, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"has stop_threshold .*; expected pixels at 64x64"):
        segmenter(make("unet"), tmp_path, {"stop_threshold": carried})


def test_models_of_a_fixed_number_of_slots_leave_a_carried_threshold_aside(
    build_small: Callable[..., SlotModel], tmp_path: Path
) -> None:
    image, _ = view()
    segment = segmenter(build_small("slot_attention"), tmp_path, {"stop_threshold": 4096})
    assert segment(image).num_slots == SLOTS
    for other in (-2, math.nan, math.inf):
        with pytest.raises(ValueError, match="stop_threshold is"):
            segment.configure(max_slots=None, stop_threshold=other, fit="resize")
