"""Triangle meshes: turned, swept, cut out and blown-up shapes, normals and simplification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

#: Most vertices and faces of a mesh that a scene can show.
MAX_VERTICES, MAX_FACES = 2400, 2400
#: Surfaces that meet at a larger angle have an edge.
_CREASE = math.radians(40)


@dataclass(frozen=True, slots=True)
class Mesh:
    """A triangle mesh: every vertex has one normal and one texture coordinate."""

    #: float32 (V, 3), metres.
    vertices: Floats
    #: Unit vectors, float32 (V, 3).
    normals: Floats
    #: float32 (V, 2).
    texcoords: Floats
    #: Vertices of each triangle, counter-clockwise from outside, int32 (F, 3).
    faces: Ints
    #: Points whose convex hull is about the mesh's, (H, 3); made when first asked for.
    _hull: list[Floats] = field(default_factory=list, compare=False, repr=False)

    def scaled(self, factors: Sequence[float]) -> Mesh:
        """The mesh stretched along its axes."""
        scale = np.asarray(factors, np.float32)
        normals = self.normals / scale
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        return Mesh(self.vertices * scale, normals, self.texcoords, self.faces)

    def hull(self) -> Floats:
        """Points (H, 3), at most as many as directions, whose convex hull is about the mesh's."""
        if not self._hull:
            reach = self.vertices @ _DIRECTIONS.T
            self._hull.append(self.vertices[np.unique(reach.argmax(axis=0))])
        return self._hull[0]


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.vertices for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.texcoords for mesh in meshes]),
        np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)]).astype(np.int32),
    )


def sphere_directions(count: int) -> Floats:
    """Unit vectors (count, 3) spread evenly (Fibonacci's spiral)."""
    k = np.arange(count) + 0.5
    z = 1 - 2 * k / count
    r, angle = np.sqrt(1 - z * z), k * (math.pi * (3 - math.sqrt(5)))
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], 1).astype(np.float32)


_DIRECTIONS = np.concatenate(
    [sphere_directions(74), np.eye(3, dtype=np.float32), -np.eye(3, dtype=np.float32)]
)


