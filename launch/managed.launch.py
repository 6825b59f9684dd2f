"""Starts the perception node under nav2's lifecycle manager, which configures and activates it.

ros2 launch genesis_ros managed.launch.py image_topic:=/camera/camera/color/image_raw

It takes the arguments of perception.launch.py but autostart, which is the manager's business, and
respawn: nobody would configure the new node. On the manager's shutdown the node is deactivated,
cleaned up and shut down. The node has no bond: bond_timeout 0.0 tells the manager not to wait for
one. Add the node to your own manager in the same way: its full name among node_names, autostart of
the node false, bond_timeout 0.0.
"""

from pathlib import Path, PurePosixPath

import launch.logging
from launch import LaunchContext, LaunchDescription
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

MANAGER_PARAMETERS = {
    "autostart": True,  # of the manager: it starts its nodes when it is there
    "bond_timeout": 0.0,
}


def generate_launch_description() -> LaunchDescription:
    """The node, waiting, and its manager; called by ros2 launch."""
    # As a plain path, so that --show-args can look into it.
    perception = str(Path(__file__).with_name("perception.launch.py"))
    return LaunchDescription(
        [
            OpaqueFunction(function=check_arguments),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(perception),
                launch_arguments={"autostart": "false"}.items(),
            ),
            OpaqueFunction(function=start_manager),
        ]
    )


def check_arguments(context: LaunchContext) -> None:
    """Say which arguments are not for a node with a manager.

    Raises:
        ValueError: respawn is asked for.
    """
    given = context.launch_configurations
    if given.get("respawn", "").lower() == "true":
        raise ValueError(
            "respawn:=true is of no use under a lifecycle manager: without a bond it does not "
            "notice that the node ended, and nobody configures the new one. Leave respawn out, or "
            "use perception.launch.py respawn:=true, whose node configures itself"
        )
    if given.get("autostart", "").lower() == "true":
        launch.logging.get_logger("managed.launch.py").info(
            "autostart:=true is not passed on to the node: the manager configures and activates it"
        )


def start_manager(context: LaunchContext) -> list[Node]:
    """The manager of the one node, in its namespace."""
    pushed = context.launch_configurations.get("ros_namespace", "")
    namespace, name = (
        LaunchConfiguration(argument).perform(context) for argument in ("namespace", "name")
    )
    managed = PurePosixPath("/") / pushed / namespace / name
    return [
        Node(
            package="nav2_lifecycle_manager",
            executable="lifecycle_manager",
            name="lifecycle_manager",
            namespace=LaunchConfiguration("namespace"),
            parameters=[MANAGER_PARAMETERS, {"node_names": [str(managed)]}],
            output="screen",
        )
    ]
