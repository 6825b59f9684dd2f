"""ROS parameter files, read without a node.

Launch files ask which sections are for a node, so importing this loads no PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from genesis_ros.node.parameters import Value

DEFAULT_NODE = "/genesis/perception"
"""Full name of the perception node, if nobody gives it another one."""

_OF_EVERY_NODE = ("use_sim_time", "qos_overrides")


def sections(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The sections of a ROS parameter file, in its order: node name, with wildcards, and values.

    Raises:
        OSError: the file cannot be read.
        yaml.YAMLError: it is not valid YAML.
    """
    return list(_sections(yaml.safe_load(path.read_text()), ()))


def is_for(section: str, node: str) -> bool:
    """Whether the parameters of a section reach a node of this full name, as rcl has it.

    `/*` stands for one part of the name, `/**` for any number of parts.
    """
    pattern = re.escape(section).replace(r"/\*\*", r"(/\w+)*").replace(r"/\*", r"/\w+")
    return re.fullmatch(pattern, node) is not None


def no_section(path: Path, found: Iterable[str], node: str) -> str:
    """What to say where none of the sections found in a file is for a node."""
    others = ", ".join(found)
    return (
        f"{path} has no section for the node {node}{others and f', only for {others}'}; "
        f"write /**: (any node) or {node}: above its ros__parameters"
    )


def read_parameter_file(path: Path, warn: Callable[[str], object]) -> dict[str, Value]:
    """What a ROS parameter file sets in the perception node of the default name, checked.

    As in rcl a later section goes before an earlier one, whatever their names.

    Args:
        warn: takes a line about the parameters that the node does not have; they are left out.

    Raises:
        ParameterError: the file's content cannot be used. The text names what is wrong.
        OSError: the file cannot be read.
    """
    from genesis_ros.node.parameters import RULES, ParameterError, check

    try:
        found = sections(path)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path}: not valid YAML: {error}") from error
    ours = [given for section, given in found if is_for(section, DEFAULT_NODE)]
    if not ours:
        raise ParameterError(no_section(path, [section for section, _ in found], DEFAULT_NODE))
    values: dict[str, Value] = {}
    for name, value in (item for given in ours for item in given.items()):
        if name in RULES:
            values[name] = check(name, value)
        elif name.split(".")[0] not in _OF_EVERY_NODE:
            warn(f"{path}: ignored {name}, which is no parameter of the perception node")
    return values


def _sections(tree: object, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if key == "ros__parameters" and isinstance(value, dict):
            yield "/" + "/".join(path).lstrip("/"), value
        else:
            yield from _sections(value, (*path, str(key)))
