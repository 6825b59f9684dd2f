"""The command for a rented GPU, on the CPU, with a few tiny scenes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from genesis_core import Segmenter, load_model
from training.run_folder import MODEL, read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = " ".join(
    f"--{name}={value}"
    for name, value in {
        "model.image_size": 32,
        "model.encoder": "unet",
        "model.num_slots": 4,
        "model.feature_dim": 8,
        "model.latent_dim": 8,
        "model.decoder_size": 16,
        "model.decoder_dim": 8,
        "encoder_weights": "null",
        "objective.decoded_images": 0,
        "batch_size": 2,
        "eval_images": 2,
        "log_every": 1,
        "device": "cpu",
    }.items()
)


def rented(output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training.rented", "--output", str(output)]
    command += ["--minutes", "0.1", "--image_size", "32", "--workers", "1", "--mode", "sketchy"]
    command += ["--first_scenes", "4", "--most_scenes", "6", "--calibration_scenes", "2"]
    command += [f"--settings={TINY}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_renders_trains_evaluates_and_goes_on_where_it_was(tmp_path: Path) -> None:
    result = rented(tmp_path, "--held_out_scenes", "0")
    assert result.returncode == 0, result.stdout + result.stderr
    results = tmp_path / "results"
    names = {path.name for path in results.iterdir()}
    assert names == {
        "model.safetensors", "curves.png", "report.txt", "metrics_warm.jsonl",
        "metrics_final.jsonl", "report.html",
    }  # fmt: skip
    report = (results / "report.txt").read_text()
    for part in ("scenes/s at 32 px with 1 processes", "first training:", "second training:"):
        assert part in report
    assert "model.safetensors: 0." in report and "too large" not in report
    # In half precision, ready for a node, and trained from the first model on.
    with safe_open(results / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("icsbp.log_scale").dtype == torch.float16
    model = load_model(results / "model.safetensors")
    assert model.takes_points and model.tells_kinds
    assert model.metadata["trained"]["steps"] == 100
    first = load_model(tmp_path / "warm" / MODEL).metadata["trained"]
    assert first["steps"] >= 1 and model.metadata["trained"]["started_from"] == first
    Segmenter(results / "model.safetensors", device="cpu")
    assert len(read_metrics(results / "metrics_final.jsonl")) >= 100
    # Again, now with scenes to evaluate on: what is there is not made again.
    warm = (tmp_path / "warm" / MODEL).stat().st_mtime_ns
    result = rented(tmp_path, "--held_out_scenes", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "warm" / MODEL).stat().st_mtime_ns == warm
    assert "is finished at step 100" in result.stdout + result.stderr
    report = (results / "report.txt").read_text()
    for mode in ("household", "sketchy", "varied"):
        scores = json.loads((results / f"scores_{mode}.json").read_text())
        assert scores["models"][0]["metrics"]["fixed"]["kind_accuracy"] is not None
        line = f"^{mode}, 1 held-out scenes: objects found [0-9]+%, ARI-FG "
        assert re.search(line, report, re.M), report


@pytest.mark.slow
def test_all_that_is_missing_is_said_before_anything_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    missing = ["--assets", str(tmp_path / "no.npz"), "--encoder_weights", str(tmp_path / "no.pth")]
    result = rented(tmp_path / "run", *missing, "--settings=--batch_size=2")
    assert result.returncode == 1
    for part in ("PyTorch sees no GPU", "no.pth does not exist", "no.npz is no asset pack"):
        assert part in result.stderr
    result = rented(tmp_path / "run", "--settings=--batch_size=0 --device=cpu")
    assert result.returncode == 1 and "batch_size is 0; expected at least 1" in result.stderr
    result = rented(tmp_path / "run", "--settings=--device=cuda:7")
    assert result.returncode == 1 and "sees 0 CUDA devices" in result.stderr
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", str(tmp_path / "none.json"))
    result = rented(tmp_path / "run")
    assert result.returncode == 1
    assert "nothing can be rendered: No off-screen OpenGL with MUJOCO_GL=egl" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interruption_lets_a_step_save_what_it_has(tmp_path: Path) -> None:
    """Ctrl-C reaches all of a terminal's processes, and reaches the step once only."""
    step = (
        "import signal, sys, time\n"
        "def save(number, frame):\n"
        "    signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "    time.sleep(1)\n"
        "    open(sys.argv[1] + '/saved', 'w').close()\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGINT, save)\n"
        "open(sys.argv[1] + '/started', 'w').close()\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", step, str(tmp_path)]
    call = f"from training import rented; rented._call({command})"
    process = subprocess.Popen(
        [sys.executable, "-c", call], cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_step_that_fails_ends_it_with_its_name(tmp_path: Path) -> None:
    result = rented(tmp_path / "run", "--image_size", "0")
    assert result.returncode == 1
    assert "training.prepare failed with status" in result.stderr
    assert "Traceback" not in result.stderr
