"""Off-screen OpenGL for MuJoCo: picks a headless backend, says what is missing if none works."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

_MESA = Path("/usr/share/glvnd/egl_vendor.d/50_mesa.json")
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
    """Variables with which a process renders with Mesa, where that is installed and nothing is set.

    Many processes that share a GPU wait for each other; on the processor's cores they do not.
    """
    chosen = os.environ.keys() & {"MUJOCO_GL", "__EGL_VENDOR_LIBRARY_FILENAMES"}
    if chosen or not _MESA.exists():
        return {}
    return {"__EGL_VENDOR_LIBRARY_FILENAMES": str(_MESA)}


def create_context(width: int, height: int) -> Any:
    """Create and make current an off-screen OpenGL context.

    Raises:
        RenderingError: the backend finds no device, or its libraries are missing.
    """
    mujoco = import_mujoco()
    try:
        context = mujoco.GLContext(width, height)
        context.make_current()
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
