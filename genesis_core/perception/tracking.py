"""Which object of this image is which object of the images before (no ROS, no torch).

Slots come in random order, so an object's label says nothing about who it is. A Tracker compares
the objects of a new image with those it knows, by place, shape and latents, and finds the best
one-to-one assignment of all of them at once. Where colours are known, one that has changed too much
is another object, wherever it lies: when the camera moves, each lies where another one was.

Everything is measured on a grid of fixed size that is stretched over what the model saw of the
image. A camera that
changes its resolution therefore keeps its tracks, as long as it goes on seeing the same view.
"""

from __future__ import annotations

import math
from itertools import compress
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from genesis_core.images import check_image
from genesis_core.perception.scene_objects import Box, SceneObjects

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.uint8]
Index = npt.NDArray[np.intp]

_GRID = 64  # cells along each side of what the model sees of an image
_SAME_PART = 1.5  # pixels: regions of two resolutions differ by less where they are the same
_MARGIN = _GRID // 2  # empty cells around the grid; no object is expected to jump further
_STRIDE = _GRID + 2 * _MARGIN
# Where the grid's cells are among those of grid and margin.
_CELLS = (
    np.arange(_STRIDE * _STRIDE)
    .reshape(_STRIDE, _STRIDE)[_MARGIN : _MARGIN + _GRID, _MARGIN : _MARGIN + _GRID]
    .ravel()
)
# How much each comparison counts. They add up to 1, so that the similarity lies in 0..1.
_OVERLAP, _PLACE, _LATENTS = 0.5, 0.2, 0.3
_REACH = 1.0  # in object sizes: how far from its expected place an object is still likely
_DRIFT, _MOST_DRIFT = 6.0, 18.0  # cells/s, cells: how it grows while an object is out of sight
_LIKENESS = 0.7  # in usual distances between two objects' latents: how far one's own may change
# Ratios, as differences of logarithms: how much darker or brighter an object may become, and how
# much its tint may change, before it is another one. From image to image 99 % of generated objects
# change by less than a third of it.
_BRIGHTNESS, _TINT = 0.5, 0.35
_BLACK = 16.0  # of 255; below that, ratios of colours are noise
# How much a change of colour counts: the first times the share of its sides that an object shows,
# no less than the second. The rest of an object may have other colours, but not any.
_PART, _LEAST_PART = 1.4, 0.5
# A change of the light: so many objects at least change alike, to this share of what they may.
_FEWEST, _ALIKE = 3, 0.5
_COLOUR_PIXELS = 20_000  # of an image: so many at least tell its objects' mean colours
_COAST = 0.25  # s; an object is expected to come to rest in about this time
_VELOCITY_GAIN = 0.5  # how much the newest image counts, for velocities
_SHRINK_GAIN = 0.1  # for sizes, when an object seems to have become smaller
_LATENTS_GAIN = 0.2  # for latents
_COLOURS_GAIN = 0.2  # for usual colours
_MIN_STEP = 1e-3  # s; images closer in time than this say nothing about velocity
_CLOCK_STEP = 1.0  # s; a stamp that lies further back than this means a new start
_MOST_TRACKS = 512  # more are not remembered, whatever the stamps say


