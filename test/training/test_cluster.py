"""Preparation on a real Ray cluster of two nodes, which a fixture starts and ends."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import pytest

from genesis_core.cluster import connected, run_all
from genesis_sim import RenderingError, TabletopRenderer
from training.datasets.cluster import _Store
from training.prepare import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


class RayCluster(Protocol):
    """See test/conftest.py."""

    address: str

    def kill_second_node(self) -> None: ...


def arrays(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*.npy")}


SPRITES = ["sprites", "--image-size", "32", "--train", "2600", "--val", "30", "--test", "30"]


def test_the_same_data_as_on_one_machine(
    ray_cluster: RayCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*SPRITES, "--output", str(tmp_path / "here"), "--workers", "1"])
    capsys.readouterr()
    main([*SPRITES, "--output", str(tmp_path / "there"), "--ray", ray_cluster.address])
    printed = capsys.readouterr()
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")
    assert "2600 train, 30 val, 30 test images" in printed.out
    assert re.search(r"sprites: 100%.*2660/2660", printed.err)


def test_generated_scenes(ray_cluster: RayCluster, tmp_path: Path) -> None:
    try:
        TabletopRenderer(32, 32, "mixed").close()
    except RenderingError as error:
        pytest.skip(str(error))
    scenes = ["tabletop", "--image-size", "32", "--train", "4", "--val", "2", "--test", "2"]
    main([*scenes, "--output", str(tmp_path / "here"), "--workers", "1"])
    main([*scenes, "--output", str(tmp_path / "there"), "--ray", ray_cluster.address])
    assert arrays(tmp_path / "here") == arrays(tmp_path / "there")


def test_a_source_that_is_named_from_where_one_is(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for number in range(4):
        cv2.imwrite(f"photos/{number}.png", np.full((40, 40, 3), 50 * number, np.uint8))
    given = ["folder", "--source", "photos", "--output", "out", "--image-size", "8"]
    main([*given, "--val", "0", "--test", "0", "--ray", ray_cluster.address])
    images = np.load("out/train/images.npy")
    assert images[:, 0, 0, 0].tolist() == [0, 50, 100, 150]


def test_what_is_wrong_is_said(ray_cluster: RayCluster, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.jpg").write_bytes(b"no image")
    given = ["folder", "--source", str(source), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=r"\d\.jpg: the image cannot be decoded.*--on-error skip"):
        main([*given, "--ray", ray_cluster.address])
    with pytest.raises(SystemExit, match=r"no Ray cluster at 127\.0\.0\.1:1: "):
        main([*given, "--ray", "127.0.0.1:1"])


@pytest.mark.parametrize("reason", ["ActorDiedError", "No space left on device"])
def test_a_store_that_fails(
    ray_cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    class Failing(_Store):
        def save(self, name: str, content: bytes) -> None:
            if reason == "ActorDiedError":
                os._exit(1)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "1.png"), np.zeros((40, 40, 3), np.uint8))
    given = ["folder", "--source", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr("training.datasets.cluster._Store", Failing)
        main([*given, "--ray", ray_cluster.address])
    (message,) = str(caught.value.code).splitlines()
    assert reason in message and message.endswith("; the same command again resumes")
    main([*given, "--ray", ray_cluster.address])
    assert len(np.load(tmp_path / "out" / "train" / "images.npy")) == 1


def test_a_task_that_is_run_again_does_not_count_twice(tmp_path: Path) -> None:
    store = _Store(tmp_path)
    store.advance("a", 60)
    store.advance("b", 5)
    assert store.news() == (65, [])
    store.advance("a", 30)  # on another machine, from its start
    assert store.news() == (0, [])
    store.advance("a", 100)
    store.advance("a", 90)  # overtaken
    assert store.news() == (40, [])


def test_calls_that_are_left_end_with_the_connection(
    ray_cluster: RayCluster, tmp_path: Path
) -> None:
    """Who interrupts the work has no machine that goes on with it."""

    def stay(folder: Path) -> None:
        (folder / str(os.getpid())).touch()
        time.sleep(300)

    def interrupt() -> None:
        if len(list(tmp_path.iterdir())) == 2:  # a core of each of the two nodes
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), connected(ray_cluster.address) as ray:
        list(run_all(ray, stay, 4 * [(tmp_path,)], interrupt))
    processes = [Path("/proc", path.name) for path in tmp_path.iterdir()]
    assert len(processes) == 2
    deadline = time.monotonic() + 30
    while any(process.exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_lost_machine_costs_no_image(ray_cluster: RayCluster, tmp_path: Path) -> None:
    """The last test: one of the two nodes is killed while both work."""
    sprites = ["sprites", "--image-size", "64", "--train", "6000", "--val", "30", "--test", "30"]
    output = tmp_path / "there"
    command = [sys.executable, "-m", "training.prepare", *sprites]
    command += ["--output", str(output), "--ray", ray_cluster.address]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(list(output.glob("parts/*.npz"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    ray_cluster.kill_second_node()
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    main([*sprites, "--output", str(tmp_path / "here"), "--workers", "1"])
    assert arrays(tmp_path / "here") == arrays(output)
