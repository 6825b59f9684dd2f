"""Arrays as ROS messages, messages as bytes, and what belongs to an image: camera, depth, time."""
