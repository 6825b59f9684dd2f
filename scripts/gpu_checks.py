"""All that a GPU is needed for, in one command of a given length: checked, measured, trained.

    python -m scripts.gpu_checks --minutes 9.5 --output results --stages tests bench general
    python -m scripts.gpu_checks --minutes 4 --output results --stages sprites tabletop

    tests      what is marked ``cuda``, a process for each file
    bench      benchmarks.bench on the GPU; with --reference beside the authors' code
    general    the first stage of the model that ships: training.rented
    sprites    the paper's objective on sprites (config/training/sprites_unsupervised.yaml)
    tabletop   and on generated scenes (tabletop_unsupervised.yaml)

The benchmark needs requirements/core.txt, the tests pytest, too; the rest needs
requirements/training.txt. Nothing needs a network. A stage that fails or takes too long does not
cost the next. OUTPUT holds a report, the models and details.tar.gz (logs, scores, curves), all of
them up to date after each stage; --work keeps what a second call goes on with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from genesis_core import DeviceError
from genesis_core.device import resolve_device
from genesis_sim.gl import software_rendering
from training.child_process import ending_with_parent

ROOT = Path(__file__).resolve().parents[1]
_EVALUATION = 40.0  # seconds that a training stage keeps for what comes after training
_LAST_WORDS = 20.0  # seconds in which a command that was interrupted may save what it has
_OURS_LEFT_OUT = re.compile("(ours|model|training|camera): left out")  # of the bench's output
_SMALL = {
    "model.image_size": 32,
    "model.num_slots": 4,
    "model.feature_dim": 8,
    "model.latent_dim": 8,
    "batch_size": 2,
    "eval_images": 2,
    "log_every": 1,
}
_SMALL_GENERAL = {
    **_SMALL,
    "model.encoder": "unet",
    "model.decoder_size": 16,
    "model.decoder_dim": 8,
    "encoder_weights": "null",
    "objective.decoded_images": 0,
}


class StageError(RuntimeError):
    """A stage did not do what it should."""


@dataclass(frozen=True)
class Context:
    """What the stages are given.

    Attributes:
        work: folder for what they make.
        output: folder for results.
        device: cuda, or another one to try this command with.
        small: whether to do everything in a tiny form, to see that it runs.
        reference: a checkout of the authors' code, or None.
        assets, encoder_weights: see ``training.rented``, or None.
    """

    work: Path
    output: Path
    device: str
    small: bool
    reference: Path | None
    assets: Path | None
    encoder_weights: str | None

    def folder(self, stage: str) -> Path:
        """Of a stage; what lies in its ``kept`` is part of the details."""
        folder = self.work / stage
        (folder / "kept").mkdir(parents=True, exist_ok=True)
        return folder


@dataclass(frozen=True)
class Stage:
    """A part of the checks.

    Attributes:
        run: does it until a time (of ``time.monotonic``), and returns lines for the report.
        seconds: the longest it may take; None for a share of what the others leave.
        share: that share, beside those of the other stages.
    """

    run: Callable[[Context, float], list[str]]
    seconds: float | None = None
    share: float = 1.0


# Commands


class Command:
    """A process with its children, whose output goes to a file. It ends with this process."""

    def __init__(
        self, log: Path, *arguments: object, variables: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        words = [sys.executable, "-m", *map(str, arguments)]
        with log.open("ab") as file:
            file.write(f"$ {' '.join(words[1:])}\n".encode())
            file.flush()
            self._process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**os.environ, **(variables or {})},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ending_with_parent(),
            )

    def interrupt_if_late(self, deadline: float) -> None:
        """Ask it to end, if it still runs when the time is up, without waiting for that."""
        if time.monotonic() >= deadline and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGINT)

    def wait(self, deadline: float) -> int | None:
        """Its exit status; None if it had to be ended, which it may use to save what it has."""
        try:
            return self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._end()
        except BaseException:  # Ctrl-C, which reaches this process alone
            self._end()
            raise
        return None

    def _end(self) -> None:
        for number, seconds in ((signal.SIGINT, _LAST_WORDS), (signal.SIGKILL, None)):
            os.killpg(self._process.pid, number)
            try:
                self._process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                continue


def _run(
    log: Path, deadline: float, *arguments: object, variables: Mapping[str, str] | None = None
) -> None:
    """Run a command to its end; StageError if it fails or takes too long."""
    status = Command(log, *arguments, variables=variables).wait(deadline)
    if status is None:
        raise StageError(f"{arguments[0]} took too long, and was ended")
    if status:
        raise StageError(f"{arguments[0]} failed with status {status}: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


# Stages


def _tests(context: Context, deadline: float) -> list[str]:
    folder = context.folder("tests") / "kept"
    files = [path for path in sorted((ROOT / "test").rglob("test_*.py")) if _needs_gpu(path)]
    commands = {
        path: Command(_new(folder / f"{path.stem}.log"), "pytest", "-q", "-m", "cuda", path)
        for path in files
    }
    counts = dict.fromkeys(("passed", "failed", "error", "skipped"), 0)
    lines = []
    for path, command in commands.items():
        status = command.wait(deadline)
        for other in commands.values():  # so that they end together
            other.interrupt_if_late(deadline)
        text = command.log.read_text(errors="replace")
        found = re.findall(r"(\d+) (passed|failed|error|skipped)", _last_line(command.log))
        for number, name in found:
            counts[name] += int(number)
        lines += [f"  {line}" for line in re.findall(r"^(?:FAILED|ERROR) .*", text, re.M)]
        if status is None:
            lines.append(f"  {path.relative_to(ROOT)} took too long")
        elif status not in (0, 1, 5):  # 1: tests failed, which the lines say; 5: the mark is text
            lines.append(f"  {path.relative_to(ROOT)}: {_last_line(command.log)}")
    summary = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    if not counts["passed"] and context.device != "cpu":
        lines.append("  no test passed: does PyTorch see the GPU?")
    if lines:
        raise StageError("\n".join([summary, *lines]))
    return [summary]


def _needs_gpu(path: Path) -> bool:
    return "mark.cuda" in path.read_text()


def _bench(context: Context, deadline: float) -> list[str]:
    log = _new(context.folder("bench") / "kept" / "bench.txt")
    options = ["--device", context.device, "--parts", "model", "training", "camera"]
    options += ["--output", str(context.output / "bench.json")]
    options += ["--small", "--repeats", "1"] if context.small else []
    options += [] if context.reference is None else ["--reference", str(context.reference)]
    _run(log, deadline, "benchmarks.bench", *options)
    lines = log.read_text().splitlines()[1:]
    if any(_OURS_LEFT_OUT.match(line) for line in lines):
        raise StageError("\n".join(lines))
    return lines


def _general(context: Context, deadline: float) -> list[str]:
    folder = context.folder("general")
    minutes = (deadline - time.monotonic()) / 60
    options = ["--config", "general", "--output", str(folder), "--minutes", f"{minutes:.2f}"]
    if context.small:
        options += ["--mode", "sketchy", "--image_size", "32", "--workers", "1"]
        options += ["--first_scenes", "4", "--most_scenes", "6", "--held_out_scenes", "0"]
        settings = {**_SMALL_GENERAL, "device": context.device}
        options += [f"--settings={' '.join(f'--{n}={v}' for n, v in settings.items())}"]
    else:
        options += ["--first_scenes", "1200"]
    options += [] if context.assets is None else ["--assets", str(context.assets)]
    if context.encoder_weights is not None:
        options += ["--encoder_weights", context.encoder_weights]
    try:
        # It ends by itself; to save little is better than to be cut off.
        _run(_new(folder / "kept" / "log.txt"), deadline + _LAST_WORDS, "training.rented", *options)
    finally:
        results = folder / "results"
        for path in results.iterdir() if results.is_dir() else ():
            shutil.copy(path, folder / "kept")
        _take_model(context, "general", results / "model.safetensors")
    return (folder / "kept" / "report.txt").read_text().splitlines()


def _sprites(context: Context, deadline: float) -> list[str]:
    scenes = ["sprites", "--min_objects", "2", "--max_objects", "5"]
    return _unsupervised(context, deadline, "sprites", 40_000, scenes)


def _tabletop(context: Context, deadline: float) -> list[str]:
    scenes = ["tabletop", "--mode", "sketchy", "--exposure", "0.42"]
    return _unsupervised(context, deadline, "tabletop", 20_000, scenes)


def _unsupervised(
    context: Context, deadline: float, name: str, count: int, scenes: list[str]
) -> list[str]:
    """Render, train with the paper's objective until the time is up, evaluate."""
    folder = context.folder(name)
    kept, data, run = folder / "kept", folder / "data", folder / "run"
    log = _new(kept / "log.txt")
    train, held_out, size, steps = (4, 2, 32, 20) if context.small else (count, 320, 64, 10**9)
    options = ["--train", train, "--val", held_out, "--test", held_out, "--image_size", size]
    command = ("training.prepare", *scenes, *options, "--output", data)
    _run(log, deadline, *command, variables=software_rendering())
    settings = {**(_SMALL if context.small else {}), "device": context.device}
    training = Command(
        log, "training.train", "--config", f"{name}_unsupervised", "--data.path", data,
        "--run", run, "--steps", steps, "--resume", "true",
        *(f"--{n}={v}" for n, v in settings.items()),
    )  # fmt: skip
    status, model = training.wait(deadline - _EVALUATION), run / "model.safetensors"
    if status or not model.exists():
        raise StageError(f"training left no model, status {status}: {_last_line(log)}")
    _take_model(context, f"{name}_unsupervised", model)
    shutil.copy(run / "metrics.jsonl", kept)
    scores = kept / "scores.json"
    _run(
        log, deadline + _LAST_WORDS, "training.evaluate", "--checkpoint", model, "--data", data,
        "--output", scores,
    )  # fmt: skip
    metrics = json.loads(scores.read_text())["models"][0]["metrics"]["fixed"]
    masks = [
        f"{source} {name.upper().replace('_', '-')} {metrics[source][name]:.3f}"
        for source in ("decoder", "attention")
        for name in ("ari_fg", "msc_fg", "r50")
    ]
    logged = [json.loads(line) for line in (kept / "metrics.jsonl").read_text().splitlines()]
    curve = [
        f"step {line['step']}, ARI-FG of validation images: decoder {line['decoder_ari_fg']:.2f}, "
        f"attention {line['attention_ari_fg']:.2f}"
        for line in logged
        if line["kind"] == "val"
    ]
    found = f"test images: {', '.join(masks)}, squared error {metrics['mse']:.4f}"
    speeds = [line["images_per_second"] for line in logged if line["kind"] == "train"]
    speed = f"{statistics.median(speeds):.0f} images/s" if speeds else "no speed logged"
    return [f"{logged[-1]['step']} steps, {speed}", *curve, found]


