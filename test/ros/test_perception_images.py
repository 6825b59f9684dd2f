"""A running perception node, as a camera and a planner see it: every kind of image, good and bad.

One node serves all tests of this file. Its model is untrained, so nothing here asks what the masks
show; test_perception_scenes.py does.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from genesis_bags.decoding.images import ENCODINGS, to_rgb
from genesis_bags.decoding.pixels import mono8_pixels
from genesis_core.perception import SceneObject, SceneObjects, draw_overlay
from genesis_ros.masks import full_masks, label_image
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

TOPIC = "/images_test/image_raw"
MASKS = "/genesis/object_masks"
NODE = "/genesis/perception"


@pytest.fixture(scope="module")
def node(
    ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    parameters = {
        "checkpoint": str(tiny_checkpoint),
        "device": "cpu",
        "precision": "fp32",
        "image_topics": [TOPIC],
        "min_area": 0.0,
        "mask_floor": 0.0,
        "diagnostics_period": 0.2,
        "stale_timeout": 0.5,
    }
    directory = tmp_path_factory.mktemp("node")
    with node_process("genesis_ros.perception_node", directory, parameters) as node:
        node.wait_for_log("active: listening to")
        yield node
        assert node.alive, node.log


class Camera:
    """Publishes images with stamps of their own and waits for the masks."""

    next_stamp = 1

    def __init__(self, client: Any, masks: list[ObjectMasks]) -> None:
        self._client = client
        self._masks = masks
        self.raw = client.publisher(Image, TOPIC)

    def publish(self, message: Any, publisher: Any = None) -> int:
        """Send an image; returns its stamp."""
        stamp = Camera.next_stamp
        Camera.next_stamp += 1
        message.header.stamp.sec = stamp
        message.header.frame_id = f"frame_{stamp}"
        (publisher or self.raw).publish(message)
        return stamp

    def answer(self, stamp: int) -> ObjectMasks:
        """The masks of the image with this stamp."""
        self._client.until(lambda: self._answers(stamp), f"masks of image {stamp}")
        (message,) = self._answers(stamp)
        assert message.header.frame_id == f"frame_{stamp}"
        return message

    def ask(self, message: Any, publisher: Any = None) -> ObjectMasks:
        return self.answer(self.publish(message, publisher))

    def answered(self) -> list[int]:
        """Stamps of all images that got masks."""
        return [message.header.stamp.sec for message in self._masks]

    def _answers(self, stamp: int) -> list[ObjectMasks]:
        return [message for message in self._masks if message.header.stamp.sec == stamp]


@pytest.fixture
def camera(node: Any, client: Any) -> Iterator[Camera]:
    with client.listen(ObjectMasks, MASKS) as masks:
        yield Camera(client, masks)


def wait_for_counts(
    client: Any, reports: list[DiagnosticArray], source: str = TOPIC, **counts: int
) -> None:
    """Wait for a report in which these totals hold."""

    def hold() -> bool:
        _, values = client.status(reports[-1], f"{NODE}: {source}")
        return all(int(values[f"frames {name}"]) == count for name, count in counts.items())

    client.until(lambda: reports and hold(), f"diagnostics with {counts}")


def counts_now(client: Any, reports: list[DiagnosticArray]) -> dict[str, int]:
    """Totals, once nothing changes any more."""
    found: list[dict[str, int]] = []

    def steady() -> bool:
        _, values = client.status(reports[-1], f"{NODE}: {TOPIC}")
        found.append({k.split()[1]: int(v) for k, v in values.items() if k.startswith("frames ")})
        return len(found) > 2 and found[-1] == found[-3]

    while True:
        seen = len(reports)
        client.until(lambda seen=seen: len(reports) > seen, "a diagnostics report")
        if steady():
            return found[-1]


def test_masks_label_image_and_overlay_agree(
    client: Any, camera: Camera, photo: np.ndarray, encode: Callable[..., Image]
) -> None:
    with (
        client.listen(Image, "/genesis/label_image") as labels,
        client.listen(Image, "/genesis/overlay") as overlays,
    ):
        client.spin(0.5)  # until the node knows of both listeners
        message = camera.ask(encode(photo, "rgb8"))
        client.until(lambda: labels and overlays, "label image and overlay")
    assert (message.camera, message.model) == ("images_test", "tiny")
    assert (message.height, message.width) == photo.shape[:2]
    assert labels[-1].header == overlays[-1].header == message.header

    found = mono8_pixels(labels[-1])
    np.testing.assert_array_equal(label_image(message), found)
    assert [item.label for item in message.objects] == list(range(1, len(message.objects) + 1))
    assert len(message.objects) >= 2
    assert found.all()  # the model saw every pixel
    for item in message.objects:
        rows, columns = np.nonzero(found == item.label)
        assert item.area == len(rows)
        assert item.centroid_x == pytest.approx(columns.mean())
        assert item.centroid_y == pytest.approx(rows.mean())
        assert len(item.latent_mean) == len(item.latent_std) == 64
        assert min(item.latent_std) > 0
        assert 0 < item.score <= 1
        assert item.mask.header == message.header
        assert item.track_id > 0 and not item.has_position
    np.testing.assert_allclose(full_masks(message).sum(axis=0), 1, atol=1e-6)

    objects = [
        SceneObject(
            label=item.label,
            slot=0,
            background=item.background,
            score=item.score,
            area=item.area,
            centroid=(item.centroid_x, item.centroid_y),
            box=None,  # type: ignore[arg-type]
            own_box=None,  # type: ignore[arg-type]
            mask=None,  # type: ignore[arg-type]
            latent_mean=None,  # type: ignore[arg-type]
            latent_std=None,  # type: ignore[arg-type]
        )
        for item in message.objects
    ]
    track_ids = [item.track_id for item in message.objects]
    expected = draw_overlay(photo, SceneObjects(objects, found), 0.5, track_ids)
    assert overlays[-1].encoding == "rgb8"
    np.testing.assert_array_equal(to_rgb(overlays[-1]), expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding(
    camera: Camera, photo: np.ndarray, encode: Callable[..., Image], encoding: str
) -> None:
    """The masks are those of the same image as rgb8: conversion loses nothing on the way."""
    message = camera.ask(encode(photo, encoding, padding=4))
    plain = camera.ask(to_message(np.array(to_rgb(encode(photo, encoding))), message.header))
    assert message.objects
    np.testing.assert_array_equal(full_masks(message), full_masks(plain))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (333, 7), (240, 320), (480, 640)])
def test_image_size(camera: Camera, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    message = camera.ask(to_message(pixels, Image().header))
    assert (message.height, message.width) == shape
    assert full_masks(message).shape[1:] == shape
    np.testing.assert_allclose(full_masks(message).sum(axis=0), 1, atol=1e-6)


def test_same_image_same_masks(
    camera: Camera, photo: np.ndarray, encode: Callable[..., Image]
) -> None:
    first, second = (camera.ask(encode(photo, "rgb8")) for _ in range(2))
    np.testing.assert_array_equal(full_masks(first), full_masks(second))
    assert list(first.objects[0].latent_mean) == list(second.objects[0].latent_mean)


def spoil(message: Image, **fields: object) -> Image:
    for name, value in fields.items():
        setattr(message, name, value)
    return message


BAD_IMAGES = {
    "unknown encoding": {"encoding": "xyz12"},
    "depth": {"encoding": "32FC1"},
    "no size": {"height": 0, "width": 0},
    "empty": {"data": array("B")},
    "truncated": {"data": array("B", bytes(9000))},
    "wrong step": {"step": 200},
    "no step": {"step": 0},
}


@pytest.mark.parametrize("case", [*BAD_IMAGES, "nothing at all"])
def test_bad_image_is_refused_and_the_next_good_one_served(
    node: Any,
    client: Any,
    camera: Camera,
    photo: np.ndarray,
    encode: Callable[..., Image],
    case: str,
) -> None:
    bad = Image() if case not in BAD_IMAGES else spoil(encode(photo, "rgb8"), **BAD_IMAGES[case])
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        before = counts_now(client, reports)
        lost = camera.publish(bad)
        wait_for_counts(client, reports, refused=before["refused"] + 1)
        levels = [client.status(report, f"{NODE}: {TOPIC}")[0] for report in reports]
        (refusal,) = [s.message for s in levels if "1 unusable frames: " in s.message]
    problem = refusal.partition("1 unusable frames: ")[2]
    with pytest.raises(ValueError) as error:
        to_rgb(bad)
    assert problem == str(error.value)
    camera.ask(encode(photo, "rgb8"))
    assert lost not in camera.answered()
    assert f"dropped a frame of {TOPIC}: " in node.log
    assert "Traceback" not in node.log


@pytest.mark.slow
def test_the_same_problem_is_logged_once(
    node: Any, client: Any, camera: Camera, encode: Callable[..., Image], photo: np.ndarray
) -> None:
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        before = counts_now(client, reports)
        for _ in range(20):
            camera.publish(spoil(encode(photo, "rgb8"), encoding="throttled"))
            client.spin(0.02)
        camera.ask(encode(photo, "rgb8"))
        after = counts_now(client, reports)
    assert after["refused"] > before["refused"] + 2
    # At most one per five seconds; the other encodings of this file count as the same problem.
    assert node.log.count("encoding 'throttled' cannot be used") <= 2


def test_newest_frame_is_served_and_the_others_are_counted(client: Any, camera: Camera) -> None:
    """Large images come faster than the node can work: the queue must not grow."""
    pixels = np.random.default_rng(0).integers(0, 255, (720, 960), dtype=np.uint8)
    message = to_message(pixels, Image().header)
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        before = counts_now(client, reports)
        answered = len(camera.answered())
        stamps = []
        for _ in range(6):
            # No more at once than the node keeps answers for a planner that is late: all arrive.
            stamps += [camera.publish(message) for _ in range(5)]
            camera.answer(stamps[-1])
        after = counts_now(client, reports)
    change = {name: after[name] - before[name] for name in after}
    served = camera.answered()[answered:]
    assert served == sorted(set(served)) and set(served) <= set(stamps)
    assert change["dropped"] > 0
    assert change["processed"] == len(served)
    assert change["received"] == change["processed"] + change["dropped"]
    assert change["refused"] == change["failed"] == 0


def test_silence_is_reported(client: Any, camera: Camera, photo: np.ndarray, node: Any) -> None:
    camera.ask(to_message(photo, Image().header))
    with client.listen(DiagnosticArray, "/diagnostics") as reports:

        def silent() -> bool:
            status, _ = client.status(reports[-1], f"{NODE}: {TOPIC}")
            return status.level == DiagnosticStatus.WARN and "no image for" in status.message

        client.until(lambda: reports and silent(), "a warning about silence")
    node.wait_for_log(f"no image on {TOPIC} for")


def test_diagnostics_name_model_rate_latency_and_slots(
    client: Any, camera: Camera, photo: np.ndarray
) -> None:
    with client.listen(DiagnosticArray, "/diagnostics") as reports:
        camera.ask(to_message(photo, Image().header))

        def complete() -> bool:
            return "total maximum [ms]" in client.status(reports[-1], f"{NODE}: {TOPIC}")[1]

        client.until(lambda: reports and complete(), "a report about the image")
        report = reports[-1]
    assert report.header.stamp.sec > 0
    status, values = client.status(report, NODE)
    assert (status.level, status.message) == (DiagnosticStatus.OK, "active")
    assert (values["model"], values["device"], values["precision"]) == ("tiny", "cpu", "fp32")
    status, values = client.status(report, f"{NODE}: {TOPIC}")
    assert (status.level, values["topic"]) == (DiagnosticStatus.OK, TOPIC)
    assert float(values["rate [Hz]"]) > 0
    for part in ("queue", "inference", "processor", "total"):
        mean, p95, maximum = (
            float(values[f"{part} {kind} [ms]"]) for kind in ("mean", "p95", "maximum")
        )
        assert 0 <= mean <= maximum and p95 <= maximum
    inference, processor = (
        float(values[f"{part} mean [ms]"]) for part in ("inference", "processor")
    )
    assert inference > 0
    assert 0 < processor < 1.5 * len(os.sched_getaffinity(0)) * inference + 1
    assert int(values["slots maximum"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("reliability", [ReliabilityPolicy.BEST_EFFORT, ReliabilityPolicy.RELIABLE])
def test_cameras_of_either_reliability_are_heard(
    client: Any, node: Any, photo: np.ndarray, reliability: ReliabilityPolicy
) -> None:
    qos = QoSProfile(depth=5, reliability=reliability)
    with client.listen(ObjectMasks, MASKS) as masks:
        publisher = client.publisher(Image, TOPIC, qos, heard=False)

        def answered() -> bool:
            publisher.publish(to_message(photo, Image().header))
            client.spin(0.1)
            return bool(masks)

        client.until(answered, f"masks for a {reliability.name} camera")
    client.node.destroy_publisher(publisher)


def test_compressed_images(client: Any, node: Any, photo: np.ndarray) -> None:
    """Transport auto: nobody publishes raw images now, so the node takes compressed ones."""
    topic = TOPIC + "/compressed"
    client.until(lambda: not client.node.count_publishers(TOPIC), "the end of raw publishers")
    publisher = client.publisher(CompressedImage, topic)
    jpeg = array("B", cv2.imencode(".jpg", photo[..., ::-1])[1].tobytes())
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):
        camera = Camera.__new__(Camera)
        camera._client, camera._masks, camera.raw = client, masks, publisher
        message = camera.ask(CompressedImage(format="jpeg", data=jpeg))
        assert message.camera == "images_test"
        assert (message.height, message.width) == photo.shape[:2]
        lost = []
        for file_format, data, problem in (
            ("jpeg", jpeg[: len(jpeg) // 2], "the JPEG is cut off"),
            ("jpeg", array("B", bytes(500)), "500 bytes of format 'jpeg'"),
            ("png", array("B"), "the compressed image is empty"),
        ):
            lost.append(camera.publish(CompressedImage(format=file_format, data=data)))
            client.until(lambda: problem in str(reports), problem)  # noqa: B023
            camera.ask(CompressedImage(format="jpeg", data=jpeg))
    assert not set(lost) & set(camera.answered())
    assert f"dropped a frame of {topic}: " in node.log

    # The raw topic comes back, and is preferred again.
    client.node.destroy_publisher(publisher)
    client.publisher(Image, TOPIC)
