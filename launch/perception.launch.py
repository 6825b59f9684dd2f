"""Starts the perception node, with camera:=true or camera_input:=FILE also a simulated camera.

ros2 launch genesis_ros perception.launch.py image_topic:=/camera/color/image_raw

Every argument that is left empty keeps the value of params_file. The simulated camera lies beside
the node's namespace, where the node looks by default: /camera for /genesis, and below a namespace
that was pushed /robot1/camera for /robot1/genesis.
"""

from pathlib import PurePosixPath

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from genesis_ros.processes.middleware import profile_environment

# Launch arguments that set the perception node's parameter of the same name.
PARAMETER_ARGUMENTS = {
    "image_transport": "How images arrive; auto: raw, else <image_topic>/compressed",
    "checkpoint": "The model: tabletop, tabletop_256, tabletop_sketchy, tabletop_small, "
    "tabletop_unsupervised, or a path",
    "device": "Where the model runs; auto: CUDA where there is one",
    "precision": "Arithmetic of the model",
    "fit": "How an image becomes the model's square input: squeezed, or its central square alone",
    "target_frame": "Publish positions in this frame of tf2, too, on object_poses",
}

# Those that set one of true and false.
SWITCHES = {
    "autostart": "Configure and activate the node at start-up; false: a lifecycle manager does it",
    "use_sim_time": "Take the time from /clock",
}

# The values that launch accepts, beside none at all.
CHOICES = {
    "image_transport": ["auto", "raw", "compressed"],
    "device": ["auto", "cpu", "cuda", *(f"cuda:{number}" for number in range(16))],
    "precision": ["auto", "fp32", "bf16", "fp16"],
    "fit": ["resize", "crop"],
    "autostart": ["true", "false"],
    "use_sim_time": ["true", "false"],
}
LOG_LEVELS = ["debug", "info", "warn", "error", "fatal"]

# Those that set a list of topics: the parameter's name and what the argument means.
TOPIC_ARGUMENTS = {
    "image_topic": ("image_topics", "Camera image topic; several: /left/image,/right/image"),
    "depth_topic": ("depth_topics", "Depth image topic of each camera, for positions and sizes"),
    "camera_info_topic": (
        "camera_info_topics",
        "Intrinsics of each depth image, if not camera_info beside it",
    ),
}


def generate_launch_description() -> LaunchDescription:
    """The arguments and the nodes; called by ros2 launch."""
    params_file = config_file("perception.yaml")
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "namespace",
                default_value="genesis",
                description="Namespace of the node and of its topics",
            ),
            DeclareLaunchArgument(
                "name", default_value="perception", description="Name of the node"
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=params_file,
                description="YAML file with the node's parameters",
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description=description)
                for name, (_, description) in TOPIC_ARGUMENTS.items()
            ),
            *(
                DeclareLaunchArgument(
                    name,
                    default_value="",
                    description=description,
                    choices=["", *CHOICES[name]] if name in CHOICES else None,
                )
                for name, description in (PARAMETER_ARGUMENTS | SWITCHES).items()
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=LOG_LEVELS,
                description="What the node says, at least",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                choices=["true", "false"],
                description="Start the node again, after two seconds, if it ends by itself",
            ),
            DeclareLaunchArgument(
                "camera",
                default_value="false",
                choices=["true", "false"],
                description="Also start a simulated camera, beside the node's namespace",
            ),
            DeclareLaunchArgument(
                "camera_input",
                default_value="",
                description="Start that camera, and play this: image folder, video or bag; with "
                "camera:=true alone it plays generated scenes, with depth",
            ),
            OpaqueFunction(function=start_perception),
            OpaqueFunction(function=start_camera),
        ]
    )


def config_file(name: str) -> PathJoinSubstitution:
    """A file of the package's config folder."""
    return PathJoinSubstitution([FindPackageShare("genesis_ros"), "config", name])


def start_perception(context: LaunchContext) -> list[Node]:
    """The perception node; arguments that were given take precedence over the parameter file."""
    given: dict[str, ParameterValue | list[str] | bool] = {
        name: ParameterValue(value, value_type=str)  # else 12 or true would change their type
        for name in PARAMETER_ARGUMENTS
        if (value := LaunchConfiguration(name).perform(context))
    }
    for name in SWITCHES:
        if value := LaunchConfiguration(name).perform(context):
            given[name] = value == "true"
    for name, (parameter, _) in TOPIC_ARGUMENTS.items():
        if topics := LaunchConfiguration(name).perform(context):
            given[parameter] = [topic.strip() for topic in topics.split(",")]
    if simulated_camera(context) == "" and not {"image_topics", "depth_topics"} & given.keys():
        given["depth_topics"] = [f"{camera_namespace(context)}/depth/image_raw"]
    return [
        Node(
            package="genesis_ros",
            executable="perception_node",
            name=LaunchConfiguration("name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), given],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=LaunchConfiguration("respawn").perform(context) == "true",
            respawn_delay=2.0,
            additional_env=profile_environment(config_file("fastdds.xml")),
            output="screen",
        )
    ]


def camera_namespace(context: LaunchContext) -> str:
    """Where the simulated camera is: beside the node's namespace, with what was pushed before."""
    pushed = context.launch_configurations.get("ros_namespace", "")
    namespace = LaunchConfiguration("namespace").perform(context)
    return str((PurePosixPath("/") / pushed / namespace).parent / "camera")


def simulated_camera(context: LaunchContext) -> str | None:
    """What a simulated camera plays; "": generated scenes, with depth; None: there is no camera."""
    path = LaunchConfiguration("camera_input").perform(context)
    return path if path or LaunchConfiguration("camera").perform(context) == "true" else None


def start_camera(context: LaunchContext) -> list[Node]:
    """The simulated camera, if there is to be one."""
    path = simulated_camera(context)
    if path is None:
        return []
    source: dict[str, str | ParameterValue] = {"source": "tabletop"}
    if path:
        source = {"source": "path", "path": ParameterValue(path, value_type=str)}
    return [
        Node(
            package="genesis_ros",
            executable="camera_node",
            name="camera",
            namespace=camera_namespace(context),
            parameters=[source],
            additional_env=profile_environment(config_file("fastdds.xml")),
            output="screen",
        )
    ]
