"""The Triton kernels: right by the interpreter on any machine, and fit to be compiled for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
triton = pytest.importorskip("triton", reason="Triton is not installed")


@pytest.mark.slow
def test_interpreted_kernels_do_what_pytorch_does() -> None:
    """interpreted_triton.py in a process of its own."""
    file = Path(__file__).with_name("interpreted_triton.py")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "skipped" not in result.stdout


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from genesis_core.ops import triton_normalisation as kernels

maps = {"x", "y", "gradient", "x_gradient"}
whole = {"pixels", "width", "tiles", "parts", "part_pixels"}
names = ("_moments", "_join_moments", "_normalise", "_slopes", "_join_slopes", "_differentiate")

def compiled(name, element, shape, ones):
    kernel = getattr(kernels, name)
    types, constants = {}, dict(shape)
    for parameter in kernel.params:
        if parameter.name in shape or parameter.name in ones:
            types[parameter.name] = "constexpr"
            constants.setdefault(parameter.name, 1)
        elif parameter.name in maps:
            types[parameter.name] = f"*{element}"
        elif parameter.name in whole:
            types[parameter.name] = "i32"
        else:
            types[parameter.name] = "fp32" if parameter.name == "eps" else "*fp32"
    constants = {n: c for n, c in constants.items() if n in types}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, type in enumerate(types.values())
        if type.startswith("*")
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]

def shape_of(phases, channels):
    depth = triton.next_power_of_2(phases * channels)
    return {
        "PHASES": phases, "CHANNELS": channels, "GROUPS": 8, "PADDED": depth,
        "BLOCK": 4096 // depth, "ROWS": 8 * phases, "PER_GROUP": 8,
    }

cases = ("bf16", 4, 64), ("bf16", 1, 24), ("fp16", 1, 64), ("fp32", 4, 64)
for element, phases, channels in cases:
    for name in names:
        text = compiled(name, element, shape_of(phases, channels), ())
        if name in ("_normalise", "_differentiate"):  # 16 bytes at a time
            assert "ld.global.v4.b32" in text and "st.global.v4.b32" in text, name
for name in names:  # Triton takes arguments that are 1 for constants
    ones = ("pixels", "width", "tiles", "parts", "part_pixels")
    compiled(name, "bf16", shape_of(1, 64) | {"BLOCK": 1}, ones)
print("compiled")
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """To machine code of an H100, for all types of maps; and read and write 16 bytes at a time."""
    result = subprocess.run(
        [sys.executable, "-c", COMPILE],
        cwd=ROOT,
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "compiled\n"
