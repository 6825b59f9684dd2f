"""The README's planner, examples/planner.py, run beside the real node with the shipped model."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from genesis_core import default_checkpoint
from genesis_ros.masks import objects
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "planner.py"
CLIP = ROOT / "genesis_ros" / "data" / "tabletop.mp4"
DEFAULT_TOPIC = "/camera/image_raw"
MASKS = "/genesis/object_masks"

pytestmark = pytest.mark.skipif(
    not default_checkpoint().is_file(), reason=f"no shipped checkpoint {default_checkpoint().name}"
)


def shown_planner() -> str:
    """The one Python block of the README's section for planners."""
    (section,) = re.findall(r"^## For planners\n(.*?)^## ", README.read_text(), re.S | re.M)
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.S | re.M)
    return code


def scene() -> np.ndarray:
    """A basket with a red cube, a smaller blue ball and a green block, RGB (480, 640, 3)."""
    video = cv2.VideoCapture(str(CLIP))
    images = [video.read()[1] for _ in range(9)]
    return cv2.cvtColor(images[-1], cv2.COLOR_BGR2RGB)


@pytest.fixture
def node(node_process: Any, tmp_path: Path) -> Iterator[Any]:
    with node_process("genesis_ros.perception_node", tmp_path / "node", {"device": "cpu"}) as node:
        node.wait_for_log("active: ")
        yield node


def test_the_readme_shows_the_example() -> None:
    _, docstring, code = EXAMPLE.read_text().split('"""')
    assert "planner" in docstring
    assert shown_planner().strip() == code.strip()


def start_planner(output: Path) -> subprocess.Popen[bytes]:
    """The example; what it prints goes into a file."""
    with output.open("w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.planner"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def test_planner_ends_quietly(client: Any, tmp_path: Path) -> None:
    """At Ctrl-C, before the first masks."""
    output = tmp_path / "planner.txt"
    process = start_planner(output)
    try:
        client.until(lambda: client.node.count_subscribers(MASKS) == 1, "the planner listens")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)
    assert output.read_text() == ""


@pytest.mark.slow
def test_planner_picks_the_largest_tracked_object(client: Any, node: Any, tmp_path: Path) -> None:
    output = tmp_path / "planner.txt"
    camera = client.publisher(Image, DEFAULT_TOPIC)
    process = start_planner(output)
    try:
        with client.listen(ObjectMasks, MASKS) as messages:
            client.until(lambda: client.node.count_subscribers(MASKS) == 2, "the planner listens")
            # The node may learn of the planner later than we do: then it misses the first masks.
            number = 0
            while output.read_text().count("\n") < 4:
                number += 1
                assert number < 50, output.read_text()
                message = to_message(scene(), Image().header)
                message.header.stamp.sec = number
                camera.publish(message)
                client.until(lambda: len(messages) == number, f"masks {number}")  # noqa: B023
                client.spin(0.3)
            client.spin(2.0)  # until it has printed its last line
        lines = output.read_text().splitlines()
        assert process.poll() is None, lines
    finally:
        process.kill()  # rclpy's own end can hang, and what was printed is all that counts
        process.wait(20)
    printed = re.findall(r"^(\d+) (\d+) \((.*)\) None$", "\n".join(lines), re.M)
    assert 4 <= len(printed) == len(lines) <= len(messages), lines
    assert len({number for number, _, _ in printed}) == 1, lines
    heard = messages[-len(printed) :]
    for message, (number, area, centroid) in zip(heard, printed, strict=True):
        candidates = [item for item in objects(message) if item.id and not item.background]
        assert int(area) == max(item.area for item in candidates)
        assert int(number) in {item.id for item in candidates if item.area == int(area)}
        # The red one.
        x, y = map(float, centroid.split(", "))
        assert (x, y) == pytest.approx((435, 157), abs=10)
