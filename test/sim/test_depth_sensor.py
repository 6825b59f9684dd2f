"""The simulated depth camera: each of its errors, where it belongs and nowhere else."""

import numpy as np
import pytest
from numpy.typing import NDArray

from genesis_sim.depth_sensor import DepthSensor, Material, sample_sensor

SIZE, FOCAL = 128, 130.0


def wall(distance: float) -> NDArray[np.float32]:
    return np.full((SIZE, SIZE), distance, np.float32)


def grey(value: int = 128) -> NDArray[np.uint8]:
    return np.full((SIZE, SIZE, 3), value, np.uint8)


def box_before_a_wall() -> NDArray[np.float32]:
    """A box at 0.6 m in columns 50 to 79, before a wall at 1.2 m."""
    depth = wall(1.2)
    depth[:, 50:80] = 0.6
    return depth


def measure(
    sensor: DepthSensor, depth: NDArray[np.float32], **options: object
) -> NDArray[np.float32]:
    options = {"image": grey(), "focal": FOCAL, "rng": np.random.default_rng(0)} | options
    return sensor.measure(depth, **options)  # type: ignore[arg-type]


def test_the_default_measures_perfectly() -> None:
    depth = box_before_a_wall()
    measured = measure(DepthSensor(), depth)
    assert measured.dtype == np.float32
    np.testing.assert_array_equal(measured, depth)


@pytest.mark.parametrize(
    "sensor",
    [
        DepthSensor(baseline=0.05, white_noise=0.2),
        DepthSensor(baseline=0.05, smooth_noise=0.2),
    ],
)
def test_noise_grows_with_the_square_of_the_distance(sensor: DepthSensor) -> None:
    near = float(np.std(measure(sensor, wall(0.5)) - 0.5))
    far = float(np.std(measure(sensor, wall(2.0)) - 2.0))
    assert 11 < far / near < 21


def test_depth_comes_in_steps_that_grow_with_the_distance() -> None:
    sensor = DepthSensor(baseline=0.075, disparity_step=0.125)
    ramp = np.linspace(0.5, 2.5, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)
    levels = np.unique(measure(sensor, ramp))
    steps = np.diff(levels[levels > 0])
    assert steps[-5:].mean() > 8 * steps[:5].mean()


@pytest.mark.parametrize(("baseline", "columns"), [(0.05, slice(44, 50)), (-0.05, slice(80, 86))])
def test_what_the_second_view_does_not_see_has_no_depth(baseline: float, columns: slice) -> None:
    """The shadow lies beside the box, on the side of the second view, and is as wide as it says."""
    holes = measure(DepthSensor(baseline=baseline), box_before_a_wall()) == 0
    width = FOCAL * 0.05 * (1 / 0.6 - 1 / 1.2)
    assert abs(holes[64].sum() - width) <= 1
    assert not np.delete(holes[64], np.r_[columns]).any()


def test_edges_are_lost_and_flying_pixels_lie_between() -> None:
    depth = box_before_a_wall()
    lost = measure(DepthSensor(edge_reach=0.02, edge_share=1.0), depth) == 0
    assert lost[:, 48:52].mean() > 0.9 and not lost[:, 60:70].any() and not lost[:, :40].any()
    flying = measure(DepthSensor(edge_reach=0.01, flying_share=1.0), depth)
    edge = flying[:, 49:51]
    assert ((edge > 0.6) & (edge < 1.2)).mean() > 0.9


def test_dark_and_shiny_surfaces_are_lost() -> None:
    image = grey()
    image[:40] = 3
    dark = measure(DepthSensor(dark=0.1), wall(1.0), image=image) == 0
    assert dark[:40].mean() > 0.6 and not dark[40:].any()
    materials = np.zeros((SIZE, SIZE), np.uint8)
    materials[80:] = Material.SHINY
    shiny = measure(DepthSensor(shiny_share=1.0), wall(1.0), materials=materials) == 0
    assert shiny[80:].all() and not shiny[:80].any()


def test_clear_things_are_seen_through_or_lost() -> None:
    materials = np.zeros((SIZE, SIZE), np.uint8)
    materials[:, 50:80] = Material.CLEAR
    options = {"materials": materials, "behind": wall(1.2)}
    through = measure(DepthSensor(see_through=1.1), box_before_a_wall(), **options)
    np.testing.assert_array_equal(through, wall(1.2))
    lost = measure(DepthSensor(see_through=-0.1), box_before_a_wall(), **options)
    assert (lost[:, 50:80] == 0).all() and (lost[:, :50] == np.float32(1.2)).all()


def test_range_limits() -> None:
    measured = measure(DepthSensor(near=0.8, far=2.0), box_before_a_wall())
    assert (measured[:, 50:80] == 0).all() and (measured[:, :50] > 0).all()
    assert not measure(DepthSensor(far=1.0), wall(1.2)).any()


def test_thick_and_ragged_outlines() -> None:
    thick = measure(DepthSensor(thicken=2 / SIZE), box_before_a_wall())
    assert (thick[:, 48:82] < 0.7).all() and (thick[:, :48] > 1.1).all()
    ragged = measure(DepthSensor(ragged=2 / SIZE), box_before_a_wall())
    assert len({int(np.argmax(row < 0.7)) for row in ragged}) > 3
    assert (ragged[:, 60:70] < 0.7).all() and (ragged[:, :40] > 1.1).all()


def test_random_cameras_differ_but_follow_the_seed() -> None:
    sensors = [sample_sensor(np.random.default_rng(seed)) for seed in range(60)]
    assert len(set(sensors)) == 60
    assert sample_sensor(np.random.default_rng(5)) == sensors[5]
    depth = box_before_a_wall()
    known = [
        (s.measure(depth, grey(), FOCAL, np.random.default_rng(k)) > 0).mean()
        for k, s in enumerate(sensors)
    ]
    # Some nearly perfect, most with holes, hardly one blind.
    assert max(known) > 0.955 and np.median(known) > 0.75 and np.mean(np.array(known) < 0.3) < 0.1
