"""Draws scenes with MuJoCo: image, instance labels, depth and where the objects are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis_sim import gl, motion, objects, robot, textures
from genesis_sim.environments import MAX_SOLIDS as MAX_ENVIRONMENT
from genesis_sim.frame import Frame, TrueObject
from genesis_sim.sampling import MODES, Mode, check_num_objects, sample_scene
from genesis_sim.scene import (
    BACKGROUND,
    FIRST_OBJECT,
    OBJECTS,
    ROBOT,
    Finish,
    Light,
    Shape,
    Solid,
    TabletopScene,
)
from genesis_sim.screen import Screen, intrinsics, labels_of, remove_specks

_MAX_LIGHTS = 3
_ATTEMPTS = 4
_SHADOW_RINGS = 5
#: Column of mat_texid that holds the colour texture (mjTEXROLE_RGB).
_COLOUR_TEXTURE = 1
_HIDDEN = Finish((0.0, 0.0, 0.0), alpha=0.0)
#: MuJoCo's default geom colour, at which a geom takes its material's colour.
_USE_MATERIAL = (0.5, 0.5, 0.5, 1.0)


class TabletopRenderer:
    """Random robot tabletop scenes of one image size and mode.

    A scene depends on the arguments and the seed alone, not on the order of calls or the process.
    Holds an OpenGL context, to be used from the thread that made it; release it with close() or
    `with`.

    Args:
        width, height: of the images in pixels.
        mode: "sketchy" (red cube, green block, blue ball in a grey basket), "varied" (1 to 6
            objects of any shape in varied surroundings) or "mixed" (each half of the time).
        num_objects: fewest and most objects of a varied scene, if other than 1 and 6.

    Raises:
        ValueError: bad size, mode or number of objects.
        RenderingError: MuJoCo or OpenGL is missing.
    """

    def __init__(
        self,
        width: int = 128,
        height: int = 128,
        mode: Mode = "varied",
        num_objects: tuple[int, int] = OBJECTS,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
        for name, value in (("width", width), ("height", height)):
            if not 16 <= value <= 2048:
                raise ValueError(f"{name} is {value}; expected 16 to 2048 pixels")
        check_num_objects(num_objects, mode)
        self.width, self.height, self.mode = width, height, mode
        self._num_objects = num_objects
        mujoco = gl.import_mujoco()
        context = gl.create_context(width, height)
        most = max(num_objects[1], OBJECTS[1])
        self._model = mujoco.MjModel.from_xml_string(_mjcf(width, height, most))
        self._pool = _Pool(self._model, most)
        self._fill_textures()
        self._screen = Screen(context, self._model, width, height, most_geoms=600)

    def sample(self, seed: int) -> Frame:
        """A random still scene."""
        rng = self._rng(seed, 0)
        for _ in range(_ATTEMPTS):
            scene = sample_scene(
                rng, self.mode, self.width, self.height, num_objects=self._num_objects
            )
            self._prepare(scene)
            labels, depth = self._segment()
            if _worth_showing(labels, rng):
                break
        return self._frame(scene, labels, depth, rng)

    def sequence(self, seed: int, num_frames: int) -> Iterator[Frame]:
        """A moving scene at about 12 Hz: the arm carries and pushes objects. Labels stay theirs."""
        if num_frames < 1:
            raise ValueError(f"num_frames is {num_frames}; expected at least 1")
        rng = self._rng(seed, 1)
        scene = sample_scene(
            rng, self.mode, self.width, self.height, moving=True, num_objects=self._num_objects
        )
        script = motion.play(scene, self._rng(seed, 2))
        for _ in range(num_frames):
            next(script)
            # Other scenes may have been drawn since the last frame, so all is set anew.
            self._prepare(scene)
            labels, depth = self._segment()
            yield self._frame(scene, labels, depth, rng)

    def close(self) -> None:
        """Free the OpenGL context. Safe to call twice."""
        self._screen.close()

    def __enter__(self) -> TabletopRenderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _rng(self, seed: int, stream: int) -> np.random.Generator:
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a non-negative integer")
        return np.random.default_rng([seed, MODES.index(self.mode), stream])

    def _fill_textures(self) -> None:
        data = self._model.tex_data
        bank = [*textures.flat_textures(), *textures.cube_textures()]
        for index, image in enumerate(bank):
            start = self._model.tex_adr[index]
            data[start : start + image.size] = image.ravel()

    def _prepare(self, scene: TabletopScene) -> None:
        """Write a scene into the model and make it ready to draw."""
        self._screen.enter()
        self._pool.set_scene(scene)
        self._pool.set_poses(self._screen.data, scene)
        self._screen.prepare(scene.camera)

    def _segment(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Labels and depth (H, W) of the prepared scene."""
        geoms, depth = self._screen.segment()
        return remove_specks(labels_of(geoms, self._pool.labels)), depth

    def _frame(
        self,
        scene: TabletopScene,
        labels: npt.NDArray[np.uint8],
        depth: npt.NDArray[np.float32],
        rng: np.random.Generator,
    ) -> Frame:
        positions = scene.camera.to_optical(np.array([pose.position for pose in scene.poses]))
        truth = [
            TrueObject(label, model.name, position, 2.0 * np.array(model.half_size))
            for label, model, position in zip(scene.labels, scene.objects, positions, strict=True)
        ]
        shadows = any(light.shadow for light in scene.lights)
        image = scene.effects.apply(self._screen.colour(shadows=shadows), rng)
        return Frame(image, labels, depth, intrinsics(scene.camera), truth)


