"""Publishes images and waits for the answers of nodes: from publishing to having received.

Images are serialised beforehand, and answers stay bytes: what a user's own program does with them
is not the node's.
"""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Before rclpy starts: neither hear nor disturb other ROS programs.
os.environ.setdefault("ROS_DOMAIN_ID", str(random.randint(1, 100)))
os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from genesis_ros.msg import ObjectMasks
from genesis_ros.node.receiver import Receiver

_TIMEOUT = 300.0  # s
_MEAN = " mean [ms]"  # how a node's diagnostics name the mean of a time
_SECONDS = struct.Struct("<i")  # of the header's stamp, behind the preface of four bytes


class NoAnswerError(RuntimeError):
    """A node did not start or does not answer."""


class ImageClient:
    """Talks to nodes of these names, each with an image topic and a topic of ObjectMasks.

    Args:
        check: called while it waits; what it raises ends the waiting.
    """

    def __init__(
        self, node: Node, topics: dict[str, tuple[str, str]], check: Callable[[], None]
    ) -> None:
        self._node, self._topics, self._check = node, topics, check
        self._publishers = {
            name: node.create_publisher(Image, image, 5) for name, (image, _) in topics.items()
        }
        self._answered = threading.Condition()
        self._last = (0, 0.0)  # number of the image, time of the answer
        self._number = 0
        # What each node says of a period: images so far, and means of its times [ms].
        self._said: dict[str, list[tuple[int, dict[str, float]]]] = {name: [] for name in topics}
        self._receiver = Receiver(node, self._fail)
        for _, answer in topics.values():
            self._receiver.subscribe(ObjectMasks, answer, self._take, QoSProfile(depth=5), raw=True)
        self._receiver.start()
        node.create_subscription(DiagnosticArray, "/diagnostics", self._note, 10)

    def close(self) -> None:
        """Receive nothing more."""
        self._receiver.close(1.0)

    def wait_until_ready(self, name: str) -> None:
        """Until images and answers have a way."""
        image, answer = self._topics[name]
        self._wait(
            lambda: (
                self._publishers[name].get_subscription_count()
                and self._node.count_publishers(answer)
            ),
            f"nobody listens to {image}",
        )

    def latency(self, name: str, image: bytes) -> float:
        """Seconds from publishing a serialised image to having the answer."""
        self._number += 1
        stamped = image[:4] + _SECONDS.pack(self._number) + image[8:]
        started = time.perf_counter()
        self._publishers[name].publish(stamped)
        self._wait(lambda: self._last[0] == self._number, f"no answer on {self._topics[name][1]}")
        return self._last[1] - started

    def processed(self, name: str) -> int:
        """How many images a node says it has processed, once it has said so of all that were sent.

        It says so once a second; no image may be on its way.
        """
        said = self._said[name]
        known = len(said)
        self._wait(lambda: len(said) > known, f"{name} does not say what inference takes")
        return said[-1][0]

    def means(self, name: str, after: int) -> dict[str, float]:
        """A node's times [ms], on average, of all images but the first so many.

        As its diagnostics name them: "inference", "processor" (what all its threads used
        meanwhile), and others.
        """
        self.processed(name)
        totals: dict[str, float] = {}
        before = after
        for images, means in self._said[name]:
            if images > before:
                for what, mean in means.items():
                    totals[what] = totals.get(what, 0.0) + (images - before) * mean
                before = images
        return {what: total / (before - after) for what, total in totals.items()}

    def _wait(self, condition: Callable[[], Any], complaint: str) -> None:
        deadline = time.monotonic() + _TIMEOUT
        with self._answered:
            while not self._answered.wait_for(condition, 0.1):
                self._check()
                if time.monotonic() > deadline:
                    raise NoAnswerError(complaint)

    def _take(self, content: bytes, info: Any) -> None:
        now = time.perf_counter()
        with self._answered:
            self._last = _SECONDS.unpack_from(content, 4)[0], now
            self._answered.notify()

    def _note(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.strip("/").partition("/")[0]
            values = {value.key: value.value for value in status.values}
            if name in self._said and "frames processed" in values:
                means = {
                    key.removesuffix(_MEAN): float(value)
                    for key, value in values.items()
                    if key.endswith(_MEAN)
                }
                self._said[name].append((int(values["frames processed"]), means))

    def _fail(self, error: Exception) -> None:
        print(f"benchmarks: {type(error).__name__}: {error}", file=sys.stderr, flush=True)


@contextmanager
def image_client(
    topics: dict[str, tuple[str, str]], check: Callable[[], None] = lambda: None
) -> Iterator[ImageClient]:
    """A client with a node of its own; rclpy is up meanwhile."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = Node("bench", use_global_arguments=False, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)  # diagnostics and the graph
    thread.start()
    client = ImageClient(node, topics, check)
    try:
        yield client
    finally:
        client.close()
        executor.shutdown()
        thread.join(5)
        node.destroy_node()
        rclpy.shutdown(context=context)
