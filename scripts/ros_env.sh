# Source this file (bash, zsh or sh, from the repository root) to use the package in this shell:
#   . scripts/ros_env.sh && python -m genesis_ros.demo
#
# With a ROS installation (ROS_DISTRO set) it only adds the colcon build of this checkout.
# Without one it makes the ROS 2 wheels of .venv usable; `make build` creates both.

GENESIS_ROS_ROOT="${GENESIS_ROS_ROOT:-$PWD}"
if [ ! -f "$GENESIS_ROS_ROOT/scripts/ros_env.sh" ]; then
    echo "scripts/ros_env.sh: $GENESIS_ROS_ROOT is not the repository root; cd there first" >&2
    return 1
fi

if [ -n "${ROS_DISTRO:-}" ]; then
    if [ -f "$GENESIS_ROS_ROOT/install/setup.sh" ]; then
        COLCON_CURRENT_PREFIX="$GENESIS_ROS_ROOT/install" . "$GENESIS_ROS_ROOT/install/setup.sh"
    fi
else
    _venv="$GENESIS_ROS_ROOT/.venv"
    _overlay="$GENESIS_ROS_ROOT/install/genesis_ros"
    if [ ! -x "$_venv/bin/python" ]; then
        echo "scripts/ros_env.sh: $_venv does not exist; run 'make build' first" >&2
        return 1
    fi
    _site="$(cd "$_venv"/lib/python3.*/site-packages && pwd)"
    _libraries="$_overlay/lib:$_venv/lib"
    for _directory in "$_site"/ros_*.libs; do
        if [ -d "$_directory" ]; then _libraries="$_libraries:$_directory"; fi
    done
    export PATH="$_venv/bin:$PATH"
    export AMENT_PREFIX_PATH="$_overlay:$_venv"
    export CMAKE_PREFIX_PATH="$_venv"
    export PYTHONPATH="$_overlay/lib/${_site#"$_venv/lib/"}${PYTHONPATH:+:$PYTHONPATH}"
    # The wheels re-execute every Python process once to set LD_LIBRARY_PATH. Setting it here saves
    # that, and the second variable says so. The two belong together: a process started with the
    # second but without the first cannot load the ROS libraries.
    export LD_LIBRARY_PATH="$_libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    unset _venv _overlay _site _libraries _directory
fi

# The checkout itself, behind what is built of it: `python training/train.py` finds its packages.
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$GENESIS_ROS_ROOT"

# Images fit into shared memory, see the file; what the user has set goes before.
if [ -z "${FASTDDS_DEFAULT_PROFILES_FILE:-}${FASTRTPS_DEFAULT_PROFILES_FILE:-}${FASTDDS_BUILTIN_TRANSPORTS:-}" ]
then
    if [ "${ROS_DISTRO:-}" = jazzy ]; then  # Fast DDS 2
        export FASTRTPS_DEFAULT_PROFILES_FILE="$GENESIS_ROS_ROOT/config/fastdds.xml"
    else
        export FASTDDS_DEFAULT_PROFILES_FILE="$GENESIS_ROS_ROOT/config/fastdds.xml"
    fi
fi

# DDS otherwise announces itself to every machine on the network.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
unset GENESIS_ROS_ROOT
