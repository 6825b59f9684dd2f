"""A running perception node with several cameras, its services, tracks and positions.

The model is untrained; what matters here is who gets which answer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from scipy import ndimage
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import MarkerArray

from genesis_bags.decoding.pixels import mono8_pixels
from genesis_ros.masks import full_masks, label_image
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks
from genesis_ros.node.camera_names import camera_names
from genesis_ros.srv import SegmentImage

pytestmark = pytest.mark.slow

LEFT, RIGHT = "/left/image_raw", "/arm/color/image_raw"
DEPTH, INFO = "/arm/depth/image_rect_raw", "/arm/color/camera_info"
MASKS = "/genesis/object_masks"
NODE = "/genesis/perception"
SHAPE = (48, 64)


@pytest.fixture(scope="module")
def node(
    ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "precision": "fp32",
        "image_topics": [LEFT, RIGHT],
        "depth_topics": ["", DEPTH],
        "camera_info_topics": ["", INFO],
        "background_border": 1.0,
        "background_span": 1.0,
        "clutter_score": 0.0,
        "min_area": 0.0,
        "diagnostics_period": 0.2,
        "stale_timeout": 3.0,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log(f"active: listening to {LEFT}, {RIGHT}")
        yield node
        assert node.alive, node.log
        assert "Traceback" not in node.log


class Rig:
    """Publishes images of two cameras, each with a stamp [ms] of its own, and waits for masks."""

    next_stamp = 1

    def __init__(self, client: Any, masks: list[ObjectMasks]) -> None:
        self.client = client
        self.masks = masks
        self.cameras = {name: client.publisher(Image, topic) for name, topic in
                        (("left", LEFT), ("arm", RIGHT))}  # fmt: skip

    def publish(self, name: str, pixels: np.ndarray) -> int:
        stamp = Rig.next_stamp
        Rig.next_stamp += 40
        header = Image().header
        header.stamp, header.frame_id = milliseconds(stamp), f"{name}_optical"
        self.cameras[name].publish(to_message(pixels, header))
        return stamp

    def answer(self, stamp: int) -> ObjectMasks:
        def find() -> list[ObjectMasks]:
            wanted = milliseconds(stamp)
            return [message for message in self.masks if message.header.stamp == wanted]

        self.client.until(find, f"masks of image {stamp}")
        (message,) = find()
        return message

    def ask(self, name: str, pixels: np.ndarray) -> ObjectMasks:
        return self.answer(self.publish(name, pixels))


@pytest.fixture
def rig(node: Any, client: Any) -> Iterator[Rig]:
    with client.listen(ObjectMasks, MASKS) as masks:
        yield Rig(client, masks)


def milliseconds(stamp: int) -> Time:
    return Time(sec=stamp // 1000, nanosec=stamp % 1000 * 1_000_000)


def track_ids(message: ObjectMasks) -> list[int]:
    return [item.track_id for item in message.objects]


def test_each_camera_has_its_own_name_topics_and_size(
    client: Any, rig: Rig, photo: np.ndarray
) -> None:
    large = photo.repeat(2, axis=0).repeat(2, axis=1)
    with (
        client.listen(ObjectMasks, "/genesis/left/object_masks") as left,
        client.listen(ObjectMasks, "/genesis/arm/object_masks") as arm,
        client.listen(Image, "/genesis/left/label_image") as labels,
        client.listen(Image, "/genesis/arm/overlay") as overlays,
    ):
        client.spin(0.5)  # until the node knows of the listeners
        stamps = rig.publish("left", photo), rig.publish("arm", large)
        answers = [rig.answer(stamp) for stamp in stamps]
        client.until(lambda: left and arm and labels and overlays, "each camera's own topics")
    for message, own, name, shape in zip(
        answers, (left, arm), ("left", "arm"), (photo.shape, large.shape), strict=True
    ):
        assert message.camera == name
        assert message.header.frame_id == f"{name}_optical"
        assert full_masks(message).shape[1:] == shape[:2]
        assert own == [message]
    np.testing.assert_array_equal(mono8_pixels(labels[0]), label_image(answers[0]))
    assert (overlays[0].height, overlays[0].width) == large.shape[:2]
    names = dict(client.node.get_topic_names_and_types())
    assert "/genesis/overlay" not in names and "/genesis/label_image" not in names


def test_masks_do_not_depend_on_the_other_camera(rig: Rig, photo: np.ndarray) -> None:
    alone = rig.ask("left", photo)
    # While the node is busy with a large image, the two others come to wait for one pass.
    large = np.zeros((1500, 2000, 3), np.uint8)
    stamps = [rig.publish("arm", image) for image in (large, photo[::-1])]
    together = rig.ask("left", photo)
    rig.answer(stamps[-1])
    np.testing.assert_allclose(full_masks(together), full_masks(alone), atol=2 / 255)


@pytest.mark.slow
def test_a_camera_that_dies_or_changes_does_not_disturb_the_other(
    client: Any, rig: Rig, photo: np.ndarray, node: Any
) -> None:
    first = rig.ask("left", photo)
    rig.ask("arm", photo)
    client.node.destroy_publisher(rig.cameras["arm"])
    with client.listen(DiagnosticArray, "/diagnostics") as reports:

        def silent() -> bool:
            rig.ask("left", photo)
            return (
                bool(reports)
                and "no image for" in client.status(reports[-1], f"{NODE}: {RIGHT}")[0].message
            )

        client.until(silent, "a report that one camera is silent")
        assert "Hz" in client.status(reports[-1], f"{NODE}: {LEFT}")[0].message
    node.wait_for_log(f"no image on {RIGHT} for")
    rig.cameras["arm"] = client.publisher(Image, RIGHT)
    for shape in ((24, 32), (7, 5), (96, 128)):  # and it comes back, ever different
        assert full_masks(rig.ask("arm", np.zeros((*shape, 3), np.uint8))).shape[1:] == shape
    assert track_ids(rig.ask("left", photo)) == track_ids(first)


def test_tracks_are_stable_per_camera_until_they_are_reset(
    client: Any, rig: Rig, photo: np.ndarray
) -> None:
    first = track_ids(rig.ask("left", photo))
    other = track_ids(rig.ask("arm", photo))
    assert len(first) >= 2 and len(set(first)) == len(first) and all(first)
    for _ in range(3):
        assert track_ids(rig.ask("left", photo)) == first
        assert track_ids(rig.ask("arm", photo)) == other
    response = client.call(Trigger, "/genesis/reset_tracks", Trigger.Request())
    assert response.success and "2 cameras" in response.message
    fresh = track_ids(rig.ask("left", photo))
    assert all(fresh) and not set(fresh) & set(first)
    assert client.set_parameter(NODE, "tracking", False).successful
    assert not any(track_ids(rig.ask("left", photo)))
    assert client.set_parameter(NODE, "tracking", True).successful
    assert all(track_ids(rig.ask("left", photo)))


def test_pause_and_go_on(client: Any, rig: Rig, photo: np.ndarray) -> None:
    def pause(paused: bool) -> None:
        response = client.call(SetBool, "/genesis/pause", SetBool.Request(data=paused))
        assert response.success, response.message

    rig.ask("left", photo)
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        pause(True)
        lost = rig.publish("left", photo)

        def told() -> bool:
            state = client.status(reports[-1], NODE)[1]["state"]
            count = client.status(reports[-1], f"{NODE}: {LEFT}")[1]["frames paused"]
            return state == "paused" and count == "1"

        client.until(lambda: reports and told(), "a report about the pause")
        request = SegmentImage.Request(image=to_message(photo, Image().header))
        assert client.call(SegmentImage, "/genesis/segment_image", request).success
        pause(False)
    rig.ask("left", photo)
    assert milliseconds(lost) not in [message.header.stamp for message in rig.masks]


def test_a_region_of_one_camera_is_set_while_the_node_runs(
    client: Any, rig: Rig, photo: np.ndarray
) -> None:
    assert client.set_parameter(NODE, "regions", ["0.25 0.5 0.5 0.5", ""]).successful
    try:
        labels = label_image(rig.ask("left", photo))
        height, width = labels.shape
        rows, columns = slice(height // 2, None), slice(width // 4, width - width // 4)
        assert labels[rows, columns].all()
        assert np.count_nonzero(labels) == labels[rows, columns].size
        assert label_image(rig.ask("arm", photo)).all()
        for value, problem in (
            (["0.25 0.5 0.8 0.5", ""], "region is '0.25', '0.5', '0.8', '0.5'; expected x, y"),
            (["0 0 1 1"], "parameter regions has 1 items, image_topics 2"),
        ):
            refused = client.set_parameter(NODE, "regions", value)
            assert not refused.successful and problem in refused.reason
    finally:
        assert client.set_parameter(NODE, "regions", [""]).successful
    assert label_image(rig.ask("left", photo)).all()


def test_segment_image_answers_like_the_topic(client: Any, rig: Rig, photo: np.ndarray) -> None:
    expected = rig.ask("left", photo)
    header = Image().header
    header.stamp.sec, header.frame_id = 77, "asked"
    request = SegmentImage.Request(image=to_message(photo, header))
    response = client.call(SegmentImage, "/genesis/segment_image", request)
    assert (response.success, response.message) == (True, "")
    found = response.object_masks
    assert (found.header, found.camera, found.model) == (header, "", "tiny")
    np.testing.assert_allclose(full_masks(found), full_masks(expected), atol=1 / 255)
    assert not any(track_ids(found))
    bad = SegmentImage.Request(image=Image(height=1, width=1, encoding="xyz12"))
    response = client.call(SegmentImage, "/genesis/segment_image", bad)
    assert not response.success
    assert "xyz12" in response.message


def test_segment_image_answers_with_positions_where_depth_is_sent(
    client: Any, rig: Rig, photo: np.ndarray, see_depth: Callable[..., int]
) -> None:
    wall = np.full(SHAPE, 2.0, np.float32)
    expected = rig.answer(see_depth(photo, wall))
    depth, info = depth_messages(wall)

    def ask(**messages: object) -> Any:
        request = SegmentImage.Request(image=to_message(photo, Image().header), **messages)
        return client.call(SegmentImage, "/genesis/segment_image", request)

    response = ask(depth=depth, camera_info=info)
    assert (response.success, response.message) == (True, "")
    found = response.object_masks.objects
    assert [item.has_position for item in found] == [i.has_position for i in expected.objects]
    assert sum(item.has_position for item in found) >= 2
    for item, other in zip(found, expected.objects, strict=True):
        for ours, theirs in ((item.position, other.position), (item.size, other.size)):
            expected_at = pytest.approx([theirs.x, theirs.y, theirs.z], abs=0.05)
            assert [ours.x, ours.y, ours.z] == expected_at
    short = Image(height=48, width=64, encoding="32FC1", step=256, data=depth.data[:500])
    for messages, problem in (
        ({"depth": depth}, "camera_info: "),
        ({"depth": short, "camera_info": info}, "depth: "),
        ({"depth": to_message(photo, Image().header), "camera_info": info}, "depth: "),
    ):
        response = ask(**messages)
        assert response.success and response.object_masks.objects
        assert response.message.startswith(problem), response.message
        assert not any(item.has_position for item in response.object_masks.objects)
    response = ask(camera_info=info)
    assert (response.success, response.message) == (True, "")
    depth.header.frame_id = "infrared"
    image = to_message(photo, Image().header)
    image.header.frame_id = "colour"
    request = SegmentImage.Request(image=image, depth=depth, camera_info=info)
    response = client.call(SegmentImage, "/genesis/segment_image", request)
    assert response.success
    assert "depth is in frame infrared, the image in colour: depth that is" in response.message
    assert any(item.has_position for item in response.object_masks.objects)


def depth_messages(metres: np.ndarray) -> tuple[Image, CameraInfo]:
    height, width = metres.shape
    info = CameraInfo(height=height, width=width, k=[80.0, 0, 32, 0, 80.0, 24, 0, 0, 1])
    data = array("B", metres.astype("<f4").tobytes())
    return (
        Image(height=height, width=width, encoding="32FC1", step=4 * width, data=data),
        info,
    )


def test_segment_image_is_refused_by_an_inactive_node(
    client: Any, rig: Rig, photo: np.ndarray
) -> None:
    request = SegmentImage.Request(image=to_message(photo, Image().header))
    assert client.transition(NODE, "deactivate")
    try:
        response = client.call(SegmentImage, "/genesis/segment_image", request)
        assert not response.success
        assert response.message == "the node is inactive; activate it first"
        response = client.call(SetBool, "/genesis/pause", SetBool.Request(data=True))
        assert not response.success and "activate it first" in response.message
    finally:
        assert client.transition(NODE, "activate")


@pytest.fixture
def see_depth(client: Any, rig: Rig, node: Any) -> Iterator[Callable[..., int]]:
    """Function that publishes an image with a depth image of the same stamp (+ late [ms])."""
    depths = client.publisher(Image, DEPTH)
    infos = client.publisher(CameraInfo, INFO)

    def see(pixels: np.ndarray, metres: np.ndarray, late: int = 0, **options: object) -> int:
        stamp = Rig.next_stamp
        message, info = depth_messages(metres)
        message.header.stamp = info.header.stamp = milliseconds(stamp + late)
        infos.publish(info)
        depths.publish(message)
        client.spin(0.2)
        return rig.publish("arm", pixels)

    yield see
    client.node.destroy_publisher(depths)
    client.node.destroy_publisher(infos)


def test_positions_and_markers(
    client: Any, rig: Rig, photo: np.ndarray, see_depth: Callable[..., int]
) -> None:
    """A wall at 2 m, so that a pixel's place follows from the intrinsics."""
    wall = np.full(SHAPE, 2.0, np.float32)
    with client.listen(MarkerArray, "/genesis/arm/markers") as markers:
        client.spin(0.5)
        message = rig.answer(see_depth(photo, wall))
        client.until(lambda: markers, "markers")
    labels = label_image(message)
    measured = [item for item in message.objects if item.has_position]
    assert len(measured) >= 2
    for item in measured:
        rows, columns = np.nonzero(large_parts(labels == item.label))
        assert item.position.z == pytest.approx(2)
        assert item.position.x == pytest.approx((columns.mean() - 32) / 80 * 2, abs=1e-3)
        assert item.position.y == pytest.approx((rows.mean() - 24) / 80 * 2, abs=1e-3)
        assert item.size.x <= (np.ptp(columns) + 1) / 80 * 2
        assert item.size.z == pytest.approx(0, abs=1e-6)
    shown = {marker.text for marker in markers[-1].markers if marker.text}
    assert len(shown) == len(measured)
    left = rig.ask("left", photo)
    assert not any(item.has_position for item in left.objects)


