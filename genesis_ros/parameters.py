"""Every parameter of the perception node: its type, default, meaning and allowed values.

This is the one place where a parameter is defined; the node's declarations, descriptors, checks and
its typed settings all come from here.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name

from genesis_ros.objects import MAX_OBJECTS

Value = bool | int | float | str | tuple[str, ...]


class ParameterError(ValueError):
    """A parameter's value cannot be used. The text names it, what was given and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """What a parameter means and which values it takes, beside its type and default."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None  # returns what is wrong
    live: bool = False  # may change while the node is configured

    @property
    def allowed(self) -> str:
        """The allowed values in words, "" if the type says it all."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return f"{self.low:g} to {self.high:g}" if self.low is not None else ""


def _parameter(default: Value, description: str, **rule: Any) -> Any:
    return field(default=default, metadata={"rule": Rule(description, **rule)})


def _check_device(device: str) -> str | None:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        return None
    return "expected auto, cpu, cuda or cuda:n"


def _check_topics(topics: tuple[str, ...]) -> str | None:
    if len(topics) != 1:
        return "expected exactly one image topic"
    for topic in topics:
        try:
            validate_topic_name(topic)
        except InvalidTopicNameException as error:
            return " ".join(str(error).split())
    return None


def _check_slots(slots: int) -> str | None:
    return "a single slot cannot tell objects apart" if slots == 1 else None


@dataclass(frozen=True)
class Settings:
    """The node's parameters, typed and checked."""

    autostart: bool = _parameter(
        True, "Configure and activate by itself at start-up; false: a lifecycle manager does."
    )
    checkpoint: str = _parameter(
        "", "Path of the model's checkpoint; empty: the one that ships with the package."
    )
    device: str = _parameter(
        "auto",
        "Where the model runs: cpu, cuda, cuda:n, or auto (CUDA where there is one).",
        check=_check_device,
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the model; auto: half precision where the device computes natively in it.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    max_slots: int = _parameter(
        0,
        "Most slots (objects and background) per image; 0: as many as the checkpoint says.",
        low=0,
        high=64,
        check=_check_slots,
        live=True,
    )
    stop_threshold: float = _parameter(
        0.0,
        "Stop looking for slots when the next one would be smaller than this [pixels at 64x64]; "
        "0: always use all slots.",
        low=0.0,
        high=4096.0,
        live=True,
    )
    mask_source: str = _parameter(
        "auto",
        "Masks of the decoder or of the attention (faster: the decoder is not run); "
        "auto: what the checkpoint says is better.",
        choices=("auto", "decoder", "attention"),
    )
    fit: str = _parameter(
        "resize",
        "How an image becomes the model's square input: resize squeezes all of it, "
        "crop takes the largest centre square and finds nothing outside.",
        choices=("resize", "crop"),
        live=True,
    )
    image_topics: tuple[str, ...] = _parameter(
        ("/camera/image_raw",),
        "Camera image topic, one for now. A name that ends in /compressed is a compressed one.",
        check=_check_topics,
    )
    image_transport: str = _parameter(
        "auto",
        "raw (sensor_msgs/Image on the topic), compressed (sensor_msgs/CompressedImage on "
        "<topic>/compressed), or auto: raw if it is published, else compressed.",
        choices=("auto", "raw", "compressed"),
    )
    qos_reliability: str = _parameter(
        "auto",
        "Reliability of the image subscription: best_effort (hears every camera, may lose large "
        "frames), reliable, or auto: reliable unless a publisher offers only best effort.",
        choices=("auto", "best_effort", "reliable"),
    )
    min_area: float = _parameter(
        0.0005,
        "Slots that cover a smaller share of the image are no objects; "
        "their pixels go to the next best slot.",
        low=0.0,
        high=1.0,
        live=True,
    )
    mask_floor: float = _parameter(
        0.1,
        "Smaller mask probabilities become 0 (the pixel's best object takes them), which keeps the "
        "published crops small; 0: keep all.",
        low=0.0,
        high=1.0,
        live=True,
    )
    background_border: float = _parameter(
        0.2,
        "A slot that covers at least this share of the image's border is flagged as background.",
        low=0.0,
        high=1.0,
        live=True,
    )
    overlay_alpha: float = _parameter(
        0.5, "Strength of the objects' colours in the overlay.", low=0.0, high=1.0, live=True
    )
    diagnostics_period: float = _parameter(
        1.0, "Time between two diagnostics [s].", low=0.1, high=60.0, live=True
    )
    stale_timeout: float = _parameter(
        2.0,
        "A camera without images for this long is reported as stale [s].",
        low=0.1,
        high=3600.0,
        live=True,
    )


RULES: dict[str, Rule] = {item.name: item.metadata["rule"] for item in fields(Settings)}
_TYPES: dict[str, type] = {
    name: str if hint is str else getattr(hint, "__origin__", hint)
    for name, hint in get_type_hints(Settings).items()
}
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text",
               tuple: "a list of texts"}  # fmt: skip
