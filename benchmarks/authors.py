"""The authors' implementation, run beside ours: a checkout of applied-ai-lab/genesis that you have.

It is imported and called as it is. What it needs besides PyTorch and NumPy (its experiment
framework, readers of data sets, plots) has no part in the model; what of that is not installed is
replaced by empty modules.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

from torch import Tensor, nn

_MODULE = "models.genesisv2_config"


class CheckoutError(RuntimeError):
    """The checkout cannot be used."""


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

    Raises:
        CheckoutError: the folder holds no such checkout, or it cannot be imported.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "models" / "genesisv2_config.py").is_file():
            raise CheckoutError(
                f"{folder} has no models/genesisv2_config.py; expected a checkout of "
                "https://github.com/applied-ai-lab/genesis"
            )
        self._settings = _Settings()
        sys.path.insert(0, str(folder))
        try:
            self._module = self._import()
        except ImportError as error:
            raise CheckoutError(f"{folder} cannot be imported: {error}") from error
        finally:
            sys.path.remove(str(folder))

    def model(self, image_size: int, num_slots: int) -> nn.Module:
        """The authors' model, untrained: called with images (B, 3, S, S) it does everything."""
        given = {"K_steps": num_slots, "img_size": image_size, "debug": False, "multi_gpu": False}
        return self._module.load(_Settings(self._settings | given))

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


def loss(output: Any) -> Tensor:
    """The ELBO's terms of an output of the authors' model, to train on."""
    terms = output[1]
    return terms["err"].mean() + sum(kl.mean() for kl in terms["kl_l_k"])
