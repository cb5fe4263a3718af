"""Measures the effect of STRENGTH and START_SIGMA in image-to-image on the demo checkpoint."""

from __future__ import annotations

import json

import numpy as np

from flux_client import FluxClient
from flux_serving.sampling.noise_schedule import make_schedule
from flux_serving.sampling.starting import step_of_strength
from flux_tools.demo.__main__ import CHECKPOINTS, UNSEEN
from flux_tools.demo.images import on_white
from flux_tools.documents import table
from flux_tools.quality.colours import is_of
from flux_tools.quality.gallery import Finding, Gallery, strips
from flux_tools.quality.likeness import Bytes, between, middle, to_own
from flux_tools.quality.sheet import sheet
from flux_tools.quality.studio import USUAL, Ask, drawn

STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
#: The strip at the top of docs/editing.md and in the README.
STRIP, IN_STRIP = "strength_strip.png", ("red-apple", "doughnut", "bus", "penguin")
SIDES = (48, 64, 96, 128)
#: Sides at which the shift of FLUX.1's noise schedule matters.
LARGE_SIDES = (64, 512, 1024, 1536, 2048)
HALF = 0.5
COLOURS = ("red", "green", "blue", "purple")
PROMPTED = (0.0, 0.4, 0.6, 0.8, 1.0)
SHOWN = (0.6, 0.8)


def changed(client: FluxClient, gallery: Gallery) -> Finding:
    """Does strength lead from the image itself to the result of Redux?"""
    sources = gallery.some(50)
    shown = [_changed(client, sources, strength) for strength in STRENGTHS]
    # One at a time: in a shared batch, the last bit of an image can differ.
    redux = drawn(client, [Ask((source,)) for source in sources], at_once=1)
    rows = [
        ["distance to the source, Delta E", *(f"{between(images, sources):.1f}" for images in shown)],
        ["distance to the nearest view of the source", *(f"{to_own(images, sources):.1f}" for images in shown)],
        ["identical to the source, of 50", *(str(_equal(images, sources)) for images in shown)],
        ["identical to the result of `redux`, of 50", *(str(_equal(images, redux)) for images in shown)],
    ]
    head = [f"{strength:g}" for strength in STRENGTHS]
    of_strip = np.stack([on_white((UNSEEN / f"{name}.png").read_bytes()) for name in IN_STRIP])
    strip = zip(*(_changed(client, of_strip, strength) for strength in STRENGTHS), strict=True)
    return Finding(
        table(["`STRENGTH`", *head], rows),
        sheet(["source", *head], strips(sources, *shown)),
        images={STRIP: sheet(head, list(strip), letters=20)},
    )


def _changed(client: FluxClient, sources: Bytes, strength: float) -> Bytes:
    return drawn(client, [Ask((source,), {"strength": strength}, "img2img") for source in sources], at_once=1)


def _equal(first: Bytes, second: Bytes) -> int:
    return sum(map(np.array_equal, first, second))


def sigmas(client: FluxClient, gallery: Gallery) -> Finding:
    """How does the effect of a strength depend on the size, and that of a start sigma?"""
    sources = gallery.some(50)
    rows, shown, head = [], [sources], ["source"]
    for parameter in ("strength", "start_sigma"):
        distances = []
        for side in SIDES:
            parameters = {parameter: HALF, "height": side, "width": side}
            images = drawn(client, [Ask((source,), parameters, "img2img") for source in sources])
            distances.append(f"{between(np.stack([middle(image) for image in images]), sources):.1f}")
            shown.append(images)
            head.append(f"{parameter} {HALF:g}, {side}x{side}")
        rows.append([f"`{parameter.upper()}` {HALF:g}", *distances])
    measured = table(["distance to the source, Delta E", *(f"{side}x{side}" for side in SIDES)], rows)
    computed = table(
        [f"`STRENGTH` {HALF:g} at", *(f"{side}x{side}" for side in LARGE_SIDES)],
        [["share of noise at the start", *(f"{_sigma(HALF, side):.2f}" for side in LARGE_SIDES)]],
    )
    return Finding(f"{computed}\n\n{measured}", sheet(head, strips(*shown)))


def _sigma(strength: float, side: int) -> float:
    """Return the share of noise at which a strength starts; the demo has the noise schedule of FLUX.1-dev."""
    config = json.loads((CHECKPOINTS / "flux-base" / "scheduler" / "scheduler_config.json").read_text())
    steps = int(USUAL["num_inference_steps"])
    return float(make_schedule(config, steps, (side // 16) ** 2).sigmas[step_of_strength(strength, steps)])


def prompted(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a prompt recolour an image, and how much of the image is left?"""
    sources = gallery.some(30)
    columns, shown, head = [], [sources], ["source"]
    for strength in PROMPTED:
        of_colour = {}
        for colour in COLOURS:
            parameters = {"strength": strength, "prompt": f"{colour} heart", "image_strength": 0.0}
            asks = [Ask((source,), parameters | {"seed": seed}, "img2img") for seed, source in enumerate(sources)]
            of_colour[colour] = drawn(client, asks)
            if strength in SHOWN:
                shown.append(of_colour[colour])
                head.append(f"{strength:g}, {colour} heart")
        right = [is_of(image, colour, COLOURS) for colour, images in of_colour.items() for image in images]
        away = [between(images, sources) for images in of_colour.values()]
        columns.append((f"{np.mean(right):.0%}", f"{np.mean(away):.1f}"))
    of_right, of_away = zip(*columns, strict=True)
    rows = [["has the prompt's colour, of four colours", *of_right], ["distance to the source, Delta E", *of_away]]
    return Finding(
        table(["`STRENGTH`, `IMAGE_STRENGTH` 0", *(f"{strength:g}" for strength in PROMPTED)], rows),
        sheet(head, strips(*shown)),
    )
