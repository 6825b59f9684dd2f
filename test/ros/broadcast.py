"""Sends the transforms that it is given on standard input, one JSON object a line.

{"frames": [parent, child], "stamp": seconds, "translation": [x, y, z], "rotation": [x, y, z, w],
"static": false}. It is a process of its own, as tf2_msgs may be built after the tests' one started.
"""

from __future__ import annotations

import json
import sys

import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time
from tf2_msgs.msg import TFMessage

if __name__ == "__main__":
    rclpy.init(args=[])
    node = rclpy.create_node("broadcaster")
    latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publishers = {
        False: node.create_publisher(TFMessage, "/tf", 100),
        True: node.create_publisher(TFMessage, "/tf_static", latched),
    }
    print("ready", flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        transform = TransformStamped(child_frame_id=given["frames"][1])
        transform.header.frame_id = given["frames"][0]
        transform.header.stamp = Time(nanoseconds=round(given["stamp"] * 1e9)).to_msg()
        for part, axes in (("translation", "xyz"), ("rotation", "xyzw")):
            for axis, value in zip(axes, given[part], strict=True):
                setattr(getattr(transform.transform, part), axis, float(value))
        publishers[given["static"]].publish(TFMessage(transforms=[transform]))
