"""A simulated camera: publishes generated tabletop scenes, image files, a video or a bag.

Topics, below the node's namespace (`camera` unless it is remapped):
    image_raw               sensor_msgs/Image, rgb8
    image_raw/compressed    sensor_msgs/CompressedImage, JPEG
    camera_info             sensor_msgs/CameraInfo, zero intrinsics where the source knows none
    depth/image_raw         sensor_msgs/Image, 16UC1, of generated or recorded scenes only
    depth/camera_info       sensor_msgs/CameraInfo, the same as the image's

Run it with `ros2 run genesis_ros camera_node` or `python -m genesis_ros.camera_node`.
"""

from __future__ import annotations

from genesis_ros.processes.ending import end_on_signals, end_with, leave
from genesis_ros.processes.programs import name_missing_modules  # isort: split

if __name__ == "__main__":
    end_on_signals()  # quietly during the imports below, too
    name_missing_modules("camera_node")

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from genesis_bags.reader import remove_unpacked
from genesis_ros.messages.cdr import with_stamp
from genesis_ros.messages.images import jpeg_message, to_message
from genesis_ros.messages.rgbd import camera_info, depth_message
from genesis_ros.node.qos import QoSError, report_unused_overrides, with_overrides
from genesis_ros.processes.initialising import init
from genesis_ros.simulated_camera.frame_source import FrameSource, SourceError, SourceFrame, play
from genesis_ros.simulated_camera.sources import open_path, open_scenes

SOURCES = ("tabletop", "path")
TRANSPORTS = ("raw", "compressed", "both")
_QUEUE_DEPTH = 5
_SLOW_FRAMES = 10
_MATCHING = 0.2  # s, at least, from the last awaited subscriber to the first frame
_LAST_FRAMES_TIMEOUT = Duration(seconds=2)

# Messages about a frame as bytes, in the order in which they are published. In quotes, as Jazzy's
# publishers take no type in brackets while the node runs.
_PreparedFrame: TypeAlias = "Sequence[tuple[Publisher[Any], bytes]]"


