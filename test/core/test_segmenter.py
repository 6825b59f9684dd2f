"""From images of every kind to scenes."""

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genesis_core import (
    CheckpointError,
    DeviceError,
    GenesisV2,
    Region,
    Scene,
    Segmenter,
    load_model,
    save_model,
)
from genesis_core.device import resolve_precision

ROOT = Path(__file__).resolve().parents[2]

ModelFactory = Callable[..., GenesisV2]
Image = NDArray[np.uint8]

needs_cuda = pytest.mark.cuda


def picture(height: int, width: int, seed: int = 0) -> Image:
    """A smooth random picture: coarse noise, enlarged."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 8) + 1, max(1, width // 8) + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


def segmenter(checkpoint: Path, **options: Any) -> Segmenter:
    """In float32 on the CPU, so that results are the same everywhere."""
    return Segmenter(checkpoint, **{"device": "cpu", "precision": "fp32", **options})


def check_scene(scene: Scene, height: int, width: int, slots: int = 4) -> NDArray[np.bool_]:
    """What holds for every scene; returns the pixels the model saw."""
    assert scene.num_slots == slots
    assert scene.masks.shape == (slots, height, width) and scene.masks.dtype == np.float32
    assert scene.labels.shape == (height, width)
    assert np.issubdtype(scene.labels.dtype, np.integer)
    assert scene.latent_mean.shape == scene.latent_std.shape == (slots, 6)
    assert scene.latent_mean.dtype == scene.latent_std.dtype == np.float32
    assert (scene.latent_std > 0).all()
    assert scene.scores.shape == (slots,)
    assert scene.scores.min() >= 0 and scene.scores.max() <= 1
    seen: NDArray[np.bool_] = scene.labels >= 0
    np.testing.assert_allclose(scene.masks.sum(axis=0), seen, atol=1e-5)
    assert (scene.masks.argmax(axis=0)[seen] == scene.labels[seen]).all()
    return seen


def assert_same(actual: Scene, expected: Scene, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(actual.masks, expected.masks, atol=tolerance)
    np.testing.assert_allclose(actual.latent_mean, expected.latent_mean, atol=tolerance)
    np.testing.assert_allclose(actual.latent_std, expected.latent_std, atol=tolerance)
    np.testing.assert_allclose(actual.scores, expected.scores, atol=tolerance)


# Images


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize(
    "size",
    [(32, 32), (480, 640), (33, 31), (1, 1), (1, 300), (300, 1), (2, 3), (7, 40000), (5, 500)],
)
def test_images_of_any_size(size: tuple[int, int], fit: str, checkpoint: Path) -> None:
    scene = segmenter(checkpoint, fit=fit)(picture(*size))
    seen = check_scene(scene, *size)
    if fit == "resize":
        assert seen.all()


def test_at_the_models_own_size_masks_are_the_models(checkpoint: Path) -> None:
    image = picture(32, 32)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    out = load_model(checkpoint)(tensor, noise=torch.zeros(1, 4, 6))  # the posterior's mean
    for source, log_masks in (("decoder", out.log_masks), ("attention", out.log_attention)):
        scene = segmenter(checkpoint, mask_source=source)(image)
        expected = log_masks[0, :, 0].exp().detach().numpy()
        np.testing.assert_allclose(scene.masks, expected, atol=1e-4)
        for name in ("latent_mean", "latent_std"):
            expected = getattr(out, name)[0].detach().numpy()
            np.testing.assert_allclose(getattr(scene, name), expected, atol=1e-4)


@pytest.mark.parametrize("height", [480, 8])
def test_fine_detail_is_averaged_not_skipped(height: int, checkpoint: Path) -> None:
    """Two bright columns in the middle of each 20 that become a pixel: grey, also in a strip."""
    stripes = np.zeros((height, 640, 3), np.uint8)
    stripes[:, 9::20] = stripes[:, 10::20] = 250
    grey = np.full((height, 640, 3), 25, np.uint8)
    segment = segmenter(checkpoint)
    assert_same(segment(stripes), segment(grey), tolerance=1e-3)


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("size", [(32, 32), (97, 120), (1, 1), (300, 1)])
def test_quantised_scenes_are_the_scenes_in_8_bits(
    size: tuple[int, int], fit: str, checkpoint: Path
) -> None:
    segment, image = segmenter(checkpoint, fit=fit), picture(*size)
    exact = segment(image)
    seen = check_scene(exact, *size)
    scene = segment([image], quantised=True)[0]
    assert scene.masks.dtype == scene.labels.dtype == np.uint8
    assert (scene.masks.sum(axis=0, dtype=int) <= 255).all()  # rounded down
    np.testing.assert_allclose(scene.masks, 255 * exact.masks - 0.5, atol=0.51)
    assert (scene.labels[~seen] == 255).all()
    assert (scene.masks.argmax(axis=0)[seen] == scene.labels[seen]).all()
    ranked = np.sort(exact.masks, axis=0)
    clear = seen & (ranked[-1] - ranked[-2] > 1.01 / 255)
    assert (scene.labels[clear] == exact.labels[clear]).all()
    if clear.sum() == seen.sum():
        np.testing.assert_allclose(scene.scores, exact.scores, atol=1 / 255)
    np.testing.assert_array_equal(scene.latent_mean, exact.latent_mean)


def test_masks_that_are_not_finite_cannot_be_quantised(checkpoint: Path) -> None:
    model = load_model(checkpoint)
    with torch.no_grad():
        model.decoder[-1].weight[-1] = 3e38  # infinite when multiplied, and then not a number
    save_model(model, checkpoint)
    segment = segmenter(checkpoint)
    with pytest.raises(ValueError, match="masks are not finite"):
        segment(picture(32, 32), quantised=True)


def test_memory_layout_does_not_matter(checkpoint: Path) -> None:
    image = picture(48, 64)
    segment = segmenter(checkpoint)
    expected = segment(image)
    padded = np.zeros((60, 80, 4), np.uint8)
    padded[5:53, 7:71, :3] = image
    read_only = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)
    for same in (
        np.asfortranarray(image),
        padded[5:53, 7:71, :3],
        image[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        read_only,
    ):
        assert_same(segment(same), expected, tolerance=0)
    assert (image == picture(48, 64)).all()  # and the input is left as it was


def test_colour_channels_are_red_green_blue(checkpoint: Path, make_model: ModelFactory) -> None:
    """A model that is blind to all but red sees no difference in green and blue."""
    model = make_model()
    with torch.no_grad():
        model.backbone.down[0][0].weight[:, 1:] = 0
    save_model(model, checkpoint)
    segment = segmenter(checkpoint)
    image = picture(32, 32)
    other = image.copy()
    other[..., 1:] = 255 - other[..., 1:]
    assert_same(segment(other), segment(image), tolerance=0)
    other[..., 0] = 255 - other[..., 0]
    assert np.abs(segment(other).latent_mean - segment(image).latent_mean).max() > 1e-3


def test_a_batch_of_mixed_sizes_equals_one_at_a_time(checkpoint: Path) -> None:
    pictures = [picture(32, 32, 1), picture(100, 30, 2), picture(1, 9, 3), picture(48, 64, 4)]
    segment = segmenter(checkpoint, stop_threshold=300)
    together = segment(pictures)
    assert isinstance(together, list)
    for image, scene in zip(pictures, together, strict=True):
        alone = segment(image)
        assert isinstance(alone, Scene)
        assert scene.num_slots == alone.num_slots
        check_scene(scene, *image.shape[:2], slots=scene.num_slots)
        assert_same(scene, alone, tolerance=1e-4)
    assert segment(tuple(pictures))[3].masks.shape[1:] == (48, 64)
    assert segment([]) == []


@pytest.mark.parametrize("size", [0, -1, 1.5])
def test_a_batch_that_cannot_be_is_not_prepared(size: Any, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=rf"batch_size is {size}; expected a whole number >= 1"):
        segmenter(checkpoint).warm_up(size)


def test_repeatable_by_default(checkpoint: Path) -> None:
    image = picture(64, 48)
    first = segmenter(checkpoint)(image)
    torch.rand(5)
    segment = segmenter(checkpoint)
    segment.warm_up(2)
    assert_same(segment(image), first, tolerance=0)


def test_crop_takes_the_centre_square(checkpoint: Path) -> None:
    wide = picture(32, 61)
    segment = segmenter(checkpoint, fit="crop")
    scene = segment(wide)
    seen = check_scene(scene, 32, 61)
    assert seen[:, 14:46].all() and not seen[:, :14].any() and not seen[:, 46:].any()
    square = segment(np.ascontiguousarray(wide[:, 14:46]))
    np.testing.assert_allclose(scene.masks[:, :, 14:46], square.masks, atol=1e-6)
    tall = segment(wide.transpose(1, 0, 2))
    seen = check_scene(tall, 61, 32)
    assert seen[14:46].all() and seen.sum() == 32 * 32


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_a_region_is_seen_as_an_image_of_its_own(fit: str, checkpoint: Path) -> None:
    image = picture(40, 60)
    segment = segmenter(checkpoint, fit=fit)
    scene, whole = segment([image, image], region=[(0.2, 0.25, 0.5, 0.7), None])
    seen = check_scene(scene, 40, 60)
    columns = slice(12, 42) if fit == "resize" else slice(13, 41)
    assert seen[10:38, columns].all()
    assert seen.sum() == 28 * (columns.stop - columns.start)
    cut = segment(np.ascontiguousarray(image[10:38, 12:42]))
    np.testing.assert_allclose(scene.masks[:, 10:38, 12:42], cut.masks, atol=1e-4)
    np.testing.assert_allclose(whole.masks, segment(image).masks, atol=1e-4)
    quantised = segment(image, region=Region(0.2, 0.25, 0.5, 0.7), quantised=True)
    np.testing.assert_array_equal(quantised.labels == 255, ~seen)


def test_depth_of_a_region_is_that_of_the_image_cut_out() -> None:
    segment = segmenter("tabletop", stop_threshold=0)
    image = picture(96, 128)
    depth = np.random.default_rng(5).uniform(0.5, 1.0, (96, 128)).astype(np.float32)
    matrix = np.array([[110.0, 0, 63], [0, 110.0, 47], [0, 0, 1]])
    scene = segment(image, depth, matrix, region=(0.25, 0.25, 0.5, 0.5))
    cut = (slice(24, 72), slice(32, 96))
    moved = matrix - np.array([[0, 0, 32], [0, 0, 24], [0, 0, 0]])
    alone = segment(np.ascontiguousarray(image[cut]), depth[cut].copy(), moved)
    np.testing.assert_allclose(scene.masks[:, cut[0], cut[1]], alone.masks, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "region", "rows", "columns"),
    [
        ((10, 20), (0, 0, 1, 1), (0, 10), (0, 20)),
        ((10, 20), (0.1, 0.2, 0.9, 0.8), (2, 10), (2, 20)),  # 0.1 + 0.9 is 1, 0.2 + 0.8, too
        ((3, 3), (0.7, 0.7, 0.3, 0.3), (2, 3), (2, 3)),
        ((1, 1), (0.9, 0.9, 0.1, 0.1), (0, 1), (0, 1)),
        ((480, 640), (0.2, 0.3, 0.01, 0.0001), (144, 145), (128, 134)),
    ],
)
def test_a_region_has_a_pixel_at_least(
    size: tuple[int, int],
    region: tuple[float, float, float, float],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> None:
    assert Region.of(region).window(*size) == (slice(*rows), slice(*columns))


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0.5, 0, 0.6, 1), "region is 0.5, 0, 0.6, 1; expected x, y, width and"),
        ((-0.1, 0, 0.5, 1), "region is -0.1, 0, 0.5, 1"),
        ((0, 0, 0, 1), "region is 0, 0, 0, 1"),
        ((0, 0, 1, 0), "region is 0, 0, 1, 0"),
        *(
            ([math.nan if k == place else 0.5 for k in range(4)], "region is .*nan.*; expected x")
            for place in range(4)
        ),
        ((10, 20, 300, 200), "as shares"),
        ((0, 0, 1), "region is 0, 0, 1; expected"),
        (("0", "left", "1", "1"), "region is '0', 'left', '1', '1'; expected"),
        ((), "region is empty"),
        (0.5, "region is 0.5; expected x, y, width and height"),
        ("0011", "region is '0011'; expected x, y, width and height"),
    ],
)
def test_bad_regions_are_refused(region: Any, message: str, checkpoint: Path) -> None:
    segment = segmenter(checkpoint)
    with pytest.raises(ValueError, match=message):
        segment(picture(20, 30), region=region)
    with pytest.raises(ValueError, match=message):
        segment([picture(20, 30)] * 2, region=[None, region])
    with pytest.raises(ValueError, match="region has 1 items for 2 images"):
        segment([picture(20, 30)] * 2, region=[None])
    with pytest.raises(TypeError, match="region is a Region; for a list of images expected a list"):
        segment([picture(20, 30)] * 4, region=Region(0, 0, 1, 1))


def test_masks_land_on_the_pixels_they_describe(checkpoint: Path, make_model: ModelFactory) -> None:
    """A model that clusters by position alone: the first mask lies around its seed."""
    model = make_model()
    with torch.no_grad():
        model.embedding.gate.zero_()
    save_model(model, checkpoint, {"mask_source": "attention"})
    segment = segmenter(checkpoint)
    seed = int(model(torch.rand(1, 3, 32, 32)).clusters.seeds[0, 0])
    row, column = divmod(seed, 32)
    scene = segment(picture(64, 320))
    peak = np.argwhere(scene.masks[0] > 0.98).mean(axis=0)
    assert peak == pytest.approx([2 * row + 0.5, 10 * column + 4.5], abs=10)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, TypeError, "image is a NoneType; expected a numpy array"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), TypeError, "image is a Tensor"),
        ("picture.png", TypeError, "image 0 is a str"),
        (np.zeros((8, 8, 3)), TypeError, "image has dtype float64; expected uint8"),
        (np.zeros((8, 8, 3), np.int8), TypeError, "image has dtype int8; expected uint8"),
        (np.zeros((8, 8), np.uint8), ValueError, r"image has shape \(8, 8\); expected \(H, W, 3\)"),
        (np.zeros((8, 8, 1), np.uint8), ValueError, r"image has shape \(8, 8, 1\)"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"image has shape \(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"image has shape \(0, 8, 3\)"),
        (np.zeros((8, 0, 3), np.uint8), ValueError, r"image has shape \(8, 0, 3\)"),
        (np.zeros((2, 8, 8, 3), np.uint8), ValueError, r"image has shape \(2, 8, 8, 3\)"),
        ([np.zeros((8, 8, 3), np.uint8), None], TypeError, "image 1 is a NoneType"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)], ValueError, "image 1 has"),
    ],
)
def test_what_is_no_rgb_image_is_refused(
    image: Any, error: type[Exception], message: str, checkpoint: Path
) -> None:
    with pytest.raises(error, match=message):
        segmenter(checkpoint)(image)


# Slots and masks


def test_scores_are_the_mean_probability_of_won_pixels(checkpoint: Path) -> None:
    scene = segmenter(checkpoint, max_slots=9)(picture(40, 50))
    check_scene(scene, 40, 50, slots=9)
    won = [scene.masks[slot][scene.labels == slot] for slot in range(9)]
    expected = [pixels.mean() if pixels.size else 0.0 for pixels in won]
    np.testing.assert_allclose(scene.scores, expected, atol=1e-5)


@pytest.mark.parametrize("mask_source", ["decoder", "attention"])
def test_flexible_slots(mask_source: str, checkpoint: Path) -> None:
    def slots(threshold: float | None) -> int:
        segment = segmenter(checkpoint, stop_threshold=threshold, mask_source=mask_source)
        scene = segment(picture(40, 50))
        check_scene(scene, 40, 50, slots=scene.num_slots)
        return scene.num_slots

    assert slots(None) == slots(0) == 4
    assert slots(4096) == 1
    counts = [slots(threshold) for threshold in (1, 100, 400, 1000, 4000)]
    assert counts == sorted(counts, reverse=True)


def test_mask_source_auto_is_what_the_checkpoint_says(
    checkpoint: Path, make_model: ModelFactory
) -> None:
    image = picture(32, 32)
    decoder = segmenter(checkpoint, mask_source="decoder")(image)
    attention = segmenter(checkpoint, mask_source="attention")(image)
    assert np.abs(decoder.masks - attention.masks).max() > 0.01
    for metadata, name, expected in (
        ({"mask_source": "decoder"}, "decoder", decoder),
        ({"mask_source": "attention"}, "attention", attention),
        ({}, "decoder", decoder),
    ):
        save_model(make_model(), checkpoint, metadata)
        segment = segmenter(checkpoint)
        assert segment.mask_source == name
        assert_same(segment(image), expected, tolerance=0)
    save_model(make_model(), checkpoint, {"mask_source": "both"})
    with pytest.raises(CheckpointError, match="mask_source 'both'"):
        segmenter(checkpoint)


def test_attention_masks_need_no_working_decoder(checkpoint: Path) -> None:
    """With such weights the decoder would give infinities: it is not run."""
    image = picture(32, 32)
    expected = segmenter(checkpoint, mask_source="attention")(image)
    model = load_model(checkpoint)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.fill_(3e38)
    save_model(model, checkpoint)
    assert_same(segmenter(checkpoint, mask_source="attention")(image), expected, tolerance=0)
    assert not np.isfinite(segmenter(checkpoint, mask_source="decoder")(image).masks).all()


def test_settings_change_between_calls(checkpoint: Path) -> None:
    image = picture(32, 64)
    segment = segmenter(checkpoint, max_slots=3)
    assert segment(image).num_slots == 3
    segment.configure(max_slots=None, stop_threshold=None, fit="crop")
    scene = segment(image)
    assert scene.num_slots == 4  # the checkpoint's own
    assert (scene.labels[:, 0] == -1).all()
    segment.configure(max_slots=6, stop_threshold=4096, fit="resize")
    scene = segment(image)
    assert scene.num_slots == 1 and (scene.labels == 0).all()
    with pytest.raises(ValueError, match="fit is 'pad'"):
        segment.configure(max_slots=2, stop_threshold=None, fit="pad")
    assert segment(image).num_slots == 1  # a refused change changes nothing


def test_worker_threads_see_whole_settings(checkpoint: Path) -> None:
    """Two threads segment while the settings change: each scene is one setting's, entirely."""
    image = picture(32, 61)
    segment = segmenter(checkpoint)
    crop, resize = (4, None, "crop"), (3, None, "resize")
    expected = {}
    for slots, threshold, fit in (crop, resize):
        segment.configure(max_slots=slots, stop_threshold=threshold, fit=fit)
        expected[slots] = segment(image)
    scenes: list[Scene] = []

    def work() -> None:
        scenes.extend(segment(image) for _ in range(15))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for slots, threshold, fit in (crop, resize):
            segment.configure(max_slots=slots, stop_threshold=threshold, fit=fit)
            threads[0].join(0.002)
    assert len(scenes) == 30
    for scene in scenes:
        assert_same(scene, expected[scene.num_slots])
        assert (scene.labels == expected[scene.num_slots].labels).all()


