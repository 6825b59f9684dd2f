"""Bags, and the images in messages, as arrays: needs neither ROS nor PyTorch."""
