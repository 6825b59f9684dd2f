"""Segmenting many bags: each in a process of its own, here or on the machines of a Ray cluster.

A bag appears in the output when it is whole. So another run, after whatever ended the first one,
goes on with the bags that are missing; and a bag that brings a process down costs only itself.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from genesis_bags.reader import BAG_SUFFIXES, BagError, find_bags
from genesis_ros.processes.interruption import Interrupted, Interruption

PARTIAL = ".partial"
"""Folder in the output where bags grow."""

_DONE, _DAMAGED = 0, 3  # exit statuses of segment_bag with which a bag is segmented
_TRIES = 3  # of a process that was killed, for want of memory for one
_POLL = 0.2  # s
_ENDING = 30.0  # s that processes have to end
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class Outcome(NamedTuple):
    """What became of a bag.

    Attributes:
        status: the exit status of segment_bag; negative: the signal that killed it each time.
        message: the last thing that it said.
    """

    status: int
    message: str


def archived_bags(path: Path) -> list[Path]:
    """The bags of a folder of bags; none if the path is a bag itself, or nothing that is one."""
    found = find_bags(path)
    return [] if found == [path] else found


def segment_archive(
    source: Path,
    target: Path,
    bags: Sequence[Path],
    options: Sequence[str],
    interruption: Interruption,
    say: Callable[[str], object],
    *,
    workers: int,
    ray: str | None,
    overwrite: bool,
    uses_gpu: bool,
) -> int:
    """Segment the bags of a folder into another folder, each under its own relative name.

    Args:
        options: of segment_bag, for each bag.
        say: tells people something.
        workers: bags at once, without a cluster.
        ray: address of a cluster whose machines all see both folders under these paths.
        overwrite: segment again what is done.
        uses_gpu: whether each process wants a GPU, if the cluster has some.

    Returns:
        The exit status: 0, 1 if bags failed, 3 if some are damaged, or that of an interruption.

    Raises:
        BagError: the folders cannot be used so.
        ClusterError: there is no cluster.
    """
    # A link in the folder is a bag of its own, whatever it points to.
    below = [bag.relative_to(source) for bag in bags]
    source, target = source.resolve(), target.resolve()
    if workers < 1:
        raise BagError(f"--workers is {workers}; expected 1 or more")
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise BagError(f"{target} and {source}: one lies in the other; choose another OUT")
    names = _names(source, [source / bag for bag in below])
    todo = {bag: name for bag, name in names.items() if overwrite or not _is_there(target / name)}
    say(f"{source}: {len(names)} bags, {len(names) - len(todo)} of them segmented already")
    (target / PARTIAL).mkdir(parents=True, exist_ok=True)
    calls = [(bag, target, name, tuple(options)) for bag, name in todo.items()]
    failed = damaged = 0
    results = (
        _run_here(calls, workers, interruption)
        if ray is None
        else _run_on_cluster(calls, ray, interruption, uses_gpu=uses_gpu)
    )
    try:
        with tqdm(total=len(names), initial=len(names) - len(todo), unit="bag") as progress:
            for bag, outcome in results:
                progress.update()
                failed += outcome.status not in (_DONE, _DAMAGED)
                damaged += outcome.status == _DAMAGED
                say(f"{bag.relative_to(source)}: {_told(outcome)}")
    except Interrupted:
        say("interrupted; the same command again goes on with the bags that are missing")
        return interruption.exit_status
    shutil.rmtree(target / PARTIAL, ignore_errors=True)
    say(f"{target}: {len(names) - failed} of {len(names)} bags are segmented")
    return 1 if failed else _DAMAGED if damaged else 0


def _names(source: Path, bags: Sequence[Path]) -> dict[Path, Path]:
    """Where the results of each bag go, relative to the output: its own place without suffix."""
    relative = {bag: bag.relative_to(source) for bag in bags}
    short = {
        bag: path.with_suffix("") if path.suffix.lower() in BAG_SUFFIXES and bag.is_file() else path
        for bag, path in relative.items()
    }
    names = short
    while True:
        counts = Counter(names.values())
        folders = {folder for name in counts for folder in name.parents}
        # run.mcap beside run.bag, or beside the folder run with bags in it: they keep their suffix.
        # Their whole names may be the short ones of others: run.mcap.mcap.
        clashing = {
            bag: relative[bag]
            for bag, name in names.items()
            if name != relative[bag] and (counts[name] > 1 or name in folders)
        }
        if not clashing:
            return names
        names = names | clashing


def _is_there(result: Path) -> bool:
    """Whether a bag lies there; a folder that other bags lie in is none."""
    return (result / "metadata.yaml").exists()


def _told(outcome: Outcome) -> str:
    if outcome.status < 0:
        number = -outcome.status
        return f"failed: killed {_TRIES} times by {signal.Signals(number).name}"
    if outcome.status in (_DONE, _DAMAGED):
        return outcome.message
    return f"failed (exit status {outcome.status}): {outcome.message}"


_Call = tuple[Path, Path, Path, tuple[str, ...]]


class _Processes:
    """The processes of a run, which end together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopping = False

    @property
    def stopping(self) -> bool:
        """Whether no process is started any more."""
        return self._stopping

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Run a process to its end.

        Returns:
            Its exit status and what it said on stderr.

        Raises:
            Interrupted: the run has ended meanwhile.
        """
        with self._lock:
            if self._stopping:
                raise Interrupted
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,  # Ctrl-C is for this process, which then ends them
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
            self._running.add(process)
        _, errors = process.communicate()
        with self._lock:
            self._running.discard(process)
        return process.returncode, errors

    def end(self) -> None:
        """Ask the processes that are running to end, and wait for it."""
        with self._lock:
            self._stopping = True
            running = list(self._running)
        for process in running:
            process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + _ENDING
        while self._running and time.monotonic() < deadline:
            time.sleep(_POLL)
        with self._lock:
            for process in self._running:
                process.kill()


def segment_one(
    bag: Path,
    target: Path,
    name: Path,
    options: Sequence[str],
    processes: _Processes | None = None,
) -> Outcome:
    """Segment a bag in a process of its own; again if that was killed.

    Args:
        processes: of the run, if this process may have to end them.
    """
    processes = processes or _Processes()
    partial, final = target / PARTIAL / name, target / name
    if final.exists() and not _is_there(final):
        return Outcome(1, f"{final} is in the way: it is no bag, so it is not replaced")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # the other bags go on
        return Outcome(1, f"{final} cannot be written: {error}")
    command = [sys.executable, "-m", "genesis_ros.segment_bag", str(bag), str(partial)]
    command += ["--overwrite", *options]
    outcome = Outcome(1, "")
    for _ in range(_TRIES):
        status, errors = processes.run(command)
        lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip()]
        # The last line is what became of it; the progress bar may stand beneath.
        said = [line for line in lines if "image/s]" not in line and "?image" not in line]
        outcome = Outcome(status, (said or lines or ["it said nothing"])[-1].strip())
        if outcome.status >= 0 or processes.stopping:
            break
    if outcome.status in (_DONE, _DAMAGED):
        try:
            if _is_there(final):
                shutil.rmtree(final)
            partial.rename(final)
        except OSError as error:
            return Outcome(1, f"{final} cannot be written: {error}")
        message = outcome.message.replace(str(partial), str(final))
        return outcome._replace(message=message)
    return outcome


def _die_with_parent() -> None:
    """What a killed worker has started does not go on beside the next try."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _run_here(
    calls: Sequence[_Call], workers: int, interruption: Interruption
) -> Iterator[tuple[Path, Outcome]]:
    """Segment bags with processes of this machine."""
    if workers > 1:
        threads = max(1, (os.cpu_count() or 1) // workers)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    processes = _Processes()
    with ThreadPoolExecutor(workers) as pool:
        waiting: dict[Future[Outcome], Path] = {
            pool.submit(segment_one, *call, processes): call[0] for call in calls
        }
        try:
            while waiting:
                done, _ = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
                interruption.check()
                for future in done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end()
            raise


def _run_on_cluster(
    calls: Sequence[_Call], address: str, interruption: Interruption, *, uses_gpu: bool
) -> Iterator[tuple[Path, Outcome]]:
    """Segment bags on the machines of a cluster."""
    # Here, as it loads PyTorch, which the cluster's processes do without: they only start others.
    from genesis_core.cluster import connected, run_all

    with connected(address) as ray:
        gpus = int(uses_gpu and ray.cluster_resources().get("GPU", 0) > 0)
        for call, result in run_all(ray, segment_one, calls, interruption.check, gpus=gpus):
            if isinstance(result, Exception):
                yield call[0], Outcome(1, f"{type(result).__name__}: {result}")
            else:
                yield call[0], result
