"""Moves a scene: the arm picks objects up, carries, sets down and pushes them, and hovers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from genesis_sim.geometry import Vector, yaw
from genesis_sim.robot import MAX_OPENING
from genesis_sim.scene import ObjectModel, RobotPose, TabletopScene

Rng = np.random.Generator

#: Fastest fingertip speed, metres per frame (at 12 Hz: 0.3 m/s), and turn in radians per frame.
_STEP, _TURN_STEP = 0.025, 0.15
_TRAVEL_HEIGHT = 0.09


def play(scene: TabletopScene, rng: Rng) -> Iterator[None]:
    """Change the scene's robot and object poses frame by frame, without end.

    The scene needs a robot. Objects keep their places in the lists, so labels stay theirs.
    """
    hand = scene.robot
    assert hand is not None, "a moving scene needs a robot"
    yield  # the first frame shows the scene as it was drawn
    while True:
        index = int(rng.integers(len(scene.objects)))
        model = scene.objects[index]
        action = rng.random()
        if action < 0.6 and min(model.half_size[:2]) < MAX_OPENING - 0.004:
            yield from _carry(scene, hand, index, rng)
        elif action < 0.9:
            yield from _push(scene, hand, index, rng)
        else:
            target = np.array([*_spot(scene, rng, model, index), rng.uniform(0.04, 0.2)])
            yield from _move(hand, target, hand.roll + float(rng.normal(0, 0.8)))


def _carry(scene: TabletopScene, hand: RobotPose, index: int, rng: Rng) -> Iterator[None]:
    model, pose = scene.objects[index], scene.poses[index]
    across = 0 if model.half_size[0] <= model.half_size[1] else 1
    roll = _nearest(hand.roll, _heading(scene, index) + across * math.pi / 2)
    grasp = pose.position.copy()
    grasp[2] = max(float(grasp[2]) - 0.006, scene.floor_height + 0.004)
    width = model.half_size[across]
    yield from _move(hand, _raised(hand.tip), hand.roll)
    yield from _move(hand, _raised(grasp), roll, opening=min(width + 0.014, MAX_OPENING))
    yield from _move(hand, grasp, roll)
    yield from _move(hand, grasp, roll, opening=width)
    spot = _spot(scene, rng, model, index)
    turn = float(rng.normal(0, 0.6))
    lifted, above = _raised(grasp), _raised(np.array([*spot, 0.0]))
    down = np.array([*spot, scene.floor_height + grasp[2] - pose.position[2] + model.half_size[2]])
    start = _heading(scene, index)
    for target, angle in ((lifted, roll), (above, roll + turn), (down, roll + turn)):
        for _ in _move(hand, target, angle):
            pose.position = hand.tip + np.array(
                [0.0, 0.0, model.half_size[2] - _grip(model, down, scene)]
            )
            pose.rotation = yaw(start + hand.roll - roll)
            yield
    yield from _move(hand, down, roll + turn, opening=min(width + 0.014, MAX_OPENING))
    yield from _move(hand, _raised(down), roll + turn)


def _grip(model: ObjectModel, down: Vector, scene: TabletopScene) -> float:
    """Height of the fingertips above the bottom of the object they hold."""
    return float(down[2]) - scene.floor_height


def _push(scene: TabletopScene, hand: RobotPose, index: int, rng: Rng) -> Iterator[None]:
    """Come down beside an object with closed fingers and shove it towards a free place."""
    model, pose = scene.objects[index], scene.poses[index]
    goal = _spot(scene, rng, model, index, near=0.1)
    way = goal - pose.position[:2]
    distance = float(np.hypot(*way))
    if distance < 0.02:
        return
    way /= distance
    gap = model.radius + 0.022
    height = scene.floor_height + min(0.014, model.half_size[2])
    behind = np.array([*(pose.position[:2] - (gap + 0.02) * way), height])
    roll = _nearest(hand.roll, math.atan2(way[1], way[0]) + math.pi / 2)
    if not _free(scene, behind[:2], 0.03, index):
        return
    yield from _move(hand, _raised(hand.tip), hand.roll)
    yield from _move(hand, _raised(behind), roll, opening=0.012)
    yield from _move(hand, behind, roll)
    end = np.array([*(goal - gap * way), height])
    for _ in _move(hand, end, roll):
        ahead = float((hand.tip[:2] - pose.position[:2]) @ way) + gap
        if ahead > 0:
            pose.position = pose.position + np.array([*(ahead * way), 0.0])
        yield
    yield from _move(hand, _raised(end), roll)


def _move(
    hand: RobotPose, target: Vector, roll: float, opening: float | None = None
) -> Iterator[None]:
    """Minimum-jerk motion from where the hand is; yields after each frame."""
    start, start_roll, start_opening = hand.tip.copy(), hand.roll, hand.opening
    opening = start_opening if opening is None else opening
    # The peak speed of a minimum-jerk motion is 1.875 times its mean.
    frames = 1.875 * max(
        float(np.linalg.norm(target - start)) / _STEP,
        abs(roll - start_roll) / _TURN_STEP,
        abs(opening - start_opening) / 0.012,
    )
    count = max(1, math.ceil(frames))
    for k in range(1, count + 1):
        t = k / count
        s = t**3 * (10 - 15 * t + 6 * t * t)
        hand.tip = start + s * (target - start)
        hand.roll = start_roll + s * (roll - start_roll)
        hand.opening = start_opening + s * (opening - start_opening)
        yield


def _raised(point: Vector) -> Vector:
    return np.array([point[0], point[1], _TRAVEL_HEIGHT])


def _heading(scene: TabletopScene, index: int) -> float:
    rotation = scene.poses[index].rotation
    return 2 * math.atan2(rotation[3], rotation[0])


def _nearest(current: float, angle: float) -> float:
    """The gripper is symmetric: the equivalent of `angle` closest to the current roll."""
    return current + (angle - current + math.pi / 2) % math.pi - math.pi / 2


def _free(scene: TabletopScene, spot: Vector, radius: float, ignore: int) -> bool:
    return all(
        k == ignore or float(np.hypot(*(spot - pose.position[:2]))) > radius + model.radius + 0.004
        for k, (model, pose) in enumerate(zip(scene.objects, scene.poses, strict=True))
    )


def _spot(
    scene: TabletopScene, rng: Rng, model: ObjectModel, index: int, near: float | None = None
) -> Vector:
    """A free place on the floor (2,), or the present one if none turns up."""
    here = scene.poses[index].position[:2].copy()
    limit = np.maximum(np.array(scene.reach) - 0.3 * model.radius, 0.01)
    for _ in range(30):
        if near is None:
            spot = rng.uniform(-limit, limit)
        else:
            spot = np.clip(here + rng.normal(0, near, 2), -limit, limit)
        if _free(scene, spot, model.radius, index):
            return np.asarray(spot)
    return np.asarray(here)
