"""The RViz configuration shows what the node publishes. (RViz itself is not started.)"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from sensor_msgs.msg import Image

from genesis_ros.messages.images import to_message

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).resolve().parents[2] / "config" / "perception.rviz"
# Which message type a display of RViz subscribes to.
TYPES = {
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
}


@pytest.fixture(scope="module")
def manager() -> dict[str, Any]:
    return yaml.safe_load(CONFIG.read_text())["Visualization Manager"]


def test_displays_show_what_camera_and_node_publish(
    manager: dict[str, Any],
    client: Any,
    node_process: Any,
    tiny_checkpoint: Path,
    tmp_path: Path,
    photo: Any,
) -> None:
    """All of it, with a quality of service that goes together with the publisher's."""
    wanted = {
        item["Topic"]["Value"]: (TYPES[item["Class"]], item["Topic"]["Reliability Policy"])
        for item in manager["Displays"]
        if "Topic" in item
    }
    assert {kind for kind, _ in wanted.values()} == set(TYPES.values())
    # All parameters but the model are the defaults, and so are the topics.
    parameters = {"checkpoint": str(tiny_checkpoint), "device": "cpu"}
    with node_process("genesis_ros.perception_node", tmp_path, parameters) as node:
        node.wait_for_log("active: ")
        camera = client.publisher(Image, "/camera/image_raw")
        camera.publish(to_message(photo, Image().header))
        for topic, (kind, reliability) in wanted.items():
            client.until(lambda topic=topic: client.node.count_publishers(topic), topic)
            (publisher,) = client.node.get_publishers_info_by_topic(topic)
            assert publisher.topic_type == kind
            offered = publisher.qos_profile
            assert reliability == "Best Effort" or offered.reliability.name == "RELIABLE"


def test_the_fixed_frame_is_that_of_the_simulated_camera(
    manager: dict[str, Any], client: Any, node_process: Any, tmp_path: Path, photo: Any
) -> None:
    """With markers in the fixed frame itself, RViz needs no TF."""
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), photo)
    parameters = {"source": "path", "path": str(tmp_path / "images"), "loop": True}
    with (
        node_process("genesis_ros.camera_node", tmp_path, parameters),
        client.listen(Image, "/camera/image_raw") as images,
    ):
        client.until(lambda: images, "an image of the simulated camera")
    assert images[0].header.frame_id == manager["Global Options"]["Fixed Frame"]


def test_displays_and_panels_are_told_apart(manager: dict[str, Any]) -> None:
    """RViz names the docks of image displays after the displays."""
    names = [item["Name"] for item in manager["Displays"]]
    assert len(set(names)) == len(names)
    geometry = yaml.safe_load(CONFIG.read_text())["Window Geometry"]
    images = [item["Name"] for item in manager["Displays"] if item["Class"].endswith("/Image")]
    assert set(images) <= geometry.keys()
