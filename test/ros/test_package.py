"""The installed package: what colcon (plain and --symlink-install) and pip make of this checkout.

Everything runs in fresh processes outside the checkout, so that only what was installed is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PYTHON_PACKAGES = ("genesis_core", "genesis_ros")
EXECUTABLES = ("perception_node", "camera_node", "demo", "segment_bag")

IMPORT_ALL = """
import genesis_core, genesis_ros
from genesis_core import GenesisV2, GenesisV2Config, default_checkpoint
from genesis_ros.masks import *
from genesis_ros.msg import ObjectMask, ObjectMasks
from rclpy.serialization import deserialize_message, serialize_message

sent = ObjectMasks(camera="/camera", objects=[ObjectMask(label=3, latent_mean=[0.5])])
received = deserialize_message(serialize_message(sent), ObjectMasks)
assert received == sent, received
print(genesis_core.__file__, genesis_ros.__file__, default_checkpoint(), sep="\\n")
"""


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what makes the checkout's own build visible."""
    hidden = ("PYTHONPATH", "COLCON_PREFIX_PATH", "AMENT_PREFIX_PATH", "MAKEFLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    overlay = str(ROOT / "install")
    for name in hidden[:3]:
        paths = [
            path
            for path in os.environ.get(name, "").split(os.pathsep)
            if path and not path.startswith(overlay) and path != str(ROOT)
        ]
        if paths:
            kept[name] = os.pathsep.join(paths)
    return kept | variables


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Output of a command; a wrong exit status shows it."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment() if env is None else env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=280,
    )
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}"
    return result.stdout


def in_workspace(install: Path, script: str, cwd: Path) -> str:
    """Run a shell script in a shell that sourced the workspace, as a user would."""
    return run("bash", "-c", f'. "{install}/local_setup.bash" && {script}', cwd=cwd)


