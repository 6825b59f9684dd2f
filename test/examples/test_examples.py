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


CLIP = ROOT / "genesis_ros" / "data" / "tabletop.mp4"
CENTRES = {"cube": (435, 157), "ball": (335, 139), "block": (241, 156)}  # of picture(), x and y
ARM = (283, 43)  # in the clip's first frame


def picture(frame: int = 9) -> np.ndarray:
    """A basket with a red cube, a blue ball and a green block, BGR (480, 640, 3).

    frame: of the clip, from 1. A robot's arm hangs over the basket in the first one.
    """
    video = cv2.VideoCapture(str(CLIP))
    return [video.read()[1] for _ in range(frame)][-1]


def drawing(red_at: tuple[int, int]) -> np.ndarray:
    """A plain picture with a red square at x, y and a blue one, BGR (240, 320, 3)."""
    image = np.full((240, 320, 3), (165, 175, 170), np.uint8)
    x, y = red_at
    image[y : y + 70, x : x + 70] = (30, 30, 190)
    image[140:170, 220:250] = (190, 60, 30)
    return image


@pytest.mark.slow
@needs_model
def test_segment_picture_finds_and_draws_the_objects(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), picture())
    printed = run("segment_picture", tmp_path / "scene.png", tmp_path / "objects.png")
    centres = re.findall(r"^object \d+: \d+ px around \((\d+), (\d+)\)", printed, re.M)
    for name, (x, y) in CENTRES.items():
        near = [abs(int(u) - x) < 12 and abs(int(v) - y) < 12 for u, v in centres]
        assert any(near), (name, printed)
    drawn = cv2.imread(str(tmp_path / "objects.png"))
    assert drawn.shape == picture().shape
    changed = (drawn != picture()).any(axis=-1)
    assert changed[140:174, 418:452].mean() > 0.5  # the cube
    assert changed[400:].mean() < 0.1  # the basket's rim keeps its colours


@pytest.mark.slow
@needs_model
def test_the_robot_is_not_called_an_object(tmp_path: Path) -> None:
    """The model knows the arm over the basket, and says so, though it is no background."""
    cv2.imwrite(str(tmp_path / "scene.png"), picture(1))
    printed = run("segment_picture", tmp_path / "scene.png", tmp_path / "objects.png")
    found = re.findall(r"^(\w+) \d+: \d+ px around \((\d+), (\d+)\)", printed, re.M)
    near = [kind for kind, x, y in found if np.hypot(int(x) - ARM[0], int(y) - ARM[1]) < 12]
    assert near == ["robot"], printed
    objects = [kind for kind, _, _ in found].count("object")
    assert objects >= len(CENTRES)
    tracked = run("track_video", CLIP, tmp_path / "tracked.mp4", "--frames", 1)
    (ids,) = re.findall(r"objects \[(.+)\]", tracked)
    assert len(ids.split(", ")) == objects, (printed, tracked)


@pytest.mark.slow
@needs_model
def test_pictures_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "scene.png"), picture())
    for example, source in (("segment_picture", tmp_path / "scene.png"), ("track_video", CLIP)):
        target = tmp_path / "absent" / f"out{'.mp4' if source == CLIP else '.png'}"
        command = [sys.executable, "-m", f"examples.{example}", str(source), str(target)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
        assert result.returncode == 2 and f"to {target}" in result.stderr


@pytest.mark.slow
@needs_model
def test_track_video_keeps_ids(tmp_path: Path) -> None:
    printed = run("track_video", CLIP, tmp_path / "tracked.mp4", "--frames", 6)
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
        cv2.imwrite(str(file), drawing((20 + 10 * number, 40 + 8 * number)))
    run("train_on_a_folder", tmp_path / "pictures", tmp_path / "my output", "--steps", 2)
    model = load_model(tmp_path / "my output" / "run" / "model.safetensors")
    assert model.metadata["trained"]["steps"] == 2
    assert cv2.imread(str(tmp_path / "my output" / "objects.png")).shape == drawing((0, 0)).shape