class CameraNode(Node):
    """Publishes the frames of a source at a steady rate.

    Attributes:
        finished: done when the source has ended; holds its error if it failed.

    Raises:
        SourceError: the parameters name no playable source.
        QoSError: a QoS override cannot be used.
        ParameterException: a parameter is out of its range or of the wrong type.
    """

    def __init__(self, **node_options: Any) -> None:
        super().__init__("camera", namespace="camera", **node_options)
        self.finished: Future[None] = Future()
        self._declare_parameters()
        self._frame_id: str = self._value("frame_id")
        self._quality: int = self._value("jpeg_quality")
        self._wait_for: int = self._value("wait_for_subscribers")

        self._source = self._open_source()
        self._frames: Iterator[SourceFrame] = play(self._source, loop=self._value("loop"))
        self._next: _PreparedFrame | None = None
        self._published = 0
        self._awaited_since: float | None = None  # when the awaited subscribers were there
        self._publishing = 0.0  # s that publishing the last frame took
        self._slow = 0  # frames in a row that took longer than there is time

        transport = self._value("transport")
        self._raw = self._compressed = self._info = None
        if transport != "compressed":
            self._raw = self._advertise(Image, "image_raw")
        if transport != "raw":
            self._compressed = self._advertise(CompressedImage, "image_raw/compressed")
        if self._value("camera_info"):
            self._info = self._advertise(CameraInfo, "camera_info")
        self._depth = self._depth_info = None
        if self._value("depth") and self._source.has_depth:
            self._depth = self._advertise(Image, "depth/image_raw")
            self._depth_info = self._advertise(CameraInfo, "depth/camera_info")

        rate = self._value("rate")
        # Every second time a frame is prepared, in between it is published. So frames are on time,
        # none follows a late one at once, and nothing is rendered while others look at a new one.
        self._timer = self.create_timer(0.5 / rate, self._go_on)
        self.add_post_set_parameters_callback(self._apply_changes)
        report_unused_overrides(self)
        topic = self._image_publishers()[0].topic_name
        self.get_logger().info(f"{self._source.description}, {rate:g} Hz on {topic}")

    def _advertise(self, kind: type[Any], name: str) -> Publisher[Any]:
        topic = self.resolve_topic_name(name)
        qos = with_overrides(self, topic, "publisher", QoSProfile(depth=_QUEUE_DEPTH))
        return self.create_publisher(kind, name, qos)

    def _declare_parameters(self) -> None:
        """All parameters; only the rate can be changed while the camera runs."""

        def declare(name: str, default: Any, description: str, **limits: Any) -> None:
            descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
            self.declare_parameter(name, default, descriptor)

        def integers(low: int, high: int) -> dict[str, Any]:
            return {"integer_range": [IntegerRange(from_value=low, to_value=high, step=1)]}

        declare(
            "source",
            "tabletop",
            "What to play: tabletop (generated robot scenes) or path (what `path` names).",
            additional_constraints=_one_of(SOURCES),
        )
        declare("path", "", "Image folder, image file, glob pattern, video file or rosbag2.")
        declare("bag_topic", "", "Image topic of the bag; empty: the one with the most images.")
        self._declare_rate()
        declare("loop", True, "Start again at the end; otherwise the node ends with its source.")
        declare("width", 640, "Width of generated scenes in pixels.", **integers(16, 2048))
        declare("height", 480, "Height of generated scenes in pixels.", **integers(16, 2048))
        declare(
            "mode",
            "sketchy",
            "Generated scenes: sketchy (the cube, block and ball of the Sketchy data set), "
            "varied (one to six objects of any shape, size and colour), mixed (some of each), "
            "household (everyday things on tables, shelves and in bins), general or balanced "
            "(household and mixed ones).",
        )
        declare("seed", 0, "Seed of the first generated scene.", **integers(0, 2**31 - 1))
        declare(
            "frames_per_scene", 120, "Frames before the next generated scene.", **integers(1, 10**6)
        )
        declare("frame_id", "camera_color_optical_frame", "frame_id of every message's header.")
        declare(
            "transport",
            "raw",
            "What to publish: raw (image_raw), compressed (image_raw/compressed, JPEG) or both.",
            additional_constraints=_one_of(TRANSPORTS),
        )
        declare("jpeg_quality", 90, "JPEG quality of compressed images.", **integers(1, 100))
        declare("camera_info", True, "Also publish camera_info.")
        declare("depth", True, "Also publish depth images, where the source has depth.")
        declare(
            "wait_for_subscribers",
            0,
            "Start only when an image topic has this many subscribers, so that they miss no frame.",
            **integers(0, 100),
        )

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _choice(self, name: str, choices: Sequence[str]) -> str:
        value = self._value(name)
        if value not in choices:
            raise SourceError(f"parameter {name} is {value!r}, expected {_one_of(choices)}")
        return str(value)

    def _open_source(self) -> FrameSource:
        warn = self.get_logger().warning
        self._choice("transport", TRANSPORTS)
        if self._choice("source", SOURCES) == "path":
            return open_path(self._value("path"), topic=self._value("bag_topic"), warn=warn)
        if path := self._value("path"):
            raise SourceError(
                f"parameter path is {path!r}, but source is 'tabletop', which renders scenes: set "
                "source to path, or leave path out"
            )
        return open_scenes(
            width=self._value("width"),
            height=self._value("height"),
            mode=self._value("mode"),
            seed=self._value("seed"),
            frames_per_scene=self._value("frames_per_scene"),
            warn=warn,
        )

    def _declare_rate(self) -> None:
        descriptor = ParameterDescriptor(
            description="Frames per second. Can be changed at run time.",
            floating_point_range=[FloatingPointRange(from_value=0.1, to_value=1000.0)],
        )
        # First without a type, as -p rate:=30 is an integer.
        anything = ParameterDescriptor(dynamic_typing=True)
        given: Any = self.declare_parameter("rate", 10.0, anything).value
        self.undeclare_parameter("rate")
        whole = type(given) is int
        default = float(given) if whole else 10.0
        self.declare_parameter("rate", default, descriptor, ignore_override=whole)
        self.add_pre_set_parameters_callback(_with_numbers)

    def _apply_changes(self, parameters: list[Parameter[Any]]) -> None:
        for parameter in parameters:
            if parameter.name == "rate":
                self._timer.timer_period_ns = int(0.5e9 / parameter.value)
                self._timer.reset()  # else the period that has begun goes on

    def _image_publishers(self) -> list[Publisher[Any]]:
        return [publisher for publisher in (self._raw, self._compressed) if publisher is not None]

    def _subscribers(self) -> int:
        return sum(publisher.get_subscription_count() for publisher in self._image_publishers())

    def _listened_to(self) -> bool:
        """Whether the awaited subscribers are there, and know of the publishers, too.

        A subscriber's process learns of a publisher after the publisher learns of the subscriber.
        What is published before that arrives late, up to seconds.
        """
        if not self._wait_for:
            return True
        now = time.monotonic()
        if self._subscribers() < self._wait_for:
            self._awaited_since = None
        elif self._awaited_since is None:
            self._awaited_since = now
        return self._awaited_since is not None and now - self._awaited_since >= _MATCHING

    def _go_on(self) -> None:
        if self._next is None:
            self._prepare_next()
        elif self._published or self._listened_to():
            started = time.monotonic()
            self._publish(self._next)
            self._next = None
            self._published += 1
            self._publishing = time.monotonic() - started
            if self._slow > 1:  # there is no time to lose
                self._prepare_next()
                if not self._slow:
                    self._timer.reset()  # this one is ready long before its time

    def _prepare_next(self) -> None:
        started = time.monotonic()
        try:
            self._next = self._prepare(next(self._frames))
        except StopIteration:
            self._finish(None)
        except SourceError as error:
            self._finish(error)
        else:
            self._watch_pace(time.monotonic() - started + self._publishing)

    def _finish(self, error: SourceError | None) -> None:
        self._timer.cancel()
        for publisher in self._image_publishers():
            # The process ends now; reliable subscribers still get what they have not received.
            publisher.wait_for_all_acked(_LAST_FRAMES_TIMEOUT)
        if error is not None:
            self.finished.set_exception(error)
            return
        self.get_logger().info(f"end of the source after {self._published} frames")
        self.finished.set_result(None)

    def _watch_pace(self, seconds: float) -> None:
        """Say once that the source is slower than the rate that was asked for."""
        rate = self._value("rate")
        self._slow = self._slow + 1 if seconds > 1 / rate else 0
        if self._slow == _SLOW_FRAMES:
            self.get_logger().warning(
                f"a frame takes {seconds * 1e3:.0f} ms to make, so fewer than "
                f"{rate:g} are published per second"
            )

    def destroy_node(self) -> None:
        """Free the source and the node."""
        self._source.close()
        super().destroy_node()

    def _prepare(self, frame: SourceFrame) -> _PreparedFrame:
        """The messages of a frame, serialised; only their stamp is missing."""
        header = Header(frame_id=self._frame_id)
        size = frame.image.shape[0], frame.image.shape[1]
        info = camera_info(frame.intrinsics, size, header)
        if frame.distortion is not None:
            info.distortion_model, info.d = frame.distortion
        messages: list[tuple[Publisher[Any], Any]] = []
        if self._info is not None:
            messages.append((self._info, info))
        # Before the image, so that whoever pairs them need not wait.
        if self._depth and self._depth_info and frame.depth is not None:
            messages.append((self._depth_info, info))
            messages.append((self._depth, depth_message(frame.depth, header)))
        if self._raw is not None:
            messages.append((self._raw, to_message(frame.image, header)))
        if self._compressed is not None:
            messages.append((self._compressed, jpeg_message(frame.image, header, self._quality)))
        return [(publisher, serialize_message(message)) for publisher, message in messages]

    def _publish(self, frame: _PreparedFrame) -> None:
        now = self.get_clock().now().to_msg()
        for publisher, content in frame:
            publisher.publish(with_stamp(content, now))


