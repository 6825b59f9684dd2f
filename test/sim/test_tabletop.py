"""Generated tabletop scenes: what a user of the renderer sees in the frames."""

import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from genesis_sim import Frame, RenderingError, TabletopRenderer
from genesis_sim.sampling import Mode
from genesis_sim.screen import remove_specks

pytestmark = pytest.mark.slow

SIZE = 96


def renderer_or_skip(width: int, height: int, mode: Mode) -> TabletopRenderer:
    try:
        return TabletopRenderer(width, height, mode)
    except RenderingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sketchy() -> Iterator[TabletopRenderer]:
    with renderer_or_skip(SIZE, SIZE, "sketchy") as renderer:
        yield renderer


@pytest.fixture(scope="module")
def varied() -> Iterator[TabletopRenderer]:
    with renderer_or_skip(SIZE, SIZE, "varied") as renderer:
        yield renderer


@pytest.fixture(scope="module")
def varied_frames(varied: TabletopRenderer) -> list[Frame]:
    return [varied.sample(seed) for seed in range(60)]


@pytest.fixture(scope="module")
def sequence() -> list[Frame]:
    with renderer_or_skip(96, 72, "sketchy") as renderer:
        return list(renderer.sequence(3, num_frames=100))


def project(frame: Frame, position: NDArray[np.float64]) -> tuple[float, float]:
    u, v, w = frame.intrinsics @ position
    return u / w, v / w


def same(a: Frame, b: Frame) -> bool:
    return (
        np.array_equal(a.image, b.image)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.depth, b.depth)
    )


