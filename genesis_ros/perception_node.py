"""The perception node: camera images in, object masks out.

A managed (lifecycle) node. configure loads and warms up the model, activate subscribes to the
cameras, deactivate and cleanup undo that. One thread takes the cameras' messages; another one leads
images through the pipeline (message -> RGB -> slots -> objects -> tracks and 3D -> messages). So
the node answers services while the model runs. The newest images of all cameras, and those that
somebody asked about, share one pass of the model. With target_frame a third thread waits for
transforms, so that the next image does not.
"""

from __future__ import annotations

from genesis_ros.processes.ending import end_on_signals, end_with, leave
from genesis_ros.processes.openmp import wait_briefly
from genesis_ros.processes.programs import name_missing_modules  # isort: split

if __name__ == "__main__":  # as programs.py does it for the installed program
    end_on_signals()  # quietly during the imports below, too
    wait_briefly()
    name_missing_modules("perception_node")

import copy
import math
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType  # type: ignore[attr-defined]
from rclpy.lifecycle import (
    LifecycleNode,
    LifecycleState,
    TransitionCallbackReturn,
)
from rclpy.qos import QoSProfile
from rclpy.task import Future

from genesis_bags.decoding.pixels import ImageError
from genesis_core import Perception, find_checkpoint
from genesis_core.device import is_usable
from genesis_core.memory import keep_freed_memory
from genesis_core.perception import Tracker
from genesis_core.pipeline import free_memory
from genesis_ros.messages import detections
from genesis_ros.node.camera_input import CameraImage, CameraInput
from genesis_ros.node.camera_names import camera_names, resolve_image_topic
from genesis_ros.node.cores import FreeCores
from genesis_ros.node.diagnostics import camera_status, hanging, node_status, resident_memory
from genesis_ros.node.forwarded_log import ForwardedLog
from genesis_ros.node.frame_statistics import Times
from genesis_ros.node.other_topics import colour_images, hint
from genesis_ros.node.parameters import NodeParameters, NodeSettings
from genesis_ros.node.publishers import Publishers, check_publishers
from genesis_ros.node.qos import QoSError, report_unused_overrides, with_overrides
from genesis_ros.node.receiver import Receiver
from genesis_ros.node.services import Request, Services
from genesis_ros.node.throttle import Throttle
from genesis_ros.node.transforms import TransformError, Transforms
from genesis_ros.node.worker import LatestJobWorker
from genesis_ros.outputs import PICTURE_OUTPUTS, PROMPT_OUTPUTS, TARGET_OUTPUTS, Result
from genesis_ros.pipeline import CameraMessage, perceive, with_new_ids
from genesis_ros.processes.initialising import init

# Errors whose text says all. Others are bugs and get a traceback.
_SETUP_ERRORS = (OSError, ValueError, RuntimeError)
_EXPECTED_ERRORS = (ValueError, torch.OutOfMemoryError)

_WARNING_PERIOD = 5.0  # s between two warnings about the same problem
_FOLLOW_PERIOD = 0.25  # s between two looks at who publishes images
_DEACTIVATE_TIMEOUT = 10.0  # s to wait for the frame in work
_END_TIMEOUT = 1.0  # s; a frame that takes longer does not hold up the end of the process

# s after its start in which a namesake may be this node of before, that was killed: the middleware
# remembers it for 20 s.
_GHOST_PERIOD = 25.0


_Job: TypeAlias = CameraImage | Request


class _Seen(NamedTuple):
    """What was found in an image of a camera, whose masks are published.

    Attributes:
        settings: it was found with.
        recalls: how many there had been then, see PerceptionNode.
        time_doubt: of the image, see CameraInput.
    """

    camera: CameraInput
    result: Result
    settings: NodeSettings
    recalls: int
    time_doubt: str | None


