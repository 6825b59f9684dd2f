"""When images were taken, by stamps that may be wrong.

Drivers send stamps of 0, stamps that stand still, a single stamp from another hour; two publishers
on one topic may have clocks apart. Times of arrival tell these from a clock that goes on.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import NamedTuple

from builtin_interfaces.msg import Time

_SECOND = 1_000_000_000  # ns
_BACK = _SECOND  # a stamp further back than this is of another clock, or of a bag played again
_AHEAD = _SECOND  # and so is one that is further ahead than this and ...
_HASTE = 1.5  # ... than the time since the last image, times this, and the rate of a fast bag
_GAP = _SECOND // 20  # between arrivals that tell it: what waited comes all at once
_SAME_RATE = 1.5  # one rate of playing beside another one that is the same
_REPEATS = 2  # in a row: the clock stands still
_ADVANCES = 2  # new stamps in a row: one that stood still goes on
_STRAYS = 3  # within the time below: two clocks
_JITTER = _SECOND // 4  # by which one clock's stamps may differ from times of arrival
_MEMORY = 10 * _SECOND  # how long what was noticed is taken to hold


class ImageTime(NamedTuple):
    """When an image was taken, and how far its stamp can be relied on.

    Attributes:
        seconds: to track by; steps back by more than a second only where the source starts anew.
        stamp: the message's [ns].
        arrived: [ns, any clock, the same for all messages compared].
        reliable: the stamp is not 0 and goes on from those before it.
        stands: stamps do not advance, so that only the time of arrival says which images belong
            together.
    """

    seconds: float
    stamp: int
    arrived: int
    reliable: bool
    stands: bool
    restarted: bool = False
    """The source started anew: this and the image before it are the first ones."""
    goes_on: bool = True
    """The newest stamps advance, whether or not those before them did."""

    @property
    def doubt(self) -> str | None:
        """Why the stamp does not say when the image was taken; None: it does."""
        if self.stamp == 0:
            return "its stamp is 0"
        if not self.reliable:
            return "its stamp does not go on from those before it"
        # What stood still may go on, as a simulation does. One that ticks slowly does not.
        if self.stands and not self.goes_on:
            return "its stamp stands still"
        return None


class _Moment(NamedTuple):
    stamp: int
    arrived: int

    @property
    def offset(self) -> int:
        return self.stamp - self.arrived


class ImageClock:
    """Judges the stamps of the images of one topic, in the order of their arrival.

    One stray stamp counts for nothing: the next image decides whether the source has started anew
    or its clock was set. Two clocks on one topic are noticed, and times of arrival count from then
    on. Not for use by several threads at once.
    """

    def __init__(self) -> None:
        self._trusted: _Moment | None = None  # the newest in line with those before it
        self._suspect: _Moment | None = None  # the newest, if it is not
        self._other: _Moment | None = None  # the last one of the clock before this
        self._newest: _Moment | None = None
        self._seconds = 0.0
        self._shift = 0.0  # s from stamps to the times given, while there are two clocks
        self._repeats = 0
        self._advances = 0  # images in a row whose stamps are not those of the images before
        self._stands_until: int | None = None
        self._rate = 1.0  # of stamps beside arrivals, where a bag is played fast ...
        self._fast_until: int | None = None  # ... so long
        self._strays: deque[_Moment] = deque(maxlen=_STRAYS)
        self._two_clocks_until: int | None = None
        self._apart = 0  # ns

    def read(self, stamp: Time, arrived: int) -> ImageTime:
        """The time of the next image.

        Args:
            arrived: when it did [ns], on a clock that goes on.
        """
        now = _Moment(nanoseconds(stamp), arrived)
        self._notice_standing(now)
        reliable, restarted = True, False
        if now.stamp == 0:
            reliable = False
            self._seconds = self._at(arrived)
        elif self._trusted is None or self._goes_on(self._trusted, now):
            self._follow(now, stamp)
        elif self._suspect is not None and self._confirms(now):
            restarted = self._change_clock(now, stamp)
        else:
            reliable = False
            self._note_stray(now)
            self._seconds = self._at(arrived)
        self._newest = now
        return ImageTime(
            self._seconds,
            now.stamp,
            arrived,
            reliable,
            stands=self._holds(self._stands_until),
            restarted=restarted,
            goes_on=self._advances >= _ADVANCES,
        )

    @property
    def problem(self) -> str | None:
        """What is wrong with the newest stamps, in words that follow "the stamps"; None: nothing.

        Stamps that stand still are no problem as long as nobody has to pair images.
        """
        if self._newest is None or not self._holds(self._two_clocks_until):
            return None
        return (
            f"jump between clocks that are {self._apart / _SECOND:.1f} s apart, as if two sources "
            "published on the topic; times of arrival count"
        )

    @property
    def standing(self) -> str | None:
        """The same about stamps that do not advance."""
        if self._newest is None or not self._holds(self._stands_until):
            return None
        stamp = self._newest.stamp
        what = "are 0" if stamp == 0 else f"do not advance (the newest is {stamp / _SECOND:.3f} s)"
        return f"{what}; times of arrival count"

    def _holds(self, until: int | None) -> bool:
        return until is not None and self._newest is not None and self._newest.arrived <= until

    def _goes_on(self, last: _Moment, now: _Moment) -> bool:
        elapsed, step = max(0, now.arrived - last.arrived), now.stamp - last.stamp
        if -_BACK <= step <= _AHEAD + _HASTE * elapsed:
            return True
        if self._fast_until is None or now.arrived > self._fast_until or step < 0:
            return False
        if step > _AHEAD + _HASTE * self._rate * elapsed:
            return False
        self._fast_until = now.arrived + _MEMORY
        return True

    def _note_rate(self, *moments: _Moment) -> None:
        """Note that a bag is played fast, if three images' stamps advance at one high rate.

        From there on such steps are no jumps.
        """
        if any(after.arrived - before.arrived < _GAP for before, after in pairwise(moments)):
            return
        rates = [
            (after.stamp - before.stamp) / (after.arrived - before.arrived)
            for before, after in pairwise(moments)
        ]
        if min(rates) > 1 and max(rates) < _SAME_RATE * min(rates):
            self._rate = max(rates)
            self._fast_until = moments[-1].arrived + _MEMORY

    def _notice_standing(self, now: _Moment) -> None:
        same = self._newest is not None and now.stamp == self._newest.stamp
        self._repeats = self._repeats + 1 if same else 0
        self._advances = 0 if same else self._advances + 1
        if self._repeats >= _REPEATS:
            self._stands_until = now.arrived + _MEMORY

    def _at(self, arrived: int) -> float:
        """The time of an image whose stamp does not say it."""
        if self._newest is None:
            return arrived * 1e-9
        return self._seconds + max(0, arrived - self._newest.arrived) * 1e-9

    def _follow(self, now: _Moment, stamp: Time) -> None:
        self._suspect = None
        trusted = self._trusted
        self._trusted = now if trusted is None else _Moment(max(now.stamp, trusted.stamp), now[1])
        seconds = stamp.sec + stamp.nanosec * 1e-9 + self._shift
        # What arrivals said meanwhile may be a little ahead; that is no reason to start anew. What
        # they said before the first stamp is of another clock.
        self._seconds = seconds if trusted is None else max(seconds, self._seconds)

    def _confirms(self, now: _Moment) -> bool:
        """Whether the image goes on from the suspect one, on the same side of the trusted one."""
        assert self._trusted is not None and self._suspect is not None
        if now.stamp < self._suspect.stamp - _BACK:
            return False
        return (now.stamp > self._trusted.stamp) == (self._suspect.stamp > self._trusted.stamp)

    def _change_clock(self, now: _Moment, stamp: Time) -> bool:
        """Go over to the suspect's clock; whether the source has started anew."""
        assert self._trusted is not None and self._suspect is not None
        self._note_rate(self._trusted, self._suspect, now)
        old, self._trusted, self._suspect = self._trusted, now, None
        other, self._other = self._other, old
        known = other is not None and abs(now.offset - other.offset) < _JITTER
        if known and other is not None and now.arrived - other.arrived < _MEMORY:
            self._note_two_clocks(now, old)
        seconds = stamp.sec + stamp.nanosec * 1e-9
        if self._two_clocks_until is not None and now.arrived <= self._two_clocks_until:
            self._seconds = self._at(now.arrived)
            self._shift = self._seconds - seconds
            return False
        self._shift = 0.0
        self._seconds = seconds
        return now.stamp < old.stamp

    def _note_stray(self, now: _Moment) -> None:
        self._suspect = now
        self._strays.append(now)
        first = self._strays[0]
        assert self._trusted is not None
        if (
            len(self._strays) == _STRAYS
            and now.arrived - first.arrived < _MEMORY
            and all(abs(stray.offset - now.offset) < _JITTER for stray in self._strays)
        ):
            self._note_two_clocks(now, self._trusted)

    def _note_two_clocks(self, now: _Moment, old: _Moment) -> None:
        self._two_clocks_until = now.arrived + _MEMORY
        self._apart = abs(now.offset - old.offset)


def nanoseconds(stamp: Time) -> int:
    """A message's stamp [ns]."""
    return int(stamp.sec * _SECOND + stamp.nanosec)
