"""Diagnostic messages of the perception node (/diagnostics), for rqt_robot_monitor and the like."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from genesis_ros.node.frame_statistics import Report, Times, summarise

_SHOWN_PROBLEMS = 5  # per camera and period


def node_status(
    name: str, *, state: str, failure: str | None, model: Mapping[str, object]
) -> DiagnosticStatus:
    """Status of the node and its model.

    Args:
        name: full name of the node.
        state: lifecycle state, or "paused".
        failure: why the last transition failed.
        model: facts about the process and the loaded model.
    """
    if failure is not None:
        level, text = DiagnosticStatus.ERROR, failure
    elif state == "active":
        level, text = DiagnosticStatus.OK, "active"
    else:
        level, text = DiagnosticStatus.WARN, f"{state}: no images are processed"
    return _status(name, level, text, str(model.get("device", "")), {"state": state, **model})


def resident_memory() -> int:
    """Memory of this process [bytes], shared libraries included."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def camera_status(
    name: str,
    topic: str,
    source: str,
    publishers: int,
    report: Report,
    stale_timeout: float,
    *,
    depth: str | None = None,
    transform: str | None = None,
    stamps: str | None = None,
    registration: str | None = None,
    wrong_type: str | None = None,
    facts: Mapping[str, object] | None = None,
) -> DiagnosticStatus:
    """Status of one camera over one period.

    Args:
        topic: of the camera, after which the status is called: it stays the same whichever
            transport is listened to.
        source: the topic that is subscribed to.
        depth: why there are no positions; None: there are, or nobody asked for them.
        transform: why positions are not in the target frame, too.
        stamps: what is wrong with the stamps.
        registration: why depth seems not to be registered to the images.
        wrong_type: what is published instead of images.
        facts: more about the camera.
    """
    level, text = _judge(report, wrong_type or f"{publishers} publishers", source, stale_timeout)
    parts = (
        depth and f"no positions: {depth}",
        transform and f"no poses: {transform}",
        stamps,
        registration,
    )
    warnings = [part for part in parts if part]
    if warnings and level == DiagnosticStatus.OK:
        level, text = DiagnosticStatus.WARN, "; ".join(warnings)
    values: dict[str, object] = {
        **(facts or {}),
        "topic": source,
        "publishers": publishers,
        "rate [Hz]": f"{report.rate:.1f}",
    }
    for part in Times._fields:
        latency = summarise([getattr(times, part) for times in report.times])
        if latency is not None:
            for statistic, value in latency._asdict().items():
                values[f"{part} {statistic} [ms]"] = f"{value * 1e3:.1f}"
    for what, count in vars(report.total).items():
        values[f"frames {what}"] = count
    if report.slots:
        values["input"] = _input(report)
        values["slots mean"] = f"{sum(report.slots) / len(report.slots):.1f}"
        values["slots maximum"] = max(report.slots)
    for number, (problem, count) in enumerate(report.problems.most_common(_SHOWN_PROBLEMS), 1):
        values[f"problem {number}"] = f"{count} x {problem}"
    return _status(f"{name}: {topic}", level, text, topic, values)


def _input(report: Report) -> str:
    """What the model saw in this period: "RGB-D 97%, RGB 3%"."""
    share = round(100 * report.with_depth / len(report.slots))
    parts = (("RGB-D", share), ("RGB", 100 - share))
    return ", ".join(f"{name} {part}%" for name, part in parts if part)


def _judge(report: Report, found: str, source: str, stale_timeout: float) -> tuple[bytes, str]:
    period = report.period
    if report.unanswered is not None:
        return DiagnosticStatus.ERROR, hanging(report.unanswered)
    if period.failed:
        return DiagnosticStatus.ERROR, f"{period.failed} frames lost: {report.newest_failure}"
    if period.refused:
        return DiagnosticStatus.WARN, f"{period.refused} unusable frames: {report.newest_refusal}"
    if period.lost:
        return DiagnosticStatus.WARN, (
            f"{period.lost} frames lost on the way: see qos_reliability, or enlarge the "
            "middleware's buffers (net.core.rmem_default)"
        )
    if report.age is None or report.age > stale_timeout:
        since = "yet" if report.age is None else f"for {report.age:.1f} s"
        return DiagnosticStatus.WARN, f"no image {since} on {source} ({found})"
    return DiagnosticStatus.OK, f"{report.rate:.1f} Hz"


def hanging(seconds: float) -> str:
    """What is said of images that arrive and of which none comes to an end."""
    return f"images arrive, and for {seconds:.1f} s none has come to an end: the model hangs"


def _status(
    name: str, level: bytes, text: str, hardware: str, values: Mapping[str, object]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=text,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )
