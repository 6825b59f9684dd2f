"""Household scenes: what a user of the renderer sees in the frames."""

import subprocess
import sys
import zlib
from collections import Counter

import numpy as np
import pytest

from genesis_sim import Frame, HouseholdRenderer, RenderingError, TabletopRenderer, make_renderer
from genesis_sim.assets import AssetPack
from genesis_sim.depth_sensor import Material
from genesis_sim.effects import ImageEffects
from genesis_sim.geometry import look_at, to_matrix
from genesis_sim.household import renderer as renderer_module
from genesis_sim.household.bank import make_bank
from genesis_sim.household.parts import hull_points
from genesis_sim.household.rooms import plate, random_setting
from genesis_sim.household.scenes import HouseholdScene, sample_household
from genesis_sim.household.shading import Shading
from genesis_sim.modes import HOUSEHOLD_SHARES, GeneralRenderer
from genesis_sim.scene import (
    FIRST_OBJECT,
    ROBOT,
    Camera,
    Finish,
    ObjectModel,
    Pose,
    Shape,
    Solid,
)

pytestmark = pytest.mark.slow

SIZE = 96


def checksums(frame: Frame) -> list[int]:
    return [zlib.crc32(array.tobytes()) for array in (frame.image, frame.labels, frame.depth)]


def renderer_or_skip(*arguments: object, **options: object) -> HouseholdRenderer:
    try:
        return HouseholdRenderer(*arguments, **options)  # type: ignore[arg-type]
    except RenderingError as error:
        pytest.skip(str(error))


def test_frames_have_the_documented_shapes_and_types() -> None:
    with renderer_or_skip(64, 48) as renderer:
        frame = renderer.sample(0)
    assert frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8
    assert frame.labels.shape == (48, 64) and frame.labels.dtype == np.uint8
    assert frame.depth.shape == (48, 64) and frame.depth.dtype == np.float32
    assert frame.intrinsics.shape == (3, 3)
    assert frame.materials is not None and frame.materials.shape == (48, 64)
    labels = [entry.label for entry in frame.objects]
    assert labels == list(range(FIRST_OBJECT, FIRST_OBJECT + len(labels)))
    assert set(np.unique(frame.labels)) <= {0, ROBOT, *labels}


def test_a_seed_gives_the_same_frame_whatever_was_drawn_before(
    household: HouseholdRenderer,
) -> None:
    first = checksums(household.sample(7))
    for seed in (8, 9, 10):
        household.sample(seed)
    assert checksums(household.sample(7)) == first
    assert checksums(household.sample(8)) != first


def test_a_seed_gives_the_same_frame_in_another_process(household: HouseholdRenderer) -> None:
    script = (
        "import zlib; from genesis_sim import HouseholdRenderer as H;"
        f"f = H({SIZE}, {SIZE}).sample(7);"
        "print(*[zlib.crc32(a.tobytes()) for a in (f.image, f.labels, f.depth)])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert [int(word) for word in run.stdout.split()] == checksums(household.sample(7))


def test_labels_lie_where_the_objects_project_to(household_frames: list[Frame]) -> None:
    """What is seen of an object lies within the sphere around its bounding box."""
    checked = 0
    for frame in household_frames:
        fx, fy = frame.intrinsics[0, 0], frame.intrinsics[1, 1]
        for entry in frame.objects:
            rows, columns = np.nonzero(frame.labels == entry.label)
            x, y, z = entry.position
            radius = 0.5 * float(np.linalg.norm(entry.size))
            if rows.size < 20 or z < 3 * radius:
                continue
            # In units of the radius, whichever way the image is squeezed.
            across = (columns - frame.intrinsics[0, 2] - fx * x / z) / fx
            down = (rows - frame.intrinsics[1, 2] - fy * y / z) / fy
            assert np.hypot(across, down).max() < 1.6 * radius / z + 3 / fx
            checked += 1
    assert checked > 150


def test_depth_at_an_object_is_its_distance(household_frames: list[Frame]) -> None:
    checked = 0
    for frame in household_frames:
        for entry in frame.objects:
            mask = frame.labels == entry.label
            if mask.sum() >= 15:
                radius = 0.5 * float(np.linalg.norm(entry.size))
                # But for single pixels at edges, whose labels are those of their neighbours.
                off = np.abs(frame.depth[mask] - entry.position[2])
                assert np.quantile(off, 0.9) < radius + 0.005
                checked += 1
    assert checked > 150


def test_objects_are_as_many_and_as_small_as_in_real_images(household_frames: list[Frame]) -> None:
    counts, shares = [], []
    for frame in household_frames:
        pixels = np.bincount(frame.labels.ravel(), minlength=40)[FIRST_OBJECT:]
        counts.append(np.count_nonzero(pixels))
        shares += (pixels[pixels > 0] / frame.labels.size).tolist()
    assert np.median(counts) >= 4 and max(counts) >= 12 and min(counts) <= 1
    assert 0.004 < np.median(shares) < 0.03
    assert np.quantile(shares, 0.05) < 0.003 and np.quantile(shares, 0.98) > 0.05
    # What cannot be seen has no label.
    assert min(shares) * SIZE * SIZE >= 3


def test_scenes_show_robots_and_many_kinds_of_things(household_frames: list[Frame]) -> None:
    with_robot = sum(bool((frame.labels == ROBOT).any()) for frame in household_frames)
    assert 0.15 < with_robot / len(household_frames) < 0.6
    names = Counter(entry.name for frame in household_frames for entry in frame.objects)
    assert len(names) >= 25
    assert {"box", "can", "bottle", "mug", "bowl", "pen", "scissors", "drill", "bag"} <= set(names)


def test_images_of_wide_cameras_are_squeezed(household_frames: list[Frame]) -> None:
    ratios = {round(float(f.intrinsics[0, 0] / f.intrinsics[1, 1]), 3) for f in household_frames}
    assert ratios == {1.0, 0.75, 0.562}


def test_some_things_are_clear_and_show_what_is_behind(household_frames: list[Frame]) -> None:
    with_clear = [frame for frame in household_frames if frame.behind is not None]
    assert 1 <= len(with_clear) < 30
    for frame in with_clear:
        assert frame.behind is not None and frame.materials is not None
        clear = frame.materials == Material.CLEAR
        assert (frame.behind[clear] >= frame.depth[clear] - 1e-3).all()
        np.testing.assert_allclose(frame.behind[~clear], frame.depth[~clear], atol=1e-3)


def test_a_polished_table_mirrors_what_stands_on_it(
    household: HouseholdRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image alone changes."""
    frames = []
    for reflectance in (0.0, 0.3):
        scene = _red_box_on(Finish((0.4, 0.4, 0.4), reflectance=reflectance))
        monkeypatch.setattr(renderer_module, "sample_household", lambda *_, drawn=scene: drawn)
        frames.append(household.sample(0))
    dull, polished = frames
    np.testing.assert_array_equal(polished.labels, dull.labels)
    np.testing.assert_array_equal(polished.depth, dull.depth)
    feet = int(np.nonzero((dull.labels == FIRST_OBJECT).any(axis=1))[0].max())
    before_it = (slice(feet + 3, feet + 8), slice(SIZE // 2 - 3, SIZE // 2 + 3))
    assert (dull.labels[before_it] == 0).all()
    for frame, fewest, most in ((dull, -2, 2), (polished, 25, 255)):
        red, green, _ = frame.image[before_it].reshape(-1, 3).mean(axis=0)
        assert fewest < red - green < most


def _red_box_on(table: Finish) -> HouseholdScene:
    red = Solid(Shape.BOX, (0.05, 0.05, 0.1), (0.0, 0.0, 0.0), Finish((1.0, 0.0, 0.0)))
    position = np.array([-0.6, 0.0, 0.3])
    return HouseholdScene(
        name="table",
        surroundings=[plate(0.0, 0.0, 0.0, (0.5, 0.5), table)],
        robot=[],
        objects=[ObjectModel("box", [red], (0.05, 0.05, 0.1))],
        poses=[Pose(np.array([0.0, 0.0, 0.1]))],
        camera=Camera(
            position,
            look_at(position, np.array([0.0, 0.0, 0.05])),
            1.2 * SIZE,
            (SIZE / 2, SIZE / 2),
        ),
        ambient=(0.8, 0.8, 0.8),
        lights=[],
        effects=ImageEffects(),
        shading=Shading(),
        support=table,
    )


def test_some_tables_and_shelves_are_polished() -> None:
    """What things stand on, and nothing else: MuJoCo draws one mirror in a scene."""
    bank = make_bank(None)
    settings = [random_setting(np.random.default_rng(seed), bank) for seed in range(300)]
    polished = Counter(s.name for s in settings if s.support.reflectance > 0)
    assert set(polished) == {"table", "shelf"}
    names = Counter(setting.name for setting in settings)
    assert all(0.1 < polished[name] / names[name] < 0.85 for name in polished)
    for setting in settings:
        others = [solid.finish for solid in setting.solids if solid.finish is not setting.support]
        assert all(finish.reflectance == 0 for finish in others)
        assert setting.name == "floor" or len(others) < len(setting.solids)


def test_things_stand_within_a_shelf_compartment_and_its_neighbours() -> None:
    """None sticks in a partition, in what lines it, or in the back."""
    bank = make_bank(None)
    crowds: Counter[str] = Counter()
    for seed in range(300):
        setting = random_setting(np.random.default_rng(seed), bank)
        if setting.compartment is None:
            continue
        scene = sample_household(np.random.default_rng(seed), bank, None, (), 64, 64)
        for model, pose in zip(scene.objects, scene.poses, strict=True):
            points = hull_points(model.solids) @ to_matrix(pose.rotation).T + pose.position
            cell = round(float(pose.position[1]) / setting.next_door)
            points[:, 1] -= cell * setting.next_door
            assert (np.abs(points).max(axis=0) < np.array(setting.compartment) + 1e-5).all()
            crowds["next door" if cell else "here"] += 1
    assert crowds["here"] > crowds["next door"] > 10


@pytest.mark.parametrize("num_objects", [(0, 0), (3, 5), (24, 24)])
def test_the_number_of_objects_is_as_asked_for(num_objects: tuple[int, int]) -> None:
    with renderer_or_skip(64, 64, num_objects) as renderer:
        counts = [len(renderer.sample(seed).objects) for seed in range(12)]
    assert num_objects[0] <= min(counts) and max(counts) <= num_objects[1]


def test_a_pack_brings_its_objects_and_robots(small_pack: AssetPack) -> None:
    with renderer_or_skip(64, 64, (6, 10), small_pack) as renderer:
        frames = [renderer.sample(seed) for seed in range(8)]
    assert "lump" in {entry.name for frame in frames for entry in frame.objects}
    with renderer_or_skip(64, 64, (6, 10)) as renderer:
        assert checksums(renderer.sample(0)) != checksums(frames[0])


def test_every_mode_has_its_renderer() -> None:
    try:
        renderer = make_renderer(48, 48, "household", (2, 4))
    except RenderingError as error:
        pytest.skip(str(error))
    assert isinstance(renderer, HouseholdRenderer)
    assert len(renderer.sample(0).objects) <= 4
    renderer.close()
    tabletop = make_renderer(48, 48, "varied")
    assert isinstance(tabletop, TabletopRenderer)
    tabletop.close()


@pytest.mark.parametrize(("mode", "share"), [("general", 0.75), ("balanced", 0.4)])
def test_modes_that_mix_draw_their_share_of_household_scenes(mode: str, share: float) -> None:
    household, mixed = Noting(), Noting()
    renderer = GeneralRenderer(household, mixed, HOUSEHOLD_SHARES[mode])  # type: ignore[arg-type]
    for seed in range(1000):
        renderer.sample(seed)
    assert len(household.seeds) == pytest.approx(1000 * share, abs=50)
    assert sorted([*household.seeds, *mixed.seeds]) == list(range(1000))
    assert (renderer.width, renderer.height) == (64, 48)


class Noting:
    """Notes which seeds it was asked to draw."""

    width, height = 64, 48

    def __init__(self) -> None:
        self.seeds: list[int] = []

    def sample(self, seed: int) -> None:
        self.seeds.append(seed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "kitchen"}, "'kitchen'.*sketchy, varied, mixed, household"),
        ({"num_objects": (5, 25)}, "expected 0 <= fewest <= most <= 24"),
        ({"num_objects": (3, 2)}, "expected 0 <= fewest <= most <= 24"),
        ({"mode": "varied", "num_objects": (0, 2)}, "expected 1 <= fewest <= most <= 16"),
        ({"width": 8}, "width is 8; expected 16 to 2048"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    options: dict[str, object] = {"width": 32, "height": 32, "mode": "household"}
    with pytest.raises(ValueError, match=message):
        make_renderer(**(options | arguments))  # type: ignore[arg-type]


def test_bad_seeds_are_named_and_a_closed_renderer_says_so() -> None:
    renderer = renderer_or_skip(32, 32)
    with pytest.raises(ValueError, match="seed is -1"):
        renderer.sample(-1)
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.sample(0)
