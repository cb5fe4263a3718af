"""Distance of two images in coarse colour and shape; no network was trained on this measure.

An image is reduced to 8x8 cells of CIE L*a*b* colour. A distance is the root mean square over the cells, in units of
Delta E (CIE 1976): 2 is barely visible, 100 is black against white. Training uses flipped, shifted and scaled copies,
so a variation is compared with many such views of its source, and the nearest view determines the distance.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

CELLS = 8
#: Within the ranges of `flux_tools.training.augmentation.augment`: scale 15 %, shift 10 %, flip.
SCALES = (0.88, 1.0, 1.12)
SHIFTS = (-0.08, -0.04, 0.0, 0.04, 0.08)

#: From linear sRGB, for the white point D65 (IEC 61966-2-1).
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
_WHITE = _XYZ.sum(axis=1)
_VALUES = np.arange(256) / 255
_LINEAR = np.where(_VALUES <= 0.04045, _VALUES / 12.92, ((_VALUES + 0.055) / 1.055) ** 2.4).astype(np.float32)


def lab(rgb: Bytes) -> Floats:
    """Convert sRGB, (..., 3) uint8, to L*a*b* of the same shape. Source: CIE 15, and IEC 61966-2-1 for sRGB."""
    ratio = _LINEAR[rgb] @ _XYZ.T / _WHITE
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def features(rgb: Bytes) -> Floats:
    """Return the mean L*a*b* colours of 8x8 cells: (..., side, side, 3) uint8, side a multiple of 8, to (..., 192)."""
    colour = lab(rgb)
    *lead, side, _, _ = colour.shape
    cell = side // CELLS
    cells: Floats = colour.reshape(*lead, CELLS, cell, CELLS, cell, 3).mean(axis=(-4, -2))
    return cells.reshape(*lead, -1)


def middle(rgb: Bytes, side: int = 64) -> Bytes:
    """Crop an image to the square in its middle and resize it to this side, to compare it with a source."""
    height, width, _ = rgb.shape
    half = min(height, width) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.LANCZOS, box=box))


@lru_cache(maxsize=1024)
def views(side: int, rgb: bytes) -> Floats:
    """Return features of flips, scales and shifts of an image on white, (views, 192). rgb: side * side * 3 bytes."""
    image = Image.frombytes("RGB", (side, side), rgb)
    seen = []
    for scale in SCALES:
        scaled = image.resize((round(side * scale),) * 2, Image.Resampling.LANCZOS)
        for right, down in product(SHIFTS, SHIFTS):
            canvas = Image.new("RGB", (side, side), "white")
            corner = (side - scaled.width) / 2
            canvas.paste(scaled, (round(corner + right * side), round(corner + down * side)))
            seen += [np.asarray(canvas), np.asarray(canvas)[:, ::-1]]
    return features(np.stack(seen))


def distances(images: Bytes, sources: Bytes) -> Floats:
    """Return the distance of each image to the nearest view of each source, (m, n).

    images: (m, side, side, 3) uint8. sources: (n, side, side, 3) uint8.
    """
    own = features(images)
    return np.stack([_to_views(own, source) for source in sources], axis=1)


def to_own(images: Bytes, sources: Bytes) -> float:
    """Return the mean distance of the images to the nearest view of their own source. There is one source per image."""
    own = features(images)[:, None]
    return float(np.mean([_to_views(*pair) for pair in zip(own, sources, strict=True)]))


def _to_views(own: Floats, source: Bytes) -> Floats:
    """Return the distances to the nearest view of the source, (m,). own: (m, 192)."""
    seen = views(len(source), source.tobytes())
    squares = (own**2).sum(1)[:, None] + (seen**2).sum(1) - 2 * own @ seen.T
    nearest: Floats = np.sqrt(np.maximum(squares, 0).min(axis=1) / own.shape[1])
    return nearest


def apart(images: Bytes) -> Floats:
    """Return the distances between all images, without views: (n, side, side, 3) uint8 to (n, n)."""
    own = features(images)
    each: Floats = np.sqrt(((own[:, None] - own[None]) ** 2).mean(axis=-1))
    return each


def between(first: Bytes, second: Bytes) -> float:
    """Return the mean distance of corresponding images, without views."""
    return float(np.mean([apart(np.stack(pair))[0, 1] for pair in zip(first, second, strict=True)]))


def found_among_first(to_sources: Floats, own: npt.NDArray[np.int64], count: int) -> float:
    """Return the share of images that have fewer than `count` sources nearer than their own.

    to_sources: (m, n), of `distances`. own: (m,), the index of each image's own source.
    """
    mine = to_sources[np.arange(len(own)), own]
    return float(((to_sources < mine[:, None]).sum(axis=1) < count).mean())