# Set-up


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "tpu"}, DeviceError, "device is 'tpu'; expected auto, cpu, cuda or cuda:n"),
        ({"device": "mps"}, DeviceError, "device is 'mps'"),
        ({"device": "cuda:99"}, DeviceError, "'cuda:99' was asked for, but PyTorch sees"),
        ({"precision": "int8"}, ValueError, "precision is 'int8'; expected one of auto, fp32"),
        ({"max_slots": 1}, ValueError, "max_slots is 1; expected a whole number >= 2"),
        ({"max_slots": 2.5}, ValueError, "max_slots is 2.5"),
        ({"stop_threshold": -2}, ValueError, "stop_threshold is -2"),
        ({"stop_threshold": float("nan")}, ValueError, "stop_threshold is nan"),
        ({"mask_source": "both"}, ValueError, "mask_source is 'both'; expected one of auto"),
        ({"fit": "pad"}, ValueError, "fit is 'pad'; expected one of resize, crop"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str, checkpoint: Path
) -> None:
    with pytest.raises(error, match=message):
        Segmenter(checkpoint, **options)


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["device", "dtype"])
@pytest.mark.parametrize("name", ["tabletop", "tabletop_unsupervised"])
def test_what_others_have_set_as_the_default_does_not_matter(changed: str, name: str) -> None:
    """In a process of its own: tensors on another device than their reader takes crash it."""
    program = f"""
import numpy as np, torch
from genesis_core import Segmenter
image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
depth, matrix = np.full((48, 64), 0.8, np.float32), np.diag([60.0, 60.0, 1.0])
first = Segmenter({name!r}, device="cpu", precision="fp32")
given = (depth, matrix) if first.uses_depth else ()
expected = first(image, *given)
torch.set_default_{changed}({"torch.device('meta')" if changed == "device" else "torch.float64"})
for segmenter in (first, Segmenter({name!r}, device="cpu", precision="fp32")):
    segmenter.warm_up()
    found = segmenter(image, *given)
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_array_equal(found.latent_mean, expected.latent_mean)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_bad_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors"):
        Segmenter(tmp_path / "nothing.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"broken\.safetensors"):
        Segmenter(tmp_path / "broken.safetensors")


@pytest.mark.parametrize("channels", [1, 4])
def test_a_model_of_other_images_than_rgb_is_refused(
    channels: int, checkpoint: Path, make_model: ModelFactory
) -> None:
    save_model(make_model(image_channels=channels), checkpoint)
    with pytest.raises(CheckpointError, match=f"made for images of {channels} channels"):
        segmenter(checkpoint)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_without_a_gpu_cuda_is_refused_and_auto_is_the_cpu(checkpoint: Path) -> None:
    with pytest.raises(DeviceError, match="'cuda' was asked for, but PyTorch sees 0 CUDA devices"):
        Segmenter(checkpoint, device="cuda")
    segment = Segmenter(checkpoint, device="auto")
    assert segment.device.type == "cpu"
    assert segment.precision == resolve_precision("auto", torch.device("cpu"))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_nearly_the_same_scene(precision: str, checkpoint: Path) -> None:
    """Most pixels within 0.02; a few at the masks' edges may differ more (see the model's test)."""
    image = picture(40, 50)
    for source in ("decoder", "attention"):
        exact = segmenter(checkpoint, mask_source=source)(image)
        scene = segmenter(checkpoint, mask_source=source, precision=precision)(image)
        check_scene(scene, 40, 50)
        assert np.abs(scene.masks - exact.masks).mean() < 0.02
        np.testing.assert_allclose(scene.latent_mean, exact.latent_mean, atol=0.05)


@needs_cuda
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_cuda_scenes_agree_with_the_cpus(precision: str, checkpoint: Path) -> None:
    pictures = [picture(40, 50), picture(32, 32, 1)]
    expected = segmenter(checkpoint)(pictures)
    segment = Segmenter(checkpoint, device="cuda", precision=precision)
    assert segment.device.type == "cuda"
    for image, actual, scene in zip(pictures, segment(pictures), expected, strict=True):
        check_scene(actual, *image.shape[:2])
        assert np.abs(actual.masks - scene.masks).mean() < 0.02


@needs_cuda
def test_auto_is_cuda_where_there_is_one(checkpoint: Path) -> None:
    segment = Segmenter(checkpoint)
    assert segment.device.type == "cuda"
    assert segment.precision in ("bf16", "fp16")


def test_a_shipped_checkpoint_is_known_by_its_name() -> None:
    named, default = (Segmenter(name, device="cpu") for name in ("tabletop", ""))
    assert named.model.config == default.model.config
    with pytest.raises(FileNotFoundError, match="no_such_model"):
        Segmenter("no_such_model", device="cpu")
