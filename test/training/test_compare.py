"""The comparison of all models, shortened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genesis_core import load_model
from training.compare import ENTRIES, main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_trains_evaluates_draws_and_tabulates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--output", str(tmp_path), "--images", "30", "--steps", "2"]
    main([*short, "--only", "monet", "supervised_rgbd"])
    printed = capsys.readouterr().out
    for command in ("prepare tabletop", "train", "evaluate", "visualise", "tables"):
        assert f"$ python -m training.{command}" in printed
    for name in ("monet", "supervised_rgbd"):
        model = load_model(tmp_path / name / "model.safetensors")
        assert model.metadata["trained"]["steps"] == 2
        assert model.config.image_channels == (4 if ENTRIES[name].depth else 3)
        assert json.loads((tmp_path / name / "results.json").read_text())["models"]
    assert {path.name for path in (tmp_path / "monet" / "pictures").iterdir()} == {
        "reconstructions.png",
        "report.html",
        "samples.png",
    }
    supervised = {path.name for path in (tmp_path / "supervised_rgbd" / "pictures").iterdir()}
    assert supervised == {"reconstructions.png", "report.html"}  # its decoder is not trained
    rows = (tmp_path / "tables" / "tables.md").read_text().splitlines()
    ours = [row for row in rows if row.startswith("| MONet-G | ours: attention_width 16")]
    assert len(ours) == 2  # segmentation; density and generation
    assert all("2 steps of 4, 1 seed" in row for row in ours)
    curves = {"attention_ari_fg.png", "decoder_ari_fg.png", "mse.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == curves
    command = next(line for line in printed.splitlines() if "attention_ari_fg.png" in line)
    assert "supervised_rgbd" in command
    command = next(line for line in printed.splitlines() if "mse.png" in line)
    assert "supervised_rgbd" not in command, "its decoder is not trained"

    # Adds to what is there, and evaluates again what has results of another model.
    results = tmp_path / "supervised_rgbd" / "results.json"
    results.write_text(results.read_text().replace('"steps": 2,', '"steps": 1,'))
    main([*short, "--only", "supervised", "supervised_rgbd"])
    model = json.loads(results.read_text())["models"][0]
    assert model["metadata"]["trained"]["steps"] == 2
    text = (tmp_path / "tables" / "tables.md").read_text()
    assert "| MONet-G | ours: attention_width 16" in text
    for objects in ("1 to 6 objects", "7 to 12 objects"):
        assert f"tabletop, {objects} ARI-FG" in text
    assert "| GENESIS-V2 | ours: K = 14, 32 px" in text
    hard = json.loads((tmp_path / "supervised" / "hard_masks.json").read_text())
    assert hard["hard_masks"] is True
    capsys.readouterr()

    main([*short, "--only", "supervised_rgbd"])
    assert "training.evaluate" not in capsys.readouterr().out, "what is there is not done again"


def test_processes_that_share_an_output_wait_for_its_data(tmp_path: Path) -> None:
    program = "from training import compare; from pathlib import Path; import sys\n"
    program += "compare._prepare(Path(sys.argv[1]), '--train 2 --val 1 --test 1 --workers 1')"
    command = [sys.executable, "-c", program, str(tmp_path / "new" / "data")]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    printed = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert printed.count("2 train, 1 val, 1 test images") == 1
    assert printed.count("is prepared already") == 1


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path / "x"), "--only", "vae"])
    assert "no run is named vae; there are genesis_v2, genesis_v1" in str(stopped.value.code)
    assert not (tmp_path / "x").exists()