def large_parts(mask: np.ndarray) -> np.ndarray:
    """Without the fragments that an untrained model's masks are full of: positions ignore them."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    return np.isin(parts, 1 + np.flatnonzero(areas >= 0.1 * areas.max()))


def test_depth_that_does_not_fit_costs_the_positions_only(
    client: Any, rig: Rig, photo: np.ndarray, see_depth: Callable[..., int]
) -> None:
    wall = np.full(SHAPE, 2.0, np.float32)
    for metres, late, problem in (
        (wall, 100_000, "no depth image of the image's time"),
        (np.full((48, 48), 2.0, np.float32), 0, "the depth is 48x48, the image 64x48: they"),
        (np.full(SHAPE, np.nan, np.float32), 0, None),
    ):
        with client.listen(DiagnosticArray, "/diagnostics") as reports:
            message = rig.answer(see_depth(photo, metres, late))
            assert message.objects
            assert not any(item.has_position for item in message.objects)
            if problem is not None:

                def told(problem: str = problem) -> bool:
                    text = client.status(reports[-1], f"{NODE}: {RIGHT}")[0].message
                    return text.startswith("no positions: ") and problem in text

                client.until(lambda: reports and told(), f"a report that says {problem!r}")


def test_names_of_cameras() -> None:
    topics = ["/left/image_raw", "/arm/color/image_raw/compressed"]
    assert camera_names(topics, ["", ""]) == ["left", "arm"]
    topics = ["/a/head/image", "/b/head/image"]
    assert camera_names(topics, ["", ""]) == ["a_head_image", "b_head_image"]
    assert camera_names(topics, ["first", ""]) == ["first", "head"]
    assert camera_names(["/image_raw"], [""]) == ["camera"]
    infrared = ["/camera/camera/infra1/image_rect_raw", "/camera/camera/infra2/image_rect_raw"]
    assert camera_names(infrared, ["", ""]) == ["infra1", "infra2"]
    for topic, name in (
        ("/kinect2/hd/image_color_rect", "hd"),
        ("/zed/node/rgb/rect/image", "node"),
    ):
        assert camera_names([topic], [""]) == [name]
    # A name of one's own that another camera would get; one topic for two cameras.
    for topics, given in ((["/x/image_raw", "/left"], ["left", ""]), (["/a/image"] * 2, ["", ""])):
        with pytest.raises(ValueError, match=r"several cameras would be called .*camera_names"):
            camera_names(topics, given)
