"""A planner's side: the largest object that is being tracked, for every image.

Start the node first (`ros2 launch genesis_ros perception.launch.py`), then
python -m examples.planner
"""

from contextlib import suppress

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from genesis_ros.masks import targets
from genesis_ros.msg import ObjectMasks


def on_masks(message: ObjectMasks) -> None:
    tracked = [item for item in targets(message) if item.id]
    if tracked:
        largest = max(tracked, key=lambda item: item.area)
        print(largest.id, largest.area, largest.centroid, largest.position, flush=True)


rclpy.init()
node = Node("planner")
with suppress(KeyboardInterrupt, ExternalShutdownException):  # Ctrl-C
    node.create_subscription(ObjectMasks, "/genesis/object_masks", on_masks, 5)
    rclpy.spin(node)
