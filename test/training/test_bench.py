"""The benchmark runs, says what it measured, and compares like with like."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench
from benchmarks.floor import count_flops
from benchmarks.measure import table
from benchmarks.plain import PlainGenesisV2
from genesis_core import GenesisV2, GenesisV2Config

PARTS = ("model", "training", "data")


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
        for key in ("ms", "p95_ms", "plain_ms", "floor_ms", "gflop", "speedup", "of_floor"):
            assert row[key] > 0, key
        assert row["speedup"] == pytest.approx(row["plain_ms"] / row["ms"])
        assert row["floor_ms"] == pytest.approx(
            1e12 * row["gflop"] / result["settings"]["throughput"]
        )
    (step,) = result["training"]
    for key in ("s", "plain_s", "floor_s", "tflop", "images_per_s", "speedup"):
        assert step[key] > 0, key
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "bench.py: device 'cuda:99' was asked for"),
        (["--reference", "."], "bench.py: . has no models/genesisv2_config.py"),
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


def test_arithmetic_is_counted_with_its_backward_pass() -> None:
    a, b = torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    assert count_flops(lambda: a @ b) == 2 * 2 * 3 * 5
    assert count_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 2 * 3 * 5


def test_tables_show_what_is_missing() -> None:
    text = table("Title", {"a": "first", "b": "second"}, [{"a": 1, "b": 0.123456}, {"a": "x"}])
    assert text.split() == ["Title", "first", "second", "1", "0.1235", "x", "-"]
