"""The authors' implementation, run beside ours: a checkout of applied-ai-lab/genesis that you have.

It is imported and called as it is. What it needs besides PyTorch and NumPy (its experiment
framework, readers of data sets, plots) has no part in the model; what of that is not installed is
replaced by empty modules.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import reason

_MODULE = "models.genesisv2_config"


class CheckoutError(RuntimeError):
    """There is no such checkout."""


class ImportFailedError(RuntimeError):
    """The checkout cannot be imported."""


class _Settings(dict[str, Any]):
    """A dictionary whose items are attributes, too."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class _Empty(types.ModuleType):
    """Stands for a module that is not needed: whatever is taken from it can be called."""

    __path__: list[str] = []  # noqa: RUF012 - makes it a package

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        super().__init__(name)
        self.AttrDict = _Settings
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._define if name.startswith("DEFINE_") else _nothing

    def _define(self, name: str, default: Any, *others: Any, **options: Any) -> None:
        self._settings[name] = default


def _nothing(*arguments: Any, **options: Any) -> None:
    pass


class Reference:
    """GENESIS-V2 of a checkout of the authors' code, with the settings it has by default.

    Args:
        folder: the checkout.
        device: where it runs.

    Raises:
        CheckoutError: the folder holds no such checkout.
        ImportFailedError: it cannot be imported.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        if not (folder / "models" / "genesisv2_config.py").is_file():
            raise CheckoutError(
                f"{folder} has no models/genesisv2_config.py; expected a checkout of "
                "https://github.com/applied-ai-lab/genesis"
            )
        self._device = device
        self._settings = _Settings()
        sys.path.insert(0, str(folder))
        try:
            self._module = self._import()
        except Exception as error:
            raise ImportFailedError(f"{folder} cannot be imported: {reason(error)}") from error
        finally:
            sys.path.remove(str(folder))

    def passes(self, num_slots: int, images: Tensor) -> Callable[[], object]:
        """A forward pass of the authors' model, untrained, which always does everything.

        Args:
            images: (B, 3, S, S).
        """
        model = self._model(images.shape[-1], num_slots).eval()

        @torch.inference_mode()
        def work() -> object:
            with self._on_its_device():
                return model(images)

        return work

    def steps(self, num_slots: int, images: Tensor) -> Callable[[], object]:
        """A training step of that model, with nothing but the sum of its loss's terms."""
        model = self._model(images.shape[-1], num_slots).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

        def work() -> None:
            with self._on_its_device():
                optimizer.zero_grad()
                _loss(model(images)).backward()
                optimizer.step()

        return work

    def _model(self, image_size: int, num_slots: int) -> nn.Module:
        given = {"K_steps": num_slots, "img_size": image_size, "debug": False, "multi_gpu": False}
        with self._on_its_device():
            return self._module.load(_Settings(self._settings | given)).to(self._device)

    @contextmanager
    def _on_its_device(self) -> Iterator[None]:
        """On CUDA, what it makes without naming a device is made there, as its own train.py does.

        PyTorch's newer default device would cost each operation a microsecond.
        """
        if self._device.type == "cpu":
            yield
            return
        with torch.cuda.device(self._device), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is called deprecated
            torch.set_default_tensor_type("torch.cuda.FloatTensor")
            try:
                yield
            finally:
                torch.set_default_tensor_type("torch.FloatTensor")

    def _import(self) -> Any:
        empty: dict[str, _Empty] = {}

        def stand_in(name: str) -> None:
            sys.modules[name] = empty[name] = _Empty(name, self._settings)

        for name in ("forge", "forge.flags", "forge.experiment_tools", "attrdict"):
            stand_in(name)
        for name in ("flags", "experiment_tools"):
            setattr(empty["forge"], name, empty[f"forge.{name}"])
        try:
            while True:
                try:
                    return importlib.import_module(_MODULE)
                except ModuleNotFoundError as error:
                    missing = error.name
                    if missing is None or missing in empty or missing.startswith("models"):
                        raise
                    stand_in(missing)
        finally:
            for name in empty:  # nobody else is to find them
                del sys.modules[name]


def _loss(output: Any) -> Tensor:
    """The ELBO's terms of an output of the authors' model, to train on."""
    terms = output[1]
    return terms["err"].mean() + sum(kl.mean() for kl in terms["kl_l_k"])
