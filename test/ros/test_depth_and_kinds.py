"""Depth into the model and kinds out of it, through the real node.

Most tests have rules in the model's place (stand_in.py): what the model saw then shows in the
masks. The images are 64x48: dark, with a red square at the left and a green one at the right.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from genesis_bags.decoding.images import to_rgb
from genesis_core import GenesisV2, GenesisV2Config, save_model
from genesis_ros.masks import MaskedObject, objects, targets
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMask, ObjectMasks

pytestmark = pytest.mark.slow

STAND_IN = Path(__file__).with_name("stand_in.py")
HEIGHT, WIDTH = 48, 64
RED, GREEN, NEAR = (
    (slice(10, 20), slice(5, 15)),
    (slice(10, 20), slice(45, 55)),
    (slice(30, 40), slice(25, 35)),
)
STAMPS = itertools.count(1)


@pytest.fixture(scope="module")
def node(
    ros: None,
    node_process: Any,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "image_topics": ["/eye/image_raw", "/blind/image_raw"],
        "depth_topics": ["/eye/depth/image_raw", ""],
        "diagnostics_period": 0.2,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process(STAND_IN, directory, parameters) as node:
        node.wait_for_log("active: ")
        yield node


class Eye:
    """A camera with depth, and one without, as the node's user sees them."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.images = client.publisher(Image, "/eye/image_raw")
        self.blind_images = client.publisher(Image, "/blind/image_raw")
        self.depths = client.publisher(Image, "/eye/depth/image_raw")
        self.infos = client.publisher(CameraInfo, "/eye/depth/camera_info")
        self.masks: list[ObjectMasks] = []
        self.status: list[DiagnosticStatus] = []
        node = client.node
        self._subscriptions = [
            node.create_subscription(ObjectMasks, "/genesis/object_masks", self.masks.append, 50),
            node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 50),
        ]
        client.until(lambda: node.count_publishers("/genesis/object_masks"), "the node's masks")
        self.infos.publish(camera_info(HEIGHT, WIDTH))
        client.spin(0.3)

    def _diagnose(self, message: DiagnosticArray) -> None:
        self.status += [item for item in message.status if item.name.endswith("/eye/image_raw")]

    def see(self, depth: Image | None) -> list[MaskedObject]:
        """What the node says about the next image, which comes with this depth."""
        header = Header(frame_id="eye")
        header.stamp.sec = next(STAMPS)
        if depth is not None:
            depth.header = header
            self.depths.publish(depth)
            self.client.spin(0.1)
        self.images.publish(to_message(picture(), header))
        self.client.until(
            lambda: self.masks and self.masks[-1].header.stamp.sec == header.stamp.sec, "masks"
        )
        return objects(self.masks[-1])

    def diagnosed(self, condition: Callable[[DiagnosticStatus], bool], what: str) -> None:
        """Wait until diagnostics say so."""
        self.status.clear()
        self.client.until(lambda: any(map(condition, self.status)), what)

    def close(self) -> None:
        for subscription in self._subscriptions:
            self.client.node.destroy_subscription(subscription)


@pytest.fixture
def eye(node: Any, client: Any) -> Iterator[Eye]:
    eye = Eye(client)
    yield eye
    eye.close()


def picture() -> np.ndarray:
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    image[RED] = (250, 20, 20)
    image[GREEN] = (20, 250, 20)
    return image


def metres() -> np.ndarray:
    """Everything 1 m away but for a square that no colour shows."""
    depth = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    depth[NEAR] = 0.4
    return depth


def message(depth: np.ndarray) -> Image:
    """16UC1 or 32FC1, as the array's type says."""
    encoding = {"float32": "32FC1", "uint16": "16UC1"}[str(depth.dtype)]
    height, width = depth.shape
    step = width * depth.itemsize
    return Image(height=height, width=width, encoding=encoding, step=step, data=depth.tobytes())


def camera_info(height: int, width: int) -> CameraInfo:
    matrix = [60.0, 0, (width - 1) / 2, 0, 60.0, (height - 1) / 2, 0, 0, 1.0]
    return CameraInfo(height=height, width=width, k=matrix)