class Tracker:
    """Gives the objects of one camera ids that stay theirs from image to image.

    Args:
        max_age: how long an object that images no longer show is remembered [s], 0 or more. Time
            without images does not count, so that slow and paused cameras keep their tracks.
        min_similarity: an object less similar than this to every remembered one is new. (0..1)

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(self, *, max_age: float = 5.0, min_similarity: float = 0.2) -> None:
        import scipy.optimize  # loads here what the first image should not wait for
        import scipy.spatial.distance  # noqa: F401

        self._next_id = 1
        self.reset()
        self.configure(max_age=max_age, min_similarity=min_similarity)

    def configure(self, *, max_age: float, min_similarity: float) -> None:
        """Change what can change while tracking.

        Args:
            max_age, min_similarity: see the class.

        Raises:
            ValueError: a value is out of its range.
        """
        self.check(max_age=max_age, min_similarity=min_similarity)
        self._max_age, self._min_similarity = max_age, min_similarity

    @staticmethod
    def check(*, max_age: float, min_similarity: float) -> None:
        """Raise ValueError if ``configure`` would."""
        if not 0 <= max_age < math.inf:
            raise ValueError(f"max_age is {max_age}; expected seconds, 0 or more")
        if not 0 <= min_similarity <= 1:
            raise ValueError(f"min_similarity is {min_similarity}; expected 0 to 1")

    def reset(self) -> None:
        """Forget all objects. The next ones get ids that were never given before."""
        self._tracks: _Tracks | None = None
        self._latest = -math.inf
        # What the model sees of the images, x, y, width and height in shares of them, and the
        # largest share that a pixel of one was.
        self._part, self._pixel = np.array([0.0, 0.0, 1.0, 1.0]), 0.0
        self._latent_scale = 0.0  # usual distance between the latents of two objects of an image

    def update(
        self, found: SceneObjects, stamp: float, image: Image | None = None
    ) -> tuple[int, ...]:
        """Ids of the objects of the next image.

        Background is tracked like anything else, so that an object keeps its id while it is taken
        for background. Latents of another length than before are another model's: all objects are
        forgotten. So they are when the model sees another part of the images than before: places
        and latents count in that.

        Args:
            found: the objects of the image, or some of them.
            stamp: when the image was taken [s]. If that is more than a second before the last
                image, the source has started anew (a bag played in a loop) and all objects are
                forgotten; less is a clock being set, and no time has passed.
            image: (H, W, 3) uint8 RGB, for the objects' colours. None: they do not count.

        Returns:
            An id for each object, in their order; from 1 up, never used again.

        Raises:
            TypeError, ValueError: the image is not such an array, or has another height or width
                than the objects' labels; or the stamp is not finite. What is known of the objects
                stays.
        """
        if not math.isfinite(stamp):
            raise ValueError(f"stamp is {stamp}; expected seconds")
        if image is not None:
            check_image(image)
            if image.shape[:2] != found.labels.shape:
                raise ValueError(
                    f"the image is {image.shape}; expected {(*found.labels.shape, 3)}, as the "
                    "labels"
                )
        height, width = found.labels.shape
        window = found.seen or Box(0, 0, width, height)
        seen = _measure(found, window, image) if found.objects else None
        # Shares: a camera may change its resolution.
        part = np.divide(window, (width, height, width, height))
        self._pixel = max(self._pixel, 1 / min(width, height))
        is_other = np.abs(part - self._part).max() > _SAME_PART * self._pixel
        if stamp < self._latest - _CLOCK_STEP or self._knows_other_latents(seen) or is_other:
            self.reset()
        if self._tracks is None:
            self._part, self._pixel = part, 1 / min(width, height)
        previous = self._latest
        stamp = self._latest = max(stamp, previous)
        if seen is None:
            return ()
        if len(seen.latents) > 1:
            from scipy.spatial.distance import pdist

            self._learn_scale(float(np.mean(pdist(seen.latents))))
        ids = np.zeros(len(found.objects), np.int64)
        tracks = self._tracks
        if tracks is not None:
            tracks.keep(previous - tracks.last_seen <= self._max_age)
            known, objects = self._assign(tracks, seen, stamp)
            ids[objects] = tracks.ids[known]
            tracks.follow(known, seen, objects, stamp)
        new = np.flatnonzero(ids == 0)
        ids[new] = np.arange(self._next_id, self._next_id + len(new))
        self._next_id += len(new)
        begun = _Tracks(ids[new], seen, new, stamp)
        if tracks is None:
            self._tracks = begun
        else:
            tracks.extend(begun)
            if len(tracks.ids) > _MOST_TRACKS:
                # The newest, and of a clock that stands still those that are seen now.
                order = np.lexsort((tracks.last_seen, np.isin(tracks.ids, ids)))
                tracks.keep(np.isin(np.arange(len(order)), order[-_MOST_TRACKS:]))
        return tuple(ids.tolist())

    def _knows_other_latents(self, seen: _Seen | None) -> bool:
        """Whether the known objects' latents cannot be compared with these."""
        if self._tracks is None or seen is None:
            return False
        return self._tracks.latents.shape[1:] != seen.latents.shape[1:]

    def _learn_scale(self, distance: float) -> None:
        old = self._latent_scale
        self._latent_scale = distance if old == 0 else old + _LATENTS_GAIN * (distance - old)

    def _assign(self, tracks: _Tracks, seen: _Seen, stamp: float) -> tuple[Index, Index]:
        """Which tracks (M,) are which objects (M,)."""
        from scipy.spatial.distance import cdist

        similarity = _similarity(tracks, seen, stamp, self._latent_scale)
        similarity[similarity < self._min_similarity] = 0
        known, objects = _match(similarity)
        common = _common_change(seen.colours[objects] - tracks.colours[known])
        tracks.colours += common
        tracks.latest_colours += common
        # The usual one returns when an object is uncovered; the latest follows while it is covered.
        change = np.fmin(  # NaN where a colour is unknown
            cdist(tracks.colours, seen.colours), cdist(tracks.latest_colours, seen.colours)
        )
        # What shows of a covered object may have another colour than the whole.
        change *= np.clip(_PART * seen.sizes / tracks.sizes[:, None], _LEAST_PART, 1)
        other = change > 1
        if not other[known, objects].any():
            return known, objects
        similarity[other] = 0
        return _match(similarity)


