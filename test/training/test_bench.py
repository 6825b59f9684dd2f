"""The benchmark runs, says what it measured, and compares like with like."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import bench, stated
from benchmarks.floor import count_flops
from benchmarks.measure import interleaved, table
from benchmarks.plain import PlainGenesisV2
from genesis_core import GenesisV2, GenesisV2Config, default_checkpoint, load_model
from genesis_core.inference import Inference, Options
from training.configs import find_config

PARTS = ("model", "training", "camera", "data")


@pytest.mark.slow
def test_everything_is_measured_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bench.json"
    arguments = ["--small", "--repeats", "1", "--device", "cpu", "--precision", "fp32"]
    result = bench.main([*arguments, "--parts", *PARTS, "--output", str(output)])
    assert json.loads(output.read_text()) == json.loads(json.dumps(result))
    assert result["machine"]["torch"] == torch.__version__
    assert result["settings"]["device"] == "cpu"
    assert result["settings"]["precision"] == "fp32"
    assert result["settings"]["throughput"] > 0

    assert [row["work"] for row in result["model"]] == ["masks + latents", "full forward"]
    for row in result["model"]:
        assert (row["size"], row["slots"], row["batch"]) == (32, 3, 2)
        assert "left_out" not in row
        for key in ("ms", "p95_ms", "plain_ms", "floor_ms", "gflop", "speedup", "of_floor"):
            assert row[key] > 0, key
        assert row["speedup"] == pytest.approx(row["plain_ms"] / row["ms"])
        assert row["floor_ms"] == pytest.approx(
            1e12 * row["gflop"] / result["settings"]["throughput"]
        )
    (step,) = result["training"]
    for key in ("s", "plain_s", "floor_s", "tflop", "images_per_s", "steps_per_s", "speedup"):
        assert step[key] > 0, key
    (camera,) = result["camera"]
    assert camera["size"] == "64x48" and camera["ms"] > 0 and camera["depth_ms"] > 0
    assert [row["augmented"] for row in result["data"]] == [False, True]
    for row in result["data"]:
        assert row["needed_per_s"] == step["images_per_s"]
        assert row["headroom"] == pytest.approx(row["images_per_s"] / row["needed_per_s"])
    printed = capsys.readouterr().out
    for title in ("A pass of the model", "A training step", "Loading data"):
        assert title in printed


def test_a_part_that_cannot_be_measured_is_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.node", None)  # cannot be imported
    result = bench.main(["--small", "--parts", "node", "--output", str(tmp_path / "bench.json")])
    assert "benchmarks.node" in result["node"]["skipped"]
    assert "node: left out, as" in capsys.readouterr().out


STAND_IN = """
import torch
from torch import nn

{at_import}

class Model(nn.Module):
    def __init__(self, size):
        super().__init__()
        {when_built}
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, images):
        {when_run}
        error = (images - self.weight).square()
        return images, {{"err": error, "kl_l_k": [error]}}

def load(settings):
    assert settings.K_steps == 3
    return Model(settings.img_size)
"""
PLACES = {"at_import": "", "when_built": "", "when_run": ""}
RAISE = "raise RuntimeError('tensors on two devices')"
Checkout = Callable[..., Path]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    """Makes what looks like a checkout of the authors' code, with this code in some places."""
    monkeypatch.delitem(sys.modules, "models.genesisv2_config", raising=False)
    monkeypatch.delitem(sys.modules, "models", raising=False)

    def make(**places: str) -> Path:
        (tmp_path / "models").mkdir()
        text = STAND_IN.format(**(PLACES | places))
        (tmp_path / "models" / "genesisv2_config.py").write_text(text)
        return tmp_path

    yield make
    for name in ("models", "models.genesisv2_config"):
        sys.modules.pop(name, None)


def measured_beside(folder: Path, part: str) -> dict[str, Any]:
    """A run of one part, on the CPU, with this reference."""
    arguments = ["--small", "--repeats", "1", "--device", "cpu", "--precision", "fp32"]
    arguments += ["--reference", str(folder), "--output", str(folder / "bench.json")]
    return bench.main([*arguments, "--parts", part])


@pytest.mark.slow
def test_the_reference_is_timed_beside_ours(checkout: Checkout) -> None:
    result = measured_beside(checkout(), "model")
    for row in result["model"]:
        assert row["reference_speedup"] == pytest.approx(row["reference_ms"] / row["ms"])


