"""config/fastdds.xml: images between processes of one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

PROFILE = Path(__file__).resolve().parents[2] / "config" / "fastdds.xml"
IMAGES = 20


@pytest.mark.skipif(
    "fastrtps" not in rclpy.get_rmw_implementation_identifier(), reason="Fast DDS is not in use"
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
        publisher.kill()
        publisher.wait()
    first = numbers[0]
    assert numbers == list(range(first, first + len(numbers)))
