"""Renderers that the tests share; without an asset pack, as on a fresh machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from genesis_sim import Frame, HouseholdRenderer, RenderingError
from genesis_sim.assets import AssetPack, PackObject, RobotParts
from genesis_sim.mesh import Mesh, blob, turned_profile

SIZE = 96


@pytest.fixture(autouse=True)
def no_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own asset pack out of the tests."""
    monkeypatch.setenv("GENESIS_SIM_ASSETS", "")


@pytest.fixture(scope="session")
def household() -> Iterator[HouseholdRenderer]:
    """A renderer of small household scenes."""
    try:
        renderer = HouseholdRenderer(SIZE, SIZE)
    except RenderingError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


@pytest.fixture(scope="session")
def household_frames(household: HouseholdRenderer) -> list[Frame]:
    """Sixty household scenes."""
    return [household.sample(seed) for seed in range(60)]


@pytest.fixture
def small_pack() -> AssetPack:
    """A pack with one of everything: a blob, a material, and an arm and a gripper of two parts."""
    rng = np.random.default_rng(0)
    rod: Mesh = turned_profile([(0, 0), (0.04, 0), (0.04, 0.3), (0, 0.3)])
    upright = np.array([0, 0, 0, 1, 0, 0, 0], np.float32)
    # The hand points down from half a metre above the base and half a metre away from it.
    hand = np.array([0.5, 0, 0.5, 0, 1, 0, 0], np.float32)
    above = np.array([0, 0, -0.3, 1, 0, 0, 0], np.float32)
    tip = np.array([0, 0, 0.1, 1, 0, 0, 0], np.float32)
    grey = np.full((2, 3), 0.6, np.float32)
    arm = RobotParts(
        "arm", [rod, rod], grey, np.stack([[above, upright]] * 3), np.stack([hand] * 3)
    )
    gripper = RobotParts("grip", [rod], grey[:1], upright[None, None], tip[None])
    return AssetPack(
        objects=[PackObject("lump", blob(rng, (0.05, 0.04, 0.03), 0.1), 0)],
        skins=[np.full((128, 128, 3), 200, np.uint8)],
        surfaces=[("table wood", np.full((256, 256, 3), 180, np.uint8))],
        arms=[arm],
        grippers=[gripper],
    )
