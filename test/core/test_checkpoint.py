"""Checkpoints: what is written comes back; what is damaged, foreign or unsafe is refused."""

import json
import logging
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from genesis_core import (
    CheckpointError,
    ConfigError,
    DeviceError,
    GenesisV2,
    decoder_is_trained,
    default_checkpoint,
    find_checkpoint,
    load_model,
    save_model,
)

ModelFactory = Callable[..., GenesisV2]
Golden = Callable[[str], tuple[Path, dict[str, Any]]]

# The reference's names of our parts.
REFERENCE_PREFIXES = {
    "backbone.": "encoder.",
    "embedding.block.": "seg_head.",
    "embedding.gate": "att_process.colour_head.gate.gate",
    "embedding.conv.": "att_process.colour_head.conv.",
    "icsbp.log_scale": "att_process.log_sigma",
    "feature_head.": "feat_head.",
    "latent_head.": "z_head.",
    "decoder.": "decoder_module.",
    "prior.lstm.": "prior_lstm.",
    "prior.linear.": "prior_linear.",
}


def reference_state(model: GenesisV2) -> dict[str, Tensor]:
    """A model's weights under the names of the reference implementation."""
    prefixes = dict(REFERENCE_PREFIXES)
    if not model.config.semi_conv:
        prefixes["embedding.conv."] = "att_process.colour_head."
    state = {}
    for name, value in model.state_dict().items():
        ours = next(prefix for prefix in prefixes if name.startswith(prefix))
        state[prefixes[ours] + name.removeprefix(ours)] = value
    return state


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


