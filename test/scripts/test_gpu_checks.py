"""The command for a GPU, tried without one: time shared out, failures, what it leaves."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import gpu_checks
from scripts.gpu_checks import Command, Context, Stage, StageError, allotted, check

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path / "work", tmp_path / "out", "cpu", True, None, None, None)


def test_time_is_shared_out_by_worth() -> None:
    """What a stage leaves goes to those after it."""
    assert allotted("tests", ["bench", "general"], 600) == 120
    assert allotted("tests", [], 30) == 30
    assert allotted("general", ["sprites", "tabletop"], 500) == pytest.approx(300)
    assert allotted("sprites", ["tabletop"], 200) == pytest.approx(100)
    assert allotted("general", ["tests", "bench"], 400) == pytest.approx(190)
    assert allotted("general", ["tests"], 60) == 0


def test_a_stage_that_fails_does_not_cost_the_next(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(context: Context, deadline: float) -> list[str]:
        (context.folder("tests") / "kept" / "log.txt").write_text("what happened")
        raise StageError("2 failed\n  FAILED test_a.py")

    def stumble(context: Context, deadline: float) -> list[str]:
        raise KeyError("decoder_ari_fg")

    def work(context: Context, deadline: float) -> list[str]:
        left = deadline - time.monotonic()
        return [f"{left:.0f} s"]

    stages = {"tests": Stage(fail), "bench": Stage(stumble), "general": Stage(work)}
    monkeypatch.setattr(gpu_checks, "STAGES", stages)
    assert not check(context, ["tests", "bench", "general"], 1.0)
    report = (context.output / "report.txt").read_text()
    assert capsys.readouterr().out == report
    assert "tests: 0 s of 20\n  FAILED\n  2 failed\n    FAILED test_a.py\n" in report
    assert "bench: 0 s of 30\n  FAILED\n  KeyError: 'decoder_ari_fg'\n" in report
    assert "general: 0 s of 60\n  60 s\n" in report
    with tarfile.open(context.output / "details.tar.gz") as archive:
        assert archive.getnames() == ["tests/log.txt"]
    assert check(context, ["general"], 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_command_that_takes_too_long_is_ended(
    stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an interrupt, after which it may save what it has; or at last by force."""
    monkeypatch.setattr(gpu_checks, "_LAST_WORDS", 1.0)
    script = "import signal, sys, time; print('began', flush=True)\n"
    if stubborn:
        script += "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    script += "try:\n time.sleep(60)\nfinally:\n print('saved', flush=True)"
    command = Command(tmp_path / "log", "timeit", "-n", "1", "-r", "1", script)
    began = time.monotonic()
    # The log begins with the command itself, which has these words, too.
    while command.log.read_text().count("began") < 2:
        assert time.monotonic() < began + 30
        time.sleep(0.05)
    time.sleep(0.2)
    assert command.wait(time.monotonic()) is None
    assert time.monotonic() < began + 40
    assert command.log.read_text().count("saved") == (1 if stubborn else 2)


SLEEPER = """
import sys, time
from pathlib import Path
from scripts.gpu_checks import Command
script = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(60)"
command = Command(Path(sys.argv[1]), "timeit", "-n", "1", "-r", "1", script)
command.wait(time.monotonic() + 60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_the_process_that_waits_for_it(number: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", SLEEPER, str(log)], cwd=ROOT)
    pid = _wait_for(lambda: re.search(r"^pid (\d+)", log.read_text() if log.exists() else "", re.M))
    parent.send_signal(number)
    parent.wait(30)
    _wait_for(lambda: _has_ended(Path(f"/proc/{pid[1]}")))


def _has_ended(process: Path) -> bool:
    """Also if nobody has asked how."""
    try:
        return "\nState:\tZ" in (process / "status").read_text()
    except OSError:
        return True


def _wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_without_the_device_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rendering for a training that cannot run would take minutes."""
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as error:
        gpu_checks.main(
            ["--device", "cuda:77", "--output", str(out), "--work", str(tmp_path / "w")]
        )
    assert error.value.code == 2 and "cuda:77" in capsys.readouterr().err
    assert not out.exists()


TESTS = """
import pytest

@pytest.mark.cuda
def test_good():
    pass

@pytest.mark.cuda
@pytest.mark.parametrize("number", [1, 2])
def test_bad(number):
    assert number == 1

def test_of_a_cpu():
    assert False
"""


@pytest.mark.slow
def test_gpu_tests_are_those_with_the_mark(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    (folder / "test_one.py").write_text(TESTS)
    (folder / "test_two.py").write_text(TESTS.replace("mark.cuda", "mark.slow"))
    (folder / "test_three.py").write_text("import nothing_of_this_name  # mark.cuda")
    (folder / "test_four.py").write_text("def test_text():\n    assert 'mark.cuda'\n")
    monkeypatch.setattr(gpu_checks, "ROOT", tmp_path)
    with pytest.raises(StageError) as error:
        gpu_checks.STAGES["tests"].run(context, time.monotonic() + 60)
    summary, *lines = str(error.value).splitlines()
    assert summary == "2 passed, 1 failed, 1 error"
    assert [line for line in lines if "FAILED" in line and "test_one.py::test_bad[2]" in line]
    assert [line for line in lines if "ERROR" in line and "test_three.py" in line]
    assert "test_two" not in str(error.value) and "test_four" not in str(error.value)


@pytest.mark.parametrize(
    "line", ["ours: left out of 1 of 3 rows, as a bug", "training: left out, as a bug"]
)
def test_a_benchmark_without_our_figures_has_failed(
    line: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends with status 0, and the machine's time is gone."""

    def run(log: Path, *_: object) -> None:
        log.write_text(f"benchmarks.bench --parts\nA training step\n{line}\n")

    monkeypatch.setattr(gpu_checks, "_run", run)
    with pytest.raises(StageError, match=line):
        gpu_checks._bench(context, 0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_benchmark_and_unsupervised_training_in_a_tiny_form(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "scripts.gpu_checks", "--small", "--device", "cpu"]
    command += ["--stages", "bench", "sprites", "--minutes", "8"]
    command += ["--output", str(out), "--work", str(tmp_path / "work")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    report = (out / "report.txt").read_text()
    stages = ("A training step", "A camera image", "wrote", " steps, ", " images/s\n")
    for part in (*stages, "test images: decoder ARI-FG "):
        assert part in report
    names = {path.name for path in out.iterdir()}
    expected = {"report.txt", "bench.json", "sprites_unsupervised.safetensors", "details.tar.gz"}
    assert names == expected
    with tarfile.open(out / "details.tar.gz") as archive:
        kept = set(archive.getnames())
    assert {"bench/bench.txt", "sprites/metrics.jsonl", "sprites/scores.json"} <= kept
