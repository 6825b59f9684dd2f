"""Random scenes: which surroundings, objects, robot, camera and light go together."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from genesis_sim import cameras, environments, robot
from genesis_sim.effects import sample_effects
from genesis_sim.geometry import Vector, yaw
from genesis_sim.objects import (
    random_colour,
    random_finish,
    random_object,
    resting_pose,
    sketchy_objects,
)
from genesis_sim.scene import (
    FIRST_OBJECT,
    MOST_OBJECTS,
    OBJECTS,
    Camera,
    Colour,
    Finish,
    Light,
    ObjectModel,
    Pose,
    RobotPose,
    RobotStyle,
    TabletopScene,
)

Rng = np.random.Generator
Mode = Literal["sketchy", "varied", "mixed"]
MODES: tuple[str, ...] = get_args(Mode)

#: Height of the robot's base above the table's surface and its distance from the workspace.
_BASE_HEIGHT, _BASE_DISTANCE = -0.02, 0.90


def check_num_objects(num_objects: tuple[int, int], mode: Mode) -> None:
    """Check that scenes of a mode can have these numbers of objects.

    Args:
        num_objects: fewest and most.
        mode: of the scenes.

    Raises:
        ValueError: they cannot.
    """
    if not 1 <= num_objects[0] <= num_objects[1] <= MOST_OBJECTS:
        raise ValueError(
            f"num_objects is {num_objects}; expected 1 <= fewest <= most <= {MOST_OBJECTS}"
        )
    if num_objects != OBJECTS and mode != "varied":
        raise ValueError(f"num_objects is {num_objects}: only for mode varied, not {mode}")


def sample_scene(
    rng: Rng,
    mode: Mode,
    width: int,
    height: int,
    *,
    moving: bool = False,
    num_objects: tuple[int, int] = OBJECTS,
) -> TabletopScene:
    """Draw a scene.

    Args:
        moving: choose one that suits a sequence (whole workspace in view, a robot).
        num_objects: fewest and most objects of a varied scene.
    """
    if mode == "mixed":
        mode = "sketchy" if rng.random() < 0.5 else "varied"
    if mode == "sketchy":
        return _sketchy(rng, width, height, moving)
    return _varied(rng, width, height, moving, num_objects)


def _sketchy(rng: Rng, width: int, height: int, moving: bool) -> TabletopScene:
    models = sketchy_objects(rng)
    front = moving or rng.random() < 0.88
    if front:
        camera = cameras.front_camera(rng, width, height, whole=moving)
    else:
        camera = cameras.orbit_camera(rng, width, height, np.array([0, 0, -0.03]))
    environment = environments.basket(rng, camera.position, sketchy=True)
    with_robot = moving or rng.random() >= 0.05
    poses, robot_pose = _arrange(
        rng, models, environment, stack=0.15, moving=moving, with_robot=with_robot
    )
    if front and not moving:
        # Finding another crop is cheaper than drawing another scene. Most frames should show
        # something; real crops of empty floor exist, so not all.
        tries = 8 if rng.random() < 0.85 else 0
        while tries and not _any_visible(camera, poses, width, height):
            camera = cameras.front_camera(rng, width, height)
            tries -= 1
    if rng.random() < 0.7:
        environment.solids.extend(environments.cables(rng))
    if robot_pose is not None and rng.random() < 0.25:
        above = robot_pose.tip + np.array([rng.uniform(-0.02, 0.06), 0, rng.uniform(0.15, 0.3)])
        environment.solids.extend(environments.cables(rng, near=above))
    ambient, lights = _sample_light(rng, sketchy=True)
    return TabletopScene(
        environment=environment.solids,
        objects=models,
        poses=poses,
        robot=robot_pose,
        robot_base=_base(rng, 0.05),
        robot_style=_sketchy_style(rng),
        camera=camera,
        ambient=ambient,
        lights=lights,
        effects=sample_effects(rng, sketchy=True, moving=moving),
        floor_height=environment.floor_height,
        reach=environment.reach,
        contact_shadow=float(rng.uniform(0.2, 1.3)),
        labels=list(range(FIRST_OBJECT, FIRST_OBJECT + len(models))),
    )


def _varied(
    rng: Rng, width: int, height: int, moving: bool, num_objects: tuple[int, int]
) -> TabletopScene:
    fewest, most = num_objects
    models = [random_object(rng) for _ in range(int(rng.integers(fewest, most + 1)))]
    place = rng.choice(["basket", "table", "tote", "shelf"], p=[0.45, 0.27, 0.14, 0.14])
    if moving and place == "shelf":
        place = "table"
    if place == "shelf":
        camera = cameras.bin_camera(rng, width, height)
    elif place == "basket" and (moving or rng.random() < 0.4):
        camera = cameras.front_camera(rng, width, height, whole=moving)
    else:
        target = np.array([*rng.uniform(-0.08, 0.08, 2), rng.uniform(-0.03, 0.04)])
        camera = cameras.orbit_camera(rng, width, height, target, wide=moving)
    if place == "basket":
        environment = environments.basket(rng, camera.position, sketchy=False)
    elif place == "table":
        environment = environments.table(rng, camera.position)
    elif place == "tote":
        environment = environments.tote(rng, camera.position)
    else:
        environment = environments.shelf(rng, camera.position)
    with_robot = moving or (place != "shelf" and rng.random() >= 0.2)
    poses, robot_pose = _arrange(
        rng, models, environment, stack=0.12, moving=moving, with_robot=with_robot
    )
    if rng.random() < 0.25 and place != "shelf":
        environment.solids.extend(environments.cables(rng))
    ambient, lights = _sample_light(rng, sketchy=False)
    if place == "shelf":
        for light in lights:  # the light comes in through the front
            x, y, z = light.direction
            light.direction, light.shadow = (abs(x) + 0.5, y, z), False
    return TabletopScene(
        environment=environment.solids,
        objects=models,
        poses=poses,
        robot=robot_pose,
        robot_base=_base(rng, 0.3),
        robot_style=_sketchy_style(rng) if rng.random() < 0.35 else _random_style(rng),
        camera=camera,
        ambient=ambient,
        lights=lights,
        effects=sample_effects(rng, sketchy=False, moving=moving),
        floor_height=environment.floor_height,
        reach=environment.reach,
        contact_shadow=float(rng.uniform(0.0, 1.3)),
        labels=list(range(FIRST_OBJECT, FIRST_OBJECT + len(models))),
    )


def _base(rng: Rng, spread: float) -> Pose:
    """The robot's base on the +x side, its arm's zero direction towards the workspace."""
    around = float(rng.normal(0, spread))
    position = _BASE_DISTANCE * np.array([math.cos(around), math.sin(around), 0.0])
    position[2] = _BASE_HEIGHT + rng.uniform(-0.08, 0.08)
    return Pose(position, yaw(around + math.pi))


def _arrange(
    rng: Rng,
    models: list[ObjectModel],
    environment: environments.Environment,
    *,
    stack: float,
    moving: bool,
    with_robot: bool,
) -> tuple[list[Pose], RobotPose | None]:
    """Objects standing apart (now and then stacked), one perhaps held; the gripper above them."""
    floor, (reach_x, reach_y) = environment.floor_height, environment.reach
    spread = 1.0 if moving else float(rng.uniform(0.45, 1.0))
    poses: list[Pose] = []
    taken: list[tuple[float, float, float]] = []
    for model in models:
        best, best_gap = (0.0, 0.0), -math.inf
        limit = np.maximum(np.array([reach_x, reach_y]) * spread - 0.4 * model.radius, 0.01)
        for x, y in rng.uniform(-limit, limit, (24, 2)).tolist():
            gap = min(
                (math.hypot(x - u, y - v) - model.radius - radius for u, v, radius in taken),
                default=1.0,
            )
            if gap > best_gap:
                best, best_gap = (x, y), gap
            if gap > 0.004:
                break
        taken.append((*best, model.radius))
        poses.append(resting_pose(model, *best, floor, float(rng.uniform(0, 2 * math.pi))))
    if not moving and len(models) > 1 and rng.random() < stack:
        _stack(rng, models, poses)
    if not with_robot:
        return poses, None
    if not moving and rng.random() < 0.2:
        held = int(rng.integers(len(models)))
        if min(models[held].half_size[:2]) < robot.MAX_OPENING:
            return poses, _hold(rng, models, poses, held, floor)
    tip = np.array(
        [*(rng.uniform(-1, 1, 2) * np.array([reach_x, reach_y]) * 1.2), rng.uniform(-0.02, 0.25)]
    )
    if not moving and rng.random() < 0.3:  # right above, beside or in front of an object
        near = poses[int(rng.integers(len(poses)))].position
        tip[:2] = near[:2] + rng.normal(0, 0.03, 2)
        tip[2] = near[2] + abs(rng.normal(0.02, 0.03))
    tip[2] = max(tip[2], _clearance(tip, models, poses, floor))
    opening = float(rng.uniform(0.0, robot.MAX_OPENING))
    roll = float(rng.uniform(0, 2 * math.pi))
    return poses, RobotPose(tip, roll, opening, tilt=float(rng.normal(0, 0.06)))


def _stack(rng: Rng, models: list[ObjectModel], poses: list[Pose]) -> None:
    """Put the smaller of two objects on the larger one."""
    lower, upper = (int(i) for i in rng.permutation(len(models))[:2])
    if models[lower].radius < models[upper].radius:
        lower, upper = upper, lower
    if models[lower].name in ("sphere", "ball", "ellipsoid", "capsule"):
        return
    base, top = poses[lower].position, poses[upper].position
    top[:2] = base[:2] + rng.normal(0, 0.15, 2) * models[lower].radius
    top[2] = base[2] + models[lower].half_size[2] + models[upper].half_size[2]


def _hold(
    rng: Rng, models: list[ObjectModel], poses: list[Pose], held: int, floor: float
) -> RobotPose:
    """Close the fingers around an object and lift it, or not yet."""
    model, pose = models[held], poses[held]
    lift = float(rng.uniform(0.0, 0.2)) if rng.random() < 0.75 else 0.0
    if lift > 0:
        pose.position[:2] += rng.normal(0, 0.03, 2)
    pose.position[2] += lift
    for other, (other_model, other_pose) in enumerate(zip(models, poses, strict=True)):
        gap = float(np.hypot(*(other_pose.position[:2] - pose.position[:2])))
        if other != held and gap < model.radius + other_model.radius:
            top = other_pose.position[2] + other_model.half_size[2]
            pose.position[2] = max(pose.position[2], top + model.half_size[2] + 0.01)
    # Fingers close along the gripper's x axis, across the object's narrower side.
    across = 0 if model.half_size[0] <= model.half_size[1] else 1
    angle = 2 * math.atan2(pose.rotation[3], pose.rotation[0])
    roll = angle + across * math.pi / 2
    tip = pose.position.copy()
    tip[2] = max(float(tip[2]) - rng.uniform(0.0, 0.012), floor + 0.002)
    return RobotPose(tip, roll, model.half_size[across], tilt=0.0)


def _clearance(tip: Vector, models: list[ObjectModel], poses: list[Pose], floor: float) -> float:
    """Lowest fingertip height at which the open gripper touches no object."""
    lowest = floor + 0.003
    for model, pose in zip(models, poses, strict=True):
        if np.hypot(*(pose.position[:2] - tip[:2])) < model.radius + robot.MAX_OPENING + 0.03:
            lowest = max(lowest, float(pose.position[2]) + model.half_size[2] + 0.004)
    return lowest


def _any_visible(camera: Camera, poses: list[Pose], width: int, height: int) -> bool:
    points = camera.to_optical(np.array([pose.position for pose in poses]))
    u = camera.focal * points[:, 0] / points[:, 2] + camera.centre[0]
    v = camera.focal * points[:, 1] / points[:, 2] + camera.centre[1]
    return bool(np.any((points[:, 2] > 0) & (u > 0) & (u < width) & (v > 0) & (v < height)))


def _sample_light(rng: Rng, *, sketchy: bool) -> tuple[Colour, list[Light]]:
    """Ambient light and one to three lamps that together light a table about evenly bright."""
    soft = float(rng.uniform(0.35, 0.7) if sketchy else rng.uniform(0.25, 0.75))
    tint = np.exp(rng.normal(0, 0.03 if sketchy else 0.07, 3))
    total = float(rng.uniform(0.9, 1.2))
    ambient = soft * total * tint
    lights = []
    count = int(rng.integers(1, 4))
    shares = rng.dirichlet(np.full(count, 1.5)) * (1 - soft) * total
    for k, share in enumerate(sorted(shares, reverse=True)):
        azimuth = rng.uniform(0, 2 * math.pi)
        lean = float(rng.uniform(0.0, 0.9) if k == 0 else rng.uniform(0.2, 2.0))
        colour = np.minimum(share * 1.15 * np.exp(rng.normal(0, 0.05, 3)) * tint, 1.0)
        lights.append(
            Light(
                (lean * math.cos(azimuth), lean * math.sin(azimuth), -1.0),
                (float(colour[0]), float(colour[1]), float(colour[2])),
                specular=float(rng.uniform(0, 0.8)),
                # Real light is wide: where a hard shadow is drawn, its lamp is not the main light.
                shadow=k == 0 and bool(rng.random() < (0.16 if sketchy else 0.4)),
            )
        )
    return (float(ambient[0]), float(ambient[1]), float(ambient[2])), lights


def _sketchy_style(rng: Rng) -> RobotStyle:
    """Dark red arm, black gripper, white fingers."""

    def grey(low: float, high: float) -> Colour:
        shade = float(rng.uniform(low, high))
        return (shade, shade, shade)

    red = np.array([0.52, 0.13, 0.09]) * np.exp(rng.normal(0, 0.12, 3))
    return RobotStyle(
        link=Finish((float(red[0]), float(red[1]), float(red[2])), specular=0.2),
        cap=Finish(grey(0.04, 0.15), specular=0.2),
        gripper=Finish(grey(0.03, 0.10), specular=float(rng.uniform(0.05, 0.3))),
        pad=Finish(grey(0.66, 0.92), specular=0.1),
        metal=Finish(grey(0.25, 0.6), specular=0.4),
    )


def _random_style(rng: Rng) -> RobotStyle:
    return RobotStyle(
        link=random_finish(rng),
        cap=Finish(random_colour(rng)),
        gripper=Finish(random_colour(rng) if rng.random() < 0.5 else (0.08, 0.08, 0.08)),
        pad=Finish(random_colour(rng) if rng.random() < 0.5 else (0.85, 0.85, 0.82)),
        metal=Finish((0.5, 0.5, 0.5), specular=0.4),
    )