# Our own


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"kernel": "laplacian", "semi_conv": False, "autoregressive_prior": False},
        {"image_size": 64, "num_slots": 9, "pixel_std": 0.3, "mask_loss": True},
        {"mask_normalisation": "softmax", "image_channels": 4},
    ],
)
def test_a_saved_model_comes_back(
    variant: dict[str, Any], make_model: ModelFactory, tmp_path: Path
) -> None:
    model = make_model(**variant)
    path = tmp_path / "model.safetensors"
    save_model(model, path, {"mask_source": "attention", "steps": 12})
    loaded = load_model(path)
    assert loaded.config == model.config
    assert loaded.metadata == {"mask_source": "attention", "steps": 12}
    assert not loaded.training
    size = model.config.image_size
    images = torch.rand(2, model.config.image_channels, size, size)
    expected, actual = model(images), loaded(images)
    assert torch.equal(actual.log_masks, expected.log_masks)
    assert torch.equal(actual.latents, expected.latents)
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_travels_with_the_model(make_model: ModelFactory, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_model(make_model(), first, {"data": "tabletop"})
    save_model(load_model(first), second)
    assert load_model(second).metadata == {"data": "tabletop"}


@pytest.mark.parametrize("start", [0x280, 0x380, 0x480])
def test_a_checkpoint_is_known_however_long_its_header_is(
    start: int, make_model: ModelFactory, tmp_path: Path
) -> None:
    """The file begins with that length; some look like the first bytes of a pickle."""
    model, path = make_model(), tmp_path / "model.safetensors"

    def length(filling: int) -> int:
        save_model(model, path, {"note": "x" * filling})
        return int.from_bytes(path.read_bytes()[:8], "little")

    filling = 65_536 + start - length(0) // 8 * 8
    assert length(filling) % 65_536 == start
    assert load_model(path).metadata["note"] == "x" * filling


def test_channels_last_weights_are_saved_plainly(make_model: ModelFactory, tmp_path: Path) -> None:
    model = make_model().to(memory_format=torch.channels_last)
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    for name, value in load_model(path).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_slots_and_kernel_can_be_overridden(checkpoint: Path) -> None:
    model = load_model(checkpoint, num_slots=9, kernel="laplacian")
    assert (model.config.num_slots, model.config.kernel) == (9, "laplacian")
    assert model(torch.rand(1, 3, 32, 32)).log_masks.shape[1] == 9
    assert load_model(checkpoint).config.num_slots == 4


def test_the_checkpoint_is_readable_for_everyone(checkpoint: Path) -> None:
    assert checkpoint.stat().st_mode & 0o444 == 0o444


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writing past this many bytes fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_interrupted_write_leaves_the_old_file(
    checkpoint: Path, make_model: ModelFactory
) -> None:
    before = checkpoint.read_bytes()
    with file_size_limit(len(before) // 2), pytest.raises(Exception, match=r"(?i)file too large"):
        save_model(make_model(num_slots=7), checkpoint)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == [checkpoint.name]


def test_metadata_that_is_not_json_writes_nothing(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    with pytest.raises(TypeError, match="JSON"):
        save_model(load_model(checkpoint), checkpoint, {"when": object()})
    assert checkpoint.read_bytes() == before


def test_a_missing_folder_is_named(make_model: ModelFactory, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no_such_folder does not exist"):
        save_model(make_model(), tmp_path / "no_such_folder" / "model.safetensors")


def test_checkpoints_are_found_by_path_and_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = default_checkpoint().parent
    assert find_checkpoint("") == find_checkpoint("tabletop") == default_checkpoint()
    assert find_checkpoint("tabletop_unsupervised") == folder / "tabletop_unsupervised.safetensors"
    for path in (tmp_path / "tabletop", Path("runs/tabletop"), Path("unknown")):
        assert find_checkpoint(str(path)) == path
    assert find_checkpoint("~/tabletop") == Path.home() / "tabletop"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tabletop").mkdir()  # data, for example
    assert find_checkpoint("tabletop") == default_checkpoint()
    (tmp_path / "tabletop").rmdir()
    (tmp_path / "tabletop").touch()
    assert find_checkpoint("tabletop") == Path("tabletop"), "a user's own file comes first"


@pytest.mark.parametrize(
    "name",
    ["tabletop", "tabletop_256", "tabletop_sketchy", "tabletop_small", "tabletop_unsupervised"],
)
def test_shipped_checkpoints_load_and_segment(name: str) -> None:
    model = load_model(find_checkpoint(name))
    size = model.config.image_size
    out = model(torch.rand(1, 3, size, size))
    assert out.log_masks.isfinite().all()
    assert model.metadata.get("mask_source") in ("decoder", "attention")


# Damaged and foreign files


def test_missing_files_and_folders_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"{path} .*tabletop_256, tabletop_sketchy"):
            load_model(path)


@pytest.mark.parametrize("name", ["~no_such_user/model", 300 * "a", "/" + 300 * "a", "a\0b"])
def test_names_that_no_file_can_have_are_not_found(name: str) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist or is not a file"):
        load_model(find_checkpoint(name))


@pytest.mark.parametrize("keep", [0, 1, 4, 8, 9, 100, 0.3, 0.9, -1])
@pytest.mark.parametrize("kind", ["own", "reference", "old_reference"])
def test_truncated_files_are_refused(
    kind: str, keep: float, checkpoint: Path, make_model: ModelFactory, tmp_path: Path
) -> None:
    path = tmp_path / "whole"
    if kind == "own":
        path = checkpoint
    else:
        state = {"model_state_dict": reference_state(make_model())}
        torch.save(state, path, _use_new_zipfile_serialization=kind == "reference")
    whole = path.read_bytes()
    end = int(keep * len(whole)) if isinstance(keep, float) else keep
    (tmp_path / "part").write_bytes(whole[:end])
    with pytest.raises(CheckpointError, match="part"):
        load_model(tmp_path / "part")


def test_damaged_headers_are_refused(checkpoint: Path, make_model: ModelFactory) -> None:
    reference = checkpoint.with_name("reference.ckpt")
    torch.save({"model_state_dict": reference_state(make_model())}, reference)
    generator = torch.Generator().manual_seed(0)
    for path in (checkpoint, reference):
        whole = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(whole)
            for place in torch.randint(0, 400, (8,), generator=generator).tolist():
                damaged[place] ^= 0xFF
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                load_model(path)


@pytest.mark.parametrize(
    "content", [b"not a checkpoint at all", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="neither a complete safetensors file nor"):
        load_model(path)


def rewrite(path: Path, **header: str | None) -> None:
    """Change entries of a checkpoint's metadata; None removes one."""
    weights, metadata = contents(path)
    metadata = {k: v for k, v in {**metadata, **header}.items() if v is not None}
    save_file(weights, path, metadata=metadata)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"format": None}, "has format None; expected 'genesis_core/1'"),
        ({"format": "genesis_core/2"}, "has format 'genesis_core/2'"),
        ({"config": None}, "broken config"),
        ({"config": "{"}, "broken config"),
        ({"config": "[]"}, "broken config"),
        ({"config": "{}"}, "broken config"),
        ({"config": '{"model": "vae"}'}, "unknown model 'vae'; expected one of genesis_v1, gen"),
        ({"config": '{"model": ["monet"]}'}, "unknown model"),
        ({"config": '{"model": "genesis_v2", "slots": 3}'}, "unknown model settings: slots"),
        ({"config": '{"model": "genesis_v2", "image_size": 100}'}, "image_size is 100"),
        ({"config": '{"model": "genesis_v2", "num_slots": "4"}'}, "num_slots is '4'"),
        ({"config": '{"model": "genesis_v2", "feature_dim": 16}'}, "does not fit its config"),
        ({"info": "{"}, "broken config"),
        ({"info": "[1, 2]"}, "broken config"),
    ],
)
def test_broken_metadata_is_refused(
    header: dict[str, str | None], message: str, checkpoint: Path
) -> None:
    rewrite(checkpoint, **header)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(checkpoint)
    assert str(checkpoint) in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, checkpoint: Path) -> None:
    weights, metadata = contents(checkpoint)
    weights["latent_head.1.weight"][3, 2] = value
    save_file(weights, checkpoint, metadata=metadata)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights in latent_head\.1\.weight"):
        load_model(checkpoint)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn])
