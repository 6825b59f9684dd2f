"""Printed packaging of household scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from genesis_sim.household.bank import TextureBank, make_bank
from genesis_sim.household.kit import Kit, Palette
from genesis_sim.household.prints import brand, print_box, wrap


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return make_bank(None)


def colours(texture: np.ndarray) -> int:
    """How many different colours there are, of 512."""
    coarse = (texture // 32).reshape(-1, 3).astype(int)
    return len(np.unique(coarse @ [64, 8, 1]))


def test_boxes_are_cubes_of_six_faces_and_most_are_loud() -> None:
    rng = np.random.default_rng(0)
    boxes = [print_box(rng, brand(rng)) for _ in range(40)]
    assert {(box.shape, box.dtype) for box in boxes} == {((6 * 96, 96, 3), np.dtype(np.uint8))}
    # Pictures of food and curves have many colours; a sober box has a ground and some words.
    assert np.median([colours(box) for box in boxes]) > 60


def test_labels_of_cans_go_around_bare_ends() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        label = wrap(rng)
        assert label.shape == (128, 256, 3)
        assert np.ptp(label[0], axis=0).max() < 1e-6 and np.ptp(label[-1], axis=0).max() < 1e-6


def test_boxes_of_a_brand_are_alike_and_not_the_same(bank: TextureBank) -> None:
    assert len(bank.brands) == 36
    assert sorted(number for group in bank.brands for number in group) == bank.kinds["print"]

    def histogram(number: int) -> np.ndarray:
        coarse = (bank.images[number] // 64).reshape(-1, 3).astype(int) @ [16, 4, 1]
        return np.bincount(coarse, minlength=64) / len(coarse)

    def distance(a: int, b: int) -> float:
        return float(np.abs(histogram(a) - histogram(b)).sum())

    within = [distance(group[0], group[1]) for group in bank.brands]
    between = [distance(group[0], bank.brands[k - 1][1]) for k, group in enumerate(bank.brands)]
    assert min(within) > 0
    assert np.median(within) < 0.8 * np.median(between)


def test_every_second_box_of_a_scene_of_one_brand_has_it(bank: TextureBank) -> None:
    rng = np.random.default_rng(2)
    chosen = bank.brands[5]
    kit = Kit(bank, Palette(), None)
    of_any = [kit.printed(rng).texture in chosen for _ in range(300)]
    kit = replace(kit, palette=Palette(brand=chosen))
    of_brand = [kit.printed(rng).texture in chosen for _ in range(300)]
    assert np.mean(of_any) < 0.1
    assert 0.4 < np.mean(of_brand) < 0.65


def test_a_brand_has_three_colours_and_one_of_its_product() -> None:
    found = brand(np.random.default_rng(3))
    assert np.shape(found) == (4, 3)
    assert (np.array(found) >= 0).all() and (np.array(found) <= 1).all()
