"""The settings files that ship with the trainer: config/training of the checkout."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

CONFIGS = next(
    folder
    for folder in (_HERE / "config", _HERE.parent / "config" / "training")  # installed; checkout
    if folder.is_dir()
)
"""The folder with the settings files: a data set's each, and below it models' and variants'."""


def find_config(name: str) -> Path:
    """A settings file by its path, or by the name of one that ships: sprites, models/monet.yaml.

    A path that exists goes before. What is neither stays as it is, for an error message.
    """
    path = Path(name)
    shipped = CONFIGS / (name if name.endswith(".yaml") else f"{name}.yaml")
    return shipped if not path.is_file() and shipped.is_file() else path
