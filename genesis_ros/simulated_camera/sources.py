"""Where the simulated camera's frames come from: generated scenes, image files, a video or a bag.

Nothing here imports ROS; only opening a bag does, which holds ROS messages. Every source yields the
RGB frames of one pass, and `play` repeats passes.
"""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from genesis_bags.decoding.declared_size import declared_size
from genesis_bags.decoding.images import size_fault
from genesis_bags.decoding.intensity import IntensityStretch
from genesis_bags.decoding.jpeg import whole_jpeg
from genesis_bags.reader import Warn, is_bag
from genesis_ros.simulated_camera.frame_source import FrameSource, SourceError, SourceFrame, once

if TYPE_CHECKING:
    from genesis_sim import Frame

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})

#: Generated scenes, recorded: stands in for the renderer on machines that cannot render.
TABLETOP_CLIP = Path(__file__).parents[1] / "data" / "tabletop.mp4"

#: The depth of its frames, as scripts/record_clip.py writes it.
CLIP_DEPTH = TABLETOP_CLIP.with_name("tabletop_depth.npz")

_FILE_PERIOD = 0.1  # s between image files, which have no times: the camera's default rate
_LEAST_LOST, _LEAST_SHARE_LOST = 0.5, 0.02  # s and share of a video; containers may round so much


# --- image files -----------------------------------------------------------------------------


class FolderSource(FrameSource):
    """Image files in the given order. A file that cannot be decoded is named once and skipped.

    Those of 16 bits are brought to 8 as a camera's images are: alike from file to file.
    """

    def __init__(self, paths: Sequence[Path], description: str, warn: Warn) -> None:
        self.description = description
        self._paths = list(paths)
        self._warn = once(warn)

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        stretch = IntensityStretch()
        for index, path in enumerate(self._paths):
            try:
                image = read_image(path, stretch, index * _FILE_PERIOD)
            except (OSError, ValueError) as error:
                self._warn(f"skipping {path}: {error}")
                continue
            yield SourceFrame(image, path.name)


def read_image(
    path: Path, stretch: IntensityStretch | None = None, seconds: float = 0.0
) -> NDArray[np.uint8]:
    """Decode an image file to (H, W, 3) uint8 RGB.

    Args:
        stretch: of the images before this one, if it is one of several.
        seconds: when it was taken.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no image, is cut off or too large, or holds depth (one channel of 16 bit
            or float), or colours that are not of 8 or 16 bit.
    """
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    data = whole_jpeg(content)
    if data is None:
        raise ValueError("the JPEG is cut off")
    if (fault := size_fault(declared_size(data))) is not None:
        raise ValueError(f"it claims to be {fault}")
    buffer = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(buffer, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if image is None:  # OpenCV makes no three channels of one in a float TIFF
            image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
            if image is not None and image.ndim == 2:
                image = image[..., np.newaxis].repeat(3, axis=2)
    except cv2.error as error:
        raise ValueError(f"not a readable image: {error.err}") from error
    if image is None:
        raise ValueError("not a readable image (corrupt or of an unknown format)")
    if image.dtype != np.uint8:
        if np.array_equal(image[..., 0], image[..., 1], equal_nan=image.dtype.kind == "f"):
            raise ValueError(f"one-channel {image.dtype} image: looks like depth, not colour")
        if image.dtype != np.uint16:
            raise ValueError(
                f"{image.dtype} image with three channels: colours are expected in 8 or 16 bit"
            )
        image = (stretch or IntensityStretch()).to_8_bit(image, seconds, from_zero=True)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


# --- video files -----------------------------------------------------------------------------


class VideoSource(FrameSource):
    """A video file.

    Args:
        size: width, height that frames are resized to [px]; None: they keep theirs.
        warn: told once if it ends before its time.
    """

    def __init__(
        self, path: Path, size: tuple[int, int] | None = None, warn: Warn = lambda text: None
    ) -> None:
        self.description = f"video {path}"
        self._path = path
        self._size = size
        self._warn = once(warn)
        if not self._open().isOpened():
            raise SourceError(f"{path}: not a video that OpenCV can read")

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self._path))

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        capture = self._open()
        try:
            for index in itertools.count():
                ok, image = capture.read()
                if not ok:
                    self._check_end(capture, index)
                    return
                image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                if self._size is not None and (image.shape[1], image.shape[0]) != self._size:
                    image = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
                yield SourceFrame(image, f"{self._path.name} frame {index}")
        finally:
            capture.release()

    def _check_end(self, capture: cv2.VideoCapture, frames: int) -> None:
        """Say that a video ended after fewer frames than its file tells of."""
        total, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        if total <= 0 or rate <= 0:  # unknown
            return
        # By time, as some containers tell their length only, from which OpenCV guesses the frames.
        length = total / rate
        shown = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + 1 / rate if frames else 0.0
        if length - shown > max(_LEAST_LOST, _LEAST_SHARE_LOST * length):
            self._warn(
                f"{self._path}: ended after {frames} of {total:.0f} frames: perhaps cut off or "
                "damaged"
            )


