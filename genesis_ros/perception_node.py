"""The perception node: camera images in, object masks out.

A managed (lifecycle) node. configure loads and warms up the model, activate subscribes to the
cameras, deactivate and cleanup undo that. Frames go message -> RGB -> Segmenter -> objects ->
tracks and 3D -> messages in a worker thread, so that the node answers services while the model
runs. The newest frames of all cameras, and images that somebody asked about, share one pass of the
model.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import (
    LifecycleNode,
    LifecycleState,
    TransitionCallbackReturn,
)

from genesis_core import Segmenter, decoder_is_trained, find_checkpoint
from genesis_core.memory import keep_freed_memory
from genesis_core.perception.objects import SceneObjects, find_objects
from genesis_core.perception.tracking import Tracker
from genesis_ros.masks import to_object_masks
from genesis_ros.messages.images import ImageError, to_rgb
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.camera import Camera, Frame, camera_names
from genesis_ros.node.diagnostics import camera_status, node_status, resident_memory
from genesis_ros.node.frame_statistics import Times
from genesis_ros.node.outputs import Outputs, Result
from genesis_ros.node.parameters import NodeParameters, Settings
from genesis_ros.node.services import Request, Services
from genesis_ros.node.throttle import Throttle
from genesis_ros.node.worker import LatestFrameWorker
from genesis_ros.processes.interruption import raise_unless_ending

# Errors whose text says all. Others are bugs and get a traceback.
_SETUP_ERRORS = (OSError, ValueError, RuntimeError)
_EXPECTED_ERRORS = (ValueError, torch.OutOfMemoryError)

_WARNING_PERIOD = 5.0  # s between two warnings about the same problem
_FOLLOW_PERIOD = 0.25  # s between two looks at who publishes images
_DEACTIVATE_TIMEOUT = 10.0  # s to wait for the frame in work
_END_TIMEOUT = 1.0  # s; a frame that takes longer does not hold up the end of the process


class _SlotSettings(TypedDict):
    max_slots: int | None
    stop_threshold: float | None
    fit: str


_Job: TypeAlias = Frame | Request


class PerceptionNode(LifecycleNode):
    """See the module's text; parameters.py lists the parameters."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "genesis")
        super().__init__("perception", **options)
        self._segmenter: Segmenter | None = None
        self._model_name = ""
        self._outputs: Outputs | None = None  # of all cameras
        self._camera_outputs: dict[str, Outputs] = {}  # by name, where there are several
        self._cameras: list[Camera] = []
        # By name; they outlive the cameras, as an id is never given twice.
        self._trackers: dict[str, Tracker] = {}
        self._worker: LatestFrameWorker[_Job] | None = None
        self._paused = False
        self._finalized = False
        self._failure: str | None = None
        self._may_warn = Throttle(_WARNING_PERIOD)
        self._settings = Settings()
        self._declared = NodeParameters(
            self, lambda: self._segmenter is not None, self._check_settings, self._apply_settings
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # With simulated time the node's own clock may stand still; watching goes on.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_FOLLOW_PERIOD, self._watch_cameras, clock=steady)
        Services(self, self)

    def start(self) -> None:
        """Configure and activate, if the parameter autostart says so."""
        if not self.get_parameter("autostart").value:
            self.get_logger().info("waiting for the lifecycle transition configure")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop working, for the end of the process, which frees the rest."""
        self._stop(_END_TIMEOUT)

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
        self._paused = False
        try:
            self._worker = LatestFrameWorker(
                self._process, self._drop, self._report_bug, "inference"
            )
            for index, name in enumerate(self._names(settings)):
                tracker = self._trackers.setdefault(name, Tracker())
                tracker.reset()
                self._cameras.append(Camera(self, name, index, settings, tracker, self._receive))
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
        self._finalized = True
        self._stop(_END_TIMEOUT)
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that the node can be configured again."""
        self._stop(_END_TIMEOUT)
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self, settings: Settings) -> None:
        checkpoint = find_checkpoint(settings.checkpoint)
        started = time.monotonic()
        self.get_logger().info(f"loading {checkpoint}")
        segmenter = Segmenter(
            checkpoint,
            device=settings.device,
            precision=settings.precision,
            mask_source=settings.mask_source,
            **_slot_settings(settings),
        )
        segmenter.warm_up(len(settings.image_topics))
        self._segmenter, self._model_name = segmenter, checkpoint.stem
        names = self._names(settings)
        self._outputs = Outputs(self, cameras=len(names))
        self._camera_outputs = {
            name: Outputs(self, prefix=f"{name}/") for name in (names if len(names) > 1 else [])
        }
        self._apply_settings(settings)
        if not decoder_is_trained(segmenter.model.metadata.get("trained")):
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
            if not self._worker.close(timeout) and self.context.ok():
                self.get_logger().warning("the model did not finish its last frame in time")
            self._worker = None

    def _free(self) -> None:
        """Free publishers and model."""
        for outputs in (self._outputs, *self._camera_outputs.values()):
            if outputs is not None:
                outputs.destroy()
        self._outputs, self._camera_outputs = None, {}
        self._segmenter = None
        _free_memory()

    def _check_settings(self, settings: Settings) -> None:
        """Raise ValueError if the model cannot work with these settings."""
        if self._segmenter is not None:
            self._segmenter.check(**_slot_settings(settings))

    def _apply_settings(self, settings: Settings) -> None:
        """Take over settings, from the next frame on."""
        self._settings = settings
        if self._segmenter is not None:
            self._segmenter.configure(**_slot_settings(settings))
        period = round(settings.diagnostics_period * 1e9)
        if self._diagnostics_timer.timer_period_ns != period:
            self._diagnostics_timer.timer_period_ns = period

    # What the services ask for

    def submit_request(self, name: str, request: Request) -> None:
        """Let a request wait for its turn; raises RuntimeError if the node is not active."""
        if self._worker is None:
            raise RuntimeError(f"the node is {self._state()}; activate it first")
        self._worker.submit(name, request)

    def reset_tracks(self) -> str:
        """Forget all tracks; says what was done. Raises RuntimeError if the node is not active."""
        if self._worker is None:
            raise RuntimeError(f"the node is {self._state()}; activate it first")
        for camera in self._cameras:
            camera.reset_tracks()
        return f"forgot the tracks of {len(self._cameras)} cameras"

    def pause(self, paused: bool) -> str:
        """Stop looking at the cameras, or go on; says what was done."""
        if self._worker is None:
            raise RuntimeError(f"the node is {self._state()}; activate it first")
        self._paused = paused
        text = "paused: camera images are left aside" if paused else "looking at camera images"
        self.get_logger().info(text)
        return text

    # Frames

    def _receive(self, frame: Frame) -> None:
        if self._paused:
            frame.camera.statistics.pause()
        elif self._worker is not None:
            self._worker.submit(frame.camera.name, frame)

    def _process(self, jobs: Sequence[_Job]) -> None:
        """Segment the newest frame of each camera, and what was asked for (worker thread)."""
        started = time.monotonic()
        readable, images = self._read(jobs)
        if not images:
            return
        settings, segmenter = self._settings, self._segmenter
        assert segmenter is not None
        before = time.monotonic()
        try:
            scenes = segmenter(images, quantised=True)
        except Exception as error:  # noqa: BLE001 - out of memory and the like: lose the frame only
            if isinstance(error, torch.OutOfMemoryError):
                _free_memory()  # gives the next frame, or another process, a chance
            if len(readable) > 1:  # another camera's image must not cost this one's
                for job in readable:
                    self._process([job])
            else:
                self._lose(readable[0], error)
            return
        inference = time.monotonic() - before
        for job, image, scene in zip(readable, images, scenes, strict=True):
            try:
                found = find_objects(scene, **settings.finding())
                if isinstance(job, Request):
                    job.answer(self._message(job, found))
                    continue
                self._publish(job, image, found, settings)
            except Exception as error:  # noqa: BLE001
                self._lose(job, error)
                continue
            now = time.monotonic()
            times = Times(started - job.received, inference, now - job.received)
            job.camera.statistics.process(times, scene.num_slots)

    def _read(self, jobs: Sequence[_Job]) -> tuple[list[_Job], list[npt.NDArray[np.uint8]]]:
        """The jobs that hold an image, and their images."""
        readable, images = [], []
        for job in jobs:
            try:
                images.append(to_rgb(job.message))
            except ImageError as error:
                self._refuse(job, error)
            except Exception as error:  # noqa: BLE001 - out of memory, say: the other frames go on
                self._lose(job, error)
            else:
                readable.append(job)
        return readable, images

    def _publish(
        self, frame: Frame, image: npt.NDArray[np.uint8], found: SceneObjects, settings: Settings
    ) -> None:
        camera = frame.camera
        message = self._message(
            frame,
            found,
            camera=camera.name,
            track_ids=camera.track(frame, found, settings),
            measurements=camera.measure(frame, found, settings),
        )
        result = Result(message, image, found)
        for outputs in (self._outputs, self._camera_outputs.get(camera.name)):
            if outputs is not None:
                outputs.publish(result, settings.overlay_alpha)

    def _message(self, job: _Job, found: SceneObjects, **options: Any) -> ObjectMasks:
        """Everything that is said about an image carries the image's own header."""
        height, width = found.labels.shape
        return to_object_masks(
            found.objects,
            header=job.message.header,
            height=height,
            width=width,
            model=self._model_name,
            **options,
        )

    def _drop(self, job: _Job) -> None:
        if isinstance(job, Request):
            job.refuse("the node was deactivated before the image's turn")
        else:
            job.camera.statistics.drop()

    def _refuse(self, job: _Job, error: ImageError) -> None:
        """Count and report an image that cannot be used."""
        if isinstance(job, Request):
            job.refuse(str(error))
            return
        job.camera.statistics.refuse(str(error))
        source = job.camera.source
        self._warn((source, error.kind), f"dropped a frame of {source}: {error}")

    def _lose(self, job: _Job, error: Exception) -> None:
        """Count and report an image that an error of the model or of this node cost us."""
        text = f"{type(error).__name__}: {error}"
        if isinstance(job, Request):
            job.refuse(text)
            source = "segment_image"
        else:
            job.camera.statistics.fail(text)
            source = job.camera.source
        if not self.context.ok():
            return  # publishing fails while the process ends; that is no news
        trace = "" if isinstance(error, _EXPECTED_ERRORS) else "\n" + _trace(error)
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
                    depth=camera.depth_problem,
                    facts=camera.facts(),
                )
                for camera in self._cameras
            ),
        ]
        self._diagnostics.publish(message)

    def _names(self, settings: Settings) -> list[str]:
        topics = [self.resolve_topic_name(topic) for topic in settings.image_topics]
        return camera_names(topics, settings.per_camera("camera_names"))

    def _state(self) -> str:
        if self._finalized:
            return "finalized"
        if self._worker is not None:
            return "paused" if self._paused else "active"
        return "unconfigured" if self._segmenter is None else "inactive"

    def _model(self) -> dict[str, object]:
        """Facts about the process and the loaded model."""
        segmenter = self._segmenter
        memory: dict[str, object] = {"memory [MiB]": round(resident_memory() / 2**20)}
        if segmenter is None:
            return memory
        if segmenter.device.type == "cuda":
            allocated = torch.cuda.memory_allocated(segmenter.device)
            memory["device memory [MiB]"] = round(allocated / 2**20)
        return memory | {
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
    """Run the node until it is interrupted; ends the process."""
    keep_freed_memory()
    # As for SIGINT: else SIGTERM would wait until the model is loaded. rclpy's own
    # handlers call these.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
    except RuntimeError:
        raise_unless_ending()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # one is enough: the rest must not break off
            signal.signal(number, signal.SIG_IGN)
        try:
            node.close()
            node.destroy_node()
            rclpy.try_shutdown()
        except RuntimeError:
            raise_unless_ending()
    _exit()
    return 0


def _exit() -> None:
    """End the process now.

    Python would take half a second and more to take PyTorch apart, and would abort the process if
    the worker is still in the middle of a frame.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