def value(status: DiagnosticStatus, key: str) -> str | None:
    return next((item.value for item in status.values if item.key == key), None)


def places(items: list[MaskedObject]) -> dict[tuple[int, int], str]:
    """Kinds by the corner of the box."""
    return {(item.box.x, item.box.y): item.kind for item in items}


WITHOUT = {(0, 0): "surroundings", (45, 10): "robot", (5, 10): "object"}
WITH = {**WITHOUT, (25, 30): "object"}


def test_the_model_sees_depth(eye: Eye) -> None:
    assert places(eye.see(message(metres()))) == WITH
    eye.diagnosed(lambda status: value(status, "input") == "RGB-D 100%", "RGB-D images")


def test_depth_of_another_size_and_unit_and_with_holes(eye: Eye) -> None:
    """Twice as many pixels, in millimetres, half of them unknown; the info is of the image."""
    depth = (metres().repeat(2, axis=0).repeat(2, axis=1) * 1000).astype(np.uint16)
    depth[0::4], depth[1::4] = 0, 0
    items = eye.see(message(depth))
    near = next(item for item in items if item.box.x == 25)
    assert near.kind == "object"
    assert near.position is not None
    assert near.position[2] == pytest.approx(0.4)
    assert near.area == 50
    eye.diagnosed(lambda status: value(status, "input") == "RGB-D 100%", "RGB-D images")


def test_without_depth_the_model_sees_colour_alone(eye: Eye) -> None:
    """Frame by frame, and never later than it would have been."""
    assert places(eye.see(None)) == WITHOUT
    assert all(item.position is None for item in objects(eye.masks[-1]))
    assert places(eye.see(message(metres()))) == WITH
    assert places(eye.see(None)) == WITHOUT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint16), "no pixel of the depth image is known"),
        (np.full((HEIGHT, WIDTH), np.nan, np.float32), "no pixel of the depth image is known"),
        (np.ceil(metres()).astype(np.uint16), "are these metres?"),
        (np.ones((HEIGHT, HEIGHT), np.float32), "they cannot"),
    ],
    ids=["all zero", "all NaN", "metres as 16UC1", "another shape"],
)
def test_depth_that_cannot_be_used_is_named(eye: Eye, depth: np.ndarray, reason: str) -> None:
    assert places(eye.see(message(depth))) == WITHOUT
    assert all(item.position is None for item in objects(eye.masks[-1]))
    eye.diagnosed(
        lambda status: (
            status.level == DiagnosticStatus.WARN
            and reason in status.message
            and "/eye/depth/" in status.message
        ),
        f"a warning about {reason}",
    )
    assert places(eye.see(message(metres()))) == WITH


def test_floats_in_millimetres_are_noticed(eye: Eye) -> None:
    items = eye.see(message(metres() * 1000))
    assert places(items) == WITH
    near = next(item for item in items if item.box.x == 25)
    assert near.position is not None and near.position[2] == pytest.approx(0.4)
    eye.diagnosed(lambda status: value(status, "depth unit") is not None, "the unit")
    assert places(eye.see(message(metres()))) == WITH
    eye.diagnosed(lambda status: value(status, "depth unit") is None, "the usual unit")


def test_the_unit_can_be_given(eye: Eye) -> None:
    tenths = (metres() * 10_000).astype(np.uint16)
    assert eye.client.set_parameter("/genesis/perception", "depth_unit", 0.0001).successful
    try:
        items = eye.see(message(tenths))
        near = next(item for item in items if item.box.x == 25)
        assert near.position is not None and near.position[2] == pytest.approx(0.4)
    finally:
        assert eye.client.set_parameter("/genesis/perception", "depth_unit", 0.0).successful


