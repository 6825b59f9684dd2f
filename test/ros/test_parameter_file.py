"""config/perception.yaml reaches the node whatever its name and namespace, at start and later."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from rclpy.parameter_client import AsyncParameterClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NODE = "genesis_ros.perception_node"


@pytest.fixture
def changed_file(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """The shipped file with a model of this test, another live parameter and no autostart."""
    text = (ROOT / "config" / "perception.yaml").read_text()
    for old, new in (
        ("autostart: true", "autostart: false"),
        ('checkpoint: ""', f"checkpoint: {tiny_checkpoint}"),
        ("device: auto", "device: cpu"),
        ("overlay_alpha: 0.5", "overlay_alpha: 0.25"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = tmp_path / "my.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        pytest.param((), "/genesis/perception", marks=pytest.mark.slow),
        pytest.param(("-r", "__node:=eyes"), "/genesis/eyes", marks=pytest.mark.slow),
        (("-r", "__ns:=/robot1/head", "-r", "__node:=eyes"), "/robot1/head/eyes"),
    ],
)
def test_file_given_at_start(
    client: Any,
    node_process: Any,
    tmp_path: Path,
    changed_file: Path,
    arguments: tuple[str, ...],
    name: str,
) -> None:
    start = (*arguments, "--params-file", str(changed_file))
    with node_process(NODE, tmp_path / "node", arguments=start):
        assert client.get_parameter(name, "overlay_alpha") == 0.25
        assert client.get_parameter(name, "device") == "cpu"


@pytest.mark.slow
def test_file_loaded_while_the_node_is_active(
    client: Any, node_process: Any, tmp_path: Path, changed_file: Path
) -> None:
    """As `ros2 param load` does: what may change does, what may not is refused by name."""
    start = ("-r", "__ns:=/genesis", "--params-file", str(changed_file))
    with node_process(NODE, tmp_path / "node", arguments=start):
        assert client.transition("/genesis/perception", "configure")
        assert client.transition("/genesis/perception", "activate")
        text = changed_file.read_text().replace("overlay_alpha: 0.25", "overlay_alpha: 0.75")
        changed_file.write_text(text.replace("precision: auto", "precision: fp32"))
        parameters = AsyncParameterClient(client.node, "/genesis/perception")
        future = parameters.load_parameter_file(str(changed_file), use_wildcard=True)
        client.until(future.done, "the parameters are set")
        refused = [item.reason for item in future.result().results if not item.successful]
        (reason,) = refused
        assert reason.startswith("parameter precision cannot change while the node is configured")
        assert client.get_parameter("/genesis/perception", "overlay_alpha") == 0.75
        assert client.state("/genesis/perception") == "active"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "Error opening YAML file"),
        ("image_topics: [/a]\n", "Sequences can only be values"),
        ("/**:\n  ros__parameters:\n    image_topics: [/a, 3]\n", "should be of same type"),
        ("/**:\n   ros__parameters:\n     device: cpu\n    threads: 2\n", "near line 4"),
    ],
    ids=["missing", "no section", "two types", "indentation"],
)
def test_a_file_that_cannot_be_read_ends_the_node_with_one_line(
    content: str | None, reason: str, node_process: Any, tmp_path: Path
) -> None:
    file = tmp_path / "my.yaml"
    if content is not None:
        file.write_text(content)
    with node_process(NODE, tmp_path / "node", None, ("--params-file", str(file))) as process:
        process.wait_for_log("cannot start")
        while process.alive:
            time.sleep(0.05)
        assert process.exit_status == 1
        *_, line = process.log.strip().splitlines()  # rcl may have one of its own before
    assert line.startswith("perception_node cannot start: ") and reason in line
    assert str(file) in line and "/src/" not in line and "Traceback" not in process.log


def test_an_argument_that_ros_does_not_know_is_named(node_process: Any, tmp_path: Path) -> None:
    with node_process(NODE, tmp_path, None, ("--paramfile", "my.yaml")) as process:
        process.wait_for_log(
            "perception_node cannot start: after --ros-args, rcl does not know ['--paramfile'"
        )


def test_an_empty_list_is_called_empty(node_process: Any, tmp_path: Path) -> None:
    given = {"image_topics": []}
    with node_process(NODE, tmp_path, given) as process:
        process.wait_for_log("parameter image_topics is empty; expected a list of texts")
