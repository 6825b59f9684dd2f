"""Every parameter of the perception node: its type, default, meaning and allowed values.

This is the one place where a parameter is defined; the node's declarations, descriptors, checks and
its typed settings all come from here.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
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

from genesis_bags.decoding.compressed_depth import COMPRESSED_DEPTH
from genesis_bags.decoding.images import Reading
from genesis_core import PerceptionSettings, Region
from genesis_core.perception.scene_objects import MAX_OBJECTS
from genesis_core.pipeline import USES_OF_DEPTH

MAX_CAMERAS = 16
"""Most image topics of one node."""

COMPRESSED_SUFFIX = "/compressed"
"""Of a topic with a camera's compressed images."""

#: Parameters with one item per image topic; [""] gives none of them.
PER_CAMERA = ("camera_names", "depth_topics", "camera_info_topics", "regions")

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


def _check_regions(regions: tuple[str, ...]) -> str | None:
    for text in regions:
        try:
            Region.parse(text)
        except ValueError as error:
            return str(error)
    return None


def _check_topics(topics: tuple[str, ...]) -> str | None:
    if not 1 <= len(topics) <= MAX_CAMERAS:
        return f"expected 1 to {MAX_CAMERAS} topics"
    if len(set(topics)) < len(topics):
        return "a topic is listed twice"
    for topic in topics:
        try:
            validate_topic_name(topic)
        except InvalidTopicNameException as error:
            return " ".join(str(error).split())
    return None


def _check_image_topics(topics: tuple[str, ...]) -> str | None:
    """As `_check_topics`, but a single "" stands for the default camera."""
    if topics == ("",):
        return None
    for topic in topics:
        if topic.endswith(COMPRESSED_DEPTH):
            return f"{topic} carries depth, not images; name the colour camera's topic"
        if topic + COMPRESSED_SUFFIX in topics:
            return (
                f"{topic} and {topic}{COMPRESSED_SUFFIX} are the same camera; name one of them "
                "(image_transport chooses between raw and compressed)"
            )
    return _check_topics(topics)


def _check_depth_topics(topics: tuple[str, ...]) -> str | None:
    """As `_check_optional_topics`, but a depth camera is named once."""
    for topic in topics:
        for transport in (COMPRESSED_DEPTH, COMPRESSED_SUFFIX):
            if topic and topic + transport in topics:
                return (
                    f"{topic} and {topic}{transport} are the same depth camera; name one of them "
                    "(image_transport chooses between raw and compressed)"
                )
    return _check_optional_topics(topics)


def _check_info_topics(topics: tuple[str, ...]) -> str | None:
    """As `_check_optional_topics`, but no images."""
    for topic in topics:
        if topic.endswith((COMPRESSED_DEPTH, COMPRESSED_SUFFIX)):
            return f"{topic} carries images; name the topic of their camera_info"
    return _check_optional_topics(topics)


def _check_optional_topics(topics: tuple[str, ...]) -> str | None:
    """As `_check_topics`, but "" stands for none, and several cameras may share one."""
    given = tuple(dict.fromkeys(topic for topic in topics if topic))
    return _check_topics(given) if given else None


def _check_names(names: tuple[str, ...]) -> str | None:
    given = [name for name in names if name]
    if len(set(given)) < len(given):
        return "a name is listed twice"
    for name in given:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            return f"{name!r} cannot be part of a topic: use letters, digits and _"
    return None


def _check_frame(frame: str) -> str | None:
    if frame.startswith("/"):
        return "frames of tf2 do not begin with /"
    return "expected a frame's name, without blanks" if re.search(r"\s", frame) else None


def _check_slots(slots: int) -> str | None:
    return "a single slot cannot tell objects apart" if slots == 1 else None


def _check_stop_threshold(pixels: float) -> str | None:
    return "expected 0 to 4096, or -1" if -1 < pixels < 0 else None