def test_a_process_that_has_rendered_can_train_afterwards() -> None:
    """Mesa and Triton bring an LLVM each: in the wrong order the process ends with a fault."""
    pytest.importorskip("triton")
    renderer_or_skip(32, 32, "sketchy").close()
    script = """
from genesis_sim import TabletopRenderer
with TabletopRenderer(32, 32, "sketchy") as renderer:
    renderer.sample(0)
import torch._dynamo  # as optimisers do
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_frames_have_the_documented_shapes_and_types() -> None:
    with renderer_or_skip(64, 48, "mixed") as renderer:
        frame = renderer.sample(0)
    assert frame.image.shape == (48, 64, 3)
    assert frame.image.dtype == np.uint8
    assert frame.labels.shape == (48, 64)
    assert frame.labels.dtype == np.uint8
    assert frame.depth.shape == (48, 64)
    assert frame.depth.dtype == np.float32
    assert frame.intrinsics.shape == (3, 3)
    labels = [entry.label for entry in frame.objects]
    assert labels == list(range(2, 2 + len(labels)))
    assert set(np.unique(frame.labels)) <= {0, 1, *labels}


def test_a_seed_gives_the_same_frame_whatever_was_drawn_before(varied: TabletopRenderer) -> None:
    first = varied.sample(7)
    for seed in (8, 9, 10):
        varied.sample(seed)
    assert same(varied.sample(7), first)
    assert not np.array_equal(varied.sample(8).image, first.image)


def test_a_seed_gives_the_same_frame_in_another_process(varied: TabletopRenderer) -> None:
    script = (
        "import zlib; from genesis_sim import TabletopRenderer as T;"
        f"f = T({SIZE}, {SIZE}, 'varied').sample(7);"
        "print(*[zlib.crc32(a.tobytes()) for a in (f.image, f.labels, f.depth)])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    frame = varied.sample(7)
    here = [zlib.crc32(a.tobytes()) for a in (frame.image, frame.labels, frame.depth)]
    assert [int(word) for word in run.stdout.split()] == here


def test_sketchy_shows_a_red_cube_a_green_block_and_a_blue_ball(sketchy: TabletopRenderer) -> None:
    pixels: dict[int, list[NDArray[np.float64]]] = {2: [], 3: [], 4: []}
    for seed in range(25):
        frame = sketchy.sample(seed)
        assert [entry.name for entry in frame.objects] == ["cube", "block", "ball"]
        for label, found in pixels.items():
            if (mask := frame.labels == label).sum() > 20:
                found.append(np.median(frame.image[mask].astype(float), axis=0))
    for label, found in pixels.items():
        # Red, green and blue are strongest in their own channel; the light is coloured.
        colour = np.median(found, axis=0)
        assert int(np.argmax(colour)) == label - 2, f"label {label} has colour {colour}"


def test_labels_lie_where_the_objects_project_to(varied_frames: list[Frame]) -> None:
    """Unhidden objects: the mask surrounds the projected centre and has the projected size."""
    checked = 0
    for frame in varied_frames:
        height, width = frame.labels.shape
        for entry in frame.objects:
            rows, columns = np.nonzero(frame.labels == entry.label)
            inside = rows.size > 40 and rows.min() > 0 and rows.max() < height - 1
            if not inside or columns.min() == 0 or columns.max() == width - 1:
                continue
            u, v = project(frame, entry.position)
            reach = frame.intrinsics[0, 0] * np.linalg.norm(entry.size) / 2 / entry.position[2]
            # All of an object lies within its bounding sphere (a mug's handle sticks out a bit,
            # and perspective enlarges what is near).
            assert np.hypot(columns - u, rows - v).max() < 1.6 * reach + 2
            checked += 1
    assert checked > 30


def test_depth_at_an_object_is_its_distance(varied_frames: list[Frame]) -> None:
    checked = 0
    for frame in varied_frames:
        for entry in frame.objects:
            mask = frame.labels == entry.label
            if mask.sum() < 20:
                continue
            radius = 0.8 * float(np.linalg.norm(entry.size))
            # Off the optical axis and cut objects included: the surface is within the object.
            assert np.abs(frame.depth[mask] - entry.position[2]).max() < radius + 0.01
            checked += 1
    assert checked > 60


def test_depth_is_continuous_and_positive(varied_frames: list[Frame]) -> None:
    for frame in varied_frames:
        assert frame.depth.min() > 0.02
        assert frame.depth.max() < 12.0


def test_varied_has_one_to_six_objects_of_many_kinds(varied_frames: list[Frame]) -> None:
    counts = {len(frame.objects) for frame in varied_frames}
    names = {entry.name for frame in varied_frames for entry in frame.objects}
    assert counts == {1, 2, 3, 4, 5, 6}
    assert len(names) >= 8
    with_robot = sum(bool((frame.labels == 1).any()) for frame in varied_frames)
    assert 0 < with_robot < len(varied_frames)


def test_sequence_keeps_labels_and_moves_smoothly(sequence: list[Frame]) -> None:
    assert len(sequence) == 100
    first = [(entry.label, entry.name, entry.size.tolist()) for entry in sequence[0].objects]
    for before, after in pairwise(sequence):
        assert [(e.label, e.name, e.size.tolist()) for e in after.objects] == first
        steps = [
            float(np.linalg.norm(b.position - a.position))
            for a, b in zip(before.objects, after.objects, strict=True)
        ]
        assert max(steps) < 0.04, "an object jumped"
    ways = [
        np.ptp([frame.objects[k].position for frame in sequence], axis=0).max() for k in range(3)
    ]
    assert max(ways) > 0.03, "nothing moved in 100 frames"


def test_sequence_shows_the_same_light_and_camera_throughout(sequence: list[Frame]) -> None:
    still = np.all([frame.labels == 0 for frame in sequence], axis=0)
    means = [frame.image[still].mean() for frame in sequence]
    assert still.mean() > 0.3
    assert np.ptp(means) < 12
    assert all(np.array_equal(f.intrinsics, sequence[0].intrinsics) for f in sequence)


def test_interleaved_sequences_do_not_disturb_each_other(varied: TabletopRenderer) -> None:
    alone = list(varied.sequence(5, num_frames=4))
    mixed = []
    for frame, _ in zip(varied.sequence(5, num_frames=4), varied.sequence(6, 4), strict=True):
        mixed.append(frame)
        varied.sample(1)
    assert all(same(a, b) for a, b in zip(alone, mixed, strict=True))


def test_specks_go_and_thin_lines_stay() -> None:
    labels = np.zeros((7, 7), np.uint8)
    labels[1, 1] = 3
    labels[4, 2:5] = 2
    labels[0, 6] = 1
    cleaned = remove_specks(labels)
    expected = np.zeros((7, 7), np.uint8)
    expected[4, 2:5] = 2
    np.testing.assert_array_equal(cleaned, expected)


def test_more_objects_than_usual_are_drawn_and_labelled() -> None:
    try:
        renderer = TabletopRenderer(SIZE, SIZE, "varied", (12, 16))
    except RenderingError as error:
        pytest.skip(str(error))
    with renderer:
        frames = [renderer.sample(seed) for seed in range(8)]
    for frame in frames:
        assert 12 <= len(frame.objects) <= 16
        assert [item.label for item in frame.objects] == list(range(2, 2 + len(frame.objects)))
    seen = [len(np.unique(frame.labels[frame.labels >= 2])) for frame in frames]
    assert max(seen) > 6 and max(frame.labels.max() for frame in frames) > 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "sketch"}, "'sketch'.*sketchy, varied, mixed"),
        ({"width": 8}, "width is 8; expected 16 to 2048"),
        ({"height": 5000}, "height is 5000"),
        ({"num_objects": (0, 3)}, "expected 1 <= fewest <= most <= 16"),
        ({"num_objects": (3, 17)}, "expected 1 <= fewest <= most <= 16"),
        ({"num_objects": (2, 3), "mode": "sketchy"}, "only for mode varied, not sketchy"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabletopRenderer(**arguments)  # type: ignore[arg-type]


def test_bad_seeds_and_lengths_are_named(sketchy: TabletopRenderer) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        sketchy.sample(-1)
    with pytest.raises(ValueError, match="num_frames is 0"):
        next(sketchy.sequence(0, num_frames=0))


def test_a_closed_renderer_says_so() -> None:
    renderer = renderer_or_skip(32, 32, "varied")
    renderer.close()
    renderer.close()
    with pytest.raises(RuntimeError, match="closed"):
        renderer.sample(0)


def test_missing_opengl_is_explained() -> None:
    """An unusable backend, in a process of its own as MuJoCo chooses it at import."""
    script = (
        "from genesis_sim import TabletopRenderer, RenderingError\n"
        "try: TabletopRenderer(32, 32)\n"
        "except RenderingError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={"PATH": "", "MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "99"},
        check=False,
    )
    assert "apt install libegl1" in run.stdout, run.stderr


def test_data_set_images_belong_to_their_split_and_index() -> None:
    tabletop = pytest.importorskip("training.datasets.tabletop")
    try:
        scenes = tabletop.render_range(0, 4, image_size=32, mode="mixed", split="train")
    except RenderingError as error:
        pytest.skip(str(error))
    images, labels = scenes.images, scenes.labels
    assert images.shape == (4, 32, 32, 3)
    assert labels.shape == (4, 32, 32)
    later = tabletop.render_range(2, 4, image_size=32, mode="mixed", split="train")
    np.testing.assert_array_equal(later.images, images[2:])
    other = tabletop.render_range(0, 4, image_size=32, mode="mixed", split="val")
    assert not np.array_equal(other.images, images)
    seeds = {
        tabletop.scene_seed(0, split, index)
        for split in ("train", "val", "test")
        for index in range(50)
    }
    assert len(seeds) == 150
    with pytest.raises(ValueError, match="'valid'"):
        tabletop.render_range(0, 1, image_size=32, mode="mixed", split="valid")
