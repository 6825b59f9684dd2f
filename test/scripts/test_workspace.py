"""Set-up says little while it goes well, and enough when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import workspace


def pip(code: str, log: Path) -> None:
    """Run Python code in pip's place."""
    workspace.run_pip([sys.executable, "-c", code], dict(os.environ), log)


def test_a_run_that_succeeds_shows_a_full_bar_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log" / "setup.log"
    pip("for number in range(900): print('Collecting package', number)", log)
    printed = capfd.readouterr().out
    assert printed.count("#") == workspace.BAR_WIDTH
    assert len(printed.splitlines()) == 2
    assert len(log.read_text().splitlines()) == 900


def test_a_failure_shows_the_end_of_the_log_and_its_place(tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    code = "for number in range(900): print('line', number)\nraise SystemExit('no such package')"
    with pytest.raises(workspace.WorkspaceError) as error:
        pip(code, log)
    assert f"status 1. The end of {log}:" in str(error.value)
    assert "line 899" in str(error.value) and "no such package" in str(error.value)
    assert "line 880" not in str(error.value)


def test_progress_counts_what_is_collected_and_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constraints.txt").write_text("# pinned\na==1\nb==2\nc==3\nd==4\n")
    monkeypatch.setattr(workspace, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(workspace, "VENV", tmp_path / ".venv")
    assert workspace.pip_progress("") == 0
    collected = "Collecting a==1\n  Using cached a\nCollecting b (from a)\nCollecting b<3\n"
    assert workspace.pip_progress(collected) == pytest.approx(0.25)
    installing = f"{collected}Installing collected packages: a, b, c, d\n"
    assert workspace.pip_progress(installing) == pytest.approx(0.5)
    site_packages = tmp_path / ".venv" / "lib" / "python3.11" / "site-packages"
    for name in ("a", "b", "c"):
        (site_packages / f"{name}-1.dist-info").mkdir(parents=True)
    assert workspace.pip_progress(installing) == pytest.approx(0.875)
    assert workspace.pip_progress(f"{installing}\nSuccessfully installed a b c d\n") == 1


def test_a_machine_without_ros_wheels_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(workspace.WorkspaceError, match=r"aarch64.*x86-64 only.*On a robot"):
        workspace.check_python()


def test_an_environment_elsewhere_that_is_linked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link goes, as what was made for another place cannot be used; nothing behind it does."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "genesis_ros_setup").write_text("3.1 /elsewhere\n")
    venv = tmp_path / ".venv"
    venv.symlink_to(elsewhere)

    def run(*command: str) -> None:
        assert command[-1] == str(venv) and not venv.exists()
        raise workspace.WorkspaceError("enough")

    monkeypatch.setattr(workspace, "VENV", venv)
    monkeypatch.setattr(workspace, "VENV_STAMP", venv / "genesis_ros_setup")
    monkeypatch.setattr(workspace, "venv_version", lambda: "3.1")
    monkeypatch.setattr(workspace, "check_build_tools", lambda: None)
    monkeypatch.setattr(workspace, "run", run)
    with pytest.raises(workspace.WorkspaceError, match="enough"):
        workspace.set_up()
    assert (elsewhere / "genesis_ros_setup").exists()


@pytest.mark.parametrize("command", ["setup", "training"])
def test_what_a_ros_installation_lacks_is_named(command: str) -> None:
    """The interpreter alone, without any site-packages, is one that lacks everything."""
    result = subprocess.run(
        [sys.executable, "-I", "-S", workspace.__file__, command],
        env={**os.environ, "ROS_DISTRO": "kilted"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "lacks rclpy, cv_bridge, numpy" in result.stderr
    assert "Use a shell without ROS" in result.stderr
    assert ("jsonargparse" in result.stderr) == (command == "training")
    assert ("requirements/training.txt" in result.stderr) == (command == "training")