def test_weights_that_are_no_plain_numbers_are_refused_by_name(
    dtype: torch.dtype, checkpoint: Path
) -> None:
    weights, metadata = contents(checkpoint)
    weights["latent_head.1.weight"] = weights["latent_head.1.weight"].to(dtype)
    save_file(weights, checkpoint, metadata=metadata)
    with pytest.raises(CheckpointError, match=rf"has {dtype} weights in latent_head\.1\.weight"):
        load_model(checkpoint)


@pytest.mark.parametrize("trained", [None, {}, "yes", ["masks_only"], 3])
def test_what_is_said_of_the_training_may_be_anything(trained: object) -> None:
    assert decoder_is_trained(trained)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(change: str, checkpoint: Path) -> None:
    weights, metadata = contents(checkpoint)
    if change == "missing":
        del weights["latent_head.1.weight"]
    elif change == "extra":
        weights["another"] = torch.zeros(1)
    else:
        weights["latent_head.1.weight"] = torch.zeros(3, 3)
    save_file(weights, checkpoint, metadata=metadata)
    with pytest.raises(CheckpointError, match="does not fit its config"):
        load_model(checkpoint)


def test_bad_arguments_are_the_callers_mistake(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="num_slots is 1"):
        load_model(checkpoint, num_slots=1)
    with pytest.raises(ConfigError, match="kernel is 'box'"):
        load_model(checkpoint, kernel="box")
    with pytest.raises(DeviceError, match="device is 'tpu'; expected auto, cpu, cuda or cuda:n"):
        load_model(checkpoint, device="tpu")
    with pytest.raises(DeviceError, match="'cuda:99' was asked for, but PyTorch sees"):
        load_model(checkpoint, device="cuda:99")


# Reference checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"kernel": "laplacian", "semi_conv": False, "autoregressive_prior": False},
        {"image_size": 128, "latent_dim": 10, "feature_dim": 16},
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_a_reference_checkpoint_is_the_same_model(
    variant: dict[str, Any], old_format: bool, make_model: ModelFactory, tmp_path: Path
) -> None:
    model = make_model(**variant)
    path = tmp_path / "model.ckpt-500000"
    state = {"iter_idx": 500000, "model_state_dict": reference_state(model)}
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    loaded = load_model(path, num_slots=4, kernel=model.config.kernel)
    assert loaded.config == model.config  # the paper's objective: weights show no mask loss
    size = model.config.image_size
    images = torch.rand(1, 3, size, size)
    assert torch.equal(loaded(images).log_masks, model(images).log_masks)
    assert loaded.losses(images, loaded(images)).mask_kl is None


def test_every_golden_reference_checkpoint_converts(golden: Golden, tmp_path: Path) -> None:
    path, expected = golden("genesis_v2_gaussian_64.npz")
    settings = json.loads(str(expected["config"]))
    model = load_model(path.with_suffix(".ckpt"), num_slots=settings["K_steps"])
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    images = torch.from_numpy(expected["input"])
    assert torch.equal(again(images).reconstruction, model(images).reconstruction)


