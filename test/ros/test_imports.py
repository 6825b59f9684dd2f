"""What a planner pays for: fresh processes import what they need and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "cv2", "cv_bridge", "scipy", "genesis_core", "genesis_sim", "yaml")
ROS = ("rclpy", "sensor_msgs", "cv_bridge", "genesis_ros")


def loaded(statement: str, among: tuple[str, ...] = HEAVY) -> set[str]:
    """Which of these modules a statement loads."""
    code = f"import sys\n{statement}\nprint(*(name for name in {among} if name in sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True
    )
    return set(result.stdout.split())


def test_a_planner_loads_neither_the_model_nor_opencv() -> None:
    assert loaded("from genesis_ros.masks import objects") == set()


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("genesis_ros.camera_node", {"torch", "scipy", "genesis_core", "genesis_sim"}),
        ("genesis_ros.demo", {"torch", "scipy", "genesis_core", "genesis_sim"}),
    ],
)
def test_what_has_no_model_loads_no_pytorch(module: str, without: set[str]) -> None:
    assert loaded(f"import {module}") & without == set()


def test_images_are_decoded_without_ros_and_without_the_model() -> None:
    modules = sorted((ROOT / "genesis_bags").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules]
    assert "genesis_bags.decoding.images" in names and "genesis_bags.topics" in names
    others = ("torch", "scipy", "genesis_core", "genesis_sim", "training")
    assert loaded(f"import {', '.join(names)}", (*ROS, *others)) == set()


@pytest.mark.parametrize("module", ["perception_node", "camera_node", "segment_bag", "demo"])
def test_nodes_start_where_rclpy_takes_no_types_in_brackets(module: str) -> None:
    """As Jazzy's does not: Subscription[Image] is an error there, wherever it is evaluated."""
    plain = (
        "import rclpy.node, rclpy.lifecycle, rclpy.publisher, rclpy.subscription\n"
        "class Plain: pass\n"
        "rclpy.subscription.Subscription = rclpy.publisher.Publisher = Plain\n"
        "rclpy.node.Subscription = rclpy.node.Publisher = Plain\n"
        "rclpy.lifecycle.LifecyclePublisher = Plain\n"
    )
    assert loaded(f"{plain}import genesis_ros.{module}", ("genesis_ros",)) == {"genesis_ros"}