@pytest.mark.parametrize("form", ["png", "rvl"])
def test_compressed_depth(
    form: str,
    compress_depth: Callable[..., bytes],
    client: Any,
    node_process: Any,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """Only /compressedDepth is published; the parameter names the raw topic."""
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "image_topics": ["/far/image_raw"],
        "depth_topics": ["/far/depth/image_raw"],
    }
    depths = client.publisher(CompressedImage, "/far/depth/image_raw/compressedDepth", heard=False)
    infos = client.publisher(CameraInfo, "/far/depth/camera_info", heard=False)
    images = client.publisher(Image, "/far/image_raw", heard=False)
    data = compress_depth((metres() * 1000).astype(np.uint16), form)
    depth = CompressedImage(format=f"16UC1; compressedDepth {form}", data=data)
    with (
        node_process(STAND_IN, tmp_path, parameters) as node,
        client.listen(ObjectMasks, "/genesis/object_masks") as masks,
    ):
        node.wait_for_log("active: ")
        client.until(lambda: depths.get_subscription_count(), "a listener to compressed depth")
        stamps = itertools.count(1)

        def seen() -> bool:
            depth.header.stamp.sec = next(stamps)
            infos.publish(camera_info(HEIGHT, WIDTH))
            depths.publish(depth)
            client.spin(0.1)
            images.publish(to_message(picture(), depth.header))
            return any(places(objects(item)) == WITH for item in masks)

        client.until(seen, "an image with depth")


