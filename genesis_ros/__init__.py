"""ROS 2 node that turns camera images into per-object masks with GENESIS-V2."""

from pkgutil import extend_path

# The messages (genesis_ros.msg) are generated into the build's own genesis_ros directory. This
# makes both one package, also where the sources come first on sys.path (checkout, pip install).
__path__ = extend_path(__path__, __name__)
