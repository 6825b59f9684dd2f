"""Which off-screen OpenGL processes render with, and what is said of one that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from genesis_sim import gl

NAMES = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "__EGL_VENDOR_LIBRARY_FILENAMES")


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_the_reason_is_said_why_nothing_can_be_rendered(tmp_path: Path) -> None:
    if (missing := gl.rendering_fault({})) is not None:
        pytest.skip(missing)
    fault = gl.rendering_fault({"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json")})
    assert fault is not None
    assert fault.startswith("No off-screen OpenGL with MUJOCO_GL=egl")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_the_user_chose_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0")
    assert gl.software_rendering() == {}


@pytest.mark.slow
def test_mesa_is_taken_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if gl._MESA.exists():
        found = gl.software_rendering()
        assert found in ({}, {"__EGL_VENDOR_LIBRARY_FILENAMES": str(gl._MESA)})
        assert gl.rendering_fault(found) is None
    broken = tmp_path / "50_mesa.json"
    monkeypatch.setattr(gl, "_MESA", broken)
    assert gl.software_rendering() == {}  # it is not there
    broken.write_text('{"file_format_version": "1.0.0", "ICD": {"library_path": "no.so"}}')
    assert gl.software_rendering() == {}  # it does not work


def test_a_backend_of_windows_without_a_display_is_no_renderer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its contexts can be made and made current; nothing can be drawn in them."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    fault = gl.rendering_fault({"MUJOCO_GL": "glfw"})
    assert fault is not None and "MUJOCO_GL=glfw" in fault
