"""Image messages as arrays, without ROS: for the node, segment_bag and training alike."""
