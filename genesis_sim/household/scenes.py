"""Random household scenes: things on tables, floors and shelves and in bins, before a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from genesis_sim.assets import AssetPack
from genesis_sim.effects import ImageEffects
from genesis_sim.geometry import Vector, look_at, yaw
from genesis_sim.household.bank import TextureBank
from genesis_sim.household.kit import Kit, random_palette
from genesis_sim.household.placing import arrange, settle
from genesis_sim.household.robots import random_robot
from genesis_sim.household.rooms import Setting, random_setting, room
from genesis_sim.household.shading import Shading, sample_shading
from genesis_sim.household.things import random_package, random_thing
from genesis_sim.scene import Camera, Colour, Finish, Light, ObjectModel, Pose, Solid

Rng = np.random.Generator

#: Most objects of a scene, and of one that does not say how many.
MOST_OBJECTS, _USUAL_MOST = 24, 20

_WITH_ROBOT, _HOLDING = 0.46, 0.35
#: Share of the scenes in which most things are packages.
_SHOPPING = 0.3
#: Width over height of the cameras' own images, and how many have it.
_ASPECTS, _ASPECT_SHARES = (4 / 3, 16 / 9, 1.0), (0.6, 0.28, 0.12)


@dataclass(slots=True)
class HouseholdScene:
    """A scene, ready to draw. The world's origin is amid the things, on their support; z is up."""

    name: str
    surroundings: list[Solid]
    robot: list[Solid]
    objects: list[ObjectModel]
    poses: list[Pose]
    camera: Camera
    ambient: Colour
    lights: list[Light]
    effects: ImageEffects
    shading: Shading
    #: The finish of what things stand on.
    support: Finish


def sample_household(
    rng: Rng,
    bank: TextureBank,
    pack: AssetPack | None,
    skins: tuple[int, ...],
    width: int,
    height: int,
    num_objects: tuple[int, int] | None = None,
) -> HouseholdScene:
    """Draw a scene.

    Args:
        rng: makes the choices.
        bank: textures.
        pack: meshes and robots beside the procedural ones.
        skins: numbers in the bank of the pack's skins.
        width, height: of the images in pixels.
        num_objects: fewest and most objects; by default few more often than many.
    """
    setting = random_setting(rng, bank)
    clear = float(rng.uniform(0.3, 0.9)) if rng.random() < 0.22 else 0.02
    palette = random_palette(rng, setting.support, clear=clear)
    if rng.random() < 0.3:  # things of one brand
        palette = replace(palette, brand=bank.brands[int(rng.integers(len(bank.brands)))])
    kit = Kit(bank, palette, pack, skins)
    count = _how_many(rng, num_objects, setting)
    packaged = 0.4 if setting.name == "shelf" else 0.0
    if rng.random() < _SHOPPING:
        packaged = float(rng.uniform(0.5, 1.0))
    models = _choose(rng, kit, count, packaged)
    if setting.compartment is not None:
        models = _low_enough(models, setting)
    if models and rng.random() < setting.heap:
        spread = 0.8 if setting.walls else 0.5
        placed = settle(rng, models, setting.reach, setting.walls, spread=spread)
    else:
        crowd = float(rng.choice([0.1, 0.5, 0.85]))
        placed = arrange(rng, models, setting.reach, crowd, setting.compartment)
    camera = _camera(rng, setting, placed, width, height)
    robot: list[Solid] = []
    share = 0.2 if setting.name == "shelf" else _WITH_ROBOT
    if rng.random() < share:
        robot, placed = _with_robot(rng, kit, setting, placed, camera)
    if setting.compartment is not None and num_objects is None and rng.random() < 0.5:
        placed = [*placed, *_next_door(rng, kit, setting, _USUAL_MOST - len(placed))]
    surroundings = [*setting.solids, *room(rng, kit, setting, camera.position)]
    ambient, lights = _lighting(rng, setting)
    return HouseholdScene(
        setting.name,
        surroundings,
        robot,
        [model for model, _ in placed],
        [pose for _, pose in placed],
        camera,
        ambient,
        lights,
        _effects(rng),
        sample_shading(rng),
        setting.support,
    )


def _choose(rng: Rng, kit: Kit, count: int, packaged: float = 0.0) -> list[ObjectModel]:
    """So many things, in some scenes several of each, as in a warehouse.

    Args:
        packaged: share that is drawn from cartons, books, bags and cans alone.
    """
    kinds = count
    if rng.random() < 0.2:
        kinds = min(count, int(rng.integers(1, 4)))
    models = [
        random_package(rng, kit) if rng.random() < packaged else random_thing(rng, kit)
        for _ in range(kinds)
    ]
    return [models[k % kinds] for k in range(count)]