@dataclass(frozen=True)
class NodeSettings:
    """The node's parameters, typed and checked."""

    autostart: bool = _parameter(
        True, "Configure and activate the node at start-up. false: a lifecycle manager does it."
    )
    checkpoint: str = _parameter(
        "",
        "The model: the path of a checkpoint, or one that ships with the package: tabletop, "
        "tabletop_256 (slower, for smaller objects), tabletop_sketchy, tabletop_small (faster) or "
        "tabletop_unsupervised. Empty: tabletop.",
    )
    device: str = _parameter(
        "auto",
        "Where the model runs: cpu, cuda, cuda:n, or auto (CUDA where there is one).",
        check=_check_device,
    )
    precision: str = _parameter(
        "auto",
        "Arithmetic of the model. auto: half precision where the device computes natively in it.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    threads: int = _parameter(
        0,
        "Threads that share a pass of the model, on the CPU. 0: one for each core that other "
        "programs leave free, at most OMP_NUM_THREADS.",
        low=0,
        high=256,
        live=True,
    )
    max_slots: int = _parameter(
        0,
        "Most slots (objects and background) per image, 2 or more. 0: as many as the checkpoint "
        "says.",
        low=0,
        high=64,
        check=_check_slots,
        live=True,
    )
    stop_threshold: float = _parameter(
        -1.0,
        "A slot smaller than this [pixels at 64x64] is the image's last one, or is left out: the "
        "checkpoint says which (tabletop leaves it out). 0: all slots are used. -1, the only "
        "negative value: what the checkpoint says.",
        low=-1.0,
        high=4096.0,
        check=_check_stop_threshold,
        live=True,
    )
    mask_source: str = _parameter(
        "auto",
        "Which of the model's masks are used: attention (faster, the decoder does not run), "
        "decoder, or auto: what the checkpoint says is better.",
        choices=("auto", "decoder", "attention"),
    )
    fit: str = _parameter(
        "resize",
        "How an image, or its region, becomes the model's square input. resize: all of it, "
        "squeezed. crop: the largest square in its centre; objects outside the square are not "
        "found.",
        choices=("resize", "crop"),
        live=True,
    )
    image_topics: tuple[str, ...] = _parameter(
        ("",),
        "Camera image topics, one per camera. The newest images of all cameras share one pass of "
        'the model. [""]: camera/image_raw beside the node\'s namespace, which is '
        "/camera/image_raw for /genesis and /robot1/camera/image_raw for /robot1/genesis. A topic "
        "whose name ends in /compressed carries compressed images.",
        check=_check_image_topics,
    )
    camera_names: tuple[str, ...] = _parameter(
        ("",),
        'Names of the cameras in messages and topics, one per image topic. "": the name is made '
        "of the image topic; /left/image_raw gives left.",
        check=_check_names,
    )
    depth_topics: tuple[str, ...] = _parameter(
        ("",),
        "Depth image topics, one per image topic and in the same order. Depth must be registered "
        "to the image (16UC1 or 32FC1; see depth_unit). It gives positions and sizes. A topic "
        "whose name ends in /compressedDepth carries compressed images (PNG or RVL); they are "
        'also taken from below the topic, as image_transport says. "": no depth.',
        check=_check_depth_topics,
    )
    camera_info_topics: tuple[str, ...] = _parameter(
        ("",),
        "Topics with the intrinsics of the depth images, one per depth topic. "
        '"": camera_info beside the depth topic.',
        check=_check_info_topics,
    )
    regions: tuple[str, ...] = _parameter(
        ("",),
        "The part of each camera's images that the model is to see, one per image topic: x, y, "
        'width and height as shares of the image, such as "0.2 0.3 0.6 0.7". Things in it are '
        'seen larger, and elsewhere there are no objects. "": all of the image.',
        check=_check_regions,
        live=True,
    )
    depth_unit: float = _parameter(
        0.0,
        "Metres that a depth value of 1 stands for; 0.0001 for some close-range cameras. 0: 16UC1 "
        "is in millimetres; 32FC1 is in metres, or in millimetres if it cannot be in metres.",
        low=0.0,
        high=1.0,
        live=True,
    )
    use_depth: str = _parameter(
        "auto",
        "What depth is for. auto: a checkpoint that takes depth sees it, too, and finds objects in "
        "the colours alone while there is none. never: depth gives positions and sizes only.",
        choices=USES_OF_DEPTH,
        live=True,
    )
    use_projection: str = _parameter(
        "auto",
        "Which intrinsics of camera_info are those of the depth image. always: P, as the image is "
        "rectified. never: K, with lens distortion corrected. auto: P if the topic's name says "
        "rectified (image_rect), or if K is unusable; else K.",
        choices=("auto", "always", "never"),
    )
    target_frame: str = _parameter(
        "",
        "Positions and markers are also published in this frame, on object_poses and "
        "object_poses/markers, at each image's time. Needs tf2_ros and depth. Empty: they are not.",
        check=_check_frame,
    )
    depth_tolerance: float = _parameter(
        0.02,
        "An image and a depth image belong together if their stamps differ by at most this [s].",
        low=0.0,
        high=10.0,
        live=True,
    )
    image_transport: str = _parameter(
        "auto",
        "How images arrive: raw (sensor_msgs/Image on the topic), compressed "
        "(sensor_msgs/CompressedImage on <topic>/compressed or on the topic itself), or auto: raw "
        "if it is published, else compressed, and compressed while raw is silent for longer than "
        "stale_timeout, and for more than three times as long as it rested lately.",
        choices=("auto", "raw", "compressed"),
    )
    qos_reliability: str = _parameter(
        "auto",
        "Reliability of the image subscriptions: reliable, best_effort (hears every camera, may "
        "lose large images), or auto: reliable unless a publisher offers only best effort.",
        choices=("auto", "best_effort", "reliable"),
    )
    stretch_16bit: str = _parameter(
        "auto",
        "Images of 16 bits, of thermal and infrared cameras for one. auto: what a camera sends is "
        "stretched over all grey levels, steadily over time, if it fills less than a quarter of "
        "the 16 bits and is not 8-bit. never: each value's high byte is taken.",
        choices=("auto", "never"),
        live=True,
    )
    colour_order: str = _parameter(
        "bgr",
        "Order of the colours in the encodings that do not say it, 8UC3, 8UC4, 16UC3 and 16UC4: "
        "bgr, as OpenCV has them, or rgb.",
        choices=("bgr", "rgb"),
        live=True,
    )
    min_area: float = _parameter(
        0.0005,
        "A slot that covers less than this share of what the model sees of the image is no object; "
        "its pixels go to the next best slot.",
        low=0.0,
        high=1.0,
        live=True,
    )
    mask_floor: float = _parameter(
        0.1,
        "Mask probabilities below this become 0, and the pixel's best object takes them. That "
        "keeps the published crops small. 0 keeps all that the model gives.",
        low=0.0,
        high=1.0,
        live=True,
    )
    background_border: float = _parameter(
        0.3,
        "A slot that covers at least this share of the image's border is background. For "
        "checkpoints that tell no kinds: the default one does, and this changes nothing there.",
        low=0.0,
        high=1.0,
        live=True,
    )
    background_span: float = _parameter(
        0.7,
        "A slot wider and taller than this share of the image, like a tray, is background. "
        "1 disables the rule. For checkpoints that tell no kinds.",
        low=0.0,
        high=1.0,
        live=True,
    )
    clutter_score: float = _parameter(
        0.5,
        "A slot is background if its score is below this and less than a quarter of its mask lies "
        "where it wins: the other slots left it over. 0 disables the rule. For checkpoints that "
        "tell no kinds.",
        low=0.0,
        high=1.0,
        live=True,
    )
    tracking: bool = _parameter(
        True, "Give each object an id that stays the same from image to image.", live=True
    )
    track_max_age: float = _parameter(
        5.0,
        "An object that the images have not shown for this long is forgotten, and its id is not "
        "used again [s].",
        low=0.0,
        high=3600.0,
        live=True,
    )
    track_min_similarity: float = _parameter(
        0.2,
        "An object is new, and gets a new id, if it is less similar than this to every known one "
        "(in place, shape and latents).",
        low=0.0,
        high=1.0,
        live=True,
    )
    overlay_alpha: float = _parameter(
        0.5,
        "Strength of the objects' colours in the overlay. 0: invisible, 1: opaque.",
        low=0.0,
        high=1.0,
        live=True,
    )
    diagnostics_period: float = _parameter(
        1.0, "Time between two diagnostics messages [s].", low=0.1, high=60.0, live=True
    )
    stale_timeout: float = _parameter(
        2.0,
        "A camera without images for this long is reported as stale [s], and one of whose images "
        "none comes to an end for this and five times as long as the last one took as hanging.",
        low=0.1,
        high=3600.0,
        live=True,
    )

    def __post_init__(self) -> None:
        """Raise ParameterError if parameters contradict each other."""
        for name in PER_CAMERA:
            count = len(getattr(self, name))
            if getattr(self, name) != ("",) and count != len(self.image_topics):
                raise ParameterError(
                    f"parameter {name} has {count} items, image_topics {len(self.image_topics)}; "
                    'expected as many (with "" where there is none), or [""]'
                )
        both = set(self.image_topics) & set(self.depth_topics) - {""}
        if both:
            raise ParameterError(
                f"parameter depth_topics has {min(both)}, which is in image_topics; a topic "
                "carries either images or depth"
            )

    def unused(self) -> list[str]:
        """What is given and has no effect, and why."""
        if any(self.depth_topics):
            return []
        given = {
            "target_frame": self.target_frame,
            "camera_info_topics": any(self.camera_info_topics),
        }
        return [
            f"parameter {name} has no effect, as there is no depth: give depth_topics, too"
            for name, value in given.items()
            if value
        ]

    def perception_settings(self) -> PerceptionSettings:
        """Those that decide what is found in an image."""
        names = [item.name for item in fields(PerceptionSettings)]
        return PerceptionSettings(**{name: getattr(self, name) for name in names})

    def reading(self) -> Reading:
        """Those that decide how a message becomes an image."""
        return Reading(self.colour_order, self.stretch_16bit)

    def per_camera(self, name: str) -> tuple[str, ...]:
        """A parameter of PER_CAMERA with one item per image topic, "" where there is none."""
        values: tuple[str, ...] = getattr(self, name)
        return values if len(values) == len(self.image_topics) else ("",) * len(self.image_topics)


