"""Where things come to stand, and the meshes that they are made of."""

from collections import Counter

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from genesis_sim import RenderingError, gl
from genesis_sim.geometry import multiply, to_matrix
from genesis_sim.household.bank import make_bank
from genesis_sim.household.crockery import bowl, mug
from genesis_sim.household.kit import Kit, Palette
from genesis_sim.household.packaging import book, carton
from genesis_sim.household.parts import MAX_SOLIDS, QUARTER_X, hull_points, turned
from genesis_sim.household.placing import arrange, settle
from genesis_sim.household.things import MAKERS, random_thing
from genesis_sim.household.tools import ball, pen
from genesis_sim.mesh import (
    MAX_FACES,
    MAX_VERTICES,
    Mesh,
    band,
    blob,
    decimate,
    from_triangles,
    pillow,
    prism,
    swept,
    turned_profile,
)
from genesis_sim.scene import Finish, ObjectModel, Pose, Shape, Solid

Points = NDArray[np.float64]


@pytest.fixture(scope="module")
def kit() -> Kit:
    return Kit(make_bank(None), Palette(clear=0.3), None)


def things(kit: Kit, seed: int, count: int) -> list[ObjectModel]:
    rng = np.random.default_rng(seed)
    return [random_thing(rng, kit) for _ in range(count)]


def world_points(model: ObjectModel, pose: Pose) -> Points:
    return hull_points(model.solids) @ to_matrix(pose.rotation).T + pose.position


def volume(mesh: Mesh) -> float:
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(float) for k in range(3))
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6)


@pytest.mark.slow
def test_things_apart_do_not_overlap_and_stand_on_the_plane(kit: Kit) -> None:
    placed = arrange(np.random.default_rng(1), things(kit, 1, 10), (0.5, 0.5), crowd=0.0)
    assert len(placed) >= 8
    outlines = []
    for model, pose in placed:
        points = world_points(model, pose)
        assert abs(points[:, 2].min()) < 1e-6
        assert (np.abs(pose.position[:2]) <= 0.5).all()
        outlines.append(cv2.convexHull(points[:, :2].astype(np.float32)[:, None]))
    for k, outline in enumerate(outlines):
        for other in outlines[:k]:
            assert cv2.intersectConvexConvex(outline, other)[0] < 1e-6


def test_crowded_things_touch_and_stack(kit: Kit) -> None:
    raised = close = total = 0
    for seed in range(6):
        placed = arrange(np.random.default_rng(seed), things(kit, seed, 12), (0.4, 0.4), crowd=0.9)
        points = [world_points(model, pose) for model, pose in placed]
        raised += sum(float(p[:, 2].min()) > 0.005 for p in points)
        for k, p in enumerate(points):
            others = [q for i, q in enumerate(points) if i != k]
            gaps = [np.hypot(*(p[:, None, :2] - q[None, :, :2]).transpose(2, 0, 1)) for q in others]
            close += bool(gaps) and min(float(gap.min()) for gap in gaps) < 0.02
            total += 1
    assert raised >= 3
    assert close > 0.6 * total


def test_books_lean_on_the_walls_of_a_compartment(kit: Kit) -> None:
    depth, width, height = 0.15, 0.2, 0.22
    leaning = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        books = [book(rng, kit) for _ in range(4)]
        for model, pose in arrange(rng, books, (0.15, 0.15), 0.0, (depth, width, height)):
            points = world_points(model, pose)
            assert abs(points[:, 2].min()) < 1e-6 and points[:, 2].max() < height
            assert (np.abs(points[:, :2]).max(axis=0) < np.array([depth, width]) + 1e-5).all()
            if np.ptp(points[:, 2]) > 0.08:  # it does not lie
                leaning += 1
                # The wall holds its upper edge; its foot stands away from it.
                touching = points[np.abs(points[:, 1]) > width - 1e-5]
                assert len(touching) and touching[:, 2].min() > 0.5 * np.ptp(points[:, 2])
    assert leaning > 5


def test_what_is_in_a_compartment_stays_in_it(kit: Kit) -> None:
    """However crowded it is; and nothing stands on the edge of what leans."""
    compartment = np.array([0.15, 0.2, 0.25])
    raised = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        models = [book(rng, kit) for _ in range(4)] + things(kit, seed, 6)
        models = [model for model in models if model.name != "bowl"]  # things lie in those
        placed = arrange(rng, models, (0.12, 0.17), 0.85, tuple(compartment))
        hulls = [world_points(model, pose) for model, pose in placed]
        for points in hulls:
            assert (np.abs(points).max(axis=0) < compartment + 1e-5).all()
            low = float(points[:, 2].min())
            if low > 0.005:
                raised += 1
                carriers = [hull for hull in hulls if abs(float(hull[:, 2].max()) - low) < 1e-6]
                # A flat top has more than an edge at its height.
                tops = [hull[hull[:, 2] > low - 1e-4] for hull in carriers]
                assert any(np.ptp(top[:, :2], axis=0).min() > 0.01 for top in tops)
    assert raised > 0


