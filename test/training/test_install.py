"""The trainer as `pip install .` puts it: everything runs outside the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
METADATA = ("setup.py", "pyproject.toml", "package.xml", "MANIFEST.in", "LICENSE")
FOLDERS = ("genesis_bags", "genesis_core", "genesis_ros", "genesis_sim", "training", "config")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the packages are installed to."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in METADATA:
        shutil.copy(ROOT / name, source)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    pip += ["--no-build-isolation", "--target", str(folder / "target"), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return folder / "target"


def run(installed: Path, folder: Path, *command: str) -> str:
    """What a module of the installed packages prints."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_settings_file_ships(installed: Path) -> None:
    def names(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")}

    assert names(installed / "training" / "config") == names(ROOT / "config" / "training")


def test_prepares_trains_and_evaluates_outside_the_checkout(
    installed: Path, tmp_path: Path
) -> None:
    sizes = ("--image_size", "32", "--train", "4", "--val", "2", "--test", "2")
    run(installed, tmp_path, "training.prepare", "sprites", *sizes, "--output", "data/sprites")
    few = ("--steps", "1", "--batch_size", "2", "--eval_images", "2", "--device", "cpu")
    data = ("--data.path", "data/sprites")
    run(installed, tmp_path, "training.train", "--config", "sprites.yaml", *data, *few)
    model = tmp_path / "runs" / "sprites" / "model.safetensors"
    assert json.loads((model.parent / "versions.json").read_text())["git_revision"] is None
    score = ("--checkpoint", str(model), "--data", "data/sprites", "--device", "cpu")
    assert "Table 1" in run(installed, tmp_path, "training.evaluate", *score)


def test_the_simulator_is_installed_with_it(installed: Path, tmp_path: Path) -> None:
    sizes = ("--image_size", "32", "--train", "1", "--val", "1", "--test", "1", "--workers", "1")
    printed = run(installed, tmp_path, "training.prepare", "tabletop", *sizes, "--output", "data")
    assert "1 train, 1 val, 1 test images" in printed
