"""One HTML page about what a model does: scores, learning curves, and every image beside its masks.

The page is a single file that needs no network. Images can be sorted by error and filtered; it
follows the browser's light or dark theme. evaluate.py, visualise.py and train.py write it.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from genesis_core import SlotOutput
from genesis_core.files import write_atomically
from genesis_core.models.losses import log_masks_at
from training.datasets.layout import IGNORED
from training.run_folder import METRICS, read_metrics
from training.scoring import Metrics, ScoredBatch
from training.sheets import Picture, overlay, painted, to_pictures
from training.table_forms import Table, html

PAGE = "report.html"
LARGEST_SIDE, SMALLEST_SIDE = 320, 128
"""Of a picture, in pixels. Smaller ones are enlarged by a whole factor, which keeps them sharp."""
QUALITY = 82
MOST_IMAGES = 150
"""How many images a page shows; the worst ones, if there are more."""
POINTS = 300
"""Of a curve; more are averaged."""
_ASSETS = Path(__file__).parent / "report_page"
_CHART = (300, 150)  # width and height of a curve's picture
_COLOURS = 6  # that the style sheet has for curves
_NOT_DRAWN = {"step", "kind", "learning_rate", "gradient_norm", "images_per_second"}


class Measure(NamedTuple):
    """A number that every image has: its heading, decimals, and whether more of it is better."""

    title: str
    decimals: int
    more_is_better: bool


MEASURES = {
    "f": Measure("F", 2, True),
    "msc_fg": Measure("MSC-FG", 2, True),
    "ari_fg": Measure("ARI-FG", 2, True),
    "boundary_f": Measure("Boundary F", 2, True),
    "lost": Measure("Lost", 0, False),
    "merged": Measure("Merged", 0, False),
    "split": Measure("Split", 0, False),
    "mse": Measure("Squared error", 4, False),
    "certainty": Measure("Certainty", 2, True),
    "slots": Measure("Slots", 0, False),
}
"""What images can be sorted by, the first that there is first. Certainty is the mean probability of
the slot that wins a pixel."""


@dataclass(frozen=True)
class ImageResult:
    """What a page shows of an image.

    Attributes:
        name: of the image.
        group: what the image is filtered by; "" for none.
        result: which of several results, by checkpoint or input; "" for the only one.
        values: of ``MEASURES``; None where unknown.
        pictures: caption and data URI.
    """

    name: str
    group: str
    result: str
    values: dict[str, float | None]
    pictures: list[tuple[str, str]]

    @property
    def error(self) -> tuple[bool, float]:
        """To sort by: the worst have the largest; those without a value come last."""
        for key, measure in MEASURES.items():
            if (value := self.values.get(key)) is not None:
                return True, -value if measure.more_is_better else value
        return False, 0.0


class Curve(NamedTuple):
    """A metric of a run: steps (N,) and values (N,)."""

    run: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]


@dataclass
class Report:
    """What a page holds; ``write`` makes it.

    Attributes:
        title: of the page.
        facts: short phrases below the title.
        tables: scores.
        curves: by metric, of one or several runs.
        images: in any order.
        scenes: generated scenes, caption and data URI.
    """

    title: str
    facts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    images: list[ImageResult] = field(default_factory=list)
    scenes: list[tuple[str, str]] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write the page into a folder, which is made if need be; returns its path."""
        sections = [
            _section("Scores", "".join(map(html, self.tables))),
            _section("Learning curves", _charts(self.curves)),
            _section("Images", self._gallery()),
            _section("Generated scenes", _strip(self.scenes, "generated scene")),
        ]
        page = Template((_ASSETS / "page.html").read_text()).substitute(
            title=escape(self.title),
            facts="".join(f"<li>{escape(fact)}</li>" for fact in self.facts),
            sections="\n".join(filter(None, sections)),
            style=(_ASSETS / "page.css").read_text(),
            script=(_ASSETS / "page.js").read_text(),
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / PAGE, page)
        return folder / PAGE

    def _gallery(self) -> str:
        if not self.images:
            return ""
        shown = sorted(self.images, key=lambda image: image.error, reverse=True)[:MOST_IMAGES]
        known = [k for k in MEASURES if any(i.values.get(k) is not None for i in shown)]
        left_out = len(self.images) - len(shown)
        note = f"<p>The {len(shown)} worst of {len(self.images)} images.</p>" if left_out else ""
        bar = [
            _choice("result", "Result", [image.result for image in self.images]),
            _choice("group", "Group", [image.group for image in self.images]),
            _order(known),
            _field("name", "Name", '<input id="name" type="search" placeholder="part of a name">'),
            '<output id="count" aria-live="polite"></output>',
        ]
        cards = "\n".join(_card(image, known) for image in shown)
        nothing = '<p id="none" class="empty" hidden>No image fits.</p>'
        return f'{note}<div class="bar">{"".join(bar)}</div><div id="cards">{cards}</div>{nothing}'


