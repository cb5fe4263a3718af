"""What is asked of the demo checkpoint. Each question makes its pictures, and gives a table and a sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from PIL import Image

from flux_client import FluxClient
from flux_documents import table
from flux_quality.likeness import Bytes, apart, between, distances, found_among_first, to_own
from flux_quality.sheet import sheet
from flux_quality.studio import Ask, drawn

#: Rows of a sheet.
SHOWN = 8
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 5.0)
BLENDS = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Finding:
    """table: Markdown. sheet: what was drawn, for looking at."""

    table: str
    sheet: Image.Image


def recognised(client: FluxClient, sources: Bytes) -> Finding:
    """Is a variation's nearest source its own?"""
    seeds = SEEDS[:2]
    rows, shown = [], []
    own = np.arange(len(sources))
    for seed in seeds:
        pictures = drawn(client, [Ask((source,), {"seed": seed}) for source in sources])
        to_sources = distances(pictures, sources)
        shares = [found_among_first(to_sources, own, count) for count in (1, 5)]
        chance = [count / len(sources) for count in (1, 5)]
        rows.append([str(seed), *(f"{share:.1%} (chance {by:.1%})" for share, by in zip(shares, chance, strict=True))])
        shown.append(pictures)
    picked = _spread(len(sources))
    rows_shown = [[sources[i], *(pictures[i] for pictures in shown)] for i in picked]
    head = ["source", *(f"seed {seed}" for seed in seeds)]
    return Finding(
        table(["seed", "nearest source is its own", "own source among the nearest five"], rows), sheet(head, rows_shown)
    )


def varied(client: FluxClient, sources: Bytes) -> Finding:
    """Do seeds differ, and less than pictures do?"""
    sources = sources[_spread(len(sources), 50)]
    pictures = [drawn(client, [Ask((source,), {"seed": seed}) for source in sources]) for seed in SEEDS]
    again = drawn(client, [Ask((source,), {"seed": SEEDS[0]}) for source in sources])
    between_seeds = [apart(np.stack(of_one))[np.triu_indices(len(SEEDS), 1)] for of_one in zip(*pictures, strict=True)]
    between_pictures = [apart(of_seed)[np.triu_indices(len(sources), 1)] for of_seed in pictures]
    rows = [
        ["the same picture and seed, asked twice", f"{between(pictures[0], again):.1f}"],
        ["the same picture, two seeds", f"{np.mean(between_seeds):.1f}"],
        ["two pictures, the same seed", f"{np.mean(between_pictures):.1f}"],
    ]
    head = ["source", *(f"seed {seed}" for seed in SEEDS)]
    shown = [[sources[i], *(of_seed[i] for of_seed in pictures)] for i in range(SHOWN)]
    return Finding(table(["distance between variations of", "mean, Delta E"], rows), sheet(head, shown))


def strengthened(client: FluxClient, sources: Bytes) -> Finding:
    """Does the strength turn a variation towards its picture, from not at all?"""
    return _turned(client, sources, "image_strength", STRENGTHS, "`IMAGE_STRENGTH`")


def guided(client: FluxClient, sources: Bytes) -> Finding:
    """Does more guidance bring a variation nearer to its picture, and seeds nearer to each other?"""
    return _turned(client, sources, "guidance_scale", GUIDANCES, "`GUIDANCE_SCALE`")


def _turned(client: FluxClient, sources: Bytes, knob: str, values: Sequence[float], label: str) -> Finding:
    sources = sources[_spread(len(sources), 100)]
    to_source, to_seeds, shown = [], [], []
    for value in values:
        first, second = (
            drawn(client, [Ask((source,), {knob: value, "seed": seed}) for source in sources]) for seed in SEEDS[:2]
        )
        to_source.append(f"{to_own(first, sources):.1f}")
        to_seeds.append(f"{between(first, second):.1f}")
        shown.append(first)
    rows = [["from the variation to its picture", *to_source], ["between two seeds", *to_seeds]]
    head = ["source", *(f"{value:g}" for value in values)]
    strips = [[sources[i], *(pictures[i] for pictures in shown)] for i in range(SHOWN)]
    return Finding(table([f"{label}; distance, Delta E", *head[1:]], rows), sheet(head, strips))


def blended(client: FluxClient, sources: Bytes) -> Finding:
    """Does a variation of two pictures move from the one to the other with their strengths?"""
    pairs = list(combinations(sources[_spread(len(sources), 20)], 2))[::2][:80]
    firsts, seconds = (np.stack(side) for side in zip(*pairs, strict=True))
    columns, shown = [], []
    for strengths in BLENDS:
        pictures = drawn(client, [Ask(pair, {"image_strength": list(strengths)}) for pair in pairs])
        columns.append([f"{to_own(pictures, side):.1f}" for side in (firsts, seconds)])
        shown.append(pictures)
    head = [f"({first:g}, {second:g})" for first, second in BLENDS]
    to_first, to_second = zip(*columns, strict=True)
    rows = [["to the first", *to_first], ["to the second", *to_second]]
    strips = [[firsts[i], *(pictures[i] for pictures in shown), seconds[i]] for i in _spread(len(pairs))]
    return Finding(table(["strengths; distance, Delta E", *head], rows), sheet(["first", *head, "second"], strips))


def _spread(length: int, count: int = SHOWN) -> list[int]:
    """Indices, evenly over the whole list."""
    return np.linspace(0, length - 1, min(count, length)).astype(int).tolist()


QUESTIONS: dict[str, Callable[[FluxClient, Bytes], Finding]] = {
    "recognised": recognised,
    "varied": varied,
    "strengthened": strengthened,
    "guided": guided,
    "blended": blended,
}
