"""The launch file and config/perception.yaml agree with the node's parameters and executables."""

from __future__ import annotations

import ast
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import rclpy
import yaml

from genesis_core import GenesisV2, GenesisV2Config, save_model
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.parameters import RULES, NodeSettings, check

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "perception.launch.py"
PARAMETER_FILE = ROOT / "config" / "perception.yaml"

# What `ros2 launch` does with its arguments, as far as the launch package itself goes.
LAUNCH = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
given = [tuple(argument.split(":=", 1)) for argument in arguments]
service = LaunchService()
source = PythonLaunchDescriptionSource(file)
service.include_launch_description(IncludeLaunchDescription(source, launch_arguments=given))
sys.exit(service.run())
"""


def launch_syntax() -> ast.Module:
    return ast.parse(LAUNCH_FILE.read_text())


def test_parameter_file_states_every_parameter_with_its_default() -> None:
    (parameters,) = yaml.safe_load(PARAMETER_FILE.read_text()).values()
    given = {name: check(name, value) for name, value in parameters["ros__parameters"].items()}
    assert given == asdict(NodeSettings())


def test_launch_arguments_are_parameters_of_the_node() -> None:
    tables = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in launch_syntax().body
        if isinstance(node, ast.Assign)
    }
    assert tables["PARAMETER_ARGUMENTS"].keys() <= RULES.keys()
    assert {parameter for parameter, _ in tables["TOPIC_ARGUMENTS"].values()} <= RULES.keys()


def test_launch_file_starts_installed_executables() -> None:
    started = {
        keyword.value.value
        for node in ast.walk(launch_syntax())
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "executable" and isinstance(keyword.value, ast.Constant)
    }
    (installed,) = re.findall(r"foreach\(node (.*?)\)", (ROOT / "CMakeLists.txt").read_text())
    assert started == {"perception_node", "camera_node"}
    assert started <= set(installed.split())


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A node in a ROS domain of its own, which the processes of the test inherit."""
    domain = random.randint(1, 100)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    yield node
    node.destroy_node()
    context.shutdown()


def spin_until(node: Any, ready: list[Any], process: subprocess.Popen[Any], timeout: float) -> None:
    executor = rclpy.executors.SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    deadline = time.monotonic() + timeout
    while not ready and time.monotonic() < deadline and process.poll() is None:
        executor.spin_once(timeout_sec=0.2)
    executor.shutdown()


@pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros come with a ROS installation only",
)
def test_launch_file_starts_camera_and_perception(listener: Any, tmp_path: Path) -> None:
    received: list[ObjectMasks] = []
    listener.create_subscription(ObjectMasks, "/seen/object_masks", received.append, 5)
    script = tmp_path / "launch_it.py"
    script.write_text(LAUNCH)
    checkpoint = tmp_path / "untrained.safetensors"
    save_model(GenesisV2(GenesisV2Config(num_slots=3)), checkpoint)
    arguments = ["namespace:=seen", "camera:=true", "device:=cpu", f"checkpoint:={checkpoint}"]
    log = tmp_path / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, script, LAUNCH_FILE, *arguments],
            env=os.environ | {"ROS_LOG_DIR": str(tmp_path)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            spin_until(listener, received, process, timeout=90.0)
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does, which launch counts on
            process.wait(timeout=30)
    assert received, log.read_text()
    assert received[0].camera == "camera"
    assert received[0].model == "untrained"