def _new(log: Path) -> Path:
    log.unlink(missing_ok=True)
    return log


def _take_model(context: Context, name: str, model: Path) -> None:
    if model.exists():
        shutil.copy(model, context.output / f"{name}.safetensors")


STAGES: dict[str, Stage] = {
    "tests": Stage(_tests, seconds=120),
    "bench": Stage(_bench, seconds=90),
    "general": Stage(_general, share=3),
    "sprites": Stage(_sprites),
    "tabletop": Stage(_tabletop),
}
"""In the order of their worth."""


# All together


def allotted(name: str, following: Sequence[str], left: float) -> float:
    """Seconds that a stage may take, of those that are left to it and to those that follow."""
    seconds = STAGES[name].seconds
    if seconds is not None:
        return min(seconds, left)
    left -= sum(STAGES[other].seconds or 0.0 for other in following)
    shares = sum(STAGES[other].share for other in following if STAGES[other].seconds is None)
    return max(0.0, left) * STAGES[name].share / (STAGES[name].share + shares)


def check(context: Context, stages: Sequence[str], minutes: float) -> bool:
    """Run stages one after the other; whether all did what they should."""
    deadline = time.monotonic() + 60 * minutes
    context.output.mkdir(parents=True, exist_ok=True)
    report = context.output / "report.txt"
    good = True
    with report.open("a") as file:

        def say(text: str) -> None:
            print(text, flush=True)
            print(text, file=file, flush=True)

        say(_machine(context.device))
        for place, name in enumerate(stages):
            began = time.monotonic()
            until = began + allotted(name, stages[place + 1 :], deadline - began)
            try:
                lines = STAGES[name].run(context, until)
            except Exception as error:  # noqa: BLE001 - the next stages are worth having
                good = False
                kind = "" if isinstance(error, StageError) else f"{type(error).__name__}: "
                lines = ["FAILED", *f"{kind}{error}".splitlines()]
            say(f"\n{name}: {time.monotonic() - began:.0f} s of {until - began:.0f}")
            for line in lines:
                say(f"  {line}")
            _pack(context)
    return good


