"""Points and surface normals from depth, against scenes whose geometry is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from genesis_core.models import points as module
from genesis_core.models.points import POINT_CHANNELS, back_project, point_features

INTRINSICS = torch.tensor([[100.0, 80.0, 15.5, 15.5]])


@pytest.fixture(params=[True, False], ids=["arrays", "native"])
def way(request: pytest.FixtureRequest, compiler: None) -> Iterator[None]:
    """Where gradients are asked for, array operations do the work, else C++."""
    with torch.set_grad_enabled(request.param):
        yield


def _plane(normal: tuple[float, float, float], distance: float, size: int = 32) -> torch.Tensor:
    """Depth (1, size, size) of the plane normal . p = distance, seen by a camera of INTRINSICS."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    fx, fy, cx, cy = INTRINSICS[0]
    ray = torch.stack([(columns - cx) / fx, (rows - cy) / fy, torch.ones(size, size)])
    return distance / torch.einsum("c,chw->hw", torch.tensor(normal), ray)[None]


def test_pixels_become_metres() -> None:
    depth = torch.full((1, 32, 32), 2.0)
    points = back_project(depth, INTRINSICS)
    assert points.shape == (1, 4, 32, 32)
    # 4.5 pixels right of the centre at a focal length of 100, 2 m away; 3.5 above it, of 80.
    torch.testing.assert_close(points[0, :, 12, 20], torch.tensor([0.09, -0.0875, 2.0, 1.0]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("unknown", [0.0, math.nan, math.inf, -math.inf, -1.0, 151.0, 1e10, 3e38])
def test_unknown_depth_is_zero_everywhere(unknown: float) -> None:
    depth = torch.full((1, 32, 32), 1.0)
    depth[0, 5, 6] = unknown
    points = back_project(depth, INTRINSICS)
    assert points[0, :, 5, 6].tolist() == [0, 0, 0, 0]
    assert points[0, 3].sum() == 32 * 32 - 1
    features, present = point_features(points, 32)
    assert features[0, :3, 5, 6].tolist() == [0, 0, 0] and features[0, 7, 5, 6] == 0
    assert features.isfinite().all() and present.tolist() == [1.0]


def test_the_farthest_depth_is_known() -> None:
    points = back_project(torch.full((1, 32, 32), 150.0), INTRINSICS)
    assert points[0, 3].all() and (points[0, 2] == 150).all()


@pytest.mark.usefixtures("way")
def test_no_depth_at_all_is_zero_and_absent() -> None:
    features, present = point_features(torch.zeros(2, 4, 32, 32), 16)
    assert features.shape == (2, POINT_CHANNELS, 16, 16)
    assert not features.any() and present.tolist() == [0.0, 0.0]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("size", [32, 16])
@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.0, 0.6, 0.8), (-0.48, 0.36, 0.8)])
def test_normals_of_a_plane(normal: tuple[float, float, float], size: int) -> None:
    points = back_project(_plane(normal, 1.5), INTRINSICS)
    features, _ = point_features(points, size)
    inside = features[0, 3:6, 3:-3, 3:-3]
    expected = torch.tensor(normal)[:, None, None].expand_as(inside)
    torch.testing.assert_close(inside, expected, atol=0.02, rtol=0)


@pytest.mark.usefixtures("way")
def test_points_are_centred_and_the_distance_does_not_count() -> None:
    torch.manual_seed(0)
    depth = 1 + 0.1 * torch.rand(1, 32, 32)
    points = back_project(depth, INTRINSICS)
    further = points.clone()
    further[:, 2] += 3.0
    first, second = point_features(points, 32)[0], point_features(further, 32)[0]
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert first[:, :3].mean((2, 3)).abs().max() < 1e-5
    # Half a metre from the mean is one.
    shift = first[0, 2, 3, 4] - first[0, 2, 8, 9]
    assert float(shift) == pytest.approx(float((depth[0, 3, 4] - depth[0, 8, 9]) / 0.5), abs=1e-5)


@pytest.mark.usefixtures("compiler", "threads")
@pytest.mark.parametrize(("size", "stride"), [(16, 2), (64, 1), (96, 2), (128, 2), (192, 3)])
def test_native_features_are_those_of_array_operations(
    size: int, stride: int, native_libraries: Callable[[ModuleType], list[object]]
) -> None:
    """A rough surface with holes and a step, one with a single known pixel, and one without."""
    torch.manual_seed(0)
    whole = size * stride
    depth = 1 + 0.02 * torch.rand(3, whole, whole)
    depth[0, :, whole // 3 :] += 1.2
    depth[0][torch.rand(whole, whole) < 0.3] = 0
    depth[0, : whole // 4, : whole // 2] = 0
    depth[1:] = 0
    depth[1, 5, 6] = 0.7
    centre = (whole - 1) / 2
    points = back_project(depth, torch.tensor([[whole, 1.1 * whole, centre, centre]]).expand(3, 4))
    points = points.transpose(2, 3).contiguous().transpose(2, 3)  # not contiguous any more
    used = native_libraries(module)
    with torch.no_grad():
        features, present = point_features(points, size)
    assert len(used) == 1 and used[0] is not None
    with torch.enable_grad():
        expected, expected_present = point_features(points, size)
    assert len(used) == 1
    assert present.tolist() == expected_present.tolist() == [1.0, 1.0, 0.0]
    others = [0, 1, 2, 6, 7]
    torch.testing.assert_close(features[:, others], expected[:, others], atol=1e-5, rtol=0)
    # Where a few points lie around, a normal is nothing but rounding.
    dense = (expected[:, 6:7] > 0.5).expand(-1, 3, -1, -1)
    assert dense.float().mean() > 0.15
    normals, expected_normals = features[:, 3:6][dense], expected[:, 3:6][dense]
    torch.testing.assert_close(normals, expected_normals, atol=1e-3, rtol=0)


@pytest.mark.usefixtures("way")
def test_an_empty_batch_has_no_features() -> None:
    features, present = point_features(torch.zeros(0, 4, 32, 32), 16)
    assert features.shape == (0, POINT_CHANNELS, 16, 16) and present.shape == (0,)
