"""Draws household scenes: one compiled pool of geoms and meshes, rewritten for every scene."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis_sim import gl
from genesis_sim.assets import AssetPack
from genesis_sim.depth_sensor import Material
from genesis_sim.frame import Frame, TrueObject
from genesis_sim.household import parts, robots, rooms
from genesis_sim.household.bank import make_bank
from genesis_sim.household.scenes import (
    MOST_OBJECTS,
    HouseholdScene,
    sample_household,
)
from genesis_sim.mesh import MAX_FACES, MAX_VERTICES, Mesh
from genesis_sim.scene import BACKGROUND, FIRST_OBJECT, ROBOT, Finish, Light, Solid, place
from genesis_sim.screen import Screen, intrinsics, labels_of, remove_specks

_GEOMS = rooms.MAX_SOLIDS + robots.MAX_SOLIDS + MOST_OBJECTS * parts.MAX_SOLIDS
#: Meshes of a scene: a robot's, and two or three for each object.
_MESHES = robots.MAX_SOLIDS + 3 * MOST_OBJECTS + 8
_MAX_LIGHTS = 3
_ATTEMPTS = 3
#: The same where a scene must have some objects: not all that are drawn find room.
_ATTEMPTS_TO_FILL = 12
#: Share of the image below which an object counts as hidden.
_LEAST_SHARE = 0.00015
_COLOUR_TEXTURE = 1
_USE_MATERIAL = (0.5, 0.5, 0.5, 1.0)
#: Sets these scenes' random numbers apart from those of other modes.
_STREAM = 1_000
_LAMP_DISTANCE = 1.2


class HouseholdRenderer:
    """Random household scenes of one image size.

    A scene depends on the arguments and the seed alone. Holds an OpenGL context, to be used from
    the thread that made it; release it with close() or `with`.

    Args:
        width, height: of the images in pixels.
        num_objects: fewest and most objects of a scene, each number about as often; by default
            none to 20, few more often than many. A scene in which fewer find room is drawn anew, a
            dozen times at most.
        assets: meshes, textures and robots beside the procedural ones
            (genesis_sim.assets.find_pack).

    Raises:
        ValueError: bad size or number of objects.
        RenderingError: MuJoCo or OpenGL is missing.
    """

    def __init__(
        self,
        width: int = 128,
        height: int = 128,
        num_objects: tuple[int, int] | None = None,
        assets: AssetPack | None = None,
    ) -> None:
        for name, value in (("width", width), ("height", height)):
            if not 16 <= value <= 2048:
                raise ValueError(f"{name} is {value}; expected 16 to 2048 pixels")
        if num_objects and not 0 <= num_objects[0] <= num_objects[1] <= MOST_OBJECTS:
            raise ValueError(
                f"num_objects is {num_objects}; expected 0 <= fewest <= most <= {MOST_OBJECTS}"
            )
        self.width, self.height = width, height
        self._num_objects = num_objects
        self._pack = assets
        self._bank = make_bank(self._pack)
        self._skins = tuple(
            self._bank.add("skin", image) for image in (self._pack.skins if self._pack else ())
        )
        self._flat = np.array([self._bank.is_flat(i) for i in range(len(self._bank.images))])
        context = gl.create_context(width, height)
        self._model = _compile(width, height, self._bank.images)
        self._screen = Screen(context, self._model, width, height, most_geoms=_GEOMS + 50)
        self._labels = np.full(self._model.ngeom, BACKGROUND, np.uint8)
        self._materials = np.zeros(self._model.ngeom, np.uint8)
        self._support = np.zeros(self._model.ngeom, bool)

    def sample(self, seed: int) -> Frame:
        """A random scene."""
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a non-negative integer")
        rng = np.random.default_rng([seed, _STREAM])
        fewest = self._num_objects[0] if self._num_objects else 0
        attempts = _ATTEMPTS_TO_FILL if fewest else _ATTEMPTS
        for attempt in range(attempts):
            scene = sample_household(
                rng,
                self._bank,
                self._pack,
                self._skins,
                self.width,
                self.height,
                self._num_objects,
            )
            if len(scene.objects) < fewest and attempt + 1 < attempts:
                continue
            self._write(scene)
            geoms, depth = self._screen.segment()
            labels = remove_specks(labels_of(geoms, self._labels))
            if _worth_showing(labels, len(scene.objects), rng):
                break
        return self._frame(scene, geoms, labels, depth, rng)

    def close(self) -> None:
        """Free the OpenGL context. Safe to call twice."""
        self._screen.close()

    def __enter__(self) -> HouseholdRenderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _frame(
        self,
        scene: HouseholdScene,
        geoms: npt.NDArray[np.int32],
        labels: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32],
        rng: np.random.Generator,
    ) -> Frame:
        shadows = any(light.shadow for light in scene.lights)
        image = self._screen.colour(shadows=shadows)
        support = np.append(self._support, False)[geoms]
        image = scene.shading.apply(image, depth, scene.camera.focal, support)
        image = scene.effects.apply(image, rng)
        materials = np.append(self._materials, np.uint8(Material.DULL))[geoms]
        behind = None
        if (materials == Material.CLEAR).any():
            self._model.geom_rgba[self._materials == Material.CLEAR] = 0.0
            self._screen.prepare(scene.camera)
            behind = self._screen.segment()[1]
        positions = [pose.position for pose in scene.poses]
        optical = scene.camera.to_optical(np.array(positions).reshape(-1, 3))
        truth = [
            TrueObject(FIRST_OBJECT + k, model.name, position, 2.0 * np.array(model.half_size))
            for k, (model, position) in enumerate(zip(scene.objects, optical, strict=True))
        ]
        labels = _without_slivers(labels)
        return Frame(image, labels, depth, intrinsics(scene.camera), truth, materials, behind)

    def _write(self, scene: HouseholdScene) -> None:
        """Put a scene into the pool."""
        self._screen.enter()
        solids = list(scene.surroundings)
        labels = [BACKGROUND] * len(solids)
        solids += scene.robot
        labels += [ROBOT] * len(scene.robot)
        for k, (model, pose) in enumerate(zip(scene.objects, scene.poses, strict=True)):
            solids += [place(solid, pose) for solid in model.solids]
            labels += [FIRST_OBJECT + k] * len(model.solids)
        count = len(solids)
        if count > _GEOMS:
            raise AssertionError(f"{count} solids; the pool has {_GEOMS}")
        model = self._model
        rows = slice(0, count)
        model.geom_type[rows] = [int(solid.shape) for solid in solids]
        model.geom_size[rows] = [solid.size for solid in solids]
        model.geom_pos[rows] = [solid.position for solid in solids]
        model.geom_quat[rows] = [solid.rotation for solid in solids]
        model.geom_rgba[rows] = _USE_MATERIAL
        model.geom_rgba[count:_GEOMS] = 0.0
        model.geom_dataid[:_GEOMS] = -1
        self._labels[rows] = labels
        finishes = [solid.finish for solid in solids]
        self._materials[:] = Material.DULL
        self._materials[rows] = [_material(finish) for finish in finishes]
        self._support[:] = False
        self._support[rows] = [finish is scene.support for finish in finishes]
        self._look(rows, finishes)
        self._write_meshes(solids)
        self._light(scene)
        self._screen.prepare(scene.camera)

    def _write_meshes(self, solids: list[Solid]) -> None:
        slots: dict[int, int] = {}
        for row, solid in enumerate(solids):
            if solid.mesh is None:
                continue
            key = id(solid.mesh)
            if key not in slots:
                slots[key] = len(slots)
                if len(slots) > _MESHES:
                    raise AssertionError(f"more than {_MESHES} meshes in a scene")
                self._write_mesh(slots[key], solid.mesh)
            self._model.geom_dataid[row] = slots[key]

    def _write_mesh(self, slot: int, mesh: Mesh) -> None:
        model = self._model
        v, f = len(mesh.vertices), len(mesh.faces)
        if v > MAX_VERTICES or f > MAX_FACES:
            raise AssertionError(f"a mesh of {v} vertices and {f} faces")
        start = model.mesh_vertadr[slot]
        model.mesh_vert[start : start + v] = mesh.vertices
        start = model.mesh_normaladr[slot]
        model.mesh_normal[start : start + v] = mesh.normals
        start = model.mesh_texcoordadr[slot]
        model.mesh_texcoord[start : start + v] = mesh.texcoords
        start = model.mesh_faceadr[slot]
        model.mesh_face[start : start + f] = mesh.faces
        model.mesh_facenormal[start : start + f] = mesh.faces
        model.mesh_facetexcoord[start : start + f] = mesh.faces
        model.mesh_facenum[slot] = f
        self._screen.upload_mesh(slot)

    def _look(self, rows: slice, finishes: list[Finish]) -> None:
        model = self._model
        numbers = np.array([finish.texture for finish in finishes])
        model.mat_rgba[rows] = [(*finish.colour, finish.alpha) for finish in finishes]
        model.mat_texid[rows, _COLOUR_TEXTURE] = numbers
        model.mat_texrepeat[rows] = [(finish.repeat, finish.repeat) for finish in finishes]
        # Flat textures repeat per metre, cube textures cover a thing once.
        model.mat_texuniform[rows] = (numbers >= 0) & self._flat[numbers]
        model.mat_specular[rows] = [finish.specular for finish in finishes]
        model.mat_shininess[rows] = [finish.shininess for finish in finishes]
        model.mat_reflectance[rows] = [finish.reflectance for finish in finishes]
        self._screen.take_over_textures()

    def _light(self, scene: HouseholdScene) -> None:
        model = self._model
        model.vis.headlight.ambient[:] = scene.ambient
        off = Light((0.0, 0.0, -1.0), (0.0, 0.0, 0.0), 0.0, False)
        for k in range(_MAX_LIGHTS):
            light = scene.lights[k] if k < len(scene.lights) else off
            direction = np.array(light.direction)
            direction /= math.sqrt(float(direction @ direction))
            model.light_active[k] = k < len(scene.lights)
            model.light_dir[k] = direction
            model.light_pos[k] = -_LAMP_DISTANCE * direction
            model.light_diffuse[k] = light.diffuse
            model.light_specular[k] = light.specular
            model.light_castshadow[k] = light.shadow


def _material(finish: Finish) -> Material:
    if finish.alpha < 0.9:
        return Material.CLEAR
    return Material.SHINY if finish.specular > 0.55 else Material.DULL


def _worth_showing(labels: npt.NDArray[np.uint8], objects: int, rng: np.random.Generator) -> bool:
    """Whether the scene shows its things, and not just the robot."""
    robot_share = np.count_nonzero(labels == ROBOT) / labels.size
    shown = np.count_nonzero(labels >= FIRST_OBJECT) >= 0.003 * labels.size
    return bool(robot_share < 0.55 and (shown or not objects or rng.random() < 0.1))


def _without_slivers(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Labels (H, W) without the objects of which hardly a pixel is seen."""
    counts = np.bincount(labels.ravel(), minlength=256)
    hidden = (counts < max(3, _LEAST_SHARE * labels.size)) & (np.arange(256) >= FIRST_OBJECT)
    return np.where(hidden, np.uint8(BACKGROUND), np.arange(256, dtype=np.uint8))[labels]


