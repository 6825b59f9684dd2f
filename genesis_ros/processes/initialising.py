"""rclpy's start, and what it says of arguments and parameter files that it cannot read."""

from __future__ import annotations

import re
import sys

import rclpy
from rclpy.signals import SignalHandlerOptions

from genesis_ros.processes.ending import leave

_PLACES = re.compile(r"\n?, at [^,\s]+:\d+")  # in rcl's own source


def init(program: str, args: list[str] | None) -> None:
    """Start rclpy for a program that ends on signals by itself (``end_on_signals``).

    A parameter file that is missing or no YAML, or a misspelt ROS argument, ends the process with
    status 1 and a line that says so.

    Args:
        program: for the message.
        args: the command line; None: that of the process.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # RCLError is one, and private
        text = _PLACES.sub("", str(error))
        if text.startswith("["):  # of an UnknownROSArgsError: what they are, and nothing more
            text = f"after --ros-args, rcl does not know {text}"
        print(f"{program} cannot start: {text}", file=sys.stderr)
        leave(1)
