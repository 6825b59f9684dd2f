"""Times of images by stamps that may be wrong, as tracks see them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from builtin_interfaces.msg import Time

from genesis_ros.messages.image_clock import ImageClock, ImageTime

START = 1_700_000_000.0  # s, of stamps
UP = 5_000.0  # s, of times of arrival: another epoch
PERIOD = 0.2  # s


def stamp(seconds: float) -> Time:
    nanoseconds = round(seconds * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def read(stamps: Iterable[float], clock: ImageClock | None = None) -> list[ImageTime]:
    """What a clock makes of images that arrive at the period."""
    clock = clock or ImageClock()
    return [
        clock.read(stamp(seconds), round((UP + number * PERIOD) * 1e9))
        for number, seconds in enumerate(stamps)
    ]


def good(count: int, start: float = START) -> list[float]:
    return [start + number * PERIOD for number in range(count)]


def starts_anew(times: list[ImageTime]) -> bool:
    """Whether a tracker would forget its objects."""
    return any(later.seconds < earlier.seconds - 1 for earlier, later in pairwise(times))


def test_good_stamps_are_taken_as_they_are() -> None:
    times = read(good(50))
    assert [item.seconds for item in times] == pytest.approx(good(50), abs=0)
    assert all(item.reliable and not item.stands for item in times)


@pytest.mark.parametrize("rate", [0.1, 3.0])
def test_a_bag_played_at_another_rate(rate: float) -> None:
    stamps = [START + number * PERIOD * rate for number in range(50)]
    assert [item.seconds for item in read(stamps)] == pytest.approx(stamps, abs=0)


@pytest.mark.parametrize(("rate", "period"), [(5, 0.3), (3, 0.8), (10, 0.15), (20, 1.0)])
def test_a_bag_played_fast_to_a_node_that_is_slow(rate: int, period: float) -> None:
    """Only the newest images are seen, whose stamps are seconds apart."""
    seen = [(START + k * rate * period, UP + k * period) for k in range(50)]
    times = read_at(*seen)
    assert [item.reliable for item in times].count(False) == 1  # until the rate is known
    assert [item.seconds for item in times[2:]] == pytest.approx([at for at, _ in seen[2:]], abs=0)
    # Other strays than those are still noticed, and all once it plays no faster.
    clock = ImageClock()
    for stamped, arrived in seen:
        clock.read(stamp(stamped), round(arrived * 1e9))
    end, now = seen[-1]
    assert not clock.read(stamp(end + 3600), round((now + period) * 1e9)).reliable
    for k in range(1, 150):
        assert clock.read(stamp(end + k * 0.1), round((now + k * 0.1) * 1e9)).reliable
    assert not clock.read(stamp(end + 17), round((now + 15) * 1e9)).reliable


def test_images_that_waited_tell_no_rate() -> None:
    """They come all at once; a stray one after them is one."""
    waited = [(100 + 2 * k, 10 + 0.001 * k) for k in range(5)]
    times = read_at(*waited, (108 + 3600, 10.2), (110, 12))
    assert not times[-2].reliable and times[-1].reliable


@pytest.mark.parametrize("stray", [0.0, -4.0, -1.5, -1e6, 1.8, 4.0, 3600.0, 1e6])
def test_a_stray_stamp_stands_for_the_time_of_its_arrival(stray: float) -> None:
    stamps = good(50)
    for number in (7, 21, 45):
        stamps[number] = stamps[number] + stray if stray else 0.0
    times = read(stamps)
    assert [item.seconds for item in times] == pytest.approx(good(50), abs=1e-6)
    assert [number for number, item in enumerate(times) if not item.reliable] == [7, 21, 45]


def test_a_stray_stamp_in_a_slowly_played_bag_is_no_restart() -> None:
    stamps = [START + number * PERIOD * 0.01 for number in range(200)]
    stamps[50:150:7] = [0.0] * len(stamps[50:150:7])
    assert not starts_anew(read(stamps))


def test_a_bag_that_is_played_again_starts_anew_once() -> None:
    times = read(good(30) * 3)
    assert [item.restarted for item in times].count(True) == 2
    assert starts_anew(times)
    assert times[-1].seconds == pytest.approx(good(30)[-1], abs=0)


def test_a_clock_that_is_set_ahead_is_followed() -> None:
    times = read(good(10) + good(10, START + 3600))
    assert times[-1].seconds == pytest.approx(START + 3600 + 9 * PERIOD)
    assert not starts_anew(times)


def test_images_without_stamps_have_the_time_of_their_arrival() -> None:
    times = read([0.0] * 20)
    assert [item.seconds for item in times] == pytest.approx([UP + n * PERIOD for n in range(20)])
    # In the middle of a recording they go on from the stamps before.
    times = read(good(5) + [0.0] * 20)
    assert [item.seconds for item in times] == pytest.approx(good(25))


def test_a_simulation_that_starts_without_a_clock() -> None:
    """Its first stamps are 0, and the later ones far below any time of arrival."""
    times = read([0.0] * 3 + good(20, start=5.0))
    assert [item.seconds for item in times[3:]] == pytest.approx(good(20, start=5.0))


@pytest.mark.parametrize(("value", "said"), [(0.0, "are 0"), (12.5, "do not advance")])
def test_stamps_that_stand_still_are_noticed(value: float, said: str) -> None:
    clock = ImageClock()
    times = read([value] * 10, clock)
    assert not times[0].stands and all(item.stands for item in times[2:])
    assert clock.standing is not None and said in clock.standing


def test_a_clock_that_ticks_once_in_ten_images_stands() -> None:
    """Also in the image in which it ticks."""
    times = read([START + number // 10 for number in range(50)])
    assert all(item.stands for item in times[2:])
    assert not starts_anew(times)


def test_doubled_images_are_no_standing_clock() -> None:
    times = read([START + number // 2 * PERIOD for number in range(50)])
    assert not any(item.stands for item in times)


@pytest.mark.parametrize("apart", [-100.0, -3.0, 100.0])
@pytest.mark.parametrize("pattern", ["ab", "aab", "aabb", "abbb"])
def test_two_clocks_on_a_topic_are_named(apart: float, pattern: str) -> None:
    clock = ImageClock()
    sources = (pattern * 20)[:40]
    stamps = [
        seconds + (apart if source == "b" else 0)
        for seconds, source in zip(good(40), sources, strict=True)
    ]
    times = read(stamps, clock)
    assert clock.problem is not None and f"{abs(apart):.1f} s apart" in clock.problem
    assert not starts_anew(times[12:])
    steps = [later.seconds - earlier.seconds for earlier, later in pairwise(times)]
    assert steps[12:] == pytest.approx([PERIOD] * len(steps[12:]), abs=1e-6)


def test_what_was_wrong_is_forgotten() -> None:
    clock = ImageClock()
    read([seconds - 100 * (number % 2) for number, seconds in enumerate(good(20))], clock)
    assert clock.problem is not None
    for number in range(20, 100):
        clock.read(stamp(START + number * PERIOD), round((UP + number * PERIOD) * 1e9))
    assert clock.problem is None and clock.standing is None


def test_negative_stamps_are_stamps() -> None:
    """Of a simulation that starts before its zero."""
    times = read(good(50, -5.03))
    assert [item.seconds for item in times] == pytest.approx(good(50, -5.03), abs=1e-9)
    assert all(item.reliable for item in times)


def read_at(*moments: tuple[float, float]) -> list[ImageTime]:
    """What a new clock makes of images of these stamps and times of arrival [s]."""
    clock = ImageClock()
    return [clock.read(stamp(seconds), round(arrived * 1e9)) for seconds, arrived in moments]


def test_a_stamp_is_judged_by_the_newest_not_by_the_last_one() -> None:
    """Each step back is less than a second; both together are more."""
    times = read_at((100, 0), (100.9, 0.1), (100, 0.2), (99.8, 0.3))
    assert [item.reliable for item in times] == [True, True, True, False]


def test_the_time_does_not_step_back_with_a_stamp_that_does_a_little() -> None:
    times = read_at((100, 0), (100.9, 0.1), (100, 0.2))
    assert [item.seconds for item in times] == pytest.approx([100, 100.9, 100.9])


def test_strays_to_both_sides_confirm_nothing() -> None:
    times = read_at((100, 0), (50, 0.1), (200, 0.2))
    assert [item.reliable for item in times] == [True, False, False]
    assert not any(item.restarted for item in times)
