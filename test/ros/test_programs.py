"""A package that is not installed is named in a line that says where, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "cmake" / "executable.py.in"


def run_without(module: str, statement: str) -> subprocess.CompletedProcess[str]:
    """Run a statement where importing the module fails as if it were not there."""
    code = f"import runpy, sys\nsys.modules[{module!r}] = None\n{statement}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("program", "module", "install"),
    [
        ("perception_node", "torch", "pip install torch"),
        ("perception_node", "safetensors", "pip install safetensors"),
        ("segment_bag", "torch", "pip install torch"),
        ("camera_node", "cv2", "install it"),
        ("demo", "rclpy", "install it"),
    ],
)
def test_missing_modules_are_named(tmp_path: Path, program: str, module: str, install: str) -> None:
    """By the programs that `ros2 run` starts."""
    executable = tmp_path / program
    executable.write_text(TEMPLATE.read_text().replace("@node@", program))
    result = run_without(module, f"runpy.run_path({str(executable)!r}, run_name='__main__')")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{program} needs {module}, which {sys.executable} lacks: activate")
    assert install in line and result.returncode == 1


def test_missing_modules_are_named_by_the_module_run_as_a_program() -> None:
    result = run_without(
        "torch", "runpy.run_module('genesis_ros.segment_bag', run_name='__main__')"
    )
    (line,) = result.stderr.splitlines()
    assert line.startswith("segment_bag needs torch") and result.returncode == 1


@pytest.mark.parametrize("program", ["perception_node", "segment_bag", "demo"])
def test_without_the_generated_messages_colcon_is_named(program: str) -> None:
    """As after `pip install .` alone."""
    statement = f"from genesis_ros.processes import programs\nprograms.{program}()"
    result = run_without("genesis_ros.msg", statement)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"{program} needs genesis_ros.msg, which `colcon build` makes")
    assert result.returncode == 1


def test_a_missing_module_of_our_own_keeps_its_traceback(tmp_path: Path) -> None:
    statement = "from genesis_ros.processes.programs import perception_node\nperception_node()"
    result = run_without("genesis_ros.pipeline", statement)
    assert "Traceback" in result.stderr and result.returncode == 1
