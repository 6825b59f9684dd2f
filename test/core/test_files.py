"""Files that are written as a whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from genesis_core.files import atomic_file, atomic_path, write_atomically


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("old")
    with atomic_path(path) as partial:
        assert partial.parent == tmp_path and partial.suffix == ".png"
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_goes_wrong_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        pass


def test_what_a_killed_process_left_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_path(path) as partial:
        partial.write_text("first")
    partial.write_text("half of the second")  # as a process leaves it that is killed
    write_atomically(path, "third")
    assert path.read_text() == "third"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "library"
    contents = {str(number) * 100_000 for number in range(8)}
    threads = [
        threading.Thread(target=write_atomically, args=(path, content), kwargs={"contended": True})
        for content in contents
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_text_and_bytes(tmp_path: Path) -> None:
    write_atomically(tmp_path / "text", "ä")
    write_atomically(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == "ä".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
