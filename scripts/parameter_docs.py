"""Write docs/parameters.md and config/perception.yaml from the node's parameters.

`make docs` does it. With --check nothing is written; the exit status is 1 if a file is stale.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from genesis_ros.node import parameters

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100

YAML_HEAD = """\
# Every parameter of the perception node with its default. `make docs` writes this file from
# genesis_ros/node/parameters.py. Copy it, change what you need, and start with
#   ros2 launch genesis_ros perception.launch.py params_file:=my.yaml
# A section's name says whose parameters it has: /** those of any node, /genesis/perception those
# of the node of this full name. perception alone is /perception, which is another node.
# Square brackets give the allowed values. A live parameter can change while the node runs
# (`ros2 param set`, `ros2 param load`), any other only while the node is unconfigured.

/**:
  ros__parameters:
"""

MARKDOWN_HEAD = """\
# Parameters of the perception node

<!-- Written by `make docs` from genesis_ros/node/parameters.py; change it there. -->

Set parameters in a file (`params_file:=my.yaml`), on the command line
(`--ros-args -p name:=value`), or while the node runs (`ros2 param set`). The template for a file is
[config/perception.yaml](../config/perception.yaml), with all defaults. A live parameter can change
at any time, any other only while the node is unconfigured. The node refuses a bad value with the
reason. It warns of an unknown name and suggests the likely one.

| parameter | default | allowed | live | meaning |
|---|---|---|---|---|
"""


def shown(value: parameters.Value) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, tuple):
        return "[" + ", ".join(item or '""' for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) or '""'


def parameter_file() -> str:
    """The content of config/perception.yaml."""
    entries = []
    for name, default in vars(parameters.NodeSettings()).items():
        rule = parameters.RULES[name]
        notes = "; ".join(filter(None, [rule.allowed, "live" if rule.live else ""]))
        lines = textwrap.wrap(rule.description, WIDTH - len("    # "), break_on_hyphens=False)
        lines += [f"[{notes}]"] if notes else []
        comment = "".join(f"    # {line}\n" for line in lines)
        entries.append(f"{comment}    {name}: {shown(default)}\n")
    return YAML_HEAD + "\n".join(entries)


def reference() -> str:
    """The content of docs/parameters.md."""
    rows = []
    for name, default in vars(parameters.NodeSettings()).items():
        rule = parameters.RULES[name]
        meaning = rule.description.replace("|", "\\|").replace("<", "\\<")
        live = "yes" if rule.live else ""
        rows.append(f"| `{name}` | `{shown(default)}` | {rule.allowed} | {live} | {meaning} |\n")
    return MARKDOWN_HEAD + "".join(rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(arguments).check
    contents = {"docs/parameters.md": reference(), "config/perception.yaml": parameter_file()}
    stale = [name for name, text in contents.items() if (ROOT / name).read_text() != text]
    for name in stale:
        if check:
            print(f"{name} is stale: run `make docs`", file=sys.stderr)
        else:
            (ROOT / name).write_text(contents[name])
            print(f"wrote {name}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