def _compile(width: int, height: int, images: list[npt.NDArray[np.uint8]]) -> Any:
    """The model: a pool of geoms and materials, slots for meshes, and the textures."""
    mj = gl.import_mujoco()
    spec = mj.MjSpec()
    spec.compiler.degree = False
    spec.stat.extent, spec.stat.center = 1.0, [0.0, 0.0, 0.0]
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    small = max(width, height) <= 160
    spec.visual.quality.shadowsize = 1024
    spec.visual.quality.offsamples = 4
    spec.visual.quality.numslices = 18 if small else 28
    spec.visual.quality.numstacks = 10 if small else 14
    spec.visual.quality.numquads = 1
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 12.0
    spec.visual.map.shadowclip = 0.8
    spec.visual.headlight.diffuse = [0.0, 0.0, 0.0]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    for number, image in enumerate(images):
        cube = image.shape[0] == 6 * image.shape[1]
        kind = mj.mjtTexture.mjTEXTURE_CUBE if cube else mj.mjtTexture.mjTEXTURE_2D
        spec.add_texture(
            name=f"texture_{number}",
            type=kind,
            builtin=mj.mjtBuiltin.mjBUILTIN_FLAT,
            width=image.shape[1],
            height=image.shape[0],
        )
    world = spec.worldbody
    for _ in range(_MAX_LIGHTS):
        world.add_light(type=mj.mjtLightType.mjLIGHT_DIRECTIONAL, pos=[0, 0, 1], dir=[0, 0, -1])
    world.add_camera(name="camera")
    textures = [""] * int(mj.mjtTextureRole.mjNTEXROLE)
    textures[_COLOUR_TEXTURE] = "texture_0"
    for number in range(_GEOMS):
        spec.add_material(name=f"geom_{number}", textures=textures)
        world.add_geom(
            type=mj.mjtGeom.mjGEOM_BOX,
            size=[0.01, 0.01, 0.01],
            material=f"geom_{number}",
            contype=0,
            conaffinity=0,
        )
    for slot in range(_MESHES):
        _add_slot(mj, spec, slot)
    model = spec.compile()
    for number, image in enumerate(images):
        start = model.tex_adr[number]
        model.tex_data[start : start + image.size] = image.ravel()
    # The geoms that kept the slots alive are never shown.
    model.geom_rgba[_GEOMS:] = 0.0
    # MuJoCo takes a geom's frame for its body's where the model was compiled so.
    model.geom_sameframe[:] = 0
    return model


