"""From a model's slots to objects: scene, objects, tracks, depth and pictures, without ROS."""
