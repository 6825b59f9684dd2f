"""Look at what a model does: a page to open, and PNG sheets of masks, components, generated scenes.

python -m training.visualise --checkpoint model.safetensors --data data/tabletop --output out
python -m training.visualise --checkpoint model.safetensors --data photos/ --output out
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from genesis_core import SlotModel, decoder_is_trained, find_checkpoint, load_model
from training.command_line import call
from training.datasets.folder_names import SUFFIXES
from training.datasets.images import Fit, read_rgb, resize_image, seen_part
from training.datasets.inputs import is_clutter
from training.datasets.layout import RGB
from training.datasets.prepared import DatasetError, PreparedDataset
from training.labelled_images import DEPTH, LABEL
from training.report import Report, data_uri, model_results, read_curves
from training.scoring import (
    ScoredBatch,
    carried_threshold,
    choose_images,
    load_images,
    load_masks,
    load_points,
    score,
)
from training.sheets import reconstruction_sheet, sample_sheet, to_pictures, write_png


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
        photo[:] = resize_image(seen_part(image, fit), size, size)
    return photos


def _photo_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES
        and not file.name.lower().endswith((LABEL, DEPTH))
        and not is_clutter(file.relative_to(folder))
    )


def _load(
    data: Path, split: str, count: int, seed: int, fit: Fit, model: SlotModel
) -> tuple[list[str], ScoredBatch]:
    """Names of the images, and the images with what else is known of them."""
    if data.is_file() or _photo_files(data):
        if model.config.image_channels != RGB:
            raise DatasetError(
                f"{data} holds photos, which have 3 channels; the model takes "
                f"{model.config.image_channels}: give it a data set from training/prepare.py"
            )
        photos = torch.from_numpy(load_photos(data, count, model.config.image_size, fit))
        device = next(model.parameters()).device
        files = [data] if data.is_file() else _photo_files(data)[:count]
        images = photos.to(device).permute(0, 3, 1, 2).float() / 255
        return [file.name for file in files], ScoredBatch(images, None, {})
    try:
        dataset = PreparedDataset(data, split)
    except DatasetError as error:
        raise DatasetError(f"{error} (or a folder of images, or an image file)") from error
    indices = choose_images(dataset, count, seed)
    names = [f"{split} {index}" for index in indices]
    images = load_images(dataset, indices, model)
    masks = load_masks(dataset, indices, model)
    points = load_points(dataset, indices, model)
    return names, ScoredBatch(images, masks, points, dataset.robot_label)


def run(
    checkpoint: Path,
    data: Path,
    output: Path,
    num_images: int = 8,
    split: str = "test",
    stop_threshold: float | None = None,
    fit: Fit = "resize",
    num_slots: int | None = None,
    kernel: str | None = None,
    device: str = "auto",
    seed: int = 0,
) -> list[Path]:
    """Draw report.html, reconstructions.png and, if the model can generate scenes, samples.png.

    The page has every image beside its masks, and the learning curves if the checkpoint lies in the
    folder of its run. Of a model that was trained for its masks only, those alone are drawn.

    Args:
        checkpoint: the model, a file or the name of one that ships.
        data: a data set written by training/prepare.py, a folder of images, or an image file.
        output: folder for the files.
        num_images: images to reconstruct, and scenes to generate.
        split: train, val or test.
        stop_threshold: draw a flexible number of slots that stops at masks of this many pixels at
            64x64 (GENESIS-V2 only), or 0 for a fixed number; by default what the checkpoint
            carries, else a fixed number.
        fit: whether to crop photos to their centre square or resize them whole.
        num_slots: number of slots K, instead of the checkpoint's.
        kernel: IC-SBP's kernel, for reference checkpoints, which do not state it.
        device: auto, cpu, cuda or cuda:n.
        seed: of the choice of images and of the scenes generated.
    """
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; expected at least 1")
    checkpoint = find_checkpoint(str(checkpoint))
    model: SlotModel = load_model(checkpoint, num_slots=num_slots, kernel=kernel, device=device)
    names, batch = _load(data, split, num_images, seed, fit, model)
    # 0 asks for a fixed number, which is None for the model.
    threshold = carried_threshold(model) if stop_threshold is None else stop_threshold or None
    decode = decoder_is_trained(model.metadata.get("trained"))
    with torch.no_grad():
        out = model(batch.images, **batch.inputs, stop_threshold=threshold, decode=decode)
        metrics = score(model, batch, out)
    source = model.metadata.get("mask_source", model.default_mask_source)
    page = Report(
        f"What {checkpoint.name} makes of {data.name}",
        [f"{len(names)} images", f"model {model.config.model}", str(checkpoint)],
        curves=read_curves({checkpoint.parent.name: checkpoint.parent}),
        images=model_results(batch, out, metrics, names, source),
    )
    sheets = {"reconstructions.png": reconstruction_sheet(batch.images, out, batch.masks)}
    if decode and model.generative:
        samples = model.sample(num_images, generator=torch.Generator().manual_seed(seed))
        sheets["samples.png"] = sample_sheet(samples)
        assert samples.reconstruction is not None  # it is decoded
        scenes = map(data_uri, to_pictures(samples.reconstruction))
        page.scenes = [(f"scene {i}", scene) for i, scene in enumerate(scenes, start=1)]
    for name, sheet in sheets.items():
        write_png(output / name, sheet)
        print(f"wrote {output / name}")
    paths = [output / name for name in sheets]
    paths.append(page.write(output))
    print(f"wrote {paths[-1]}: open it in a browser")
    return paths


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="visualise.py", description="Draw what a model does.")
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
