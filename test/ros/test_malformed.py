"""What reads messages, given thousands of malformed ones: arrays that make sense, or ImageError.

The node gets fewer of them, in test_perception_fuzz.py. GENESIS_FUZZ_MESSAGES sets how many of each
type are made here.
"""

from __future__ import annotations

import os
from collections import Counter
from random import Random

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from benchmarks.malformed import (
    bad_camera_info,
    bad_compressed_depth,
    bad_depth,
    bad_file,
    bad_image,
)
from genesis_bags.decoding.images import ImageReader
from genesis_bags.decoding.pixels import ImageError
from genesis_ros.messages.depth_pairing import DepthPairing

INTACT = CameraInfo(height=48, width=64, k=[80.0, 0, 32, 0, 80, 24, 0, 0, 1])
MESSAGES = int(os.environ.get("GENESIS_FUZZ_MESSAGES", "1000"))


def test_images() -> None:
    """One reader for all of them, so that what it remembers is put to the test, too."""
    for make in (bad_image, bad_file):
        random, reader = Random(3), ImageReader()
        outcomes = Counter[str]()
        for number in range(MESSAGES):
            message, known = make(random)
            try:
                pixels = reader(message, number / 30)
            except ImageError as error:
                assert known is not True, (error, message)
                assert 0 < len(str(error)) < 1000
                outcomes[error.kind] += 1
            else:
                assert known is not False, message
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
                outcomes["read"] += 1
        print(f"{make.__name__}: {dict(outcomes)}")
        assert outcomes["read"] > MESSAGES / 20 and len(outcomes) > 3
        assert outcomes.total() == MESSAGES


def test_depth_and_intrinsics() -> None:
    for make in (bad_depth, bad_compressed_depth):
        random, pairing = Random(4), DepthPairing("/depth", "/info")
        outcomes = Counter[str]()
        for number in range(MESSAGES):
            stamp = Time(sec=number + 1)
            message = make(random, 48, 64)
            message.header.stamp = stamp
            info = bad_camera_info(random, 48, 64)
            # With usable intrinsics every other time, so that the depth itself is read.
            pairing.add_info(info if number % 2 else INTACT)
            pairing.add_image(message, number * 10**9)
            try:
                found = pairing.depth_image(stamp, 0.0)
            except ImageError as error:
                assert 0 < len(str(error)) < 1000
                outcomes[error.kind] += 1
            else:
                assert found.depth.dtype == np.float32 and found.depth.ndim == 2
                assert found.intrinsics.shape == (3, 3)
                outcomes["read"] += 1
        print(f"{make.__name__}: {dict(outcomes)}")
        assert outcomes["read"] > MESSAGES / 50 and len(outcomes) > 3
        assert outcomes.total() == MESSAGES
