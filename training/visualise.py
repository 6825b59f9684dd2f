"""Look at what a model does: PNG sheets of reconstructions, masks, components, generated scenes.

python -m training.visualise --checkpoint model.safetensors --data data/tabletop --output out
python -m training.visualise --checkpoint model.safetensors --data photos/ --output out
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from torch import Tensor

from genesis_core import SlotModel, decoder_is_trained, load_model
from training.command_line import call
from training.datasets.images import centre_crop, read_rgb, resize_image
from training.datasets.layout import RGB
from training.datasets.prepared import DatasetError, PreparedDataset
from training.scoring import choose_images, load_images, load_masks
from training.sheets import reconstruction_sheet, sample_sheet, write_png

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}

Fit = Literal["resize", "crop"]


def load_photos(path: Path, limit: int, size: int, fit: Fit) -> NDArray[np.uint8]:
    """An image file, or the first images of a folder by name: uint8 RGB (N, size, size, 3).

    Args:
        fit: "crop" cuts the centre square out, "resize" squeezes the whole image into a square.

    Raises:
        DatasetError: a file is not an image.
    """
    files = [path] if path.is_file() else _photo_files(path)[:limit]
    photos = np.empty((len(files), size, size, 3), np.uint8)
    for file, photo in zip(files, photos, strict=True):
        try:
            image = read_rgb(file)
        except ValueError as error:
            raise DatasetError(f"{file}: {error}") from error
        if fit == "crop":
            image = centre_crop(image, min(image.shape[:2]))
        photo[:] = resize_image(image, size, size)
    return photos


def _photo_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)


def _load(
    data: Path, split: str, count: int, seed: int, fit: Fit, model: SlotModel
) -> tuple[Tensor, NDArray[np.uint8] | None]:
    """Images (B, C, H, W) on the model's device, and their ground truth where it is known."""
    if data.is_file() or _photo_files(data):
        if model.config.image_channels != RGB:
            raise DatasetError(
                f"{data} holds photos, which have 3 channels; the model takes "
                f"{model.config.image_channels}: give it a data set from training/prepare.py"
            )
        photos = torch.from_numpy(load_photos(data, count, model.config.image_size, fit))
        device = next(model.parameters()).device
        return photos.to(device).permute(0, 3, 1, 2).float() / 255, None
    try:
        dataset = PreparedDataset(data, split)
    except DatasetError as error:
        raise DatasetError(f"{error} (or a folder of images, or an image file)") from error
    indices = choose_images(dataset, count, seed)
    return load_images(dataset, indices, model), load_masks(dataset, indices, model)


def run(
    checkpoint: Path,
    data: Path,
    output: Path,
    num_images: int = 8,
    split: str = "test",
    stop_threshold: float | None = None,
    fit: Fit = "crop",
    num_slots: int | None = None,
    kernel: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> list[Path]:
    """Draw reconstructions.png and, for a model that can generate scenes, samples.png.

    Of a model that was trained for its masks only, those alone are drawn.

    Args:
        checkpoint: the model.
        data: a data set written by training/prepare.py, a folder of images, or an image file.
        output: folder for the PNG files.
        num_images: images to reconstruct, and scenes to generate.
        split: train, val or test.
        stop_threshold: draw a flexible number of slots that stops at masks of this many pixels at
            64x64 (GENESIS-V2 only); by default the number is fixed.
        fit: whether to crop photos to their centre square or resize them whole.
        num_slots: number of slots K, instead of the checkpoint's.
        kernel: IC-SBP's kernel, for reference checkpoints, which do not state it.
        device: auto, cpu, cuda or cuda:n.
        seed: of the choice of images and of the scenes generated.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; expected at least 1")
    model: SlotModel = load_model(checkpoint, num_slots=num_slots, kernel=kernel, device=device)
    images, truth = _load(data, split, num_images, seed, fit, model)
    decode = decoder_is_trained(model.metadata.get("trained"))
    with torch.no_grad():
        out = model(images, stop_threshold=stop_threshold, decode=decode)
    sheets = {"reconstructions.png": reconstruction_sheet(images, out, truth)}
    if decode and model.generative:
        samples = model.sample(num_images, generator=torch.Generator().manual_seed(seed))
        sheets["samples.png"] = sample_sheet(samples)
    for name, sheet in sheets.items():
        write_png(output / name, sheet)
        print(f"wrote {output / name}")
    return [output / name for name in sheets]


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="visualise.py", description="Draw what a model does.")
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