class _Seen(NamedTuple):
    """The N objects of an image, numbered from 1; places and sizes in cells of the grid."""

    grid: npt.NDArray[np.uint8]  # number of each cell, with a margin of 0 (_STRIDE * _STRIDE,)
    counts: Index  # cells with each number, 0 included (N + 1,)
    cells: list[Index]  # of each object, where it is in the grid
    places: Array  # x, y of the centroids (N, 2)
    sizes: Array  # sides of squares of the same areas (N,)
    latents: Array  # (N, D)
    colours: Array  # see _colours (N, 4)


class _Tracks:
    """The remembered objects as they were last seen; places and sizes in cells of the grid."""

    def __init__(self, ids: Index, seen: _Seen, objects: Index, stamp: float) -> None:
        self.ids = ids
        self.last_seen = np.full(len(ids), stamp)  # s
        self.places = seen.places[objects]  # (T, 2)
        self.velocities = np.zeros((len(ids), 2))  # cells/s
        self.sizes = seen.sizes[objects]  # (T,)
        self.latents = seen.latents[objects]  # (T, D)
        self.colours = seen.colours[objects]  # usual ones (T, 4)
        self.latest_colours = seen.colours[objects]  # (T, 4)
        self.cells = [seen.cells[index] for index in objects]

    def extend(self, others: _Tracks) -> None:
        """Take in more tracks."""
        for name, values in vars(self).items():
            more = getattr(others, name)
            setattr(
                self, name, values + more if name == "cells" else np.concatenate([values, more])
            )

    def keep(self, wanted: npt.NDArray[np.bool_]) -> None:
        """Drop all other tracks.

        Args:
            wanted: (T,).
        """
        if wanted.all():
            return
        for name, values in vars(self).items():
            kept = list(compress(values, wanted)) if name == "cells" else values[wanted]
            setattr(self, name, kept)

    def follow(self, known: Index, seen: _Seen, objects: Index, stamp: float) -> None:
        """Take over where and how the objects of these tracks (M,) are now."""
        places, sizes = seen.places[objects], seen.sizes[objects]
        step = stamp - self.last_seen[known]
        ratio = sizes / self.sizes[known]
        # An object that another one covers bit by bit seems to move, but only shrinks.
        gain = _VELOCITY_GAIN * np.minimum(ratio, 1 / ratio) ** 4 * (step > _MIN_STEP)
        velocity = (places - self.places[known]) / np.maximum(step, _MIN_STEP)[:, None]
        self.velocities[known] += gain[:, None] * (velocity - self.velocities[known])
        self.sizes[known] *= np.where(ratio > 1, ratio, ratio**_SHRINK_GAIN)
        self.latents[known] += _LATENTS_GAIN * (seen.latents[objects] - self.latents[known])
        recolouring = np.nan_to_num(seen.colours[objects] - self.colours[known])
        # The less of an object shows, the less that says of the whole.
        recolouring *= _COLOURS_GAIN * np.minimum(ratio, 1)[:, None] ** 2
        if len(known) >= _FEWEST:
            # The light changes for those out of sight, too.
            common = np.median(recolouring, axis=0)
            self.colours += common
            self.latest_colours += common
            recolouring -= common
        usual = self.colours[known] + recolouring
        self.colours[known] = np.where(np.isnan(usual), seen.colours[objects], usual)
        self.latest_colours[known] = seen.colours[objects]
        self.places[known] = places
        self.last_seen[known] = stamp
        for track, index in zip(known.tolist(), objects.tolist(), strict=True):
            self.cells[track] = seen.cells[index]

    def shifts(self, stamp: float) -> Array:
        """How far they are expected to have moved since they were last seen (T, 2)."""
        coasting = _COAST * -np.expm1((self.last_seen - stamp) / _COAST)
        return self.velocities * coasting[:, None]


def _measure(found: SceneObjects, window: Box, image: Image | None) -> _Seen:
    """The objects on a grid that is laid over the window: what the model saw."""
    numbers = np.zeros(256, np.uint8)  # of each label; some objects may have been left out
    numbers[[item.label for item in found.objects]] = np.arange(1, len(found.objects) + 1)
    labels = found.labels[window.slices]
    grid = cv2.resize(labels, (_GRID, _GRID), interpolation=cv2.INTER_NEAREST_EXACT)
    grid = numbers[grid]
    total = len(found.objects) + 1
    counts = np.bincount(grid.ravel(), minlength=total)
    by_number = _CELLS[np.argsort(grid, axis=None, kind="stable")]
    scale = np.array([_GRID / window.width, _GRID / window.height])
    centroids = np.array([item.centroid for item in found.objects]) - (window.x, window.y)
    areas = np.array([item.area for item in found.objects], np.float64)
    latents = np.array([item.latent_mean for item in found.objects], np.float64)
    return _Seen(
        grid=cv2.copyMakeBorder(grid, *4 * (_MARGIN,), cv2.BORDER_CONSTANT, value=0).ravel(),
        counts=counts,
        cells=np.split(by_number, np.cumsum(counts[:-1]))[1:],
        places=(centroids + 0.5) * scale,
        sizes=np.sqrt(areas * scale.prod()),
        # Half precision may overflow; such latents say nothing, the rest still does.
        latents=np.nan_to_num(latents, nan=0, posinf=0, neginf=0),
        colours=_colours(labels, numbers, None if image is None else image[window.slices], total),
    )


