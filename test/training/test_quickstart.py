"""The quick start, shortened: every step works on what the one before left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genesis_core import load_model
from training.quickstart import main

pytestmark = pytest.mark.slow


def test_generates_trains_evaluates_and_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--output", str(tmp_path), "--images", "40", "--steps", "2"])
    printed = capsys.readouterr().out
    for command in ("prepare sprites", "train", "evaluate", "visualise", "curves"):
        assert f"$ python -m training.{command}" in printed
    model = tmp_path / "run" / "model.safetensors"
    assert load_model(model).metadata["trained"]["steps"] == 2
    scores = json.loads((tmp_path / "results.json").read_text())["models"][0]["metrics"]
    assert -0.5 <= scores["fixed"]["attention"]["ari_fg"] <= 1
    pictures = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert pictures == {
        "reconstructions.png",
        "report.html",
        "samples.png",
        "attention_ari_fg.png",
        "decoder_ari_fg.png",
    }
    page = tmp_path / "report.html"
    assert page.read_text().count('class="card"') == 1  # the test split's only image
    for path in (model, page, tmp_path / "pictures"):
        assert str(path) in printed

    main(["--output", str(tmp_path), "--images", "40", "--steps", "2"])  # continues: nothing to do
    assert "is prepared already" in capsys.readouterr().out


def test_one_that_a_signal_stopped_does_not_say_that_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.train.main", lambda arguments: False)  # what a signal makes of it
    with pytest.raises(SystemExit) as stopped:
        main(["--output", str(tmp_path), "--images", "40", "--steps", "2"])
    assert stopped.value.code == 130
