"""The nodes as programs: they end quietly even while Python still imports what they need."""

from __future__ import annotations

from genesis_ros.processes.ending import end_on_signals
from genesis_ros.processes.openmp import wait_briefly


def perception_node() -> int:
    """Run the perception node; the exit status."""
    end_on_signals()
    wait_briefly()
    from genesis_ros.perception_node import main

    return main()


def camera_node() -> int:
    """Run the simulated camera; the exit status."""
    end_on_signals()
    from genesis_ros.camera_node import main

    return main()
