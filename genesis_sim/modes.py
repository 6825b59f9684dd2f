"""The kinds of generated scenes by name, and the renderer of each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from genesis_sim import sampling
from genesis_sim.assets import find_pack, load_pack
from genesis_sim.frame import Frame
from genesis_sim.household.renderer import HouseholdRenderer
from genesis_sim.household.scenes import MOST_OBJECTS
from genesis_sim.renderer import TabletopRenderer
from genesis_sim.scene import OBJECTS

SceneMode = Literal["sketchy", "varied", "mixed", "household", "general", "balanced"]
SCENE_MODES: tuple[str, ...] = get_args(SceneMode)
HOUSEHOLD_SHARES = {"household": 1.0, "general": 0.75, "balanced": 0.4}
"""Of the modes with household scenes, the share of these; half of the others are sketchy scenes,
half varied ones."""
HOUSEHOLD_REVISION = 3
"""Of what a seed's household scene shows. Raise it with every change that draws other scenes: data
that is half prepared is not finished with them."""


class SceneRenderer(Protocol):
    """What draws random scenes of one kind and size."""

    def sample(self, seed: int) -> Frame:
        """A random scene, a function of the seed."""

    def close(self) -> None:
        """Free the OpenGL context. Safe to call twice."""


def check_num_objects(num_objects: tuple[int, int] | None, mode: SceneMode) -> None:
    """Check that scenes of a mode can have these numbers of objects.

    Args:
        num_objects: fewest and most; None: the mode's own.
        mode: of the scenes.

    Raises:
        ValueError: they cannot.
    """
    if num_objects is None:
        return
    if mode not in ("varied", "household"):
        raise ValueError(
            f"num_objects is {num_objects}: only for modes varied and household, not {mode}"
        )
    if mode == "varied":
        sampling.check_num_objects(num_objects, mode)
    elif not 0 <= num_objects[0] <= num_objects[1] <= MOST_OBJECTS:
        raise ValueError(
            f"num_objects is {num_objects}; expected 0 <= fewest <= most <= {MOST_OBJECTS}"
        )


def make_renderer(
    width: int,
    height: int,
    mode: SceneMode,
    num_objects: tuple[int, int] | None = None,
    assets: Path | None = None,
) -> SceneRenderer:
    """The renderer of a mode.

    Args:
        width, height: of the images in pixels.
        mode: of the scenes.
        num_objects: fewest and most objects; None: the mode's own mixture.
        assets: an asset pack for household scenes, by default the one that is found.

    Raises:
        ValueError, RenderingError, AssetError: as the renderers do.
    """
    if mode not in SCENE_MODES:
        raise ValueError(f"mode is {mode!r}; expected one of {', '.join(SCENE_MODES)}")
    check_num_objects(num_objects, mode)
    if mode != "household" and mode != "general" and mode != "balanced":
        return TabletopRenderer(width, height, mode, num_objects or OBJECTS)
    pack = find_pack() if assets is None else load_pack(assets)
    household = HouseholdRenderer(width, height, num_objects=num_objects, assets=pack)
    if mode == "household":
        return household
    mixed = TabletopRenderer(width, height, "mixed")
    return GeneralRenderer(household, mixed, HOUSEHOLD_SHARES[mode])


class GeneralRenderer:
    """Household scenes, and mixed ones among them.

    Args:
        share: of the household scenes, 0 to 1.
    """

    def __init__(self, household: HouseholdRenderer, mixed: SceneRenderer, share: float) -> None:
        self._household, self._mixed, self._share = household, mixed, share
        self.width, self.height = household.width, household.height

    def sample(self, seed: int) -> Frame:
        chosen = np.random.default_rng([seed, 1]).random()
        return (self._household if chosen < self._share else self._mixed).sample(seed)

    def close(self) -> None:
        self._household.close()
        self._mixed.close()
