"""Work on more than one machine, which is Ray's business (requirements/ray.txt).

Tasks must be pure enough to run again: Ray repeats those of a machine that is lost. All machines
need this package in the same version.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")

RETRIES = 3
"""How often a task is run again whose machine or process was lost."""
_INHERITED = (
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
    "AMENT_PREFIX_PATH",
    "_ROS_WHEELS_BOOTSTRAP_COMPLETE",
)
_POLL = 0.2  # s
_CONNECT_TIMEOUT = 10.0  # s


class ClusterError(RuntimeError):
    """There is no cluster, or it lost a task for good."""


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected to a cluster while the block runs.

    Args:
        address: of the cluster's head, such as 10.0.0.1:6379; "auto" is the cluster that this
            machine belongs to.

    Raises:
        ClusterError: Ray is not installed or there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            f"--ray needs Ray: pip install -r requirements/ray.txt ({error})"
        ) from error
    _check_reachable(address)
    # One process for each core; each would start threads for all of them otherwise.
    variables = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    variables |= {name: os.environ[name] for name in _INHERITED if name in os.environ}
    try:
        ray.init(
            address=address,
            runtime_env={"env_vars": variables},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise ClusterError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto" and the like
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT):
            pass
    except OSError as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from error


def run_all(
    ray: Any,
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    meanwhile: Callable[[], object],
    *,
    gpus: int = 0,
) -> Iterator[tuple[tuple[Any, ...], T | Exception]]:
    """Call a function on the cluster, once for each tuple of arguments, each on one core.

    Calls that are left when this ends early end with the connection. To cancel them by force is not
    safe: Ray aborts the whole process where one ends at that moment (seen with 2.60's
    ``CompletePendingTask``).

    Args:
        ray: see ``connected``.
        meanwhile: called several times a second; what it raises ends everything.
        gpus: GPUs that each call needs.

    Yields:
        The arguments, and the result or what the function raised, in the order in which they end.

    Raises:
        ClusterError: a task was lost more often than RETRIES.
    """
    remote = ray.remote(max_retries=RETRIES, num_cpus=1, num_gpus=gpus)(function)
    waiting = {remote.remote(*arguments): arguments for arguments in calls}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_POLL)
        meanwhile()
        for reference in done:
            arguments = waiting.pop(reference)
            try:
                result: T | Exception = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                result = cause if isinstance(cause, Exception) else error
            except ray.exceptions.RayError as error:
                raise ClusterError(
                    f"the cluster lost a task {RETRIES + 1} times: {_first_line(error)}"
                ) from error
            yield arguments, result


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
