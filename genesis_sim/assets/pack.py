"""The asset pack: one optional file with meshes, textures and robots from public packages.

    python -m genesis_sim.assets build --output FILE

makes it from the packages in requirements/assets.txt (docs/assets.md). Household scenes use it
where it is found; without it they are made of procedural shapes alone.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from genesis_sim.mesh import Mesh

Image = npt.NDArray[np.uint8]

#: Names the pack's file, where it is not the default one. Empty: use none.
VARIABLE = "GENESIS_SIM_ASSETS"
#: Where a pack is looked for otherwise.
DEFAULT = Path("~/.cache/genesis_ros/assets.npz")
_FORMAT = 1


class AssetError(Exception):
    """An asset pack is missing, damaged or of another version; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PackObject:
    """An object's mesh.

    Attributes:
        name: what it is called.
        mesh: its centre is at the origin.
        texture: number among the pack's skins or -1.
    """

    name: str
    mesh: Mesh
    texture: int


@dataclass(frozen=True, slots=True)
class RobotParts:
    """An arm or a gripper in a number of postures: rigid parts and where each of them is.

    An arm's poses are relative to its hand's frame (z points to where a gripper points); a
    gripper's frame is that of the hand it is mounted on.
    """

    name: str
    meshes: list[Mesh]
    #: RGB (P, 3).
    colours: npt.NDArray[np.float32]
    #: Position and quaternion (w, x, y, z) of each part in each posture, (K, P, 7).
    poses: npt.NDArray[np.float32]
    #: An arm's hand in the frame of its upright base, (K, 7); a gripper's fingertips, (K, 7).
    hand: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AssetPack:
    """What an asset pack holds."""

    objects: list[PackObject] = field(default_factory=list)
    #: Textures of objects, uint8 (H, W, 3).
    skins: list[Image] = field(default_factory=list)
    #: Kind and texture of materials, uint8 (H, W, 3).
    surfaces: list[tuple[str, Image]] = field(default_factory=list)
    arms: list[RobotParts] = field(default_factory=list)
    grippers: list[RobotParts] = field(default_factory=list)


def default_path() -> Path | None:
    """The pack to use: what GENESIS_SIM_ASSETS names, else the one in the cache if it is there.

    Raises:
        AssetError: the variable names a file that does not exist.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        if not named:
            return None
        if not Path(named).expanduser().is_file():
            raise AssetError(
                f"{VARIABLE} is {named}, which is no file; make one with "
                f"python -m genesis_sim.assets build --output {named}"
            )
        return Path(named).expanduser()
    path = DEFAULT.expanduser()
    return path if path.is_file() else None


def find_pack() -> AssetPack | None:
    """The asset pack that scenes use by default, None if there is none."""
    path = default_path()
    return None if path is None else load_pack(path)


@lru_cache(maxsize=2)
def load_pack(path: Path) -> AssetPack:
    """Read a pack.

    Raises:
        AssetError: it is damaged or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        index = json.loads(arrays["index"].tobytes())
        if index["format"] != _FORMAT:
            raise ValueError(f"format {index['format']}, expected {_FORMAT}")
        meshes = _unpack_meshes(arrays)
        return AssetPack(
            objects=[
                PackObject(entry["name"], meshes[entry["mesh"]], entry["texture"])
                for entry in index["objects"]
            ],
            skins=list(arrays["skins"]),
            surfaces=list(zip(index["surfaces"], arrays["surfaces"], strict=True)),
            arms=[_unpack_robot(entry, meshes, arrays) for entry in index["arms"]],
            grippers=[_unpack_robot(entry, meshes, arrays) for entry in index["grippers"]],
        )
    except (
        *(OSError, ValueError, KeyError, IndexError, TypeError, EOFError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise AssetError(
            f"{path} is no asset pack ({error}); make it again with "
            "python -m genesis_sim.assets build"
        ) from error


def save_pack(path: Path, pack: AssetPack, sources: dict[str, Any]) -> None:
    """Write a pack.

    Coordinates are kept to about 1/65,000 of a mesh's extent, normals to a degree.

    Args:
        path: the file to write.
        pack: what to write.
        sources: what the pack was made of, for its index.
    """
    meshes: list[Mesh] = []

    def number(mesh: Mesh) -> int:
        meshes.append(mesh)
        return len(meshes) - 1

    arrays: dict[str, Any] = {}

    def robot(prefix: str, parts: RobotParts) -> dict[str, Any]:
        for name in ("colours", "poses", "hand"):
            arrays[f"{prefix}_{parts.name}_{name}"] = getattr(parts, name)
        return {
            "name": parts.name,
            "prefix": prefix,
            "meshes": [number(mesh) for mesh in parts.meshes],
        }

    index = {
        "format": _FORMAT,
        "sources": sources,
        "objects": [
            {"name": entry.name, "mesh": number(entry.mesh), "texture": entry.texture}
            for entry in pack.objects
        ],
        "surfaces": [kind for kind, _ in pack.surfaces],
        "arms": [robot("arm", parts) for parts in pack.arms],
        "grippers": [robot("gripper", parts) for parts in pack.grippers],
    }
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    arrays["skins"] = np.array(pack.skins, np.uint8)
    arrays["surfaces"] = np.array([image for _, image in pack.surfaces], np.uint8)
    arrays |= _packed_meshes(meshes)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    temporary.replace(path)


def _packed_meshes(meshes: Sequence[Mesh]) -> dict[str, npt.NDArray[Any]]:
    scales = np.array([max(float(np.abs(m.vertices).max()), 1e-9) for m in meshes], np.float32)
    vertices = [
        np.rint(mesh.vertices / scale * 32_767) for mesh, scale in zip(meshes, scales, strict=True)
    ]
    return {
        "mesh_scales": scales,
        "mesh_counts": np.array([(len(m.vertices), len(m.faces)) for m in meshes], np.int32),
        "mesh_vertices": np.concatenate(vertices).astype(np.int16),
        "mesh_normals": np.concatenate([np.rint(127 * m.normals) for m in meshes]).astype(np.int8),
        "mesh_texcoords": np.concatenate([m.texcoords for m in meshes]).astype(np.float16),
        "mesh_faces": np.concatenate([m.faces for m in meshes]).astype(np.uint16),
    }


def _unpack_meshes(arrays: dict[str, npt.NDArray[Any]]) -> list[Mesh]:
    counts, scales = arrays["mesh_counts"], arrays["mesh_scales"]
    ends = np.cumsum(counts, axis=0)
    vertices = arrays["mesh_vertices"].astype(np.float32) / np.float32(32_767)
    normals = arrays["mesh_normals"].astype(np.float32) / np.float32(127)
    texcoords = arrays["mesh_texcoords"].astype(np.float32)
    faces = arrays["mesh_faces"].astype(np.int32)
    meshes = []
    for (v, f), (v_end, f_end), scale in zip(counts, ends, scales, strict=True):
        rows = slice(v_end - v, v_end)
        meshes.append(
            Mesh(vertices[rows] * scale, normals[rows], texcoords[rows], faces[f_end - f : f_end])
        )
    return meshes


def _unpack_robot(
    entry: dict[str, Any], meshes: list[Mesh], arrays: dict[str, npt.NDArray[Any]]
) -> RobotParts:
    prefix = f"{entry['prefix']}_{entry['name']}"
    return RobotParts(
        entry["name"],
        [meshes[number] for number in entry["meshes"]],
        arrays[f"{prefix}_colours"],
        arrays[f"{prefix}_poses"],
        arrays[f"{prefix}_hand"],
    )
