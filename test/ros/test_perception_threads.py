"""The threads that share a pass of the model: how many there are, and how they wait."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image

from genesis_ros.msg import ObjectMasks

ROOT = Path(__file__).resolve().parents[2]
NODE = "/genesis/perception"
TOPIC = "/threads/image_raw"
THREADS = 4


def test_only_the_worker_has_helpers(
    node_process: Any, client: Any, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """OpenMP lets threads wait awake for each other only while there are no more than cores."""
    parameters = {
        "image_topics": [TOPIC],
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "autostart": False,
    }
    environment = {"OMP_NUM_THREADS": str(THREADS)}
    with node_process(
        "genesis_ros.perception_node", tmp_path, parameters, environment=environment
    ) as node:

        def threads() -> int:
            return len(list((node.proc / "task").iterdir()))

        client.until(lambda: client.state(NODE) == "unconfigured", "the node")
        client.spin(0.5)  # the middleware's own threads
        before = threads()
        assert client.transition(NODE, "configure")
        client.until(lambda: threads() == before, "the end of those that warmed up")
        assert client.transition(NODE, "activate")
        images = client.publisher(Image, TOPIC)
        pixels = np.zeros((48, 64, 3), np.uint8)
        message = Image(height=48, width=64, encoding="rgb8", step=192, data=pixels.tobytes())
        with client.listen(ObjectMasks, "/genesis/object_masks") as masks:
            images.publish(message)
            client.until(lambda: masks, "masks")
        assert threads() > before + 2  # besides worker and receiver: helpers


@pytest.mark.parametrize(
    "given, turns",
    [({}, "2000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
@pytest.mark.parametrize("way", ["module", "installed"])
def test_threads_wait_briefly(
    node_process: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    given: dict[str, str],
    turns: str,
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    program: str | Path = "genesis_ros.perception_node"
    if way == "installed":
        template = ROOT / "cmake" / "executable.py.in"
        program = tmp_path / "perception_node"
        program.write_text(template.read_text().replace("@node@", "perception_node"))
    environment = {"OMP_DISPLAY_ENV": "VERBOSE", **given}
    with node_process(program, tmp_path, {"autostart": False}, environment=environment) as node:
        node.wait_for_log("waiting for the lifecycle transition configure")
        assert f"GOMP_SPINCOUNT = '{turns}'" in node.log
