"""The programs, each from before it imports what it needs.

Nodes end quietly even while Python still imports, and a module that is missing is one line.
This module is imported before everything else, so it needs the standard library only.
"""

from __future__ import annotations

import sys
from types import TracebackType

from genesis_ros.processes.ending import end_on_signals
from genesis_ros.processes.openmp import wait_briefly

# What rosdep does not install: see docs/node.md, Install.
_OF_PIP = ("torch", "safetensors", "rosbags", "mcap", "zstandard", "mujoco")
_GENERATED = ("genesis_ros.msg", "genesis_ros.srv")


def perception_node() -> int:
    """Run the perception node; the exit status."""
    end_on_signals()
    wait_briefly()
    name_missing_modules("perception_node")
    from genesis_ros.perception_node import main

    return main()


def camera_node() -> int:
    """Run the simulated camera; the exit status."""
    end_on_signals()
    name_missing_modules("camera_node")
    from genesis_ros.camera_node import main

    return main()


def segment_bag() -> int:
    """Run segment_bag, which has its own way to end; the exit status."""
    name_missing_modules("segment_bag")
    from genesis_ros.segment_bag import main

    return main()


def demo() -> int:
    """Run the demo, which has its own way to end; the exit status."""
    name_missing_modules("demo")
    from genesis_ros.demo import main

    return main()


def name_missing_modules(program: str) -> None:
    """From now on a package that is not installed ends this process with a line, not a traceback.

    Status 1, as before. A missing module of our own packages keeps its traceback, unless it is one
    of the generated messages.
    """

    def explain(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        module = (getattr(error, "name", None) or "") if kind is ModuleNotFoundError else ""
        package = module.partition(".")[0]
        if module in _GENERATED:
            lack = f"{module}, which `colcon build` makes and pip does not"
        elif package and not package.startswith("genesis_"):
            install = f"pip install {package}" if package in _OF_PIP else "install it"
            lack = (
                f"{package}, which {sys.executable} lacks: activate the environment that has it, "
                f"or {install}"
            )
        else:
            sys.__excepthook__(kind, error, traceback)
            return
        print(f"{program} needs {lack} (docs/node.md, Install)", file=sys.stderr)

    sys.excepthook = explain
