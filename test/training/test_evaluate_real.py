"""Labelled images of real cameras: how they are read, what is background, tables and sheets."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genesis_core import GenesisV2, GenesisV2Config, Scene, Segmenter, save_model
from training.datasets.layout import DatasetError
from training.evaluate import main
from training.evaluate_real import (
    Background,
    found_objects,
    measure,
    measure_inputs,
    region_of,
    run,
    summarise_groups,
    table,
    worst,
)
from training.labelled_images import LabelledImage, find_labelled
from training.sheets import CAPTION_HEIGHT, GAP, object_sheet, slot_colours

HEIGHT, WIDTH = 40, 60
Labels = NDArray[np.int64]


def painted(*rectangles: tuple[int, tuple[slice, slice]]) -> Labels:
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    for label, place in rectangles:
        labels[place] = label
    return labels


LEFT, RIGHT = (slice(5, 15), slice(5, 15)), (slice(20, 30), slice(40, 50))
TRUTH = painted((1, LEFT), (2, RIGHT))


def write_image(folder: Path, name: str, labels: Labels, depth: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = np.full((*labels.shape, 3), 90, np.uint8)
    image[labels == 1] = (0, 0, 200)
    cv2.imwrite(str(folder / f"{name}.png"), image)
    cv2.imwrite(str(folder / f"{name}.label.png"), labels.astype(np.uint8))
    if depth:
        millimetres = np.full((HEIGHT // 2, WIDTH // 2), 1500, np.uint16)
        millimetres[0] = 0
        cv2.imwrite(str(folder / f"{name}.depth.png"), millimetres)


def write_index(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "index.json").write_text(json.dumps(entries))


def scene(labels: Labels, count: int = 0, kinds: Sequence[str] | None = None) -> Scene:
    """A scene in which every pixel is sure of its slot; -1 was not seen."""
    count = count or int(labels.max()) + 1
    masks = (labels[None] == np.arange(count)[:, None, None]).astype(np.float32)
    empty = np.zeros((count, 2), np.float32)
    known = None if kinds is None else np.array(kinds)
    return Scene(masks, labels, empty, empty, np.ones(count, np.float32), count, kinds=known)


# Reading


def test_labels_in_colours_are_refused(tmp_path: Path) -> None:
    """Their red channel alone would be other labels, or none."""
    write_image(tmp_path, "x", TRUTH)
    green = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    green[TRUTH == 1] = (0, 200, 0)
    cv2.imwrite(str(tmp_path / "x.label.png"), green)
    (tmp_path / "._x.label.png").write_bytes(b"resources of macOS")
    (found,) = find_labelled(tmp_path)
    with pytest.raises(DatasetError, match="one grey value for each pixel, found colours"):
        found.read_labels(HEIGHT, WIDTH)


def test_a_folder_without_anything_to_score_is_refused(tmp_path: Path) -> None:
    """Such as one of usual binary masks, where 255 would be the object."""
    write_image(tmp_path, "x", np.where(TRUTH > 0, 255, 0).astype(np.uint8))
    with pytest.raises(DatasetError, match=r"no image of .* shows an object to score.*255 is not"):
        run(tmp_path, ["tabletop_small"])


def test_images_with_labels_beside_them_are_found(tmp_path: Path) -> None:
    write_image(tmp_path, "b", TRUTH, depth=True)
    write_image(tmp_path, "a", TRUTH)
    (tmp_path / "notes.txt").write_text("no image")
    first, second = find_labelled(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    assert first.group == tmp_path.name and first.depth is None
    assert first.read_image()[5, 5].tolist() == [200, 0, 0]  # RGB
    assert (first.read_labels(HEIGHT, WIDTH) == TRUTH).all()
    depth = second.read_depth(HEIGHT, WIDTH)
    assert depth.shape == (HEIGHT, WIDTH) and depth.dtype == np.float32
    assert (depth[:2] == 0).all() and depth[2:] == pytest.approx(1.5)
    # Of a camera that nobody knows.
    expected = [[54, 0, 30], [0, 54, 20], [0, 0, 1]]
    assert second.intrinsics(HEIGHT, WIDTH).tolist() == expected


def test_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    write_image(tmp_path, "a", TRUTH)
    (tmp_path / "a.png").rename(tmp_path / "a.PNG")
    (found,) = find_labelled(tmp_path)
    assert found.image == tmp_path / "a.PNG"
    found.image.unlink()
    with pytest.raises(DatasetError, match=r"has no image a\.png or a\.jpg beside it"):
        find_labelled(tmp_path)


def test_an_index_says_groups_cameras_and_the_robot(tmp_path: Path) -> None:
    write_image(tmp_path, "x", TRUTH, depth=True)
    files = {"image": "x.png", "label": "x.label.png"}
    camera = {"depth_mm": "x.depth.png", "intrinsics_fx_fy_cx_cy": [100, 101, 30, 20]}
    write_index(
        tmp_path,
        {**files, "name": "one", "group": "bins", **camera, "names": ["cup", "robot"]},
        {**files, "robot": 1},
    )
    first, second = find_labelled(tmp_path)
    assert (first.name, first.group, second.name) == ("one", "bins", "x")
    assert first.intrinsics(HEIGHT, WIDTH).tolist() == [[100, 0, 30], [0, 101, 20], [0, 0, 1]]
    assert (first.robot, second.robot) == ({2}, {1})
    assert first.depth == tmp_path / "x.depth.png" and second.depth is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "x.png").unlink(), "x.label.png has no image x.png or x.jpg"),
        (lambda folder: (folder / "x.label.png").unlink(), "holds no labelled images: expected"),
        (lambda folder: (folder / "x.png").write_bytes(b"?"), r"x\.png: the image cannot be deco"),
        (
            lambda folder: cv2.imwrite(str(folder / "x.label.png"), np.ones((9, 8), np.uint8)),
            r"x\.label\.png is 8x9 pixels, but its image 60x40",
        ),
        (
            lambda folder: cv2.imwrite(str(folder / "x.label.png"), np.zeros((9, 8), np.uint16)),
            r"x\.label\.png: expected 8 bits per channel",
        ),
        (
            lambda folder: (folder / "index.json").write_text('[{"image": "x.png"}]'),
            r"index\.json is no list of entries with image and label \(KeyError: 'label'\)",
        ),
        (lambda folder: (folder / "index.json").write_text("{"), r"index\.json is no list"),
        (
            lambda folder: write_index(folder, {"image": "y.png", "label": "x.label.png"}),
            r"y\.png: ",
        ),
    ],
)
def test_what_cannot_be_read_is_named(spoil: Any, message: str, tmp_path: Path) -> None:
    write_image(tmp_path, "x", TRUTH)
    save_model(tiny_model(), tmp_path / "model.safetensors")
    spoil(tmp_path)
    command = ["--real", str(tmp_path), "--checkpoint", str(tmp_path / "model.safetensors")]
    with pytest.raises(SystemExit, match=r"evaluate\.py: error: .*" + message):
        main([*command, "--device", "cpu"])


def test_depth_of_another_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.depth.png"
    cv2.imwrite(str(path), np.zeros((4, 4), np.uint8))
    image = LabelledImage("x", "g", tmp_path / "x.png", tmp_path / "x.label.png", path)
    with pytest.raises(DatasetError, match="no 16-bit grey image of millimetres"):
        image.read_depth(4, 4)


# What is background


@pytest.mark.parametrize(
    ("background", "expected"),
    [
        ("largest", {1: 1, 2: 2, 3: 3}),  # the table, but not the strip at the border
        ("auto", {1: 1, 2: 2, 3: 3}),
        ("node", {1: 1, 2: 2}),  # the strip has more than 30% of the border
    ],
)
def test_rules_for_checkpoints_that_tell_no_kinds(
    background: Background, expected: dict[int, int]
) -> None:
    top, left = (slice(0, 4), slice(0, WIDTH)), (slice(4, HEIGHT), slice(0, 3))
    slots = painted((3, top), (3, left), (1, LEFT), (2, RIGHT))
    found = found_objects(scene(slots), background, min_area=0.0005)
    for slot in range(4):
        assert set(found[slots == slot].tolist()) == {expected.get(slot, 0)}, slot


def test_the_largest_segment_has_to_touch_the_border() -> None:
    inside = (slice(1, HEIGHT - 1), slice(1, WIDTH - 1))
    slots = painted((1, inside))  # larger than the frame around it
    assert (found_objects(scene(slots), "largest", 0.0005) == slots).all()


def test_small_segments_are_background() -> None:
    slots = painted((1, LEFT), (2, (slice(20, 21), slice(40, 41))))
    assert found_objects(scene(slots), "largest", min_area=1 / slots.size).max() == 2
    found = found_objects(scene(slots), "largest", min_area=1.5 / slots.size)
    assert (found == painted((1, LEFT))).all()


def test_kinds_cannot_be_had_of_every_checkpoint() -> None:
    with pytest.raises(ValueError, match="does not tell objects from surroundings"):
        found_objects(scene(TRUTH), "kinds", 0.0005)


@pytest.mark.parametrize("background", ["auto", "kinds", "node"])
def test_a_checkpoint_that_tells_kinds_says_what_an_object_is(background: Background) -> None:
    slots = painted((1, LEFT), (2, RIGHT), (3, (slice(0, 4), slice(0, WIDTH))))
    kinds = ["surroundings", "object", "robot", "surroundings"]
    found = found_objects(scene(slots, kinds=kinds), background, min_area=0.0005)
    assert (found == painted((1, LEFT))).all()


# Measuring


def labelled(tmp_path: Path, labels: Labels, **about: Any) -> list[LabelledImage]:
    write_image(tmp_path, "x", labels)
    write_index(tmp_path, {"image": "x.png", "label": "x.label.png", **about})
    return find_labelled(tmp_path)


def test_what_a_centre_crop_does_not_show_is_not_scored(tmp_path: Path) -> None:
    images = labelled(tmp_path, TRUTH)
    slots = TRUTH.copy()
    slots[:, :10] = slots[:, 50:] = -1  # half of the left object is cut off
    (one,) = measure(lambda source, image: scene(slots, 3), images)
    assert one.scores is not None
    assert one.scores.ious.tolist() == [1, 1]
    assert one.scores.overlap.f == 1


def test_tiny_objects_are_not_scored_and_the_robot_is_no_object(tmp_path: Path) -> None:
    arm = (slice(0, 20), slice(52, 60))
    big = 5  # times the size, so that a pixel is less than a ten-thousandth
    truth = painted((1, LEFT), (2, arm)).repeat(big, 0).repeat(big, 1)
    truth[35 * big, 10 * big] = 3
    write_image(tmp_path, "x", truth)
    write_index(tmp_path, {"image": "x.png", "label": "x.label.png", "robot": 2})
    slots = painted((1, LEFT), (2, arm)).repeat(big, 0).repeat(big, 1)
    (one,) = measure(lambda source, image: scene(slots), find_labelled(tmp_path))
    assert one.scores is not None
    assert (one.scores.objects, one.scores.on_background) == (1, 1)  # the arm, by the papers' rule
    assert one.kinds is None


def test_kinds_are_measured_where_the_index_names_the_robot(tmp_path: Path) -> None:
    images = labelled(tmp_path, TRUTH, names=["cup", "robot"])
    for said, expected in (("robot", (1, 1, 1)), ("object", (2 / 3, 1 / 2, 0))):
        kinds = ["surroundings", "object", said]
        (one,) = measure(lambda source, image, k=kinds: scene(TRUTH, kinds=k), images)
        summary = summarise_groups([one])["all"]
        shown = ("kind_accuracy", "robot_told", "robot_recall")
        assert tuple(summary[name] for name in shown) == pytest.approx(expected)


def test_groups_are_summed_up_apart_and_together(tmp_path: Path) -> None:
    write_image(tmp_path, "x", TRUTH)
    write_image(tmp_path, "empty", painted())
    files = {"image": "x.png", "label": "x.label.png"}
    empty = {"image": "empty.png", "label": "empty.label.png", "group": "nothing"}
    write_index(tmp_path, {**files, "group": "bin"}, {**files, "group": "table"}, empty)
    found = {"bin": TRUTH, "table": painted((1, LEFT)), "nothing": painted()}
    measured = list(
        measure(lambda source, image: scene(found[source.group], 3), find_labelled(tmp_path))
    )
    groups = summarise_groups(measured)
    assert list(groups) == ["bin", "table", "all"]  # an image without objects has no scores
    assert [groups[name]["f"] for name in groups] == pytest.approx([1, 2 / 3, 5 / 6])
    assert [groups[name]["images"] for name in groups] == [1, 1, 2]


# The command


def tiny_model() -> GenesisV2:
    torch.manual_seed(0)
    return GenesisV2(GenesisV2Config(image_size=32, feature_dim=8, latent_dim=8, num_slots=4))


def test_command_prints_and_writes_a_table_json_and_sheets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y"):
        write_image(tmp_path / "data", name, TRUTH, depth=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(tiny_model(), tmp_path / name / "model.safetensors")
    checkpoints = [str(tmp_path / name / "model.safetensors") for name in ("a", "b")]
    output = tmp_path / "out" / "real.json"
    command = ["--real", str(tmp_path / "data"), "--checkpoint", *checkpoints, "--device", "cpu"]
    main([*command, "--output", str(output), "--sheets", str(tmp_path / "sheets")])

    printed = capsys.readouterr().out
    results = json.loads(output.read_text())
    assert [model["checkpoint"] for model in results["models"]] == checkpoints
    (measured,) = results["models"][0]["inputs"].values()  # the checkpoint does not use depth
    assert [image["name"] for image in measured["images"]] == ["x", "y"]
    summary = measured["groups"]["all"]
    for name in ("f", "boundary_f", "r50", "lost", "merged", "split", "msc_fg"):
        assert 0 <= summary[name] <= 1, name
    text = output.with_suffix(".md").read_text()
    assert text in printed
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = dict(zip(header.split(" | "), rows[0].split(" | "), strict=True))
    assert cells["F"] == f"{summary['f']:.2f}"
    assert cells["Boundary F"] == f"{summary['boundary_f']:.2f}"
    assert cells["MSC-FG"] == f"{summary['msc_fg']:.3f}"
    assert "Kinds" not in header, "nobody tells kinds"
    names = {path.name for path in (tmp_path / "sheets").iterdir()}
    assert names == {"a_model.safetensors_RGB.png", "b_model.safetensors_RGB.png"}
    sheet = cv2.imread(str(tmp_path / "sheets" / "a_model.safetensors_RGB.png"))
    assert sheet is not None
    height, width = sheet.shape[:2]
    assert width > 4 * 240 and height > 2 * 180


def test_the_region_around_the_objects(tmp_path: Path) -> None:
    """An object of 10x10 in 40x60: a sixth of the width, a quarter of the height."""
    write_image(tmp_path, "one", np.where(TRUTH == 1, 1, np.where(TRUTH == 2, 255, 0)))
    write_image(tmp_path, "two", TRUTH)
    write_image(tmp_path, "void", painted())
    one, two, void = find_labelled(tmp_path)
    assert region_of("objects", one, HEIGHT, WIDTH) == pytest.approx((0, 0.075, 0.35, 0.35))
    assert region_of("objects", two, HEIGHT, WIDTH) == (0, 0, 1, 1)
    assert region_of("objects", void, HEIGHT, WIDTH) is None
    assert region_of("", one, HEIGHT, WIDTH) is None
    assert region_of("0.5 0 0.5 1", one, HEIGHT, WIDTH) == (0.5, 0, 0.5, 1)
    large = np.zeros((200, 200), np.int64)
    large[20:40, 20:60], large[190, 190] = 1, 2
    write_image(tmp_path, "speck", large)  # too small to be scored, and to widen the region
    speck = find_labelled(tmp_path)[1]
    assert region_of("objects", speck, 200, 200) == pytest.approx((0.06, 0.01, 0.28, 0.28))


def test_around_the_objects_is_what_the_model_is_shown(tmp_path: Path) -> None:
    close = painted((1, (slice(5, 15), slice(5, 15))), (2, (slice(5, 15), slice(17, 27))))
    write_image(tmp_path, "x", close)
    save_model(tiny_model(), tmp_path / "model.safetensors")
    segmenter, images = Segmenter(tmp_path / "model.safetensors"), find_labelled(tmp_path)
    shown: list[tuple[int, int]] = []

    def watch(of: str, one: Any) -> None:
        truth = one.drawing.truth
        rows, columns = np.nonzero(truth != 255)
        shown.append((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1))

    measure_inputs(segmenter, images, depth=False, region="objects", watch=watch)
    # 22 of 60 columns times 1.4 are 0.51 of the width, from 0.01 on; and as much of the height.
    assert shown == [(21, 30)]


def test_what_lies_outside_of_a_region_is_not_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path, "x", TRUTH)
    save_model(tiny_model(), tmp_path / "model.safetensors")
    checkpoint = [str(tmp_path / "model.safetensors")]
    for region, objects in (("", 2), ("0 0 0.5 1", 1)):
        results = run(tmp_path, checkpoint, region=region, device="cpu")
        (measured,) = results["models"][0]["inputs"].values()
        assert measured["groups"]["all"]["objects"] == objects
        assert (f", region: {region})" in capsys.readouterr().out) == bool(region)
    with pytest.raises(ValueError, match="region is '0', '0', '2', '1'; expected x, y"):
        run(tmp_path, checkpoint, region="0 0 2 1")


class SeesDepth(Segmenter):
    """Finds with depth what it cannot find without: what is nearer than the table."""

    @property
    def uses_depth(self) -> bool:
        return True

    def __call__(self, images: Any, depth: Any = None, intrinsics: Any = None, **_: Any) -> Any:
        if depth is None:
            return scene(painted(), count=3)
        assert intrinsics.tolist() == [[54, 0, 30], [0, 54, 20], [0, 0, 1]]
        return scene(((depth > 0) & (depth < 1)).astype(np.int64), count=3)


def test_depth_is_given_in_metres_to_a_model_that_uses_it(tmp_path: Path) -> None:
    for name in ("deep", "flat"):
        write_image(tmp_path, name, TRUTH)
    millimetres = np.where(TRUTH == 1, 800, 1500).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "deep.depth.png"), millimetres)
    save_model(tiny_model(), tmp_path / "model.safetensors")
    segmenter, images = SeesDepth(tmp_path / "model.safetensors"), find_labelled(tmp_path)
    inputs = measure_inputs(segmenter, images, depth=True)
    recalls = {
        name: [(one.source.name, one.scores.overlap.recall) for one in measured if one.scores]
        for name, measured in inputs.items()
    }
    assert recalls == {
        "RGB": [("deep", 0), ("flat", 0)],
        "RGB and depth": [("deep", 0.5)],
        "RGB of the images with depth": [("deep", 0)],
    }
    assert list(measure_inputs(segmenter, images, depth=False)) == ["RGB"]


def test_command_measures_a_checkpoint_that_sees_depth_and_tells_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "data", "x", TRUTH, depth=True)
    config = GenesisV2Config(
        image_size=32, feature_dim=8, latent_dim=8, num_slots=4, points=True, kinds=True
    )
    torch.manual_seed(0)
    save_model(GenesisV2(config), tmp_path / "deep.safetensors")
    output, sheets = tmp_path / "real.json", tmp_path / "sheets"
    command = ["--real", str(tmp_path / "data"), "--device", "cpu", "--output", str(output)]
    command += ["--checkpoint", str(tmp_path / "deep.safetensors"), "--sheets", str(sheets)]
    main(command)
    inputs = json.loads(output.read_text())["models"][0]["inputs"]
    assert list(inputs) == ["RGB", "RGB and depth"]
    for measured in inputs.values():
        summary = measured["groups"]["all"]
        assert 0 <= summary["kind_accuracy"] <= 1
        assert summary["robot_told"] is None, "no image has a robot"
    assert inputs["RGB"] != inputs["RGB and depth"]
    assert "Kinds" in capsys.readouterr().out
    assert len(list(sheets.iterdir())) == 2
    main([*command, "--no-depth"])
    assert list(json.loads(output.read_text())["models"][0]["inputs"]) == ["RGB"]


def test_sheets_show_the_worst_first(tmp_path: Path) -> None:
    """Four tiles in a row: image, truth, what was found, and that over the image."""
    for name in ("good", "bad"):
        write_image(tmp_path, name, TRUTH)
    found = {"good": TRUTH, "bad": painted((1, RIGHT))}
    measured = list(
        measure(
            lambda source, image: scene(found[source.name], 3), find_labelled(tmp_path), draw=True
        )
    )
    drawings = worst(measured)
    assert [one.name for one in drawings] == ["bad", "good"]
    assert drawings[0].caption.startswith("F 0.67, IoU")
    sheet = object_sheet(drawings)
    scale, top = 240 // WIDTH, GAP + CAPTION_HEIGHT  # the image fills 160 of a tile's 180 rows
    row, column = top + 10 * scale, GAP + 10 * scale  # in the left object
    tiles = [sheet[row, column + number * (240 + GAP)].tolist() for number in range(3)]
    assert tiles[0] == [200, 0, 0]
    assert tiles[1] == slot_colours(1)[0].tolist()
    assert tiles[2] == [70, 70, 70]  # not found


def test_measures_that_are_unknown_are_left_out_of_the_table() -> None:
    groups = {"all": {"images": 2, "f": 0.5, "kind_accuracy": None}}
    models = [{"checkpoint": "m", "inputs": {"RGB": {"groups": groups}}}]
    shown = table({"real": "photos", "background": "auto", "models": models})
    assert shown.header == ["Checkpoint", "Input", "Group", "Images", "F"]


@pytest.mark.parametrize("name", ["evaluate_real", "average", "calibrate", "grow"])
def test_commands_explain_themselves(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sentence, and option by option; not by a docstring meant for Python."""
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    monkeypatch.delitem(sys.modules, f"training.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"training.{name}", run_name="__main__")
    said = capsys.readouterr().out
    assert ended.value.code == 0 and "--checkpoint" in said
    assert "Args:" not in said and "Raises:" not in said
