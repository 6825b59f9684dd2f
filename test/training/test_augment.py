"""What training makes of prepared images: places, colours, a camera's faults, depth."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from genesis_core import ConfigError
from training.augment import AugmentConfig, RawImages, augment
from training.batches import AugmentedLoader, join
from training.counter_random import CounterRandom
from training.datasets.prepared import PreparedDataset

ALL = AugmentConfig(
    crop_scale=0.6,
    crop_aspect=1.4,
    flip=True,
    brightness=0.2,
    colour=0.1,
    saturation=0.5,
    gamma=0.3,
    recolour=0.5,
    texture=0.5,
    blur=1.5,
    noise=5.0,
    jpeg=0.5,
    cut_out=0.5,
    depth_drop=0.3,
    depth_noise=0.02,
    depth_holes=0.3,
)


def places(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count)


def grey(count: int, size: int, value: int = 100) -> Tensor:
    return torch.full((count, size, size, 3), value, dtype=torch.uint8)


def scene(size: int = 64) -> RawImages:
    """A bright rectangle 0.8 m away before a dark wall at 1.2 m."""
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[:, size // 4 : size // 2, size // 3 : size // 2] = 2
    images = torch.where(labels[..., None] == 2, 200, 50).expand(1, size, size, 3).byte()
    depth = torch.where(labels == 2, 800, 1200).int()
    intrinsics = torch.tensor([[1.1 * size, 0.9 * size, size / 2 - 0.5, size / 2 - 0.5]])
    return RawImages(images, labels, depth, intrinsics)


# Random numbers


def test_what_is_drawn_depends_on_seed_place_and_purpose_alone() -> None:
    first = CounterRandom(3, places(8), 1).uniform(5, 7)
    assert torch.equal(first[2:6], CounterRandom(3, places(4, 2), 1).uniform(5, 7))
    for other in (CounterRandom(4, places(8), 1), CounterRandom(3, places(8), 2)):
        assert (other.uniform(5, 7) != first).float().mean() > 0.99
    far = CounterRandom(3, places(1) + 2**32, 1).uniform(5, 7)
    assert (far != first[:1]).float().mean() > 0.99
    again = CounterRandom(3, places(8), 1)
    assert torch.equal(again.uniform(5, 7), first)
    assert (again.uniform(5, 7) != first).float().mean() > 0.99


def test_numbers_are_spread_as_they_should_be() -> None:
    random = CounterRandom(0, places(64), 0)
    even = random.uniform(4096)
    assert float(even.min()) >= 0 and float(even.max()) < 1
    counts = torch.histc(even, 64, 0, 1)
    expected = even.numel() / 64
    # Chi-squared with 63 degrees of freedom: beyond 120 once in a hundred thousand.
    assert float(((counts - expected) ** 2 / expected).sum()) < 120
    assert np.abs(np.corrcoef(even.numpy()) - np.eye(64)).max() < 0.08
    normal = random.normal(4096)
    assert float(normal.mean()) == pytest.approx(0, abs=0.01)
    assert float(normal.std()) == pytest.approx(1, abs=0.01)
    assert float((normal**4).mean()) == pytest.approx(3, abs=0.1)
    assert float(random.chance(0.25, 4096).float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.cuda
def test_a_gpu_draws_the_same() -> None:
    here, there = (CounterRandom(3, places(8).to(d), 1) for d in ("cpu", "cuda"))
    assert torch.equal(there.uniform(5, 7).cpu(), here.uniform(5, 7))
    # Normal numbers come of functions, which devices round in their own way.
    torch.testing.assert_close(there.normal(4096).cpu(), here.normal(4096), rtol=1e-4, atol=1e-4)


# Batches


def test_an_image_becomes_the_same_whatever_is_in_its_batch() -> None:
    parts = [scene() for _ in range(4)]
    raw = RawImages(
        torch.cat([p.images for p in parts]),
        torch.cat([p.labels for p in parts if p.labels is not None]),
        torch.cat([p.depth for p in parts if p.depth is not None]),
        torch.cat([p.intrinsics for p in parts if p.intrinsics is not None]),
    )
    together = augment(raw, ALL, 32, 5, places(4, 10))
    alone = augment(scene(), ALL, 32, 5, places(1, 12))
    assert together.labels is not None and alone.labels is not None
    assert together.points is not None and alone.points is not None
    torch.testing.assert_close(together.images[2:3], alone.images, atol=1 / 255, rtol=0)
    assert torch.equal(together.labels[2:3], alone.labels)
    torch.testing.assert_close(together.points[2:3], alone.points, atol=1e-4, rtol=1e-4)
    other = augment(scene(), ALL, 32, 5, places(1, 13))
    assert (other.images - alone.images).abs().mean() > 0.01


def test_defaults_change_nothing() -> None:
    raw = scene()
    batch = augment(raw, AugmentConfig(), 64, 0, places(1))
    assert torch.equal((batch.images.permute(0, 2, 3, 1) * 255).round().byte(), raw.images)
    assert batch.labels is not None and torch.equal(batch.labels, raw.labels)
    assert batch.points is not None and raw.depth is not None
    torch.testing.assert_close(batch.points[:, 2], raw.depth / 1000)
    assert batch.points[:, 3].all()


def test_shrinking_averages_and_takes_the_nearest_label() -> None:
    image = torch.arange(64 * 64 * 3, dtype=torch.int64).view(1, 64, 64, 3) % 251
    batch = augment(RawImages(image.byte()), AugmentConfig(), 16, 0, places(1))
    expected = image.float().view(1, 16, 4, 16, 4, 3).mean((2, 4)).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(batch.images, expected, atol=1e-4, rtol=0)


def test_the_smallest_crops_are_as_sharp_as_the_image() -> None:
    """Stripes of two pixels, of which a crop of half the image has as many as the model's input."""
    stripes = (torch.arange(128) // 2 % 2 * 255).to(torch.uint8)
    raw = RawImages(stripes.view(1, 1, 128, 1).expand(40, 128, 128, 3).contiguous())
    crops = augment(raw, AugmentConfig(crop_scale=0.5), 64, 0, places(40)).images
    assert float(crops.std(dim=(1, 2, 3)).min()) > 0.38  # in black and white it is 0.5


@pytest.mark.parametrize("size", [32, 64, 128])
def test_labels_depth_and_rays_stay_on_what_they_belong_to(size: int) -> None:
    """However an image is cropped, mirrored and resized."""
    config = AugmentConfig(crop_scale=0.5, crop_aspect=1.5, flip=True)
    raw = scene()
    shifts, offsets = [], []
    for place in range(50):
        batch = augment(raw, config, size, 0, places(1, place))
        assert batch.labels is not None and batch.points is not None
        found = batch.labels[0] == 2
        if not found.any():
            continue
        weights = batch.images[0, 0] - 50 / 255
        rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
        for index in (rows, columns):
            shifts.append(
                float(index[found].float().mean() - (index * weights).sum() / weights.sum())
            )
        assert float(batch.points[0, 2][found].mean()) == pytest.approx(0.8, abs=1e-4)
        assert float(batch.points[0, 2][~found].mean()) == pytest.approx(1.2, abs=1e-4)
        # A mirrored scene is a scene: the rectangle is left of the middle where it is so in the
        # picture, and X grows from left to right.
        x_of = batch.points[0, 0]
        assert (
            x_of[:, 1:][batch.points[0, 2, :, 1:] == batch.points[0, 2, :, :-1]]
            > x_of[:, :-1][batch.points[0, 2, :, 1:] == batch.points[0, 2, :, :-1]]
        ).all()
        whole = found.float()
        if whole[0].any() or whole[-1].any() or whole[:, 0].any() or whole[:, -1].any():
            continue  # cut off: its middle is not the whole rectangle's
        x, y = (float(batch.points[0, axis][found].mean()) for axis in (0, 1))
        offsets.append((abs(x), y))
    assert abs(np.mean(shifts)) < 0.05, f"{np.mean(shifts):.2f} pixels aside"
    assert len(offsets) > 5
    # Columns 21 to 31 and rows 16 to 31 of 64, about 31.5, at 0.8 m.
    expected = (5.5 * 0.8 / (1.1 * 64), -8.0 * 0.8 / (0.9 * 64))
    np.testing.assert_allclose(np.mean(offsets, axis=0), expected, atol=1.5 / size)


def test_colours_change_and_the_mean_is_exposed_in_the_end() -> None:
    half = grey(1, 8, 20)
    half[:, :4] = 60
    config = AugmentConfig(brightness=0.5, exposure=0.5)
    for place in range(4):
        image = augment(RawImages(half), config, 8, 0, places(1, place)).images[0]
        assert float(image.mean()) == pytest.approx(0.5, abs=0.005)
        assert float(image[0, 0, 0] / image[0, -1, 0]) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("name", ["brightness", "colour", "gamma", "noise", "cut_out"])
def test_each_change_of_colour_changes_colours(name: str) -> None:
    config = AugmentConfig(**{name: 20.0 if name == "noise" else 0.9})
    batch = augment(RawImages(grey(32, 16)), config, 16, 0, places(32))
    assert float((batch.images - 100 / 255).abs().amax(dim=(1, 2, 3)).median()) > 0.03
    assert float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
    grey_levels = batch.images * 255
    assert torch.equal(grey_levels.round(), grey_levels)  # as a camera gives them


def test_blur_keeps_the_mean_and_takes_the_edges() -> None:
    stripes = grey(64, 32, 0)
    stripes[:, :, ::2] = 200
    images = augment(RawImages(stripes), AugmentConfig(blur=2.0), 32, 0, places(64)).images
    inside = images[:, 0, 8:-8, 8:-8]
    contrast = inside[:, :, ::2].mean((1, 2)) - inside[:, :, 1::2].mean((1, 2))
    untouched = (contrast - 200 / 255).abs() < 1e-4
    assert 16 < int(untouched.sum()) < 48
    assert float(contrast[~untouched].median()) < 0.1
    torch.testing.assert_close(inside.mean((1, 2)), torch.full((64,), 100 / 255), atol=0.01, rtol=0)


def test_jpeg_keeps_what_is_smooth_and_blurs_colours() -> None:
    ramp = torch.linspace(0, 250, 32).byte().view(1, 1, 32, 1).expand(8, 32, 32, 3)
    config = AugmentConfig(jpeg=1.0)
    smooth = augment(RawImages(ramp.contiguous()), config, 32, 0, places(8)).images
    assert float((smooth[:, 0] * 255 - ramp[..., 0]).abs().mean()) < 4
    colours = torch.zeros(8, 32, 32, 3, dtype=torch.uint8)
    colours[:, :, ::2, 0], colours[:, :, 1::2, 2] = 200, 200
    coded = augment(RawImages(colours), config, 32, 0, places(8)).images
    # Red and blue columns one pixel wide: their colours run together.
    assert float((coded[:, 0, :, ::2] - coded[:, 0, :, 1::2]).mean()) < 0.5


def test_recoloured_instances_differ_in_colour_only() -> None:
    raw = scene()
    config = AugmentConfig(recolour=1.0)
    seen = []
    for place in range(20):
        batch = augment(raw, config, 64, 0, places(1, place))
        assert batch.labels is not None and torch.equal(batch.labels, raw.labels)
        for label in (0, 2):
            colour = batch.images[0].permute(1, 2, 0)[batch.labels[0] == label]
            assert float(colour.std(dim=0).max()) < 1e-6  # one albedo, one light
        seen.append(batch.images[0, :, 20, 25])
    assert float(torch.stack(seen).std(dim=0).mean()) > 0.05
    alike = [float((a - 50 / 255).abs().max()) < 0.02 for a in seen]
    assert any(alike), "no object took the wall's colour"


def lit_object_before_print(size: int = 64) -> RawImages:
    """A grey rectangle, ever darker from left to right, before a wall of stripes."""
    labels = torch.zeros(1, size, size, dtype=torch.uint8)
    labels[:, 16:48, 20:52] = 3
    stripes = (torch.arange(size) // 3 % 2 * 80 + 80).expand(size, size)
    light = torch.linspace(230, 60, 32).expand(32, 32)
    images = stripes.clone().float()
    images[16:48, 20:52] = light
    return RawImages(images[None, ..., None].expand(1, size, size, 3).byte(), labels)


def test_retextured_instances_take_a_texture_and_keep_their_light() -> None:
    raw = lit_object_before_print()
    before = raw.images[0].float() / 255
    object_ = raw.labels[0] == 3 if raw.labels is not None else None
    assert object_ is not None
    taken, rough, light = {0: 0, 3: 0}, [], []
    for place in range(60):
        batch = augment(raw, AugmentConfig(texture=0.5), 64, 0, places(1, place))
        assert torch.equal(batch.labels, raw.labels)
        after = batch.images[0].permute(1, 2, 0)
        for label, where in ((0, ~object_), (3, object_)):
            changed = (after - before)[where].abs().amax(dim=1) > 0.5 / 255
            assert not changed.any() or float(changed.float().mean()) > 0.5
            taken[label] += bool(changed.any())
        piece = after[16:48, 20:52].mean(dim=2)
        if float((after - before)[object_].abs().max()) > 1 / 255:
            rough.append(float((piece[:, 1:] - piece[:, :-1]).abs().mean()))
            light.append(float(piece[:, :10].mean() - piece[:, -10:].mean()))
    for count in taken.values():  # the image has two instances: each by itself, half of the times
        assert 18 < count < 42
    plain = float((before[16:48, 21:52] - before[16:48, 20:51]).abs().mean())
    assert np.quantile(rough, 0.8) > 2 * plain
    assert np.median(light) > 0.25  # brighter on the left, as it was


# Depth


def test_depth_is_lost_as_often_as_asked() -> None:
    depth = torch.full((400, 8, 8), 1000, dtype=torch.int32)
    intrinsics = torch.tensor([[8.0, 8.0, 3.5, 3.5]]).expand(400, 4)
    raw = RawImages(grey(400, 8), None, depth, intrinsics)
    points = augment(raw, AugmentConfig(depth_drop=0.3), 8, 0, places(400)).points
    assert points is not None
    known = points[:, 3].flatten(1)
    assert set(known.mean(dim=1).tolist()) == {0.0, 1.0}  # all of it, or none
    assert float(known.mean()) == pytest.approx(0.7, abs=0.07)
    assert not points[known[:, 0] == 0].any()


def test_depth_noise_grows_with_the_distance_and_holes_are_unknown() -> None:
    depth = torch.full((64, 32, 32), 500, dtype=torch.int32)
    depth[:, 16:] = 2000
    raw = RawImages(grey(64, 32), None, depth, torch.tensor([[32.0, 32, 15.5, 15.5]]).expand(64, 4))
    noisy = augment(raw, AugmentConfig(depth_noise=0.02), 32, 0, places(64)).points
    assert noisy is not None and noisy[:, 3].all()
    near, far = noisy[:, 2, :16].std(), noisy[:, 2, 16:].std()
    assert float(far / near) == pytest.approx(4, rel=0.2)
    assert 0.002 < float(near / 0.5) < 0.04
    holed = augment(raw, AugmentConfig(depth_holes=0.5), 32, 0, places(64)).points
    assert holed is not None
    share = 1 - holed[:, 3].mean()
    assert 0.1 < float(share) < 0.4
    unknown = holed[:, 3] == 0
    assert not holed.permute(0, 2, 3, 1)[unknown].any()


def test_settings_out_of_range_are_named() -> None:
    for values, message in (
        ({"crop_scale": 2.0}, "augment.crop_scale is 2"),
        ({"jpeg": 1.5}, "augment.jpeg is 1.5; expected 0 to 1"),
        ({"depth_drop": -0.1}, "augment.depth_drop"),
        ({"noise": math.nan}, "augment.noise"),
    ):
        with pytest.raises(ConfigError, match=message):
            AugmentConfig(**values)  # type: ignore[arg-type]


# The loader


def write(folder: Path, *, depth: bool, count: int = 6, size: int = 16) -> PreparedDataset:
    split = folder / "train"
    split.mkdir(parents=True)
    random = np.random.default_rng(0)
    np.save(split / "images.npy", random.integers(0, 256, (count, size, size, 3), np.uint8))
    np.save(split / "masks.npy", random.integers(0, 4, (count, size, size), np.uint8))
    if depth:
        # Beyond what a signed number of 16 bits holds.
        np.save(split / "depths.npy", np.full((count, size, size), 40_000, np.uint16))
        np.save(split / "intrinsics.npy", np.full((count, 4), 10, np.float32))
    info = {"format": 1, "split": "train", "count": count, "image_size": size}
    (split / "info.json").write_text(json.dumps(info))
    return PreparedDataset(folder, "train")


def test_the_loader_reads_depth_where_it_is_wanted(tmp_path: Path) -> None:
    dataset = write(tmp_path / "depth", depth=True)
    plain = write(tmp_path / "plain", depth=False)

    def first(data: PreparedDataset, with_points: bool) -> object:
        loader = AugmentedLoader(
            data, AugmentConfig(), image_size=16, batch_size=4, seed=0, with_points=with_points
        )
        return loader.batch(0)

    found = first(dataset, True)
    assert float(found.points[0, 2, 0, 0]) == pytest.approx(40.0)  # type: ignore[attr-defined]
    assert first(dataset, False).points is None  # type: ignore[attr-defined]
    without = first(plain, True)
    assert without.points is None  # type: ignore[attr-defined]
    both = join([found, without])  # type: ignore[list-item]
    assert both.points is not None and both.images.shape == (8, 3, 16, 16)
    assert both.points[:4, 3].all() and not both.points[4:].any()
    assert both.labels is not None and len(both.labels) == 8
    without.labels = None  # type: ignore[attr-defined]
    labels = join([found, without]).labels  # type: ignore[list-item]
    assert labels is not None and len(labels) == 4


def test_reading_ahead_gives_the_batches_of_their_steps(tmp_path: Path) -> None:
    dataset = write(tmp_path, depth=True)
    loader = AugmentedLoader(dataset, ALL, image_size=16, batch_size=4, seed=1, with_points=True)
    stream = loader.iterate(3)
    for step in (3, 4, 5):
        ahead, alone = next(stream), loader.batch(step)
        assert torch.equal(ahead.images, alone.images)
        assert ahead.points is not None and torch.equal(ahead.points, alone.points)


@pytest.mark.cuda
def test_what_stays_on_the_gpu_is_what_would_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write(tmp_path, depth=True)
    options = {"image_size": 16, "batch_size": 4, "seed": 1, "with_points": True}
    device = torch.device("cuda")
    resident = AugmentedLoader(dataset, ALL, device=device, **options)  # type: ignore[arg-type]
    monkeypatch.setattr("training.batches._RESIDENT_SHARE", 0.0)
    sent = AugmentedLoader(dataset, ALL, device=device, **options)  # type: ignore[arg-type]
    assert resident.resident and not sent.resident
    streams = resident.iterate(2), sent.iterate(2)
    for _ in range(3):
        one, other = (next(stream) for stream in streams)
        assert torch.equal(one.images, other.images)
        assert one.points is not None and other.points is not None
        assert torch.equal(one.points, other.points)
        assert one.labels is not None and other.labels is not None
        assert torch.equal(one.labels, other.labels)


def test_processes_share_what_one_would_do(tmp_path: Path) -> None:
    dataset = write(tmp_path, depth=True)
    options = {"image_size": 16, "seed": 1, "with_points": True}
    whole = AugmentedLoader(dataset, ALL, batch_size=4, **options).batch(2)  # type: ignore[arg-type]
    halves = [
        AugmentedLoader(dataset, ALL, batch_size=2, rank=rank, world_size=2, **options).batch(2)  # type: ignore[arg-type]
        for rank in (0, 1)
    ]
    torch.testing.assert_close(
        torch.cat([half.images for half in halves]), whole.images, atol=1 / 255, rtol=0
    )
    assert whole.points is not None
    torch.testing.assert_close(
        torch.cat([half.points for half in halves if half.points is not None]),
        whole.points,
        atol=1e-4,
        rtol=1e-4,
    )
