"""The Object Segmentation Database's clouds as labelled images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.osd import image_of, intrinsics_of, millimetres, object_labels
from training.labelled_images import find_labelled

ROOT = Path(__file__).resolve().parents[2]
HEADER = """\
VERSION 0.7
FIELDS label x y z rgba
SIZE 4 4 4 4 4
TYPE U F F F U
COUNT 1 1 1 1 1
WIDTH {width}
HEIGHT {height}
VIEWPOINT 0 0 0 1 0 0 0
POINTS {points}
DATA ascii
"""


def test_parts_of_an_object_are_one_and_what_has_no_depth_is_not_scored() -> None:
    labels = np.array([[0, 1, 2, 9], [20, 21, 30, 151]], np.uint32)

    assert object_labels(labels).tolist() == [[255, 0, 0, 0], [1, 1, 2, 14]]


def test_packed_colours_are_a_bgr_image() -> None:
    assert image_of(np.array([[0xFF010203]], np.uint32)).tolist() == [[[3, 2, 1]]]


def test_depth_is_in_whole_millimetres_and_nought_where_there_is_none() -> None:
    z = np.array([[0.7654, np.nan, 1.2]], np.float32)

    assert millimetres(z).tolist() == [[765, 0, 1200]]


def test_the_camera_is_the_one_that_sees_each_point_at_its_pixel() -> None:
    rows, columns = np.mgrid[0:6, 0:8].astype(np.float32)
    z = 1 + 0.1 * rows
    x, y = (columns - 3.5) * z / 520, (rows - 2.5) * z / 510
    z[0, 0] = np.nan

    assert intrinsics_of(x, y, z) == pytest.approx([520, 510, 3.5, 2.5], abs=0.01)


def test_a_cloud_without_depth_has_no_camera() -> None:
    nothing = np.full((3, 4), np.nan, np.float32)
    with pytest.raises(ValueError, match="no depth to find the camera by"):
        intrinsics_of(nothing, nothing, nothing)


def test_a_folder_of_clouds_becomes_images_to_evaluate_on(tmp_path: Path) -> None:
    source, output = tmp_path / "mOSD", tmp_path / "osd"
    (source / "learn").mkdir(parents=True)
    points = [
        f"{20 if column > 1 else 1} {(column - 2) / 500} {(row - 1) / 500} 1 {0xFF000000 + column}"
        for row in range(3)
        for column in range(5)
    ]
    points[0] = "0 nan nan nan 4278190080"
    cloud = HEADER.format(width=5, height=3, points=15) + "\n".join(points) + "\n"
    (source / "learn" / "learn7.pcd").write_text(cloud)
    loose = HEADER.format(width=1, height=1, points=1) + "20 0 0 1 0\n"
    (source / "test56.pcd").write_text(loose)

    command = [sys.executable, "-m", "benchmarks.osd", str(source), "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"{output}: 1 frames" in done.stdout
    assert "test56" in done.stdout
    (frame,) = find_labelled(output)
    assert (frame.name, frame.group) == ("learn7", "learn")
    assert frame.read_labels(3, 5).tolist() == [[255, 0, 1, 1, 1], *[[0, 0, 1, 1, 1]] * 2]
    assert frame.read_depth(3, 5)[0].tolist() == [0, 1, 1, 1, 1]
    assert cv2.imread(str(frame.image))[0, 3].tolist() == [3, 0, 0]
    assert frame.intrinsics(3, 5) == pytest.approx(
        np.array([[500, 0, 2], [0, 500, 1], [0, 0, 1]]), abs=0.01
    )


def test_a_folder_without_clouds_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.osd", str(tmp_path), "--output", "out"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert f"{tmp_path} holds no clouds" in done.stderr
