"""What becomes of the image that the model is looking at when the node is deactivated.

Rules stand in the model's place (stand_in.py), and take long: a red square is an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from genesis_ros.masks import objects
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

NODE, MASKS = "/genesis/perception", "/genesis/object_masks"
TOPIC, DEPTH, INFO = "/eye/image_raw", "/eye/depth/image_raw", "/eye/depth/camera_info"
HEIGHT, WIDTH = 48, 64
PATIENCE = 10.0  # s that a deactivation waits for the image in work

Start = Callable[..., Any]


@pytest.fixture
def start(ros: None, node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts a node whose model takes so many seconds, with these parameters and some others."""
    processes = []

    def start(seconds: float, **parameters: object) -> Any:
        given = {
            "checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC],
            **parameters,
        }  # fmt: skip
        slow = {"STAND_IN_SECONDS": str(seconds)}
        script = Path(__file__).with_name("stand_in.py")
        process = node_process(script, tmp_path, given, environment=slow)
        processes.append(process)
        process.wait_for_log("active: listening to")
        return process

    yield start
    for process in processes:
        assert process.alive and "Traceback" not in process.log
        process.__exit__()


def picture(number: int) -> Image:
    """An image of this second."""
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    pixels[10:30, 5:25] = (250, 20, 20)
    header = Header(frame_id="eye")
    header.stamp.sec = number
    return to_message(pixels, header)


def test_an_image_that_comes_in_time_is_published_with_its_positions(
    client: Any, start: Start
) -> None:
    """Depth is asked for after the model's pass, which goes on when the subscriptions end."""
    node = start(2.0, depth_topics=[DEPTH], use_depth="never")
    images = client.publisher(Image, TOPIC)
    depths, infos = client.publisher(Image, DEPTH), client.publisher(CameraInfo, INFO)
    image = picture(11)
    matrix = [60.0, 0.0, (WIDTH - 1) / 2, 0.0, 60.0, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0]
    with client.listen(ObjectMasks, MASKS) as masks:
        infos.publish(CameraInfo(header=image.header, height=HEIGHT, width=WIDTH, k=matrix))
        metres = np.full((HEIGHT, WIDTH), 1.0, np.float32)
        depths.publish(
            Image(
                header=image.header, height=HEIGHT, width=WIDTH, encoding="32FC1",
                step=4 * WIDTH, data=metres.tobytes(),
            )
        )  # fmt: skip
        client.spin(0.3)
        images.publish(image)
        node.wait_for_log("a pass begins")
        assert not masks
        assert client.transition(NODE, "deactivate")
        client.until(lambda: masks, "masks of the image in work")
    (square,) = [item for item in objects(masks[0]) if not item.background]
    assert square.position is not None and square.position[2] == pytest.approx(1.0)


def test_an_image_that_comes_too_late_is_not_published_after_the_next_activation(
    client: Any, start: Start
) -> None:
    """A pass that hangs outlives its camera: what it found is old."""
    node = start(PATIENCE + 6)
    images = client.publisher(Image, TOPIC)
    with client.listen(ObjectMasks, MASKS) as masks:
        images.publish(picture(11))
        node.wait_for_log("a pass begins")
        assert client.transition(NODE, "deactivate")
        assert "the model did not finish its last frame in time" in node.log
        assert client.transition(NODE, "activate")
        client.until(images.get_subscription_count, "the new subscription")
        client.spin(0.3)
        images.publish(picture(12))
        client.until(lambda: any(item.header.stamp.sec == 12 for item in masks), "new masks")
    assert [message.header.stamp.sec for message in masks] == [12]