def _worth_showing(labels: npt.NDArray[np.uint8], rng: np.random.Generator) -> bool:
    """Whether an image shows something: not just the robot, and seldom no object."""
    objects_seen = np.count_nonzero(labels >= FIRST_OBJECT) >= 0.001 * labels.size
    robot_share = np.count_nonzero(labels == ROBOT) / labels.size
    return bool(robot_share < 0.5 and (objects_seen or rng.random() < 0.5))


class _Pool:
    """The MuJoCo model's geoms, rewritten for every scene; hides which geom is what."""

    def __init__(self, model: Any, most_objects: int) -> None:
        self._model = model
        self._most_objects = most_objects
        self._environment = model.geom("environment_0").id
        self._objects = model.geom("object_0").id
        self._shadows = model.geom("shadow_0").id
        #: Label of each geom (robot geoms included).
        self.labels = np.full(model.ngeom, BACKGROUND, np.uint8)
        self._robot_geoms = {
            part: np.array(
                [g for g in range(model.ngeom) if model.geom(g).name.startswith(part + "_")]
            )
            for part in robot.PARTS
        }
        for geoms in self._robot_geoms.values():
            self.labels[geoms] = ROBOT
        for k in range(most_objects):
            start = self._objects + k * objects.MAX_SOLIDS
            self.labels[start : start + objects.MAX_SOLIDS] = FIRST_OBJECT + k
        self._joints = {
            name: model.joint(name).qposadr[0] for name in (*robot.JOINTS, *robot.FINGERS)
        }
        self._base = model.body("robot").mocapid[0]
        self._bodies = [model.body(f"object_{k}").mocapid[0] for k in range(most_objects)]
        # MuJoCo takes a geom's frame for its body's where the model was compiled so.
        model.geom_sameframe[:] = 0

    def set_scene(self, scene: TabletopScene) -> None:
        """Write surroundings, objects, looks and lights."""
        if len(scene.environment) > MAX_ENVIRONMENT:
            raise AssertionError(f"{len(scene.environment)} solids; the pool has {MAX_ENVIRONMENT}")
        self._write(self._environment, scene.environment, MAX_ENVIRONMENT)
        for k in range(self._most_objects):
            start = self._objects + k * objects.MAX_SOLIDS
            solids = scene.objects[k].solids if k < len(scene.objects) else []
            self._write(start, solids, objects.MAX_SOLIDS)
        self._write(self._shadows, _contact_shadows(scene), self._most_objects * _SHADOW_RINGS)
        style = scene.robot_style
        for part in robot.PARTS:
            finish: Finish = getattr(style, part)
            if scene.robot is None:
                finish = _HIDDEN
            material = self._model.material(f"robot_{part}").id
            self._look([material], [finish])
            self._model.geom_rgba[self._robot_geoms[part]] = (
                _USE_MATERIAL if scene.robot is not None else (0, 0, 0, 0)
            )
        self._light(scene)

    def set_poses(self, data: Any, scene: TabletopScene) -> None:
        """Write joint values and the objects' poses."""
        data.mocap_pos[self._base] = scene.robot_base.position
        data.mocap_quat[self._base] = scene.robot_base.rotation
        if scene.robot is not None:
            for name, value in robot.joint_positions(scene.robot, scene.robot_base).items():
                data.qpos[self._joints[name]] = value
        for body, pose in zip(self._bodies, scene.poses, strict=False):
            data.mocap_pos[body] = pose.position
            data.mocap_quat[body] = pose.rotation

    def _write(self, start: int, solids: list[Solid], count: int) -> None:
        model, n = self._model, len(solids)
        rows = slice(start, start + n)
        if n:
            model.geom_type[rows] = [int(solid.shape) for solid in solids]
            model.geom_size[rows] = [solid.size for solid in solids]
            model.geom_pos[rows] = [solid.position for solid in solids]
            model.geom_quat[rows] = [solid.rotation for solid in solids]
            model.geom_rgba[rows] = _USE_MATERIAL
            # Geom i of the pool has material i, so that every solid can look different.
            self._look(rows, [solid.finish for solid in solids])
        model.geom_rgba[start + n : start + count] = 0.0

    def _look(self, rows: slice | list[int], finishes: list[Finish]) -> None:
        model = self._model
        model.mat_rgba[rows] = [(*finish.colour, finish.alpha) for finish in finishes]
        model.mat_texid[rows, _COLOUR_TEXTURE] = [finish.texture for finish in finishes]
        model.mat_texrepeat[rows] = [(finish.repeat, finish.repeat) for finish in finishes]
        # Flat textures repeat per metre, cube textures cover the object once.
        flat = textures.KINDS["clutter"].stop
        model.mat_texuniform[rows] = [0 <= finish.texture < flat for finish in finishes]
        model.mat_specular[rows] = [finish.specular for finish in finishes]
        model.mat_shininess[rows] = [finish.shininess for finish in finishes]

    def _light(self, scene: TabletopScene) -> None:
        model = self._model
        model.vis.headlight.ambient[:] = scene.ambient
        off = Light((0.0, 0.0, -1.0), (0.0, 0.0, 0.0), 0.0, False)
        for k in range(_MAX_LIGHTS):
            light = scene.lights[k] if k < len(scene.lights) else off
            direction = np.array(light.direction)
            direction /= math.sqrt(float(direction @ direction))
            model.light_active[k] = k < len(scene.lights)
            model.light_dir[k] = direction
            # Lamps stand near the workspace, else walls behind them would shade it.
            model.light_pos[k] = np.array([0.0, 0.0, scene.floor_height]) - 0.75 * direction
            model.light_diffuse[k] = light.diffuse
            model.light_specular[k] = light.specular
            model.light_castshadow[k] = light.shadow


