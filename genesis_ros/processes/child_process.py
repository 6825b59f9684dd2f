"""A node run as a process of its own, and ended with certainty."""

from __future__ import annotations

import collections
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_LOUD = re.compile(r"\[(WARN|ERROR|FATAL)\]|Traceback|Error:")


class ChildProcess:
    """Runs a module of Python as a process, with its output in a log file.

    The child is in a session of its own, so that Ctrl-C in the terminal reaches it by `stop` alone.
    Use it in a `with` block: leaving the block, in whatever way, ends the process: by SIGINT, after
    `grace` seconds by SIGTERM, after as many more by SIGKILL.

    Args:
        module: run as `python -m module`.
        log: the file that takes its output.
        echo: also takes its warnings and errors.
        grace: how long to wait for the end after a signal [s].
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        echo: Callable[[str], None],
        grace: float = 5.0,
    ) -> None:
        self.name = name
        self.log = log
        self._echo = echo
        self._grace = grace
        self._tail: collections.deque[str] = collections.deque(maxlen=15)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._pump = threading.Thread(target=self._copy_output, daemon=True)
        self._pump.start()

    def _copy_output(self) -> None:
        assert self._process.stdout is not None
        with self.log.open("w") as log:
            for line in self._process.stdout:
                log.write(line)
                log.flush()
                self._tail.append(line.rstrip())
                if _LOUD.search(line):
                    self._echo(f"{self.name}: {line.rstrip()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while the process runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of its output, for an error message."""
        self._pump.join(timeout=1.0)
        return "\n".join(self._tail)

    def stop(self) -> None:
        """End the process, if it still runs."""
        for request in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            self._process.send_signal(request)
            try:
                self._process.wait(self._grace)
            except subprocess.TimeoutExpired:
                continue
        self._pump.join(timeout=self._grace)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
