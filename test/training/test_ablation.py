"""The ablation of the default model's recipe: what is trained, what is tabulated, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.ablation import CALIBRATED, ROWS, SCORES, main
from genesis_core import GenesisV2, load_model
from training.datasets.sprites import render_range


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A command line for tiny runs on sprites, whose depth says nothing."""
    for name in ("general", "varied", "held_out"):
        for split in ("train", "val", "test"):
            folder = tmp_path / name / split
            folder.mkdir(parents=True)
            images, masks = render_range(0, 4, image_size=64, split=split, min_objects=2)
            np.save(folder / "images.npy", images)
            np.save(folder / "masks.npy", masks)
            np.save(folder / "depths.npy", np.full(masks.shape, 800, np.uint16))
            np.save(folder / "intrinsics.npy", np.full((4, 4), 32, np.float32))
            info = {"format": 1, "dataset": name, "split": split, "count": 4, "image_size": 64}
            (folder / "info.json").write_text(json.dumps(info))
    real = tmp_path / "real"
    real.mkdir()
    for number, (image, labels) in enumerate(zip(images, masks, strict=True)):
        cv2.imwrite(str(real / f"{number}.png"), image[..., ::-1])
        cv2.imwrite(str(real / f"{number}.label.png"), labels)
    folders = [f"--{name}={tmp_path / name}" for name in ("general", "varied", "real")]
    small = "--model.image_size 64 --model.feature_dim 8 --steps 2 --batch_size 2"
    return [
        *folders, "--held_out", str(tmp_path / "held_out"), "--output", str(tmp_path / "out"),
        "--num_scenes", "2", "--calibration_scenes", "2", "--encoder_weights", "null",
        "--settings", small,
    ]  # fmt: skip


@pytest.mark.slow
def test_one_part_is_changed_and_all_are_tabulated_once(
    arguments: list[str], tmp_path: Path
) -> None:
    main([*arguments, "--only", "whole", "slots_8", "--seeds", "0", "1"])
    output = tmp_path / "out"
    whole, fewer = (load_model(output / f"{name}_1" / CALIBRATED) for name in ("whole", "slots_8"))
    assert isinstance(whole, GenesisV2) and isinstance(fewer, GenesisV2)
    assert (whole.config.num_slots, fewer.config.num_slots) == (16, 8)
    assert whole.config.points and whole.config.encoder == "efficientnet_lite0"
    before = (output / "whole_0" / SCORES).stat().st_mtime_ns

    main([*arguments, "--only", "whole", "image"])
    assert (output / "whole_0" / SCORES).stat().st_mtime_ns == before
    lines = (output / "ablation.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    header, _, *rows = cells
    assert header[:3] == ["Model", "seeds", "real, R50"] and header[-1] == "held_out, R50"
    titles = [ROWS[name].title for name in ("whole", "image", "slots_8")]
    assert [row[:2] for row in rows] == list(map(list, zip(titles, "212", strict=True)))
    of_two = [json.loads((output / f"whole_{seed}" / SCORES).read_text()) for seed in (0, 1)]
    mean = sum(one["scores"]["real"]["f"] for one in of_two) / 2
    assert rows[0][header.index("F")].startswith(f"{mean:.2f}")


def test_unknown_rows_are_named(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="no row is named kernel; there are whole, varied"):
        main([*arguments, "--only", "kernel"])
