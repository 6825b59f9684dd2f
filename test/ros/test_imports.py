"""What a planner pays for: fresh processes import what they need and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "cv2", "cv_bridge", "scipy", "genesis_core", "genesis_sim", "yaml")


def loaded(statement: str) -> set[str]:
    """Which of the heavy modules a statement loads."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
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