def _with_numbers(parameters: list[Parameter[Any]]) -> list[Parameter[Any]]:
    """`ros2 param set /camera/camera rate 20` sends an integer: take it as a number."""
    return [
        Parameter(item.name, Parameter.Type.DOUBLE, float(item.value))
        if item.name == "rate" and item.type_ is Parameter.Type.INTEGER
        else item
        for item in parameters
    ]


def _one_of(choices: Sequence[str]) -> str:
    return "one of " + ", ".join(choices)


def _leave_early() -> None:
    """End while the node, or a bag that takes minutes to unpack, is still being opened."""
    remove_unpacked()
    leave(0)


def main(args: list[str] | None = None) -> int:
    """Run the camera until its source ends or it is told to stop; ends the process."""
    end_on_signals()
    init("camera_node", args)
    status = 0
    end_with(_leave_early)
    try:
        node = CameraNode()
        end_with(lambda: node.finished.set_result(None))
        rclpy.spin_until_future_complete(node, node.finished)
        node.finished.result()
        node.destroy_node()
    except (SourceError, QoSError, ParameterException) as error:
        rclpy.logging.get_logger("camera").fatal(str(error))
        status = 1
    remove_unpacked()  # of a node that an error ended, which not every rclpy destroys
    rclpy.try_shutdown()
    leave(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
