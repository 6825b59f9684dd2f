"""Start a larger model from a trained smaller one: for larger images, with more features, or both.

python -m training.grow --checkpoint small.safetensors --image-size 128 --output large.safetensors
python -m training.grow --checkpoint small.safetensors --feature-dim 64 --output wide.safetensors

The backbone of a model for images of twice the size has one level more, on the outside. Inner
levels see a scene at the same scale as before and keep their weights; the outermost keep theirs as
a start, and the levels between are new. A wider model computes what the narrow one does
(Net2WiderNet: Chen, Goodfellow, Shlens 2016): every channel is there several times, and whatever
read it reads a share of each. Train the result as `init` of a run.

A model with another encoder than the paper's works at any size, smaller ones too, with the weights
that it has: tabletop_256 is tabletop for images of 256 px.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from genesis_core import GenesisV2, find_checkpoint, load_model, save_model
from genesis_core.models.layers import UNet, UpConv
from training.command_line import call


def enlarge(model: GenesisV2, image_size: int, seed: int = 0) -> GenesisV2:
    """A model for larger images with the weights of a smaller one, as far as they fit.

    All of them fit where the encoder is not the paper's; the images may be smaller then.

    Raises ValueError if image_size is no size that models have, and with the paper's encoder if it
    is not larger than the model's.
    """
    if model.config.encoder != "unet":
        resized = GenesisV2(replace(model.config, image_size=image_size))
        resized.load_state_dict(model.state_dict())
        return resized
    if image_size <= model.config.image_size:
        raise ValueError(
            f"image_size is {image_size}; expected more than the model's {model.config.image_size}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = GenesisV2(replace(model.config, image_size=image_size))
    assert isinstance(model.backbone, UNet) and isinstance(grown.backbone, UNet)
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


def widen(model: GenesisV2, feature_dim: int, seed: int = 0) -> GenesisV2:
    """A model with more features that computes the same.

    Copies of a channel lie side by side, so that they share a group of the normalisation, whose
    statistics stay what they were. The shares in which a channel is read from its copies are
    random, or else the copies would learn the same for ever.

    Raises ValueError if feature_dim is not a multiple of the model's, and more.
    """
    if model.config.encoder != "unet":
        raise ValueError(
            f"the model's encoder is {model.config.encoder}; only the paper's, unet, can be widened"
        )
    copies, rest = divmod(feature_dim, model.config.feature_dim)
    if rest or copies < 2:
        raise ValueError(
            f"feature_dim is {feature_dim}; expected twice, three times ... the model's "
            f"{model.config.feature_dim}"
        )
    with torch.random.fork_rng(devices=[]):
        wide = GenesisV2(replace(model.config, feature_dim=feature_dim))
    generator = torch.Generator().manual_seed(seed)
    narrow = model.state_dict()
    weights = {}
    for name, like in wide.state_dict().items():
        weight = narrow[name]
        module = wide.get_submodule(name.rpartition(".")[0])
        read = 0 if isinstance(module, UpConv) else 1  # the axis of what a layer reads
        for axis, (old, new) in enumerate(zip(weight.shape, like.shape, strict=True)):
            if old != new:
                # The backbone's MLP flattens a map of 2C channels: each channel's pixels in a row.
                flat = name.startswith("backbone.mlp")
                pixels = old // (2 * model.config.feature_dim) if flat else 1
                shares = generator if axis == read and weight.dim() > 1 else None
                weight = _copy(weight, axis, copies, pixels, shares)
        weights[name] = weight
    wide.load_state_dict(weights)
    return wide


def widen_latents(model: GenesisV2, latent_width: int, seed: int = 0) -> GenesisV2:
    """A model with more hidden units in the heads that latents come from, that computes the same.

    The new units read what they like, at random; nothing reads them yet.

    Raises ValueError if latent_width is not more than the model's units.
    """
    before = model.config.latent_units
    if latent_width <= before:
        raise ValueError(f"latent_width is {latent_width}; expected more than {before}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = GenesisV2(replace(model.config, latent_width=latent_width))
        weights = wide.state_dict()
        for name in ("shape_head.2.weight", "colour_head.2.weight"):
            if name in weights:
                nn.init.kaiming_uniform_(weights[name], 5**0.5)  # it would start at zero
                weights[name][:before] = 0  # the old units read no new ones
    weights["latent_head.3.weight"].zero_()  # neither do the latents
    for name, weight in model.state_dict().items():
        weights[name][tuple(slice(n) for n in weight.shape)] = weight
    return wide


def _copy(
    weight: Tensor, axis: int, copies: int, pixels: int, shares: torch.Generator | None
) -> Tensor:
    """Repeat each channel, ``pixels`` long on this axis; shares: as random shares of the whole."""
    parts = weight.unflatten(axis, (-1, 1, pixels))
    parts = parts.expand(*parts.shape[: axis + 1], copies, *parts.shape[axis + 2 :])
    if shares is not None:
        split = 0.5 + torch.rand(parts.shape, generator=shares)
        parts = parts * split / split.sum(dim=axis + 1, keepdim=True)
    return parts.flatten(axis, axis + 2)


def run(
    checkpoint: Path,
    output: Path,
    image_size: int | None = None,
    feature_dim: int | None = None,
    seed: int = 0,
    half: bool = False,
) -> None:
    """Write the grown model.

    Args:
        checkpoint: a GENESIS-V2 model, a file or the name of one that ships
        output: safetensors file to write
        image_size: pixels of the new model: 128 or 256; with an encoder other than the paper's any
            multiple of 32; the same, if not given
        feature_dim: its width, a multiple of the model's; the same, if not given
        seed: of the weights that are new, and of how wide ones are shared out
        half: save weights in float16
    """
    model = load_model(find_checkpoint(str(checkpoint)))
    if not isinstance(model, GenesisV2):
        raise ValueError(f"{checkpoint} holds a {model.config.model} model; expected genesis_v2")
    if image_size is None and feature_dim is None:
        raise ValueError("give --image-size, --feature-dim or both: nothing would grow")
    metadata, old = model.metadata, model.config
    trained = dict(metadata.get("trained", {}))
    if image_size is not None:
        model = enlarge(model, image_size, seed)
        trained["grown_from_image_size"] = old.image_size
    if feature_dim is not None:
        model = widen(model, feature_dim, seed)
        trained["grown_from_feature_dim"] = old.feature_dim
    dtype = torch.float16 if half else torch.float32
    save_model(model, output, {**metadata, "trained": trained}, dtype=dtype)


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="grow.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
