"""config/perception.yaml reaches the node whatever its name and namespace, at start and later."""

from __future__ import annotations

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