def test_small_things_lie_in_bowls_and_pens_stand_in_mugs(kit: Kit) -> None:
    """Not in a bowl that is upside down, nor in what leans."""
    inside: Counter[str] = Counter()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        vessels = [
            bowl(rng, kit),
            mug(rng, kit),
            turned(bowl(rng, kit), multiply(QUARTER_X, QUARTER_X)),
        ]
        balls, pens = ([make(rng, kit) for _ in range(4)] for make in (ball, pen))
        models = [*vessels, *balls, *pens]
        poses = {id(m): pose for m, pose in arrange(rng, models, (0.3, 0.3), 0.8)}
        for vessel, name in zip(vessels, ("bowl", "mug", "upside down"), strict=True):
            for model in models[3:]:
                if id(model) not in poses or id(vessel) not in poses:
                    continue
                points, walls = (world_points(m, poses[id(m)]) for m in (model, vessel))
                apart = np.hypot(*(poses[id(model)].position - poses[id(vessel)].position)[:2])
                # Inside: neither on top nor beside.
                if (
                    apart < 0.5 * vessel.half_size[0]
                    and points[:, 2].min() < 0.8 * walls[:, 2].max()
                ):
                    inside[f"{model.name} {name}"] += 1
                    assert to_matrix(poses[id(vessel)].rotation)[2, 2] > 0.99
                    if name == "mug":
                        assert np.ptp(points[:, 2]) > 0.9 * 2 * max(model.half_size)
    assert inside["ball bowl"] > 5 and inside["pen mug"] > 5
    assert set(inside) <= {"ball bowl", "pen bowl", "pen mug"}


def test_some_things_stand_face_to_face(kit: Kit) -> None:
    """As packages in a row do: sides along each other's, and nothing between them."""
    aligned = total = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        placed = arrange(rng, [carton(rng, kit) for _ in range(8)], (0.4, 0.4), crowd=0.9)
        for model, pose in placed:
            total += 1
            for other, near in placed:
                if other is model:
                    continue
                turn = to_matrix(near.rotation).T @ to_matrix(pose.rotation)
                points = (world_points(model, pose) - near.position) @ to_matrix(near.rotation)
                gap = np.maximum(points.min(0), -points.max(0)) - np.array(other.half_size)
                straight = np.abs(turn).max(axis=0).min() > 1 - 1e-6
                aligned += straight and -1e-4 < gap[:2].max() < 0.006 and gap[2] < 0
    assert aligned > 0.15 * total


def test_no_room_leaves_things_out(kit: Kit) -> None:
    models = things(kit, 2, 30)
    assert 0 < len(arrange(np.random.default_rng(0), models, (0.08, 0.08), 0.5)) < 20
    assert arrange(np.random.default_rng(0), [], (0.1, 0.1), 0.5) == []


def test_a_heap_lies_still_within_its_bin(kit: Kit) -> None:
    try:
        gl.import_mujoco()
    except RenderingError as error:
        pytest.skip(str(error))
    reach = (0.2, 0.15)
    white = Finish((1.0, 1.0, 1.0))
    walls = [
        Solid(Shape.BOX, (0.05, 0.3, 0.5), (side * (reach[0] + 0.08), 0.0, 0.5), white)
        for side in (-1, 1)
    ] + [
        Solid(Shape.BOX, (0.4, 0.05, 0.5), (0.0, side * (reach[1] + 0.08), 0.5), white)
        for side in (-1, 1)
    ]
    models = things(kit, 3, 12)
    placed = settle(np.random.default_rng(3), models, reach, walls)
    assert len(placed) >= 10
    lowest = [float(world_points(model, pose)[:, 2].min()) for model, pose in placed]
    # On the floor, but for some that lie on others; none hangs in the air or has sunk in.
    assert min(lowest) > -0.01 and max(lowest) < 0.3
    assert sum(low < 0.01 for low in lowest) >= 4
    for model, pose in placed:
        assert (np.abs(pose.position[:2]) < np.array(reach) + 0.08).all(), model.name
    again = settle(np.random.default_rng(3), models, reach, walls)
    assert all(
        np.array_equal(a[1].position, b[1].position) for a, b in zip(placed, again, strict=True)
    )


