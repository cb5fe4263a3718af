"""Measurements of docs/redux-control.md: the parameters of images and prompts, on the demo checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from flux_client import FluxClient
from flux_client.similarity import CURVE
from flux_tools.documents import table
from flux_tools.quality.gallery import Finding, Gallery, spread, strips
from flux_tools.quality.likeness import Bytes, Floats, between, to_own
from flux_tools.quality.questions import turned
from flux_tools.quality.sheet import sheet
from flux_tools.quality.studio import Ask, drawn
from flux_tools.quality.words import Census, paraphrases

#: On the demo's grid of 4x4 tokens; 4 and more leave one token.
DETAILS = (1, 2, 4, 8)
WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
CALIBRATED = (0.0, 0.25, 0.5, 0.75, 1.0)
SPANS = ((0.0, 1.0), (0.0, 0.25), (0.0, 0.5), (0.25, 1.0), (0.5, 1.0))
FITS = ("stretch", "cover", "contain", "tiles")
PROMPT_STRENGTHS = (0.0, 0.25, 1.0, 4.0)
#: White in the middle of the image.
MASK = np.zeros((64, 64), np.uint8)
MASK[16:48, 16:48] = 255
#: The mask leaves a quarter of the tokens; four times the weight compensates for it.
UNDER_MASK = {"image_mask": MASK, "image_strength": 4.0}


def calibrated(client: FluxClient, gallery: Gallery) -> Finding:
    """What share of an image's full effect does a weight have?"""
    sources = gallery.some(100)
    to_source = []
    for weight in WEIGHTS:
        to_source.append(to_own(drawn(client, [Ask((s,), {"image_strength": weight}) for s in sources]), sources))
    way = rising((to_source[0] - np.array(to_source)) / (to_source[0] - to_source[-1]))
    rows = [
        ["distance to the source, Delta E", *(f"{distance:.1f}" for distance in to_source)],
        ["share of the full effect", *(f"{share:.2f}" for share in way)],
    ]
    weights = np.interp(CALIBRATED, way, WEIGHTS)
    shown = [drawn(client, [Ask((s,), {"image_strength": float(w)}) for s in sources]) for w in weights]
    head = ["source", *(f"similarity {share:g}" for share in CALIBRATED)]
    return Finding(
        table(["`IMAGE_STRENGTH`", *(f"{weight:g}" for weight in WEIGHTS)], rows),
        sheet(head, strips(sources, *shown)),
        {CURVE: json.dumps(list(zip(WEIGHTS, way.round(4).tolist(), strict=True))) + "\n"},
    )


def rising(shares: Floats) -> Floats:
    """Return a strictly increasing curve from 0 to 1: parts that are flat because of noise get a slope of 1e-3."""
    least = np.arange(len(shares)) * 1e-3
    up: Floats = np.maximum.accumulate((shares - least).clip(0, 1 - least[-1])) + least
    up[0], up[-1] = 0, 1
    return up


def detailed(client: FluxClient, gallery: Gallery) -> Finding:
    """Does less detail leave less of the image?"""
    sources = gallery.some(100)
    rows, shown, head = [], [sources], ["source"]
    for weight in ("one", "all"):
        distances = []
        for detail in DETAILS:
            parameters = {"image_detail": detail, "image_detail_weight": weight}
            images = drawn(client, [Ask((source,), parameters) for source in sources])
            distances.append(f"{to_own(images, sources):.1f}")
            if detail < 8:
                shown.append(images)
                head.append(f"{detail}, {weight}")
        rows.append([f"`IMAGE_DETAIL_WEIGHT` `{weight}`", *distances])
    return Finding(
        table(["distance to the source, Delta E; `IMAGE_DETAIL`", *map(str, DETAILS)], rows),
        sheet(head, strips(*shown)),
    )


def added(client: FluxClient, gallery: Gallery) -> Finding:
    """How do `concat` and `sum` combine two images of strength 0.5?"""
    pairs = gallery.pairs()
    firsts, seconds = (np.stack(side) for side in zip(*pairs, strict=True))
    rows, shown = [], []
    for blend in ("concat", "sum"):
        images = drawn(client, [Ask(pair, {"image_strength": 0.5, "image_blend": blend}) for pair in pairs])
        rows.append([f"`{blend}`", *(f"{to_own(images, side):.1f}" for side in (firsts, seconds))])
        shown.append(images)
    head = ["first", "concat", "sum", "second"]
    return Finding(
        table(["`IMAGE_BLEND`; distance, Delta E", "to the first image", "to the second image"], rows),
        sheet(head, strips(firsts, *shown, seconds)),
    )


