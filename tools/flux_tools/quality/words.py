"""Measures the effect of prompts, alone and with an image."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from statistics import median_low

import numpy as np
import numpy.typing as npt

from flux_client import FluxClient
from flux_tools.demo.images import DemoImage
from flux_tools.documents import table
from flux_tools.quality.gallery import Finding, Gallery, spread, strips
from flux_tools.quality.likeness import Bytes, Floats, features
from flux_tools.quality.sheet import captioned, sheet
from flux_tools.quality.studio import Ask, drawn
from flux_tools.training.captions import captions, paraphrase, plain

#: Number of prompts in each set.
COUNT = 50
#: Number of images of each prompt, each with a different seed.
SEEDS = 4
STRENGTHS = (0.0, 0.25, 0.5, 1.0)
BLANK = np.full((64, 64, 3), 255, np.uint8)


def told(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a prompt alone generate an image of its category?"""
    census = Census([*gallery.trained_on, *gallery.held_out])
    rows, prompts, kinds, drawn_of = [], [], [], []
    seeds = count()
    for sort, chosen in (
        ("new combinations of words from the training: names of held-out images", combinations(gallery)),
        ("paraphrases: names of training images with the words in another order", paraphrases(gallery)),
    ):
        parameters = {"image_strength": 0.0}
        asks = [
            Ask((BLANK,), parameters | {"prompt": text, "seed": next(seeds)})
            for text, _ in chosen
            for _ in range(SEEDS)
        ]
        images, of_kinds = drawn(client, asks), [kind for _, kind in chosen for _ in range(SEEDS)]
        rows.append(_row(sort, len(asks), *census.share(images, of_kinds)))
        drawn_of += list(images)
        kinds += of_kinds
        prompts += [text for text, _ in chosen]
    rows.append(_row("all", len(kinds), *census.share(np.stack(drawn_of), kinds)))
    rows.append(_row("for comparison: the real images, each compared with all others", census.size, *census.of_real()))
    head = ["prompts", "images", "nearest neighbour is of the right category", "chance level", "ratio to chance"]
    return Finding(table(head, rows), captioned(prompts, drawn_of[::SEEDS], columns=10))


def steered(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a prompt with an image move the variation towards the prompt's category?"""
    # Without the sources: a variation's own source would be its nearest neighbour.
    census = Census(gallery.trained_on)
    sources = gallery.some(COUNT)
    kinds = [gallery.held_out[i].kind for i in spread(len(gallery.held_out), COUNT)]
    chosen = paraphrases(gallery)[::-1]
    columns, shown = [], []
    for strength in STRENGTHS:
        parameters = [{"image_strength": strength, "prompt": text, "seed": i} for i, (text, _) in enumerate(chosen)]
        images = drawn(
            client, [Ask((source,), parameter) for source, parameter in zip(sources, parameters, strict=True)]
        )
        columns.append([f"{census.share(images, of)[0]:.0%}" for of in ([kind for _, kind in chosen], kinds)])
        shown.append(images)
    of_prompt, of_image = zip(*columns, strict=True)
    head = [f"{strength:g}" for strength in STRENGTHS]
    rows = [["the prompt's", *of_prompt], ["the image's", *of_image]]
    words = [chosen[i][0] for i in spread(COUNT)]
    return Finding(
        table(["category of the nearest neighbour; `IMAGE_STRENGTH`", *head], rows),
        sheet(["source", *head], strips(sources, *shown), words),
    )


def _row(sort: str, count: int, share: float, chance: float) -> list[str]:
    return [sort, f"{count:,}", f"{share:.0%}", f"{chance:.1%}", f"{share / chance:.0f}"]


def combinations(gallery: Gallery) -> list[tuple[str, str]]:
    """Return names and kinds of held-out images whose words are all in captions, but whose name is not a caption."""
    known = {text for image in gallery.trained_on for text in captions(image)}
    words = {word for text in known for word in text.split()}
    named = [(plain(image.name), image.kind) for image in gallery.held_out]
    fit = {(kind, text) for text, kind in named if text not in known and set(text.split()) <= words}
    by_kind = [(text, kind) for kind, text in sorted(fit)]
    return [by_kind[i] for i in spread(len(by_kind), COUNT)]


def paraphrases(gallery: Gallery) -> list[tuple[str, str]]:
    """Return paraphrased names and kinds of training images, evenly spaced over the kinds."""
    known = {text for image in gallery.trained_on for text in captions(image)}
    by_kind: dict[str, list[str]] = {}
    for image in gallery.trained_on:
        if (text := paraphrase(image)) not in known:
            by_kind.setdefault(image.kind, []).append(text)
    kinds = sorted(by_kind)
    return [(median_low(by_kind[kinds[i]]), kinds[i]) for i in spread(len(kinds), COUNT)]


class Census:
    """Nearest neighbours among images whose kinds are known."""

    def __init__(self, images: Sequence[DemoImage]) -> None:
        self._features = features(np.stack([image.rgb for image in images]))
        self._kinds = np.array([image.kind for image in images])

    @property
    def size(self) -> int:
        return len(self._kinds)

    def share(self, images: Bytes, kinds: Sequence[str]) -> tuple[float, float]:
        """Return the share of images whose nearest neighbour has the expected kind, and the chance level."""
        nearest = [self._distances(own).argmin() for own in features(images)]
        return self._right(nearest, np.array(kinds))

    def of_real(self) -> tuple[float, float]:
        """Return the same for the images themselves, each compared with all others."""
        itself = np.arange(self.size)
        nearest = [np.where(itself == i, np.inf, self._distances(own)).argmin() for i, own in enumerate(self._features)]
        return self._right(nearest, self._kinds)

    def _distances(self, own: Floats) -> Floats:
        squares: Floats = ((self._features - own) ** 2).sum(axis=1)
        return squares

    def _right(self, nearest: Sequence[np.intp], wanted: npt.NDArray[np.str_]) -> tuple[float, float]:
        by_chance = (self._kinds[:, None] == wanted).mean()
        return float((self._kinds[nearest] == wanted).mean()), float(by_chance)
