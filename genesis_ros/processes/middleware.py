"""What nodes need in their environment, for the middleware."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from ament_index_python.packages import get_package_share_directory

_Path = TypeVar("_Path")

# Where Fast DDS looks for a profile: version 2, which is Jazzy's, and version 3.
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def profile_environment(profile: _Path) -> dict[str, _Path]:
    """Variables that give Fast DDS this profile; none where the user has set something else.

    Args:
        profile: path of the file, or what the launch system resolves to one.
    """
    if any(os.environ.get(name) for name in (*PROFILE_VARIABLES, "FASTDDS_BUILTIN_TRANSPORTS")):
        return {}
    version_2, version_3 = PROFILE_VARIABLES
    return {version_2 if os.environ.get("ROS_DISTRO") == "jazzy" else version_3: profile}


def installed_profile_environment() -> dict[str, str]:
    """Variables that give Fast DDS the profile that is installed with this package, if it is.

    For processes that no launch file starts.
    """
    try:
        share = Path(get_package_share_directory("genesis_ros"))
    except (LookupError, OSError):  # this is Python's path alone, without an installed package
        return {}
    return profile_environment(str(share / "config" / "fastdds.xml"))
