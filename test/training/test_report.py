"""The page that people open: its pictures, curves and tables, and how it works in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright

from genesis_core import GenesisV2, GenesisV2Config, save_model
from training import evaluate, visualise
from training.datasets.sprites import render_range
from training.paper import Figure
from training.report import (
    LARGEST_SIDE,
    MOST_IMAGES,
    POINTS,
    ImageResult,
    Report,
    compared,
    data_uri,
    in_colours_of,
    read_curves,
)
from training.sheets import PALETTE
from training.table_forms import Cell, Table

CHROMIUM = shutil.which("chromium")


def decoded(uri: str) -> NDArray[np.uint8]:
    """RGB of a data URI."""
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
    return image[..., ::-1]


def image_of(name: str, group: str, result: str = "", **values: float | None) -> ImageResult:
    picture = np.full((8, 8, 3), 200, np.uint8)
    return ImageResult(name, group, result, values, [("image", data_uri(picture))])


# Pictures


def test_pictures_are_shrunk_and_keep_their_colours() -> None:
    picture = np.zeros((2 * LARGEST_SIDE, LARGEST_SIDE, 3), np.uint8)
    picture[..., 0] = 200
    shown = decoded(data_uri(picture))
    assert shown.shape == (LARGEST_SIDE, LARGEST_SIDE // 2, 3)
    np.testing.assert_allclose(shown[50, 50], [200, 0, 0], atol=8)
    assert decoded(data_uri(picture[:50, :60])).shape == (150, 180, 3)


def test_segments_have_the_numbers_of_the_objects_that_they_fit() -> None:
    truth = np.array([[0, 0, 1, 1, 2, 2, 255]])
    found = np.array([[7, 7, 5, 5, 5, 3, 4]])
    # 5 covers all of object 1, 3 half of object 2, 7 the background; nobody knows what 4 is.
    assert in_colours_of(truth, found).tolist() == [[0, 0, 1, 1, 1, 2, 3]]


def test_background_is_no_object_and_no_object_is_background() -> None:
    truth = np.array([[0, 0, 0, 1, 1]])
    found = np.array([[0, 0, 0, 0, 0]])
    assert in_colours_of(truth, found).tolist() == [[0, 0, 0, 0, 0]]
    found = np.array([[0, 2, 2, 2, 0]])
    assert in_colours_of(truth, found)[0, 1] == 1, "object 1 is all that a segment can be"


def test_what_is_shown_of_an_image() -> None:
    image = np.full((120, 192, 3), 100, np.uint8)
    truth = np.zeros((120, 192), np.uint8)
    truth[:, 120:] = 1
    segments = (truth == 0).astype(np.uint8)  # 0 and 1 the other way round
    pictures = dict(compared(image, segments, truth, image // 2))
    assert list(pictures) == ["image", "truth", "masks", "overlay", "reconstruction"]
    left, right = (60, 40), (60, 160)
    for caption in ("truth", "masks"):
        shown = decoded(pictures[caption])
        np.testing.assert_allclose(shown[left], [70] * 3, atol=8)
        np.testing.assert_allclose(shown[right], PALETTE[0], atol=12)
    over = decoded(pictures["overlay"])
    np.testing.assert_allclose(over[left], [100] * 3, atol=8)
    np.testing.assert_allclose(over[right], 45 + 0.55 * np.array(PALETTE[0]), atol=12)
    np.testing.assert_allclose(decoded(pictures["reconstruction"]), 50, atol=4)
    assert list(dict(compared(image, segments, None))) == ["image", "masks", "overlay"]


# The page's text


def test_everything_is_escaped(tmp_path: Path) -> None:
    table = Table("<b>", ["<i>"], ["ARI & co"], [["<u>", Cell(Figure(0.5), 2)]])
    report = Report("</title><script>", ["<fact>"], [table])
    report.images = [image_of('"><img src=x>', "<group>", ari_fg=0.5)]
    text = report.write(tmp_path).read_text()
    for tag in ("<b>", "<i>", "<u>", "</title><script>", "<fact>", "<img src=x>", "<group>"):
        assert tag not in text
    assert "<td>0.50</td>" in text and "ARI &amp; co" in text


def test_a_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    text = Report("Page", images=[image_of("a", "")]).write(tmp_path).read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "http" not in text


def test_the_worst_images_are_shown_where_there_are_many(tmp_path: Path) -> None:
    images = [image_of(f"image {i}", "", msc_fg=i / 1000) for i in range(MOST_IMAGES + 5)]
    images.append(image_of("unknown", "", msc_fg=None))
    text = Report("Page", images=images).write(tmp_path).read_text()
    assert f"The {MOST_IMAGES} worst of {MOST_IMAGES + 6} images." in text
    assert 'data-name="image 0"' in text and f'data-name="image {MOST_IMAGES - 1}"' in text
    assert f'data-name="image {MOST_IMAGES}"' not in text and 'data-name="unknown"' not in text


def test_curves_are_read_thinned_and_drawn(tmp_path: Path) -> None:
    lines = [{"step": s, "kind": "train", "loss": 5.0 - s / 200, "learning_rate": 1} for s in
             range(1, 2 * POINTS + 1)]  # fmt: skip
    lines += [{"step": s, "kind": "val", "msc": s / 1000} for s in (200, 400)]
    lines += [{"step": 600, "kind": "val", "once": 1.0}]
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves({"mine": run, "without": tmp_path})
    assert list(curves) == ["val/msc", "train/loss"]
    report = Report("Page", curves=curves)
    text = report.write(tmp_path).read_text()
    assert 'aria-label="val/msc: mine from 0.2 to 0.4 at step 400"' in text
    assert 'aria-label="train/loss: mine from 4.995 to 2 at step 600"' in text
    drawn = re.findall(r'<path d="M([^"]*)"', text)
    assert [len(path.split(" L")) for path in drawn] == [2, POINTS]
    heights = [float(point.split()[1]) for point in drawn[0].split(" L")]
    assert heights[0] > heights[1], "what grows rises"
    curves = read_curves({"mine": run, "other": run})
    text = Report("Page", curves=curves).write(tmp_path).read_text()
    assert text.count('<ul class="legend">') == 1 and "other</li>" in text


# The commands


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = GenesisV2Config(image_size=32, feature_dim=8, latent_dim=8, num_slots=3)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_model(GenesisV2(config), path)
    lines = [{"step": s, "kind": "val", "attention_ari_fg": s / 9} for s in (1, 2, 3)]
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    (path.parent / "metrics.jsonl").write_text(metrics)
    return path


def prepared(folder: Path, *, masks: bool) -> Path:
    images, labels = render_range(0, 6, image_size=32, split="test", min_objects=1, max_objects=2)
    split = folder / "test"
    split.mkdir(parents=True)
    np.save(split / "images.npy", images)
    if masks:
        np.save(split / "masks.npy", labels)
    info = {"format": 1, "dataset": "sprites", "split": "test", "count": 6, "image_size": 32}
    (split / "info.json").write_text(json.dumps(info))
    return folder


def cards(page: Path) -> list[dict[str, Any]]:
    """Name, group, result, values and captions of each image of a page."""
    found = []
    for card in page.read_text().split("<article")[1:]:
        values = re.search(r'data-values="([^"]*)"', card)
        assert values is not None
        texts = {k: re.search(rf'data-{k}="([^"]*)"', card) for k in ("name", "group", "result")}
        found.append(
            {
                **{key: None if text is None else text[1] for key, text in texts.items()},
                "values": json.loads(values[1].replace("&quot;", '"')),
                "captions": re.findall(r"<figcaption>([^<]*)<", card.partition("</article>")[0]),
            }
        )
    return found


def test_evaluation_writes_a_page(checkpoint: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", masks=True)
    command = ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu"]
    results = evaluate.main([*command, "--report", str(tmp_path / "page")])
    shown = cards(tmp_path / "page" / "report.html")
    assert sorted(card["name"] for card in shown) == [f"test {i}" for i in range(6)]
    assert {card["group"] for card in shown} == {"1 object", "2 objects"}
    for card in shown:
        assert card["captions"] == [
            "image",
            "truth",
            "masks",
            "overlay",
            "attention masks",
            "reconstruction",
        ]
        assert (card["values"]["ari_fg"] is None) == (card["group"] == "1 object")
    means = results["models"][0]["metrics"]["fixed"]
    for key, expected in (("mse", means["mse"]), ("msc_fg", means["decoder"]["msc_fg"])):
        assert np.mean([card["values"][key] for card in shown]) == pytest.approx(expected)
    worst_first = [card["values"]["msc_fg"] for card in shown]
    assert worst_first == sorted(worst_first)
    text = (tmp_path / "page" / "report.html").read_text()
    assert "val/attention_ari_fg" in text and "Table 1: segmentation, foreground" in text


def test_images_without_labels_have_no_truth(checkpoint: Path, tmp_path: Path) -> None:
    data = prepared(tmp_path / "data", masks=False)
    command = ["--checkpoint", str(checkpoint), str(checkpoint), "--data", str(data)]
    evaluate.main([*command, "--num_images", "2", "--device", "cpu", "--report", str(tmp_path)])
    shown = cards(tmp_path / "report.html")
    assert len(shown) == 4 and all("truth" not in card["captions"] for card in shown)
    assert all(0 < card["values"]["certainty"] <= 1 for card in shown)
    assert all("msc_fg" not in card["values"] for card in shown)


def real_folder(folder: Path) -> Path:
    """Two labelled photos and one without any object."""
    folder.mkdir()
    index = []
    for number, objects in enumerate((1, 2, 0)):
        labels = np.zeros((40, 60), np.uint8)
        labels[10:20, 10:20] = objects > 0
        labels[25:35, 30:50] = 2 * (objects > 1)
        image = 60 * labels[..., None].repeat(3, axis=2) + 50
        cv2.imwrite(str(folder / f"{number}.png"), image)
        cv2.imwrite(str(folder / f"{number}.label.png"), labels)
        entry = {
            "image": f"{number}.png",
            "label": f"{number}.label.png",
            "name": f"photo {number}",
        }
        index.append({**entry, "group": f"group {number % 2}"})
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def test_evaluation_of_real_images_writes_a_page(checkpoint: Path, tmp_path: Path) -> None:
    real = real_folder(tmp_path / "real")
    command = ["--real", str(real), "--checkpoint", str(checkpoint), "--device", "cpu"]
    results = evaluate.main([*command, "--report", str(tmp_path / "page")])
    shown = {card["name"]: card for card in cards(tmp_path / "page" / "report.html")}
    assert {name: card["group"] for name, card in shown.items()} == {
        "photo 0": "group 0",
        "photo 1": "group 1",
        "photo 2": "group 0",
    }
    expected = ["image", "truth", "masks", "overlay", "reconstruction"]
    assert all(card["captions"] == expected for card in shown.values())
    measured = {one["name"]: one for one in results["models"][0]["inputs"]["RGB"]["images"]}
    for name in ("photo 0", "photo 1"):
        assert shown[name]["values"]["f"] == measured[name]["f"]
    assert shown["photo 2"]["values"]["f"] is None


def test_visualisation_writes_a_page_with_generated_scenes(
    checkpoint: Path, tmp_path: Path
) -> None:
    photos = real_folder(tmp_path / "photos")
    for label in photos.glob("*.label.png"):
        label.unlink()
    command = ["--checkpoint", str(checkpoint), "--data", str(photos), "--device", "cpu"]
    visualise.main([*command, "--output", str(tmp_path)])
    page = tmp_path / "report.html"
    assert sorted(card["name"] for card in cards(page)) == ["0.png", "1.png", "2.png"]
    assert page.read_text().count('alt="generated scene: scene') == 8


# In a browser


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Page]]:
    """Opens a page of three images in a real browser, in a light or a dark desktop."""
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium")
    report = Report("Scores & masks", ["3 images"])
    report.images = [
        image_of("b", "shelf", "before", msc_fg=0.9, mse=0.1),
        image_of("a10", "table", "before", msc_fg=0.2, mse=0.3),
        image_of("a9", "table", "after", msc_fg=0.5, mse=None),
    ]
    for image in report.images:
        image.pictures.append(("masks", image.pictures[0][1]))
    path = report.write(tmp_path_factory.mktemp("page"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def opened(scheme: str = "light") -> Page:
            page = browser.new_page(color_scheme=scheme)
            page.on("console", lambda message: pytest.fail(f"console: {message.text}"))
            page.on("pageerror", lambda error: pytest.fail(f"script: {error}"))
            page.on("request", lambda request: _check_local(request.url))
            page.goto(path.as_uri())
            return page

        yield opened
        browser.close()


def _check_local(url: str) -> None:
    assert url.startswith(("file:", "data:")), f"the page asks for {url}"


def shown(page: Page) -> list[str]:
    # Not the inner texts: a browser leaves out what it has not laid out yet.
    return page.locator(".card:not([hidden]) h3").all_text_contents()


def lightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return float(np.mean([int(value) for value in re.findall(r"\d+", colour)[:3]]))


@pytest.mark.slow
def test_images_are_seen_and_sorted(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert page.title() == "Scores & masks"
    assert shown(page) == ["a10", "a9", "b"]  # the worst first
    for picture in page.locator(".card img").all():
        picture.scroll_into_view_if_needed()
        assert picture.evaluate("async i => { await i.decode(); return i.naturalWidth }") == 128
    page.get_by_label("Sort by").select_option("MSC-FG, best first")
    assert shown(page) == ["b", "a9", "a10"]
    page.get_by_label("Sort by").select_option("Squared error, best first")
    assert shown(page) == ["b", "a10", "a9"]  # unknown comes last
    page.get_by_label("Sort by").select_option("Name")
    assert shown(page) == ["a9", "a10", "b"]


@pytest.mark.slow
def test_images_are_filtered(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert page.locator("#count").inner_text() == "3 of 3 shown"
    page.get_by_label("Group").select_option("table")
    assert shown(page) == ["a10", "a9"]
    assert page.locator(".card[data-name=b]").is_hidden()
    page.get_by_label("Result").select_option("after")
    assert shown(page) == ["a9"]
    assert page.locator("#count").inner_text() == "1 of 3 shown"
    page.get_by_label("Name").fill("b")
    assert shown(page) == [] and page.get_by_text("No image fits.").is_visible()
    page.get_by_label("Group").select_option("all")
    page.get_by_label("Result").select_option("all")
    assert shown(page) == ["b"]


@pytest.mark.slow
def test_a_picture_is_enlarged_and_the_keyboard_goes_on(open_page: Callable[..., Page]) -> None:
    page = open_page()
    dialog = page.locator("dialog")
    page.locator(".card button").first.press("Enter")
    assert dialog.is_visible() and dialog.locator("figcaption").inner_text() == "a10: image"
    page.keyboard.press("ArrowRight")
    assert dialog.locator("figcaption").inner_text() == "a10: masks"
    page.keyboard.press("ArrowRight")  # there is no third
    assert dialog.locator("figcaption").inner_text() == "a10: masks"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_desktop_until_told_otherwise(
    open_page: Callable[..., Page], scheme: str
) -> None:
    page = open_page(scheme)
    assert (lightness(page) < 60) == (scheme == "dark")
    toggle = page.locator("#theme")
    assert toggle.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    toggle.click()
    assert (lightness(page) < 60) == (scheme == "light")
    assert toggle.get_attribute("aria-pressed") == str(scheme == "light").lower()


@pytest.mark.slow
def test_whatever_is_seen_can_be_named(open_page: Callable[..., Page]) -> None:
    """Pictures have texts, fields have labels, and there is one main heading."""
    page = open_page()
    assert page.locator("html[lang=en]").count() == page.locator("h1").count() == 1
    assert page.locator(".card img:not([alt])").count() == 0
    for field in page.locator("select, input").all():
        assert field.evaluate("f => f.labels.length") == 1
