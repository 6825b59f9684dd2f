"""Generated robot tabletop scenes with instance masks (genesis_sim)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from genesis_sim.assets import default_path
from genesis_sim.depth_sensor import measure_frame
from genesis_sim.frame import Frame
from genesis_sim.modes import (
    HOUSEHOLD_REVISION,
    HOUSEHOLD_SHARES,
    SceneMode,
    SceneRenderer,
    check_num_objects,
    make_renderer,
)
from genesis_sim.scene import OBJECTS, ROBOT
from training.datasets.images import expose
from training.datasets.layout import DEPTH_RANGE, RGB, RGBD, SPLITS, Float32, UInt8, UInt16
from training.datasets.parts import PartWriter
from training.datasets.tasks import Chunk, chunks

ScalarT = TypeVar("ScalarT", bound=np.generic)

#: Sets the depth camera's random numbers apart from the scene's.
_SENSOR_STREAM = 7


@dataclass(frozen=True)
class Tabletop:
    """Generated robot tabletop scenes, with instance masks; needs MuJoCo and OpenGL (EGL).

    Args:
        image_size: height and width of the images in pixels
        mode: sketchy (red cube, green block and blue ball in a basket), varied (1 to 6 objects of
            any shape, anywhere), mixed (half of each), household (none to 20 everyday things on
            tables, floors and shelves and in bins, robots of several kinds), general (three
            quarters household, one eighth each varied and sketchy) or balanced (40% household, 30%
            each varied and sketchy)
        min_objects: fewest objects in a scene, with mode varied (from 1) or household (from 0); by
            default the mode's own mixture, or 1 where max_objects is given
        max_objects: most objects in a scene, with mode varied (up to 16) or household (up to 24);
            by default the mode's own mixture, or 6 where min_objects is given
        assets: asset pack for mode household (docs/assets.md); by default the one that
            GENESIS_SIM_ASSETS names or that is in the cache, procedural shapes alone without one
        depth: add the depth as a fourth channel
        sensor_depth: add depths, as a depth camera measures them, and intrinsics; see layout.py
        exposure: mean grey value, 0 to 1, that all images are exposed to, as a camera's automatic
            exposure does; 0 leaves dark scenes dark. Latents and reconstructions of GENESIS-V2
            want it: its encoder, convolutions without bias and normalisation, cannot tell a dark
            image from a bright one
        train: number of training images
        val: number of validation images
        test: number of test images
        seed: of everything: the same seed gives the same images
    """

    image_size: int = 128
    mode: SceneMode = "mixed"
    min_objects: int | None = None
    max_objects: int | None = None
    assets: Path | None = None
    depth: bool = False
    sensor_depth: bool = False
    exposure: float = 0.0
    train: int = 24_000
    val: int = 640
    test: int = 640
    seed: int = 0

    name: ClassVar[str] = "tabletop"
    unit: ClassVar[str] = "images"
    source: ClassVar[Path | None] = None
    of_the_maker = frozenset({"scenes"})  # no field: it shapes no array

    def __post_init__(self) -> None:
        check_num_objects(self.num_objects, self.mode)
        if self.assets is not None and self.mode not in HOUSEHOLD_SHARES:
            modes = ", ".join(HOUSEHOLD_SHARES)
            raise ValueError(f"assets is only for modes {modes}, not {self.mode}")
        if not 0 <= self.exposure < 1:
            raise ValueError(f"exposure is {self.exposure}; expected 0 to below 1")

    @property
    def former_options(self) -> dict[str, Any]:
        """What options were before they were written down."""
        return {"scenes": 1} if self.mode in HOUSEHOLD_SHARES else {}

    @property
    def num_objects(self) -> tuple[int, int] | None:
        """Fewest and most objects; None: the mode's own mixture."""
        fewest, most = self.min_objects, self.max_objects
        if fewest is None and most is None:
            return None
        return OBJECTS[0] if fewest is None else fewest, OBJECTS[1] if most is None else most

    def options(self) -> dict[str, Any]:
        """All that shapes the arrays.

        Newer options are named where they are used: data made before them stay what they are. Of an
        asset pack it is the content that counts, not where it lies.
        """
        newer = {"min_objects", "max_objects", "depth", "sensor_depth", "exposure"}
        options = {
            name: value
            for name in self.__dataclass_fields__
            if (value := getattr(self, name)) != getattr(type(self), name) or name not in newer
        }
        del options["assets"]
        if (asked := self.num_objects) is not None:
            numbers = zip(("min_objects", "max_objects"), asked, OBJECTS, strict=True)
            # Of household scenes both are named where both are the usual ones of varied scenes.
            whole = self.mode == "household" and asked == OBJECTS
            for name, value, usual in numbers:
                options.pop(name, None)
                if value != usual or whole:
                    options[name] = value
        if self.mode in HOUSEHOLD_SHARES:
            pack = self.assets or default_path()
            options["scenes"] = HOUSEHOLD_REVISION
            options["assets"] = pack and hashlib.sha256(pack.read_bytes()).hexdigest()[:16]
        return options

    def tasks(self) -> list[Chunk]:
        """Chunks of the images of each split."""
        return chunks({split: getattr(self, split) for split in SPLITS})

    def run(self, task: Chunk, parts: PartWriter) -> None:
        """Write the part of a chunk."""
        step = 20  # images between two steps of the progress bar
        pieces = []
        for start in range(task.start, task.stop, step):
            stop = min(start + step, task.stop)
            pieces.append(
                render_range(
                    start,
                    stop,
                    image_size=self.image_size,
                    mode=self.mode,
                    split=task.split,
                    seed=self.seed,
                    num_objects=self.num_objects,
                    assets=self.assets,
                    depth=self.depth,
                    sensor_depth=self.sensor_depth,
                    exposure=self.exposure,
                )
            )
            parts.advance(stop - start)
        parts.write(
            task.name,
            np.concatenate([piece.images for piece in pieces]),
            np.concatenate([piece.labels for piece in pieces]),
            split=task.split,
            depths=_joined([piece.depths for piece in pieces]),
            intrinsics=_joined([piece.intrinsics for piece in pieces]),
            robot_label=ROBOT,
        )


