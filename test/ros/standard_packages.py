"""Builds packages of a ROS installation that have no wheels: standard_packages.py WORKSPACE.

vision_msgs and tf2_msgs have the messages and fields that the nodes use, under their own names, so
that the nodes' publishers and subscriptions are really exercised. Where ROS is installed with them,
nothing is built. Prints the environment, as JSON, in which processes find them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "Detection2D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections",
    "Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id"
    ),
    "Detection3DArray": "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
}
TF2_MSGS = {"TFMessage": "geometry_msgs/TransformStamped[] transforms"}
PACKAGES = {"vision_msgs": VISION_MSGS, "tf2_msgs": TF2_MSGS}
DEPENDENCIES = ("geometry_msgs", "std_msgs")


def build(workspace: Path) -> dict[str, str]:
    """Build what is not installed; the environment in which processes find it."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return {}
    for name in missing:
        _write(workspace / "src" / name, name)
    colcon = ["colcon", "--log-base", workspace / "log", "build", "--merge-install"]
    colcon += ["--base-paths", workspace / "src", "--build-base", workspace / "build"]
    colcon += ["--install-base", workspace / "install", "--cmake-args", "-DBUILD_TESTING=OFF"]
    subprocess.run(colcon, cwd=workspace, check=True, stdout=sys.stderr, timeout=280)
    install = workspace / "install"
    (site_packages,) = install.glob("l*/python3*/*-packages")
    places = {
        "PYTHONPATH": site_packages,
        "LD_LIBRARY_PATH": install / "lib",
        "AMENT_PREFIX_PATH": install,
    }
    return {
        name: os.pathsep.join(filter(None, [str(place), os.environ.get(name, "")]))
        for name, place in places.items()
    }


def _write(folder: Path, name: str) -> None:
    (folder / "msg").mkdir(parents=True)
    for message, fields in PACKAGES[name].items():
        (folder / "msg" / f"{message}.msg").write_text(fields + "\n")
    files = " ".join(f"msg/{message}.msg" for message in PACKAGES[name])
    find = "\n".join(f"find_package({package} REQUIRED)" for package in DEPENDENCIES)
    (folder / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.20)\nproject({name} LANGUAGES C CXX)\n"
        f"find_package(ament_cmake REQUIRED)\nfind_package(rosidl_default_generators REQUIRED)\n"
        f"{find}\nrosidl_generate_interfaces({name} {files}\n"
        f"  DEPENDENCIES {' '.join(DEPENDENCIES)})\nament_package()\n"
    )
    depends = "".join(f"<depend>{package}</depend>" for package in DEPENDENCIES)
    (folder / "package.xml").write_text(
        f'<package format="3"><name>{name}</name><version>0.0.0</version>'
        f"<description>for tests</description><maintainer email='nobody@tests.invalid'>nobody"
        f"</maintainer><license>Apache-2.0</license>"
        f"<buildtool_depend>ament_cmake</buildtool_depend>"
        f"<buildtool_depend>rosidl_default_generators</buildtool_depend>{depends}"
        f"<exec_depend>rosidl_default_runtime</exec_depend>"
        f"<member_of_group>rosidl_interface_packages</member_of_group>"
        f"<export><build_type>ament_cmake</build_type></export></package>\n"
    )


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]))))