class PerceptionNode(LifecycleNode):
    """See the module's text; parameters.py lists the parameters."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("namespace", "genesis")
        super().__init__("perception", **options)
        self._forwarded_log = ForwardedLog(self.get_logger())
        self._perception: Perception | None = None
        self._outputs: Publishers | None = None
        self._pictures: Publishers | None = None
        self._transforms: Transforms | None = None  # with the parameter target_frame
        self._target_outputs: Publishers | None = None
        self._cameras: list[CameraInput] = []
        # By name; they outlive the cameras, as an id is never given twice.
        self._trackers: dict[str, Tracker] = {}
        self._receiver: Receiver | None = None
        self._worker: LatestJobWorker[_Job] | None = None
        self._poser: LatestJobWorker[_Seen] | None = None  # with the parameter target_frame
        self.exit_status = 0  # of the process, once its end is requested
        self._paused = False
        # What pause, reset_tracks and a deactivation recall is not published after their answers:
        # they wait for what is being published, and what comes to be published later looks at
        # these, and at the cameras.
        self._publishing = threading.RLock()
        self._recalls = 0
        self._paused_at = -math.inf  # s, monotonic
        self._finalized = False
        self.end_requested: Future[None] = Future()
        self._failure: str | None = None
        self._rivals: set[str] = set()  # nodes that publish on our topics, too
        self._began = time.monotonic()
        self._may_warn = Throttle(_WARNING_PERIOD)
        self._threads = torch.get_num_threads()  # that share a pass on the CPU
        self._cores = FreeCores(most=self._threads)
        self._settings = NodeSettings()
        self._declared = NodeParameters(
            self, lambda: self._perception is not None, self._check_settings, self._apply_settings
        )
        topic = self.resolve_topic_name("/diagnostics")
        qos = with_overrides(self, topic, "publisher", QoSProfile(depth=10))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos)
        # With simulated time the node's own clock may stand still; watching goes on.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._diagnostics_timer = self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(_FOLLOW_PERIOD, self._watch_cameras, clock=steady)
        Services(self, self)
        if not detections.AVAILABLE:
            self.get_logger().info(detections.MISSING)

    def start(self) -> None:
        """Configure and activate, if the parameter autostart says so."""
        if not self.get_parameter("autostart").value:
            self.get_logger().info("waiting for the lifecycle transition configure")
        elif (
            self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            and not self.end_requested.done()
        ):
            self.trigger_activate()

    def request_end(self) -> None:
        """Let whoever spins the node until `end_requested` is done go on (from any thread)."""
        self.end_requested.set_result(None)

    def _give_up(self, reason: str) -> None:
        """End the process with status 1."""
        self.get_logger().fatal(reason)
        self.exit_status = 1
        self.request_end()

    def close(self) -> None:
        """Stop working; destroy_node() frees the rest."""
        self._stop(_END_TIMEOUT)

    def destroy_node(self) -> None:
        """Free the node and what the middleware has for it: shared memory, a place in the graph.

        rclpy leaves out the managed node's states, which hold the node.
        """
        self._forwarded_log.close()
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

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
            self._worker = LatestJobWorker(self._process, self._drop, self._report_bug, "inference")
            if self._transforms is not None:
                self._poser = LatestJobWorker(
                    self._deliver_poses, lambda seen: None, self._report_bug, "poses"
                )
            self._receiver = Receiver(self, self._report_bug)
            for index, name in enumerate(self._names(settings)):
                # A copy: it goes on with the ids, and a pass that hangs since before the last
                # deactivation has the other one.
                tracker = copy.copy(self._trackers.get(name) or Tracker())
                tracker.reset()
                self._trackers[name] = tracker
                camera = CameraInput(
                    self,
                    self._receiver,
                    name,
                    index,
                    settings,
                    tracker,
                    self._receive,
                    self._refuse,
                )
                self._cameras.append(camera)
            self._receiver.start()
        except Exception as error:  # noqa: BLE001
            self._stop(_DEACTIVATE_TIMEOUT)
            return self._fail("activate", error)
        self._failure = None
        sources = ", ".join(camera.source for camera in self._cameras)
        depths = ", ".join(camera.depth_topic for camera in self._cameras if camera.depth_topic)
        self.get_logger().info(
            f"active: listening to {sources}" + (f"; depth: {depths}" if depths else "")
        )
        report_unused_overrides(self, set().union(*(camera.topics() for camera in self._cameras)))
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the model stays loaded."""
        self._stop(_DEACTIVATE_TIMEOUT)
        self._failure = None
        self.get_logger().info("inactive: the cameras are not listened to, the model stays loaded")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the publishers."""
        self._free()
        self._failure = None
        self.get_logger().info("unconfigured: the model is freed")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, from any state."""
        self._finalized = True
        self._stop(_END_TIMEOUT)
        self._free()
        self._failure = None
        self.get_logger().info("finalized: nothing is left to do but to end the process")
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, so that the node can be configured again."""
        self._stop(_END_TIMEOUT)
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self, settings: NodeSettings) -> None:
        started = time.monotonic()
        checkpoint = find_checkpoint(settings.checkpoint)
        names = self._names(settings)
        targets = TARGET_OUTPUTS if settings.target_frame else ()
        # Before the model is loaded, which takes seconds.
        check_publishers(self, names, (*PROMPT_OUTPUTS, *PICTURE_OUTPUTS, *targets))
        self.get_logger().info(f"loading {checkpoint}")
        # OpenMP gives each thread that computes helpers of its own. While all of them are more than
        # the cores, none waits for its next operation awake, and passes take half as long again or
        # twice as long. So this thread ends, and its helpers with it.
        with ThreadPoolExecutor(1, "warm-up") as pool:
            self._threads = settings.threads or self._cores.count()
            perception = pool.submit(_load, settings, self._threads).result()
        segmenter = perception.segmenter
        self._perception = perception
        self._outputs = Publishers(self, names, PROMPT_OUTPUTS)
        self._pictures = Publishers(self, names, PICTURE_OUTPUTS)
        if settings.target_frame:
            self._transforms = Transforms(self, settings.target_frame)
            self._target_outputs = Publishers(self, names, targets)
        self._apply_settings(settings)
        for problem in settings.unused():
            self.get_logger().warning(problem)
        if not perception.latents_are_trained:
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
        remedy = f"correct it, then {transition} again"
        if isinstance(error, QoSError):
            remedy = "start the node again without it"
        self.get_logger().error(f"{self._failure} ({remedy})")
        return TransitionCallbackReturn.FAILURE

    def _stop(self, timeout: float) -> None:
        """End subscriptions and worker; waits at most this long [s] for the frame in work.

        If it comes in time it is published. After that nothing of before is.
        """
        for camera in self._cameras:
            camera.unsubscribe()
        if self._receiver is not None:
            self._receiver.close(timeout)
            self._receiver = None
        if self._worker is not None:
            if not self._worker.close(timeout) and not self.end_requested.done():
                self.get_logger().warning("the model did not finish its last frame in time")
            self._worker = None
        if self._poser is not None:
            self._poser.close(timeout)
            self._poser = None
        with self._publishing:  # as a worker that did not end in time goes on
            self._recalls += 1
            cameras, self._cameras = self._cameras, []
        for camera in cameras:
            camera.close()

    def _free(self) -> None:
        """Free publishers and model."""
        for outputs in self._all_outputs():
            outputs.destroy()
        if self._transforms is not None:
            self._transforms.close()
        self._outputs = self._pictures = self._target_outputs = None
        self._transforms = self._perception = None
        try:
            free_memory()
        except RuntimeError as error:  # of a GPU that is lost; the node can still be configured
            self.get_logger().error(f"cannot free the device's memory: {error}")

    def _all_outputs(self) -> list[Publishers]:
        every = (self._outputs, self._pictures, self._target_outputs)
        return [publishers for publishers in every if publishers is not None]

    def _check_settings(self, settings: NodeSettings) -> None:
        """Raise ValueError if the model cannot work with these settings."""
        if self._perception is not None:
            self._perception.check(settings.perception_settings())

    def _apply_settings(self, settings: NodeSettings) -> None:
        """Take over settings, from the next image on."""
        self._settings = settings
        if self._perception is not None:
            self._perception.configure(settings.perception_settings())
        period = round(settings.diagnostics_period * 1e9)
        if self._diagnostics_timer.timer_period_ns != period:
            self._diagnostics_timer.timer_period_ns = period
            self._diagnostics_timer.reset()  # else the period that has begun goes on

    # What the services ask for; RuntimeError if the node is not active

    def submit_request(self, name: str, request: Request) -> None:
        """Let a request wait for its turn."""
        self._active_worker().submit(name, request)

    def reset_tracks(self) -> str:
        """Forget all tracks; says what was done."""
        self._active_worker()
        with self._publishing:
            self._recalls += 1
            for camera in self._cameras:
                camera.reset_tracks()
        return f"forgot the tracks of {len(self._cameras)} cameras"

    def pause(self, paused: bool) -> str:
        """Stop looking at the cameras, or go on; says what was done."""
        self._active_worker()
        with self._publishing:
            self._paused = paused
            if paused:
                self._recalls += 1
                self._paused_at = time.monotonic()
        text = "paused: camera images are left aside" if paused else "looking at camera images"
        self.get_logger().info(text)
        return text

    def _active_worker(self) -> LatestJobWorker[_Job]:
        if self._worker is None:
            if self._finalized:
                remedy = "start a new one"
            elif self._perception is None:
                remedy = "configure and activate it first"
            else:
                remedy = "activate it first"
            raise RuntimeError(f"the node is {self._state()}; {remedy}")
        return self._worker

    # Images

    def _receive(self, image: CameraImage) -> None:
        """Let an image wait for its turn (receiver's thread)."""
        worker = self._worker
        if self._paused:
            image.camera.statistics.pause()
        elif worker is not None:
            worker.submit(image.camera.name, image)

    def _refuse(self, camera: CameraInput, error: ImageError) -> None:
        """Count and report a message of a camera that is no usable image (from any thread)."""
        camera.statistics.refuse(str(error))
        self._warn((camera.source, error.kind), f"dropped a frame of {camera.source}: {error}")

    def _process(self, jobs: Sequence[_Job]) -> None:
        """Look at the newest image of each camera, and at what was asked for (worker thread)."""
        waiting = deque(job for job in jobs if not self._leave_aside(job))
        if not waiting:
            return
        delivered: list[_Seen] = []
        try:
            self._look_at(waiting, self._settings, delivered)
        except Exception as error:  # noqa: BLE001 - who asked for an image waits for an answer
            for job in waiting:
                self._lose(job, error)
        self._deliver_the_rest(delivered)

    def _leave_aside(self, job: _Job) -> bool:
        """Whether a camera's image is of before the last pause or deactivation; counts it then."""
        if isinstance(job, Request):
            return False
        if job.received > self._paused_at and job.camera in self._cameras:
            return False
        job.camera.statistics.pause()
        return True

    def _look_at(self, jobs: deque[_Job], settings: NodeSettings, delivered: list[_Seen]) -> None:
        """Find masks, answer and publish them, and take off each job that is dealt with.

        Args:
            delivered: gets what was published, also before an error that costs the other jobs.
        """
        started = time.monotonic()
        perception = self._perception
        assert perception is not None
        self._threads = _use_threads(settings.threads or self._cores.count())
        messages = [
            job.prepare(settings) if isinstance(job, Request) else job.camera.prepare(job, settings)
            for job in jobs
        ]
        for message, outcome in zip(messages, perceive(perception, messages), strict=False):
            job = jobs.popleft()
            if isinstance(outcome, Exception):
                self._lose(job, outcome)
                continue
            try:
                if isinstance(job, Request):
                    job.answer(outcome)
                elif seen := self._deliver(job, message, outcome, started, settings):
                    delivered.append(seen)
            except Exception as error:  # noqa: BLE001 - the other images go on
                self._lose(job, error)
        if jobs:
            raise RuntimeError(f"{len(jobs)} images were not looked at")

    def _deliver_the_rest(self, delivered: Sequence[_Seen]) -> None:
        """Poses and pictures, once all masks are out: poses may wait, pictures are large."""
        # What is recalled must not take the place of what waits for its poses since.
        delivered = [seen for seen in delivered if seen.recalls == self._recalls]
        if (poser := self._poser) is not None:
            for seen in delivered:
                if seen.camera.has_depth:
                    poser.submit(seen.camera.name, seen)
        pictures = self._pictures
        for seen in delivered:
            try:
                if pictures is not None:
                    self._publish(pictures, seen)
            except Exception as error:  # noqa: BLE001 - the other cameras go on
                self._miss(seen.camera, "pictures", error)

    def _deliver(
        self,
        job: CameraImage,
        message: CameraMessage,
        result: Result,
        started: float,
        settings: NodeSettings,
    ) -> _Seen | None:
        """Publish an image's masks, unless the node was paused or deactivated meanwhile."""
        with self._publishing:
            if self._leave_aside(job):
                return None
            # Here rather than before the model's pass, during which tracks may be reset.
            if (perception := self._perception) is not None and job.camera.take_reset():
                result = with_new_ids(perception, message, result)
            seen = _Seen(job.camera, result, settings, self._recalls, job.camera.time_doubt)
            job.camera.note(result.perceived)
            if self._outputs is not None:
                self._publish(self._outputs, seen)
        now = time.monotonic()
        perceived = result.perceived
        times = Times(
            queue=started - job.received,
            inference=perceived.inference,
            processor=perceived.processor,
            total=now - job.received,
        )
        job.camera.statistics.process(times, perceived.slots, with_depth=perceived.used_depth)
        return seen

    def _publish(self, outputs: Publishers, seen: _Seen) -> None:
        """Publish what was not recalled; pictures that take long do not hold up a recall."""
        for message in outputs.messages(seen.result, seen.settings.overlay_alpha):
            with self._publishing:
                if seen.recalls != self._recalls:
                    return
                message.publish()

    def _deliver_poses(self, seen: Sequence[_Seen]) -> None:
        """Poses of the newest image of each camera (poses' thread)."""
        for one in seen:
            try:
                self._deliver_in_target_frame(one)
            except Exception as error:  # noqa: BLE001 - the other cameras go on
                self._miss(one.camera, "poses", error)

    def _deliver_in_target_frame(self, seen: _Seen) -> None:
        """Publish positions there, too, if somebody listens and there is a transform."""
        transforms, outputs, camera = self._transforms, self._target_outputs, seen.camera
        if transforms is None or outputs is None or not outputs.are_wanted(camera.name):
            camera.transform_problem = None
            return
        try:
            transform = transforms.lookup(seen.result.header, seen.time_doubt)
        except TransformError as error:
            camera.transform_problem = str(error)
            self._warn((camera.name, "transform"), f"no poses of {camera.source}: {error}")
            return
        camera.transform_problem = None
        self._publish(outputs, seen._replace(result=replace(seen.result, transform=transform)))

    def _drop(self, job: _Job) -> None:
        if isinstance(job, Request):
            job.refuse("the node was deactivated before the image's turn")
        else:
            job.camera.statistics.drop()

    def _lose(self, job: _Job, error: Exception) -> None:
        """Count and report an image that is unusable, or that an error cost us."""
        if isinstance(error, ImageError):
            if isinstance(job, Request):
                job.refuse(str(error))  # whoever asked knows
            else:
                self._refuse(job.camera, error)
            return
        text = f"{type(error).__name__}: {error}"
        if isinstance(job, Request):
            job.refuse(text)
            source = "segment_image"
        else:
            job.camera.statistics.fail(text)
            source = job.camera.source
        if self.end_requested.done():
            return  # publishing fails while the process ends; that is no news
        expected = isinstance(error, _EXPECTED_ERRORS)
        trace = "" if expected else "\n" + _trace(error)
        self._warn((source, type(error)), f"lost a frame of {source}: {text}{trace}")
        if not expected and (perception := self._perception) is not None:
            device = perception.segmenter.device
            if not is_usable(device):
                self._give_up(
                    f"{device} computes nothing more in this process, which ends; with "
                    "respawn:=true launch starts another one"
                )

    def _miss(self, camera: CameraInput, what: str, error: Exception) -> None:
        """Report what an error cost us of an image whose masks are published."""
        if self.end_requested.done():
            return
        text = f"no {what} of {camera.source}: {type(error).__name__}: {error}"
        trace = "" if isinstance(error, _EXPECTED_ERRORS) else "\n" + _trace(error)
        self._warn((camera.name, what), text + trace)

    def _report_bug(self, error: Exception) -> None:
        if self.end_requested.done():
            return
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
            camera.follow_publishers(self._settings.stale_timeout)
            silence = camera.statistics.silence(time.monotonic())
            if silence > self._settings.stale_timeout and not camera.stale:
                camera.stale = True
                count = camera.publishers()
                found = camera.wrong_type() or f"{count} publishers"
                if not count and (others := colour_images(self, self._cameras)):
                    found += f"; images are on {others} (launch with image_topic:=...)"
                self.get_logger().warning(
                    f"no image on {camera.source} for {silence:.1f} s: {found}; no masks are "
                    "published until one arrives"
                )
            hangs = camera.statistics.unanswered(time.monotonic(), self._settings.stale_timeout)
            if hangs is not None and not camera.hangs:
                self.get_logger().error(f"{camera.source}: {hanging(hangs)}")
            camera.hangs = hangs is not None
            for problem in camera.new_depth_problems():
                self.get_logger().warning(problem)
            if (lack := camera.new_lack_of_depth(self._settings.stale_timeout)) is not None:
                where = hint(self, self._cameras, lack)
                self.get_logger().warning(
                    f"objects of {camera.source} get no positions: {lack.reason}{where}"
                )

    def _watch_rivals(self) -> None:
        """Say so when another node publishes what this one does."""
        rivals: dict[str, list[str]] = {}
        for outputs in self._all_outputs():
            for name, topics in outputs.rivals().items():
                rivals.setdefault(name, []).extend(topics)
        if time.monotonic() - self._began < _GHOST_PERIOD:
            rivals.pop(self.get_fully_qualified_name(), None)
        for name in rivals.keys() - self._rivals:
            self.get_logger().warning(
                f"another node, {name}, publishes on {', '.join(rivals[name])}, too: end one of "
                "them, or give it another namespace"
            )
        self._rivals = set(rivals)

    def _publish_diagnostics(self) -> None:
        self._watch_rivals()
        now = time.monotonic()
        name = self.get_fully_qualified_name()
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [
            node_status(name, state=self._state(), failure=self._failure, model=self._model()),
            *(
                camera_status(
                    name,
                    camera.topic,
                    camera.source,
                    camera.publishers(),
                    camera.statistics.report(now, self._settings.stale_timeout),
                    self._settings.stale_timeout,
                    depth=camera.depth_problem,
                    transform=camera.transform_problem,
                    stamps=camera.stamp_problem(),
                    registration=camera.registration_problem(),
                    wrong_type=camera.wrong_type() if camera.stale else None,
                    facts=camera.facts(),
                )
                for camera in self._cameras
            ),
        ]
        self._diagnostics.publish(message)

    def _names(self, settings: NodeSettings) -> list[str]:
        topics = [resolve_image_topic(self, topic) for topic in settings.image_topics]
        return camera_names(topics, settings.per_camera("camera_names"))

    def _state(self) -> str:
        if self._finalized:
            return "finalized"
        if self._worker is not None:
            return "paused" if self._paused else "active"
        return "unconfigured" if self._perception is None else "inactive"

    def _model(self) -> dict[str, object]:
        """Facts about the process and the loaded model."""
        process: dict[str, object] = {"memory [MiB]": round(resident_memory() / 2**20)}
        if (perception := self._perception) is None:
            return process
        segmenter = perception.segmenter
        if segmenter.device.type == "cuda":
            allocated = torch.cuda.memory_allocated(segmenter.device)
            process["device memory [MiB]"] = round(allocated / 2**20)
        return process | {
            "threads": self._threads,
            "model": perception.model_name,
            "device": segmenter.device,
            "precision": segmenter.precision,
            "mask source": segmenter.mask_source,
            "takes depth": perception.takes_depth,
            "tells kinds": segmenter.has_kinds,
            "image size": segmenter.model.config.image_size,
        }


def _load(settings: NodeSettings, threads: int) -> Perception:
    _use_threads(threads)
    perception = Perception(settings.perception_settings())
    perception.warm_up(len(settings.image_topics))
    return perception


def _use_threads(number: int) -> int:
    """Let passes in this thread be shared by so many threads; how many it will be."""
    if number != torch.get_num_threads():  # which drops what oneDNN has prepared
        torch.set_num_threads(number)
    return torch.get_num_threads()


def _trace(error: Exception) -> str:
    return "".join(traceback.format_exception(error))


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; ends the process."""
    end_on_signals()
    keep_freed_memory()
    init("perception_node", args)
    try:
        node = PerceptionNode()
    except QoSError as error:
        rclpy.logging.get_logger("perception").fatal(str(error))
        rclpy.try_shutdown()
        leave(1)
        return 1
    end_with(node.request_end)
    node.start()
    rclpy.spin_until_future_complete(node, node.end_requested)
    if not node.exit_status:  # else it would wait for a GPU that does not answer
        node.close()
        node.destroy_node()
    rclpy.try_shutdown()
    leave(node.exit_status)
    return node.exit_status


if __name__ == "__main__":
    sys.exit(main())