def from_triangles(vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer]) -> Mesh:
    """A mesh from bare triangles: normals with edges where they are sharp, textures by the box.

    Vertices on an edge are doubled. Texture coordinates are those of the plane each corner faces,
    in units of the mesh's largest extent.
    """
    corners = vertices[faces].astype(np.float64)
    flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(flat, axis=1, keepdims=True)
    keep = area[:, 0] > 1e-14
    faces, flat, area = faces[keep], flat[keep], area[keep]
    unit = flat / area
    ids = faces.reshape(-1)
    # Corner normals: the mean of the neighbouring faces that do not make an edge with this one.
    order = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[order], prepend=-1))
    valence = np.diff(starts, append=len(ids))
    group = np.repeat(np.arange(len(starts)), valence)
    around = np.full((len(starts), int(valence.max(initial=1))), -1)
    around[group, np.arange(len(ids)) - starts[group]] = order // 3
    neighbours = np.empty((len(ids), around.shape[1]), np.int64)
    neighbours[order] = around[group]
    own = np.repeat(unit, 3, axis=0)
    alike = np.einsum("ik,ijk->ij", own, unit[neighbours]) > math.cos(_CREASE)
    alike &= neighbours >= 0
    normals = np.einsum("ij,ijk->ik", alike, flat[neighbours])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    side = np.abs(normals).argmax(axis=1)
    points = vertices[ids]
    extent = max(float(np.ptp(vertices, axis=0).max()), 1e-9)
    others = np.array([[1, 2], [0, 2], [0, 1]])[side]
    texcoords = np.take_along_axis(points, others, 1) / extent
    keys = np.concatenate([ids[:, None], side[:, None], np.rint(normals * 50)], axis=1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return Mesh(
        points[first].astype(np.float32),
        normals[first].astype(np.float32),
        texcoords[first].astype(np.float32),
        inverse.reshape(-1, 3).astype(np.int32),
    )


def decimate(
    vertices: npt.NDArray[np.floating], faces: npt.NDArray[np.integer], most_faces: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Merge the vertices of each cell of a grid, as fine a one as leaves at most `most_faces`."""
    points, corners = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if len(corners) <= most_faces:
        return points, corners
    low, extent = points.min(axis=0), float(np.ptp(points, axis=0).max())
    fine, coarse = 400.0, 2.0
    best = _clustered(points, corners, low, extent / coarse)
    for _ in range(12):
        cells = math.sqrt(fine * coarse)
        result = _clustered(points, corners, low, extent / cells)
        if len(result[1]) <= most_faces:
            coarse, best = cells, result
        else:
            fine = cells
    return best


def _clustered(
    vertices: npt.NDArray[np.float64],
    faces: npt.NDArray[np.int64],
    low: npt.NDArray[np.float64],
    cell: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    keys = np.floor((vertices - low) / cell).astype(np.int64)
    _, inverse, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    merged = np.zeros((len(count), 3))
    np.add.at(merged, inverse, vertices)
    merged /= count[:, None]
    mapped = inverse[faces]
    proper = (
        (mapped[:, 0] != mapped[:, 1])
        & (mapped[:, 1] != mapped[:, 2])
        & (mapped[:, 0] != mapped[:, 2])
    )
    mapped = mapped[proper]
    # Thin walls fall together: of faces with the same corners one is enough.
    _, unique = np.unique(np.sort(mapped, axis=1), axis=0, return_index=True)
    return merged, mapped[np.sort(unique)]


def turned_profile(
    profile: Sequence[tuple[float, float]], segments: int = 22, squeeze: float = 1.0
) -> Mesh:
    """A solid of revolution about z. Texture: u around, v along the profile.

    Args:
        profile: points (radius, height), the solid on the left of the way along them; sharp corners
            stay edges.
        segments: around the axis.
        squeeze: stretches the y axis.
    """
    points = np.asarray(profile, np.float64)
    points = points[
        np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-9])
    ]
    way = np.diff(points, axis=0)
    length = np.linalg.norm(way, axis=1)
    normal = np.stack([way[:, 1], -way[:, 0]], 1) / length[:, None]
    along = np.concatenate([[0.0], np.cumsum(length)]) / length.sum()
    rows: list[tuple[float, float, float, float, float]] = []
    pairs: list[int] = []  # rows that begin a strip
    for k in range(len(way)):
        ends = []
        for end, neighbour in ((k, k - 1), (k + 1, k + 1)):
            n = normal[k]
            if 0 <= neighbour < len(way) and normal[k] @ normal[neighbour] > math.cos(_CREASE):
                n = normal[k] + normal[neighbour]
                n = n / np.linalg.norm(n)
            ends.append((points[end, 0], points[end, 1], n[0], n[1], along[end]))
        pairs.append(len(rows))
        rows += ends
    table = np.array(rows)
    angle = np.linspace(0, 2 * math.pi, segments + 1)
    cos, sin = np.cos(angle), np.sin(angle)
    radius, z, nr, nz, v = (table[:, i, None] for i in range(5))
    ones = np.ones_like(cos)
    vertices = np.stack([radius * cos, radius * sin * squeeze, z * ones], -1)
    normals = np.stack([nr * cos, nr * sin / squeeze, nz * ones], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    texcoords = np.stack([np.broadcast_to(angle / (2 * math.pi), vertices.shape[:2]), v * ones], -1)
    faces = []
    n = segments + 1
    column = np.arange(segments)
    for row in pairs:
        a, b = row * n + column, row * n + column + 1
        c, d = a + n, b + n
        if table[row, 0] > 1e-9:
            faces.append(np.stack([a, b, c], 1))
        if table[row + 1, 0] > 1e-9:
            faces.append(np.stack([b, d, c], 1))
    return Mesh(
        vertices.reshape(-1, 3).astype(np.float32),
        normals.reshape(-1, 3).astype(np.float32),
        texcoords.reshape(-1, 2).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
    )


def swept(path: npt.ArrayLike, radii: npt.ArrayLike, sides: int = 8, flatten: float = 1.0) -> Mesh:
    """A tube, closed at both ends.

    Args:
        path: N points.
        radii: a radius at each.
        sides: of the tube's outline.
        flatten: height over width.
    """
    points = np.asarray(path, np.float64)
    radius = np.broadcast_to(np.asarray(radii, np.float64), len(points))
    points = np.concatenate([points[:1], points, points[-1:]])
    radius = np.concatenate([[1e-5], radius, [1e-5]])
    tangent = np.gradient(points, axis=0)
    tangent[[0, -1]] = tangent[[1, -2]]
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    up = np.array([0.0, 0.0, 1.0])
    if np.abs(tangent @ up).max() > 0.95:
        up = np.array([0.31, 0.87, 0.38])
    first = np.cross(tangent, up)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(first, tangent)
    angle = np.linspace(0, 2 * math.pi, sides, endpoint=False)
    ring = (
        np.cos(angle)[None, :, None] * first[:, None]
        + flatten * np.sin(angle)[None, :, None] * second[:, None]
    )
    vertices = points[:, None] + radius[:, None, None] * ring
    return from_grid(vertices[:, ::-1], closed=True)


def from_grid(vertices: npt.NDArray[np.float64], *, closed: bool) -> Mesh:
    """A mesh over a grid of points.

    Args:
        vertices: (R, C, 3).
        closed: the last column meets the first.
    """
    rows, columns = vertices.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(index, -1, axis=1) if closed else index[:, 1:]
    left = index if closed else index[:, :-1]
    a, b, c, d = left[:-1], right[:-1], left[1:], right[1:]
    faces = np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)
    return from_triangles(vertices.reshape(-1, 3), faces)


def band(path: npt.ArrayLike, width: npt.ArrayLike, height: float, *, closed: bool = False) -> Mesh:
    """A flat strip along a plane curve (N, 2): rings, clamps, scissors, brackets."""
    points = np.asarray(path, np.float64)
    half = 0.5 * np.broadcast_to(np.asarray(width, np.float64), len(points))[:, None]
    if closed:
        tangent = np.roll(points, -1, axis=0) - np.roll(points, 1, axis=0)
    else:
        tangent = np.gradient(points, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], 1)
    outer, inner = points + half * normal, points - half * normal
    z = 0.5 * height

    def at(ring: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.float64]:
        return np.concatenate([ring, np.full((len(ring), 1), level)], 1)

    section = np.stack([at(inner, -z), at(inner, z), at(outer, z), at(outer, -z)], 1)
    if closed:
        section = np.concatenate([section, section[:1]])
        return from_grid(section, closed=True)
    # Ends: each is closed by drawing the section together.
    middle = section.mean(axis=1, keepdims=True)
    section = np.concatenate([np.repeat(middle[:1], 4, 1), section, np.repeat(middle[-1:], 4, 1)])
    return from_grid(section, closed=True)


def prism(outline: npt.ArrayLike, height: float, bevel: float = 0.0) -> Mesh:
    """A plate with a star-shaped outline (N, 2), counter-clockwise, between -height/2 and +."""
    points = np.asarray(outline, np.float64)
    middle = points.mean(axis=0)
    inset = middle + (points - middle) * (1 - bevel)
    z = 0.5 * height
    b = min(bevel * float(np.abs(points - middle).max()), 0.9 * z)

    def ring(p: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.float64]:
        return np.concatenate([p, np.full((len(p), 1), level)], 1)

    centre = np.repeat(middle[None], len(points), 0)
    levels = [ring(centre, -z), ring(inset, -z)]
    if bevel > 0:
        levels += [ring(points, -z + b), ring(points, z - b), ring(inset, z)]
    else:
        levels += [ring(points, z)]
    levels.append(ring(centre, z))
    return from_grid(np.stack(levels), closed=True)


def blob(rng: Rng, half: Sequence[float], roughness: float, power: float = 2.0) -> Mesh:
    """A lumpy ellipsoid.

    Args:
        rng: makes the lumps.
        half: half axes.
        roughness: makes it lumpy.
        power: above 2 it makes the ellipsoid boxy.
    """
    rows, columns = 13, 20
    theta = np.linspace(0.02, math.pi - 0.02, rows)[:, None]
    phi = np.linspace(0, 2 * math.pi, columns, endpoint=False)[None, :]
    unit = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta) + 0 * phi], -1
    )
    radius = (np.abs(unit) ** power).sum(-1) ** (-1 / power)
    for _ in range(5):
        direction, phase = rng.normal(0, 2.2, 3), rng.uniform(0, 2 * math.pi)
        radius = radius * (1 + roughness * rng.uniform(0.2, 0.6) * np.sin(unit @ direction + phase))
    vertices = unit * radius[..., None] * np.asarray(half)
    return from_grid(vertices[::-1], closed=True)


def pillow(rng: Rng, half: Sequence[float], creases: float, seam: float) -> Mesh:
    """A filled bag: flat at its rim, bulging and creased in the middle.

    Args:
        rng: makes the creases.
        half: half sizes (x, y, z).
        creases: how deep these are.
        seam: how far what bulges pulls the rim in.
    """
    n = 15
    t = np.linspace(-1, 1, n)
    x, y = np.meshgrid(t, t, indexing="ij")
    dome = ((1 - np.abs(x) ** 2.6) * (1 - np.abs(y) ** (3.2 if seam > 0 else 2.6))) ** 0.6
    relief = np.zeros_like(x)
    for _ in range(5):
        a = rng.normal(0, 3.5, 2)
        relief += rng.uniform(0.3, 1) * np.sin(a[0] * x + a[1] * y + rng.uniform(0, 6.3))
    sides = []
    pull = 1 - seam * dome  # what bulges pulls the rim in
    for sign in (1, -1):
        z = sign * half[2] * dome * (1 + creases * relief * (0.4 + 0.6 * rng.random()))
        grid = np.stack([half[0] * x * pull.min(1)[:, None] ** 0.5, half[1] * y, z], -1)
        sides.append(grid[:, ::-1] if sign > 0 else grid)
    # Faces of the upper side look up: x along the rows, y along the columns.
    return joined([from_grid(side, closed=False) for side in sides])
