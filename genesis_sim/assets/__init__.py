"""Optional meshes, textures and robots for household scenes."""

from genesis_sim.assets.pack import (
    AssetError,
    AssetPack,
    PackObject,
    RobotParts,
    default_path,
    find_pack,
    load_pack,
    save_pack,
)

__all__ = [
    "AssetError",
    "AssetPack",
    "PackObject",
    "RobotParts",
    "default_path",
    "find_pack",
    "load_pack",
    "save_pack",
]
