"""What the commands of this folder share: options with hyphens, errors without a traceback."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser

from genesis_core import DeviceError
from training.datasets.layout import DatasetError
from training.fid import FidError

# Mistakes of the user's, or of the machine's: the message says it all.
EXPECTED_ERRORS = (DatasetError, DeviceError, FidError, OSError, ValueError)

STOPPED = 130
"""Exit status of a command whose training a signal stopped: the same command goes on from there."""

T = TypeVar("T")


def call(function: Callable[..., T], parser: ArgumentParser, arguments: Sequence[str] | None) -> T:
    """Parse the command line (or these arguments) and give what the function makes of the result.

    Options may be written --like-this or --like_this. An expected error ends the process with
    exit status 1 and one line on standard error.
    """
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args([_underscored(argument) for argument in given])
    try:
        return function(**vars(options))
    except EXPECTED_ERRORS as error:
        sys.exit(f"{parser.prog}: error: {error}")


def show(main: Callable[[list[str]], object], *parts: str | Path) -> object:
    """Show a command of this folder and run it in this process; a string may be several words."""
    arguments = [a for p in parts for a in ([str(p)] if isinstance(p, Path) else p.split())]
    print(f"\n$ python -m {main.__module__} {shlex.join(arguments)}", flush=True)
    return main(arguments)


def _underscored(argument: str) -> str:
    return re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), argument)
