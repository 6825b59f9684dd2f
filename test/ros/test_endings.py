"""Nodes end quietly and with status 0, whenever SIGINT or SIGTERM comes, and if it comes again."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

TOPIC = "/endings_test/image_raw"
NODE = "/genesis/perception"
PROGRAMS = ("genesis_ros.perception_node", "genesis_ros.camera_node")
BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def wait_for_our_handler(process: Any) -> None:
    """Until then the signal meets Python alone: no program of ours can be quiet earlier."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        status = (process.proc / "status").read_text()
        (caught,) = (line.split()[1] for line in status.splitlines() if "SigCgt" in line)
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:  # Python alone leaves SIGTERM
            return
        time.sleep(0.005)
    pytest.fail("the process takes no SIGTERM")


@BOTH
@pytest.mark.parametrize("program", PROGRAMS)
def test_quietly_while_it_imports(
    node_process: Any, tmp_path: Path, program: str, number: int
) -> None:
    for attempt, delay in enumerate((0.0, 0.2)):
        with node_process(program, tmp_path / str(attempt)) as process:
            wait_for_our_handler(process)
            time.sleep(delay)
            assert process.end(number) == 0
        assert process.log == ""


@pytest.mark.parametrize(
    "program", [PROGRAMS[0], pytest.param(PROGRAMS[1], marks=pytest.mark.slow)]
)
def test_at_any_time_and_twice(
    ros: None, node_process: Any, tmp_path: Path, tiny_checkpoint: Path, program: str
) -> None:
    """Two signals, at random, while it starts, loads, is active and ends."""
    chance = random.Random(program)
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "width": 64, "height": 48}
    for attempt in range(3):
        with node_process(program, tmp_path / str(attempt), given) as process:
            wait_for_our_handler(process)
            time.sleep(chance.uniform(0.3, 4.0))
            first, second = chance.choices((signal.SIGINT, signal.SIGTERM), k=2)
            process.send(first)
            time.sleep(chance.uniform(0.0, 0.05))
            assert process.end(second) == 0, process.log
        lines = process.log.splitlines()
        unexpected = [line for line in lines if "[INFO]" not in line and "unknown" not in line]
        assert not unexpected, process.log


@pytest.mark.slow
def test_while_the_model_works(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path, photo: np.ndarray
) -> None:
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC]}
    for attempt in range(4):
        number = (signal.SIGINT, signal.SIGTERM)[attempt % 2]
        with node_process("genesis_ros.perception_node", tmp_path / str(attempt), given) as node:
            publisher = client.publisher(Image, TOPIC)
            with client.listen(ObjectMasks, "/genesis/object_masks") as masks:

                def busy(publisher: Any = publisher, masks: Any = masks) -> bool:
                    publisher.publish(to_message(photo, Image().header))
                    client.spin(0.01)
                    return len(masks) > 3

                client.until(busy, "a few object masks")
                node.send(number)
                deadline = time.monotonic() + 20.0
                while node.alive and time.monotonic() < deadline:
                    publisher.publish(to_message(photo, Image().header))
                    time.sleep(0.001)
                assert node.end(number) == 0, node.log
            client.node.destroy_publisher(publisher)
        assert "[WARN]" not in node.log and "Error" not in node.log, node.log
        client.until(lambda: not client.node.count_subscribers(TOPIC), "the node leaves the graph")


def shared_memory(proc: Path) -> set[Path]:
    """Files for what is sent, of a process and of those it hears; config/fastdds.xml: 8 MiB each.

    proc: the process's folder in /proc.
    """
    maps = (proc / "maps").read_text()
    return {Path(path) for path in re.findall(r"/dev/shm/fastdds_[0-9a-f]+$", maps, re.MULTILINE)}


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (PROGRAMS[0], "active: listening"),
        (PROGRAMS[0], "waiting for the lifecycle transition"),
        (PROGRAMS[1], "Hz on /camera/image_raw"),
    ],
)
def test_nothing_is_left_behind(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path, program: str, said: str
) -> None:
    """Neither a place in the graph nor shared memory.

    Docker gives a container 64 MB of that; a node that is started again and again would fill it.
    """
    name = program.removeprefix("genesis_ros.").removesuffix("_node")
    given: dict[str, object] = {"width": 64, "height": 48}
    if program == PROGRAMS[0]:
        given = {"checkpoint": str(tiny_checkpoint), "device": "cpu"}
        given["autostart"] = "waiting" not in said
    ours = shared_memory(Path("/proc/self"))
    with node_process(program, tmp_path, given) as node:
        node.wait_for_log(said)
        client.until(lambda: name in client.node.get_node_names(), "the node is in the graph")
        files = shared_memory(node.proc) - ours
        assert files or not ours  # where the middleware has any
        assert node.end() == 0, node.log
    assert not [file for file in files if file.exists()]
    # Forgotten by others because it is silent, after 20 s, would be too late.
    client.until(lambda: name not in client.node.get_node_names(), "it leaves the graph", 5.0)


def test_states_are_logged_and_the_last_one_leads_nowhere(
    client: Any, node_process: Any, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    given = {"checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC]}
    with node_process("genesis_ros.perception_node", tmp_path, given) as node:
        node.wait_for_log("active: ")
        for transition, said in (
            ("deactivate", "inactive: "),
            ("cleanup", "unconfigured: "),
            ("unconfigured_shutdown", "finalized: "),
        ):
            assert client.transition(NODE, transition)
            node.wait_for_log(said)
        response = client.call(SetBool, "/genesis/pause", SetBool.Request(data=True))
        assert not response.success
        assert response.message == "the node is finalized; start a new one"
        assert node.end() == 0
