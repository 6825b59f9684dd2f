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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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

LAUNCH = Path(__file__).with_name("launch_it.py")


def launch_syntax() -> ast.Module:
    return ast.parse(LAUNCH_FILE.read_text())


def is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def test_parameter_file_states_every_parameter_with_its_default() -> None:
    (parameters,) = yaml.safe_load(PARAMETER_FILE.read_text()).values()
    given = {name: check(name, value) for name, value in parameters["ros__parameters"].items()}
    assert given == asdict(NodeSettings())


def test_launch_arguments_are_parameters_of_the_node() -> None:
    tables = {
        ast.unparse(node.targets[0]): ast.literal_eval(node.value)
        for node in launch_syntax().body
        if isinstance(node, ast.Assign) and is_literal(node.value)
    }
    assert tables["PARAMETER_ARGUMENTS"].keys() | tables["SWITCHES"].keys() <= {
        *RULES,
        "use_sim_time",  # every node has it
    }
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


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Starts the launch file: launch(*arguments, pushed=namespace); its output is in log.txt."""
    with ExitStack() as stack:

        def start(*arguments: str, pushed: str = "") -> subprocess.Popen[Any]:
            output = stack.enter_context((tmp_path / "log.txt").open("w"))
            process = subprocess.Popen(
                [sys.executable, LAUNCH, LAUNCH_FILE, pushed, *arguments],
                env=os.environ | {"ROS_LOG_DIR": str(tmp_path)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(end, process)
            return process

        yield start


def end(process: subprocess.Popen[Any]) -> None:
    """As Ctrl-C does, which launch counts on."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "untrained.safetensors"
    save_model(GenesisV2(GenesisV2Config(num_slots=3)), checkpoint)
    return checkpoint


needs_launch = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="launch and launch_ros come with a ROS installation only",
)


@needs_launch
@pytest.mark.parametrize(
    ("namespace", "pushed", "topic"),
    [("seen", "", "/seen/object_masks"), ("seen", "robot1", "/robot1/seen/object_masks")],
)
def test_launch_file_starts_camera_and_perception(
    listener: Any,
    launch: Any,
    untrained: Path,
    tmp_path: Path,
    namespace: str,
    pushed: str,
    topic: str,
) -> None:
    received: list[ObjectMasks] = []
    listener.create_subscription(ObjectMasks, topic, received.append, 5)
    arguments = [f"namespace:={namespace}", "camera:=true", "device:=cpu"]
    process = launch(*arguments, f"checkpoint:={untrained}", "name:=eyes", pushed=pushed)
    spin_until(listener, received, process, timeout=90.0)
    log = (tmp_path / "log.txt").read_text()
    assert received, log
    assert received[0].camera == "camera"
    assert received[0].model == "untrained"
    # The camera's scenes have depth, and the node looks at it.
    depth = f"{f'/{pushed}' if pushed else ''}/camera/depth/image_raw"
    assert listener.count_publishers(depth) == listener.count_subscribers(depth) == 1
    assert f"{topic.rpartition('/')[0].replace('/', '.')[1:]}.eyes]" in log
    end(process)
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


@needs_launch
def test_launch_arguments_reach_the_node(launch: Any, untrained: Path, tmp_path: Path) -> None:
    process = launch(
        *("autostart:=false", "use_sim_time:=true", "log_level:=debug", "device:=cpu"),
        *(f"checkpoint:={untrained}", "respawn:=true"),
    )
    deadline = time.monotonic() + 90
    log = ""
    while time.monotonic() < deadline and "waiting for the lifecycle" not in log:
        time.sleep(0.1)
        log = (tmp_path / "log.txt").read_text()
    assert "waiting for the lifecycle transition configure" in log
    assert "[DEBUG]" in log and "loading" not in log
    # Launch itself notices that the process ended, and starts another.
    (pid,) = set(re.findall(r"process started with pid \[(\d+)\]", log))
    os.kill(int(pid), signal.SIGKILL)
    while time.monotonic() < deadline and log.count("process started with pid") < 2:
        time.sleep(0.1)
        log = (tmp_path / "log.txt").read_text()
    assert log.count("process started with pid") == 2, log
    end(process)


@needs_launch
def test_wrong_launch_arguments_are_refused(launch: Any, tmp_path: Path) -> None:
    process = launch("precision:=fp64", "device:=cpu")
    assert process.wait(timeout=60) != 0
    assert "fp64" in (tmp_path / "log.txt").read_text()


@needs_launch
def test_choices_and_documentation_are_complete() -> None:
    """`--show-args` names every argument with its meaning; docs/node.md names them, too."""
    spec = importlib.util.spec_from_file_location("perception_launch", LAUNCH_FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("image_transport", "precision", "fit"):
        assert set(module.CHOICES[name]) == set(RULES[name].choices)
    for device in module.CHOICES["device"]:
        assert check("device", device) == device
    page = (ROOT / "docs" / "node.md").read_text()
    for argument in module.generate_launch_description().get_launch_arguments():
        assert len(argument.description) > 5, argument.name
        assert f"`{argument.name}`" in page, argument.name