def _colours(
    labels: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint8], image: Image | None, total: int
) -> Array:
    """Brightness and tint of the objects: 1 is the most that they may change (N, 4); or NaN.

    Args:
        labels: (H, W).
        numbers: of each label; 0 for none.
        image: (H, W, 3).
        total: N + 1.
    """
    if image is None:
        return np.full((total - 1, 4), math.nan)
    step = max(1, math.isqrt(labels.size // _COLOUR_PIXELS))
    shown = numbers[labels[::step, ::step].ravel()]
    pixels = image[::step, ::step].reshape(-1, 3)
    counts = np.bincount(shown, minlength=total)[1:].astype(np.float64)
    counts[counts == 0] = math.nan  # too small for the pixels that are looked at
    sums = np.stack([np.bincount(shown, channel, total)[1:] for channel in pixels.T], axis=1)
    logarithms = np.log(sums / counts[:, None] + _BLACK)
    brightness = logarithms.mean(axis=1, keepdims=True)
    return np.hstack([brightness / _BRIGHTNESS, (logarithms - brightness) / _TINT])


def _common_change(changes: Array) -> Array:
    """What most of the objects' colours share of their changes (M, 4), as a lamp changes them (4,).

    It is 0 where it explains no more of them than that nothing was changed: then those that changed
    are other objects.
    """
    changes = changes[~np.isnan(changes).any(axis=1)]
    if len(changes) > 1:
        common: Array = np.median(changes, axis=0)
        if len(changes) < _FEWEST:
            common[1:] = 0  # two that change their tint alike are more likely two others
        same = np.count_nonzero(np.linalg.norm(changes, axis=1) <= 1)
        alike = np.count_nonzero(np.linalg.norm(changes - common, axis=1) <= _ALIKE)
        if alike > same and alike >= min(_FEWEST, len(changes)) and alike > len(changes) / 2:
            return common
    return np.zeros(4)


def _match(similarity: Array) -> tuple[Index, Index]:
    """The best assignment of tracks (M,) to objects (M,) whose similarity (T, N) is not 0."""
    from scipy.optimize import linear_sum_assignment

    # Squares: one sure match and one new object rather than two doubtful matches.
    known, objects = linear_sum_assignment(similarity**2, maximize=True)
    matched = similarity[known, objects] > 0
    return known[matched], objects[matched]


def _similarity(tracks: _Tracks, seen: _Seen, stamp: float, latent_scale: float) -> Array:
    """How alike each track and object are (T, N), 0..1."""
    from scipy.spatial.distance import cdist

    shifts = tracks.shifts(stamp)
    drift = np.minimum(_DRIFT * (stamp - tracks.last_seen), _MOST_DRIFT)
    reach = _REACH * tracks.sizes + drift
    near = np.exp(-((cdist(tracks.places + shifts, seen.places) / reach[:, None]) ** 2))
    overlap = _overlap(tracks, seen, shifts)
    if latent_scale == 0:  # never two objects in an image, or latents that are all the same
        return np.asarray((_OVERLAP * overlap + _PLACE * near) / (_OVERLAP + _PLACE))
    change = cdist(tracks.latents, seen.latents) / latent_scale
    alike = np.exp(-((change / _LIKENESS) ** 2))
    return np.asarray(_OVERLAP * overlap + _PLACE * near + _LATENTS * alike)


def _overlap(tracks: _Tracks, seen: _Seen, shifts: Array) -> Array:
    """IoU of each track's mask, moved to where it is expected, and each object's (T, N)."""
    total = len(seen.counts)
    sizes = np.array([len(cells) for cells in tracks.cells])
    if not sizes.any():
        return np.zeros((len(sizes), total - 1))
    moves = np.clip(np.rint(shifts), -_MARGIN, _MARGIN).astype(np.intp) @ (1, _STRIDE)
    labels = seen.grid[np.concatenate(tracks.cells) + np.repeat(moves, sizes)]
    pairs = np.repeat(np.arange(0, len(sizes) * total, total), sizes) + labels
    common = np.bincount(pairs, minlength=len(sizes) * total).reshape(-1, total)
    union = sizes[:, None] + seen.counts - common
    return (common / np.maximum(union, 1))[:, 1:]
