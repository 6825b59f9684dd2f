"""The frames of the Object Segmentation Database as labelled images, to measure on.

Frames of a Kinect with packages, mugs and bowls on a table, stacked and in heaps (Richtsfeld et
al., "Segmentation of Unknown Objects in Indoor Environments", 2012), in the edition that the Point
Cloud Library keeps: 107 of its 110 clouds are images. Needs requirements/dev.txt.

    git clone https://github.com/PointCloudLibrary/data pcl_data
    python -m benchmarks.osd pcl_data/segmentation/mOSD --output data/osd
    python -m training.evaluate --real data/osd --checkpoint tabletop tabletop_256

Never train on them: unseen-object methods are compared on these frames.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from genesis_core.files import write_atomically
from training.datasets.layout import IGNORED
from training.labelled_images import DEPTH, INDEX, LABEL

_TABLE = range(1, 10)
"""Labels of the table's parts. Those of the first object begin with 20, of the second with 30."""


def main() -> None:
    """Convert every cloud that is an image."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder with the clouds, in folders or not")
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    options = parser.parse_args()
    try:
        frames, left_out = convert(options.source, options.output)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"osd.py: {error}")
    print(f"{options.output}: {frames} frames")
    if left_out:
        print(f"left out, clouds without the image's rows and columns: {', '.join(left_out)}")


def convert(source: Path, output: Path) -> tuple[int, list[str]]:
    """Write images, labels, depths and their index.

    Args:
        source: folder whose clouds (.pcd, fields label, x, y, z, rgba) are searched for.
        output: folder; files of the same names are replaced.

    Returns:
        Number of frames, and names of the clouds that are no image.

    Raises:
        ImportError: pypcd4 is not installed.
        ValueError: there is no cloud, or one lacks a field.
    """
    try:
        from pypcd4.pypcd4 import PointCloud
    except ImportError as error:
        raise ImportError(f"{error}; run  pip install -r requirements/dev.txt  first") from None
    clouds = sorted(source.rglob("*.pcd"))
    if not clouds:
        raise ValueError(f"{source} holds no clouds (.pcd)")
    output.mkdir(parents=True, exist_ok=True)
    index: list[dict[str, Any]] = []
    left_out = []
    for path in tqdm(clouds, desc="osd", unit="frames"):
        cloud = PointCloud.from_path(path)
        if missing := {"label", "x", "y", "z", "rgba"} - set(cloud.fields):
            raise ValueError(f"{path} lacks {', '.join(sorted(missing))}")
        shape = (cloud.metadata.height, cloud.metadata.width)
        if shape[0] == 1:
            left_out.append(path.stem)
            continue
        field = {name: cloud.pc_data[name].reshape(shape) for name in cloud.fields}
        labels = object_labels(field["label"])
        try:
            camera = intrinsics_of(field["x"], field["y"], field["z"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        files = {
            "image": (f"{path.stem}.png", image_of(field["rgba"])),
            "label": (f"{path.stem}{LABEL}", labels),
            "depth_mm": (f"{path.stem}{DEPTH}", millimetres(field["z"])),
        }
        for name, pixels in files.values():
            write_atomically(output / name, cv2.imencode(".png", pixels)[1].tobytes())
        index.append(
            {
                "name": path.stem,
                "group": path.stem.rstrip("0123456789"),
                **{key: name for key, (name, _) in files.items()},
                "intrinsics_fx_fy_cx_cy": camera,
                "objects": len(set(np.unique(labels).tolist()) - {0, IGNORED}),
            }
        )
    write_atomically(output / INDEX, json.dumps(index, indent=1))
    return len(index), left_out


def object_labels(labels: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """Labels of a cloud as those of an image.

    The cloud numbers parts of the table from 1, of the first object from 20, of the second from 30;
    parts that something hides the middle of are one object. What has no depth is labelled 0 there,
    and so are the room and the far end of the table; it is not scored.

    Returns:
        (H, W): 0 the table, 1.. the objects, 255 not scored.
    """
    objects = np.where(labels > max(_TABLE), labels // 10 - 1, 0)
    return np.where(labels == 0, IGNORED, objects).astype(np.uint8)


def image_of(rgba: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    """Packed colours as a BGR image (H, W, 3)."""
    return np.stack([(rgba >> shift) & 0xFF for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def millimetres(z: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Depth in metres, NaN where unknown, as a depth image in millimetres, 0 where unknown."""
    return np.round(1000 * np.nan_to_num(z)).astype(np.uint16)


def intrinsics_of(
    x: npt.NDArray[np.float32], y: npt.NDArray[np.float32], z: npt.NDArray[np.float32]
) -> list[float]:
    """Of the camera that sees each point at its pixel: fx, fy, cx, cy in pixels.

    Raises:
        ValueError: hardly a pixel has depth.
    """
    rows, columns = np.nonzero(np.isfinite(z) & (z > 0))
    if len(rows) < 2:
        raise ValueError("no depth to find the camera by")
    depth = z[rows, columns].astype(np.float64)
    fits = [
        np.polyfit(side[rows, columns] / depth, pixels, 1)
        for side, pixels in ((x, columns), (y, rows))
    ]
    (fx, cx), (fy, cy) = (tuple(round(float(value), 3) for value in fit) for fit in fits)
    return [fx, fy, cx, cy]


if __name__ == "__main__":
    main()
