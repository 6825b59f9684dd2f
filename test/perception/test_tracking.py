"""Ids stay with their objects, whatever the slots do. No ROS needed.

Images are label maps whose objects reach the tracker in random slot order with noisy latents, as
benchmarks/tracking.py makes them; what is counted is how often an object changes its id.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from benchmarks.tracking import DISTURBANCES, FIRST_OBJECT, TruthScenes, bench
from genesis_core import Perception, PerceptionSettings
from genesis_core import View as ModelView
from genesis_core.perception import Box, SceneObject, SceneObjects, Tracker, find_objects
from genesis_sim import RenderingError, TabletopRenderer

RATE = 12.0
CLIP = Path(__file__).parents[2] / "genesis_ros/data/tabletop.mp4"
BACKGROUND = 0
Boxes = Mapping[int, tuple[int, int, int, int]]  # true label: x, y, width, height


def draw(boxes: Boxes, width: int = 160, height: int = 120) -> np.ndarray:
    """True labels (H, W); later boxes lie in front."""
    labels = np.zeros((height, width), np.uint8)
    for label, (x, y, box_width, box_height) in boxes.items():
        labels[y : y + box_height, x : x + box_width] = label
    return labels


class View:
    """What a tracker says of a camera whose images are known label by label."""

    def __init__(self, seed: int = 0, noise: float = 0.3, **options: float) -> None:
        self.tracker = Tracker(**options)
        self.scenes = TruthScenes(seed, noise=noise)
        self.border = 0.3
        self.now = 0.0

    def find(self, labels: np.ndarray) -> SceneObjects:
        return find_objects(self.scenes(labels), background_border=self.border)

    def track(self, found: SceneObjects) -> tuple[int, ...]:
        return self.tracker.update(found, self.now)

    def see(self, labels: np.ndarray, step: float = 1 / RATE) -> dict[int, int]:
        """Ids by true label of the next image, `step` seconds later."""
        self.now += step
        found = self.find(labels)
        ids = self.track(found)
        assert len(ids) == len(set(ids)) == len(found.objects) and all(ids)
        return {
            int(np.bincount(labels[found.labels == item.label]).argmax()): track
            for item, track in zip(found.objects, ids, strict=True)
        }


STILL = {2: (20, 20, 20, 20), 3: (80, 30, 16, 24), 4: (50, 80, 24, 16)}


def count_switches(ids: Iterator[dict[int, int]]) -> tuple[int, int]:
    """How often an object has another id than when it was last seen, and object-frames."""
    last: dict[int, int] = {}
    switches = seen = 0
    for image in ids:
        objects = {label: track for label, track in image.items() if label >= FIRST_OBJECT}
        switches += sum(last.get(label, track) != track for label, track in objects.items())
        last.update(objects)
        seen += len(objects)
    return switches, seen


@pytest.mark.parametrize("seed", range(5))
def test_slot_order_does_not_matter(seed: int) -> None:
    view = View(seed)
    first = view.see(draw(STILL))
    assert sorted(first.values()) == [1, 2, 3, 4]
    slots = set()
    for _ in range(20):
        assert view.see(draw(STILL)) == first
        slots.add(tuple(item.slot for item in view.find(draw(STILL)).objects))
    order = view.scenes(draw(STILL)).labels[[0, 25, 35, 85], [0, 25, 85, 60]]
    assert sorted(order) == [0, 1, 2, 3]


def test_moving_objects_keep_their_ids() -> None:
    """By their own size per image, with latents that do not tell them apart."""
    view = View(noise=3.0)
    ids = [
        view.see(draw({2: (4 + x, 10, 8, 8), 3: (140 - x, 40, 8, 8), 4: (60, 100 - x, 8, 8)}))
        for x in [0, 3, 7, *range(14, 94, 8)]
    ]
    assert count_switches(iter(ids)) == (0, 39)


def in_window(found: SceneObjects, x: int, y: int, width: int, height: int) -> SceneObjects:
    """The objects of an image that is the part at x, y of a larger one of this size."""
    rows, columns = found.labels.shape
    labels = np.zeros((height, width), np.uint8)
    labels[y : y + rows, x : x + columns] = found.labels
    moved = [
        item._replace(
            centroid=(item.centroid[0] + x, item.centroid[1] + y),
            box=item.box._replace(x=item.box.x + x, y=item.box.y + y),
            own_box=item.own_box._replace(x=item.own_box.x + x, y=item.own_box.y + y),
        )
        for item in found.objects
    ]
    return SceneObjects(moved, labels, Box(x, y, columns, rows))


def test_objects_in_a_part_of_the_image_are_tracked_as_in_an_image_of_their_own() -> None:
    """On a grid over the whole of it they would share a cell each."""
    view, alone = View(noise=3.0), Tracker()
    whole = Tracker()
    differ = 0
    for k, x in enumerate([0, 3, 7, *range(14, 94, 8)]):
        boxes = {2: (4 + x, 10, 8, 8), 3: (140 - x, 40, 8, 8), 4: (60, 100 - x, 8, 8)}
        found, stamp = view.find(draw(boxes)), k / RATE
        photo = np.random.default_rng(k).integers(80, 160, (120, 160, 3), np.uint8)
        large = np.zeros((1200, 1600, 3), np.uint8)
        large[700:820, 300:460] = photo
        inside = in_window(found, 300, 700, 1600, 1200)
        expected = alone.update(found, stamp, photo)
        assert view.tracker.update(inside, stamp, large) == expected
        differ += whole.update(inside._replace(seen=None), stamp, large) != expected
    assert differ > 0


def test_another_part_of_the_image_begins_anew() -> None:
    found = View().find(draw(STILL))
    tracker = Tracker()

    def ids(x: int, scale: int, stamp: float) -> tuple[int, ...]:
        """Of a part a tenth as wide as the image, at x of 1600 pixels, or scale times as many."""
        larger = found.labels.repeat(scale, axis=0).repeat(scale, axis=1)
        objects = [
            item._replace(
                centroid=(scale * item.centroid[0], scale * item.centroid[1]),
                area=scale**2 * item.area,
            )
            for item in found.objects
        ]
        part = in_window(SceneObjects(objects, larger), scale * x, 0, scale * 1600, scale * 1200)
        return tracker.update(part, stamp)

    first = ids(300, 1, 1.0)
    assert ids(300, 1, 1.1) == first
    assert ids(301, 1, 1.2) == first  # as whole pixels of another resolution may lie
    assert ids(300, 2, 1.3) == first
    second = ids(316, 1, 1.4)  # a tenth of the part's width away
    assert not set(second) & set(first)
    # Nor does it creep, step by step.
    same = [ids(316 + k, 1, 1.5 + 0.1 * k) == second for k in range(4)]
    assert same == [True, True, False, False]


def test_one_object_after_another() -> None:
    """On a conveyor belt each soon lies where the next one was: only the velocity tells."""
    view = View(noise=3.0)
    ids = [
        view.see(draw({2 + k: (60 + x - 20 * k, 40, 12, 12) for k in range(3)}))
        for x in [0, 2, 6, *range(12, 92, 10)]
    ]
    assert count_switches(iter(ids)) == (0, 33)


@pytest.mark.parametrize(("hidden", "same"), [(1, True), (12, True), (35, True), (38, False)])
def test_hidden_objects_are_remembered_for_max_age(hidden: int, same: bool) -> None:
    view = View(max_age=3.0)
    before = view.see(draw(STILL))
    without = {label: box for label, box in STILL.items() if label != 3}
    for _ in range(hidden):
        during = view.see(draw(without))
        assert during == {label: track for label, track in before.items() if label != 3}
    after = view.see(draw(STILL))
    assert (after[3] == before[3]) == same
    assert after[3] not in during.values()
    assert {**after, 3: 0} == {**before, 3: 0}


def test_max_age_zero_forgets_what_one_image_lacks() -> None:
    view = View(max_age=0.0)
    before = view.see(draw(STILL))
    assert view.see(draw(STILL)) == before
    view.see(draw({2: STILL[2]}))
    after = view.see(draw(STILL))
    assert after[2] == before[2] and {after[3], after[4]}.isdisjoint(before.values())


def test_arm_sweeps_over_everything() -> None:
    """A bar wider than the objects hides each of them bit by bit, then shows it again."""
    view = View()
    ids = [view.see(draw({**STILL, 1: (x, 0, 40, 110)})) for x in [*range(0, 160, 5)] * 3]
    switches, seen = count_switches(iter(ids))
    assert switches == 0 and seen > 150


def test_objects_pass_each_other() -> None:
    """One in front of the other, with latents that do not tell them apart."""
    view = View(noise=3.0)
    path = range(10, 130, 4)
    ids = [view.see(draw({2: (x, 40, 20, 20), 3: (140 - x, 50, 16, 20)})) for x in path]
    assert ids[0] == ids[-1]
    assert count_switches(iter(ids))[0] == 0


def test_latents_find_objects_that_moved_unseen() -> None:
    view = View()
    before = view.see(draw(STILL))
    view.see(draw(STILL))
    for _ in range(6):
        view.see(draw({}))
    moved = {2: (110, 80, 20, 20), 3: (110, 10, 16, 24), 4: (10, 90, 24, 16)}
    assert view.see(draw(moved)) == before


def test_merged_slots() -> None:
    """A small object shares the slot of a large one for a second, then has its own again."""
    apart = {2: (40, 30, 40, 40), 3: (80, 40, 16, 16)}
    view = View()
    before = view.see(draw(apart))
    view.see(draw(apart))
    together = draw(apart)
    together[together == 3] = 2
    for _ in range(12):
        assert view.see(together)[2] == before[2]
    assert view.see(draw(apart)) == before


def test_split_slots() -> None:
    """A third of an object gets a slot of its own for a while: the rest remains the object."""
    view = View()
    before = view.see(draw(STILL))
    for _ in range(5):
        parts = view.see(draw({**STILL, 5: (20, 34, 20, 6)}))
        assert {label: parts[label] for label in before} == before
        assert parts[5] not in before.values()
    assert view.see(draw(STILL)) == before


def test_new_objects_get_new_ids() -> None:
    view = View()
    before = view.see(draw(STILL))
    more = view.see(draw({**STILL, 5: (120, 80, 20, 20)}))
    assert {**before, 5: 5} == more


def test_background_flag_may_flicker() -> None:
    view = View()
    before = view.see(draw(STILL))
    for border in (0.0, 1.0, 0.0, 0.3, 1.0):
        view.border = border
        assert view.see(draw(STILL)) == before


def test_no_objects() -> None:
    view = View()
    nothing = SceneObjects([], np.zeros((120, 160), np.uint8))
    assert view.tracker.update(nothing, 0.0) == ()
    before = view.see(draw(STILL))
    assert view.tracker.update(nothing, view.now) == ()
    assert view.see(draw(STILL)) == before


def test_irregular_stamps() -> None:
    """Slow and paused cameras, doubled stamps, and a clock that is set back a little."""
    view = View(max_age=1.0)
    before = view.see(draw(STILL))
    for step in (0.0, 0.0, 0.01, 2.0, 30.0, -0.4, -0.4, 0.1, 3600.0, 0.0):
        assert view.see(draw(STILL), step) == before


def test_reset_and_a_looping_bag_begin_with_new_ids() -> None:
    view = View()
    first = view.see(draw(STILL), 100.0)
    view.tracker.reset()
    second = view.see(draw(STILL))
    third = view.see(draw(STILL), -50.0)
    for ids in (first, second, third):
        assert ids.keys() == first.keys()
    used = [*first.values(), *second.values(), *third.values()]
    assert sorted(used) == list(range(1, 13))
    assert view.see(draw(STILL)) == third


@pytest.mark.parametrize("size", [(80, 60), (320, 240), (640, 480), (1280, 960), (120, 120)])
def test_image_size_may_change(size: tuple[int, int]) -> None:
    view = View()
    before = view.see(draw(STILL))
    width, height = size
    scaled = {
        label: (x * width // 160, y * height // 120, w * width // 160, h * height // 120)
        for label, (x, y, w, h) in STILL.items()
    }
    for _ in range(3):
        assert view.see(draw(scaled, width, height)) == before
    assert view.see(draw(STILL)) == before


def test_many_objects() -> None:
    """150 touching ones, a third of which is lost at any time."""
    rng = np.random.default_rng(0)
    tiles = {2 + k: (16 * (k % 15), 16 * (k // 15), 16, 16) for k in range(150)}
    view = View()
    ids = []
    for k in range(6):
        shown = {label: box for label, box in tiles.items() if k == 0 or rng.random() > 0.33}
        ids.append(view.see(draw(shown, 240, 160)))
    switches, seen = count_switches(iter(ids))
    assert switches == 0 and seen > 600
    assert len({track for image in ids for track in image.values()}) == 151


def test_objects_smaller_than_a_cell_of_the_grid() -> None:
    view = View()
    dots = {2: (100, 100, 5, 5), 3: (300, 100, 5, 5), 4: (100, 400, 5, 5)}
    finding = {"min_area": 0.0}
    first = None
    for k in range(10):
        moved = {label: (x + k, y - k, w, h) for label, (x, y, w, h) in dots.items()}
        labels = draw(moved, 640, 480)
        found = find_objects(view.scenes(labels), **finding)
        ids = view.tracker.update(found, k / RATE)
        by_place = sorted(zip((item.centroid for item in found.objects), ids, strict=True))
        first = first or [track for _, track in by_place]
        assert [track for _, track in by_place] == first


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_useless_latents(bad: float) -> None:
    """Latents that are not numbers, or all the same: place and shape still tell who is who."""
    view = View()
    expected: list[int] = []
    for k in range(12):
        labels = draw({label: (x + 2 * k, y, w, h) for label, (x, y, w, h) in STILL.items()})
        found = view.find(labels)
        spoiled = [without_latents(item, bad) for item in found.objects]
        ids = view.tracker.update(SceneObjects(spoiled, found.labels), k / RATE)
        by_place = sorted(zip((item.area for item in spoiled), ids, strict=True))
        expected = expected or [track for _, track in by_place]
        assert len(set(expected)) == 4
        assert [track for _, track in by_place] == expected


def without_latents(item: SceneObject, value: float) -> SceneObject:
    return item._replace(latent_mean=np.full_like(item.latent_mean, value))


def test_many_tracks_do_not_make_it_forget_what_was_seen_lately() -> None:
    view = View(max_age=3600.0, min_similarity=0.9)

    def pass_by(numbers: range) -> None:
        for number in numbers:  # ever other things at ever other places
            box = (number * 37 % 130, number * 53 % 90, 8 + number % 7, 8 + number % 5)
            view.see(draw({2 + number % 200: box}))

    pass_by(range(400))
    mug = draw({1: (140, 100, 18, 18)})
    first = view.see(mug)[1]
    pass_by(range(400, 800))
    assert view.see(mug)[1] == first


def test_memory_stays_bounded_when_the_clock_stands_still() -> None:
    """Without time nothing expires; a camera that stamps everything alike shows ever new things."""
    view = View()
    spots = [(x, y, 5, 5) for x in range(0, 240, 6) for y in range(0, 150, 6)]
    ids: set[int] = set()
    for k in range(10):
        view.scenes = TruthScenes(k)
        shown = dict(enumerate(spots[100 * k : 100 * k + 100], start=2))
        ids |= {*view.see(draw(shown, 240, 160), step=0.0).values()}
    assert len(ids) > 800
    assert len(pickle.dumps(view.tracker)) < 190_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_age": -1.0}, "max_age is -1.0; expected seconds, 0 or more"),
        ({"max_age": float("inf")}, "max_age is inf"),
        ({"max_age": float("nan")}, "max_age is nan"),
        ({"min_similarity": 1.5}, "min_similarity is 1.5; expected 0 to 1"),
        ({"min_similarity": float("nan")}, "min_similarity is nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tracker(**options)
    tracker = Tracker()
    with pytest.raises(ValueError, match=message):
        tracker.configure(**{"max_age": 1.0, "min_similarity": 0.5, **options})


# Rendered sequences: the arm pushes, lifts, carries and hides objects.


@pytest.fixture(scope="module", params=["sketchy", "varied"])
def sequences(request: pytest.FixtureRequest) -> list[list[np.ndarray]]:
    """True labels (H, W) of four sequences."""
    try:
        renderer = TabletopRenderer(64, 64, request.param)
    except RenderingError as error:
        pytest.skip(str(error))
    with renderer:
        return [[frame.labels for frame in renderer.sequence(seed, 50)] for seed in range(300, 304)]


@pytest.mark.slow
@pytest.mark.parametrize(("disturbance", "allowed"), [("truth", 0), ("dropouts", 1), ("merges", 3)])
def test_rendered_sequences(
    sequences: list[list[np.ndarray]], disturbance: str, allowed: int
) -> None:
    """Below one switch per 1000 object-frames if objects are seen, few if they often are not."""
    switches = seen = 0
    for seed, sequence in enumerate(sequences):
        view = View(seed)
        view.scenes = TruthScenes(seed, **DISTURBANCES[disturbance])
        counts = count_switches(view.see(labels) for labels in sequence)
        switches += counts[0]
        seen += counts[1]
    assert seen > 400
    assert switches <= allowed, f"{switches} switches in {seen} object-frames"


def test_benchmark_writes_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("motmetrics", reason="requirements/benchmarks.txt is not installed")
    try:
        TabletopRenderer(64, 64, "sketchy").close()
    except RenderingError as error:
        pytest.skip(str(error))
    output = tmp_path / "tracking.json"
    bench(sequences=1, frames=6, modes=["sketchy"], seed=2, device="cpu", output=output)
    rows = {row["masks"]: row for row in json.loads(output.read_text())["rows"]}
    assert list(rows) == ["model", "truth", "dropouts", "merges"]
    assert rows["truth"]["mota"] == rows["truth"]["idf1"] == 1
    assert rows["truth"]["switches"] == 0 < rows["truth"]["object-frames"] <= 18


# Colours: what the image shows of an object that lies where another one was.

RED, GREEN, BLUE, GREY, TABLE = (
    (180, 50, 40),
    (40, 150, 60),
    (50, 70, 170),
    (110,) * 3,
    (150, 130, 100),
)
PAINT = {0: TABLE, 1: (225, 225, 230), 2: RED, 3: GREEN, 4: BLUE}


class ColourView(View):
    """A View of images whose objects are painted."""

    image: np.ndarray | None = None

    def look(
        self, boxes: Boxes, paint: Mapping[int, tuple[int, ...]] = PAINT, light: float = 1.0
    ) -> dict[int, int]:
        """Ids by true label of the next image, a twelfth of a second later."""
        labels = draw(boxes)
        colours = np.array([paint.get(label, TABLE) for label in range(labels.max() + 1)])
        self.image = np.clip(colours[labels] * light, 0, 255).astype(np.uint8)
        return self.see(labels)

    def track(self, found: SceneObjects) -> tuple[int, ...]:
        return self.tracker.update(found, self.now, self.image)


@pytest.mark.parametrize("tint", ["colour", "grey"])
def test_differently_coloured_objects_exchange_places(tint: str) -> None:
    """With latents that do not tell them apart; a mono camera shows brightness only."""
    paint = PAINT if tint == "colour" else {0: GREY, 2: (30,) * 3, 3: (220,) * 3}
    view = ColourView(noise=3.0)
    apart = {2: (40, 40, 20, 20), 3: (64, 40, 20, 20)}
    for _ in range(3):
        before = view.look(apart, paint)
    after = view.look({2: apart[3], 3: apart[2]}, paint)
    handed_over = {after[2]} & {before[3]} | {after[3]} & {before[2]}
    assert not handed_over and after[BACKGROUND] == before[BACKGROUND]


def test_colours_count_from_the_first_image_that_is_given() -> None:
    view = ColourView(noise=3.0)
    before = view.see(draw(STILL))
    assert view.look(STILL) == before
    exchanged = view.look({**STILL, 2: STILL[3], 3: STILL[2]})
    assert exchanged[2] != before[3] and exchanged[3] != before[2]


def test_an_object_that_was_hidden_is_not_taken_for_another_colour() -> None:
    view = ColourView(noise=3.0)
    before = view.look({2: STILL[2]})
    view.look({})
    assert view.look({3: STILL[2]})[3] not in before.values()
    assert view.look({})[BACKGROUND] == before[BACKGROUND]
    assert view.look({2: STILL[2]})[2] == before[2]


@pytest.mark.parametrize("light", [0.4, 0.7, 1.4])
def test_ids_outlast_a_change_of_the_light(light: float) -> None:
    """At once, as a lamp does it, and while one object is hidden."""
    view = ColourView()
    before = view.look(STILL)
    view.look(STILL)
    hidden = {label: box for label, box in STILL.items() if label != 3}
    for _ in range(3):
        during = view.look(hidden, light=light)
        assert during == {label: track for label, track in before.items() if label != 3}
    assert view.look(STILL, light=light) == before
    assert view.look(STILL) == before


@pytest.mark.parametrize("light", [0.5, 1.8])
def test_the_light_of_one_object_changes_with_the_table(light: float) -> None:
    view = ColourView()
    alone = {2: STILL[2]}
    before = view.look(alone)
    assert view.look(alone, light=light) == before
    assert view.look(alone) == before


def test_light_may_change_slowly_while_an_object_is_hidden() -> None:
    view = ColourView()
    before = view.look(STILL)
    hidden = {label: box for label, box in STILL.items() if label != 3}
    for light in np.linspace(1.0, 0.35, 24):
        view.look(hidden, light=light)
    assert view.look(STILL, light=0.35) == before


def test_an_arm_sweeps_over_coloured_objects() -> None:
    """Each has two halves of different colours, of which one shows before the other."""
    view = ColourView()
    halves = [(x + w // 2, y, w - w // 2, h) for x, y, w, h in STILL.values()]
    ids = []
    for x in [*range(-50, 160, 5)] * 2:
        labels = draw({**STILL, 1: (x, 0, 40, 110)})
        colours = np.array([*PAINT.values()])[labels]
        for left, top, width, height in halves:
            colours[top : top + height, left : left + width] //= (4, 1, 1)
        colours[labels == 1] = PAINT[1]
        view.image = colours.astype(np.uint8)
        ids.append(view.see(labels))
    switches, seen = count_switches(iter(ids))
    assert switches == 0 and seen > 150


def test_another_scene_has_other_ids() -> None:
    view = ColourView(noise=3.0)
    before = view.look(STILL)
    view.look(STILL)
    other = {0: (60, 90, 130), 2: (200, 190, 40), 3: (150, 60, 160), 4: (240, 120, 30)}
    assert set(view.look(STILL, other).values()).isdisjoint(before.values())


def test_an_image_of_another_size_is_refused() -> None:
    view = View()
    with pytest.raises(ValueError, match=r"the image is \(60, 80, 3\); expected \(120, 160, 3\)"):
        view.tracker.update(view.find(draw(STILL)), 0.0, np.zeros((60, 80, 3), np.uint8))


@pytest.mark.parametrize(
    ("stamp", "image", "error", "message"),
    [
        (math.nan, None, ValueError, "stamp is nan; expected seconds"),
        (math.inf, None, ValueError, "stamp is inf"),
        (-math.inf, None, ValueError, "stamp is -inf"),
        (1.1, np.zeros((120, 160, 3)), TypeError, "image has dtype float64; expected uint8"),
        (1.1, np.zeros((120, 160, 3), np.uint8).tolist(), TypeError, "image is a list"),
        (1.1, np.zeros((120, 160), np.uint8), ValueError, r"image has shape \(120, 160\)"),
    ],
)
def test_a_bad_stamp_or_image_is_refused_and_nothing_is_forgotten(
    stamp: float, image: Any, error: type[Exception], message: str
) -> None:
    view = ColourView()
    before = view.look(STILL)
    with pytest.raises(error, match=message):
        view.tracker.update(view.find(draw(STILL)), stamp, image)
    assert view.look(STILL) == before


@pytest.mark.parametrize("coloured", [False, True])
def test_some_of_the_objects_may_be_left_out_or_sorted(coloured: bool) -> None:
    """Their labels are no longer 1 to n."""
    labels = draw(STILL)
    image = np.array([*PAINT.values()])[labels].astype(np.uint8) if coloured else None
    view, plain = View(), View()
    for step in range(4):
        found = view.find(labels)
        items = [item for item in found.objects if not item.background]
        items.sort(key=lambda item: item.area, reverse=step % 2 == 0)
        ids = view.tracker.update(found._replace(objects=items), step / RATE, image)
        true = {int(labels[found.labels == item.label][0]): track
                for item, track in zip(items, ids, strict=True)}  # fmt: skip
        if step == 0:
            expected = true
        assert true == expected and sorted(true) == [2, 3, 4]
    found = plain.find(labels)
    whole, part = found, found._replace(objects=found.objects[::-1][:2])
    first = plain.tracker.update(whole, 0.0, image)
    assert plain.tracker.update(part, 1 / RATE, image) == first[::-1][:2]


def test_latents_of_another_length_are_another_models() -> None:
    view = View()
    found = view.find(draw(STILL))
    short = found._replace(
        objects=[item._replace(latent_mean=item.latent_mean[:3]) for item in found.objects]
    )
    first = view.tracker.update(found, 1.0)
    second = view.tracker.update(short, 1.1)
    assert not set(first) & set(second)
    assert view.tracker.update(short, 1.2) == second
    assert not {*first, *second} & set(view.tracker.update(found, 1.3))


@pytest.mark.slow
@pytest.mark.parametrize("pan", [80, 120])
def test_the_default_models_ids_outlast_a_pan(pan: int) -> None:
    """The clip's first image, then what a camera sees that has turned in a fifth of a second."""
    capture = cv2.VideoCapture(str(CLIP))
    image = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()
    perception, tracker = Perception(PerceptionSettings(device="cpu")), Tracker()
    wide = cv2.copyMakeBorder(image, 0, 0, 0, pan, cv2.BORDER_REPLICATE)
    seen = []
    for index, left in enumerate((0, 0, 0, pan)):
        shown = np.ascontiguousarray(wide[:, left : left + image.shape[1]])
        (result,) = perception([ModelView(shown, tracker=tracker, stamp=0.2 * index)])
        assert not isinstance(result, Exception)
        objects = zip(result.found.objects, result.track_ids, strict=True)
        seen.append(
            [i for item, i in sorted(objects, key=lambda o: o[0].centroid) if item.kind == "object"]
        )
    assert len(seen[-1]) == 3 and seen[-1] == seen[0]
