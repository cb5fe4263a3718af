"""How colourful a drawing on white is, and which colour it has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flux_tools.quality.likeness import Bytes, Floats, lab

#: A plain red, and so on: what a colour's name means here.
SWATCHES = {
    "red": (220, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 210, 50),
    "green": (60, 170, 60),
    "blue": (40, 110, 220),
    "purple": (150, 60, 190),
}
#: Below it, in units of Delta E, an image has no colour.
LEAST_CHROMA = 15.0
#: Lighter and less colourful than this is the ground that a thing is drawn on.
GROUND_LIGHTNESS, GROUND_CHROMA = 92.0, 12.0


def chroma(images: Bytes) -> float:
    """(..., 3) uint8 to the mean distance of its pixels from grey, CIE L*a*b*, in units of Delta E."""
    return float(_from_grey(lab(images)).mean())


def is_of(image: Bytes, colour: str, among: Sequence[str] = tuple(SWATCHES)) -> bool:
    """Whether the mean colour of what is drawn has this hue rather than another of them. image: (..., 3) uint8."""
    seen = lab(image).reshape(-1, 3)
    thing = seen[(seen[:, 0] < GROUND_LIGHTNESS) | (_from_grey(seen) > GROUND_CHROMA)]
    if not len(thing) or _from_grey(mean := thing.mean(axis=0)) < LEAST_CHROMA:
        return False
    hues = [_hue(lab(np.array(SWATCHES[name], np.uint8))) for name in among]
    turns = np.abs(np.angle(np.exp(1j * (np.array(hues) - _hue(mean)))))
    return among[int(turns.argmin())] == colour


def _from_grey(seen: Floats) -> Floats:
    distance: Floats = np.hypot(seen[..., 1], seen[..., 2])
    return distance


def _hue(seen: Floats) -> float:
    """In radians."""
    return float(np.arctan2(seen[2], seen[1]))
