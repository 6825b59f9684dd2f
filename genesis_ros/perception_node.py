"""The perception node: camera images in, object masks out.

A managed (lifecycle) node. configure loads and warms up the model, activate subscribes to the
camera, deactivate and cleanup undo that. Frames go message -> RGB -> Segmenter -> objects ->
messages in a worker thread, so that the node answers services while the model runs.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import (
    LifecycleNode,
    LifecyclePublisher,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from genesis_core import Scene, Segmenter, default_checkpoint
from genesis_ros.camera import Camera, Frame
from genesis_ros.conversions import ImageError, to_message, to_rgb
from genesis_ros.diagnostics import camera_status, node_status
from genesis_ros.frame_statistics import Times
from genesis_ros.masks import to_object_masks
from genesis_ros.msg import ObjectMasks
from genesis_ros.objects import find_objects
from genesis_ros.overlay import draw_overlay
from genesis_ros.parameters import NodeParameters, Settings
from genesis_ros.pipeline import LatestFrameWorker
from genesis_ros.throttle import Throttle

# Errors whose text says all. Others are bugs and get a traceback.
_SETUP_ERRORS = (OSError, ValueError, RuntimeError)
_EXPECTED_ERRORS = (ValueError, torch.OutOfMemoryError)
RCLError = rclpy_implementation.RCLError

_PUBLISH_QOS = QoSProfile(depth=5)  # reliable (REP-2003), at most five frames late
_WARNING_PERIOD = 5.0  # s between two warnings about the same problem
_FOLLOW_PERIOD = 0.25  # s between two looks at who publishes images
_DEACTIVATE_TIMEOUT = 10.0  # s to wait for the frame in work
_END_TIMEOUT = 1.5  # s; a frame that takes longer does not hold up the end of the process


class _SlotSettings(TypedDict):
    max_slots: int | None
    stop_threshold: float | None
    fit: str


class _Outputs(NamedTuple):
    masks: LifecyclePublisher[Any]
    labels: LifecyclePublisher[Any]
    overlay: LifecyclePublisher[Any]


class PerceptionNode(LifecycleNode):
    """See the module's text; parameters.py lists the parameters."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "genesis")
        super().__init__("perception", **options)
        self._segmenter: Segmenter | None = None
        self._model_name = ""
        self._outputs: _Outputs | None = None
        self._cameras: list[Camera] = []
        self._worker: LatestFrameWorker[Frame] | None = None
        self._failure: str | None = None
        self._may_warn = Throttle(_WARNING_PERIOD)
        self._settings = Settings()
        self._declared = NodeParameters(
            self, lambda: self._segmenter is not None, self._apply_settings
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._diagnostics_timer = self.create_timer(1.0, self._publish_diagnostics)
        self.create_timer(_FOLLOW_PERIOD, self._watch_cameras)

    def start(self) -> None:
        """Configure and activate, if the parameter autostart says so."""
        if not self.get_parameter("autostart").value:
            self.get_logger().info("waiting for the lifecycle transition configure")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop working and free everything; for the end of the process."""
        self._stop(_END_TIMEOUT)
        self._free()

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, load the model and warm it up."""
        try:
            self._configure(self._declared.settings())
        except Exception as error:  # noqa: BLE001 - rclpy would swallow it without a word
            self._free()
            return self._fail("configure", error)
        self._failure = None
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera and start to work."""
        settings = self._settings
        try:
            self._worker = LatestFrameWorker(self._process, self._report_bug, "inference")
            self._cameras = [
                Camera(
                    self, topic, settings.image_transport, settings.qos_reliability, self._receive
                )
                for topic in settings.image_topics
            ]
        except Exception as error:  # noqa: BLE001
            self._stop(_DEACTIVATE_TIMEOUT)
            return self._fail("activate", error)
        self._failure = None
        sources = ", ".join(camera.source for camera in self._cameras)
        self.get_logger().info(f"active: listening to {sources}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the model stays loaded."""
        self._stop(_DEACTIVATE_TIMEOUT)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that the node can be configured again."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self, settings: Settings) -> None:
        checkpoint = Path(settings.checkpoint or default_checkpoint()).expanduser()
        started = time.monotonic()
        segmenter = Segmenter(
            checkpoint,
            device=settings.device,
            precision=settings.precision,
            mask_source=settings.mask_source,
            **_slot_settings(settings),
        )
        segmenter.warm_up(len(settings.image_topics))
        self._segmenter, self._model_name = segmenter, checkpoint.stem
        self._outputs = _Outputs(
            masks=self.create_lifecycle_publisher(ObjectMasks, "object_masks", _PUBLISH_QOS),
            labels=self.create_lifecycle_publisher(Image, "label_image", _PUBLISH_QOS),
            overlay=self.create_lifecycle_publisher(Image, "overlay", _PUBLISH_QOS),
        )
        self._apply_settings(settings)
        if not segmenter.model.metadata.get("trained", {}).get("unsupervised_objective", True):
            self.get_logger().warning(
                f"{checkpoint} was trained for its masks only: the published latents mean nothing"
            )
        self.get_logger().info(
            f"loaded {checkpoint} on {segmenter.device} ({segmenter.precision}) "
            f"in {time.monotonic() - started:.1f} s"
        )

    def _fail(self, transition: str, error: Exception) -> TransitionCallbackReturn:
        if not isinstance(error, _SETUP_ERRORS):
            self.get_logger().error(_trace(error))
        self._failure = f"cannot {transition}: {error}"
        if self.context.ok():  # else the process ends, which is no failure
            self.get_logger().error(f"{self._failure} (correct it, then {transition} again)")
        return TransitionCallbackReturn.FAILURE

    def _stop(self, timeout: float) -> None:
        """End subscriptions and worker; waits at most this long [s] for the frame in work."""
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        if self._worker is not None:
            if not self._worker.close(timeout):
                self.get_logger().warning("the model did not finish its last frame in time")
            self._worker = None

    def _free(self) -> None:
        """Free publishers and model."""
        for publisher in self._outputs or ():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = None
        self._segmenter = None
        _free_memory()

    def _apply_settings(self, settings: Settings) -> None:
        """Take over settings, from the next frame on."""
        self._settings = settings
        if self._segmenter is not None:
            self._segmenter.configure(**_slot_settings(settings))
        period = round(settings.diagnostics_period * 1e9)
        if self._diagnostics_timer.timer_period_ns != period:
            self._diagnostics_timer.timer_period_ns = period

    # Frames

    def _receive(self, frame: Frame) -> None:
        if self._worker is not None:
            replaced = self._worker.submit(frame.camera.topic, frame)
            if replaced is not None:
                replaced.camera.statistics.drop()

    def _process(self, frames: Sequence[Frame]) -> None:
        """Segment the newest frame of each camera and publish its objects (worker thread)."""
        started = time.monotonic()
        readable, images = self._read(frames)
        if not images:
            return
        settings, segmenter = self._settings, self._segmenter
        assert segmenter is not None
        before = time.monotonic()
        try:
            scenes = segmenter(images)
        except Exception as error:  # noqa: BLE001 - out of memory and the like: lose the frame only
            for frame in readable:
                self._lose(frame, error)
            if isinstance(error, torch.OutOfMemoryError):
                _free_memory()  # gives the next frame, or another process, a chance
            return
        inference = time.monotonic() - before
        for frame, image, scene in zip(readable, images, scenes, strict=True):
            try:
                self._publish(frame, image, scene, settings)
            except Exception as error:  # noqa: BLE001
                self._lose(frame, error)
                continue
            now = time.monotonic()
            times = Times(started - frame.received, inference, now - frame.received)
            frame.camera.statistics.process(times, scene.num_slots)

    def _read(self, frames: Sequence[Frame]) -> tuple[list[Frame], list[npt.NDArray[np.uint8]]]:
        """The frames that hold an image, and their images."""
        readable, images = [], []
        for frame in frames:
            try:
                images.append(to_rgb(frame.message))
            except ImageError as error:
                frame.camera.statistics.refuse(str(error))
                source = frame.camera.source
                self._warn((source, error.kind), f"dropped a frame of {source}: {error}")
            except Exception as error:  # noqa: BLE001 - out of memory, say: the other frames go on
                self._lose(frame, error)
            else:
                readable.append(frame)
        return readable, images

    def _publish(
        self, frame: Frame, image: npt.NDArray[np.uint8], scene: Scene, settings: Settings
    ) -> None:
        """Everything that is published about a frame carries the frame's own header."""
        outputs = self._outputs
        assert outputs is not None
        header = frame.message.header
        found = find_objects(
            scene,
            min_area=settings.min_area,
            mask_floor=settings.mask_floor,
            background_border=settings.background_border,
        )
        height, width = found.labels.shape
        outputs.masks.publish(
            to_object_masks(
                found.objects,
                header=header,
                height=height,
                width=width,
                camera=frame.camera.topic,
                model=self._model_name,
            )
        )
        if outputs.labels.get_subscription_count():
            outputs.labels.publish(to_message(found.labels, header))
        if outputs.overlay.get_subscription_count():
            overlay = draw_overlay(image, found, settings.overlay_alpha)
            outputs.overlay.publish(to_message(overlay, header))

    def _lose(self, frame: Frame, error: Exception) -> None:
        """Count and report a frame that an error of the model or of this node cost us."""
        if not self.context.ok():
            return  # publishing fails while the process ends; that is no news
        text = f"{type(error).__name__}: {error}"
        frame.camera.statistics.fail(text)
        trace = "" if isinstance(error, _EXPECTED_ERRORS) else "\n" + _trace(error)
        source = frame.camera.source
        self._warn((source, type(error)), f"lost a frame of {source}: {text}{trace}")

    def _report_bug(self, error: Exception) -> None:
        self._warn(("worker", type(error)), f"lost a frame to a bug of this node: {_trace(error)}")

    def _warn(self, problem: Hashable, text: str) -> None:
        """Warn, but not again about the same problem within a few seconds."""
        suppressed = self._may_warn(problem, time.monotonic())
        if suppressed is not None:
            more = f" ({suppressed} more like it)" if suppressed else ""
            self.get_logger().warning(text + more)

    # Watching

    def _watch_cameras(self) -> None:
        """Find out who publishes images, and say so when a camera falls silent."""
        for camera in self._cameras:
            camera.follow_publishers()
            silence = camera.statistics.silence(time.monotonic())
            if silence > self._settings.stale_timeout and not camera.stale:
                camera.stale = True
                self.get_logger().warning(
                    f"no image on {camera.source} for {silence:.1f} s: {camera.publishers()} "
                    "publishers; no masks are published until one arrives"
                )

    def _publish_diagnostics(self) -> None:
        now = time.monotonic()
        name = self.get_fully_qualified_name()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            node_status(name, state=self._state(), failure=self._failure, model=self._model()),
            *(
                camera_status(
                    name,
                    camera.source,
                    camera.publishers(),
                    camera.statistics.report(now),
                    self._settings.stale_timeout,
                )
                for camera in self._cameras
            ),
        ]
        self._diagnostics.publish(message)

    def _state(self) -> str:
        if self._worker is not None:
            return "active"
        return "unconfigured" if self._segmenter is None else "inactive"

    def _model(self) -> dict[str, object]:
        segmenter = self._segmenter
        if segmenter is None:
            return {}
        return {
            "model": self._model_name,
            "device": segmenter.device,
            "precision": segmenter.precision,
            "mask source": segmenter.mask_source,
            "image size": segmenter.model.config.image_size,
        }


def _slot_settings(settings: Settings) -> _SlotSettings:
    """The settings that a segmenter can change while it runs, as it takes them (0 means None)."""
    return {
        "max_slots": settings.max_slots or None,
        "stop_threshold": settings.stop_threshold or None,
        "fit": settings.fit,
    }


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    try:
        rclpy.init(args=args)
        node = PerceptionNode()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    try:
        node.start()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RCLError:
        if rclpy.ok():  # otherwise told to stop in the middle of something
            raise
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
