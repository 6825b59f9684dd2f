"""segment_bag with a folder of bags: here, on a Ray cluster, interrupted, killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from genesis_ros.bags.archive import segment_archive
from genesis_ros.bags.writer import LiveBagWriter
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.processes.interruption import Interrupted, Interruption

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000_000_000_000  # ns


class RayCluster(Protocol):
    """See test/conftest.py."""

    address: str


def record(path: Path, count: int = 3, size: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with LiveBagWriter(path, "mcap") as bag:
        for number in range(count):
            image = np.full((size, size, 3), 40, np.uint8)
            image[4 + number % 16 : 20 + number % 16, 8:30] = (250, 10, 30)
            stamp = Time(sec=1_700_000_000 + number)
            message = to_message(image, Header(stamp=stamp, frame_id="eye"))
            bag.write("/eye/image_raw", message, START + number * 10**9)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "genesis_ros.segment_bag", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def segment(*arguments: object, status: int = 0) -> str:
    """Run to the end; what it said."""
    done = subprocess.run(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, text=True, capture_output=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stderr


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), cwd=ROOT, env=ENVIRONMENT, text=True, stderr=subprocess.PIPE
    )


TYPES = {"Image": Image, "ObjectMasks": ObjectMasks}


def messages(bag: Path) -> list[tuple[str, int, Any]]:
    """The messages of a bag, by topic."""
    with Reader(bag) as reader:
        found = [
            # As messages: their bytes have gaps with anything in them.
            (c.topic, at, deserialize_message(bytes(data), TYPES[c.msgtype.rpartition("/")[2]]))
            for c, at, data in reader.messages()
        ]
    return sorted(found, key=lambda item: item[:2])


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for path in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if path.name.isdecimal() and int((path / "stat").read_text().split()[3]) == pid:
                found.append(int(path.name))
    return found


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three bags in two folders, one of them a single file, and what is none."""
    record(tmp_path / "in" / "monday" / "run_1")
    record(tmp_path / "in" / "monday" / "run_2", count=2)
    single = record(tmp_path / "single")
    (tmp_path / "in" / "tuesday").mkdir()
    (single / "single.mcap").rename(tmp_path / "in" / "tuesday" / "run_1.mcap")
    record(tmp_path / "in" / "tuesday" / "other", count=1)
    (tmp_path / "in" / "README.md").write_text("Runs.")
    return tmp_path / "in"


NAMES = ("monday/run_1", "monday/run_2", "tuesday/run_1", "tuesday/other")


