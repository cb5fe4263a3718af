"""Whether edges drawn are the edges asked for, to within a few pixels."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from PIL import Image, ImageFilter

from flux_contract.limits import DEFAULT_CANNY_HIGH, DEFAULT_CANNY_LOW
from flux_serving.images.edges import edges
from flux_tools.quality.likeness import Bytes

#: Pixels, the larger of those across and down: what a stroke may be off by and still lie where it should.
WITHIN = 2


def edges_of(images: Bytes) -> Bytes:
    """(n, height, width, 3) uint8 to (n, height, width): 255 on an edge, 0 elsewhere, by the server's own Canny."""
    return np.stack([edges(image, DEFAULT_CANNY_LOW, DEFAULT_CANNY_HIGH) for image in images])


def f1(asked: Bytes, drawn: Bytes, within: int = WITHIN) -> float:
    """(height, width) each, above 0 on an edge. Returns the harmonic mean of precision and recall, 0..1.

    Precision is the share of the drawn edges that are near an asked one, recall the share of the asked ones that are
    near a drawn one; near is at most `within` pixels away. Where either image has no edges, it is 0.
    """
    if not asked.any() or not drawn.any():
        return 0.0
    precision, recall = _near(drawn, asked, within), _near(asked, drawn, within)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_f1(asked: Bytes, drawn: Bytes, within: int = WITHIN) -> float:
    """(n, height, width) each, fellow by fellow."""
    return fmean(f1(*pair, within) for pair in zip(asked, drawn, strict=True))


def _near(some: Bytes, others: Bytes, within: int) -> float:
    """The share of some edges that lie near one of the others."""
    grown = Image.fromarray(others).filter(ImageFilter.MaxFilter(2 * within + 1))
    return float((np.asarray(grown)[some > 0] > 0).mean())