def _machine(device: str) -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{name}, on {device}; {os.cpu_count()} cores; PyTorch {torch.__version__}; Python "
        f"{platform.python_version()}"
    )


def _pack(context: Context) -> None:
    """Put what the stages keep into one file, whole at any time."""
    partial = context.work / "details.tar.gz"
    with tarfile.open(partial, "w:gz") as archive:
        for folder in sorted(context.work.glob("*/kept")):
            for path in sorted(folder.iterdir()):
                if path.suffix != ".safetensors":
                    archive.add(path, f"{folder.parent.name}/{path.name}")
    shutil.move(partial, context.output / partial.name)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 if a stage failed."""
    parser = argparse.ArgumentParser(
        "gpu_checks.py",
        description=str(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES))
    add("--minutes", type=float, default=15.0, help="for all stages")
    add("--output", type=Path, default=Path("runs/gpu_checks/results"))
    add("--work", type=Path, default=Path("runs/gpu_checks"), help="folder for all the rest")
    add("--device", default="cuda", help="cuda, or cpu to try this command with --small")
    add("--reference", type=Path, help="a checkout of the authors' code, to be timed, too")
    add("--assets", type=Path, help="asset pack for household scenes (docs/assets.md)")
    add("--encoder-weights", help="weights of the default model's encoder, if not installed")
    add("--small", action="store_true", help="everything in a tiny form, to see that it runs")
    given = vars(parser.parse_args(arguments))
    stages, minutes = given.pop("stages"), given.pop("minutes")
    for name in ("work", "output", "reference", "assets"):
        given[name] = given[name] and given[name].absolute()
    try:
        resolve_device(given["device"])
    except DeviceError as error:  # before anything is rendered for it
        parser.error(str(error))
    if not check(Context(**given), stages, minutes):
        sys.exit(1)


if __name__ == "__main__":
    main()