def test_each_bag_as_alone_and_only_once(
    archive: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    options = ("--checkpoint", tiny_checkpoint, "--no-overlay", "--device", "cpu")
    out = tmp_path / "out"
    told = segment(archive, out, *options, "--workers", "2")
    assert "4 bags, 0 of them segmented already" in told
    assert f"{out}: 4 of 4 bags are segmented" in told
    assert "monday/run_2: " in told and "segmented 2 images" in told
    assert sorted(path.name for path in out.iterdir()) == ["monday", "tuesday"]
    segment(archive / "monday" / "run_1", tmp_path / "alone", *options)
    assert messages(out / "monday" / "run_1") == messages(tmp_path / "alone")
    topics = {topic for topic, _, _ in messages(out / "tuesday" / "run_1")}
    assert topics == {"/genesis/object_masks", "/genesis/label_image"}
    before = {name: (out / name).stat().st_mtime_ns for name in NAMES}
    assert "4 of them segmented already" in segment(archive, out, *options)
    assert before == {name: (out / name).stat().st_mtime_ns for name in NAMES}


def test_links_are_bags_of_their_own(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """In a folder that is a link itself."""
    source, out = tmp_path / "in", tmp_path / "out"
    single = record(tmp_path / "disk" / "single", count=1) / "single.mcap"
    folder = record(tmp_path / "disk" / "run", count=2)
    (tmp_path / "real").mkdir()
    source.symlink_to("real")
    (source / "a.mcap").symlink_to(single)
    (source / "b.mcap").symlink_to(single)
    (source / "c").symlink_to(folder)
    options = ("--checkpoint", tiny_checkpoint, "--no-overlay", "--device", "cpu")
    assert "3 of 3 bags are segmented" in segment(source, out, *options)
    assert [len(messages(out / name)) for name in ("a", "b", "c")] == [2, 2, 4]
    assert "3 of them segmented already" in segment(source, out, *options)


def test_a_file_in_the_way_costs_its_bags_only(
    archive: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "monday").write_text("mine")
    told = segment(archive, out, "--checkpoint", tiny_checkpoint, status=1)
    assert told.count(f"{out / 'monday'}") >= 2 and "Traceback" not in told
    assert "2 of 4 bags are segmented" in told and (out / "monday").read_text() == "mine"


def test_a_bag_and_a_folder_of_the_same_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    record(source / "run" / "a", count=1)
    (record(tmp_path / "b", count=1) / "b.mcap").rename(source / "run" / "b.mcap")
    (record(tmp_path / "single", count=2) / "single.mcap").rename(source / "run.mcap")
    options = ("--checkpoint", tiny_checkpoint, "--no-overlay", "--device", "cpu")
    assert "3 of 3 bags are segmented" in segment(source, out, *options)
    found = {str(path.parent.relative_to(out)) for path in out.rglob("metadata.yaml")}
    assert found == {"run/a", "run/b", "run.mcap"}
    assert len(messages(out / "run.mcap")) == 2 * 2
    assert "3 of them segmented already" in segment(source, out, *options)


def test_a_folder_in_the_way_of_a_bag_stays(tmp_path: Path, tiny_checkpoint: Path) -> None:
    record(tmp_path / "in" / "a", count=1)
    record(tmp_path / "in" / "b", count=1)
    notes = tmp_path / "out" / "a" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    options = ("--checkpoint", tiny_checkpoint, "--overwrite")
    told = segment(tmp_path / "in", tmp_path / "out", *options, status=1)
    assert f"{notes.parent} is in the way: it is no bag" in told
    assert "1 of 2 bags are segmented" in told and notes.read_text() == "mine"


def test_a_run_after_one_that_was_interrupted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """In one process, where the second must still start again what is killed."""
    source, out = tmp_path / "in", tmp_path / "out"
    bags = [record(source / "a", count=40), record(source / "b", count=1)]
    options = ("--checkpoint", str(tiny_checkpoint))

    class Stop(Interruption):
        def check(self) -> None:
            if children(os.getpid()):
                raise Interrupted

    class KillOnce(Interruption):
        killed = 0

        def check(self) -> None:
            for pid in children(os.getpid())[: 1 - self.killed]:
                os.kill(pid, signal.SIGKILL)
                self.killed += 1

    def run(interruption: Interruption) -> int:
        return segment_archive(
            source, out, bags, options, interruption, print,
            workers=1, ray=None, overwrite=False, uses_gpu=False,
        )  # fmt: skip

    run(Stop())
    assert not (out / "a").exists() and not (out / "b").exists()
    killing = KillOnce()
    assert run(killing) == 0 and killing.killed == 1
    assert len(messages(out / "a")) == 40 * 3


def test_a_bag_that_cannot_be_read_costs_only_itself(
    archive: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    broken = archive / "monday" / "run_2"
    (file,) = broken.glob("*.mcap")
    content = file.read_bytes()
    file.write_bytes(b"nothing")
    out = tmp_path / "out"
    told = segment(archive, out, "--checkpoint", tiny_checkpoint, status=1)
    assert "monday/run_2: failed (exit status 1): segment_bag failed:" in told
    assert "3 of 4 bags are segmented" in told and not (out / "monday" / "run_2").exists()
    # Mended, it is all that is left to do.
    file.write_bytes(content)
    told = segment(archive, out, "--checkpoint", tiny_checkpoint)
    assert "4 bags, 3 of them segmented already" in told
    assert len(messages(out / "monday" / "run_2")) == 3 * 2


def test_a_process_that_is_killed_is_started_again(tmp_path: Path, tiny_checkpoint: Path) -> None:
    record(tmp_path / "in" / "a", count=40)
    record(tmp_path / "in" / "b", count=1)
    out = tmp_path / "out"
    with start(tmp_path / "in", out, "--checkpoint", tiny_checkpoint) as process:
        wait_for(lambda: children(process.pid), process)
        (first,) = children(process.pid)
        os.kill(first, signal.SIGKILL)
        _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    assert "2 of 2 bags are segmented" in told
    assert len(messages(out / "a")) == 40 * 3


def test_an_interruption_leaves_no_half_bag(tmp_path: Path, tiny_checkpoint: Path) -> None:
    record(tmp_path / "in" / "a", count=1)
    record(tmp_path / "in" / "b", count=600)
    out = tmp_path / "out"
    with start(tmp_path / "in", out, "--checkpoint", tiny_checkpoint) as process:
        wait_for((out / ".partial" / "b").exists, process)
        running = children(process.pid)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=100)
    assert process.returncode == 128 + signal.SIGTERM
    assert "goes on with the bags that are missing" in told
    assert running and not any(Path(f"/proc/{pid}").exists() for pid in running)
    assert (out / "a").exists() and not (out / "b").exists()


def test_folders_that_cannot_be_used(archive: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    told = segment(archive, archive / "out", "--checkpoint", tiny_checkpoint, status=1)
    assert "one lies in the other; choose another OUT" in told
    given = ("--checkpoint", tiny_checkpoint, "--ray", "127.0.0.1:1")
    told = segment(archive, tmp_path / "out", *given, status=1)
    assert "segment_bag failed: no Ray cluster at 127.0.0.1:1" in told


def test_on_a_cluster(tmp_path: Path, tiny_checkpoint: Path, ray_cluster: RayCluster) -> None:
    for name in ("a", "b"):
        record(tmp_path / "in" / name)
    options = ("--checkpoint", tiny_checkpoint, "--device", "cpu")
    out = tmp_path / "out"
    told = segment(tmp_path / "in", out, *options, "--ray", ray_cluster.address)
    assert "2 of 2 bags are segmented" in told
    segment(tmp_path / "in" / "a", tmp_path / "alone", *options)
    assert messages(out / "a") == messages(tmp_path / "alone")
    assert len(messages(out / "b")) == 3 * 3