def files_of(package: Path) -> set[str]:
    """Files of a Python package, relative to it; without caches and the generated interfaces."""
    return {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not {"msg", "srv"} & set(path.relative_to(package).parts)
        and "_s__rosidl_" not in path.name
        and "_s.ep." not in path.name
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install folder of a plain `colcon build`."""
    workspace = tmp_path_factory.mktemp("workspace")
    run(
        *("colcon", "--log-base", workspace / "log", "build"),
        *("--base-paths", ROOT, "--packages-select", "genesis_ros"),
        *("--build-base", workspace / "build", "--install-base", workspace / "install"),
        cwd=workspace,
    )
    return workspace / "install"


@pytest.fixture(params=["plain", "symlink"])
def install(request: pytest.FixtureRequest) -> Path:
    """Install folder of a plain build, and that of `make build` (--symlink-install).

    `make build` renews the second one when files come or go; `make test` does that first.
    """
    if request.param == "plain":
        return Path(request.getfixturevalue("plain"))
    return ROOT / "install"


def site_packages(install: Path) -> Path:
    (found,) = install.glob("genesis_ros/l*/python3*/*-packages")
    return found


def test_build_gives_code_and_messages_side_by_side(install: Path, tmp_path: Path) -> None:
    code = tmp_path / "use.py"
    code.write_text(IMPORT_ALL)
    lines = in_workspace(install, f"python3 {code}", tmp_path).splitlines()
    for line in lines[-3:]:
        assert line.startswith(str(site_packages(install))), line


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_build_installs_every_file(install: Path, package: str) -> None:
    assert files_of(site_packages(install) / package) == files_of(ROOT / package)


def test_build_installs_configuration_launch_file_and_messages(install: Path) -> None:
    share = install / "genesis_ros" / "share" / "genesis_ros"
    for name in (
        "config/perception.yaml",
        "config/perception.rviz",
        "config/fastdds.xml",
        "config/sros2_policy.xml",
        "launch/managed.launch.py",
        "launch/perception.launch.py",
        "package.xml",
    ):
        assert (share / name).read_bytes() == (ROOT / name).read_bytes()
    for kind in ("msg", "srv"):
        interfaces = sorted(path.name for path in (share / kind).glob(f"*.{kind}"))
        assert interfaces == sorted(path.name for path in (ROOT / kind).glob(f"*.{kind}"))


def test_plain_build_does_not_need_the_checkout(plain: Path) -> None:
    links = [path for path in plain.rglob("*") if path.is_symlink()]
    assert [path for path in links if path.resolve().is_relative_to(ROOT)] == []


def test_build_installs_executables(install: Path) -> None:
    folder = install / "genesis_ros" / "lib" / "genesis_ros"
    assert sorted(path.name for path in folder.iterdir()) == sorted(EXECUTABLES)
    for path in folder.iterdir():
        assert os.access(path, os.X_OK), path
        assert f"import {path.name}\n" in path.read_text()


def test_executables_run(plain: Path, tmp_path: Path) -> None:
    folder = plain / "genesis_ros" / "lib" / "genesis_ros"
    assert "--frames" in in_workspace(plain, f"{folder}/demo --help", tmp_path)
    assert "--topic" in in_workspace(plain, f"{folder}/segment_bag --help", tmp_path)
    # rclpy refuses an argument that is no remapping: the executable got as far as the node's start.
    for name in ("perception_node", "camera_node"):
        script = f"{folder}/{name} --ros-args -r 'no remapping' 2>&1"
        assert "no remapping" in in_workspace(plain, f"! {script}", tmp_path)


def test_pip_install_gives_importable_packages(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "package.xml", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PYTHON_PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    shutil.copytree(ROOT / "config", source / "config")
    target = tmp_path / "target"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps")
    run(*pip, "--no-build-isolation", "--target", target, source, cwd=tmp_path)
    for package in PYTHON_PACKAGES:
        assert files_of(target / package) == files_of(ROOT / package)

    code = tmp_path / "use.py"
    code.write_text(
        "import importlib.metadata as metadata\n"
        "import genesis_core, genesis_ros\n"
        "package = metadata.distribution('genesis_ros')\n"
        "assert package.metadata['License'] == 'Apache-2.0'\n"
        "assert package.version == genesis_core.__version__\n"
        "print(genesis_core.__file__, genesis_ros.__file__, sep='\\n')\n"
        "print(*sorted(entry.name for entry in package.entry_points if callable(entry.load())))\n"
    )
    # The messages come from a colcon build: here from that of this checkout, behind the packages.
    messages = os.environ.get("PYTHONPATH", "")
    env = environment(PYTHONPATH=f"{target}{os.pathsep}{messages}")
    *files, entries = run(sys.executable, code, cwd=tmp_path, env=env).splitlines()[-3:]
    assert all(file.startswith(str(target)) for file in files), files
    assert entries == "genesis_camera genesis_demo genesis_perception genesis_segment_bag"


def test_messages_can_be_built_alone(tmp_path: Path) -> None:
    """Of the interface files only: no Python of ours, no executable."""
    source = tmp_path / "source"
    for name in ("msg", "srv"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("CMakeLists.txt", "package.xml"):
        shutil.copy(ROOT / name, source)
    run(
        *("colcon", "--log-base", tmp_path / "log", "build", "--base-paths", source),
        *("--build-base", tmp_path / "build", "--install-base", tmp_path / "install"),
        *("--cmake-args", "-DGENESIS_ROS_MESSAGES_ONLY=ON"),
        cwd=tmp_path,
    )
    package = tmp_path / "install" / "genesis_ros"
    assert (package / "include/genesis_ros/genesis_ros/msg/object_masks.hpp").is_file()
    assert not (package / "lib" / "genesis_ros").exists()
    assert not list(package.rglob("perception_node*"))
    code = "from genesis_ros.msg import ObjectMasks; print(ObjectMasks().objects)"
    assert "[]" in in_workspace(tmp_path / "install", f"python3 -c '{code}'", tmp_path)


def test_colcon_test_finds_the_suites(plain: Path) -> None:
    build = plain.parent / "build" / "genesis_ros"
    listed = run("ctest", "-N", cwd=build)
    suites = {line.split()[-1] for line in listed.splitlines() if "Test #" in line}
    assert suites == {"core", "perception", "ros", "sim"}
    for suite in suites:
        assert (ROOT / "test" / suite).is_dir()
