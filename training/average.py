"""Average the weights of a model and of the one that its training started from.

    python -m training.average --checkpoint runs/tuned/model.safetensors --start start.safetensors \
        --output model.safetensors

Further training makes a model better at what it is shown, and often worse at all else. On the way
between the two lie models that are better than both (Wortsman et al. 2022, WiSE-FT).

An encoder that learns from simulated images alone forgets what images of the world look like:
--of_start "[backbone.trunk]" puts back the one that the training started from (docs/models.md);
with --weight 1 nothing else moves.

Masks of probabilities want a wider kernel than hard ones: --kernel_scale 3.3 widens it; with
--weight 1 --half false nothing else changes.

Where masks were trained alone, latents and decoder may come from a third model (--latents).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from jsonargparse import ArgumentParser

from genesis_core import (
    CheckpointError,
    GenesisV2,
    SlotModel,
    find_checkpoint,
    load_model,
    save_model,
)
from training.command_line import call

_MAY_DIFFER = {
    "num_slots", "kind_distance", "surroundings_bias", "small_slots", "pooling_exponent",
    "pixel_std",
}  # fmt: skip
"""Settings that decide how the weights are used, not what they mean."""
HISTORIES = ("started_from", "averaged_with", "latents_of")
"""What is said of other models in "trained" of a checkpoint's metadata."""
_OF_LATENTS = (
    "latent_dim", "latent_width", "mask_thumbnail", "colour_thumbnail", "image_thumbnail",
    "autoregressive_prior", "decoder_size", "decoder_dim",
)  # fmt: skip
"""Settings of the parts that find no masks."""


def average(
    model: SlotModel, start: SlotModel, weight: float, of_start: Sequence[str] = ()
) -> SlotModel:
    """The model, its weights moved towards another's, in place.

    Args:
        model: what is moved; its settings and metadata stay.
        start: a model of the same shape.
        weight: of ``model``, 0 to 1.
        of_start: names of parts, or of parts of theirs, that become those of ``start``.

    Raises:
        CheckpointError: the models' settings differ, so that their weights mean different things;
            or they have no such part.
        ValueError: the weight is none.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}; expected 0 to 1")
    mine, other = model.state_dict(), start.state_dict()
    differing = [
        field.name
        for field in fields(model.config)
        if field.name not in _may_differ(model)
        and getattr(model.config, field.name) != getattr(start.config, field.name, None)
    ]
    if differing or mine.keys() != other.keys():
        names = ", ".join(differing) or "parts"
        raise CheckpointError(f"the two models differ in {names}, so they have no average")
    taken = {part: [n for n in mine if f"{n}.".startswith(f"{part}.")] for part in of_start}
    if unknown := [part for part, names in taken.items() if not names]:
        raise CheckpointError(f"the models have no part {', '.join(unknown)}")
    averaged = {
        name: other[name].lerp(value, weight) if value.is_floating_point() else value
        for name, value in mine.items()
    }
    kept = {name: other[name] for names in taken.values() for name in names}
    model.load_state_dict({**averaged, **kept})
    trained = dict(model.metadata.get("trained") or {})
    others = start.metadata.get("trained") or {}
    # Its own history is, most often, part of the model's.
    others = {name: value for name, value in others.items() if name not in HISTORIES}
    trained |= {"averaged_with": others, "weight": weight}
    # The scale's logarithm is averaged.
    scale = trained.get("kernel_scale", 1.0) ** weight
    scale *= others.get("kernel_scale", 1.0) ** (1 - weight)
    if "kernel_scale" in trained or scale != 1:
        trained["kernel_scale"] = scale
    if of_start:
        trained["parts_of_start"] = list(of_start)
    model.metadata = {**model.metadata, "trained": trained}
    return model


def _may_differ(model: SlotModel) -> set[str]:
    # The paper's encoder has a layer for each size; others work at any.
    at_any_size = getattr(model.config, "encoder", "unet") != "unet"
    return _MAY_DIFFER | ({"image_size"} if at_any_size else set())


def scale_kernel(model: GenesisV2, factor: float) -> GenesisV2:
    """The model, in place, with the scale of IC-SBP's kernel times a factor."""
    with torch.no_grad():
        model.icsbp.log_scale.add_(math.log(factor))
    if (trained := model.metadata.get("trained")) and factor != 1:
        scale = factor * trained.get("kernel_scale", 1.0)
        model.metadata = {**model.metadata, "trained": {**trained, "kernel_scale": scale}}
    return model


