"""Average the weights of a model and of the one that its training started from.

    python -m training.average --checkpoint runs/tuned/model.safetensors --start start.safetensors \
        --output model.safetensors

Further training makes a model better at what it is shown, and often worse at all else. On the way
between the two lie models that are better than both (Wortsman et al. 2022, WiSE-FT).
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from genesis_core import CheckpointError, SlotModel, find_checkpoint, load_model, save_model
from training.command_line import call

_MAY_DIFFER = {"num_slots", "kind_distance", "small_slots", "pooling_exponent", "pixel_std"}
"""Settings that decide how the weights are used, not what they mean."""


def average(model: SlotModel, start: SlotModel, weight: float) -> SlotModel:
    """The model, its weights moved towards another's, in place.

    Args:
        model: what is moved; its settings and metadata stay.
        start: a model of the same shape.
        weight: of ``model``, 0 to 1.

    Raises:
        CheckpointError: the models' settings differ, so that their weights mean different things.
        ValueError: the weight is none.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 to 1")
    mine, other = model.state_dict(), start.state_dict()
    differing = [
        field.name
        for field in fields(model.config)
        if field.name not in _MAY_DIFFER
        and getattr(model.config, field.name) != getattr(start.config, field.name, None)
    ]
    if differing or mine.keys() != other.keys():
        names = ", ".join(differing) or "parts"
        raise CheckpointError(f"the two models differ in {names}, so they have no average")
    model.load_state_dict(
        {
            name: other[name].lerp(value, weight) if value.is_floating_point() else value
            for name, value in mine.items()
        }
    )
    trained = dict(model.metadata.get("trained") or {})
    trained |= {"averaged_with": start.metadata.get("trained"), "weight": weight}
    model.metadata = {**model.metadata, "trained": trained}
    return model


def run(
    checkpoint: Path, start: Path | str, output: Path, weight: float = 0.5, half: bool = True
) -> None:
    """Save the average of two checkpoints.

    Args:
        checkpoint: a trained model; the output has its settings.
        start: what its training started from, a file or the name of a model that ships.
        output: the checkpoint to write.
        weight: of the trained model, 0 to 1.
        half: save weights in float16.

    Raises:
        CheckpointError: a file is no checkpoint, or the two differ in their settings.
        ValueError: the weight is none, or the output is one of the two.
    """
    first = find_checkpoint(str(start))
    if output.resolve() in (checkpoint.resolve(), first.resolve()):
        raise ValueError(f"output {output} is one of the two models: name another file")
    model = average(load_model(checkpoint), load_model(first), weight)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, output, dtype=torch.float16 if half else torch.float32)
    print(f"wrote {output}")


if __name__ == "__main__":
    parser = ArgumentParser(prog="average.py", description=run.__doc__)
    parser.add_function_arguments(run)
    call(run, parser, None)