assert RULES["max_slots"].high is not None and RULES["max_slots"].high <= MAX_OBJECTS


def check(name: str, value: object) -> Value:
    """The value in the parameter's own type (an integer serves as a number).

    Raises ParameterError if the type is wrong or the value not allowed.
    """
    rule, kind, given = RULES[name], _TYPES[name], value
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind or (kind is tuple and not _all_text(value)):
        raise ParameterError(f"parameter {name} is {given!r}; expected {_TYPE_NAMES[kind]}")
    wrong = None
    if rule.choices and value not in rule.choices:
        wrong = f"expected {rule.allowed}"
    elif rule.low is not None and rule.high is not None:
        assert isinstance(value, int | float)
        if not (math.isfinite(value) and rule.low <= value <= rule.high):
            wrong = f"expected {rule.allowed}"
    if wrong is None and rule.check is not None:
        wrong = rule.check(value)
    if wrong is not None:
        raise ParameterError(f"parameter {name} is {given!r}; {wrong}")
    assert isinstance(value, bool | int | float | str | tuple)
    return value


class NodeParameters:
    """The parameters of a node: declares them, checks every change, and gives typed settings.

    A bad value given at start-up does not end the node: the default takes its place, and settings()
    refuses until the parameter is set right. An unknown name is reported with the likely one.

    is_configured: whether parameters that are not live must stay as they are.
    on_change: called with the new settings after a change.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        on_change: Callable[[Settings], None],
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._on_change = on_change
        self._refused: dict[str, str] = {}
        for name, default in vars(Settings()).items():
            self._declare(name, default)
        self._report_unknown()
        node.add_pre_set_parameters_callback(_numbers)
        node.add_on_set_parameters_callback(self._check_change)
        node.add_post_set_parameters_callback(self._changed)

    def settings(self) -> Settings:
        """All parameters. Raises ParameterError, naming each that still has a refused value."""
        if self._refused:
            raise ParameterError("; ".join(self._refused.values()))
        values: dict[str, Any] = {
            name: check(name, self._node.get_parameter(name).value) for name in RULES
        }
        return Settings(**values)

    def _declare(self, name: str, default: Value) -> None:
        # First without a type, which takes whatever was given at start-up.
        anything = ParameterDescriptor(dynamic_typing=True)
        given = self._node.declare_parameter(name, _plain(default), anything).value
        self._node.undeclare_parameter(name)
        value = default
        try:
            value = check(name, given)
        except ParameterError as error:
            self._refused[name] = str(error)
        self._node.declare_parameter(name, _plain(value), _descriptor(name), ignore_override=True)

    def _report_unknown(self) -> None:
        # rclpy ignores them in silence, and has no public list of them.
        given: Iterable[str] = getattr(self._node, "_parameter_overrides", ())
        for name in sorted(given):
            # Those that every node has are declared; those of QoS overrides come with the topics.
            if self._node.has_parameter(name) or name.startswith("qos_overrides."):
                continue
            similar = difflib.get_close_matches(name, RULES, n=1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            self._node.get_logger().warning(f"ignored the unknown parameter {name}{hint}")

    def _check_change(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            name = parameter.name
            if name not in RULES:
                continue
            try:
                check(name, parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            if not RULES[name].live and self._is_configured():
                reason = (
                    f"parameter {name} cannot change while the node is configured: "
                    "deactivate and clean up the node, set it, then configure and activate again"
                )
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _changed(self, parameters: list[Parameter[Any]]) -> None:
        for parameter in parameters:
            self._refused.pop(parameter.name, None)
        if not self._refused and any(parameter.name in RULES for parameter in parameters):
            self._on_change(self.settings())


def _numbers(parameters: list[Parameter[Any]]) -> list[Parameter[Any]]:
    """`ros2 param set ... 20` sends an integer: take it where a floating point number is due."""
    return [
        Parameter(item.name, Parameter.Type.DOUBLE, float(item.value))
        if _TYPES.get(item.name) is float and item.type_ is Parameter.Type.INTEGER
        else item
        for item in parameters
    ]


def _descriptor(name: str) -> ParameterDescriptor:
    rule = RULES[name]
    descriptor = ParameterDescriptor(
        description=rule.description,
        additional_constraints="; ".join(
            part
            for part in (rule.allowed, "" if rule.live else "changes only while unconfigured")
            if part
        ),
    )
    if rule.low is not None and rule.high is not None:
        if _TYPES[name] is int:
            span = IntegerRange(from_value=int(rule.low), to_value=int(rule.high))
            descriptor.integer_range = [span]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(rule.low), to_value=float(rule.high))
            ]
    return descriptor


def _plain(value: Value) -> Any:
    """As rclpy takes it."""
    return list(value) if isinstance(value, tuple) else value


def _all_text(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