@pytest.mark.parametrize("maker", [maker for maker, _ in MAKERS], ids=lambda maker: maker.__name__)
def test_every_thing_fits_the_pool_and_looks_outwards(kit: Kit, maker: object) -> None:
    rng = np.random.default_rng(0)
    for _ in range(12):
        model: ObjectModel = maker(rng, kit)  # type: ignore[operator]
        assert 1 <= len(model.solids) <= MAX_SOLIDS
        points = hull_points(model.solids)
        # Centred, and of a size that a hand can hold.
        np.testing.assert_allclose(points.max(0), model.half_size, atol=1e-6)
        np.testing.assert_allclose(points.min(0), -np.array(model.half_size), atol=1e-6)
        assert 0.012 < 2 * max(model.half_size) < 0.45, model.half_size
        for solid in model.solids:
            if (mesh := solid.mesh) is None:
                continue
            assert len(mesh.vertices) <= MAX_VERTICES and len(mesh.faces) <= MAX_FACES
            assert mesh.faces.max() < len(mesh.vertices)
            np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-3)
            corners = mesh.vertices[mesh.faces]
            faces = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            agree = np.einsum("ij,ij->i", faces, mesh.normals[mesh.faces[:, 0]]) >= -1e-9
            assert agree.mean() > 0.97


def test_a_turned_thing_has_its_size_turned(kit: Kit) -> None:
    model = next(m for m in things(kit, 4, 40) if m.name == "box")
    lying = turned(model, (np.sqrt(0.5), np.sqrt(0.5), 0.0, 0.0))
    x, y, z = model.half_size
    np.testing.assert_allclose(lying.half_size, (x, z, y), atol=1e-6)


def test_shapes_have_their_volumes() -> None:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(t), np.sin(t)], 1)
    rng = np.random.default_rng(0)
    cylinder = turned_profile([(0, 0), (1, 0), (1, 2), (0, 2)], segments=60)
    assert volume(cylinder) == pytest.approx(2 * np.pi, rel=0.01)
    assert volume(turned_profile([(0, 0), (1, 0), (1, 2), (0, 2)], squeeze=0.5)) == pytest.approx(
        np.pi, rel=0.03
    )
    assert volume(prism(circle, 0.5)) == pytest.approx(0.5 * np.pi, rel=0.01)
    ring = band(circle, 0.2, 0.1, closed=True)
    assert volume(ring) == pytest.approx(2 * np.pi * 0.2 * 0.1, rel=0.02)
    assert volume(band([(0, 0), (0.5, 0), (1, 0)], 0.2, 0.1)) == pytest.approx(0.02, rel=0.01)
    rod = swept([(0, 0, 0), (0.5, 0, 0), (1, 0, 0)], 0.1, sides=40)
    assert volume(rod) == pytest.approx(0.01 * np.pi, rel=0.02)
    assert volume(blob(rng, (1, 0.5, 0.25), 0.0)) == pytest.approx(np.pi / 6, rel=0.1)
    assert volume(pillow(rng, (1, 1, 0.3), 0.0, 0.0)) > 0.3


def test_edges_stay_sharp_and_curves_smooth() -> None:
    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([(a, b, c) for a, b, c, _ in quads] + [(a, c, d) for a, _, c, d in quads])
    box = from_triangles(corners, faces)
    assert len(box.vertices) == 24
    assert (np.sort(np.abs(box.normals), axis=1) == [0, 0, 1]).all()
    ball = blob(np.random.default_rng(0), (1, 1, 1), 0.0)
    np.testing.assert_allclose(np.einsum("ij,ij->i", ball.normals, ball.vertices), 1, atol=0.05)


def test_simplified_meshes_keep_their_size() -> None:
    ball = blob(np.random.default_rng(0), (1, 0.8, 0.6), 0.05)
    vertices, faces = decimate(ball.vertices, ball.faces, 150)
    assert 60 < len(faces) <= 150
    np.testing.assert_allclose(np.ptp(vertices, axis=0), np.ptp(ball.vertices, axis=0), rtol=0.25)
    same, unchanged = decimate(ball.vertices, ball.faces, 10_000)
    assert len(same) == len(ball.vertices) and len(unchanged) == len(ball.faces)


def test_scaled_meshes_keep_their_normals_upright() -> None:
    flat = blob(np.random.default_rng(0), (1, 1, 1), 0.0).scaled((1, 1, 0.1))
    np.testing.assert_allclose(np.linalg.norm(flat.normals, axis=1), 1, atol=1e-5)
    assert np.median(np.abs(flat.normals[:, 2])) > 0.9
