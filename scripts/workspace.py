"""Set up and build a checkout: `workspace.py setup` makes .venv, `workspace.py build` runs colcon.

`workspace.py training` is setup for the commands that train, which need more of a ROS installation.
Needs nothing but the standard library. All commands remember what they were done for and return at
once while nothing has changed. Where ROS is installed (ROS_DISTRO set) no environment is made: its
own packages are used, and build is the usual `colcon build --symlink-install`.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python3"
REQUIREMENTS = ROOT / "requirements"
NEEDED = ("training", "data", "ray", "ros", "dev")  # of its files, for all tests
SUPPORTED = ((3, 10), (3, 13))
MACHINE = "x86_64"  # that there are ROS wheels for

# Modules that a ROS installation is asked for.
_OF_NODE = ("rclpy", "cv_bridge", "numpy", "cv2", "torch", "safetensors", "rosbags")
_OF_TRAINING = ("jsonargparse", "mujoco", "scipy", "tensorboard", "tqdm", "av", "pycocotools")

# What pip says goes here; a failure shows the end of it.
SETUP_LOG = ROOT / "log" / "setup.log"
LOG_LINES_SHOWN = 15
BAR_WIDTH = 50

# Each build step writes its stamp last, so that an interrupted step runs again.
VENV_STAMP = VENV / "genesis_ros_setup"
BUILD_STAMP = ROOT / "build" / "genesis_ros_build"

# Their content decides what is built ...
BUILD_INPUTS = ("CMakeLists.txt", "package.xml", "cmake", "msg", "srv")
# ... and of these only which files exist: --symlink-install makes edits live, but not new files.
INSTALLED_DIRECTORIES = (
    "genesis_bags",
    "genesis_core",
    "genesis_ros",
    "genesis_sim",
    "launch",
    "config",
)

# The wheels' exported CMake targets name the directories of the machine they were built on.
WHEEL_PYTHON = r"/opt/python/cp3\d+-cp3\d+t?"
WHEEL_INCLUDE = re.compile(WHEEL_PYTHON + r"/include/python3\.\d+t?\b")
WHEEL_SITE_PACKAGES = re.compile(WHEEL_PYTHON + r"/lib/python3\.\d+t?/site-packages\b")
# What tells how far pip has come: its own lines, and those of constraints.txt.
COLLECTED = re.compile(r"^(?:Collecting|Requirement already satisfied:) ([\w.-]+)", re.M)
INSTALLING = re.compile(r"^Installing collected packages: (.*)$", re.M)
PINNED = re.compile(r"^[\w.-]+==", re.M)
# CMake refuses to export a target with an include directory inside the source tree, and .venv is
# inside it. The generated message libraries need these directories only while they are compiled.
GENERATOR_INCLUDES = "PUBLIC ${Python3_INCLUDE_DIRS} ${Python3_NumPy_INCLUDE_DIRS})"
GENERATOR_BUILD_INCLUDES = (
    'PUBLIC "$<BUILD_INTERFACE:${Python3_INCLUDE_DIRS};${Python3_NumPy_INCLUDE_DIRS}>")'
)


class WorkspaceError(Exception):
    """Set-up or build cannot go on; the message says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("setup", "training", "build"))
    command = parser.parse_args().command
    try:
        with Path(__file__).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # `make` started twice: the second one waits
            if command == "build":
                build()
            elif "ROS_DISTRO" in os.environ:
                check_ros_installation(_OF_TRAINING if command == "training" else ())
            else:
                set_up()
    except WorkspaceError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"{command}: exit status {error.returncode} of {error.cmd}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{command}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    return 0


