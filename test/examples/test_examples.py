"""The examples, run as their first lines say. (examples/planner.py: test/ros/test_readme.py.)"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from genesis_core import default_checkpoint, load_model

ROOT = Path(__file__).resolve().parents[2]

needs_model = pytest.mark.skipif(
    not default_checkpoint().is_file(), reason=f"no shipped checkpoint {default_checkpoint().name}"
)


def run(example: str, *arguments: object) -> str:
    """What an example prints."""
    command = [sys.executable, "-m", f"examples.{example}", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def picture(red_at: tuple[int, int] = (60, 110)) -> np.ndarray:
    """A bright table with a red object at x, y and a blue one, BGR (240, 320, 3)."""
    image = np.full((240, 320, 3), (165, 175, 170), np.uint8)
    x, y = red_at
    image[y : y + 70, x : x + 70] = (30, 30, 190)
    image[140:170, 220:250] = (190, 60, 30)
    return image


@needs_model
def test_segment_picture_finds_and_draws_the_objects(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), picture())
    printed = run("segment_picture", tmp_path / "scene.png", tmp_path / "objects.png")
    centres = re.findall(r"^object \d+: \d+ px around \((\d+), (\d+)\)", printed, re.M)
    assert any(abs(int(x) - 94) < 12 and abs(int(y) - 144) < 12 for x, y in centres), printed
    drawn = cv2.imread(str(tmp_path / "objects.png"))
    assert drawn.shape == picture().shape
    assert (drawn != picture()).any(axis=-1)[115:175, 65:125].mean() > 0.5
    assert (drawn == picture())[:100].mean() > 0.9  # the table keeps its colours


@pytest.mark.slow
@needs_model
def test_track_video_keeps_ids(tmp_path: Path) -> None:
    clip = ROOT / "genesis_ros" / "data" / "tabletop.mp4"
    printed = run("track_video", clip, tmp_path / "tracked.mp4", "--frames", 6)
    ids = [set(map(int, line.split(", "))) for line in re.findall(r"objects \[(.+)\]", printed)]
    assert len(ids) == 6, printed
    assert set.intersection(*ids), printed
    video = cv2.VideoCapture(str(tmp_path / "tracked.mp4"))
    count = 0
    while video.read()[0]:
        count += 1
    assert count == 6


@pytest.mark.slow
def test_train_on_a_folder_gives_a_model_and_a_picture(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(12):
        file = tmp_path / "pictures" / f"{number}.png"
        cv2.imwrite(str(file), picture((20 + 10 * number, 40 + 8 * number)))
    run("train_on_a_folder", tmp_path / "pictures", tmp_path / "out", "--steps", 2)
    model = load_model(tmp_path / "out" / "run" / "model.safetensors")
    assert model.metadata["trained"]["steps"] == 2
    assert cv2.imread(str(tmp_path / "out" / "objects.png")).shape == picture().shape