@dataclass(frozen=True)
class Scenes:
    """Arrays of N rendered scenes."""

    #: RGB uint8 (N, S, S, 3), or (N, S, S, 4) with depth.
    images: UInt8
    #: Instance labels uint8 (N, S, S): 0 background, 1 robot, 2.. objects.
    labels: UInt8
    #: What a depth camera measures, uint16 (N, S, S) millimetres, 0 = unknown; where asked for.
    depths: UInt16 | None
    #: fx, fy, cx, cy in pixels, float32 (N, 4); where depths are.
    intrinsics: Float32 | None


_renderers: dict[tuple[object, ...], SceneRenderer] = {}
"""The renderers of this process, by process and arguments; making one takes a second or more."""


def render_range(
    start: int,
    stop: int,
    *,
    image_size: int,
    mode: SceneMode,
    split: str,
    seed: int = 0,
    num_objects: tuple[int, int] | None = None,
    assets: Path | None = None,
    depth: bool = False,
    sensor_depth: bool = False,
    exposure: float = 0.0,
) -> Scenes:
    """Images start..stop-1 of a split, each a function of its index and the other arguments.

    No two splits share a scene.

    Args:
        start, stop: first image, and the one after the last.
        image_size: height and width of the images in pixels.
        mode, seed, assets, depth, exposure: see ``Tabletop``.
        split: train, val or test.
        num_objects: fewest and most objects in a scene; None: the mode's own mixture.
        sensor_depth: fill depths and intrinsics; the images stay the same.

    Raises:
        ValueError: unknown mode or split, bad range or number of objects.
        RenderingError: there is no OpenGL.
        AssetError: the pack cannot be read.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
    if not 0 <= start <= stop:
        raise ValueError(f"images {start}..{stop}: expected 0 <= start <= stop")
    # Mesa's rasteriser would start a thread per core in every process. The process id is part of
    # the key because an OpenGL context does not survive a fork.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    key = (os.getpid(), image_size, mode, num_objects, assets)
    if key not in _renderers:
        _renderers[key] = make_renderer(image_size, image_size, mode, num_objects, assets)
    renderer = _renderers[key]
    shape = (stop - start, image_size, image_size)
    images = np.empty((*shape, RGBD if depth else RGB), np.uint8)
    labels = np.empty(shape, np.uint8)
    depths = np.empty(shape, np.uint16) if sensor_depth else None
    intrinsics = np.empty((stop - start, 4), np.float32) if sensor_depth else None
    for row, index in enumerate(range(start, stop)):
        frame = renderer.sample(scene_seed(seed, split, index))
        images[row, ..., :RGB] = expose(frame.image, exposure) if exposure else frame.image
        labels[row] = frame.labels
        if depth:
            images[row, ..., RGB] = _depth_channel(frame)
        if depths is not None and intrinsics is not None:
            matrix = frame.intrinsics
            depths[row] = _sensor_depth(frame, scene_seed(seed, split, index))
            intrinsics[row] = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    return Scenes(images, labels, depths, intrinsics)


def _depth_channel(frame: Frame) -> UInt8:
    """Depth (H, W) in the prepared form (training/datasets/layout.py)."""
    channel: UInt8 = (frame.depth / DEPTH_RANGE * 255).clip(0, 255).round().astype(np.uint8)
    return channel


def _sensor_depth(frame: Frame, seed: int) -> UInt16:
    """Millimetres (H, W) as a random depth camera of this seed measures them, 0 = unknown."""
    rng = np.random.default_rng([seed, _SENSOR_STREAM])
    millimetres: UInt16 = (
        np.rint(1000 * measure_frame(frame, rng)).clip(0, 65_535).astype(np.uint16)
    )
    return millimetres


def _joined(pieces: Sequence[NDArray[ScalarT] | None]) -> NDArray[ScalarT] | None:
    """All pieces in one array, or None where there are none."""
    arrays = [piece for piece in pieces if piece is not None]
    return np.concatenate(arrays) if arrays else None


def scene_seed(seed: int, split: str, index: int) -> int:
    """The scene's seed: splits interleave, so that they never meet however long they are."""
    return (seed << 40) + index * len(SPLITS) + SPLITS.index(split)