RULES: dict[str, Rule] = {item.name: item.metadata["rule"] for item in fields(NodeSettings)}
_TYPES: dict[str, type] = {
    name: str if hint is str else getattr(hint, "__origin__", hint)
    for name, hint in get_type_hints(NodeSettings).items()
}
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a text",
               tuple: "a list of texts"}  # fmt: skip
assert RULES["max_slots"].high is not None and RULES["max_slots"].high <= MAX_OBJECTS


def check(name: str, value: object) -> Value:
    """The value in the parameter's own type (an integer serves as a number).

    Raises:
        ParameterError: the type is wrong or the value not allowed.
    """
    rule, kind, given = RULES[name], _TYPES[name], value
    if kind is float and type(value) is int:
        value = float(value)
    if kind is tuple and isinstance(value, list):
        value = tuple(value)
    if type(value) is not kind or (kind is tuple and not _all_text(value)):
        # An empty list in a parameter file has no type, so that rclpy gives nothing.
        found = "empty" if given is None else repr(given)
        raise ParameterError(f"parameter {name} is {found}; expected {_TYPE_NAMES[kind]}")
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

    Args:
        is_configured: whether parameters that are not live must stay as they are.
        check_settings: raises ValueError if these settings cannot be had now.
        on_change: called with the new settings after a change.
    """

    def __init__(
        self,
        node: Node,
        is_configured: Callable[[], bool],
        check_settings: Callable[[NodeSettings], None],
        on_change: Callable[[NodeSettings], None],
    ) -> None:
        self._node = node
        self._is_configured = is_configured
        self._check_settings = check_settings
        self._on_change = on_change
        self._refused: dict[str, str] = {}
        for name, default in vars(NodeSettings()).items():
            self._declare(name, default)
        self._report_unknown()
        node.add_pre_set_parameters_callback(_numbers)
        node.add_on_set_parameters_callback(self._check_change)
        node.add_post_set_parameters_callback(self._changed)

    def settings(self) -> NodeSettings:
        """All parameters.

        Raises:
            ParameterError: names each parameter that still has a refused value.
        """
        if self._refused:
            raise ParameterError("; ".join(self._refused.values()))
        values: dict[str, Any] = {
            name: check(name, self._node.get_parameter(name).value) for name in RULES
        }
        return NodeSettings(**values)

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
            if name.startswith("qos_overrides.") and self._node.has_parameter(name):
                if parameter.value == self._node.get_parameter(name).value:
                    continue  # a dump of all parameters that is loaded again
                reason = f"parameter {name} is read when the node starts; give it then"
                return SetParametersResult(successful=False, reason=reason)
            if name not in RULES:
                continue
            try:
                check(name, parameter.value)
            except ParameterError as error:
                return SetParametersResult(successful=False, reason=str(error))
            # A parameter file loaded while the node runs states every parameter, most unchanged.
            unchanged = parameter.value == self._node.get_parameter(name).value
            if not (RULES[name].live or unchanged) and self._is_configured():
                reason = (
                    f"parameter {name} cannot change while the node is configured: "
                    "deactivate and clean up the node, set it, then configure and activate again"
                )
                return SetParametersResult(successful=False, reason=reason)
        if self._is_configured():
            changes: dict[str, Any] = {
                item.name: check(item.name, item.value) for item in parameters if item.name in RULES
            }
            try:
                self._check_settings(replace(self.settings(), **changes))
            except ValueError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _changed(self, parameters: list[Parameter[Any]]) -> None:
        for parameter in parameters:
            self._refused.pop(parameter.name, None)
        if self._refused or not any(parameter.name in RULES for parameter in parameters):
            return
        # Between setting two that belong together they may disagree; configuring will tell.
        with suppress(ParameterError):
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