def _add_slot(mj: Any, spec: Any, slot: int) -> None:
    """A mesh with room for any other, and a geom without which it would not be compiled."""
    rows = 41
    columns = MAX_VERTICES // rows
    theta = np.linspace(0.05, math.pi - 0.05, rows)[:, None]
    phi = np.linspace(0, 2 * math.pi, columns, endpoint=False)[None, :]
    sphere = np.stack(
        [np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta) + 0 * phi], -1
    ).reshape(-1, 3)
    vertices = np.resize(sphere, (MAX_VERTICES, 3))
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1], np.roll(index, -1, axis=1)[:-1]
    c, d = index[1:], np.roll(index, -1, axis=1)[1:]
    faces = np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)]).reshape(-1, 3)
    faces = np.resize(faces, (MAX_FACES, 3)).ravel()
    mesh = spec.add_mesh(name=f"slot_{slot}")
    mesh.uservert = vertices.ravel()
    mesh.usernormal = vertices.ravel()
    mesh.usertexcoord = vertices[:, :2].ravel()
    mesh.userface = mesh.userfacenormal = mesh.userfacetexcoord = faces
    mesh.inertia = mj.mjtMeshInertia.mjMESH_INERTIA_SHELL
    spec.worldbody.add_geom(
        type=mj.mjtGeom.mjGEOM_MESH, meshname=mesh.name, contype=0, conaffinity=0
    )
