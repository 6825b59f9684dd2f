"""Starts the perception node, with camera:=true or camera_input:=FILE also a simulated camera.

ros2 launch genesis_ros perception.launch.py image_topic:=/camera/camera/color/image_raw

(The topic of a RealSense camera, as realsense2_camera's rs_launch.py names it.) Every argument that
is left empty keeps the value of params_file. The simulated camera lies beside the node's namespace,
where the node looks by default: /camera for /genesis, and below a namespace that was pushed
/robot1/camera for /robot1/genesis.
"""

from pathlib import Path, PurePosixPath

import launch.logging
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from yaml import YAMLError

from genesis_ros.node.parameter_file import is_for, no_section, sections
from genesis_ros.processes.middleware import profile_environment

# Launch arguments that set the perception node's parameter of the same name.
PARAMETER_ARGUMENTS = {
    "image_transport": "How images arrive; auto: raw, else <image_topic>/compressed",
    "checkpoint": "The model: tabletop, tabletop_256, tabletop_sketchy, tabletop_small, "
    "tabletop_unsupervised, or a path",
    "device": "Where the model runs; auto: CUDA where there is one",
    "precision": "Arithmetic of the model",
    "fit": "How an image, or its region, becomes the model's square input: squeezed, or its "
    "central square alone",
    "target_frame": "Publish positions in this frame of tf2, too, on object_poses",
}

# Those that set one of true and false.
SWITCHES = {
    "autostart": "Configure and activate the node at start-up; false: a lifecycle manager does it",
    "use_sim_time": "Take the time from /clock",
}


class AnyCase(list[str]):
    """Values that an argument accepts in any case: Python's True, too, and ROS's INFO."""

    def __contains__(self, value: object) -> bool:
        return super().__contains__(str(value).lower())


TRUE_OR_FALSE = AnyCase(["true", "false"])
LOG_LEVELS = AnyCase(["debug", "info", "warn", "error", "fatal"])

# The values that launch accepts, beside none at all.
CHOICES = {
    "image_transport": ["auto", "raw", "compressed"],
    "device": ["auto", "cpu", "cuda", *(f"cuda:{number}" for number in range(16))],
    "precision": ["auto", "fp32", "bf16", "fp16"],
    "fit": ["resize", "crop"],
}

# Those that set a list with an item per camera: the parameter, what is to be written, and what the
# argument means.
LIST_ARGUMENTS = {
    "image_topic": (
        "image_topics",
        "TOPIC",
        "Camera image topic; several: /left/image,/right/image",
    ),
    "depth_topic": (
        "depth_topics",
        "TOPIC",
        "Depth image topic of each camera, for positions and sizes",
    ),
    "camera_info_topic": (
        "camera_info_topics",
        "TOPIC",
        "Intrinsics of each depth image, if not camera_info beside it",
    ),
    "region": (
        "regions",
        "'X Y WIDTH HEIGHT'",
        "Part of each camera's images that the model is to see, x, y, width and height as shares: "
        "'0.2 0.3 0.6 0.7'",
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
                description="YAML file with the node's parameters, and the simulated camera's",
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description=description)
                for name, (_, _, description) in LIST_ARGUMENTS.items()
            ),
            *(
                DeclareLaunchArgument(
                    name,
                    default_value="",
                    description=description,
                    choices=["", *CHOICES[name]] if name in CHOICES else None,
                )
                for name, description in PARAMETER_ARGUMENTS.items()
            ),
            *(
                DeclareLaunchArgument(
                    name,
                    default_value="",
                    description=description,
                    choices=AnyCase(["", *TRUE_OR_FALSE]),
                )
                for name, description in SWITCHES.items()
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
                choices=TRUE_OR_FALSE,
                description="Start the node again, after two seconds, if it ends by itself",
            ),
            DeclareLaunchArgument(
                "camera",
                default_value="false",
                choices=TRUE_OR_FALSE,
                description="Also start a simulated camera, beside the node's namespace",
            ),
            DeclareLaunchArgument(
                "camera_input",
                default_value="",
                description="Start that camera, and play this: image folder, video or bag; with "
                "camera:=true alone it plays generated scenes, with depth",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=TRUE_OR_FALSE,
                description="Also start RViz with the package's configuration, of default topics",
            ),
            OpaqueFunction(function=name_ignored_parameters),
            OpaqueFunction(function=start_perception),
            OpaqueFunction(function=start_camera),
            OpaqueFunction(function=start_rviz),
        ]
    )


def config_file(name: str) -> PathJoinSubstitution:
    """A file of the package's config folder."""
    return PathJoinSubstitution([FindPackageShare("genesis_ros"), "config", name])


def is_on(argument: str, context: LaunchContext) -> bool:
    """Whether a switch was given as true."""
    return LaunchConfiguration(argument).perform(context).lower() == "true"


