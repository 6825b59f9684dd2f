"""Prints what arrives on topics, one JSON object a line: echo.py TYPE TOPIC [TYPE TOPIC...].

It is a process of its own, for messages that were built after the tests' process had started.
"""

from __future__ import annotations

import importlib
import json
import sys
from functools import partial
from typing import Any

import rclpy


def to_plain(value: Any) -> Any:
    """A message as dictionaries, lists and numbers."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: to_plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (str, int, float)):
        return value
    return [to_plain(item) for item in value]


def message_class(name: str) -> Any:
    """vision_msgs/msg/Detection2DArray, as a class."""
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def show(topic: str, message: Any) -> None:
    """One line."""
    print(json.dumps({"topic": topic, "message": to_plain(message)}), flush=True)


if __name__ == "__main__":
    rclpy.init(args=[])
    node = rclpy.create_node("echo")
    for kind, topic in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        node.create_subscription(message_class(kind), topic, partial(show, topic), 50)
    rclpy.spin(node)
