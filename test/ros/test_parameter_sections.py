"""A parameter file read without a node gives what rcl gives to the node."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import rclpy
from rclpy.node import Node

from genesis_ros.node.parameter_file import read_parameter_file
from genesis_ros.node.parameters import ParameterError

FULL = "/genesis/perception: {ros__parameters: {max_slots: 5}}\n"
NESTED = "genesis: {perception: {ros__parameters: {max_slots: 6}}}\n"
OF_ANY = "/**: {ros__parameters: {max_slots: 9}}\n"
OF_ANY_NAMESPACE = "/*/perception: {ros__parameters: {max_slots: 7, threads: 2}}\n"
OF_A_NAMESPACE = "/genesis/*: {ros__parameters: {max_slots: 8}}\n"
DEEP = "/**/perception: {ros__parameters: {threads: 3}}\n"
OTHERS = (
    "perception: {ros__parameters: {max_slots: 10}}\n"
    "/*: {ros__parameters: {max_slots: 11}}\n"
    "/other/perception: {ros__parameters: {max_slots: 12}}\n"
    "/genesis/perception/inner: {ros__parameters: {max_slots: 13}}\n"
)


def seen_by_rcl(file: Path) -> dict[str, object]:
    """The parameters that a node /genesis/perception is started with."""
    context = rclpy.Context()
    context.init(args=["--ros-args", "--params-file", str(file)])
    try:
        node = Node("perception", namespace="genesis", context=context)
        found = {name: item.value for name, item in node._parameter_overrides.items()}
        node.destroy_node()
        return found
    finally:
        context.shutdown()


@pytest.mark.parametrize(
    "text",
    [
        FULL + OF_ANY,
        OF_ANY + FULL,
        NESTED,
        OF_ANY_NAMESPACE + OTHERS,
        OF_A_NAMESPACE + OF_ANY_NAMESPACE,
        DEEP + OF_A_NAMESPACE,
        OTHERS + FULL,
    ],
)
def test_sections_are_chosen_as_rcl_does(tmp_path: Path, text: str) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    warnings: list[str] = []
    values = read_parameter_file(file, warnings.append)
    assert values == seen_by_rcl(file) != {}
    assert not warnings


def test_what_every_node_has_is_passed_over(tmp_path: Path) -> None:
    """The file is right for the node; whoever reads it for a bag has no use for these."""
    file = tmp_path / "my.yaml"
    file.write_text(
        "/genesis/perception: {ros__parameters: {use_sim_time: true, max_slots: 3, max_slot: 4,\n"
        "  qos_overrides: {/genesis/markers: {publisher: {depth: 2}}}}}\n"
    )
    warnings: list[str] = []
    assert read_parameter_file(file, warnings.append) == {"max_slots": 3}
    assert len(warnings) == 1 and "ignored max_slot," in warnings[0]


def test_a_file_for_other_nodes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(OTHERS)
    assert seen_by_rcl(file) == {}
    with pytest.raises(ParameterError, match="only for /perception, /\\*, /other/perception"):
        read_parameter_file(file, print)


def test_launch_files_ask_without_pytorch() -> None:
    code = (
        "import sys\n"
        "from genesis_ros.node.parameter_file import is_for, no_section, sections\n"
        "print('torch' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
