"""Measurements of prompts: the prompts are not in the training captions, and kinds are those of real images."""

from __future__ import annotations

import numpy as np
import pytest

from flux_tools.demo.images import DemoImage
from flux_tools.quality.gallery import Gallery
from flux_tools.quality.words import Census, combinations, paraphrases
from flux_tools.training.captions import captions


def image(name: str, kind: str, level: int) -> DemoImage:
    return DemoImage(name, name, name, np.full((64, 64, 3), level, np.uint8), (), kind)


TRAINED = [image("red apple", "fruit", 10), image("green pear", "fruit", 40), image("key", "tool", 240)]
HELD_OUT = [image("green apple", "fruit", 80), image("blue apple", "fruit", 90), image("red apple", "fruit", 95)]
GALLERY = Gallery(TRAINED, HELD_OUT, np.stack([one.rgb for one in HELD_OUT]))


def test_combinations_are_new_names_of_known_words() -> None:
    assert combinations(GALLERY) == [("green apple", "fruit")]


def test_paraphrases_are_not_captions() -> None:
    assert paraphrases(GALLERY) == [("apple red", "fruit")]
    known = {text for one in TRAINED for text in captions(one)}
    assert not known & {text for text, _ in paraphrases(GALLERY)}


def test_share_counts_nearest_neighbours_of_the_kind_and_chance_is_its_frequency() -> None:
    drawn = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (12, 230, 235, 42)])
    share, chance = Census([*TRAINED, *HELD_OUT]).share(drawn, ["fruit", "tool", "fruit", "fruit"])
    assert share == 0.75
    assert chance == (5 + 1 + 5 + 5) / 6 / 4


def test_real_image_is_not_its_own_neighbour() -> None:
    levels = {"fruit": (10, 40, 240), "tool": (150, 160)}
    images = [image(f"{kind} {level}", kind, level) for kind, own in levels.items() for level in own]
    share, chance = Census(images).of_real()
    assert share == 4 / 5
    assert chance == pytest.approx((3 * 3 + 2 * 2) / 25)
