"""F1 of control edges and generated edges, with a tolerance of a few pixels."""

from __future__ import annotations

from statistics import fmean

import numpy as np
from PIL import Image, ImageFilter

from flux_contract.limits import DEFAULT_CANNY_HIGH, DEFAULT_CANNY_LOW
from flux_serving.images.edges import edges
from flux_tools.quality.likeness import Bytes

#: Tolerance in pixels, the larger of the horizontal and the vertical distance.
WITHIN = 2


def edges_of(images: Bytes) -> Bytes:
    """Detect edges as the server does: (n, height, width, 3) uint8 to (n, height, width), 255 on an edge, else 0."""
    return np.stack([edges(image, DEFAULT_CANNY_LOW, DEFAULT_CANNY_HIGH) for image in images])


def f1(asked: Bytes, drawn: Bytes, within: int = WITHIN) -> float:
    """Return the harmonic mean of precision and recall, 0..1; 0 if an image has no edges.

    asked, drawn: (height, width), above 0 on an edge. Precision is the share of drawn edges at most `within` pixels
    from an asked edge, recall the share of asked edges at most `within` pixels from a drawn edge.
    """
    if not asked.any() or not drawn.any():
        return 0.0
    precision, recall = _near(drawn, asked, within), _near(asked, drawn, within)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def mean_f1(asked: Bytes, drawn: Bytes, within: int = WITHIN) -> float:
    """Return the mean F1 of pairs of images. asked, drawn: (n, height, width)."""
    return fmean(f1(*pair, within) for pair in zip(asked, drawn, strict=True))


def _near(some: Bytes, others: Bytes, within: int) -> float:
    """Return the share of the edges `some` that are at most `within` pixels from one of `others`."""
    grown = Image.fromarray(others).filter(ImageFilter.MaxFilter(2 * within + 1))
    return float((np.asarray(grown)[some > 0] > 0).mean())
