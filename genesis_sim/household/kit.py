"""What makers make things of: textures, an asset pack, and which colours a scene's things have."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from genesis_sim.assets import AssetPack
from genesis_sim.household.bank import TextureBank
from genesis_sim.objects import muted_colour, random_colour
from genesis_sim.scene import Colour, Finish

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Palette:
    """Which colours the things of a scene have: any, or ones that tell little.

    Attributes:
        colours: the only ones, each varied a little; empty for any.
        texture: a texture that plain things share with their support, or -1.
        clear: share of the things that could be of glass or clear plastic that are.
        brand: textures of which every second printed box has one; empty for any.
    """

    colours: tuple[Colour, ...] = ()
    spread: float = 0.05
    texture: int = -1
    repeat: float = 1.0
    clear: float = 0.0
    brand: tuple[int, ...] = ()

    def colour(self, rng: Rng) -> Colour:
        """A colour for the next thing or part."""
        if not self.colours:
            # Somewhat lighter than in other modes: most of what is sold is bright.
            base = np.array(random_colour(rng)) ** 0.75
        else:
            base = np.array(self.colours[int(rng.integers(len(self.colours)))])
        r, g, b = np.clip(base * np.exp(rng.normal(0, self.spread, 3)), 0.01, 1)
        return (float(r), float(g), float(b))


@dataclass(frozen=True, slots=True)
class Kit:
    """What makers make things of."""

    bank: TextureBank
    palette: Palette
    pack: AssetPack | None
    #: Numbers in the bank of the pack's skins.
    skins: tuple[int, ...] = ()

    def plain(self, rng: Rng, *, gloss: float = 0.5) -> Finish:
        """A finish without print: plastic, ceramic, lacquer, or the support's own material."""
        palette = self.palette
        if palette.texture >= 0 and rng.random() < 0.5:
            return Finish(palette.colour(rng), palette.texture, palette.repeat, specular=0.1)
        texture = -1
        if rng.random() < 0.35:
            texture = self.bank.pick(rng, "worn", "grain", "speckle", "plaster", "granite")
        return self._shiny(rng, Finish(palette.colour(rng), texture, 2.0), gloss)

    def patterned(self, rng: Rng) -> Finish:
        """A finish with stripes, dots, print or a material's pattern."""
        kinds = ("stripes", "checks", "dots", "label", "blotches", "print", "print")
        texture = self.bank.pick(rng, *kinds)
        return self._shiny(rng, Finish(self._paper(rng), texture), 0.3)

    def printed(self, rng: Rng) -> Finish:
        """Printed packaging for a box."""
        texture = self.bank.pick(rng, "print")
        if self.palette.brand and rng.random() < 0.5:
            texture = int(rng.choice(self.palette.brand))
        return self._shiny(rng, Finish(self._paper(rng), texture), 0.4)

    def wrapped(self, rng: Rng) -> Finish:
        """A printed label around a turned body."""
        return self._shiny(rng, Finish(self._paper(rng), self.bank.pick(rng, "wrap")), 0.6)

    def any(self, rng: Rng) -> Finish:
        """Plain or patterned."""
        return self.plain(rng) if rng.random() < 0.6 else self.patterned(rng)

    def metal(self, rng: Rng) -> Finish:
        """Bare or painted metal."""
        shade = float(rng.uniform(0.25, 0.85))
        texture = self.bank.pick(rng, "metal", "scratched") if rng.random() < 0.5 else -1
        return Finish(
            (shade, shade, shade * float(rng.uniform(0.9, 1.05))),
            texture,
            4.0,
            specular=float(rng.uniform(0.4, 1.0)),
            shininess=float(rng.uniform(0.4, 1.0)),
        )

    def wood(self, rng: Rng) -> Finish:
        """Bare wood."""
        tone = float(rng.uniform(0.5, 1.0))
        return Finish((tone, 0.9 * tone, 0.75 * tone), self.bank.pick(rng, "table wood"), 4.0)

    def dark(self, rng: Rng) -> Finish:
        """Black rubber or plastic."""
        shade = float(rng.uniform(0.02, 0.14))
        return Finish((shade, shade, shade), specular=float(rng.uniform(0, 0.4)))

    def glass(self, rng: Rng, otherwise: Finish) -> Finish:
        """Glass or clear plastic in the palette's share of the cases, else the other finish."""
        if rng.random() >= self.palette.clear:
            return otherwise
        tint = np.clip(rng.uniform(0.75, 1.0) * np.exp(rng.normal(0, 0.08, 3)), 0, 1)
        if rng.random() < 0.2:
            tint = tint * np.array(random_colour(rng))
        r, g, b = (float(v) for v in tint)
        alpha = float(rng.uniform(0.08, 0.35))
        return Finish((r, g, b), specular=1.0, shininess=float(rng.uniform(0.7, 1.0)), alpha=alpha)

    def _paper(self, rng: Rng) -> Colour:
        """A tint for print, which has its own colours; a palette's shines through."""
        if self.palette.colours and rng.random() < 0.5:
            r, g, b = (0.35 + 0.65 * c for c in self.palette.colour(rng))
            return (r, g, b)
        r, g, b = np.clip(rng.uniform(0.85, 1.1) * np.exp(rng.normal(0, 0.08, 3)), 0.2, 1)
        return (float(r), float(g), float(b))

    def _shiny(self, rng: Rng, finish: Finish, gloss: float) -> Finish:
        specular, shininess = float(gloss * rng.random() ** 2 * 2), float(rng.uniform(0.1, 0.9))
        return replace(finish, specular=min(specular, 1.0), shininess=shininess)


def random_palette(rng: Rng, support: Finish, *, clear: float) -> Palette:
    """Any colours, or in more than half of the scenes ones that tell little."""
    kind = rng.random()
    if kind < 0.45:
        return Palette(clear=clear)
    if kind < 0.62:  # the support's own
        return Palette((support.colour,), 0.12, support.texture, support.repeat, clear)
    if kind < 0.8:  # one for all
        colour = random_colour(rng) if rng.random() < 0.7 else muted_colour(rng)
        return Palette((colour,), float(rng.uniform(0.02, 0.15)), clear=clear)
    colours = tuple(random_colour(rng) for _ in range(int(rng.integers(2, 4))))
    if rng.random() < 0.4:
        colours = (*colours, support.colour)
    return Palette(colours, 0.06, clear=clear)
