"""Learning curves from metrics.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.curves import main, read_curve, smooth


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs; the second one was cut off while it wrote a line."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for slope, folder in enumerate(folders, start=1):
        folder.mkdir()
        lines = [{"step": 10 * i, "kind": "val", "score": slope * i} for i in range(1, 5)]
        lines.insert(1, {"step": 15, "kind": "train", "loss": 3.0})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text + '{"step": 50, "ki' * (slope - 1))
    return folders


def test_reads_one_kind_of_lines(runs: list[Path]) -> None:
    steps, values = read_curve(runs[1], "val/score")
    assert steps.tolist() == [10, 20, 30, 40]
    assert values.tolist() == [2, 4, 6, 8]


def test_smoothing_averages_what_is_there() -> None:
    assert smooth(np.array([1.0, 3.0, 5.0, 1.0]), 3).tolist() == [1, 2, 3, 3]
    assert smooth(np.array([1.0, 3.0]), 1).tolist() == [1, 3]


def test_draws_a_line_per_run(runs: list[Path], tmp_path: Path) -> None:
    """The picture of two runs has a colour more than that of one, over much of its width."""
    coloured = []
    for number in (1, 2):
        output = tmp_path / f"{number}" / "curves.png"
        chosen = [str(folder) for folder in runs[:number]]
        main(["--runs", *chosen, "--metric", "val/score", "--output", str(output)])
        hsv = cv2.cvtColor(cv2.imread(str(output)), cv2.COLOR_BGR2HSV)
        hues = hsv[..., 0][hsv[..., 1] > 150]
        assert [path.name for path in output.parent.iterdir()] == ["curves.png"]
        coloured.append({hue for hue in set(hues.tolist()) if (hues == hue).sum() > 500})
    assert len(coloured[0]) >= 1
    assert len(coloured[1]) > len(coloured[0])


@pytest.mark.parametrize(
    ("extra", "phrase"),
    [
        (["--metric", "val/speed"], "has no val/speed; it has train/loss, val/score"),
        (["--metric", "val/score", "--labels", "a"], "1 labels for 2 runs"),
        (["--metric", "val/score", "--window", "0"], "window is 0"),
    ],
)
def test_mistakes_are_explained(
    extra: list[str], phrase: str, runs: list[Path], tmp_path: Path
) -> None:
    chosen = [str(folder) for folder in runs]
    with pytest.raises(SystemExit) as stopped:
        main(["--runs", *chosen, "--output", str(tmp_path / "curves.png"), *extra])
    assert phrase in str(stopped.value.code)


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--runs", str(tmp_path), "--output", str(tmp_path / "curves.png")])
    assert f"{tmp_path / 'metrics.jsonl'} does not exist" in str(stopped.value.code)
