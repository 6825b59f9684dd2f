"""`pip install .`: the same Python code that colcon installs, without the generated messages."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

# What the simulator renders with.
SIMULATOR = ["mujoco>=3.3,<3.4"]
# What reads and writes bags.
BAG = ["mcap>=1.2", "PyYAML>=6", "rosbags>=0.11,<0.12", "tqdm>=4.60", "zstandard>=0.18"]

manifest = ElementTree.parse(Path(__file__).with_name("package.xml")).getroot()


def text(tag: str) -> str:
    """Content of an element of package.xml, on one line."""
    return " ".join(manifest.findtext(tag, "").split())


setup(
    name=text("name"),
    version=text("version"),
    description=text("description"),
    license=text("license"),
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[
        *find_packages(
            include=["genesis_bags*", "genesis_core*", "genesis_ros*", "genesis_sim*", "training*"]
        ),
        "training.config",
    ],
    package_dir={"training.config": "config/training"},
    package_data={
        "genesis_core": ["checkpoints/*", "ops/native/*"],
        "genesis_ros": ["data/*"],
        "training": ["report_page/*"],
        "training.config": ["**/*.yaml"],
    },
    # Lower bounds only: the exact versions that are tested are in requirements/. rclpy and the ROS
    # messages come from a ROS installation or from requirements/ros.txt.
    install_requires=[
        "numpy>=1.26",
        "opencv-python-headless>=4.6,<5",
        "safetensors>=0.4",
        "scipy>=1.8",
        "torch>=2.6",
    ],
    extras_require={
        "bag": BAG,
        "data": [*BAG, "av>=14", "pyarrow>=17", "pycocotools>=2.0.8"],
        "demo": [*BAG, *SIMULATOR],
        "ray": ["ray>=2.40"],
        "training": [
            *SIMULATOR,
            "PyYAML>=6",
            "docstring-parser>=0.15",
            "google-crc32c>=1.5",
            "jsonargparse>=4.35,<5",
            "matplotlib>=3.8",
            "tensorboard>=2.15",
            "tqdm>=4.60",
        ],
    },
    entry_points={
        "console_scripts": [
            "genesis_perception = genesis_ros.processes.programs:perception_node",
            "genesis_camera = genesis_ros.processes.programs:camera_node",
            "genesis_demo = genesis_ros.processes.programs:demo",
            "genesis_segment_bag = genesis_ros.processes.programs:segment_bag",
        ]
    },
    zip_safe=False,
)
