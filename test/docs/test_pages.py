"""What people read holds together: links, the tree, versions, what releases are made of."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from catkin_pkg.changelog import get_changelog_from_path
from catkin_pkg.package import parse_package

import genesis_core

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    found, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        found.add(page)
        for name in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text()):
            linked = (page.parent / name).resolve()
            if linked not in found and linked.exists():
                waiting.append(linked)
    assert set(PAGES) <= found


def test_architecture_page_shows_the_tree() -> None:
    """Every folder and file of its tree exists, and every folder with code stands in it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    (tree,) = re.findall(r"^```\n(.*?)^```", page, re.S | re.M)
    listed: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        entries = re.match(r"( *)((?:[\w.]+(?:/|\.py)(?:  )?)+)", line)
        if not entries:
            continue  # goes on with the description of the line above
        for name in entries[2].split():
            if not entries[1]:
                folder = name
            listed.add(name if not entries[1] else folder + name)
    assert [name for name in sorted(listed) if not (ROOT / name).exists()] == []
    files = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    packages = {"genesis_bags", "genesis_core", "genesis_ros", "genesis_sim", "training"}
    folders = {
        "/".join(parts[:2]) + "/"
        for parts in (Path(file).parts for file in files)
        if parts[0] in packages and len(parts) > 2
    }
    assert folders - listed == set()


def test_changelog_is_read_by_the_release_tools_and_names_the_version() -> None:
    changelog = get_changelog_from_path(str(ROOT / "CHANGELOG.rst"), "genesis_ros")
    *_, (newest, date, entries) = changelog.foreach_version()  # oldest first
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert newest == manifest.findtext("version") == genesis_core.__version__
    assert date is not None and entries


def test_quality_declaration_answers_the_rep() -> None:
    """REP-2004: the README claims a level and links to what justifies it, point by point."""
    declaration = (ROOT / "QUALITY_DECLARATION.md").read_text()
    readme = (ROOT / "README.md").read_text()
    assert "**Quality Level 4**" in declaration
    (section,) = re.findall(r"^## Quality\n(.*?)^## ", readme, re.S | re.M)
    assert "Quality Level 4" in section and "](QUALITY_DECLARATION.md)" in section
    points = re.findall(r"^## \d\. (.*)", declaration, re.M)
    assert points == [
        "Version policy",
        "Change control",
        "Documentation",
        "Testing",
        "Dependencies",
        "Platform support",
        "Security",
    ]
    # What it says about the version, and about what is optional, is so.
    assert int(genesis_core.__version__.split(".")[0]) == 0 and "below 1.0.0" in declaration
    package = parse_package(str(ROOT))
    package.evaluate_conditions({"GENESIS_ROS_WITHOUT_OPTIONAL": "1"})
    optional = {item.name for item in package.exec_depends if not item.evaluated_condition}
    assert optional == {"tf2_ros_py", "vision_msgs"}
    assert "vision_msgs and tf2_ros are optional" in declaration
    package.evaluate_conditions({})
    assert all(item.evaluated_condition for item in package.exec_depends)
    assert "QUALITY_DECLARATION.md" in (ROOT / "package.xml").read_text()


def test_launch_file_and_models_page_name_the_shipped_checkpoints() -> None:
    shipped = [path.stem for path in (ROOT / "genesis_core" / "checkpoints").glob("*.safetensors")]
    assert len(shipped) > 1
    for file in ("launch/perception.launch.py", "docs/models.md"):
        words = set(re.findall(r"\w+", (ROOT / file).read_text()))
        assert words >= set(shipped), f"{file} names not all of {shipped}"


def test_manifest_is_valid() -> None:
    package = parse_package(str(ROOT))
    assert package.name == "genesis_ros"
    assert [item.file for item in package.licenses] == ["LICENSE"]


def test_public_checks_run_what_the_local_ones_do() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["test"]["steps"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff", "ruff-format", "mypy"}
    for hook in hooks:
        assert (ROOT / hook["entry"].split()[0]).is_file()