def _next_door(rng: Rng, kit: Kit, setting: Setting, most: int) -> list[tuple[ObjectModel, Pose]]:
    """Things in the compartments at the left and right."""
    found = []
    for side in (-1, 1):
        models = _choose(rng, kit, int(rng.integers(0, 4)), packaged=0.4)
        models = _low_enough(models, setting)
        for model, pose in arrange(rng, models, setting.reach, 0.5, setting.compartment):
            position = pose.position + np.array([0.0, side * setting.next_door, 0.0])
            found.append((model, Pose(position, pose.rotation)))
    return found[:most]


def _low_enough(models: list[ObjectModel], setting: Setting) -> list[ObjectModel]:
    """Those that fit under the ceiling of a shelf's compartment."""
    assert setting.compartment is not None, "the setting is no shelf"
    return [model for model in models if 2 * model.half_size[2] < setting.compartment[2]]


def _how_many(rng: Rng, num_objects: tuple[int, int] | None, setting: Setting) -> int:
    """Few things seldom, most often four to twelve, a full bin now and then."""
    if num_objects is not None:
        return int(rng.integers(num_objects[0], num_objects[1] + 1))
    kind = rng.random()
    if kind < 0.03:
        return 0
    if kind < 0.08:
        return 1
    if kind < 0.65:
        return int(rng.integers(2, 11))
    if setting.name == "shelf":
        return int(rng.integers(2, 9))
    return int(rng.integers(8, _USUAL_MOST + 1))


def _camera(
    rng: Rng,
    setting: Setting,
    placed: list[tuple[ObjectModel, Pose]],
    width: int,
    height: int,
) -> Camera:
    """A camera that looks at the things, from a side and distance that suit the setting.

    Or it looks at a shelf's whole compartment.
    """
    if placed and rng.random() < 0.8:
        middle = np.mean([pose.position for _, pose in placed], axis=0)
    else:
        middle = np.zeros(3)
    jitter = np.array([*rng.uniform(-0.25, 0.25, 2) * np.array(setting.reach), 0.0])
    target = middle + jitter
    pitch = math.radians(float(rng.uniform(*setting.pitch)))
    azimuth = float(rng.uniform(*setting.azimuth))
    distance = float(rng.uniform(*setting.distance))
    way = np.array(
        [
            math.cos(azimuth) * math.cos(pitch),
            math.sin(azimuth) * math.cos(pitch),
            math.sin(pitch),
        ]
    )
    seen_whole = setting.compartment if rng.random() < 0.5 else None
    if seen_whole is not None:
        _, half, high = seen_whole
        target = np.array(
            [0.0, float(rng.normal(0, 0.2)) * half, float(rng.uniform(0.2, 0.6)) * high]
        )
    position = target + distance * way
    aspect = float(rng.choice(_ASPECTS, p=_ASPECT_SHARES))
    view, span = float(rng.uniform(30, 70)), None
    if placed and rng.random() < 0.8:  # the things fill a good part of the image
        spread = [float(np.linalg.norm(pose.position - target)) + m.radius for m, pose in placed]
        # Or the room around them is in view too, and they are small, as before most cameras.
        low, high = (0.1, 1.3) if rng.random() < 0.5 else (-0.7, 0.2)
        span = float(np.quantile(spread, 0.8)) * float(np.exp(rng.uniform(low, high)))
    if seen_whole is not None:
        _, half, high = seen_whole
        span = max(half, 0.5 * high * aspect) * float(rng.uniform(0.9, 1.7))
    if span is not None:
        view = float(np.clip(2 * math.degrees(math.atan(span / distance)), 26, 72))
    view = math.radians(view)
    across = 0.5 * width / math.tan(0.5 * view)
    squeeze = (width / height) / aspect
    focal = across / squeeze
    centre = (width * (0.5 + rng.normal(0, 0.012)), height * (0.5 + rng.normal(0, 0.012)))
    roll = float(rng.normal(0, 0.04)) if rng.random() < 0.85 else float(rng.uniform(-0.5, 0.5))
    if rng.random() < 0.05:  # upside down, as cameras on arms often are
        roll += math.pi
    rotation = look_at(position, target, roll=roll)
    return Camera(position, rotation, focal, (float(centre[0]), float(centre[1])), squeeze)


