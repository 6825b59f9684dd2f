"""Train a recipe on a rented GPU in minutes: render, train, evaluate, one folder with the results.

    python -m training.rented --config general --minutes 9 --output rented

Needs no network. What is missing is said at once, before anything is rendered. All processor cores
render scenes while the GPU already trains: first on the few scenes that are there after half a
minute, then, from that model on, on all of them. How many scenes to render and how many steps to
take follows from the speed that is measured on the way. Run again with the same folder, it goes on
where it was.

    OUTPUT/results/model.safetensors    the model, calibrated, in half precision
    OUTPUT/results/scores_MODE.json     evaluate.py on held-out scenes of each mode
    OUTPUT/results/metrics_RUN.jsonl    what both trainings, warm and final, logged
    OUTPUT/results/curves.png           how they learned
    OUTPUT/results/report.html          a page with the last scores, curves and validation images
    OUTPUT/results/report.txt           machine, speeds, scenes, steps, main scores
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from genesis_core import ConfigError, DeviceError, load_model, save_model
from genesis_core.device import resolve_device
from genesis_core.files import write_atomically
from genesis_core.models.genesis_v2 import GenesisV2
from genesis_sim.assets import AssetError, load_pack
from genesis_sim.gl import rendering_fault, software_rendering
from genesis_sim.modes import HOUSEHOLD_SHARES
from training import calibrate, pretrained
from training.child_process import ending_with_parent
from training.command_line import call
from training.report import PAGE
from training.run_folder import METRICS, MODEL, read_metrics
from training.train_config import parse

MODES = ("household", "sketchy", "varied")  # of the held-out scenes
_START, _END = 45.0, 115.0  # seconds that starting a training, and evaluating, take
_RENDER_START = 20.0  # seconds that a preparation takes besides rendering
_LARGEST = 16  # MB of a checkpoint that is committed
# What the curves show: the first of these that the recipe has.
_CURVES = ("mask_supervision", "overlap_supervision", "region_mixture", "elbo")
_WARM_SHARE = 0.45  # of the time, in which scenes are rendered and a first model trained


def run(
    config: str = "general",
    minutes: float = 9.0,
    output: Path = Path("rented"),
    assets: Path | None = None,
    encoder_weights: str | None = None,
    image_size: int = 256,
    mode: str = "general",
    first_scenes: int = 2_400,
    most_scenes: int = 24_000,
    held_out_scenes: int = 160,
    calibration_scenes: int = 96,
    workers: int | None = None,
    settings: str = "",
) -> None:
    """Render scenes, train on them and evaluate, within a given time.

    Args:
        config: the recipe, of config/training or a file; its data must be generated scenes.
        minutes: for everything.
        output: folder for everything; what it holds already is used.
        assets: asset pack for household scenes, see docs/assets.md.
        encoder_weights: where the recipe's encoder gets its weights, if other than it says.
        image_size: of the scenes, in pixels.
        mode: which scenes.
        first_scenes: how many scenes to begin training with.
        most_scenes: how many scenes to render at most, however fast it goes.
        held_out_scenes: how many scenes of each mode to evaluate on; 0 leaves that out.
        calibration_scenes: on how many of the scenes for validation training.calibrate chooses.
        workers: processes that render; by default one for each core but two.
        settings: further settings for training, such as "--batch_size 32".
    """
    deadline = time.monotonic() + 60 * minutes
    recipe = ["--config", config, *settings.split()]
    recipe += [] if encoder_weights is None else ["--encoder_weights", encoder_weights]
    rendering = software_rendering()
    _check(recipe, assets, rendering, started=(output / "warm" / MODEL).exists())
    os.environ.update(rendering)  # of all processes that follow
    results = output / "results"
    results.mkdir(parents=True, exist_ok=True)
    report = _Report(results / "report.txt")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    report.line(f"{gpu}; {os.cpu_count()} cores; PyTorch {torch.__version__}")
    count = max(1, (os.cpu_count() or 1) - 2) if workers is None else workers
    render = [*_command("prepare"), "tabletop", "--image_size", str(image_size)]
    render += ["--sensor_depth", "true", "--workers", str(count)]
    render_mode = [*render, *_scenes(mode, assets)]

    first, whole = output / "first", output / "whole"
    began = time.monotonic()
    _call([*render_mode, *_sizes(first_scenes, 128, 1), "--output", str(first)])
    took = time.monotonic() - began
    # Starting and joining take as long for few scenes as for many.
    rate = (first_scenes + 128) / max(took - _RENDER_START, 0.3 * took)
    rate = _remembered(output / "rate.json", max(1, int(rate)))  # nothing is rendered twice
    report.line(f"rendered {rate} scenes/s at {image_size} px with {count} processes")

    train = [*_command("train"), *recipe]
    warm, final = output / "warm", output / "final"
    if not (final / MODEL).exists():
        warm_seconds = _WARM_SHARE * (deadline - time.monotonic())
        scenes = max(first_scenes, int(0.75 * rate * warm_seconds))
        scenes = _remembered(output / "scenes.json", min(most_scenes, scenes))
        renderer = _start([*render_mode, *_sizes(scenes, 256, 1), "--output", str(whole)])
        try:
            _train_while(renderer, train, first, warm)
        finally:
            _end(renderer)
        if renderer.returncode:
            raise ChildProcessError(f"rendering failed with status {renderer.returncode}")
    speed = _images_per_second(warm)
    report.line(f"first training: {speed:.0f} images/s, {_last_step(warm)} steps")

    batch = _batch_size(warm)
    left = deadline - time.monotonic() - _START - (_END if held_out_scenes else 10)
    steps = _remembered(output / "steps.json", max(100, int(0.93 * left * speed / batch)))
    start = ["--encoder_weights", "null", "--init", str(warm / MODEL)]
    _call([*train, *_run(whole, final, steps), *start, "--eval_every", str(max(1, steps // 8))])
    report.line(f"second training: {_images_per_second(final):.0f} images/s, {steps} steps")

    # The model first: what follows may be cut off.
    model = load_model(final / MODEL)
    save_model(model, results / MODEL, dtype=torch.float16)
    megabytes = (results / MODEL).stat().st_size / 1e6
    too_large = f", more than {_LARGEST}: too large to ship" if megabytes > _LARGEST else ""
    report.line(f"{MODEL}: {megabytes:.1f} MB{too_large}")
    if isinstance(model, GenesisV2):
        choice = calibrate.run(final / MODEL, whole, results / MODEL, images=calibration_scenes)
        report.line(f"calibrated: {choice}")
    for folder, name in ((warm, "warm"), (final, "final")):
        shutil.copy(folder / METRICS, results / f"metrics_{name}.jsonl")
    shutil.copy(final / PAGE, results / PAGE)
    logged = _lines(final)[-1]
    metric = next((name for name in _CURVES if name in logged), "loss")
    curves = ["--runs", str(warm), str(final), "--metric", f"train/{metric}"]
    _call([*_command("curves"), *curves, "--output", str(results / "curves.png"), "--window", "10"])
    for name in MODES if held_out_scenes else ():
        held_out = output / f"test_{name}"
        sizes = _sizes(1, 1, held_out_scenes)
        _call([*render, *_scenes(name, assets), *sizes, "--output", str(held_out)])
        score = ["--checkpoint", str(results / MODEL), "--data", str(held_out)]
        target = results / f"scores_{name}.json"
        _call([*_command("evaluate"), *score, "--output", str(target)])
        report.line(f"{name}, {held_out_scenes} held-out scenes: {_main_scores(target)}")
    report.line(f"done, {deadline - time.monotonic():.0f} s before the time was up")


def _check(
    recipe: list[str], assets: Path | None, rendering: dict[str, str], started: bool
) -> None:
    """Raise ValueError with all that is missing on this machine, before anything is rendered.

    Args:
        recipe: arguments of train.py.
        rendering: variables of the processes that render.
        started: whether there is a model already, so that nothing starts from an encoder's weights.
    """
    faults: list[str] = []
    try:
        settings, _ = parse(recipe, "")
    except SystemExit:  # it has said why
        faults.append("the recipe's settings are not possible")
    except ConfigError as error:
        faults.append(str(error))
    else:
        if settings.device == "auto" and not torch.cuda.is_available():
            faults.append(
                "PyTorch sees no GPU (nvidia-smi shows whether there is one; to train on the CPU: "
                "--settings=--device=cpu)"
            )
        try:
            resolve_device(settings.device)
            if settings.encoder_weights is not None and not started:
                pretrained.encoder_weights(settings.encoder_weights)
        except (ConfigError, DeviceError) as error:
            faults.append(str(error))
    # What software_rendering() names has been tried.
    if not rendering and (fault := rendering_fault({})) is not None:
        faults.append(f"nothing can be rendered: {fault}")
    if assets is not None:
        try:
            load_pack(assets)
        except AssetError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("; ".join(faults))


def _main_scores(file: Path) -> str:
    """In a line, of the file that evaluate.py wrote."""
    every = json.loads(file.read_text())["models"][0]["metrics"]
    metrics = every.get("flexible") or every["fixed"]
    masks = metrics.get("attention") or metrics.get("decoder") or {}  # some models have one kind
    parts = [
        ("objects found", masks.get("r50"), ".0%"),
        ("ARI-FG", masks.get("ari_fg"), ".3f"),
        ("MSC-FG", masks.get("msc_fg"), ".3f"),
        ("kinds right", metrics.get("kind_accuracy"), ".0%"),
    ]
    return ", ".join(f"{name} {value:{form}}" for name, value, form in parts if value is not None)


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", f"training.{name}"]


def _scenes(mode: str, assets: Path | None) -> list[str]:
    """Options for scenes of a mode; only some have household objects, which come from a pack."""
    from_pack = assets is not None and mode in HOUSEHOLD_SHARES
    return ["--mode", mode, *(["--assets", str(assets)] if from_pack else [])]


def _sizes(train: int, val: int, test: int) -> list[str]:
    return ["--train", str(train), "--val", str(val), "--test", str(test)]


def _run(data: Path, folder: Path, steps: int) -> list[str]:
    return [
        "--data.path", str(data), "--run", str(folder), "--steps", str(steps), "--resume", "true",
    ]  # fmt: skip


def _call(command: list[str]) -> None:
    """Run a command of this folder; ChildProcessError where it fails."""
    print(f"$ {' '.join(command[1:])}", flush=True)
    process = _start(command)
    try:
        status = process.wait()
    finally:
        _end(process)
    if status:
        raise ChildProcessError(f"{command[2]} failed with status {status}")


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    """A process that Ctrl-C reaches through ``_end`` alone: a second one ends training at once.

    However this process ends, that one is asked to end, too: by SIGTERM, which for training is no
    second SIGINT.
    """
    return subprocess.Popen(command, start_new_session=True, preexec_fn=ending_with_parent())


def _train_while(other: subprocess.Popen[bytes], train: list[str], data: Path, run: Path) -> None:
    """Train, at a constant rate, until another process has ended; and for a few steps at least."""
    endless = [*_run(data, run, 10**9), "--optimizer.schedule", "constant", "--eval_every", "0"]
    command = [*train, *endless]
    print(f"$ {' '.join(command[1:])}", flush=True)
    began = time.time()
    training = _start(command)
    try:
        # Before it has logged something, it has nothing to save.
        while training.poll() is None and (other.poll() is None or not _logged(run, began)):
            time.sleep(0.5)
    finally:
        _end(training)
    if training.returncode or not (run / MODEL).exists():
        raise ChildProcessError(f"training failed with status {training.returncode}")


def _logged(run: Path, since: float) -> bool:
    metrics = run / METRICS
    return metrics.exists() and metrics.stat().st_mtime > since and bool(_lines(run))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a process save what it has, and end."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait()


def _remembered(path: Path, value: int) -> int:
    """A number that an earlier run settled on, else this one, for the next."""
    if path.exists():
        return int(json.loads(path.read_text()))
    write_atomically(path, json.dumps(value).encode())
    return value


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / METRICS) if line["kind"] == "train"]


def _images_per_second(folder: Path) -> float:
    speeds = sorted(line["images_per_second"] for line in _lines(folder))
    return float(speeds[len(speeds) // 2])


def _last_step(folder: Path) -> int:
    return int(_lines(folder)[-1]["step"])


def _batch_size(folder: Path) -> int:
    return int(load_model(folder / MODEL).metadata["trained"]["batch_size"])


class _Report:
    """Lines for people, on the screen and in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def line(self, text: str) -> None:
        print(text, flush=True)
        with self._path.open("a") as file:
            file.write(f"{text}\n")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="rented.py", description=str(__doc__).partition("\n")[0])
    parser.add_function_arguments(run, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