# Pictures


def data_uri(picture: Picture) -> str:
    """A picture as part of a page: WebP, its longer side at most ``LARGEST_SIDE`` pixels."""
    factor = -(-SMALLEST_SIDE // max(picture.shape[:2]))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = picture.shape[:2]
    scale = LARGEST_SIDE / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".webp", colours, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    return f"data:image/webp;base64,{base64.b64encode(data.tobytes()).decode()}"


def compared(
    image: Picture,
    segments: NDArray[np.integer],
    truth: NDArray[np.integer] | None,
    reconstruction: Picture | None = None,
    further: Mapping[str, NDArray[np.integer]] | None = None,
    *,
    background: bool = False,
) -> list[tuple[str, str]]:
    """An image, its truth and what was found, each a caption and a data URI.

    A segment has the colour of the true object that it fits best.

    Args:
        image: (H, W, 3) uint8 RGB.
        segments: (H, W) labels; 0 is background if so said, else a segment as any other.
        truth: (H, W) labels, 0 = background, 255 = not scored; None where it is unknown.
        reconstruction: (h, w, 3) of any size.
        further: other segments of the image, by caption.
        background: whether label 0 of the segments is background.
    """
    pictures = {"image": image}
    if truth is not None:
        pictures["truth"] = painted(truth.astype(np.uint8))
    for caption, labels in {"masks": segments, **(further or {})}.items():
        if not background:
            labels = labels + 1  # 0 would be drawn as background
        if truth is not None:
            labels = in_colours_of(truth, labels)
            labels = np.where(truth == IGNORED, IGNORED, labels)
        pictures[caption] = painted(labels.astype(np.uint8))
        if caption == "masks":
            over = np.where(labels == IGNORED, 0, labels)
            pictures["overlay"] = overlay(image, over, background=True)
    if reconstruction is not None:
        pictures["reconstruction"] = reconstruction
    return [(caption, data_uri(picture)) for caption, picture in pictures.items()]


def in_colours_of(truth: NDArray[np.integer], labels: NDArray[np.integer]) -> NDArray[np.int64]:
    """Labels (H, W) renumbered: a segment has the number of the object it fits best, one to one.

    Those that fit none have numbers that no object has. 0 stays 0, and a segment that fits the
    background best becomes 0.
    """
    known = truth != IGNORED
    true_ids, rows = np.unique(truth[known], return_inverse=True)
    found_ids, columns = np.unique(labels[known], return_inverse=True)
    table = np.zeros((len(true_ids), len(found_ids)), np.int64)
    np.add.at(table, (rows, columns), 1)
    unions = table.sum(1)[:, None] + table.sum(0)[None] - table
    ious = table / np.maximum(unions, 1)
    ious[true_ids == 0] *= found_ids == 0 if 0 in found_ids else 1
    ious[:, found_ids == 0] *= (true_ids == 0)[:, None]
    matched = {
        int(found_ids[j]): int(true_ids[i])
        for i, j in zip(*linear_sum_assignment(ious, maximize=True), strict=True)
        if ious[i, j] > 0
    }
    first = int(true_ids.max(initial=0)) + 1
    result = np.zeros(labels.shape, np.int64)
    for label in np.unique(labels):
        if label == 0:
            continue
        if int(label) in matched:
            result[labels == label] = matched[int(label)]
        else:
            result[labels == label] = min(first, IGNORED - 1)
            first += 1
    return result


def model_results(
    batch: ScoredBatch,
    out: SlotOutput,
    metrics: Metrics,
    names: Sequence[str],
    mask_source: str,
    result: str = "",
) -> list[ImageResult]:
    """What a page shows of a forward pass.

    Args:
        metrics: what ``scoring.score`` says of it.
        names: of the images.
        mask_source: which masks to show first: attention or decoder.
        result: see ``ImageResult``.
    """
    size = batch.images.shape[-1]
    pictures = to_pictures(batch.images)
    segments: dict[str, NDArray[np.int64]] = {}
    certainty = np.zeros(len(names))
    for source, masks in (("attention", out.log_attention), ("decoder", out.log_masks)):
        if masks is None:
            continue
        best, winner = log_masks_at(masks, size)[:, :, 0].float().max(dim=1)
        segments[source] = winner.cpu().numpy()
        if source == mask_source or len(segments) == 1:
            certainty = best.exp().mean(dim=(1, 2)).cpu().numpy()
    first = mask_source if mask_source in segments else next(iter(segments))
    scores = metrics.get(first) or {}
    rebuilt = None if out.reconstruction is None else to_pictures(out.reconstruction)
    results = []
    for i, name in enumerate(names):
        truth = None if batch.masks is None else batch.masks[i]
        objects = _objects(truth, batch.robot_label)
        values: dict[str, float | None] = {
            "msc_fg": float(scores["msc_fg"][i]) if objects else None,
            "ari_fg": float(scores["ari_fg"][i]) if objects > 1 else None,
            "mse": None if metrics["mse"] is None else float(metrics["mse"][i]),
            "slots": float(metrics["slots"][i]),
            "certainty": float(certainty[i]),
        }
        others = {f"{s} masks": found[i] for s, found in segments.items() if s != first}
        shown = compared(
            pictures[i], segments[first][i], truth, None if rebuilt is None else rebuilt[i], others
        )
        group = "" if truth is None else f"{objects} object{'s' * (objects != 1)}"
        results.append(ImageResult(name, group, result, values, shown))
    return results


def _objects(truth: NDArray[np.integer] | None, robot_label: int | None) -> int:
    """How many objects there are, the robot left out; none where the truth is unknown."""
    if truth is None:
        return 0
    return int(np.setdiff1d(truth, [0, robot_label or 0, IGNORED]).size)


# Parts of the page


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>" if content else ""


def _choice(key: str, title: str, options: Iterable[str]) -> str:
    """A list to filter by; nothing where there is nothing to choose."""
    known = sorted({option for option in options if option}, key=_natural)
    if len(known) < 2:
        return ""
    entries = "".join(f"<option>{escape(option)}</option>" for option in known)
    choice = (
        f'<select data-filter="{key}" id="{key}"><option value="">all</option>{entries}</select>'
    )
    return _field(key, title, choice)


def _field(key: str, title: str, control: str) -> str:
    return f'<div class="field"><label for="{key}">{title}</label>{control}</div>'


def _natural(text: str) -> tuple[int, str]:
    """Numbers at the start in the order of numbers."""
    number = text.split(" ")[0]
    return (int(number) if number.isdecimal() else 0), text


def _order(measures: Sequence[str]) -> str:
    options = []
    for key in measures:
        measure = MEASURES[key]
        worst, best = ("low", "high") if measure.more_is_better else ("high", "low")
        options.append((f"{key} {worst}", f"{measure.title}, worst first"))
        options.append((f"{key} {best}", f"{measure.title}, best first"))
    options.append(("name", "Name"))
    entries = "".join(f'<option value="{value}">{escape(t)}</option>' for value, t in options)
    return _field("sort", "Sort by", f'<select id="sort">{entries}</select>')


def _card(image: ImageResult, measures: Sequence[str]) -> str:
    values = {key: _finite(image.values.get(key)) for key in measures}
    chips = "".join(
        f"<li>{escape(MEASURES[key].title)} {value:.{MEASURES[key].decimals}f}</li>"
        for key, value in values.items()
        if value is not None
    )
    about = " · ".join(filter(None, [image.group, image.result]))
    attributes = {
        "name": image.name,
        "group": image.group,
        "result": image.result,
        "values": json.dumps(values),
    }
    data = " ".join(f'data-{key}="{escape(value)}"' for key, value in attributes.items())
    return (
        f'<article class="card" {data}><header><h3>{escape(image.name)}</h3>'
        f'<span>{escape(about)}</span><ul class="chips">{chips}</ul></header>'
        f"{_strip(image.pictures, image.name)}</article>"
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _strip(pictures: Sequence[tuple[str, str]], name: str) -> str:
    """Pictures in a row; a click enlarges one."""
    if not pictures:
        return ""
    figures = "".join(
        f'<figure><button type="button"><img src="{uri}" alt="{escape(f"{name}: {caption}")}" '
        f'loading="lazy" decoding="async"></button><figcaption>{escape(caption)}</figcaption>'
        "</figure>"
        for caption, uri in pictures
    )
    return f'<div class="strip" tabindex="0" role="group">{figures}</div>'


# Curves


def read_curves(runs: Mapping[str, Path]) -> dict[str, list[Curve]]:
    """All metrics that training runs have logged, by kind and name; validation first.

    Args:
        runs: their folders, by name; those without a log are left out.
    """
    found: dict[str, list[Curve]] = {}
    for name, folder in runs.items():
        if not (folder / METRICS).is_file():
            continue
        points: dict[str, list[tuple[float, float]]] = {}
        for line in read_metrics(folder / METRICS):
            for key in line.keys() - _NOT_DRAWN:
                points.setdefault(f"{line['kind']}/{key}", []).append((line["step"], line[key]))
        for metric, of_metric in points.items():
            array = np.array(of_metric, np.float64)
            array = array[np.isfinite(array).all(axis=1)]
            if len(array) > 1:
                found.setdefault(metric, []).append(Curve(name, array[:, 0], array[:, 1]))
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("val/"), item[0])))