def masked(client: FluxClient, gallery: Gallery) -> Finding:
    """Do the parts outside a mask affect the variation?"""
    sources, others = gallery.some(50), gallery.some(50)[::-1]
    inside = (MASK > 0)[..., None]
    left = np.where(inside, sources, 255).astype(np.uint8)
    changed = np.where(inside, sources, others).astype(np.uint8)

    def alone(images: Bytes, **parameters: Any) -> Bytes:
        """Request one image at a time: in a shared batch, the last bit of an image can differ."""
        return drawn(client, [Ask((image,), parameters) for image in images], at_once=1)

    plain, plain_changed = alone(sources), alone(changed)
    of_sources, of_changed = alone(sources, **UNDER_MASK), alone(changed, **UNDER_MASK)
    cropped = alone(sources, image_mask=MASK, image_mask_crop=1)
    rows = [
        ["distance to the image, Delta E", *(f"{to_own(images, sources):.1f}" for images in (plain, of_sources))],
        ["distance to the masked image, Delta E", *(f"{to_own(images, left):.1f}" for images in (plain, of_sources))],
        [
            "largest change, of 255 levels, if another image replaces everything outside the mask",
            str(int(np.abs(plain_changed.astype(int) - plain).max())),
            str(int(np.abs(of_changed.astype(int) - of_sources).max())),
        ],
    ]
    shown = strips(sources, left, plain, of_sources, changed, of_changed, cropped)
    head = ["source", "under the mask", "no mask", "mask", "changed outside", "its mask", "cropped"]
    return Finding(table(["variation", "without a mask", "with the mask"], rows), sheet(head, shown))


def framed(client: FluxClient, gallery: Gallery) -> Finding:
    """Does a variation of a wide image depend on the ends of the image?"""
    middles, ends = gallery.some(40), gallery.some(40)[::-1]
    blank = np.full_like(middles, 255)
    wide, other = (np.concatenate([end, middles, end], axis=2) for end in (ends, blank))
    rows, shown = [], []
    for fit in FITS:
        # Padding has weight 0, which leaves a third of the weight at 3:1; three times the strength compensates for it.
        parameters = {"image_fit": fit, "image_strength": 3.0 if fit == "contain" else 1.0}
        first, second = (drawn(client, [Ask((s,), parameters) for s in images]) for images in (wide, other))
        rows.append([f"`{fit}`", f"{between(first, second):.1f}"])
        shown.append(first)
    return Finding(
        table(
            [
                "`IMAGE_FIT`, images of 3:1",
                "distance between variations of two images that differ only at the ends, Delta E",
            ],
            rows,
        ),
        sheet(["3:1", *FITS], strips(wide, *shown)),
    )


def timed(client: FluxClient, gallery: Gallery) -> Finding:
    """What is the effect of an image that is used only in early or only in late steps?"""
    settings = {f"{start:g} to {end:g}": {"image_start": start, "image_end": end} for start, end in SPANS}
    return turned(client, gallery, "`IMAGE_START` to `IMAGE_END`", settings)


def balanced(client: FluxClient, gallery: Gallery) -> Finding:
    """How does PROMPT_STRENGTH balance the prompt and the image?"""
    census = Census(gallery.trained_on)
    sources, chosen = gallery.some(50), paraphrases(gallery)[::-1]
    columns, shown = [], []
    for weight in PROMPT_STRENGTHS:
        asks = [
            Ask((source,), {"prompt": text, "prompt_strength": weight, "image_strength": 0.5})
            for source, (text, _) in zip(sources, chosen, strict=True)
        ]
        images = drawn(client, asks)
        share, _ = census.share(images, [kind for _, kind in chosen])
        columns.append((f"{share:.0%}", f"{to_own(images, sources):.1f}"))
        shown.append(images)
    of_prompt, to_source = zip(*columns, strict=True)
    head = [f"{weight:g}" for weight in PROMPT_STRENGTHS]
    rows = [
        ["nearest neighbour is of the prompt's category", *of_prompt],
        ["distance to the image, Delta E", *to_source],
    ]
    return Finding(
        table(["`PROMPT_STRENGTH`, with `IMAGE_STRENGTH` 0.5", *head], rows),
        sheet(["source", *head], strips(sources, *shown), [chosen[i][0] for i in spread(len(sources))]),
    )


CONTROLS: dict[str, Callable[[FluxClient, Gallery], Finding]] = {
    "calibrated": calibrated,
    "detailed": detailed,
    "added": added,
    "masked": masked,
    "framed": framed,
    "timed": timed,
    "balanced": balanced,
}
