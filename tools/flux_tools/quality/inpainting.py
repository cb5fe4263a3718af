"""Measurement of inpainting on held-out images of the demo checkpoint."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flux_client import FluxClient
from flux_tools.documents import table
from flux_tools.quality.changing import COLOURS
from flux_tools.quality.colours import is_of
from flux_tools.quality.gallery import Finding, Gallery, strips
from flux_tools.quality.likeness import Bytes, between
from flux_tools.quality.sheet import sheet
from flux_tools.quality.studio import Ask, drawn

SOURCES = 50
#: Left, top, right and bottom of the masked square, in an image of 64x64 pixels.
BOX = (16, 16, 48, 48)
MASK = np.zeros((64, 64), np.uint8)
MASK[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
#: The prompt alone, or the Redux image alone, determines the masked part.
STRENGTH = {"strength": 1.0, "mask_image": MASK}


def inpainted(client: FluxClient, gallery: Gallery) -> Finding:
    """Does the masked part become what is requested, and does the rest stay?"""
    sources = gallery.some(SOURCES)
    plain = _inpainted(client, sources, [{"prompt": ""}] * SOURCES)
    of_colour = {colour: _inpainted(client, sources, [{"prompt": f"{colour} heart"}] * SOURCES) for colour in COLOURS}
    others = np.roll(sources, SOURCES // 2, axis=0)
    by_redux = _inpainted(client, sources, [{"prompt": "", "images": other} for other in others])
    every = [plain, *of_colour.values(), by_redux]
    outside = max(int(np.abs(images.astype(int) - sources)[:, MASK == 0].max()) for images in every)
    right = [is_of(_inside(image), colour, COLOURS) for colour, images in of_colour.items() for image in images]
    by_chance = [is_of(_inside(image), colour, COLOURS) for colour in COLOURS for image in plain]
    rows = [
        ["largest change outside the mask, of 255 levels", *[str(outside)] * 3],
        [
            "masked part has the prompt's colour, of four colours",
            f"{np.mean(by_chance):.0%}",
            f"{np.mean(right):.0%}",
            "",
        ],
        [
            "distance of the masked part to that of the Redux image, Delta E",
            f"{between(_scaled(plain), _scaled(others)):.1f}",
            "",
            f"{between(_scaled(by_redux), _scaled(others)):.1f}",
        ],
    ]
    head = ["source", "without prompt", *(f"{colour} heart" for colour in COLOURS), "Redux image", "with it"]
    shown = strips(sources, plain, *of_colour.values(), others, by_redux)
    return Finding(table(["`STRENGTH` 1", "without prompt", "prompt", "Redux image"], rows), sheet(head, shown))


def _inpainted(client: FluxClient, sources: Bytes, parameters: list[dict[str, object]]) -> Bytes:
    asks = [
        Ask((), {"source_image": source, "seed": seed, **STRENGTH, **own}, "inpaint")
        for seed, (source, own) in enumerate(zip(sources, parameters, strict=True))
    ]
    return drawn(client, asks)


def _inside(image: Bytes) -> Bytes:
    left, top, right, bottom = BOX
    return image[top:bottom, left:right]


def _scaled(images: Bytes) -> Bytes:
    """Return the masked parts in the size of the sources."""
    return np.stack([np.asarray(Image.fromarray(_inside(image)).resize((64, 64))) for image in images])