def _charts(curves: Mapping[str, Sequence[Curve]]) -> str:
    if not curves:
        return ""
    runs = list(dict.fromkeys(curve.run for lines in curves.values() for curve in lines))
    legend = ""
    if len(runs) > 1:
        entries = (
            f'<li><i style="background:var(--c{i % _COLOURS})"></i>{escape(run)}</li>'
            for i, run in enumerate(runs)
        )
        legend = f'<ul class="legend">{"".join(entries)}</ul>'
    charts = "".join(_chart(metric, lines, runs) for metric, lines in curves.items())
    return f'{legend}<div class="charts">{charts}</div>'


def _chart(metric: str, curves: Sequence[Curve], runs: Sequence[str]) -> str:
    """A metric over the steps, as a figure with SVG; the highest and lowest 1% may be cut off."""
    width, height = _CHART
    left, right, top, bottom = 4, 4, 8, 20
    every = np.concatenate([curve.values for curve in curves])
    low, high = (float(v) for v in np.percentile(every, [1, 99]))
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    last = max(float(curve.steps[-1]) for curve in curves)

    def x(step: float) -> float:
        return left + (width - left - right) * step / max(last, 1)

    def y(value: float) -> float:
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return height - bottom - (height - top - bottom) * share

    lines = []
    for curve in curves:
        steps, values = _thinned(curve.steps), _thinned(curve.values)
        points = " L".join(f"{x(s):.1f} {y(v):.1f}" for s, v in zip(steps, values, strict=True))
        colour = runs.index(curve.run) % _COLOURS
        lines.append(f'<path d="M{points}" style="stroke:var(--c{colour})"/>')
    ends = "; ".join(
        f"{curve.run} from {curve.values[0]:.4g} to {curve.values[-1]:.4g}" for curve in curves
    )
    about = f"{metric}: {ends} at step {last:.0f}"
    latest = ", ".join(_short(float(curve.values[-1])) for curve in curves)
    return (
        f'<figure class="chart"><figcaption>{escape(metric)} <span>{latest}</span></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">'
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{height - bottom}" '
        f'y2="{height - bottom}"/>'
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{top}" y2="{top}"/>'
        f"{''.join(lines)}"
        f'<text x="{left}" y="{top + 12}">{_short(high)}</text>'
        f'<text x="{left}" y="{height - bottom - 4}">{_short(low)}</text>'
        f'<text x="{left}" y="{height - 5}">0</text>'
        f'<text x="{width - right}" y="{height - 5}" text-anchor="end">step {last:,.0f}</text>'
        "</svg></figure>"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most ``POINTS`` values: means of neighbours, but for the last value."""
    step = -(-len(values) // POINTS)
    if step < 2:
        return values
    parts = np.array([part.mean() for part in np.split(values, range(step, len(values), step))])
    parts[-1] = values[-1]
    return parts
