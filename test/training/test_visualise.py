"""Picture sheets: every tile shows what its caption says; photos and data sets become sheets."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genesis_core import (
    GenesisV2,
    GenesisV2Config,
    SlotAttention,
    SlotAttentionConfig,
    SlotOutput,
    save_model,
)
from training.sheets import (
    CAPTION_HEIGHT,
    GAP,
    PALETTE,
    UNUSED,
    overlay,
    reconstruction_sheet,
    sample_sheet,
    slot_colours,
    write_png,
)
from training.visualise import load_photos, main

SIZE = 96  # tiles of this size are drawn pixel by pixel
SLOTS = 3


def tile(sheet: NDArray[np.uint8], row: int, column: int, group: int = 0) -> NDArray[np.uint8]:
    """The picture under the caption at a place of a sheet of SIZE tiles."""
    top = GAP + row * (CAPTION_HEIGHT + SIZE + GAP) + group * 3 * GAP + CAPTION_HEIGHT
    left = GAP + column * (SIZE + GAP)
    return sheet[top : top + SIZE, left : left + SIZE]


def halves(size: int = SIZE) -> SlotOutput:
    """Two slots that halve the image, left red and right blue, and an unused third slot."""
    masks = torch.zeros(1, SLOTS, 1, size, size)
    masks[:, 0, :, :, : size // 2] = 1
    masks[:, 1, :, :, size // 2 :] = 1
    means = torch.zeros(1, SLOTS, 3, size, size)
    means[:, 0, 0] = 1.0
    means[:, 1, 2] = 1.0
    return SlotOutput(
        num_slots=torch.tensor([2]),
        latents=torch.zeros(1, SLOTS, 4),
        log_attention=masks.flip(-1).log(),  # the other way round than the decoder's
        log_masks=masks.log(),
        means=means,
        reconstruction=(masks * means).sum(1),
    )


def tiny_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    config = GenesisV2Config(image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS)
    save_model(GenesisV2(config), folder / "model.safetensors")
    return folder / "model.safetensors"


def test_reconstruction_sheet_shows_every_part_in_its_place() -> None:
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    truth = np.zeros((1, SIZE, SIZE), np.uint8)
    truth[0, 10:20, 10:20] = 1
    sheet = reconstruction_sheet(image, halves(), truth)

    data = (image[0].permute(1, 2, 0).numpy() * 255).round()
    assert (tile(sheet, 0, 0) == data).all()
    left, right = (40, SIZE // 4), (40, 3 * SIZE // 4)
    assert tile(sheet, 0, 1)[left].tolist() == [255, 0, 0]  # reconstruction
    assert tile(sheet, 0, 1)[right].tolist() == [0, 0, 255]
    for column, mask_left in ((2, 0), (3, 255)):  # attention 1 and 2
        assert tile(sheet, 0, column)[left].tolist() == [mask_left] * 3
        assert tile(sheet, 1, column)[left].tolist() == [255 - mask_left] * 3  # decoder
    assert tile(sheet, 2, 2)[left].tolist() == [255, 0, 0]  # component 1 in its mask,
    assert tile(sheet, 2, 2)[right].tolist() == [255, 255, 255]  # and outside
    assert tile(sheet, 2, 3)[right].tolist() == [0, 0, 255]
    for row in range(3):
        assert (tile(sheet, row, 4) == UNUSED).all()
    # Attention and decoder segments are each other's mirror image here.
    attention, decoder = tile(sheet, 1, 0), tile(sheet, 1, 1)
    for segments, place, slot in ((attention, left, 1), (decoder, left, 0), (decoder, right, 1)):
        expected = 0.45 * data[place] + 0.55 * np.array(PALETTE[slot])
        np.testing.assert_allclose(segments[place], expected, atol=1)
    shown_truth = tile(sheet, 2, 0)
    assert (shown_truth[50:, 50:] == data[50:, 50:]).all()  # background is left alone
    expected = 0.45 * data[15, 15] + 0.55 * np.array(PALETTE[0])
    np.testing.assert_allclose(shown_truth[15, 15], expected, atol=1)


def test_masks_and_reconstructions_that_are_smaller_than_the_image_are_enlarged() -> None:
    """As those of EfficientNet-Lite0 and of decoders of another size are."""
    image = torch.rand(1, 3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))
    whole, out = halves(2 * SIZE), halves(2 * SIZE)
    assert out.log_attention is not None and out.log_masks is not None
    assert out.means is not None and out.reconstruction is not None
    out.log_attention = out.log_attention[..., ::2, ::2]
    out.log_masks, out.means = out.log_masks[..., ::4, ::4], out.means[..., ::4, ::4]
    out.reconstruction = out.reconstruction[..., ::4, ::4]
    assert (reconstruction_sheet(image, out) == reconstruction_sheet(image, whole)).all()


def test_images_follow_one_another_and_small_ones_are_enlarged() -> None:
    torch.manual_seed(0)
    model = GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS))
    images = torch.rand(2, 3, 32, 32)
    sheet = reconstruction_sheet(images, model.eval()(images))
    height, width = 2 * 3 * (CAPTION_HEIGHT + SIZE + GAP) + 4 * GAP, (2 + SLOTS) * (SIZE + GAP)
    assert sheet.shape == (height, width + GAP, 3)
    for index, image in enumerate(images):
        shown = tile(sheet, 3 * index, 0, group=index)[::3, ::3]
        assert (shown == (image.permute(1, 2, 0).numpy() * 255).round()).all()


def test_depth_has_a_tile_of_its_own() -> None:
    images = torch.rand(1, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    out = halves()
    assert out.means is not None and out.log_masks is not None
    out.means = torch.cat([out.means, torch.full_like(out.means[:, :, :1], 0.5)], dim=2)
    out.reconstruction = (out.log_masks.exp() * out.means).sum(1)
    sheet = reconstruction_sheet(images, out)
    grey = (images[0, 3].numpy() * 255).round()
    assert (tile(sheet, 2, 1) == grey[..., None]).all()
    assert (tile(sheet, 0, 0) == (images[0, :3].permute(1, 2, 0).numpy() * 255).round()).all()
    assert tile(sheet, 0, 1)[40, 20].tolist() == [255, 0, 0]  # the colours of the reconstruction
    assert tile(sheet, 2, 2)[40, 20].tolist() == [255, 0, 0]
    assert tile(sample_sheet(out), 0, 0)[40, 20].tolist() == [255, 0, 0]


def test_photos_have_no_depth(tmp_path: Path) -> None:
    config = GenesisV2Config(image_size=32, feature_dim=8, num_slots=SLOTS, image_channels=4)
    save_model(GenesisV2(config), tmp_path / "deep.safetensors")
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((32, 32, 3), np.uint8))
    command = ["--checkpoint", str(tmp_path / "deep.safetensors"), "--device", "cpu"]
    with pytest.raises(SystemExit, match="holds photos, which have 3 channels; the model takes 4"):
        main([*command, "--data", str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")])


def test_masks_without_a_decoder_can_be_drawn() -> None:
    out = halves()
    out.log_masks = out.means = out.reconstruction = None
    sheet = reconstruction_sheet(torch.zeros(1, 3, SIZE, SIZE), out)
    assert (tile(sheet, 0, 1) == UNUSED).all()
    assert (tile(sheet, 1, 2) == UNUSED).all()
    assert tile(sheet, 0, 3)[40, 20].tolist() == [255, 255, 255]


def test_sample_sheet_shows_scene_segments_and_components() -> None:
    out = halves()
    out.log_attention = None
    sheet = sample_sheet(out)
    assert tile(sheet, 0, 0)[40, 20].tolist() == [255, 0, 0]
    np.testing.assert_allclose(
        tile(sheet, 0, 1)[40, 20],
        0.45 * np.array([255, 0, 0]) + 0.55 * np.array(PALETTE[0]),
        atol=1,
    )
    assert tile(sheet, 0, 2)[40, 20].tolist() == [255, 0, 0]
    assert tile(sheet, 0, 2)[40, 80].tolist() == [255, 255, 255]
    assert tile(sheet, 0, 3)[40, 80].tolist() == [0, 0, 255]
    with pytest.raises(ValueError, match="sample_sheet"):
        reconstruction_sheet(torch.zeros(1, 3, SIZE, SIZE), out)


def test_segments_are_outlined_and_pixels_outside_are_left_alone() -> None:
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    labels = np.full((SIZE, SIZE), -1)
    labels[20:40, 20:40] = 0
    painted = overlay(picture, labels)
    assert (painted[60:] == 100).all()
    assert (painted[20, 20:40] == 255).all()
    assert (painted[21:40, 21:40] == painted[30, 30]).all()
    assert painted[30, 30].tolist() != [100, 100, 100]


def test_slots_have_different_colours() -> None:
    colours = slot_colours(24)
    assert len({tuple(colour) for colour in colours.tolist()}) == 24
    assert colours[:3].tolist() == [list(colour) for colour in PALETTE[:3]]


def test_png_keeps_the_colours(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    picture[..., 0] = 200
    write_png(tmp_path / "new" / "red.png", picture)
    read = cv2.imread(str(tmp_path / "new" / "red.png"))
    assert read is not None
    assert read[0, 0].tolist() == [0, 0, 200]  # OpenCV's order is BGR
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["red.png"]


def test_photos_are_cropped_or_resized_in_the_order_of_their_names(tmp_path: Path) -> None:
    # Green with blue side strips, 64x128: the centre square shows no blue.
    photo = np.zeros((64, 128, 3), np.uint8)
    photo[:, :, 1] = 255
    photo[:, :32] = photo[:, 96:] = (255, 0, 0)
    cv2.imwrite(str(tmp_path / "b.png"), photo)
    cv2.imwrite(str(tmp_path / "a.PNG"), np.full((8, 8, 3), 50, np.uint8))
    (tmp_path / "notes.txt").write_text("not a photo")
    for name in ("a.label.png", "a.depth.png", "._b.png"):
        (tmp_path / name).write_text("not a photo")
    cropped = load_photos(tmp_path, 5, 16, "crop")
    assert cropped.shape == (2, 16, 16, 3)
    assert (cropped[0] == 50).all()
    assert (cropped[1] == (0, 255, 0)).all()
    resized = load_photos(tmp_path / "b.png", 5, 16, "resize")
    assert resized.shape == (1, 16, 16, 3)
    assert resized[0, 8, [0, 8, 15]].tolist() == [[0, 0, 255], [0, 255, 0], [0, 0, 255]]


def test_command_draws_a_data_set(tmp_path: Path) -> None:
    split = tmp_path / "data" / "test"
    split.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    np.save(split / "images.npy", images)
    np.save(split / "masks.npy", np.zeros((3, 64, 64), np.uint8))
    info = {"format": 1, "dataset": "sprites", "split": "test", "count": 3, "image_size": 64}
    (split / "info.json").write_text(json.dumps(info))
    checkpoint = tiny_checkpoint(tmp_path)
    command = ["--checkpoint", str(checkpoint), "--data", str(tmp_path / "data")]
    main([*command, "--output", str(tmp_path / "out"), "--num-images", "2", "--device", "cpu"])
    reconstructions = cv2.imread(str(tmp_path / "out" / "reconstructions.png"))
    samples = cv2.imread(str(tmp_path / "out" / "samples.png"))
    assert reconstructions is not None
    assert samples is not None
    assert reconstructions.shape[1] == samples.shape[1] == (2 + SLOTS) * (SIZE + GAP) + GAP
    assert reconstructions.shape[0] > 2 * 3 * SIZE
    assert 2 * SIZE < samples.shape[0] < 3 * SIZE


def test_command_draws_a_photo(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.full((50, 70, 3), 90, np.uint8))
    checkpoint = tiny_checkpoint(tmp_path)
    command = ["--checkpoint", str(checkpoint), "--data", str(tmp_path / "photo.jpg")]
    main([*command, "--output", str(tmp_path / "out"), "--device", "cpu"])
    sheet = cv2.imread(str(tmp_path / "out" / "reconstructions.png"))
    assert sheet is not None
    assert sheet.shape[0] < 4 * SIZE + 100
    np.testing.assert_allclose(tile(sheet, 0, 0), 90, atol=3)


def test_a_model_that_cannot_generate_is_drawn_without_samples(tmp_path: Path) -> None:
    model = SlotAttention(SlotAttentionConfig(image_size=32, num_slots=SLOTS, feature_dim=4))
    save_model(model, tmp_path / "slots.safetensors")
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((32, 32, 3), 90, np.uint8))
    command = ["--checkpoint", str(tmp_path / "slots.safetensors"), "--device", "cpu"]
    command += ["--data", str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    main(command)
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["reconstructions.png", "report.html"]
    with pytest.raises(SystemExit, match="slot_attention uses a fixed number of slots"):
        main([*command, "--stop-threshold", "20"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("broken.png", r"broken\.png: the image cannot be decoded"),
        ("nowhere", r"nowhere is not a directory.*folder of images"),
        ("empty", r"empty.*folder of images"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, data: str, message: str) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "empty").mkdir()
    command = ["--checkpoint", str(tiny_checkpoint(tmp_path)), "--data", str(tmp_path / data)]
    with pytest.raises(SystemExit, match=r"visualise\.py: error: .*" + message):
        main([*command, "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert not (tmp_path / "out").exists()


def test_pictures_are_of_what_the_node_sees(tmp_path: Path) -> None:
    """With the depth that a data set has, and as many slots as the checkpoint says."""
    torch.manual_seed(0)
    config = GenesisV2Config(
        image_size=32, feature_dim=8, latent_dim=8, num_slots=SLOTS, points=True
    )
    checkpoint = tmp_path / "model.safetensors"
    save_model(GenesisV2(config), checkpoint, {"stop_threshold": 5000.0})  # one slot is left
    sheets = []
    for far, options in ((1000, []), (3000, []), (1000, ["--stop-threshold", "0"])):
        split = tmp_path / str(len(sheets)) / "test"
        split.mkdir(parents=True)
        rng = np.random.default_rng(0)
        np.save(split / "images.npy", rng.integers(0, 255, (2, 32, 32, 3), np.uint8))
        depth = np.full((2, 32, 32), 1000, np.uint16)
        depth[:, 16:] = far
        np.save(split / "depths.npy", depth)
        np.save(split / "intrinsics.npy", np.tile(np.float32([40, 40, 16, 16]), (2, 1)))
        info = {"format": 1, "dataset": "sprites", "split": "test", "count": 2, "image_size": 32}
        (split / "info.json").write_text(json.dumps(info))
        out = tmp_path / f"out {len(sheets)}"
        command = ["--checkpoint", str(checkpoint), "--data", str(split.parent), *options]
        main([*command, "--output", str(out), "--device", "cpu", "--num-images", "2"])
        sheets.append((out / "reconstructions.png").read_bytes())
    assert len(set(sheets)) == 3