@pytest.mark.slow
@pytest.mark.parametrize("part", ["model", "training"])
@pytest.mark.parametrize("place", ["when_built", "when_run"])
def test_a_reference_that_fails_is_left_out_with_the_reason(
    place: str, part: str, checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what else there is to measure is measured."""
    result = measured_beside(checkout(**{place: RAISE}), part)
    for row in result[part]:
        assert row["speedup"] > 0
        assert row["left_out"] == {"reference": "RuntimeError: tensors on two devices"}
        assert "reference_speedup" not in row
    count = len(result[part])
    rows = f"{count} of {count} rows"
    expected = f"reference: left out of {rows}, as RuntimeError: tensors on two devices\n"
    assert expected in capsys.readouterr().out


@pytest.mark.slow
def test_a_reference_that_cannot_learn_is_left_out_of_training_only(checkout: Checkout) -> None:
    folder = checkout(when_run=f"if self.training: {RAISE}")
    assert all("left_out" not in row for row in measured_beside(folder, "model")["model"])
    assert "reference" in measured_beside(folder, "training")["training"][0]["left_out"]


@pytest.mark.slow
def test_a_reference_that_cannot_be_imported_is_left_out(
    checkout: Checkout, capsys: pytest.CaptureFixture[str]
) -> None:
    result = measured_beside(checkout(at_import="import this is not Python"), "model")
    assert "cannot be imported: SyntaxError" in result["reference"]["skipped"]
    assert "reference: left out, as" in capsys.readouterr().out
    assert all(row["speedup"] > 0 for row in result["model"])


def test_rows_that_cannot_be_measured_do_not_cost_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(self: Inference, batch_size: int, options: Options) -> None:
        if not self._decode:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nmore")

    monkeypatch.setattr(Inference, "prepare", prepare)
    arguments = ["--small", "--repeats", "1", "--device", "cpu", "--precision", "fp32"]
    result = bench.main([*arguments, "--parts", "model", "--output", str(tmp_path / "out.json")])
    lacking, whole = result["model"]
    assert lacking["work"] == "masks + latents" and "speedup" not in lacking
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 1 GiB."
    assert lacking["left_out"] == {"ours": reason}
    assert whole["speedup"] > 0
    assert f"ours: left out of 1 of 2 rows, as {reason}\n" in capsys.readouterr().out


def test_a_work_that_fails_later_is_left_out_and_the_others_go_on() -> None:
    runs = {"good": 0, "bad": 0}

    def run(name: str) -> None:
        runs[name] += 1
        if name == "bad" and runs[name] == 3:
            raise ValueError

    works = {name: lambda name=name: run(name) for name in ("bad", "good")}
    measured = interleaved(works, 4, torch.device("cpu"))
    assert runs == {"good": 6, "bad": 3}
    assert measured.left_out == {"bad": "ValueError"}
    assert set(measured.times) == {"good"}


# What docs/performance.md states

PAGE = """
<!-- bench: cuda bf16 -->

| per image | px | batch | authors' | authors'/ours | plain/ours |
|---|---|---|---|---|---|
| masks + latents (1) | 64 | 1 | 50 ms | 8.0 (2) | 2.0 |
| full forward | 64 | 1 | | | 3.0 |

<!-- bench: cpu bf16 -->
| | px | batch | plain/ours |
|---|---|---|---|
| masks + latents | 64 | 1 | 9 |

Between.

<!-- bench: cuda bf16 -->
| per step | px | batch | ours | eager/ours |
|---|---|---|---|---|
| training step | 64 | 32 | 4 ms | 3.5 |
"""
MASKS = stated.Work("masks + latents", 64, 1)
DECODED = stated.Work("full forward", 64, 1)
STEP = stated.Work("training step", 64, 32)


def statement(tmp_path: Path) -> stated.Statement:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    return stated.read("cuda", "bf16", page)


def run_of(masks: dict[str, Any], decoded: dict[str, Any]) -> dict[str, Any]:
    """A result as bench.py gives it, with these in its rows."""
    row = {"size": 64, "batch": 1}
    return {
        "model": [
            {"work": "masks + latents", **row, **masks},
            {"work": "full forward", **row, **decoded},
        ]
    }


def test_ratios_are_read_from_the_page(tmp_path: Path) -> None:
    assert statement(tmp_path) == {
        MASKS: {"reference_speedup": 8.0, "speedup": 2.0},
        DECODED: {"speedup": 3.0},
        STEP: {"eager_speedup": 3.5},
    }
    with pytest.raises(stated.NothingStatedError, match=r"page\.md states nothing for cpu"):
        stated.read("cpu", "fp32", tmp_path / "page.md")


def test_ratios_within_the_margin_do_not_fall_short(tmp_path: Path) -> None:
    """And those that were not asked for (training, the authors' code) are passed over."""
    stated_now = statement(tmp_path)
    assert stated.shortfalls(run_of({"speedup": 1.51}, {"speedup": 9}), stated_now, 0.25) == []
    short = run_of({"speedup": 1.49, "reference_speedup": 5.9}, {"speedup": 2.2})
    assert stated.shortfalls(short, stated_now, 0.25) == [
        "masks + latents, 64 px, batch 1: authors'/ours is 5.90, stated is 8",
        "masks + latents, 64 px, batch 1: plain/ours is 1.49, stated is 2",
        "full forward, 64 px, batch 1: plain/ours is 2.20, stated is 3",
    ]


def test_what_was_to_be_measured_and_was_not_falls_short(tmp_path: Path) -> None:
    stated_now = statement(tmp_path)
    result = run_of({"speedup": 2, "left_out": {"reference": "ValueError"}}, {})
    del result["model"][1]
    result |= {"training": {"skipped": "ImportError"}, "reference": {"skipped": "no import"}}
    assert stated.shortfalls(result, stated_now, 0.25) == [
        "masks + latents, 64 px, batch 1: reference not measured, as ValueError",
        "full forward, 64 px, batch 1: not measured",
        "training: not measured, as ImportError",
        "reference: not measured, as no import",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("stated_speedup", "short"), [(1e-3, False), (1e3, True)])
def test_check_decides_the_exit_status(
    stated_speedup: float, short: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = stated.Work("full forward", 32, 2)
    monkeypatch.setattr(stated, "read", lambda *of: {work: {"speedup": stated_speedup}})
    for name in ("models", "batches", "training"):
        monkeypatch.setitem(bench.FULL, name, bench.SMALL[name])
    arguments = ["--check", "--parts", "model", "--repeats", "1", "--device", "cpu"]
    arguments += ["--precision", "fp32", "--output", str(tmp_path / "bench.json")]
    if not short:
        bench.main(arguments)
        return
    with pytest.raises(SystemExit, match="stated is 1000") as error:
        bench.main(arguments)
    assert error.value.code != 0
    assert (tmp_path / "bench.json").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_page_states_what_the_benchmark_measures(precision: str) -> None:
    """A work that is named otherwise on the page would never be compared."""
    models = {
        stated.Work(work, config.image_size, batch)
        for config in bench.FULL["models"]
        for batch in bench.FULL["batches"]
        for work in ("masks + latents", "full forward")
    }
    steps = {
        stated.Work(stated.TRAINING_STEP, config.image_size, batch)
        for config, batch in bench.FULL["training"]
    }
    found = stated.read("cpu", precision)
    assert set(found) <= models | steps
    assert all("speedup" in ratios for ratios in found.values()) and len(found) >= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "bench.py: device 'cuda:99' was asked for"),
        (["--reference", "."], "bench.py: . has no models/genesisv2_config.py"),
        (["--check", "--small"], "2"),
        (["--margin", "1"], "2"),
        (
            ["--check", "--device", "cpu", "--precision", "fp16"],
            "bench.py: performance.md states nothing for cpu with fp16",
        ),
        (["--repeats", "0"], "2"),  # argparse's exit status
        (["--parts", "everything"], "2"),
    ],
)
def test_bad_arguments_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as error:
        bench.main(arguments)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "variant", [{}, {"points": True, "kinds": True, "decoder_size": 16, "decoder_dim": 16}]
)
def test_the_plain_model_computes_the_same(variant: dict[str, Any]) -> None:
    """Values, and gradients of all weights."""
    torch.manual_seed(0)
    config = {"image_size": 32, "num_slots": 3, "feature_dim": 8, "latent_dim": 6, **variant}
    model = GenesisV2(GenesisV2Config(**config))
    with torch.no_grad():
        model.embedding.gate.fill_(1.0)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms that do nothing would hide a wrong order
                parameter.add_(0.3 * torch.randn_like(parameter))
    plain = PlainGenesisV2.like(model)
    model.to(memory_format=torch.channels_last)
    images, scores, noise = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 32, 32), torch.randn(2, 3, 6)
    given = {"seed_scores": scores, "noise": noise}
    if model.takes_points:
        given["points"] = torch.rand(2, 4, 32, 32).round(decimals=1)  # a few of them unknown
    outputs = [one(images, **given) for one in (model, plain)]
    for name in ("log_attention", "log_masks", "latent_mean", "latent_std", "reconstruction"):
        ours, theirs = (getattr(out, name) for out in outputs)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    for one, out in zip((model, plain), outputs, strict=True):
        losses = one.losses(images, out)
        loss = losses.nll.mean() + losses.kl.sum(dim=1).mean()
        if out.kind_logits is not None:
            loss = loss + 100 * out.kind_logits.square().mean()
        loss.backward()
    largest = max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        # Some biases cancel, in distances or in a norm: their gradient is rounding alone.
        scale = max(float(theirs.grad.abs().max()), 1e-3 * largest)
        torch.testing.assert_close(
            ours.grad / scale, theirs.grad / scale, rtol=0, atol=2e-3, msg=name
        )


def test_the_default_model_is_measured() -> None:
    """As it ships, and as its recipe has it."""
    assert load_model(default_checkpoint()).config == bench.TABLETOP
    recipe = yaml.safe_load(find_config("general").read_text())["model"]
    measured = vars(bench.TABLETOP)
    assert {name: measured[name] for name in recipe} == recipe


def test_arithmetic_is_counted_with_its_backward_pass() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    assert count_flops(lambda: a @ b) == 2 * 2 * 3 * 5
    assert count_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 2 * 3 * 5


def test_tables_show_what_is_missing() -> None:
    text = table("Title", {"a": "first", "b": "second"}, [{"a": 1, "b": 0.123456}, {"a": "x"}])
    assert text.split() == ["Title", "first", "second", "1", "0.1235", "x", "-"]
