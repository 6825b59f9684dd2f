"""Rays of the pixels of distorted images, against the formulas of the distortion models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from genesis_core.perception.depth import locate, to_points
from genesis_core.perception.lens import Distortion, _distorted_rays, pixel_rays

SHAPE = (240, 320)
MATRIX = np.array([[200.0, 0, 162.0], [0, 205.0, 118.0], [0, 0, 1]])
BARREL = Distortion("plumb_bob", (-0.3, 0.1, 0.002, -0.001, -0.01))
LENSES = [
    BARREL,
    Distortion("plumb_bob", (0.1, -0.05, 0.0, 0.0)),
    Distortion("rational_polynomial", (0.5, -2.6, 5e-4, -2e-4, 1.5, 0.4, -2.4, 1.4)),
    Distortion("equidistant", (0.1, -0.02, 0.003, 0.001)),
]


def distort(x: np.ndarray, y: np.ndarray, lens: Distortion) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the points (x, y, 1), as the models are defined (REP and OpenCV's documents)."""
    k = lens.coefficients
    square = x**2 + y**2
    if lens.model == "equidistant":
        radius = np.sqrt(square)
        angle = np.arctan(radius)
        bent = angle * (1 + sum(factor * angle ** (2 * n + 2) for n, factor in enumerate(k)))
        x, y = x * bent / radius, y * bent / radius
    else:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*k, *[0.0] * (8 - len(k)))
        radial = 1 + k1 * square + k2 * square**2 + k3 * square**3
        radial /= 1 + k4 * square + k5 * square**2 + k6 * square**3
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (square + 2 * x**2),
            y * radial + p1 * (square + 2 * y**2) + 2 * p2 * x * y,
        )
    return MATRIX[0, 0] * x + MATRIX[0, 2], MATRIX[1, 1] * y + MATRIX[1, 2]


@pytest.mark.parametrize("lens", LENSES, ids=lambda lens: f"{lens.model} {lens.coefficients[0]}")
def test_pixels_look_where_the_lens_says(lens: Distortion) -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(-0.7, 0.7, (2, 500))
    columns, rows = distort(x, y, lens)
    inside = (columns > 0) & (columns < SHAPE[1] - 1) & (rows > 0) & (rows < SHAPE[0] - 1)
    assert inside.sum() > 300
    rays = pixel_rays(MATRIX, lens, SHAPE)
    for part, truth in zip(rays, (x, y), strict=True):
        assert np.isfinite(part).all()
        found = map_coordinates(part, [rows[inside], columns[inside]], order=1)
        np.testing.assert_allclose(found, truth[inside], atol=2e-4)


def test_without_distortion_rays_are_those_of_the_pinhole() -> None:
    plain = pixel_rays(MATRIX, None, SHAPE)
    none = pixel_rays(MATRIX, Distortion("plumb_bob", (0.0,) * 5), SHAPE)
    for one, other in zip(plain, none, strict=True):
        np.testing.assert_allclose(np.broadcast_to(one, SHAPE), other, atol=1e-6)
    assert plain.x[0, 162] == 0 and plain.y[118, 0] == 0


def test_an_object_at_the_image_s_edge_is_where_it_is() -> None:
    """A rectangle of 10 by 8 cm, one metre away: 6 cm off where distortion is ignored."""
    rays = pixel_rays(MATRIX, BARREL, SHAPE)
    centre = np.array([0.6, -0.4, 1.0])
    inside = (abs(rays.x - centre[0]) < 0.05) & (abs(rays.y - centre[1]) < 0.04)
    depth = np.where(inside, np.float32(1), np.float32(2))
    labels = inside.astype(np.uint8)
    (found,) = locate(labels, [1], depth, MATRIX, BARREL)
    assert found is not None
    np.testing.assert_allclose(found.position, centre, atol=0.002)
    np.testing.assert_allclose(found.size, [0.1, 0.08, 0.0], atol=0.012)  # two pixels
    (ignorant,) = locate(labels, [1], depth, MATRIX)
    assert ignorant is not None and np.linalg.norm(ignorant.position - centre) > 0.06
    points = to_points(depth, MATRIX, BARREL)
    np.testing.assert_allclose(points[inside].mean(axis=0), centre, atol=0.002)


def test_pixels_that_the_model_does_not_reach_are_unknown() -> None:
    """A polynomial that turns back: the corners of the image show nothing that it can tell."""
    strong = Distortion("plumb_bob", (-0.9, 0.0, 0.0, 0.0))
    rays = pixel_rays(MATRIX, strong, SHAPE)
    assert np.isnan(rays.x[0, 0]) and np.isfinite(rays.x[118, 162])
    labels = np.zeros(SHAPE, np.uint8)
    labels[:12, :12] = 1
    labels[100:130, 150:170] = 2
    corner, middle = locate(labels, [1, 2], np.ones(SHAPE, np.float32), MATRIX, strong)
    assert corner is None and middle is not None
    assert np.isnan(to_points(np.ones(SHAPE, np.float32), MATRIX, strong)[0, 0, 0])


def test_coefficients_may_be_whole_numbers() -> None:
    for model, count in (("plumb_bob", 5), ("equidistant", 4)):
        whole = [1] + [0] * (count - 1)
        rays = pixel_rays(MATRIX, Distortion(model, whole), SHAPE)
        _distorted_rays.cache_clear()  # to which 1 and 1.0 are the same
        expected = pixel_rays(MATRIX, Distortion(model, [float(c) for c in whole]), SHAPE)
        np.testing.assert_array_equal(rays, expected)


@pytest.mark.parametrize("shape", [(5,), (1, 5), (5, 1)])
def test_coefficients_may_be_a_list_or_an_array(shape: tuple[int, ...]) -> None:
    expected = pixel_rays(MATRIX, BARREL, SHAPE)
    array = np.reshape(BARREL.coefficients, shape)
    for given in (array, list(BARREL.coefficients)):
        rays = pixel_rays(MATRIX, Distortion("plumb_bob", given), SHAPE)
        np.testing.assert_array_equal(rays, expected)


@pytest.mark.parametrize(
    ("model", "count"), [("fov", 1), ("", 5), ("plumb_bob", 3), ("equidistant", 5)]
)
def test_unknown_distortion_is_refused(model: str, count: int) -> None:
    with pytest.raises(ValueError, match="expected plumb_bob"):
        pixel_rays(MATRIX, Distortion(model, (0.1,) * count), SHAPE)
