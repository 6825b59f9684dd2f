"""The threads that share a pass of the model: how many there are, and how they wait."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image

from genesis_ros.msg import ObjectMasks

ROOT = Path(__file__).resolve().parents[2]
NODE = "/genesis/perception"
TOPIC = "/threads/image_raw"
THREADS = 2


@pytest.fixture
def start(node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Callable[..., Any]:
    """The node with OMP_NUM_THREADS and these parameters, for a `with` block."""

    def start(openmp_threads: int, **parameters: object) -> Any:
        given = {
            "image_topics": [TOPIC],
            "checkpoint": str(tiny_checkpoint),
            "device": "cpu",
            **parameters,
        }
        environment = {"OMP_NUM_THREADS": str(openmp_threads)}
        return node_process("genesis_ros.perception_node", tmp_path, given, environment=environment)

    return start


@pytest.fixture
def image() -> Image:
    return Image(height=48, width=64, encoding="rgb8", step=192, data=bytes(48 * 192))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < THREADS, reason="needs two cores")
def test_only_the_worker_has_helpers(start: Callable[..., Any], client: Any, image: Image) -> None:
    """OpenMP lets threads wait awake for each other only while there are no more than cores."""
    # PyTorch's own number here: setting another one starts threads, too.
    with start(THREADS, threads=THREADS, autostart=False) as node:

        def threads() -> int:
            return len(list((node.proc / "task").iterdir()))

        client.until(lambda: client.state(NODE) == "unconfigured", "the node")
        client.spin(0.5)  # the middleware's own threads
        before = threads()
        assert client.transition(NODE, "configure")
        client.until(lambda: threads() == before, "the end of those that warmed up")
        assert client.transition(NODE, "activate")
        images = client.publisher(Image, TOPIC)
        with client.listen(ObjectMasks, "/genesis/object_masks") as masks:
            images.publish(image)
            client.until(lambda: masks, "masks")
        assert threads() > before + 2  # besides worker and receiver: helpers


def test_threads_of_a_pass_are_as_asked_for_and_told(
    start: Callable[..., Any], client: Any, image: Image
) -> None:
    with (
        start(1, diagnostics_period=0.1),
        client.listen(DiagnosticArray, "/diagnostics") as reports,
        client.listen(ObjectMasks, "/genesis/object_masks") as masks,
    ):
        images = client.publisher(Image, TOPIC)

        def told() -> str:
            """After the next image."""
            masks.clear()
            images.publish(image)
            client.until(lambda: masks, "masks")
            reports.clear()
            client.until(lambda: len(reports) > 1, "a report")
            return str(client.status(reports[-1], NODE)[1]["threads"])

        assert told() == "1"  # OMP_NUM_THREADS bounds what the node takes by itself
        assert client.set_parameter(NODE, "threads", 3).successful
        assert told() == "3"
        assert client.set_parameter(NODE, "threads", 0).successful
        assert told() == "1"


@pytest.mark.parametrize(
    "given, turns",
    [({}, "30000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
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
