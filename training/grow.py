"""Start a model for larger images from a trained one for smaller images.

python training/grow.py --checkpoint small.safetensors --image-size 128 --output large.safetensors

The backbone of a model for images of twice the size has one level more, on the outside. Inner
levels see a scene at the same scale as before and keep their weights; the outermost keep theirs as
a start, and the levels between are new. Train the result as `init` of a run.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the project's folder is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from dataclasses import replace

import torch
from jsonargparse import ArgumentParser

from genesis_core import GenesisV2, load_model, save_model
from training.command_line import call


def grow(model: GenesisV2, image_size: int, seed: int = 0) -> GenesisV2:
    """A model for larger images with the weights of a smaller one, as far as they fit.

    Raises ValueError if image_size is not larger than the model's (or no size that models have).
    """
    if image_size <= model.config.image_size:
        raise ValueError(
            f"image_size is {image_size}; expected more than the model's {model.config.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = GenesisV2(replace(model.config, image_size=image_size))
    extra = len(grown.backbone.down) - len(model.backbone.down)
    old, new = model.state_dict(), grown.state_dict()
    for name in new:
        source = _source(name, extra, len(model.backbone.up))
        if source is not None:
            new[name] = old[source]
    grown.load_state_dict(new)
    return grown


def _source(name: str, extra: int, old_levels: int) -> str | None:
    """Which weights of the small model a weight of the large one takes; None: it stays new."""
    part, _, rest = name.partition(".")
    if part != "backbone" or rest.startswith("mlp"):
        return name
    side, number, rest = rest.split(".", 2)
    level = int(number)
    if side == "down":  # from the outside in
        if 0 < level <= extra:
            return None
        level = max(level - extra, 0)
    elif level >= old_levels:  # from the inside out
        if level < old_levels + extra - 1:
            return None
        level = old_levels - 1
    return f"backbone.{side}.{level}.{rest}"


def main(checkpoint: Path, image_size: int, output: Path, seed: int = 0) -> None:
    """Write the grown model.

    Args:
        checkpoint: a GENESIS-V2 model
        image_size: pixels of the new model: 128 or 256
        output: safetensors file to write
        seed: of the weights that are new
    """
    model = load_model(checkpoint)
    if not isinstance(model, GenesisV2):
        raise ValueError(f"{checkpoint} holds a {model.config.model} model; expected genesis_v2")
    trained = {
        **model.metadata.get("trained", {}),
        "grown_from_image_size": model.config.image_size,
    }
    save_model(grow(model, image_size, seed), output, {**model.metadata, "trained": trained})


if __name__ == "__main__":
    parser = ArgumentParser(prog="grow.py", description=main.__doc__)
    parser.add_function_arguments(main)
    call(main, parser, None)
