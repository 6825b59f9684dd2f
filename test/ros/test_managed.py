"""The node under a lifecycle manager: by the real services, and by the example launch file."""

from __future__ import annotations

import ast
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image

from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "managed.launch.py"
LAUNCH = Path(__file__).with_name("launch_it.py")
MANAGER = Path(__file__).with_name("stand_in_nav2.py")
NODE = "/genesis/perception"
IMAGE = "/managed_test/image_raw"


def manager_parameters() -> dict[str, Any]:
    """What the launch file gives to the manager."""
    (given,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(LAUNCH_FILE.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MANAGER_PARAMETERS"
    ]
    return dict(given)


@pytest.mark.slow
def test_a_manager_drives_the_node(
    client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path, photo: np.ndarray
) -> None:
    """From the first transition to the last; between them the node works."""
    node_parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "autostart": False,
        "image_topics": [IMAGE],
    }
    parameters = manager_parameters() | {"node_names": [NODE]}
    with (
        node_process("genesis_ros.perception_node", tmp_path / "node", node_parameters) as node,
        node_process(MANAGER, tmp_path / "manager", parameters) as manager,
    ):
        manager.wait_for_log("Managed nodes are active")
        assert "active: listening to" in node.log
        images = client.publisher(Image, IMAGE)
        with client.listen(ObjectMasks, "/genesis/object_masks") as masks:
            client.spin(0.5)
            images.publish(to_message(photo, Image().header))
            client.until(lambda: masks, "masks")
        assert manager.end(signal.SIGINT) == 0
        assert "Managed nodes have been shut down" in manager.log
        for text in ("inactive: ", "unconfigured: ", "finalized: "):
            node.wait_for_log(text)
        assert node.end() == 0


@pytest.mark.slow
def test_a_manager_that_waits_for_a_bond_gives_up(
    node_process: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Why bond_timeout has to be 0.0: the default is 4 s."""
    node_parameters = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "autostart": False}
    parameters = {"node_names": [NODE], "autostart": True}
    with (
        node_process("genesis_ros.perception_node", tmp_path / "node", node_parameters),
        node_process(MANAGER, tmp_path / "manager", parameters) as manager,
    ):
        manager.wait_for_log(f"Server {NODE} was unable to be reached by bond")


def test_launch_file_and_page_say_how() -> None:
    assert manager_parameters() == {"autostart": True, "bond_timeout": 0.0}
    page = (ROOT / "docs" / "node.md").read_text()
    for text in ("`bond_timeout: 0.0`", "managed.launch.py", "`autostart: false`"):
        assert text in page


@pytest.fixture
def nav2(install: Callable[[str, str, str], None]) -> None:
    """An installed package nav2_lifecycle_manager, whose executable is the stand-in."""
    script = f'exec "{sys.executable}" "{MANAGER}" "$@"'
    install("nav2_lifecycle_manager", "lifecycle_manager", script)


needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros come with a ROS installation only",
)


@needs_launch
def test_a_manager_refuses_respawn(tmp_path: Path) -> None:
    """Nobody would configure the node that comes back."""
    result = subprocess.run(
        [sys.executable, LAUNCH, LAUNCH_FILE, "", "respawn:=True"],
        env=os.environ | {"ROS_LOG_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    printed = result.stdout + result.stderr
    assert result.returncode != 0 and "respawn:=true is of no use" in printed
    assert "process started" not in printed


@pytest.mark.slow
@needs_launch
@pytest.mark.parametrize("pushed", ["", "robot1"])
def test_the_launch_file_starts_node_and_manager(
    nav2: None, tiny_checkpoint: Path, tmp_path: Path, pushed: str
) -> None:
    log = tmp_path / "log.txt"
    arguments = ["device:=cpu", f"checkpoint:={tiny_checkpoint}", "name:=eyes", "autostart:=True"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, LAUNCH, LAUNCH_FILE, pushed, *arguments],
            env=os.environ | {"ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 90
        while "Managed nodes are active" not in log.read_text() and time.monotonic() < deadline:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        text = log.read_text()
        assert "waiting for the lifecycle transition configure" in text
        assert "autostart:=true is not passed on to the node" in text
        namespace = ".".join(filter(None, [pushed, "genesis"]))
        assert f"[{namespace}.eyes]: active: listening to" in text
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
