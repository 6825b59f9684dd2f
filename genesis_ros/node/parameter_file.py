"""The node's parameters in a ROS parameter file, read without a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from genesis_ros.node.parameters import RULES, ParameterError, Value, check


def read_parameter_file(path: Path, warn: Callable[[str], object]) -> dict[str, Value]:
    """The perception node's parameters of a ROS parameter file, checked.

    Args:
        warn: takes a line about the parameters that the node does not have; they are left out.

    Raises:
        ParameterError: the file's content cannot be used. The text names what is wrong.
        OSError: the file cannot be read.
    """
    try:
        nodes = _nodes(yaml.safe_load(path.read_text()), ())
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error
    sections = [found for node, found in nodes if node in ("perception", "*", "**")]
    if not sections:
        raise ParameterError(f"{path}: no ros__parameters for the node perception in it")
    values: dict[str, Value] = {}
    for name, value in (item for section in sections for item in section.items()):
        if name in RULES:
            values[name] = check(name, value)
        else:
            warn(f"{path}: ignored {name}, which is no parameter of the perception node")
    return values


def _nodes(tree: object, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Last part of a node's name, and its parameters, of all in a parameter file."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key == "ros__parameters" and isinstance(value, dict):
            yield "/".join(path).rpartition("/")[2], value
        else:
            yield from _nodes(value, (*path, str(key)))