def with_latents(model: GenesisV2, other: GenesisV2) -> GenesisV2:
    """A model that finds masks as the first one does, with latents and decoder of the other.

    They fit if the other's were trained on masks and features that are nearly the same: those of
    one of the models that were averaged, kept as they were (``freeze``).

    Raises:
        CheckpointError: the parts do not fit together.
    """
    if model.pooling_exponent != other.pooling_exponent:
        raise CheckpointError(
            f"masks and latents do not fit together: pooling_exponent is {model.pooling_exponent} "
            f"and {other.pooling_exponent}"
        )
    settings = {name: getattr(other.config, name) for name in _OF_LATENTS}
    joined = GenesisV2(replace(model.config, **settings))
    weights = {
        name: weight
        for each, parts in (
            (model, model.mask_parts),
            (other, {name for name, _ in other.named_children()} - model.mask_parts),
        )
        for name, weight in each.state_dict().items()
        if name.partition(".")[0] in parts
    }
    try:
        joined.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"masks and latents do not fit together: {error}") from error
    of_latents = other.metadata.get("trained") or {}
    trained = {
        **(model.metadata.get("trained") or {}),
        "masks_only": of_latents.get("masks_only", False),  # whether there are trained latents
        "latents_of": of_latents,
    }
    joined.metadata = {**model.metadata, "trained": trained}
    return joined


def run(
    checkpoint: Path,
    start: Path | str,
    output: Path,
    weight: float = 0.5,
    latents: Path | str | None = None,
    half: bool = True,
    of_start: tuple[str, ...] = (),
    kernel_scale: float = 1.0,
) -> None:
    """Save the average of two checkpoints.

    Args:
        checkpoint: a trained model; the output has its settings. Like the others, a file or the
            name of a model that ships.
        start: what its training started from.
        output: the checkpoint to write.
        weight: of the trained model, 0 to 1.
        latents: another checkpoint, whose latents and decoder to take; by default they are averaged
            like the rest (GENESIS-V2 only).
        half: save weights in float16.
        of_start: parts that stay as they were at the start, whatever the weight, e.g.
            backbone.trunk; with latents, of those that find masks.
        kernel_scale: factor on the scale of IC-SBP's kernel (GENESIS-V2 only).

    Raises:
        CheckpointError: a file is no checkpoint, models differ in their settings, or they have no
            such part.
        ValueError: the weight or the factor is none, the output is one of the models given, or
            of_start names a part that comes from latents.
    """
    checkpoint, first = find_checkpoint(str(checkpoint)), find_checkpoint(str(start))
    third = None if latents is None else find_checkpoint(str(latents))
    given = [checkpoint, first, *([] if third is None else [third])]
    if output.resolve() in [path.resolve() for path in given]:
        raise ValueError(f"output {output} is one of the models given: name another file")
    if not 0 < kernel_scale < math.inf:
        raise ValueError(f"kernel_scale is {kernel_scale}; expected > 0")
    model = average(load_model(checkpoint), load_model(first), weight, of_start)
    if kernel_scale != 1:
        if not isinstance(model, GenesisV2):
            raise CheckpointError("kernel_scale: for models of kind genesis_v2 only")
        model = scale_kernel(model, kernel_scale)
    if third is not None:
        other = load_model(third)
        if not isinstance(model, GenesisV2) or not isinstance(other, GenesisV2):
            raise CheckpointError("latents of another model: for models of kind genesis_v2 only")
        if twice := [part for part in of_start if part.partition(".")[0] not in model.mask_parts]:
            raise ValueError(f"of_start names {', '.join(twice)}, which latents replaces")
        model = with_latents(model, other)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, output, dtype=torch.float16 if half else torch.float32)
    print(f"wrote {output}")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="average.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
