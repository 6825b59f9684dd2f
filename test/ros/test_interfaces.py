"""The interface files as tools read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from genesis_ros.msg import ObjectMask

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")])


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_comments_confuse_no_tool(file: Path) -> None:
    """`ros2 interface show` takes a comment with brackets for a field of an array type."""
    for line in file.read_text().splitlines():
        _, _, comment = line.partition("#")
        assert not set("[]") & set(comment), line


def test_kinds_are_numbered_as_recorded_bags_have_them() -> None:
    kinds = ("UNKNOWN", "OBJECT", "ROBOT", "SURROUNDINGS")
    assert [getattr(ObjectMask, f"KIND_{kind}") for kind in kinds] == [0, 1, 2, 3]
    assert ObjectMask().kind == ObjectMask.KIND_UNKNOWN
