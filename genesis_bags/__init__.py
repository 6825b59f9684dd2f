"""Reading bags, and the images in them as arrays: needs neither ROS nor PyTorch."""
