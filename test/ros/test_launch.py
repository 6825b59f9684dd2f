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
PAGE = ROOT / "docs" / "node.md"
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
    assert {parameter for parameter, _, _ in tables["LIST_ARGUMENTS"].values()} <= RULES.keys()


def test_launch_file_starts_installed_executables() -> None:
    started = {
        keyword.value.value
        for node in ast.walk(launch_syntax())
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "executable" and isinstance(keyword.value, ast.Constant)
    }
    (installed,) = re.findall(r"foreach\(node (.*?)\)", (ROOT / "CMakeLists.txt").read_text())
    assert started == {"perception_node", "camera_node", "rviz2"}
    assert started - {"rviz2"} <= set(installed.split())


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
    """Starts a launch file: launch(*arguments, pushed=namespace, file=other); output: log.txt."""
    with ExitStack() as stack:

        def start(
            *arguments: str, pushed: str = "", file: Path = LAUNCH_FILE
        ) -> subprocess.Popen[Any]:
            output = stack.enter_context((tmp_path / "log.txt").open("w"))
            process = subprocess.Popen(
                [sys.executable, LAUNCH, file, pushed, *arguments],
                env=os.environ | {"ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(end, process)
            return process

        yield start


def wait_for(process: subprocess.Popen[Any], file: Path, text: str) -> str:
    """What a launch printed, once it has this text in it."""
    deadline = time.monotonic() + 90
    while text not in (log := file.read_text()) and time.monotonic() < deadline:
        assert process.poll() is None, log
        time.sleep(0.1)
    assert text in log, log
    return log


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
        *("autostart:=False", "use_sim_time:=True", "log_level:=DEBUG", "device:=cpu"),
        *(f"checkpoint:={untrained}", "respawn:=True", "camera:=False"),  # as Python writes them
    )
    deadline = time.monotonic() + 90
    log = wait_for(process, tmp_path / "log.txt", "waiting for the lifecycle")
    assert "waiting for the lifecycle transition configure" in log
    assert "[DEBUG]" in log and "loading" not in log
    assert "does nothing" not in log and "has no section" not in log  # nothing to warn of
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
def test_parameters_in_place_of_arguments_are_named(launch: Any, tmp_path: Path) -> None:
    """Launch itself drops them without a word."""
    given = ("image_topics:=/x", "regions:=0 0 1 1", "threads:=2")
    process = launch(*given, "autostart:=false", "device:=cpu")
    log = wait_for(process, tmp_path / "log.txt", "process started")
    assert "image_topics:=/x does nothing" in log and "write image_topic:=TOPIC" in log
    assert "regions:=0 0 1 1 does nothing" in log and "write region:='X Y WIDTH HEIGHT'" in log
    assert "threads:=2 does nothing" in log and "params_file:=FILE" in log
    assert "autostart:=false does" not in log and "device:=cpu does" not in log


@needs_launch
def test_the_parameter_file_is_found_and_has_to_be_there(
    launch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bash leaves the ~ of params_file:=~/my.yaml alone; launch_ros would go on with defaults."""
    monkeypatch.setenv("HOME", str(tmp_path))
    process = launch("params_file:=~/my.yaml")
    assert process.wait(timeout=60) != 0
    log = (tmp_path / "log.txt").read_text()
    assert "params_file:=~/my.yaml: there is no such file" in log and "started" not in log
    (tmp_path / "my.yaml").write_text("/**: {ros__parameters: {checkpoint: /absent.safetensors}}")
    process = launch("params_file:=~/my.yaml", "device:=cpu")
    log = wait_for(process, tmp_path / "log.txt", "/absent.safetensors")
    assert "has no section" not in log


@needs_launch
def test_a_parameter_file_for_another_node_is_named(launch: Any, tmp_path: Path) -> None:
    """perception alone is /perception; the section counts that has the node's full name."""
    file = tmp_path / "my.yaml"
    file.write_text("perception: {ros__parameters: {threads: 1}}")
    process = launch(f"params_file:={file}", "autostart:=false")
    log = wait_for(process, tmp_path / "log.txt", "process started")
    assert f"{file} has no section for the node /genesis/perception, only for /perception" in log
    end(process)
    file.write_text("/robot1/seen/eyes: {ros__parameters: {threads: 1}}")
    names = ("namespace:=seen", "name:=eyes", "autostart:=false")
    process = launch(f"params_file:={file}", *names, pushed="robot1")
    assert "has no section" not in wait_for(process, tmp_path / "log.txt", "process started")


@needs_launch
def test_the_simulated_camera_takes_its_section(launch: Any, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(
        "/genesis/perception: {ros__parameters: {autostart: false}}\n"
        "/camera/camera: {ros__parameters: {rate: 3.0}}\n"
    )
    process = launch(f"params_file:={file}", "camera:=true")
    wait_for(process, tmp_path / "log.txt", "3 Hz on /camera/image_raw")
    wait_for(process, tmp_path / "log.txt", "waiting for the lifecycle")


@needs_launch
def test_rviz_is_started_if_asked_for(
    launch: Any, tmp_path: Path, install: Callable[[str, str, str], None]
) -> None:
    """An installed package rviz2, whose executable prints its arguments."""
    install("rviz2", "rviz2", 'echo "shown: $@"')
    process = launch("rviz:=True", "autostart:=false")
    assert "shown: -d " in wait_for(process, tmp_path / "log.txt", "perception.rviz")
    end(process)
    process = launch("autostart:=false")
    assert "shown" not in wait_for(process, tmp_path / "log.txt", "process started")


PARENT = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

def generate_launch_description():
    return LaunchDescription([
        DeclareLaunchArgument("camera", default_value="d435"),
        DeclareLaunchArgument("name", default_value="bringup"),
        DeclareLaunchArgument("params_file", default_value="nav2_params.yaml"),
        IncludeLaunchDescription(PythonLaunchDescriptionSource("EXAMPLE")),
    ])
"""


@needs_launch
def test_the_documented_launch_file_works_below_others(launch: Any, tmp_path: Path) -> None:
    """Launch hands the parents' arguments down, and theirs have other meanings."""
    (example,) = re.findall(r"^```python\n(from launch .*?)^```", PAGE.read_text(), re.S | re.M)
    (tmp_path / "example.launch.py").write_text(example)
    parent = tmp_path / "parent.launch.py"
    parent.write_text(PARENT.replace("EXAMPLE", str(tmp_path / "example.launch.py")))
    process = launch("autostart:=false", "device:=cpu", file=parent)
    log = wait_for(process, tmp_path / "log.txt", "waiting for the lifecycle")
    assert "[robot1.genesis.perception]" in log
    assert "has no section" not in log


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
    page = PAGE.read_text()
    for argument in module.generate_launch_description().get_launch_arguments():
        assert len(argument.description) > 5, argument.name
        assert f"`{argument.name}`" in page, argument.name
