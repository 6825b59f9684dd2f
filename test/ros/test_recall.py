"""What pause and reset_tracks answer holds, also for the image that the model is looking at then.

Rules stand in the model's place (stand_in.py), and take long: a red square is an object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger

from genesis_ros.masks import targets
from genesis_ros.messages.images import to_message
from genesis_ros.msg import ObjectMasks

pytestmark = pytest.mark.slow

NODE, TOPIC, MASKS = "/genesis/perception", "/eye/image_raw", "/genesis/object_masks"
PASS = 2.5  # s

Show = Callable[[int], None]


@pytest.fixture
def show(client: Any, node_process: Any, tiny_checkpoint: Path, tmp_path: Path) -> Iterator[Show]:
    """Function that publishes an image with this number, in tenths of a second, as its stamp."""
    parameters = {
        "checkpoint": str(tiny_checkpoint), "device": "cpu", "image_topics": [TOPIC],
        "diagnostics_period": 0.2,
    }  # fmt: skip
    stand_in, slow = Path(__file__).with_name("stand_in.py"), {"STAND_IN_SECONDS": str(PASS)}
    with node_process(stand_in, tmp_path, parameters, environment=slow) as node:
        node.wait_for_log("active: listening to")
        cameras = client.publisher(Image, TOPIC)
        picture = np.full((48, 64, 3), 30, np.uint8)
        picture[10:20, 5:15] = (250, 20, 20)

        def show(number: int) -> None:
            header = Header(frame_id="eye")
            header.stamp.sec, header.stamp.nanosec = divmod(number * 10**8, 10**9)
            cameras.publish(to_message(picture, header))
            client.spin(0.3)  # until the model looks at it

        yield show
        assert node.alive and "Traceback" not in node.log


def numbers(messages: list[Any]) -> list[int]:
    """Of the images that messages are about."""
    return [10 * item.header.stamp.sec + item.header.stamp.nanosec // 10**8 for item in messages]


def pause(client: Any, paused: bool) -> None:
    assert client.call(SetBool, "/genesis/pause", SetBool.Request(data=paused)).success


def test_after_reset_tracks_no_old_id_is_published(client: Any, show: Show) -> None:
    with client.listen(ObjectMasks, MASKS) as masks:
        show(11)
        client.until(lambda: masks, "masks")
        show(12)
        response = client.call(Trigger, "/genesis/reset_tracks", Trigger.Request())
        assert response.success and numbers(masks) == [11]
        client.until(lambda: len(masks) == 2, "masks of the image in work")
        show(13)
        client.until(lambda: len(masks) == 3, "masks of the next image")
    old, new, same = (targets(message)[0].id for message in masks)
    assert numbers(masks) == [11, 12, 13]
    assert new > old > 0
    assert same == new


def test_after_pause_nothing_of_before_is_published(client: Any, show: Show) -> None:
    """Neither of the image in work, nor of the one that waits, and not after the pause either."""
    with (
        client.listen(ObjectMasks, MASKS) as masks,
        client.listen(Image, "/genesis/overlay") as overlays,
        client.listen(DiagnosticArray, "/diagnostics") as reports,
    ):
        show(11)
        client.until(lambda: masks and overlays, "masks and a picture")
        show(12)
        show(13)
        pause(client, True)
        client.spin(2 * PASS + 0.5)
        counts = client.frame_counts(reports[-1], f"{NODE}: {TOPIC}")
        assert (counts["received"], counts["processed"], counts["paused"]) == (3, 1, 2)
        pause(client, False)
        show(14)
        client.until(lambda: len(masks) > 1, "masks after the pause")
        show(15)
        pause(client, True)
        pause(client, False)
        show(16)
        client.until(lambda: len(masks) > 2 and len(overlays) > 2, "masks after a short pause")
    assert numbers(masks) == numbers(overlays) == [11, 14, 16]
    ids = {targets(message)[0].id for message in masks}
    assert len(ids) == 1  # tracks go on


def test_deactivation_ends_a_pause_and_the_tracks(client: Any, show: Show) -> None:
    """Ids of before are not given again: who remembers them would take the thing for another."""
    with client.listen(ObjectMasks, MASKS) as masks:
        show(11)
        client.until(lambda: masks, "masks")
        pause(client, True)
        assert client.transition(NODE, "deactivate") and client.transition(NODE, "activate")
        show(12)
        client.until(lambda: len(masks) > 1, "masks after the pause that has ended")
    old, new = (targets(message)[0].id for message in masks)
    assert new > old > 0
