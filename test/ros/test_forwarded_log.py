"""What genesis_core warns of reaches the node's log and /rosout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from rcl_interfaces.msg import Log
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

from genesis_ros.node.forwarded_log import ForwardedLog

SOURCE = logging.getLogger("genesis_core.anything")


def test_warnings_are_said_once_until_it_is_closed(client: Any) -> None:
    node = Node("forwarded", use_global_arguments=False)
    with client.listen(Log, "/rosout", heard=False) as heard:
        client.until(lambda: client.node.count_publishers("/rosout") > 1, "the node's log")
        client.spin(0.3)
        handler = ForwardedLog(node.get_logger())
        for text in ("one", "two", "one"):
            SOURCE.warning("warning %s", text)
        SOURCE.info("warning three")
        handler.close()
        SOURCE.warning("warning four")
        node.get_logger().warning("warning five")
        client.until(lambda: any(item.msg == "warning five" for item in heard), "the last one")
    found = [(item.name, item.msg, item.level) for item in heard if item.msg.startswith("warning")]
    expected = ["warning one", "warning two", "warning five"]
    assert found == [("forwarded", text, 30) for text in expected]
    node.destroy_node()


def test_a_log_that_cannot_be_written_to_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever warned goes on."""

    class Broken:
        def warning(self, text: str) -> None:
            raise OSError(f"no place for {text}")

    handler = ForwardedLog(cast(RcutilsLogger, Broken()))
    try:
        SOURCE.warning("a warning")
    finally:
        handler.close()
    assert "no place for a warning" in capfd.readouterr().err


@pytest.mark.slow
def test_a_node_without_a_compiler_says_so(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "autostart": False}
    environment = {"CXX": str(tmp_path / "none"), "GENESIS_CACHE": str(tmp_path / "cache")}
    with (
        client.listen(Log, "/rosout", heard=False) as heard,
        node_process(
            "genesis_ros.perception_node", tmp_path, given, environment=environment
        ) as node,
    ):
        # The model is loaded once the node's log has met who listens to it.
        assert client.state("/genesis/perception") == "unconfigured"
        client.spin(1.0)
        assert client.transition("/genesis/perception", "configure")
        client.until(
            lambda: any(
                item.name == "genesis.perception" and "cannot be compiled" in item.msg
                for item in heard
            ),
            "the warning",
        )
        lines = [line for line in node.log.splitlines() if "cannot be compiled" in line]
    assert lines and all(line.startswith("[WARN]") for line in lines)
    assert len(set(lines)) == len(lines)