def test_what_a_reference_checkpoint_does_not_state_is_assumed_with_a_warning(
    make_model: ModelFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"model_state_dict": reference_state(make_model())}, path)
    with caplog.at_level(logging.WARNING):
        assert load_model(path).config.num_slots == 7
    assert "does not state {'num_slots': 7, 'kernel': 'gaussian'}" in caplog.text
    caplog.clear()
    load_model(path, num_slots=5, kernel="gaussian")
    assert not caplog.records


def test_all_unknown_entries_are_named(
    make_model: ModelFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "model.ckpt"
    state = {"first": torch.zeros(1), **reference_state(make_model()), "second": torch.zeros(1)}
    torch.save({"model_state_dict": state}, path)
    with caplog.at_level(logging.WARNING):
        load_model(path, num_slots=4, kernel="gaussian")
    assert "ignored 2 unknown entries" in caplog.text
    assert "['first', 'second']" in caplog.text


@pytest.mark.parametrize("wrapper", [(), ("model_state_dict",), ("state_dict",), ("model",),
                                     ("state_dict", "model")])  # fmt: skip
@pytest.mark.parametrize(
    "prefix", ["", "module.", "module.module.", "model.", "_orig_mod.", "model.module._orig_mod."]
)
def test_wrapped_checkpoints_are_the_same_model(
    wrapper: tuple[str, ...], prefix: str, make_model: ModelFactory, tmp_path: Path
) -> None:
    """As data-parallel training, torch.compile, Lightning and other trainers leave them."""
    model = make_model()
    content: dict[str, Any] = {prefix + k: v for k, v in reference_state(model).items()}
    for key in reversed(wrapper):
        content = {key: content, "epoch": 3}
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    loaded = load_model(path, num_slots=4, kernel="gaussian")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_compiled_part_is_known(make_model: ModelFactory, tmp_path: Path) -> None:
    model = make_model()
    state = {k.replace(".", "._orig_mod.", 1): v for k, v in reference_state(model).items()}
    path = tmp_path / "model.ckpt"
    torch.save(state, path)
    loaded = load_model(path, num_slots=4, kernel="gaussian")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded(images).log_masks, model(images).log_masks)


def test_a_foreign_prefix_is_named(make_model: ModelFactory, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({f"student.net.{k}": v for k, v in reference_state(make_model()).items()}, path)
    with pytest.raises(CheckpointError, match=r"entries begin with 'student\.net\.'"):
        load_model(path)


def test_weights_that_are_there_twice_are_refused(make_model: ModelFactory, tmp_path: Path) -> None:
    state = reference_state(make_model())
    path = tmp_path / "model.ckpt"
    torch.save({**state, **{f"model.{k}": v for k, v in state.items()}}, path)
    with pytest.raises(CheckpointError, match="more than once"):
        load_model(path)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        torch.zeros(3),
        {},
        {"model_state_dict": None},
        {"model_state_dict": {}},
        {"model_state_dict": {1: torch.zeros(1)}},
        {"model_state_dict": {"feat_head.0.0.weight": 1.0}},
        {"model_state_dict": {"feat_head.0.0.weight": torch.tensor(1.0)}},
    ],
)
def test_other_torch_files_are_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.ckpt is not a GENESIS-V2, GENESIS or"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_head.1.weight": torch.zeros(3, 3)}, "does not fit its config"),
        ({"att_process.log_sigma": torch.tensor(float("nan"))}, "NaN or infinite weights"),
        ({"feat_head.0.0.weight": torch.zeros(12, 8, 3, 3)}, "feature_dim is 12"),
    ],
)
def test_damaged_reference_weights_are_refused(
    change: dict[str, Tensor], message: str, make_model: ModelFactory, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"model_state_dict": {**reference_state(make_model()), **change}}, path)
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


class Intruder:
    """Unpickling this makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_code_is_refused_and_not_run(
    old_format: bool, make_model: ModelFactory, tmp_path: Path
) -> None:
    path, trace = tmp_path / "model.ckpt", tmp_path / "was_here"
    content = {"model_state_dict": reference_state(make_model()), "more": Intruder(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(CheckpointError, match="never unpickled"):
        load_model(path)
    assert not trace.exists()
