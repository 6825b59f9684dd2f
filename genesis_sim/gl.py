"""Off-screen OpenGL for MuJoCo: picks a headless backend, says what is missing if none works."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_MESA = Path("/usr/share/glvnd/egl_vendor.d/50_mesa.json")
_TRY = """
import os
from genesis_sim.gl import RenderingError, create_context
try:
    create_context(64, 64)
except RenderingError as error:
    print(error, flush=True)
    os._exit(1)  # before a context that is half made complains
"""
_INSTALL_GL = (
    "Install a software OpenGL (Debian/Ubuntu: apt install libegl1 libgl1-mesa-dri), or set "
    "MUJOCO_GL=osmesa with libosmesa6 installed."
)


class RenderingError(RuntimeError):
    """MuJoCo or an off-screen OpenGL context is not available; the message says what to install."""


def import_mujoco() -> Any:
    """Import MuJoCo with a backend that works without a display.

    MuJoCo reads MUJOCO_GL when it is imported first, so it is set to egl here unless the user chose
    a backend. macOS and Windows have one backend only and need no choice.

    Raises:
        RenderingError: MuJoCo or the backend's libraries cannot be imported.
    """
    if sys.platform.startswith("linux"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    _import_triton()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name != "mujoco":
            raise
        raise RenderingError(
            "The tabletop scenes need MuJoCo, which is missing: pip install 'mujoco>=3.3,<3.4'"
        ) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        # PyOpenGL reports a missing libEGL as an AttributeError on None, hence the wide net.
        raise RenderingError(_describe_failure(error)) from error
    return mujoco


def software_rendering() -> dict[str, str]:
    """Variables with which a process renders with Mesa, where that works and nothing is chosen.

    Many processes that share a GPU wait for each other; on the processor's cores they do not.
    """
    names = {"MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "__EGL_VENDOR_LIBRARY_FILENAMES"}
    if os.environ.keys() & names or not _MESA.exists():
        return {}
    variables = {"__EGL_VENDOR_LIBRARY_FILENAMES": str(_MESA)}
    return variables if rendering_fault(variables) is None else {}


def rendering_fault(variables: Mapping[str, str]) -> str | None:
    """Why a process with these variables cannot render; None if it can.

    Tried in a process of its own, as a renderer's libraries stay loaded.
    """
    command = [sys.executable, "-c", _TRY]
    environment = {**os.environ, **variables}
    try:
        tried = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return "the renderer does not answer"
    if tried.returncode == 0:
        return None
    return tried.stdout.strip() or f"the renderer ended with status {tried.returncode}"


def create_context(width: int, height: int) -> Any:
    """Create and make current an off-screen OpenGL context.

    Raises:
        RenderingError: the backend finds no device, its libraries are missing, or it cannot draw.
    """
    mujoco = import_mujoco()
    try:
        context = mujoco.GLContext(width, height)
        context.make_current()
        # A backend of windows makes contexts without a display, too, in which nothing can be drawn.
        empty = mujoco.MjModel.from_xml_string("<mujoco/>")
        mujoco.MjrContext(empty, mujoco.mjtFontScale.mjFONTSCALE_50).free()
    except Exception as error:  # each backend raises its own types, none of them public
        raise RenderingError(_describe_failure(error)) from error
    return context


def _import_triton() -> None:
    """Import Triton, where there is one, before a software OpenGL is loaded.

    Both bring an LLVM. Triton first, they get along; PyTorch imports it for the first model that is
    trained, and after Mesa's that ends the process with a segmentation fault.
    """
    with suppress(Exception):  # a Triton that cannot be imported is no matter of the renderer's
        importlib.import_module("triton")


def _describe_failure(error: Exception) -> str:
    backend = os.environ.get("MUJOCO_GL", "the default")
    return f"No off-screen OpenGL with MUJOCO_GL={backend} ({error}). {_INSTALL_GL}"
