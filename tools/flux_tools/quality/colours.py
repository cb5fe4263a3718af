"""Chroma and colour of objects on white."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flux_tools.quality.likeness import Bytes, Floats, lab

#: Reference colours by name, sRGB.
SWATCHES = {
    "red": (220, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (250, 210, 50),
    "green": (60, 170, 60),
    "blue": (40, 110, 220),
    "purple": (150, 60, 190),
}
#: Minimum chroma of an image that has a colour, in units of Delta E.
LEAST_CHROMA = 15.0
#: Pixels that are lighter and less colourful than this are background.
GROUND_LIGHTNESS, GROUND_CHROMA = 92.0, 12.0


def chroma(images: Bytes) -> float:
    """Return the mean distance of the pixels from grey in CIE L*a*b*, in units of Delta E. images: (..., 3) uint8."""
    return float(_from_grey(lab(images)).mean())


def is_of(image: Bytes, colour: str, among: Sequence[str] = tuple(SWATCHES)) -> bool:
    """Whether `colour` is the hue in `among` that is nearest to the object's mean colour. image: (..., 3) uint8."""
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
    """Return the hue angle in radians."""
    return float(np.arctan2(seen[2], seen[1]))