def name_ignored_parameters(context: LaunchContext) -> None:
    """Warn of parameters of the node that were given in place of arguments.

    Launch drops what no launch file declares. It is no error here: a launch file that includes this
    one may have an argument of such a name for itself.
    """
    arguments = {
        parameter: f"{argument}:={value}"
        for argument, (parameter, value, _) in LIST_ARGUMENTS.items()
    }
    shipped = Path(config_file("perception.yaml").perform(context))  # it has every parameter
    parameters = {name for _, values in sections(shipped) for name in values}
    given = context.launch_configurations
    for name in sorted((parameters - PARAMETER_ARGUMENTS.keys() - SWITCHES.keys()) & given.keys()):
        instead = (
            f"write {arguments[name]}"
            if name in arguments
            else "set it in a file, params_file:=FILE"
        )
        launch.logging.get_logger("perception.launch.py").warning(
            f"{name}:={given[name]} does nothing, as {name} is no argument but a parameter: "
            f"{instead}"
        )


def parameter_files(context: LaunchContext) -> list[str]:
    """The parameter file that was asked for, if any.

    Raises:
        FileNotFoundError: it is not there. launch_ros would start the node without it.
    """
    given = LaunchConfiguration("params_file").perform(context)
    if not given:
        return []
    path = Path(given).expanduser()  # bash leaves the ~ of params_file:=~/my.yaml alone
    if not path.is_file():
        raise FileNotFoundError(f"params_file:={given}: there is no such file")
    return [str(path)]


def names_in(path: str) -> list[str]:
    """The sections of a parameter file; none where the node itself is going to complain."""
    try:
        return [name for name, _ in sections(Path(path))]
    except (YAMLError, UnicodeDecodeError):
        return []


def full_name(context: LaunchContext) -> str:
    """The perception node's, with what was pushed before."""
    pushed = context.launch_configurations.get("ros_namespace", "")
    namespace, name = (
        LaunchConfiguration(argument).perform(context) for argument in ("namespace", "name")
    )
    return str(PurePosixPath("/") / pushed / namespace / name)


def start_perception(context: LaunchContext) -> list[Node]:
    """The perception node; arguments that were given take precedence over the parameter file.

    Raises:
        FileNotFoundError: there is no such parameter file.
    """
    files, node = parameter_files(context), full_name(context)
    for file in files:
        found = names_in(file)
        if not any(is_for(section, node) for section in found):
            launch.logging.get_logger("perception.launch.py").warning(
                no_section(Path(file), found, node)
            )
    given: dict[str, ParameterValue | list[str] | bool] = {
        name: ParameterValue(value, value_type=str)  # else 12 or true would change their type
        for name in PARAMETER_ARGUMENTS
        if (value := LaunchConfiguration(name).perform(context))
    }
    for name in SWITCHES:
        if value := LaunchConfiguration(name).perform(context):
            given[name] = value.lower() == "true"
    for name, (parameter, _, _) in LIST_ARGUMENTS.items():
        if items := LaunchConfiguration(name).perform(context):
            given[parameter] = [item.strip() for item in items.split(",")]
    if simulated_camera(context) == "" and not {"image_topics", "depth_topics"} & given.keys():
        given["depth_topics"] = [f"{camera_namespace(context)}/depth/image_raw"]
    return [
        Node(
            package="genesis_ros",
            executable="perception_node",
            name=LaunchConfiguration("name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=[*files, given],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=is_on("respawn", context),
            respawn_delay=2.0,
            additional_env=profile_environment(config_file("fastdds.xml")),
            output="screen",
        )
    ]


def camera_namespace(context: LaunchContext) -> str:
    """Where the simulated camera is: beside the node's namespace, with what was pushed before."""
    return str(PurePosixPath(full_name(context)).parent.parent / "camera")


def simulated_camera(context: LaunchContext) -> str | None:
    """What a simulated camera plays; "": generated scenes, with depth; None: there is no camera."""
    path = LaunchConfiguration("camera_input").perform(context)
    return path if path or is_on("camera", context) else None


def start_camera(context: LaunchContext) -> list[Node]:
    """The simulated camera, if there is to be one."""
    path = simulated_camera(context)
    if path is None:
        return []
    source: dict[str, str | ParameterValue] = {"source": "tabletop"}
    if path:
        source = {"source": "path", "path": ParameterValue(path, value_type=str)}
    camera, node = f"{camera_namespace(context)}/camera", full_name(context)
    # What is for both nodes is meant for the other one: its topics mean nothing to the camera.
    files = [
        file
        for file in parameter_files(context)
        if any(is_for(name, camera) and not is_for(name, node) for name in names_in(file))
    ]
    return [
        Node(
            package="genesis_ros",
            executable="camera_node",
            name="camera",
            namespace=camera_namespace(context),
            parameters=[*files, source],
            additional_env=profile_environment(config_file("fastdds.xml")),
            output="screen",
        )
    ]


def start_rviz(context: LaunchContext) -> list[Node]:
    """RViz, if it is asked for."""
    if not is_on("rviz", context):
        return []
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", config_file("perception.rviz")],
            parameters=[{"use_sim_time": is_on("use_sim_time", context)}],
            additional_env=profile_environment(config_file("fastdds.xml")),
            output="screen",
        )
    ]