def set_up() -> None:
    """Create .venv with everything that requirements/ pins, and make its ROS wheels buildable."""
    check_python()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made_for = f"{version} {VENV}"
    content = fingerprint([*REQUIREMENTS.glob("*.txt"), Path(__file__)])
    found_for, _, found_content = read(VENV_STAMP).partition("\n")
    if (found_for, found_content) == (made_for, content):
        return
    check_build_tools()
    if VENV.is_symlink() and not VENV.exists():
        VENV.unlink()
    # The scripts of an environment that was copied or moved still name the old place.
    if VENV.exists() and (venv_version() != version or found_for not in ("", made_for)):
        print(f"setup: replacing {VENV}, made for another Python or another place", flush=True)
        if VENV.is_symlink():
            VENV.unlink()  # what it leads to is somebody else's
        else:
            shutil.rmtree(VENV)
    if not VENV.exists():
        print(f"setup: creating {VENV} with Python {version}", flush=True)
        run(base_python(), "-m", "venv", str(VENV))
    print(
        f"setup: installing the pinned packages, once (log: {SETUP_LOG.relative_to(ROOT)})",
        flush=True,
    )
    started = time.monotonic()
    install_requirements()
    patch_wheels()
    VENV_STAMP.write_text(f"{made_for}\n{content}")
    print(f"setup: done in {time.monotonic() - started:.0f} s", flush=True)


def build() -> None:
    """Run colcon if the interfaces, the build files or the set of installed files changed."""
    names = sorted(
        str(path.relative_to(ROOT))
        for directory in INSTALLED_DIRECTORIES
        for path in files_below(ROOT / directory)
    )
    inputs = [path for name in BUILD_INPUTS for path in files_below(ROOT / name)]
    environment = os.environ.get("ROS_DISTRO") or fingerprint(
        [REQUIREMENTS / "ros.txt"], read(VENV_STAMP).partition("\n")[0]
    )
    content = fingerprint(inputs, *names)
    found_environment, _, found_content = read(BUILD_STAMP).partition("\n")
    if (found_environment, found_content) == (environment, content):
        return
    if found_environment != environment:
        # CMake's cache names the Python and the ROS packages it was made with.
        for directory in ("build", "install"):
            shutil.rmtree(ROOT / directory, ignore_errors=True)
    print("build: colcon build (messages and package)", flush=True)
    BUILD_STAMP.unlink(missing_ok=True)
    # The wheels carry no local_setup files, which colcon would warn about at every build.
    # make's own flags are not for the make that CMake starts.
    environ = {"COLCON_LOG_LEVEL": "error", **os.environ}
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        environ.pop(name, None)
    colcon = ["colcon", "build", "--symlink-install", "--packages-select", "genesis_ros"]
    run(str(ROOT / "scripts" / "run"), *colcon, environ=environ)
    BUILD_STAMP.write_text(f"{environment}\n{content}")


def check_ros_installation(more: Iterable[str] = ()) -> None:
    """Raise WorkspaceError if modules are missing: those of the node, or more."""
    missing = [name for name in (*_OF_NODE, *more) if importlib.util.find_spec(name) is None]
    if missing:
        files = " and -r requirements/training.txt -r requirements/data.txt" if more else ""
        raise WorkspaceError(
            f"ROS {os.environ['ROS_DISTRO']} is active, but {sys.executable} lacks "
            f"{', '.join(missing)}. Use a shell without ROS, and .venv is made; or "
            "`rosdep install --from-paths . --ignore-src` installs the ROS packages, pip torch, "
            f"safetensors and rosbags{files}."
        )


def check_python() -> None:
    if platform.machine() != MACHINE:
        raise WorkspaceError(
            f"this machine is {platform.machine()}, and the ROS wheels are for x86-64 only. Use a "
            "ROS installation: README.md, On a robot"
        )
    lowest, highest = SUPPORTED
    if not lowest <= sys.version_info[:2] <= highest:
        raise WorkspaceError(
            f"{sys.executable} is Python {sys.version.split()[0]}; the ROS wheels need "
            f"{lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}. Choose: make PYTHON=python3.12"
        )
    if importlib.util.find_spec("ensurepip") is None:
        raise WorkspaceError(
            f"{sys.executable} has no venv module; install it (Debian, Ubuntu: apt install "
            f"python3-venv)"
        )


