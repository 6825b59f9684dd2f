"""The asset pack: written, found, read, refused."""

from pathlib import Path

import numpy as np
import pytest

from genesis_sim.assets import (
    AssetError,
    AssetPack,
    default_path,
    find_pack,
    load_pack,
    save_pack,
)
from genesis_sim.assets.__main__ import main
from genesis_sim.assets.build import build_pack


def test_what_is_written_is_read(small_pack: AssetPack, tmp_path: Path) -> None:
    path = tmp_path / "folder" / "pack.npz"
    save_pack(path, small_pack, {"packages": ["test"]})
    pack = load_pack(path)
    assert [entry.name for entry in pack.objects] == ["lump"]
    written, read = small_pack.objects[0].mesh, pack.objects[0].mesh
    np.testing.assert_allclose(read.vertices, written.vertices, atol=5e-6)
    np.testing.assert_allclose(read.normals, written.normals, atol=0.01)
    np.testing.assert_array_equal(read.faces, written.faces)
    np.testing.assert_array_equal(pack.surfaces[0][1], small_pack.surfaces[0][1])
    np.testing.assert_array_equal(pack.arms[0].poses, small_pack.arms[0].poses)
    np.testing.assert_array_equal(pack.grippers[0].hand, small_pack.grippers[0].hand)


def test_the_variable_names_the_pack(
    small_pack: AssetPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pack.npz"
    monkeypatch.setenv("GENESIS_SIM_ASSETS", str(path))
    with pytest.raises(AssetError, match=r"pack\.npz, which is no file; make one with"):
        find_pack()
    save_pack(path, small_pack, {})
    found = find_pack()
    assert found is not None and len(found.objects) == 1


def test_without_the_variable_the_cache_is_looked_at(
    small_pack: AssetPack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENESIS_SIM_ASSETS")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_path() is None and find_pack() is None
    save_pack(tmp_path / ".cache" / "genesis_ros" / "assets.npz", small_pack, {})
    assert default_path() == tmp_path / ".cache" / "genesis_ros" / "assets.npz"
    monkeypatch.setenv("GENESIS_SIM_ASSETS", "")
    assert default_path() is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pack.npz"
    path.write_bytes(b"no pack")
    with pytest.raises(AssetError, match=r"pack\.npz is no asset pack"):
        load_pack(path)
    np.savez(path, index=np.frombuffer(b'{"format": 1}', np.uint8))
    whole = path.read_bytes()
    for broken in (b"", whole[:-40], whole[:100] + bytes(20) + whole[120:], whole):
        path.write_bytes(broken)
        with pytest.raises(AssetError, match=r"pack\.npz is no asset pack"):
            load_pack(path)
    np.savez(path, index=np.frombuffer(b'{"format": 99}', np.uint8))
    with pytest.raises(AssetError, match="format 99, expected 1"):
        load_pack(path)


def test_a_pack_is_made_from_the_packages_files_alone(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="neither a folder nor a wheel"):
        build_pack([tmp_path / "absent.whl"])
    with pytest.raises(AssetError, match="no pybullet_data/random_urdfs in"):
        build_pack([tmp_path])


def test_the_command_says_what_is_wrong(
    small_pack: AssetPack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="there is no asset pack; make one"):
        main(["info"])
    with pytest.raises(SystemExit, match="no pybullet_data"):
        main(["build", "--packages", str(tmp_path), "--output", str(tmp_path / "out.npz")])
    assert not (tmp_path / "out.npz").exists()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"File exists.*file"):  # before any work
        main(["build", "--output", str(tmp_path / "file" / "out.npz")])
    save_pack(tmp_path / "pack.npz", small_pack, {})
    main(["info", str(tmp_path / "pack.npz")])
    assert "1 objects, 1 materials, arms arm, grippers grip" in capsys.readouterr().out
