"""Processes of the demo end when it does, and tell why they ended earlier."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from genesis_ros.processes.child_process import ChildProcess

STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("[WARN] deaf", flush=True)
time.sleep(600)
"""
FAILING = """
print("quiet")
print("[ERROR] loud")
raise SystemExit(3)
"""


def child(tmp_path: Path, code: str, echoed: list[str]) -> ChildProcess:
    (tmp_path / "program.py").write_text(code)
    return ChildProcess(
        "child",
        "program",
        [],
        environment=os.environ | {"PYTHONPATH": str(tmp_path)},
        log=tmp_path / "child.log",
        echo=echoed.append,
        grace=0.2,
    )


def wait_for(echoed: list[str]) -> None:
    deadline = time.monotonic() + 60
    while not echoed:
        assert time.monotonic() < deadline, "nothing was echoed"
        time.sleep(0.01)


def test_a_process_that_ignores_requests_is_killed_on_any_way_out(tmp_path: Path) -> None:
    echoed: list[str] = []
    with pytest.raises(RuntimeError, match="on the way"), child(tmp_path, STUBBORN, echoed) as one:
        wait_for(echoed)
        assert one.exit_status is None
        raise RuntimeError("on the way")
    assert one.exit_status == -9
    with pytest.raises(ProcessLookupError):
        os.kill(one.pid, 0)


def test_errors_are_echoed_and_everything_is_logged(tmp_path: Path) -> None:
    echoed: list[str] = []
    with child(tmp_path, FAILING, echoed) as one:
        wait_for(echoed)
        assert one.last_words() == "quiet\n[ERROR] loud"
        assert one.log.read_text() == "quiet\n[ERROR] loud\n"
    assert echoed == ["child: [ERROR] loud"]
    assert one.exit_status == 3
