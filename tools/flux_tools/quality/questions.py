"""Measurements of docs/demo-checkpoint.md. Each generates images and returns a table and a sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from flux_client import FluxClient
from flux_tools.documents import table
from flux_tools.quality.gallery import Finding, Gallery, strips
from flux_tools.quality.likeness import apart, between, distances, found_among_first, middle, to_own
from flux_tools.quality.sheet import sheet
from flux_tools.quality.studio import Ask, drawn
from flux_tools.quality.words import steered, told

STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0)
GUIDANCES = (1.0, 2.0, 3.0, 4.0, 5.0)
BLENDS = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
SEEDS = (1, 2, 3, 4)
#: Height and width, up to four times the native side.
SIZES = ((48, 48), (64, 64), (96, 96), (128, 128), (256, 256), (64, 112), (160, 80), (64, 256))


def recognised(client: FluxClient, gallery: Gallery) -> Finding:
    """Is a variation nearest to its own source?"""
    seeds, sources = SEEDS[:2], gallery.sources
    rows, shown = [], []
    own = np.arange(len(sources))
    for seed in seeds:
        images = drawn(client, [Ask((source,), {"seed": seed}) for source in sources])
        to_sources = distances(images, sources)
        shares = [found_among_first(to_sources, own, count) for count in (1, 5)]
        chance = [count / len(sources) for count in (1, 5)]
        rows.append([str(seed), *(f"{share:.1%} (chance {by:.1%})" for share, by in zip(shares, chance, strict=True))])
        shown.append(images)
    head = ["source", *(f"seed {seed}" for seed in seeds)]
    return Finding(
        table(["seed", "own source is the nearest", "own source is among the nearest five"], rows),
        sheet(head, strips(sources, *shown)),
    )


def varied(client: FluxClient, gallery: Gallery) -> Finding:
    """Do variations with different seeds differ, and less than variations of different images?"""
    sources = gallery.some(50)
    images = [drawn(client, [Ask((source,), {"seed": seed}) for source in sources]) for seed in SEEDS]
    again = drawn(client, [Ask((source,), {"seed": SEEDS[0]}) for source in sources])
    between_seeds = [apart(np.stack(of_one))[np.triu_indices(len(SEEDS), 1)] for of_one in zip(*images, strict=True)]
    between_images = [apart(of_seed)[np.triu_indices(len(sources), 1)] for of_seed in images]
    rows = [
        ["the same image and seed, requested twice", f"{between(images[0], again):.1f}"],
        ["the same image, two seeds", f"{np.mean(between_seeds):.1f}"],
        ["two images, the same seed", f"{np.mean(between_images):.1f}"],
    ]
    head = ["source", *(f"seed {seed}" for seed in SEEDS)]
    return Finding(
        table(["distance between variations of", "mean, Delta E"], rows), sheet(head, strips(sources, *images))
    )


def strengthened(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a higher strength bring a variation nearer to its image?"""
    return turned(client, gallery, "`IMAGE_STRENGTH`", {f"{value:g}": {"image_strength": value} for value in STRENGTHS})


def guided(client: FluxClient, gallery: Gallery) -> Finding:
    """Does higher guidance bring a variation nearer to its image, and to that of another seed?"""
    return turned(client, gallery, "`GUIDANCE_SCALE`", {f"{value:g}": {"guidance_scale": value} for value in GUIDANCES})


def turned(client: FluxClient, gallery: Gallery, label: str, settings: Mapping[str, dict[str, float]]) -> Finding:
    """Measure distances of variations to their images and to those of another seed. settings: parameters by column."""
    sources = gallery.some(100)
    to_source, to_seeds, shown = [], [], []
    for parameters in settings.values():
        first, second = (
            drawn(client, [Ask((source,), parameters | {"seed": seed}) for source in sources]) for seed in SEEDS[:2]
        )
        to_source.append(f"{to_own(first, sources):.1f}")
        to_seeds.append(f"{between(first, second):.1f}")
        shown.append(first)
    rows = [["variation to its image", *to_source], ["variations with two seeds", *to_seeds]]
    made = sheet(["source", *settings], strips(sources, *shown))
    return Finding(table([f"{label}; distance, Delta E", *settings], rows), made)


def blended(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a variation of two images move from one to the other with their strengths?"""
    pairs = gallery.pairs()
    firsts, seconds = (np.stack(side) for side in zip(*pairs, strict=True))
    columns, shown = [], []
    for strengths in BLENDS:
        images = drawn(client, [Ask(pair, {"image_strength": list(strengths)}) for pair in pairs])
        columns.append([f"{to_own(images, side):.1f}" for side in (firsts, seconds)])
        shown.append(images)
    head = [f"({first:g}, {second:g})" for first, second in BLENDS]
    to_first, to_second = zip(*columns, strict=True)
    rows = [["to the first image", *to_first], ["to the second image", *to_second]]
    made = sheet(["first", *head, "second"], strips(firsts, *shown, seconds))
    return Finding(table(["strengths; distance, Delta E", *head], rows), made)


def sized(client: FluxClient, gallery: Gallery) -> Finding:
    """Do variations of other sizes and aspect ratios still resemble their images?"""
    sources, own = gallery.some(50), np.arange(50)
    columns, shown = [], []
    for height, width in SIZES:
        images = drawn(client, [Ask((source,), {"height": height, "width": width}) for source in sources])
        to_sources = distances(np.stack([middle(image) for image in images]), sources)
        columns.append((f"{found_among_first(to_sources, own, 1):.0%}", f"{to_sources.diagonal().mean():.1f}"))
        shown.append(images)
    head = [f"{width}x{height}" for height, width in SIZES]
    found, apart_by = zip(*columns, strict=True)
    rows = [["own source is the nearest of 50", *found], ["distance to it, Delta E", *apart_by]]
    return Finding(table(["width x height", *head], rows), sheet(["source", *head], strips(sources, *shown)))


QUESTIONS: dict[str, Callable[[FluxClient, Gallery], Finding]] = {
    "recognised": recognised,
    "varied": varied,
    "strengthened": strengthened,
    "guided": guided,
    "blended": blended,
    "sized": sized,
    "told": told,
    "steered": steered,
}
