"""The paper's tables from hand-made results: means and deviations computed by hand."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest

from genesis_core import MODELS
from training import evaluate, paper
from training.tables import main, report


def write(
    path: Path,
    *,
    model: str = "genesis_v2",
    dataset: str = "objects_room",
    folder: str = "data/x",
    split: str = "test",
    image_size: int = 64,
    options: dict[str, Any] | None = None,
    checkpoint: str | None = None,
    config: dict[str, Any] | None = None,
    trained: dict[str, Any] | None = None,
    images: int = 320,
    fid: float | None = None,
    fid_images: int = 10_000,
    flexible: dict[str, Any] | None = None,
    stop_threshold: float | None = None,
    **fixed: Any,
) -> None:
    """A result file as evaluate.py writes it; ``fixed`` are metrics of the fixed slots."""
    settings = MODELS[model].config_class().to_dict() | (config or {})
    metrics = {"images": images, "image_size": settings["image_size"], "fixed": fixed}
    metrics |= {"flexible": flexible}
    if flexible is not None:
        metrics["stop_threshold"] = stop_threshold or paper.stop_threshold(dataset)
    if fid is not None:
        metrics |= {"fid": fid, "fid_images": fid_images}
    entry = {
        "checkpoint": checkpoint or str(path.with_suffix(".safetensors")),
        "config": settings,
        "metadata": {"trained": trained or {"steps": 1000, "batch_size": 16}},
        "metrics": metrics,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"path": folder, "split": split, "dataset": dataset, "image_size": image_size}
    data |= {"count": 320, "options": {"image_size": image_size, "train": 9, **(options or {})}}
    path.write_text(json.dumps({"data": data, "seed": 0, "models": [entry]}))


def scores(ari_fg: float, msc_fg: float) -> dict[str, float]:
    return {"ari_fg": ari_fg, "msc_fg": msc_fg, "ari": ari_fg / 2, "msc": msc_fg / 2}


def rows(text: str, table: int) -> list[list[str]]:
    """Header and rows of a table of tables.md."""
    part = text.split(f"### Table {table}: ")[1].split("###")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def tables(runs: Path, *options: str) -> str:
    main(["--runs", str(runs), "--output", str(runs / "out"), *options])
    return (runs / "out" / "tables.md").read_text()


def test_seeds_are_averaged_beside_the_papers_figures(tmp_path: Path) -> None:
    """Wherever the data lie: output folders of their own, relative and absolute paths."""
    for seed, (ari, msc) in enumerate([(0.80, 0.5), (0.90, 0.6), (0.85, 0.7)]):
        write(
            tmp_path / f"seed_{seed}" / "results.json",
            folder=f"runs/{seed}/data",
            checkpoint="runs/a/model.safetensors",  # the same words for different models
            trained={"steps": 1000, "batch_size": 16, "seed": seed, "git_revision": f"{seed}"},
            decoder=scores(ari, msc),
        )
    header, *found = rows(tables(tmp_path), 1)
    assert header[2:] == [
        "Masks",
        "ObjectsRoom ARI-FG",
        "ObjectsRoom MSC-FG",
        "ShapeStacks ARI-FG",
        "ShapeStacks MSC-FG",
    ]
    # Mean 0.85, deviation sqrt((0.05^2 + 0.05^2) / 2) = 0.05; mean 0.6, deviation 0.1.
    figures = ["0.85 ± 0.05", "0.60 ± 0.10", "—", "—"]
    ours = found.index(["GENESIS-V2", "ours: 1,000 steps of 16, 3 seeds", "decoder", *figures])
    paper_row = ["0.85 ± 0.01", "0.59 ± 0.01", "0.81 ± 0.01", "0.67 ± 0.01"]
    assert found[ours - 1] == ["GENESIS-V2", "paper", "decoder", *paper_row]
    for name, masks in (("MONet-G", "attention"), ("Slot Attention", "decoder")):
        assert [name, "ours", masks, "—", "—", "—", "—"] in found, "missing cells are marked"
    assert len(found) == 8


def test_each_models_own_masks_are_scored(tmp_path: Path) -> None:
    """Attention masks of MONet-G, the decoder's of GENESIS-V2 and Slot Attention."""
    for model in ("genesis_v2", "genesis_v1", "monet", "slot_attention"):
        masks: dict[str, Any] = {"decoder": scores(0.11, 0.22), "attention": scores(0.33, 0.44)}
        if model == "genesis_v1":
            masks["decoder"] = masks["attention"]  # it has one kind
        write(tmp_path / f"{model}.json", model=model, **masks)
    found = {row[0]: row[2:5] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours")}
    assert found == {
        "GENESIS-V2": ["decoder", "0.11", "0.22"],
        "GENESIS": ["attention", "0.33", "0.44"],
        "MONet-G": ["attention", "0.33", "0.44"],
        "Slot Attention": ["decoder", "0.11", "0.22"],
    }
    text = tables(tmp_path, "--masks", "attention")
    chosen = [row[2:5] for row in rows(text, 1) if row[1].startswith("ours")]
    assert chosen == [["attention", "0.33", "0.44"]] * 4
    for table in (2, 6):
        header, *found_rows = rows(text, table)
        ours = [row for row in found_rows if row[3].startswith("ours")]
        assert {row[header.index("Masks")] for row in ours} == {"attention"}


def test_a_decoder_that_was_not_trained_has_no_figures(tmp_path: Path) -> None:
    trained: dict[str, Any] = {"steps": 10, "batch_size": 2, "mask_supervision": 1.0}
    trained["masks_only"] = True
    masks: dict[str, Any] = {"decoder": scores(0.1, 0.2), "attention": scores(0.9, 0.8)}
    write(tmp_path / "a.json", trained=trained, elbo=-9000.0, fid=300.0, **masks)
    source = "ours: 10 steps of 2, mask supervision alone, 1 seed"
    text = tables(tmp_path)
    assert ["GENESIS-V2", source, "attention", "0.90", "0.80", "—", "—"] in rows(text, 1)
    assert ["GENESIS-V2", source, "—", "—", "—", "—"] in rows(text, 3)
    text = tables(tmp_path, "--masks", "decoder")
    assert ["GENESIS-V2", source, "decoder", "—", "—", "—", "—"] in rows(text, 1)


def test_slots_are_tabulated_with_and_without_the_mask_loss(tmp_path: Path) -> None:
    values: dict[str, Any] = {"slots": 9.0, "slots_mae": 4.5, "decoder": scores(0.8, 0.6)}
    flexible = {"slots": 6.26, "slots_mae": 1.8, "decoder": scores(0.7, 0.5)}
    about: dict[str, Any] = {"dataset": "shapestacks", "flexible": flexible}
    write(tmp_path / "plain.json", **about, **values)
    write(tmp_path / "loss.json", **about, config={"mask_loss": True}, **{**values, "slots": 8.0})
    found = rows(tables(tmp_path), 2)[1:]
    ours = [row[:3] + row[5:] for row in found if row[3] != "paper" and row[0] == "ShapeStacks"]
    assert ours == [
        ["ShapeStacks", "no mask loss", "fixed", "9.0", "4.5", "0.80", "0.60"],
        ["ShapeStacks", "no mask loss", "flexible", "6.3", "1.8", "0.70", "0.50"],
        ["ShapeStacks", "mask loss", "fixed", "8.0", "4.5", "0.80", "0.60"],
        ["ShapeStacks", "mask loss", "flexible", "6.3", "1.8", "0.70", "0.50"],
    ]
    assert ["ObjectsRoom", "no mask loss", "fixed", "ours", "decoder", "—", "—", "—", "—"] in found
    theirs = ["5.7 ± 0.2", "1.1 ± 0.0", "0.81 ± 0.01", "0.68 ± 0.01"]
    assert ["ShapeStacks", "mask loss", "flexible", "paper", "decoder", *theirs] in found
    # Table 1 is of the model without the mask loss.
    assert not [row for row in rows(tables(tmp_path), 1) if "2 seeds" in row[1]]


def test_generation_and_real_images(tmp_path: Path) -> None:
    for seed, elbo in enumerate((-7000.4, -7010.4)):
        write(tmp_path / f"{seed}.json", model="monet", elbo=elbo, fid=100.0 + 10 * seed)
    real: dict[str, Any] = {"image_size": 128}
    write(tmp_path / "apc.json", dataset="apc", **real, decoder=scores(0.8, 0.6), fid=99.96)
    write(tmp_path / "sketchy.json", dataset="sketchy", **real, fid=210.0)
    text = tables(tmp_path)
    # Deviations: 10 / sqrt(2) = 7.07.
    row = ["MONet-G", "ours: 1,000 steps of 16, 2 seeds", "-7005 ± 7", "105.0 ± 7.1", "—", "—"]
    assert row in rows(text, 3)
    theirs = ["Slot Attention", "paper", "—", "—", "—", "—"]
    assert theirs in rows(text, 3)
    apc = ["GENESIS-V2", "ours: 1,000 steps of 16, 1 seed"]
    assert [*apc, "decoder", "0.40", "0.30"] in rows(text, 4)
    assert ["GENESIS-V2", "paper", "decoder", "0.55", "0.67"] in rows(text, 4)
    assert [*apc, "210.0", "100.0"] in rows(text, 5)
    assert ["GENESIS", "paper", "241.9", "183.2"] in rows(text, 5)


def test_ablations_have_a_row_each(tmp_path: Path) -> None:
    for number, variant in enumerate(paper.ABLATIONS):
        write(tmp_path / f"{number}.json", config=vars(variant), decoder=scores(number / 10, 0.5))
    header, *found = rows(tables(tmp_path), 6)
    assert header[:5] == ["Auto-reg. prior", "Kernel", "Semi-conv.", "Source", "Masks"]
    assert [row[:3] + row[5:7] for row in found if row[3] != "paper"] == [
        ["no", "Gaussian", "yes", "0.00", "0.50"],
        ["no", "Laplacian", "yes", "0.10", "0.50"],
        ["no", "Epanechnikov", "yes", "0.20", "0.50"],
        ["yes", "Gaussian", "yes", "0.30", "0.50"],
        ["yes", "Gaussian", "no", "0.40", "0.50"],
    ]
    theirs = ["0.79 ± 0.05", "0.59 ± 0.02", "0.60 ± 0.38", "0.56 ± 0.21"]
    assert ["yes", "Gaussian", "no", "paper", "decoder", *theirs] in found
    in_table_1 = [row for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")]
    assert [row[3] for row in in_table_1] == ["0.30"], "only the model as the paper settles on it"


def test_unlike_models_do_not_share_a_row(tmp_path: Path) -> None:
    """Budgets, sizes and supervision are said; slots only where there are several numbers."""
    long = {"steps": 500_000, "batch_size": 32}
    taught = {**long, "started_from": {"steps": 900, "batch_size": 8, "mask_supervision": 1.0}}
    write(tmp_path / "a.json", decoder=scores(0.1, 0.5))
    write(tmp_path / "b.json", decoder=scores(0.2, 0.5), trained=long)
    write(tmp_path / "c.json", decoder=scores(0.3, 0.5), trained=long, config={"num_slots": 12})
    write(tmp_path / "d.json", decoder=scores(0.4, 0.5), config={"feature_dim": 32})
    write(tmp_path / "e.json", decoder=scores(0.5, 0.5), trained=taught)
    regions = {**long, "region_mixture": 300.0}
    write(tmp_path / "f.json", decoder=scores(0.6, 0.5), trained=regions)
    found = {row[1]: row[3] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")}
    assert found == {
        "ours: 1,000 steps of 16, 1 seed": "0.10",
        "ours: K = 7, 64 px, 500,000 steps of 32, 1 seed": "0.20",
        "ours: K = 12, 64 px, 500,000 steps of 32, 1 seed": "0.30",
        "ours: feature_dim 32, 1,000 steps of 16, 1 seed": "0.40",
        "ours: 500,000 steps of 32, started from 900 steps of 8, mask supervision, 1 seed": "0.50",
        "ours: 500,000 steps of 32, region mixture, 1 seed": "0.60",
    }


def test_distinct_seeds_are_counted_and_what_differs_is_said(tmp_path: Path) -> None:
    """The same seed twice is one, of which the later file counts."""
    base: dict[str, Any] = {"steps": 10, "batch_size": 2, "seed": 0, "dataset": "objects_room"}
    changed: list[dict[str, Any]] = [{}, {}, {"seed": 1}, {"dataset": "sprites"}]
    for number, (ari, changes) in enumerate(zip((0.1, 0.2, 0.4, 0.9), changed, strict=True)):
        path = tmp_path / f"{number}.json"
        write(path, trained=base | changes, decoder=scores(ari, 0.5))
        os.utime(path, (number, number))
    found = {row[1]: row[3] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")}
    assert found == {
        "ours: 10 steps of 2, dataset objects_room, 2 seeds": "0.30 ± 0.14",
        "ours: 10 steps of 2, dataset sprites, 1 seed": "0.90",
    }


def test_any_setting_tells_models_apart_and_a_new_ones_default_does_not(tmp_path: Path) -> None:
    base: dict[str, Any] = {"steps": 10, "batch_size": 2, "texture": 0.0, "robot_weight": 1.0}
    older = {"steps": 10, "batch_size": 2}
    quick = {**base, "settings": {"optimizer.lr": 1e-3, "objective.latent_anchor": 5.0}}
    for number, (ari, trained) in enumerate([(0.1, base), (0.2, older), (0.9, quick)]):
        write(
            tmp_path / f"{number}.json",
            trained={**trained, "seed": number},
            decoder=scores(ari, 0.5),
        )
    found = {row[1]: row[3] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")}
    assert found == {
        "ours: 10 steps of 2, 2 seeds": "0.15 ± 0.07",
        "ours: 10 steps of 2, objective.latent_anchor 5.0, optimizer.lr 0.001, 1 seed": "0.90",
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"settings": {"objective.latent_anchor": 5.0}}, "objective.latent_anchor 5.0, "),
        (
            {"settings": {"objective.attention_likelihood": True}},
            "objective.attention_likelihood True, ",
        ),
        (
            {"settings": {"objective.mask_distillation": 9.0}},
            "objective.mask_distillation 9.0, ",
        ),
        ({"settings": {"objective.initial_std": 0.01}}, "objective.initial_std 0.01, "),
        ({"kind_supervision": 0.2}, "kind_supervision 0.2, "),
        (
            {"started_from": {"steps": 0, "settings": {"objective.latent_anchor": 5.0}}},
            "objective.latent_anchor 5.0, ",
        ),
        ({"settings": {"objective.goal": 0.5, "optimizer.lr": 1e-3}, "precision": "bf16"}, ""),
    ],
)
def test_an_objective_that_the_paper_has_not_is_always_said(
    changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Of the only result, too: beside it stand the paper's figures."""
    trained = {"steps": 10, "batch_size": 2, **changed}
    write(tmp_path / "one.json", trained=trained, decoder=scores(0.1, 0.5))
    (found,) = [row[1] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")]
    assert found == f"ours: 10 steps of 2, {said}1 seed"


def test_data_sets_of_one_name_are_told_apart_by_how_they_were_made(tmp_path: Path) -> None:
    few: dict[str, Any] = {"mode": "varied", "exposure": 0.42, "name": "tabletop", "source": None}
    many = {**few, "min_objects": 7, "max_objects": 12}
    about: dict[str, Any] = {"dataset": "tabletop", "checkpoint": "m"}
    write(tmp_path / "a.json", **about, options=few, decoder=scores(0.9, 0.8))
    more: dict[str, Any] = {"config": {"num_slots": 14}, "decoder": scores(0.6, 0.5)}
    write(tmp_path / "b.json", **about, options=many, **more)
    write(tmp_path / "c.json", dataset="sprites", decoder=scores(0.7, 0.4))
    text = tables(tmp_path)
    header, *found = rows(text, 1)
    columns = dict(zip(header, zip(*found, strict=True), strict=True))
    assert "0.70" in columns["sprites ARI-FG"]
    assert "0.90" in columns["tabletop, 1 to 6 objects ARI-FG"]
    assert "0.60" in columns["tabletop, 7 to 12 objects ARI-FG"]
    assert {row[0] for row in rows(text, 2)} >= {"sprites", "tabletop, 7 to 12 objects"}
    # One model with different numbers of slots: which is which is said.
    assert "ours: K = 14, 64 px, 1,000 steps of 16, 1 seed" in columns["Source"]
    assert "data/x" not in text


def test_a_model_that_the_paper_has_not_gets_a_row(tmp_path: Path) -> None:
    """Even where it is not registered: its results came from elsewhere."""
    write(tmp_path / "a.json", decoder=scores(0.5, 0.4), elbo=-7.0)
    content = json.loads((tmp_path / "a.json").read_text())
    content["models"][0]["config"] = {"model": "toy", "image_size": 64, "num_slots": 7}
    (tmp_path / "b.json").write_text(json.dumps(content))
    text = tables(tmp_path)
    for table, figures in ((1, ["decoder", "0.50", "0.40", "—", "—"]), (3, ["-7", *"———"])):
        ours = [row for row in rows(text, table) if row[0] == "toy"]
        assert ours == [["toy", "ours: 1,000 steps of 16, 1 seed", *figures]]


def test_depth_is_a_property_of_the_model_not_another_data_set(tmp_path: Path) -> None:
    options: dict[str, Any] = {"mode": "mixed", "exposure": 0.42}
    write(tmp_path / "a.json", dataset="tabletop", options=options, decoder=scores(0.5, 0.5))
    more: dict[str, Any] = {"options": {**options, "depth": True}, "config": {"image_channels": 4}}
    write(tmp_path / "b.json", dataset="tabletop", **more, decoder=scores(0.6, 0.5))
    header, *found = rows(tables(tmp_path), 1)
    column = header.index("tabletop ARI-FG")
    assert {row[1]: row[column] for row in found if row[1].startswith("ours: ")} == {
        "ours: 1,000 steps of 16, 1 seed": "0.50",
        "ours: image_channels 4, 1,000 steps of 16, 1 seed": "0.60",
    }


def test_files_about_one_model_are_put_together(tmp_path: Path) -> None:
    """Say, one with the FID and a later one without; neither is a seed of its own."""
    write(tmp_path / "model.json", elbo=-1.0, fid=50.0)
    content = json.loads((tmp_path / "model.json").read_text())
    content["models"][0]["metrics"] = {"fixed": {"elbo": -2.0}, "flexible": None}
    (tmp_path / "later.json").write_text(json.dumps(content))
    (tmp_path / "versions.json").write_text('{"torch": "2"}')  # other files do not matter
    os.utime(tmp_path / "model.json", (1, 1))
    row = ["GENESIS-V2", "ours: 1,000 steps of 16, 1 seed", "-2", "50.0", "—", "—"]
    assert row in rows(tables(tmp_path), 3)


def test_fids_of_other_numbers_of_images_have_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, (fid, images) in enumerate([(150.0, 200), (50.0, 10_000), (54.0, 10_000)]):
        trained = {"steps": 10, "batch_size": 2, "seed": seed}
        about: dict[str, Any] = {"trained": trained, "fid": fid, "fid_images": images}
        write(tmp_path / f"{seed}.json", **about, elbo=-7.0, decoder=scores(0.5, 0.5))
        write(tmp_path / f"apc_{seed}.json", dataset="apc", image_size=128, **about)
    text = tables(tmp_path)
    ours = [row[1:4] for row in rows(text, 3) if row[1].startswith("ours: ")]
    assert ours == [
        ["ours: 10 steps of 2, 2 seeds", "-7 ± 0", "52.0 ± 2.8"],
        ["ours: 10 steps of 2, 1 seed; FID of 200 images", "-7", "150.0"],
    ]
    ours = [[row[1], row[3]] for row in rows(text, 5) if row[1].startswith("ours: ")]
    assert ours == [
        ["ours: 10 steps of 2, 2 seeds", "52.0 ± 2.8"],
        ["ours: 10 steps of 2, 1 seed; FID of 200 images", "150.0"],
    ]
    in_table_1 = [row[1] for row in rows(text, 1) if row[1].startswith("ours: ")]
    assert in_table_1 == ["ours: 10 steps of 2, 3 seeds"], "the scores of masks do compare"

    # One model has one FID: the later one, and the earlier is not dropped unsaid.
    assert "left out" not in capsys.readouterr().err
    later: dict[str, Any] = {"trained": {"steps": 10, "batch_size": 2, "seed": 0}, "elbo": -7.0}
    write(tmp_path / "again.json", **later, fid=56.0, decoder=scores(0.5, 0.5))
    os.utime(tmp_path / "0.json", (1, 1))
    ours = [row[1:4] for row in rows(tables(tmp_path), 3) if row[1].startswith("ours: ")]
    assert ours == [["ours: 10 steps of 2, 3 seeds", "-7 ± 0", "53.3 ± 3.1"]]
    err = capsys.readouterr().err
    assert "again.json has the same model and seed with other figures" in err


def test_a_fid_that_is_not_shown_is_not_spoken_of(tmp_path: Path) -> None:
    """Of a decoder that was not trained."""
    trained = {"steps": 10, "batch_size": 2, "masks_only": True, "mask_supervision": 1.0}
    write(tmp_path / "a.json", trained=trained, fid=300.0, fid_images=200)
    assert "FID of" not in tables(tmp_path)


def test_other_stop_thresholds_than_the_papers_have_rows_of_their_own(tmp_path: Path) -> None:
    """Only of the flexible slots, and the paper's is another one for each data set."""
    for dataset, papers in (("objects_room", 70.0), ("shapestacks", 20.0), ("tabletop", 20.0)):
        for seed, threshold, slots in ((0, papers, 5.0), (1, papers, 6.0), (1, 8.0, 7.0)):
            about: dict[str, Any] = {"dataset": dataset, "stop_threshold": threshold}
            about["trained"] = {"steps": 10, "batch_size": 2, "seed": seed}
            path = tmp_path / f"{dataset}_{seed}_{threshold:g}.json"
            write(path, **about, slots=9.0, flexible={"slots": slots})
    text = tables(tmp_path)
    names = {"ObjectsRoom", "ShapeStacks", "tabletop"}
    found = [row for row in rows(text, 2) if row[0] in names and row[3].startswith("ours: ")]
    for name in names:
        assert [[row[2], row[3], row[5]] for row in found if row[0] == name] == [
            ["fixed", "ours: 10 steps of 2, 2 seeds", "9.0 ± 0.0"],
            ["flexible", "ours: 10 steps of 2, 2 seeds", "5.5 ± 0.7"],
            ["flexible", "ours: 10 steps of 2, 1 seed; stop threshold 8 px", "7.0"],
        ]
    assert "stop threshold" not in text.split("### Table 2")[0] + text.split("### Table 3")[1]


def test_scores_of_other_numbers_of_images_have_rows_of_their_own(tmp_path: Path) -> None:
    """A short trial of the same model does not take the place of what it was evaluated to."""
    write(tmp_path / "long.json", elbo=-7.0, fid=50.0, decoder=scores(0.5, 0.5), slots=7.0)
    about: dict[str, Any] = {"checkpoint": str(tmp_path / "long.safetensors"), "slots": 7.0}
    write(tmp_path / "short.json", images=8, **about, elbo=-9.0, decoder=scores(0.9, 0.9))
    os.utime(tmp_path / "long.json", (1, 1))
    text = tables(tmp_path)
    sources = ["ours: 1,000 steps of 16, 1 seed"]
    sources.append(f"{sources[0]}; evaluated on 8 images")
    for table in (1, 2, 3, 6):
        column = rows(text, table)[0].index("Source")
        ours = [row for row in rows(text, table) if row[column].startswith("ours: ")]
        assert {row[column] for row in ours} == set(sources)
    found = {row[1]: row[3] for row in rows(text, 1)}
    assert [found[source] for source in sources] == ["0.50", "0.90"]
    found = {row[1]: " ".join(row[2:4]) for row in rows(text, 3)}
    assert [found[source] for source in sources] == ["-7 50.0", "-9 —"]


def test_checkpoints_reported_together_have_no_mean_over_stop_thresholds(tmp_path: Path) -> None:
    """As evaluate.py prints them; a calibrated checkpoint carries its own threshold."""
    values: dict[str, Any] = {"slots": 6.0, "slots_mae": 1.0, "decoder": scores(0.5, 0.5)}
    for name, threshold in (("plain", 70.0), ("calibrated", 8.0)):
        write(tmp_path / f"{name}.json", stop_threshold=threshold, flexible=values, **values)
    contents = [
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "calibrated")
    ]
    both = {**contents[0], "models": [content["models"][0] for content in contents]}
    text = report(both)
    assert "Table 2: slots (flexible: down to 8/70 px at 64x64)" in text
    lines = [line for line in text.splitlines() if "decoder" in line and "paper" not in line]
    flexible = [line for line in lines if " flexible " in line]
    assert ["calibrated.safetensors (stop threshold 8 px)" in line for line in flexible] == [0, 1]
    assert "plain.safetensors  " in flexible[0]
    assert not any("mean of" in line for line in flexible)
    assert len([line for line in lines if " fixed " in line and "mean of 2" in line]) == 1
    assert "mean of 2" in text.split("Table 2")[0]


def test_what_is_called_the_papers_is_what_evaluate_takes_by_default() -> None:
    defaults = inspect.signature(evaluate.run).parameters
    assert defaults["num_images"].default == paper.IMAGES
    assert defaults["num_fid_images"].default == paper.FID_IMAGES


@pytest.mark.parametrize(
    ("dataset", "image_size", "options", "title"),
    [
        ("objects_room", 64, {"variant": "six_objects"}, "ObjectsRoom, variant six_objects"),
        (
            "objects_room",
            64,
            {"variant": "identical_color"},
            "ObjectsRoom, variant identical_color",
        ),
        ("shapestacks", 128, {}, "ShapeStacks, 128 px"),
    ],
)
def test_the_papers_figures_stand_beside_its_own_data_alone(
    tmp_path: Path, dataset: str, image_size: int, options: dict[str, Any], title: str
) -> None:
    """Others of the name have columns and rows of their own, with or without results on these."""
    flexible = {"slots": 5.0, "decoder": scores(0.4, 0.3)}
    values: dict[str, Any] = {"elbo": -7.0, "fid": 50.0, "decoder": scores(0.25, 0.35)}
    about: dict[str, Any] = {"dataset": dataset, "flexible": flexible, **values, "slots": 9.0}
    name = title.partition(",")[0]
    write(tmp_path / "other.json", **about, image_size=image_size, options=options)
    text = tables(tmp_path)
    for table, ours in ((1, "0.25"), (3, "-7"), (6, "0.25")):
        header, *found = rows(text, table)
        metric = "ELBO" if table == 3 else "ARI-FG"
        source = header.index("Source")
        standard, other = header.index(f"{name} {metric}"), header.index(f"{title} {metric}")
        assert {row[other] for row in found if row[source] == "paper"} == {"—"}
        assert {row[standard] for row in found if row[source] == "paper"} != {"—"}
        with_ours = [row for row in found if row[source].startswith("ours: ")]
        assert [(row[standard], row[other]) for row in with_ours] == [("—", ours)]
    sources = {row[3] for row in rows(text, 2) if row[0] == title}
    assert sources == {"ours: 1,000 steps of 16, 1 seed"}
    assert {row[3] for row in rows(text, 2) if row[0] == name} == {"paper", "ours"}

    printed = report(json.loads((tmp_path / "other.json").read_text()))
    assert printed.startswith(f"{title.replace(name, dataset)}, test split: 320 images at 64x64")
    assert "paper  " not in printed

    standard_options = {"variant": "train"} if options else {}
    write(tmp_path / "standard.json", **about, options=standard_options)
    header, *found = rows(tables(tmp_path), 1)
    (other,) = [place for place, head in enumerate(header) if head == f"{title} ARI-FG"]
    (theirs,) = [row for row in found if row[:2] == ["GENESIS-V2", "paper"]]
    assert theirs[other] == "—"
    assert theirs[other - 2] == ("0.85 ± 0.01" if options else "0.81 ± 0.01")
    assert "paper  " in report(json.loads((tmp_path / "standard.json").read_text()))


def test_real_images_of_another_size_are_not_the_papers(tmp_path: Path) -> None:
    write(tmp_path / "apc.json", dataset="apc", image_size=64, decoder=scores(0.8, 0.6), fid=99.0)
    text = tables(tmp_path)
    header, *found = rows(text, 4)
    assert header[3:] == ["APC ARI", "APC MSC", "APC, 64 px ARI", "APC, 64 px MSC"]
    assert ["GENESIS-V2", "paper", "decoder", "0.55", "0.67", "—", "—"] in found
    assert rows(text, 5)[0][2:] == ["Sketchy FID", "APC FID", "APC, 64 px FID"]
    assert ["GENESIS-V2", "paper", "208.1", "245.6", "—"] in rows(text, 5)


def test_what_does_not_compare_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "good.json", decoder=scores(0.9, 0.8))
    write(tmp_path / "val.json", split="val", decoder=scores(0.1, 0.1))
    write(tmp_path / "hard.json", decoder=scores(0.1, 0.1))
    content = json.loads((tmp_path / "hard.json").read_text())
    (tmp_path / "hard.json").write_text(json.dumps({**content, "hard_masks": True}))
    found = [row[3:5] for row in rows(tables(tmp_path), 1) if row[1].startswith("ours: ")]
    assert found == [["0.90", "0.80"]]
    err = capsys.readouterr().err
    assert f"left out: {tmp_path / 'val.json'}" in err and "split val, not test" in err
    assert f"left out: {tmp_path / 'hard.json'}" in err and "evaluated with hard masks" in err


def test_latex_has_the_same_figures(tmp_path: Path) -> None:
    for seed, ari in enumerate((0.8, 0.9)):
        write(tmp_path / f"{seed}.json", config={"feature_dim": 32}, decoder=scores(ari, 0.5))
    tables(tmp_path)
    text = (tmp_path / "out" / "tables.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{table}") == 6
    row = next(line for line in text.splitlines() if line.startswith("GENESIS-V2 & ours: "))
    assert row == (
        r"GENESIS-V2 & ours: feature\_dim 32, 1,000 steps of 16, 2 seeds & decoder & "
        r"$0.85 \pm 0.07$ & $0.50 \pm 0.00$ & --- & --- \\"
    )
    assert r"\caption{Slots of GENESIS-V2}" in text
    for table in text.split(r"\begin{table}")[1:]:
        columns = len(table.split(r"\begin{tabular}{")[1].split("}")[0])
        body = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {line.count(" & ") + 1 for line in body} == {columns}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "nowhere is not a folder"),
        ("{}", "has no results for the tables; make some with evaluate.py --output"),
        ('{"models": ', "broken.json is not JSON"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    runs = tmp_path / "nowhere"
    if content is not None:
        runs.mkdir()
        (runs / "broken.json").write_text(content)
    with pytest.raises(SystemExit, match=message):
        main(["--runs", str(runs)])
