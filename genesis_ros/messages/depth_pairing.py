"""Which depth image belongs to which colour image.

Stamps say it. Where they do not advance, or are of different clocks for a moment, times of arrival
do: a wrong position is worse than none.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo

from genesis_bags.decoding.compressed_depth import COMPRESSED_DEPTH
from genesis_bags.decoding.depth import depth_metres
from genesis_bags.decoding.depth_unit import DepthUnit
from genesis_bags.decoding.messages import ImageMessage
from genesis_bags.decoding.pixels import ImageError
from genesis_core.pipeline import DepthImage
from genesis_ros.messages.image_clock import ImageClock, ImageTime, nanoseconds
from genesis_ros.messages.intrinsics import read_intrinsics

# Depth images are kept for the images that wait for the model or are in it, however long that
# takes, and besides them the newest: 32 MB are a second and more of 640x480 16UC1 at 30 Hz. Images
# may come later than their depth, so that large ones are kept for as long as that takes, too.
_KEPT_BYTES = 32_000_000
_KEPT_BYTES_AT_FIRST = 160_000_000
_FORGOTTEN = 60  # stamps that are remembered, to say why there is no depth
_KEPT_LEAST, _KEPT_MOST = 3, 60
# ns; a depth camera that sent nothing for so long is dead, unless the image before had its depth:
# then images are as rare.
_ALIVE = 1_000_000_000
# s; images of one moment arrive this far apart at most: registering depth takes its time, and slow
# depth cameras send five images a second. A depth camera that is dead for longer ends positions.
_ARRIVAL_TOLERANCE = 0.3
# s; how long an image waits for its depth: a model on a GPU may be faster than depth is registered,
# and compressed depth may come later than that. Beyond the longest it does without.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 0.15
_DELAYS = 8  # newest depth images whose delays count
_SAME_MOMENT = 20_000_000  # ns between the stamps of an image and its depth, to tell their delay
_PERIODS = 6  # newest depth images whose stamps tell the period
_STEADY = 1.5  # the longest period beside the shortest, of a camera that keeps its rate
_JITTER = 0.1  # of a period: how far from its time a depth image may be taken
# ns between stamps, beside that between arrivals. Stamps that jump back, of a simulation or a bag
# that begins again, come a second time: with more, a depth image is of before the jump.
_ONE_CLOCK = 1_000_000_000


class DepthError(ImageError):
    """There is no depth for an image.

    The text names the topic and says why.

    Attributes:
        kind: why, in short.
    """


class DepthView(NamedTuple):
    """A depth image and the intrinsics that belong to it."""

    image: ImageMessage
    info: CameraInfo


class _Kept(NamedTuple):
    image: ImageMessage
    time: ImageTime

    @property
    def size(self) -> int:
        return len(self.image.data)


class _Wanted(NamedTuple):
    """An image whose depth will be asked for; times in ns."""

    stamp: int
    arrived: int


class DepthPairing:
    """Keeps the newest depth images and intrinsics of a camera, and finds those of an image.

    May be used from several threads.

    Args:
        topic: where the depth images come from, for errors.
        info_topic: where the intrinsics come from, for errors.

    Attributes:
        history: how much later than its depth an image may come, whatever the size [s].
        published_instead: "/topic: type" of what is published where depth images are expected.
        use_projection: see ``read_intrinsics``.
        intrinsics_choice: which intrinsics the newest depth image has, for people; "" before the
            first one.
        intrinsics_problem: why it has none; None: it has.
        frame_id: of the newest depth image; "" before the first one.
    """

    def __init__(self, topic: str, info_topic: str) -> None:
        self.topic = topic
        self.info_topic = info_topic
        self.history = 0.3
        self.published_instead: list[str] = []
        self.use_projection = "auto"
        self.intrinsics_choice = ""
        self.intrinsics_problem: str | None = None
        self.frame_id = ""
        self._images: deque[_Kept] = deque()
        self._clock = ImageClock()
        self._info: CameraInfo | None = None
        self._forgotten: deque[int] = deque(maxlen=_FORGOTTEN)  # stamps
        # The newest two, as the worker may take the first while the second comes.
        self._waiting: deque[_Wanted] = deque(maxlen=2)
        self._expected: deque[_Wanted] = deque(maxlen=_KEPT_MOST)  # whose depth may still come
        self._delays: deque[int] = deque(maxlen=_DELAYS)  # ns
        self._working: _Wanted | None = None
        self._unit = DepthUnit()
        self._arrived = threading.Condition()

    @property
    def unit(self) -> DepthUnit:
        """What its numbers mean."""
        return self._unit

    @property
    def has_images(self) -> bool:
        """Whether there is any depth image."""
        return bool(self._images)

    @property
    def has_intrinsics(self) -> bool:
        """Whether there are any intrinsics, good or bad."""
        return self._info is not None

    def registration_problem(self, frame_id: str) -> str | None:
        """Why depth seems not to be registered to images of a frame; None: nothing says so."""
        return registration_problem(self.topic, self.frame_id, frame_id)

    def expect(self, stamp: Time, arrived: int) -> None:
        """Keep the depth of an image that waits for the model, in place of those before it.

        Args:
            arrived: when the image did [ns], see `add_image`.
        """
        with self._arrived:
            wanted = _Wanted(nanoseconds(stamp), arrived)
            self._waiting.append(wanted)
            self._expected.append(wanted)
            if any(
                abs(kept.time.stamp - wanted.stamp) <= _SAME_MOMENT and not kept.time.stands
                for kept in self._images
            ):
                self._delays.append(0)  # its depth came first

    def hold(self, stamp: Time, arrived: int) -> None:
        """Keep the depth of the image that the model looks at now."""
        with self._arrived:
            self._working = _Wanted(nanoseconds(stamp), arrived)

    def add_image(self, message: ImageMessage, arrived: int | None = None) -> None:
        """Take in a depth image, registered to the colour image.

        Args:
            message: 16UC1 or 32FC1, raw or compressed.
            arrived: when it did [ns, the clock of the ImageTimes that are asked about]; None: now,
                by the monotonic clock.
        """
        arrived = time.monotonic_ns() if arrived is None else arrived
        with self._arrived:
            self.frame_id = message.header.frame_id
            taken = self._clock.read(message.header.stamp, arrived)
            self._images.append(_Kept(message, taken))
            self._note_delay(taken)
            if taken.restarted:  # a bag that is played in a loop
                self._forgotten.clear()
                while len(self._images) > 2:
                    self._images.popleft()
            self._forget_old()
            self._arrived.notify_all()

    def add_info(self, message: CameraInfo) -> None:
        """Take in the depth images' intrinsics; the newest count."""
        with self._arrived:
            self._info = message

    def clear(self) -> None:
        """Forget the messages; whoever waits for one waits no longer."""
        with self._arrived:
            self._images.clear()
            self._waiting.clear()
            self._expected.clear()
            self._delays.clear()
            self._info = self._working = None
            self._arrived.notify_all()

    @property
    def delay(self) -> float | None:
        """How much later than their images depth images came lately, at most [s]; None: unknown."""
        with self._arrived:
            return max(self._delays) * 1e-9 if self._delays else None

    @property
    def wait(self) -> float:
        """How long to wait for the depth of an image [s]: as long as depth was late lately."""
        late = 1.2 * (self.delay or 0.0) + 0.005
        return min(max(late, _SHORTEST_WAIT), _LONGEST_WAIT)

    @property
    def stamp_problem(self) -> str | None:
        """What is wrong with the stamps of the newest depth images; None: nothing."""
        with self._arrived:
            problem = self._clock.problem or self._clock.standing
        return problem and f"the stamps of {self.topic} {problem}"

    def has_reached(self, stamp: Time, taken: ImageTime | None = None) -> bool:
        """Whether there is a depth image as new as the colour image, so that none comes nearer."""
        with self._arrived:
            return self._reaches(nanoseconds(stamp), taken)

    def depth_image(
        self,
        stamp: Time,
        tolerance: float,
        timeout: float = 0.0,
        *,
        taken: ImageTime | None = None,
    ) -> DepthImage:
        """The depth that belongs to an image with this stamp. The arguments are those of `nearest`.

        Raises:
            DepthError: there is none, or it cannot be used.
        """
        return self.convert(self.nearest(stamp, tolerance, timeout, taken=taken))

    def convert(self, view: DepthView) -> DepthImage:
        """Messages to arrays.

        Raises:
            DepthError: they cannot be used.
        """
        try:
            depth = depth_metres(view.image, self._unit)
        except ImageError as error:
            raise DepthError(error.kind, f"{self.topic}: {error}") from error
        try:
            camera = read_intrinsics(
                view.info, *depth.shape, topic=self.topic, use_projection=self.use_projection
            )
        except ImageError as error:
            self.intrinsics_problem = f"{self.info_topic}: {error}"
            raise DepthError(error.kind, self.intrinsics_problem) from error
        self.intrinsics_choice, self.intrinsics_problem = camera.choice, None
        return DepthImage(depth, camera.matrix, self.topic, camera.distortion)

    def nearest(
        self,
        stamp: Time,
        tolerance: float,
        timeout: float = 0.0,
        *,
        taken: ImageTime | None = None,
    ) -> DepthView:
        """The depth image whose stamp is nearest to the given one, and the newest intrinsics.

        Args:
            tolerance: largest difference of the stamps [s].
            timeout: how long to wait for a depth image that is as new as the stamp [s]; its sensor,
                or its registration, may be slower than colour. Nobody waits for a sensor that has
                sent nothing for a second and nothing for the image before. Nor where no depth image
                that comes can be nearer, or within the tolerance.
            taken: what the colour camera's clock says about its image. Where stamps do not advance,
                the depth image that arrived nearest to the colour image is taken; so it is where a
                stray stamp finds none. Without it the newest of equal stamps is taken.

        Raises:
            DepthError: there is none.
        """
        wanted = nanoseconds(stamp)
        with self._arrived:
            if timeout > 0 and self._is_near(wanted, taken, tolerance):
                self._arrived.wait_for(lambda: self._reaches(wanted, taken), timeout)
            images, info = list(self._images), self._info
            stands = self._stands(taken)
        if not images:
            wrong = ", ".join(self.published_instead)
            found = f"; what is published is of another type ({wrong})" if wrong else ""
            raise DepthError("no depth", f"no depth image yet on {self.topic}{found}")
        if info is None:
            raise DepthError("no camera info", f"no camera info yet on {self.info_topic}")
        if taken is not None and stands:
            return DepthView(self._nearest_arrival(images, taken, tolerance), info)
        try:
            return DepthView(self._nearest_stamp(images, wanted, taken, tolerance), info)
        except DepthError:
            if taken is None or taken.reliable:
                raise
        return DepthView(self._nearest_arrival(images, taken, tolerance), info)

    def _forget_old(self) -> None:
        """Forget the oldest depth images, where there are too many, but those that are needed."""
        newest = self._images[-1].time.arrived
        total, count = sum(kept.size for kept in self._images), len(self._images)
        if total <= _KEPT_BYTES and count <= _KEPT_MOST:
            return
        needed, forgotten = self._needed(), set()
        for kept in list(self._images)[:-_KEPT_LEAST]:
            is_new = newest - kept.time.arrived < self.history * 1e9
            room = _KEPT_BYTES_AT_FIRST if is_new else _KEPT_BYTES
            if total <= room and count <= _KEPT_MOST:
                break
            if id(kept) not in needed:
                forgotten.add(id(kept))
                self._forgotten.append(kept.time.stamp)
                total, count = total - kept.size, count - 1
        self._images = deque(kept for kept in self._images if id(kept) not in forgotten)

    def _needed(self) -> set[int]:
        """The depth images nearest to the images that are waited for, by stamp and by arrival."""
        needed = set()
        for wanted in (*self._waiting, *([self._working] if self._working else [])):
            newest_first = list(reversed(self._images))
            by_stamp = min(newest_first, key=lambda kept: abs(kept.time.stamp - wanted.stamp))
            by_arrival = min(newest_first, key=lambda kept: abs(kept.time.arrived - wanted.arrived))
            needed |= {id(by_stamp), id(by_arrival)}
        return needed

    def _nearest_stamp(
        self, images: list[_Kept], wanted: int, taken: ImageTime | None, tolerance: float
    ) -> ImageMessage:
        def distance(kept: _Kept) -> tuple[int, int]:
            apart = 0 if taken is None else abs(kept.time.arrived - taken.arrived)
            return abs(kept.time.stamp - wanted), apart

        usable = [kept for kept in images if _is_of_one_clock(kept, wanted, taken)]
        images = usable or images
        kept = min(reversed(images), key=distance)  # the newest of equal ones
        apart = (kept.time.stamp - wanted) * 1e-9
        if not usable and abs(apart) <= tolerance:
            raise DepthError(
                "stamp",
                f"no depth image of the image's time on {self.topic}: the one with its stamp came "
                "at another time; stamps have jumped",
            )
        if abs(apart) > tolerance:
            raise DepthError(
                "stamp",
                f"no depth image of the image's time on {self.topic}: the nearest is "
                f"{abs(apart):.3f} s {'later' if apart > 0 else 'earlier'}, "
                f"depth_tolerance is {tolerance:g} s{self._why_none(images, wanted, tolerance)}",
            )
        return kept.image

    def _why_none(self, images: list[_Kept], wanted: int, tolerance: float) -> str:
        """What is known about the reason, where it is another than the tolerance."""
        if any(abs(stamp - wanted) <= tolerance * 1e9 for stamp in list(self._forgotten)):
            return "; the one of its time is forgotten, as newer ones filled the memory"
        stamps = [kept.time.stamp for kept in images]
        before = max((stamp for stamp in stamps if stamp <= wanted), default=None)
        after = min((stamp for stamp in stamps if stamp > wanted), default=None)
        if before is None or after is None or after - before <= 2e9 * tolerance:
            return ""
        return (
            f"; those before and after it are {(after - before) * 1e-9:.3f} s apart: depth comes "
            "at a lower rate than images, or gets lost on its way"
        )

    def _nearest_arrival(
        self, images: list[_Kept], taken: ImageTime, tolerance: float
    ) -> ImageMessage:
        kept = min(reversed(images), key=lambda kept: abs(kept.time.arrived - taken.arrived))
        apart = (kept.time.arrived - taken.arrived) * 1e-9
        allowed = max(tolerance, _ARRIVAL_TOLERANCE)
        if abs(apart) > allowed:
            raise DepthError(
                "arrival",
                f"no depth image arrived with the image on {self.topic}: the nearest came "
                f"{abs(apart):.3f} s {'later' if apart > 0 else 'earlier'}, at most {allowed:g} s "
                "are allowed; times of arrival count, as stamps do not say what belongs together",
            )
        return kept.image

    def _stands(self, taken: ImageTime | None) -> bool:
        """Whether only times of arrival say what belongs to an image."""
        return taken is not None and (
            taken.stands or bool(self._images and self._images[-1].time.stands)
        )

    def _reaches(self, wanted: int, taken: ImageTime | None) -> bool:
        if taken is not None and self._stands(taken):
            return bool(self._images) and self._images[-1].time.arrived >= taken.arrived
        of_one_clock = [kept for kept in self._images if _is_of_one_clock(kept, wanted, taken)]
        return _newest_stamp(of_one_clock) >= wanted or self._is_nearest(wanted)

    def _is_near(self, wanted: int, taken: ImageTime | None, tolerance: float) -> bool:
        """Whether a depth image of this time is to be expected."""
        if taken is not None and self._stands(taken):
            newest = self._images[-1].time.arrived if self._images else -np.inf
            images = (image.arrived for image in self._expected)
            return _is_alive(newest, taken.arrived, images, _ARRIVAL_TOLERANCE * 1e9)
        images = (image.stamp for image in self._expected)
        return _is_alive(
            _newest_stamp(self._images), wanted, images, _SAME_MOMENT
        ) and not self._is_between(wanted, tolerance)

    def _note_delay(self, depth: ImageTime) -> None:
        """Note how much later than the image of its moment a depth image has come."""
        if depth.stands or not self._expected:
            return
        newest_first = reversed(self._expected)
        image = min(newest_first, key=lambda wanted: abs(wanted.stamp - depth.stamp))
        delay = max(0, depth.arrived - image.arrived)
        if abs(image.stamp - depth.stamp) <= _SAME_MOMENT and delay < _ALIVE:
            self._delays.append(delay)

    def _is_nearest(self, wanted: int) -> bool:
        """Whether an image is there than which none that comes can be nearer: where depth is not
        taken at the images' moments, but between them.
        """
        newest, periods = self._periods()
        return bool(periods) and 0 <= wanted - newest < 0.45 * min(periods)

    def _is_between(self, wanted: int, tolerance: float) -> bool:
        """Whether the depth images that come, at a lower rate than images, miss an image's time."""
        newest, periods = self._periods()
        if not periods or max(periods) > _STEADY * min(periods):
            return False
        began = newest - sum(periods)
        if sum(began < image.stamp <= newest for image in self._expected) <= len(periods):
            return False  # there are no more images than depth images: each has its own
        period = statistics.median(periods)
        coming = max(1, round((wanted - newest) / period))
        apart = abs(wanted - newest - coming * period)
        return apart > tolerance * 1e9 + _JITTER * period

    def _periods(self) -> tuple[int, list[int]]:
        """The newest depth image's stamp, and the times between the newest; [] if they are few."""
        stamps = [kept.time.stamp for kept in list(self._images)[-_PERIODS:] if kept.time.reliable]
        periods = [after - before for before, after in itertools.pairwise(stamps) if after > before]
        return (stamps[-1], periods) if len(periods) == _PERIODS - 1 else (0, [])