def check_build_tools() -> None:
    compiler = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in compiler):
        raise WorkspaceError(
            f"no C++ compiler (looked for {', '.join(compiler)}); install one (Debian, Ubuntu: "
            "apt install g++)"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        raise WorkspaceError(
            f"{header} is missing, the messages cannot be compiled; install Python's development "
            "files (Debian, Ubuntu: apt install python3-dev)"
        )


def venv_version() -> str:
    """Python version ("3.11") of .venv; empty if it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        result = subprocess.run([VENV_PYTHON, "-c", code], capture_output=True, text=True)
    except OSError:
        return ""
    return result.stdout.strip()


def base_python() -> str:
    """The interpreter outside any virtual environment, so that .venv can be replaced."""
    return getattr(sys, "_base_executable", sys.executable)


def install_requirements() -> None:
    # Build requirements of the one package without a wheel are pinned too; pip reads them from
    # the first variable before release 25.3 and from the second one after it.
    constraints = str(REQUIREMENTS / "constraints.txt")
    environ = {**os.environ, "PIP_CONSTRAINT": constraints, "PIP_BUILD_CONSTRAINT": constraints}
    files = [str(REQUIREMENTS / f"{name}.txt") for name in NEEDED]
    options = [option for name in files for option in ("-r", name)]
    pip = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "install"]
    pip += ["--no-compile"]  # most modules of PyTorch are never imported; the others compile then
    pip += ["--progress-bar", "off", "--no-color"]
    run_pip([*pip, *options], environ, SETUP_LOG)


def pip_progress(log: str) -> float:
    """How far pip has come, 0 to 1: half for what it has collected, half for what is installed."""
    if "\nSuccessfully installed " in log:
        return 1.0
    if names := INSTALLING.search(log):
        total = names[1].count(",") + 1
        installed = len(list(VENV.glob("lib/python3*/site-packages/*.dist-info")))
        return 0.5 + 0.5 * min(1.0, installed / total)
    pinned = len(PINNED.findall(read(REQUIREMENTS / "constraints.txt")))
    collected = len(set(COLLECTED.findall(log)))
    return 0.5 * min(1.0, collected / pinned)


def patch_wheels() -> None:
    """Make CMake find this machine's headers in the ROS wheels; harmless when done again."""
    code = "from sysconfig import get_path; print(get_path('include')); print(get_path('purelib'))"
    output = subprocess.run([VENV_PYTHON, "-c", code], check=True, capture_output=True, text=True)
    include, site_packages = output.stdout.splitlines()
    for path in (VENV / "share").rglob("*.cmake"):
        text = path.read_text()
        patched = WHEEL_INCLUDE.sub(lambda _: include, text)
        patched = WHEEL_SITE_PACKAGES.sub(lambda _: site_packages, patched)
        patched = patched.replace(GENERATOR_INCLUDES, GENERATOR_BUILD_INCLUDES)
        if patched != text:
            path.write_text(patched)


def files_below(path: Path) -> list[Path]:
    """The file itself or all files of a directory, caches left out; empty if there is none."""
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]


def fingerprint(files: Iterable[Path], *values: str) -> str:
    """Hash of the files' names and contents and of the values."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0".encode() + path.read_bytes() + b"\0")
    for value in values:
        digest.update(f"{value}\0".encode())
    return digest.hexdigest()


def read(path: Path) -> str:
    """Content of a text file, empty if there is none."""
    return path.read_text() if path.exists() else ""


def run_pip(command: list[str], environ: dict[str, str], log: Path) -> None:
    """Run pip with its output in a file and a bar on the screen.

    Raises:
        WorkspaceError: pip failed; the message has the end of the log.
    """
    log.parent.mkdir(exist_ok=True)
    # The bar only grows, so that it reads as well in the log of a build server.
    print("  0%" + "100%".rjust(BAR_WIDTH - 2) + "\n  ", end="", flush=True)
    shown = 0
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        while (ended := process.poll()) is None or (ended == 0 and shown < BAR_WIDTH):
            share = 1.0 if ended == 0 else pip_progress(read(log))
            more = max(0, int(BAR_WIDTH * share) - shown)
            print("#" * more, end="", flush=True)
            shown += more
            if ended is None:
                time.sleep(0.2)
    finally:
        print(flush=True)
        if process.poll() is None:
            process.terminate()
            process.wait()
    if ended:
        lines = read(log).rstrip().splitlines()[-LOG_LINES_SHOWN:]
        end = "\n".join(f"  | {line}" for line in lines)
        raise WorkspaceError(f"pip ended with status {ended}. The end of {log}:\n{end}")


def run(*command: str, environ: dict[str, str] | None = None) -> None:
    subprocess.run(command, cwd=ROOT, env=environ, check=True)


if __name__ == "__main__":
    sys.exit(main())
