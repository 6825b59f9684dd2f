"""What `ros2 launch` does with its arguments, as far as the launch package itself goes.

launch_it.py FILE NAMESPACE [ARGUMENT:=VALUE...]; the namespace is pushed, "" for none.
"""

import sys

from launch import LaunchDescription, LaunchService
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace

file, pushed, *arguments = sys.argv[1:]
given = [tuple(argument.split(":=", 1)) for argument in arguments]
service = LaunchService()
source = PythonLaunchDescriptionSource(file)
included = IncludeLaunchDescription(source, launch_arguments=given)
if pushed:
    included = GroupAction([PushRosNamespace(pushed), included])
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