def _with_robot(
    rng: Rng,
    kit: Kit,
    setting: Setting,
    placed: list[tuple[ObjectModel, Pose]],
    camera: Camera,
) -> tuple[list[Solid], list[tuple[ObjectModel, Pose]]]:
    """A robot above, among or beside the things, perhaps holding one of them."""
    standing = placed
    # In a shelf there is no room to lift something.
    holding = bool(placed) and rng.random() < _HOLDING and setting.compartment is None
    if holding:
        index = int(rng.integers(len(placed)))
        model, pose = placed[index]
        lift = float(rng.uniform(0.08, 0.3))
        position = pose.position + np.array([0.0, 0.0, lift])
        turned = Pose(position, yaw(float(rng.uniform(0, 6.3))))
        placed = [*placed[:index], (model, turned), *placed[index + 1 :]]
        tip = position + np.array([0.0, 0.0, 0.4 * model.half_size[2]])
    else:
        highest = max((float(p.position[2]) + m.half_size[2] for m, p in placed), default=0.05)
        for _ in range(6):
            x, y = (float(rng.uniform(-1.3, 1.3)) * side for side in setting.reach)
            tip = np.array([x, y, highest + float(rng.uniform(-0.03, 0.2))])
            if _in_view(camera, tip):
                break
    # Seldom from where the camera stands: the arm would hide everything.
    behind = math.atan2(-camera.position[1], -camera.position[0])
    heading = behind + float(rng.uniform(-2.3, 2.3))
    if setting.name == "shelf":
        heading = math.pi + float(rng.normal(0, 0.4))
        tip[0] = min(float(tip[0]), -0.05)
    forwards = setting.name == "shelf"
    robot = random_robot(rng, tip, heading, kit.bank, kit.pack, forwards=forwards)
    # What surrounds the lens would hide everything.
    near = [s for s in robot if np.linalg.norm(np.array(s.position) - camera.position) < 0.2]
    return ([], standing) if near else (robot, placed)


def _in_view(camera: Camera, point: Vector) -> bool:
    """Whether a camera sees a point, if nothing hides it (its image is about centred)."""
    x, y, z = camera.to_optical(point[None])[0]
    u, v = camera.focal * camera.squeeze * x / z, camera.focal * y / z
    return bool(z > 0.15 and abs(u) < camera.centre[0] and abs(v) < camera.centre[1])


def _lighting(rng: Rng, setting: Setting) -> tuple[Colour, list[Light]]:
    """Ambient light and one to three lamps; the brightest may throw a hard shadow."""
    soft = float(rng.uniform(0.32, 0.75))
    tint = np.exp(rng.normal(0, 0.06, 3))
    total = float(rng.uniform(0.65, 1.05))
    ambient = soft * total * tint
    count = int(rng.integers(1, 4))
    shares = np.sort(rng.dirichlet(np.full(count, 1.2)))[::-1] * (1 - soft) * total
    lights = []
    for k, share in enumerate(shares):
        azimuth = float(rng.uniform(0, 2 * math.pi))
        lean = float(rng.uniform(0.0, 1.0) if k == 0 else rng.uniform(0.2, 2.0))
        x, y = lean * math.cos(azimuth), lean * math.sin(azimuth)
        if setting.enclosed:
            x = abs(x) + 0.6
        colour = np.minimum(share * 1.25 * np.exp(rng.normal(0, 0.06, 3)) * tint, 1.0)
        lights.append(
            Light(
                (x, y, -1.0),
                (float(colour[0]), float(colour[1]), float(colour[2])),
                specular=float(rng.uniform(0.1, 1.0)),
                shadow=k == 0 and bool(rng.random() < (0.25 if setting.enclosed else 0.55)),
            )
        )
    return (float(ambient[0]), float(ambient[1]), float(ambient[2])), lights


def _effects(rng: Rng) -> ImageEffects:
    """A decent camera, about white-balanced: training draws its flaws once more."""
    strong = rng.random() < 0.15
    cast = np.exp(rng.normal(0, 0.13 if strong else 0.045, 3))
    haze = float(rng.uniform(0, 0.1 if rng.random() < 0.2 else 0.03))
    veil = haze * np.exp(rng.normal(0, 0.1, 3))
    gain = cast * (1 - haze)
    return ImageEffects(
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        veil=(float(veil[0]), float(veil[1]), float(veil[2])),
        gamma=float(np.exp(rng.normal(0.06, 0.16))),
        saturation=float(rng.uniform(0.8, 1.4)) if rng.random() < 0.97 else 0.0,
        vignette=float(rng.uniform(0, 0.3)) if rng.random() < 0.4 else 0.0,
        blur=float(rng.uniform(0, 0.0035)) if rng.random() < 0.6 else 0.0,
        sharpen=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.3 else 0.0,
        noise=float(rng.uniform(0, 2.5) if rng.random() < 0.85 else rng.uniform(2.5, 6)),
        noise_grain=float(rng.uniform(0.4, 0.9)) if rng.random() < 0.4 else 0.0,
        jpeg_quality=int(rng.integers(60, 98)) if rng.random() < 0.5 else 0,
    )
