"""Draw learning curves of training runs: one metric over the steps, one line per run.

python -m training.curves --runs runs/a runs/b --metric val/attention_ari_fg --output curves.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from numpy.typing import NDArray

from genesis_core.files import atomic_path
from training.command_line import call
from training.run_folder import METRICS, read_metrics

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def read_curve(run: Path, metric: str) -> Curve:
    """Steps (N,) and values (N,) of a metric, such as train/elbo, in a run's metrics.jsonl.

    Raises:
        FileNotFoundError: the folder holds no run.
        ValueError: the run has not logged this metric; the message says which it has.
    """
    path = run / METRICS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: --runs expects folders of training runs")
    lines = read_metrics(path)
    kind, _, name = metric.partition("/")
    points = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
    if not points:
        logged = {f"{line['kind']}/{key}" for line in lines for key in line} - {
            f"{line['kind']}/{key}" for line in lines for key in ("kind", "step")
        }
        raise ValueError(f"{run} has no {metric}; it has {', '.join(sorted(logged)) or 'nothing'}")
    steps, values = zip(*points, strict=True)
    return np.array(steps, np.int64), np.array(values, np.float64)


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean of each value and up to ``window`` - 1 before it: (N,) to (N,)."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    smoothed: NDArray[np.float64] = (sums[ends] - sums[starts]) / (ends - starts)
    return smoothed


def run(
    runs: list[Path],
    output: Path,
    metric: str = "val/attention_ari_fg",
    window: int = 1,
    labels: list[str] | None = None,
) -> None:
    """Draw a metric's learning curves.

    Args:
        runs: folders of training runs.
        output: picture to write; .png, .svg or .pdf.
        metric: train/NAME or val/NAME, as in metrics.jsonl and TensorBoard.
        window: draw means over this many log entries, for noisy metrics.
        labels: names of the runs in the legend; by default their folders' names.
    """
    if window < 1:
        raise ValueError(f"window is {window}; expected at least 1")
    names = labels if labels is not None else [str(path.resolve().name) for path in runs]
    if len(names) != len(runs):
        raise ValueError(f"{len(names)} labels for {len(runs)} runs; expected one each")
    many = len(runs) > 5  # a legend for them would hide the curves
    figure = Figure(figsize=(10 if many else 8, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(color=matplotlib.color_sequences["tab10" if len(runs) <= 10 else "tab20"])
    for path, name in zip(runs, names, strict=True):
        steps, values = read_curve(path, metric)
        last = smooth(values, window)[-1]
        axes.plot(steps, smooth(values, window), label=f"{name} ({last:.4g})")
    axes.set_xlabel("step")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if many:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.legend()
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as partial:
        figure.savefig(partial, dpi=120)
    print(f"wrote {output}")


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="curves.py", description="Draw learning curves.")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs")
    parser.add_argument("--labels", nargs="+", help="names of the runs in the legend")
    parser.add_function_arguments(run, skip={"runs", "labels"}, as_positional=False)
    call(run, parser, arguments)


if __name__ == "__main__":
    main()