class RecordedScenes(VideoSource):
    """The recorded clip, with the depth and the intrinsics of its frames.

    Args:
        size: width, height that frames are resized to [px].
    """

    has_depth = True

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(TABLETOP_CLIP, size)
        self._shown = size

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        with np.load(CLIP_DEPTH) as track:
            changes, matrices, size = track["changes"], track["intrinsics"], track["size"]
        scale = np.array(self._shown) / size
        millimetres = np.zeros(changes.shape[1:], np.int16)
        for frame, change, matrix in zip(super().frames(epoch), changes, matrices, strict=False):
            millimetres += change
            depth = cv2.resize(millimetres, self._shown, interpolation=cv2.INTER_NEAREST)
            matrix[:2, 2] = (matrix[:2, 2] + 0.5) * scale - 0.5
            matrix[:2, :2] *= scale[:, np.newaxis]
            yield replace(frame, intrinsics=matrix, depth=depth.astype(np.float32) / 1000)


# --- generated scenes ------------------------------------------------------------------------


class SizedRenderer(Protocol):
    """What is needed of a renderer of genesis_sim."""

    width: int
    height: int

    def sample(self, seed: int) -> Frame:
        """A random scene, a function of the seed."""

    def close(self) -> None:
        """Free what it holds."""


class SceneSource(FrameSource):
    """Rendered scenes before a robot's camera; every pass is the next one.

    Scenes of a renderer without sequences stand still.

    Args:
        seed: of the first pass's scene.
    """

    has_depth = True

    def __init__(
        self, renderer: SizedRenderer, mode: str, seed: int, frames_per_scene: int
    ) -> None:
        size = f"{renderer.width}x{renderer.height}"
        self.description = f"generated {mode} scenes ({size}, seed {seed})"
        self._renderer = renderer
        self._seed = seed
        self._frames_per_scene = frames_per_scene

    def frames(self, epoch: int = 0) -> Iterator[SourceFrame]:
        seed = self._seed + epoch
        for index, frame in enumerate(self._scene(seed)):
            name = f"scene {seed} frame {index}"
            yield SourceFrame(frame.image, name, frame.intrinsics, frame.depth)

    def _scene(self, seed: int) -> Iterable[Frame]:
        if sequence := getattr(self._renderer, "sequence", None):
            return sequence(seed, self._frames_per_scene)
        return itertools.repeat(self._renderer.sample(seed), self._frames_per_scene)

    def close(self) -> None:
        self._renderer.close()


# --- which source ----------------------------------------------------------------------------


def open_scenes(
    *, width: int, height: int, mode: str, seed: int, frames_per_scene: int, warn: Warn
) -> FrameSource:
    """Rendered scenes, or, on a machine that cannot render, the recording of such scenes.

    Raises:
        SourceError: there is no such mode or size, or no such asset pack.
    """
    # The renderer needs MuJoCo, which the other sources can do without.
    import genesis_sim
    from genesis_sim.assets.pack import AssetError

    make_renderer: Any = getattr(genesis_sim, "make_renderer", genesis_sim.TabletopRenderer)
    try:
        renderer = make_renderer(width, height, mode)
    except genesis_sim.RenderingError as error:
        warn(f"playing recorded scenes, as this machine cannot render new ones: {error}")
        return RecordedScenes((width, height))
    except (ValueError, AssetError) as error:
        raise SourceError(str(error)) from error
    return SceneSource(renderer, mode, seed, frames_per_scene)


def open_path(path: str, *, topic: str = "", warn: Warn) -> FrameSource:
    """The source at a path.

    Args:
        path: image folder or file, glob pattern (** for folders at any depth), video file, or bag.

    Raises:
        SourceError: there is nothing at `path`, or nothing in it that can be played.
    """
    if not path:
        raise SourceError("no path given: name an image folder, a video file or a bag")
    location = Path(path).expanduser()
    if not location.exists():
        found = map(Path, glob.glob(str(location), recursive=True))
        matches = _natural_order(match for match in found if not match.is_dir())
        if not matches:
            raise SourceError(f"{path}: no such file or folder")
        return FolderSource(matches, f"{len(matches)} files matching {path}", warn)
    if is_bag(location):
        from genesis_ros.simulated_camera.bag_source import BagSource

        return BagSource(location, topic, warn)
    if location.is_dir():
        images = _natural_order(
            entry for entry in location.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES
        )
        if not images and (bags := sorted(entry.name for entry in location.glob("*.bag"))):
            raise SourceError(f"{path}: a folder of bags ({', '.join(bags)}); give one of them")
        if not images:
            raise SourceError(
                f"{path}: neither a bag nor a folder of images "
                f"(looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
            )
        return FolderSource(images, f"{len(images)} image files in {path}", warn)
    if location.suffix.lower() in IMAGE_SUFFIXES:
        return FolderSource([location], f"image {path}", warn)
    return VideoSource(location, warn=warn)


def _natural_order(paths: Iterable[Path]) -> list[Path]:
    """Sort folder by folder, and so that frame 10 comes after frame 9."""

    def key(name: str) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", name)
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]

    return sorted(paths, key=lambda path: list(map(key, path.parts)))
