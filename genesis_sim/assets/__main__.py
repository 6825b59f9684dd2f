"""Command line of the asset pack: python -m genesis_sim.assets build | info."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from genesis_sim.assets.build import build_pack
from genesis_sim.assets.pack import DEFAULT, AssetError, default_path, load_pack, save_pack
from genesis_sim.gl import RenderingError


def main(arguments: list[str] | None = None) -> None:
    """Command line; exits with 1 and a message where the pack cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m genesis_sim.assets", description="Make or look into an asset pack."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make the pack from installed packages")
    build.add_argument("--output", type=Path, default=DEFAULT.expanduser(), help="file to write")
    build.add_argument(
        "--packages",
        type=Path,
        action="append",
        help="folder or wheel with pybullet_data and robosuite, instead of the installed ones; "
        "may be given several times",
    )
    info = commands.add_parser("info", help="say what a pack holds")
    info.add_argument("file", type=Path, nargs="?", help="the pack; by default the one in use")
    options = parser.parse_args(arguments)
    try:
        if options.command == "build":
            options.output.parent.mkdir(parents=True, exist_ok=True)  # before the work, if it fails
            pack, sources = build_pack(options.packages)
            save_pack(options.output, pack, sources)
            path = options.output
        else:
            path = options.file or default_path()
            if path is None:
                raise AssetError("there is no asset pack; make one with the command build")
        pack = load_pack(path)
    except (AssetError, OSError, RenderingError) as error:
        sys.exit(str(error))
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, {len(pack.objects)} objects, "
        f"{len(pack.surfaces)} materials, arms {', '.join(arm.name for arm in pack.arms)}, "
        f"grippers {', '.join(gripper.name for gripper in pack.grippers)}"
    )


if __name__ == "__main__":
    main()
