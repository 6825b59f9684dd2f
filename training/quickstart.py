"""From nothing to a trained, evaluated and pictured model in minutes, without a GPU.

python -m training.quickstart --output runs/quickstart

Runs the five commands one would type, and shows them: generate sprites, train a small model
(config/training/sprites.yaml), evaluate it, draw what it does and how it learned. What is there
already is not done again, so an interrupted quick start continues.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from training import curves, evaluate, prepare, train, visualise
from training.command_line import STOPPED, call, show
from training.report import PAGE
from training.run_folder import MODEL


def run(
    output: Path = Path("runs/quickstart"), images: int = 6_000, steps: int | None = None
) -> None:
    """Generate data, train a small model, evaluate it and draw pictures.

    Args:
        output: folder for everything.
        images: number of training images.
        steps: number of optimiser steps, if other than the config's; more give better masks.
    """
    data, trained = output / "data", output / "run"
    model, pictures = trained / MODEL, output / "pictures"
    held_out = max(1, images // 30)
    sizes = f"--image_size 32 --train {images} --val {held_out} --test {held_out}"
    show(prepare.main, f"sprites {sizes} --output", data)
    settings = "--resume true" + ("" if steps is None else f" --steps {steps}")
    folders = ("--data.path", data, "--run", trained)
    if not show(train.main, "--config sprites", *folders, settings):
        sys.exit(STOPPED)
    score = ("--checkpoint", model, "--data", data, "--output")
    show(evaluate.main, *score, output / "results.json", "--report", output)
    show(visualise.main, *score, pictures)
    for metric in ("attention_ari_fg", "decoder_ari_fg"):
        plot = ("--metric", f"val/{metric}", "--output", pictures / f"{metric}.png")
        show(curves.main, "--runs", trained, *plot)
    print(f"\nDone. The model is {model}, its scores are in {output / 'results.json'};")
    print(f"open {output / PAGE} in a browser to look at scores, curves and masks of all images;")
    print(f"there are pictures in {pictures}, and: tensorboard --logdir {trained}")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="quickstart.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
