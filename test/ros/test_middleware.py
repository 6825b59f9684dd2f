"""config/fastdds.xml: images between processes of one machine."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from genesis_ros.processes.middleware import profile_environment

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "config" / "fastdds.xml"
IMAGES = 20


SHARED_MEMORY = Path("/dev/shm")


@pytest.mark.slow
@pytest.mark.skipif(
    "fastrtps" not in rclpy.get_rmw_implementation_identifier(), reason="Fast DDS is not in use"
)
@pytest.mark.skipif(
    not SHARED_MEMORY.is_dir() or shutil.disk_usage(SHARED_MEMORY).free < 2**24,
    reason="/dev/shm is full",
)
def test_best_effort_loses_no_image(client: Any) -> None:
    """Images of 1280x720: five times what fits into Fast DDS's shared memory without it."""
    numbers: list[int] = []
    client.node.create_subscription(
        Image,
        "/hd/image_raw",
        lambda message: numbers.append(int(message.header.frame_id)),
        QoSProfile(depth=IMAGES, reliability=ReliabilityPolicy.BEST_EFFORT),
    )
    options = {"topics": ["/hd/image_raw"], "width": 1280, "height": 720, "rate": 10, "seconds": 30}
    script = Path(__file__).with_name("publish_images.py")
    variable = "FASTDDS" if os.environ.get("ROS_DISTRO") != "jazzy" else "FASTRTPS"
    publisher = subprocess.Popen(
        [sys.executable, str(script), json.dumps(options)],
        env={**os.environ, f"{variable}_DEFAULT_PROFILES_FILE": str(PROFILE)},
    )
    try:
        client.until(lambda: len(numbers) >= IMAGES, f"{IMAGES} images")
    finally:
        publisher.terminate()  # killed, it would leave its shared memory behind
        try:
            publisher.wait(timeout=30)
        except subprocess.TimeoutExpired:  # rclpy's own end can hang
            publisher.kill()
            publisher.wait()
    first = numbers[0]
    assert numbers == list(range(first, first + len(numbers)))


VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
SETTINGS = pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {VARIABLES[0]: str(PROFILE)}),
        ({"ROS_DISTRO": "jazzy"}, {VARIABLES[1]: str(PROFILE)}),
        ({"ROS_DISTRO": "kilted"}, {VARIABLES[0]: str(PROFILE)}),
        ({VARIABLES[0]: "mine.xml"}, {VARIABLES[0]: "mine.xml"}),
        ({VARIABLES[1]: "mine.xml"}, {VARIABLES[1]: "mine.xml"}),
        ({"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}, {}),
    ],
)


@SETTINGS
def test_the_environment_has_the_profile_unless_the_user_has_another(
    given: dict[str, str], expected: dict[str, str]
) -> None:
    script = ". scripts/ros_env.sh && env"
    environment = {"PATH": os.environ["PATH"], **given}
    result = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, env=environment, text=True, capture_output=True, check=True
    )
    variables = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    assert {name: variables[name] for name in VARIABLES if name in variables} == expected


@SETTINGS
def test_so_have_the_launched_nodes(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for images in Fast DDS's shared memory; what the user has set goes before."""
    for name in (*VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    inherited = {name: given[name] for name in VARIABLES if name in given}
    assert profile_environment(str(PROFILE)) | inherited == expected


def test_every_launched_node_gets_it() -> None:
    """Also where the launch package is absent, so that test_launch.py is skipped."""
    syntax = ast.parse((ROOT / "launch" / "perception.launch.py").read_text())
    nodes = [
        node
        for node in ast.walk(syntax)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Node"
    ]
    assert len(nodes) == 3
    for node in nodes:
        arguments = {item.arg: ast.unparse(item.value) for item in node.keywords}
        assert arguments["additional_env"] == "profile_environment(config_file('fastdds.xml'))"
