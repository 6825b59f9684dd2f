"""Models compiled ahead of time for this CPU, kept from process to process."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genesis_core.models.base import SlotModel
from genesis_core.ops.code_cache import cpu_flags, kept

_KEPT = 16  # compiled models, the most recent ones

Work = Callable[[Tensor], tuple[Tensor, ...]]


def compiled(work: Work, model: SlotModel, example: Tensor, settings: Mapping[str, object]) -> Work:
    """``work`` as machine code: from the cache, or compiled now, which takes a minute or two.

    Loading takes a second and none of the machinery of torch.compile.

    Args:
        work: a function of a tensor, on the CPU, that runs the model.
        example: for what it is compiled; calls must be with tensors of this shape.
        settings: all that it depends on besides the model.

    Raises:
        Exception: of any kind, where something is missing: a C++ compiler or a writable folder.
    """
    name = f"{_identity(model, example, settings)}.pt2"
    package = kept(name, lambda file: _compile(work, model, example, file))
    package.touch()
    by_age = sorted(package.parent.glob("*.pt2"), key=lambda path: path.stat().st_mtime)
    for old in by_age[:-_KEPT]:
        old.unlink(missing_ok=True)
    # It is unpacked into a folder that the process removes only if it ends well. Once the code is
    # loaded nobody needs that.
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = folder
        try:
            loaded = torch._inductor.aoti_load_package(str(package))
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
    return loaded


class _Program(nn.Module):
    """What is exported has to be a module that knows its weights."""

    def __init__(self, model: SlotModel, work: Work) -> None:
        super().__init__()
        self.model = model
        self.work = work

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.work(pixels))


def _compile(work: Work, model: SlotModel, example: Tensor, package: Path) -> None:
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(_Program(model, work), (example,), strict=False)
        torch._inductor.aoti_compile_and_package(program, package_path=str(package))


def _identity(model: SlotModel, example: Tensor, settings: Mapping[str, object]) -> str:
    """Differs wherever the machine code would: weights, settings, our code, PyTorch, the CPU."""
    facts: dict[str, Any] = {
        "model": model.config.to_dict(),
        "settings": {name: str(value) for name, value in settings.items()},
        "shape": list(example.shape),
        "torch": torch.__version__,
        "cpu": cpu_flags(),
        "threads": torch.get_num_threads(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