def _newest_stamp(images: Iterable[_Kept]) -> float:
    """Stray ones do not count, but 0 does."""
    stamps = (kept.time for kept in images)
    return max((at.stamp for at in stamps if at.reliable or not at.stamp), default=-np.inf)


def _is_of_one_clock(kept: _Kept, wanted: int, taken: ImageTime | None) -> bool:
    """Whether stamps and arrivals of a depth image and an image agree, as far as is known."""
    if taken is None:
        return True
    by_stamp, by_arrival = kept.time.stamp - wanted, kept.time.arrived - taken.arrived
    return abs(by_stamp - by_arrival) <= _ONE_CLOCK


def _is_alive(newest: float, wanted: int, images: Iterable[int], apart: float) -> bool:
    """Whether a depth camera still sends, by the times of its newest image and of one to come [ns].

    Args:
        images: times of the newest colour images.
        apart: how far a depth image may lie before its image.
    """
    before = max((image for image in images if image < wanted), default=-np.inf)
    return wanted - newest < _ALIVE or newest >= before - apart


def registration_problem(depth: str, depth_frame: str, image_frame: str) -> str | None:
    """Why depth, so called, seems not to be registered to images; None: no frame says so."""
    if depth_frame and image_frame and depth_frame != image_frame:
        return (
            f"{depth} is in frame {depth_frame}, the image in {image_frame}: depth that is not "
            "registered to the image gives wrong positions (docs/node.md, Position and size)"
        )
    return None


def info_beside(depth_topic: str) -> str:
    """The topic of the intrinsics, where nobody names it: camera_info beside the depth topic.

    A compressed topic lies below the raw one.
    """
    for transport in (COMPRESSED_DEPTH, "/compressed"):
        depth_topic = depth_topic.removesuffix(transport)
    return depth_topic.rpartition("/")[0] + "/camera_info"
