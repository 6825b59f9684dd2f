"""The average of a trained model and of its start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from genesis_core import (
    CheckpointError,
    GenesisV2,
    GenesisV2Config,
    decoder_is_trained,
    load_model,
    save_model,
)
from training.average import average, run, with_latents


def _model(seed: int, width: int = 8) -> GenesisV2:
    torch.manual_seed(seed)
    model = GenesisV2(GenesisV2Config(image_size=32, num_slots=3, feature_dim=width, latent_dim=8))
    model.metadata = {"stop_threshold": 5.0, "trained": {"steps": seed}}
    return model


def test_weights_lie_between_those_of_the_two(tmp_path: Path) -> None:
    tuned, start = _model(1), _model(2)
    save_model(tuned, tmp_path / "tuned.safetensors")
    save_model(start, tmp_path / "start.safetensors")
    output = tmp_path / "folder" / "model.safetensors"
    run(tmp_path / "tuned.safetensors", tmp_path / "start.safetensors", output, 0.25, half=False)
    found = load_model(output)
    for name, value in found.state_dict().items():
        expected = 0.25 * tuned.state_dict()[name] + 0.75 * start.state_dict()[name]
        torch.testing.assert_close(value, expected)
    assert found.metadata["stop_threshold"] == 5
    trained = found.metadata["trained"]
    assert trained == {"steps": 1, "averaged_with": {"steps": 2}, "weight": 0.25}
    again = average(found, load_model(output), 0.5).metadata["trained"]
    assert again["averaged_with"] == {"steps": 1, "weight": 0.25}, "not the history once more"


def test_the_kernel_alone_grows_wider(tmp_path: Path) -> None:
    model, paths = _model(1), [tmp_path / f"{name}.safetensors" for name in ("model", "wide")]
    save_model(model, paths[0])
    run(paths[0], paths[0], paths[1], 1.0, half=False, kernel_scale=3.3)
    found, before = load_model(paths[1]).state_dict(), model.state_dict()
    scale = "icsbp.log_scale"
    torch.testing.assert_close(found.pop(scale).exp(), 3.3 * before.pop(scale).exp())
    for name, value in before.items():
        torch.testing.assert_close(found[name], value, msg=name)
    run(paths[1], paths[1], tmp_path / "wider.safetensors", 1.0, half=False, kernel_scale=2)
    said = load_model(tmp_path / "wider.safetensors").metadata["trained"]
    assert said["kernel_scale"] == pytest.approx(6.6)
    half = average(load_model(paths[1]), load_model(paths[0]), 0.5)
    assert half.metadata["trained"]["kernel_scale"] == pytest.approx(3.3**0.5)
    with pytest.raises(ValueError, match="kernel_scale is 0; expected > 0"):
        run(paths[0], paths[0], tmp_path / "none.safetensors", kernel_scale=0)


def test_parts_stay_as_they_were_at_the_start(tmp_path: Path) -> None:
    tuned, start = _model(1), _model(2)
    start.embedding.gate.data.fill_(1.0)  # both start at zero
    save_model(tuned, tmp_path / "tuned.safetensors")
    save_model(start, tmp_path / "start.safetensors")
    parts = ("backbone.down", "embedding.gate")
    paths = [tmp_path / f"{name}.safetensors" for name in ("tuned", "start", "model")]
    run(paths[0], paths[1], paths[2], 0.25, half=False, of_start=parts)
    found = load_model(paths[2])
    for name, value in found.state_dict().items():
        kept = name == "embedding.gate" or name.startswith("backbone.down.")
        theirs = start.state_dict()[name]
        expected = theirs if kept else 0.25 * tuned.state_dict()[name] + 0.75 * theirs
        torch.testing.assert_close(value, expected, msg=name)
    assert found.metadata["trained"]["parts_of_start"] == list(parts)
    with pytest.raises(CheckpointError, match=r"have no part trunk, backbone\.dow$"):
        average(tuned, start, 1.0, ("trunk", "backbone.dow", "icsbp"))


def test_latents_and_decoder_come_from_a_third_model(tmp_path: Path) -> None:
    """Masks are the average's; the third has other latents, which see thumbnails of the mask."""
    tuned, start = _model(1), _model(2)
    tuned.metadata["trained"]["masks_only"] = True
    torch.manual_seed(3)
    third = GenesisV2(
        GenesisV2Config(
            image_size=32,
            num_slots=3,
            feature_dim=8,
            latent_dim=16,
            mask_thumbnail=4,
            colour_thumbnail=6,
            image_thumbnail=8,
        )
    )
    third.metadata = {"trained": {"steps": 3, "masks_only": False}}
    for name, model in (("tuned", tuned), ("start", start), ("third", third)):
        save_model(model, tmp_path / f"{name}.safetensors")
    output, none = tmp_path / "model.safetensors", tmp_path / "none.safetensors"

    def combine(output: Path, latents: str, **options: Any) -> None:
        paths = [tmp_path / f"{name}.safetensors" for name in ("tuned", "start", latents)]
        run(paths[0], paths[1], output, latents=paths[2], **options)

    combine(output, "third", half=False)
    found = load_model(output)
    assert found.config == third.config
    halfway = average(tuned, start, 0.5).state_dict()
    of_masks = ("backbone.", "embedding.", "icsbp.")
    for name, value in found.state_dict().items():
        expected = halfway[name] if name.startswith(of_masks) else third.state_dict()[name]
        torch.testing.assert_close(value, expected, msg=name)
    assert found.metadata["stop_threshold"] == 5
    assert found.metadata["trained"]["latents_of"] == third.metadata["trained"]
    assert decoder_is_trained(found.metadata["trained"])
    # A third of another width has latents of other features.
    save_model(_model(4, width=16), tmp_path / "wide.safetensors")
    with pytest.raises(CheckpointError, match="masks and latents do not fit together"):
        combine(none, "wide")
    with pytest.raises(ValueError, match="of_start names decoder, which latents replaces"):
        combine(none, "third", of_start=("backbone.down", "decoder"))
    assert not none.exists()
    squared = GenesisV2(replace(third.config, pooling_exponent=2.0))
    with pytest.raises(CheckpointError, match=r"pooling_exponent is 1\.0 and 2\.0"):
        with_latents(tuned, squared)


def test_models_for_images_of_two_sizes_have_an_average_where_weights_know_no_size() -> None:
    sizes = [
        GenesisV2(
            GenesisV2Config(
                image_size=size,
                num_slots=3,
                feature_dim=8,
                latent_dim=8,
                encoder="efficientnet_lite0",
                decoder_size=16,
                decoder_dim=8,
            )
        )
        for size in (64, 96)
    ]
    assert average(sizes[0], sizes[1], 0.5).config.image_size == 64
    paper = [GenesisV2(GenesisV2Config(image_size=size, feature_dim=8)) for size in (32, 64)]
    with pytest.raises(CheckpointError, match="differ in image_size"):
        average(paper[0], paper[1], 0.5)


def test_what_has_no_average_is_refused() -> None:
    with pytest.raises(CheckpointError, match="differ in feature_dim"):
        average(_model(1), _model(1, width=16), 0.5)
    with pytest.raises(ValueError, match=r"weight is 1\.5; expected 0 to 1"):
        average(_model(1), _model(2), 1.5)


def test_neither_of_the_two_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "tuned.safetensors"
    save_model(_model(1), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is one of the models given"):
        run(path, path, path)
    assert path.read_bytes() == before