def _contact_shadows(scene: TabletopScene) -> list[Solid]:
    """Faint rings on the floor under resting objects: the soft dark rim that wide light leaves."""
    solids = []
    for model, pose in zip(scene.objects, scene.poses, strict=True):
        height = float(pose.position[2]) - model.half_size[2] - scene.floor_height
        if not -0.01 < height < 0.05 or scene.contact_shadow <= 0:
            continue
        # The outline of an L or a plus is not its bounding box.
        simple = model.name not in ("l_block", "t_block", "plus", "dumbbell")
        strength = (0.12 if simple else 0.04) * scene.contact_shadow * (1 - height / 0.05)
        for ring in range(_SHADOW_RINGS):
            grow = 0.82 + 0.11 * ring + 4 * height
            a, b = grow * model.half_size[0], grow * model.half_size[1]
            x, y = float(pose.position[0]), float(pose.position[1])
            # Apart by more than the depth buffer's resolution, the widest lowest.
            z = scene.floor_height + 0.0008 + 0.0004 * (_SHADOW_RINGS - ring)
            finish = Finish((0.03, 0.03, 0.03), alpha=min(0.5, strength), specular=0.0)
            if abs(a - b) < 0.2 * a and model.solids[0].shape != Shape.BOX:
                disc = Solid(Shape.CYLINDER, (0.5 * (a + b), 0.0001, 0), (x, y, z), finish)
            else:
                disc = Solid(Shape.BOX, (a, b, 0.0001), (x, y, z), finish, pose.rotation)
            solids.append(disc)
    return solids


def _mjcf(width: int, height: int, most_objects: int) -> str:
    """The model: a pool of geoms and materials, the robot, and placeholders for the textures."""
    bank = [*textures.flat_textures(), *textures.cube_textures()]
    assets = "".join(
        f'<texture name="texture_{i}" type="{"2d" if t.shape[0] == t.shape[1] else "cube"}" '
        f'builtin="flat" width="{t.shape[1]}" height="{t.shape[0]}"/>'
        for i, t in enumerate(bank)
    )
    pool = [f"environment_{i}" for i in range(MAX_ENVIRONMENT)]
    pool += [f"shadow_{i}" for i in range(most_objects * _SHADOW_RINGS)]
    movable = [
        [f"object_{k * objects.MAX_SOLIDS + i}" for i in range(objects.MAX_SOLIDS)]
        for k in range(most_objects)
    ]
    names = pool + [name for group in movable for name in group]
    materials = "".join(f'<material name="{name}" texture="texture_0"/>' for name in names)
    materials += "".join(
        f'<material name="robot_{part}" texture="texture_0"/>' for part in robot.PARTS
    )

    def geom(name: str) -> str:
        return f'<geom name="{name}" class="pool" material="{name}"/>'

    bodies = "".join(
        f'<body name="object_{k}" mocap="true">{"".join(geom(name) for name in group)}</body>'
        for k, group in enumerate(movable)
    )
    # How finely round shapes and shadows are cut: half the cost of an image, unseen in a small one.
    slices, shadow = (14, 512) if max(width, height) <= 160 else (28, 2048)
    lights = '<light type="directional" pos="0 0 1" dir="0 0 -1"/>' * _MAX_LIGHTS
    return f"""
<mujoco model="tabletop">
  <compiler angle="radian"/>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="{shadow}" offsamples="4"
      numslices="{slices}" numstacks="{slices // 2}" numquads="1"/>
    <map znear="0.02" zfar="12" shadowclip="0.55"/>
    <headlight ambient=".4 .4 .4" diffuse="0 0 0" specular="0 0 0"/>
  </visual>
  <default>
    <default class="pool">
      <geom type="box" size=".01 .01 .01" contype="0" conaffinity="0"/>
    </default>
    <default class="robot"><geom contype="0" conaffinity="0"/></default>
  </default>
  <asset>{assets}{materials}</asset>
  <worldbody>
    {lights}
    <camera name="camera"/>
    {"".join(geom(name) for name in pool)}
    {bodies}
    {robot.mjcf()}
  </worldbody>
</mujoco>"""