def test_large_depth_beside_a_slow_model(
    client: Any,
    node_process: Any,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image that the model gets to has its own depth, though many newer ones came since."""
    monkeypatch.setenv("STAND_IN_SECONDS", "1.5")  # 55 MB of newer depth
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "image_topics": ["/slow/image_raw"],
        "depth_topics": ["/slow/depth/image_raw"],
        "use_depth": "never",  # then depth is asked for after the model's pass
        "depth_tolerance": 0.001,
    }
    large = np.full((720, 1280), 1.0, np.float32)
    image = np.ascontiguousarray(picture()[:36])
    with (
        node_process(STAND_IN, tmp_path, parameters) as node,
        client.listen(ObjectMasks, "/genesis/object_masks") as masks,
    ):
        node.wait_for_log("active: ")
        depths = client.publisher(Image, "/slow/depth/image_raw")
        infos = client.publisher(CameraInfo, "/slow/depth/camera_info")
        images = client.publisher(Image, "/slow/image_raw")
        infos.publish(camera_info(720, 1280))
        depth = message(large)
        started = time.monotonic()
        while len(masks) < 5:
            assert time.monotonic() - started < 60
            now = client.node.get_clock().now().to_msg()
            depth.header.stamp = now
            depths.publish(depth)
            images.publish(to_message(image, Header(stamp=now)))
            client.spin(0.1)
    placed = [[found.position.z for found in item.objects if found.has_position] for item in masks]
    # On a busy machine a message of this size may get lost on its way.
    assert sum(map(bool, placed)) >= 3
    assert all(z == pytest.approx(1.0) for z in itertools.chain(*placed))


def test_a_camera_without_depth_beside_one_with_it(eye: Eye) -> None:
    """Their images may share a batch; each is looked at with what it has."""
    for _ in range(5):
        header = Header(frame_id="eye")
        header.stamp.sec = number = next(STAMPS)
        depth = message(metres())
        depth.header = header
        eye.depths.publish(depth)
        eye.client.spin(0.1)
        eye.masks.clear()
        eye.images.publish(to_message(picture(), header))
        eye.blind_images.publish(to_message(picture(), header))
        eye.client.until(lambda: len(eye.masks) == 2, "masks of both cameras")
        found = {item.camera: places(objects(item)) for item in eye.masks}
        assert {item.header.stamp.sec for item in eye.masks} == {number}
        assert found == {"eye": WITH, "blind": WITHOUT}


def test_use_depth_never(eye: Eye) -> None:
    """Changed while the node runs; positions are measured all the same."""
    assert eye.client.set_parameter("/genesis/perception", "use_depth", "never").successful
    try:
        items = eye.see(message(metres()))
        assert places(items) == WITHOUT
        assert any(item.position is not None for item in items)
        eye.diagnosed(lambda status: value(status, "input") == "RGB 100%", "RGB images")
    finally:
        assert eye.client.set_parameter("/genesis/perception", "use_depth", "auto").successful
    refused = eye.client.set_parameter("/genesis/perception", "use_depth", "always")
    assert not refused.successful and "use_depth" in refused.reason


def test_kinds_decide_what_is_background(eye: Eye) -> None:
    """A planner that wants objects gets neither the table nor the robot's arm."""
    items = eye.see(message(metres()))
    assert {item.kind: item.background for item in items} == {
        "surroundings": True,
        "robot": False,
        "object": False,
    }
    wanted = {(item.box.x, item.box.y) for item in targets(eye.masks[-1])}
    assert wanted == {(5, 10), (25, 30)}
    robot = next(item for item in items if item.kind == "robot")
    assert robot.position is not None
    kinds = [item.kind for item in eye.masks[-1].objects]
    assert sorted(kinds) == [
        ObjectMask.KIND_OBJECT,
        ObjectMask.KIND_OBJECT,
        ObjectMask.KIND_ROBOT,
        ObjectMask.KIND_SURROUNDINGS,
    ]


def test_the_robot_is_grey_and_has_no_box(eye: Eye) -> None:
    with (
        eye.client.listen(MarkerArray, "/genesis/eye/markers") as markers,
        eye.client.listen(Image, "/genesis/eye/overlay") as overlays,
    ):
        items = eye.see(message(metres()))
        eye.client.until(lambda: markers and overlays, "markers and overlay")
    boxes = {item.id for item in markers[-1].markers if item.type == Marker.CUBE}
    assert boxes == {item.id for item in items if item.kind == "object"}
    overlay = to_rgb(overlays[-1]).astype(int)
    inside = (slice(12, 18), slice(47, 53))
    np.testing.assert_allclose(overlay[inside], (picture()[inside].astype(int) + 128) / 2, atol=1)


@pytest.mark.slow
def test_a_checkpoint_with_depth_and_kinds(client: Any, node_process: Any, tmp_path: Path) -> None:
    """The real model, untrained: kinds are told, and background follows them."""
    try:
        config = GenesisV2Config(image_size=32, feature_dim=8, num_slots=4, points=True, kinds=True)
    except TypeError:
        pytest.skip("the models have neither points nor kinds yet")
    checkpoint = tmp_path / "kinds.safetensors"
    save_model(GenesisV2(config), checkpoint)
    parameters = {
        "checkpoint": str(checkpoint),
        "device": "cpu",
        "image_topics": ["/real/image_raw"],
        "depth_topics": ["/real/depth/image_raw"],
        "diagnostics_period": 0.2,
    }
    with (
        node_process("genesis_ros.perception_node", tmp_path / "node", parameters) as node,
        client.listen(ObjectMasks, "/genesis/object_masks", heard=False) as masks,
        client.listen(DiagnosticArray, "/diagnostics", heard=False) as diagnostics,
    ):
        node.wait_for_log("active: ")
        images = client.publisher(Image, "/real/image_raw")
        depths = client.publisher(Image, "/real/depth/image_raw")
        infos = client.publisher(CameraInfo, "/real/depth/camera_info")
        client.until(lambda: client.node.count_publishers("/genesis/object_masks"), "masks")
        infos.publish(camera_info(HEIGHT, WIDTH))
        for number, depth in enumerate((message(metres()), None, message(metres())), 1):
            header = Header(frame_id="eye")
            header.stamp.sec = 1000 * number
            if depth is not None:
                depth.header = header
                depths.publish(depth)
            client.spin(0.2)
            images.publish(to_message(picture(), header))
            client.until(lambda number=number: len(masks) == number, f"image {number}")
        client.until(
            lambda: any(
                (value(status, "input") or "").startswith("RGB-D")
                for item in diagnostics
                for status in item.status
            ),
            "RGB-D in the diagnostics",
        )
    items = [item for found in masks for item in found.objects]
    assert items
    for item in items:
        assert item.kind != ObjectMask.KIND_UNKNOWN
        assert item.background == (item.kind == ObjectMask.KIND_SURROUNDINGS)
