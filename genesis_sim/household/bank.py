"""The textures of household scenes: printed packaging, materials, and those of an asset pack.

All are made once from a fixed seed, the same in every process, and stay on the GPU; scenes choose
among them, tint and scale them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from genesis_sim import textures
from genesis_sim.assets import AssetPack
from genesis_sim.household import patterns, prints
from genesis_sim.household.patterns import to_bytes

Image = npt.NDArray[np.uint8]
Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

#: Brands of printed boxes, and the boxes of each.
_BRANDS, _OF_A_BRAND = 36, 4


@dataclass(slots=True)
class TextureBank:
    """Textures by number, and which numbers belong to a kind."""

    images: list[Image] = field(default_factory=list)
    kinds: dict[str, list[int]] = field(default_factory=dict)
    #: Numbers of the printed boxes of each brand, which share its colours.
    brands: list[tuple[int, ...]] = field(default_factory=list)

    def add(self, kind: str, image: Image) -> int:
        """Add a texture.

        Returns:
            Its number.
        """
        self.images.append(image)
        self.kinds.setdefault(kind, []).append(len(self.images) - 1)
        return len(self.images) - 1

    def is_flat(self, number: int) -> bool:
        """Whether a texture is flat; the others are cubes, six faces above one another."""
        height, width = self.images[number].shape[:2]
        return height != 6 * width

    def pick(self, rng: Rng, *kinds: str) -> int:
        """A random texture of one of the kinds; -1 (none) where there is none."""
        options = [number for kind in kinds for number in self.kinds.get(kind, ())]
        return options[int(rng.integers(len(options)))] if options else -1


def make_bank(pack: AssetPack | None) -> TextureBank:
    """The bank without or with the textures of an asset pack."""
    bank = TextureBank()
    for kind, image in _own_textures():
        bank.add(kind, image)
    boxes = bank.kinds["print"]
    bank.brands = list(zip(*(boxes[k::_OF_A_BRAND] for k in range(_OF_A_BRAND)), strict=True))
    if pack is not None:
        for kind, image in pack.surfaces:
            bank.add(kind, image)
    return bank


@lru_cache(maxsize=1)
def _own_textures() -> list[tuple[str, Image]]:
    rng = np.random.default_rng(20260)
    made: list[tuple[str, Image]] = []
    for name, numbers in textures.KINDS.items():
        bank = [*textures.flat_textures(), *textures.cube_textures()]
        made += [(name, bank[number]) for number in numbers]
    for kind, make, count in patterns.SURFACES:
        made += [(kind, to_bytes(make(rng))) for _ in range(count)]
    for _ in range(_BRANDS):
        colours = prints.brand(rng)
        made += [("print", prints.print_box(rng, colours)) for _ in range(_OF_A_BRAND)]
    made += [("wrap", to_bytes(prints.wrap(rng))) for _ in range(72)]
    made += [("sheet", to_bytes(prints.sheet(rng))) for _ in range(8)]
    made += [("tags", to_bytes(prints.tags(rng))) for _ in range(4)]
    made += [("keyboard", to_bytes(prints.keyboard(rng))) for _ in range(3)]
    made += [("screen", to_bytes(prints.screen(rng))) for _ in range(6)]
    return made
