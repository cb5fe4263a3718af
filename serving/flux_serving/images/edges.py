"""Computes edge images for a ControlNet for Canny edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flux_contract.parameters import CANNY_HIGH, CANNY_LOW, CONTROL_IMAGE
from flux_serving.images.image_decoding import Decode, decode_named
from flux_serving.images.resizing import SizedImage, resized


@dataclass(frozen=True)
class EdgeOptions:
    """The options of an edge image.

    low, high: thresholds, as for `edges`. is_photo: whether to detect edges; if not, the image is an edge map already.
    """

    image: SizedImage
    low: Annotated[float, CANNY_LOW]
    high: Annotated[float, CANNY_HIGH]
    is_photo: bool


def draw_edges(options: EdgeOptions, decode: Decode) -> Image.Image:
    """Returns an RGB image, white edges on black. Raises InvalidRequest: the file is not an image."""
    decoded = decode_named(decode, CONTROL_IMAGE, 0, options.image.encoded)

    def detected(photo: Image.Image) -> Image.Image:
        return Image.fromarray(edges(np.asarray(photo), options.low, options.high)).convert("RGB")

    placed = options.image.placement(decoded)
    return resized(decoded, placed, around="black", change=detected if options.is_photo else None)


def edges(rgb: NDArray[np.uint8], low: float, high: float) -> NDArray[np.uint8]:
    """Detect Canny edges in the luminance.

    rgb: (height, width, 3). Returns (height, width), 255 on an edge, 0 elsewhere.
    low, high: an edge is a ridge of the gradient that exceeds `high` somewhere and never falls below `low`. OpenCV
    computes the gradient, |dx| + |dy|, with 3x3 Sobel filters and does not blur the image first. For an RGB image it
    would use the channel with the steepest gradient at each pixel, as in diffusers' guides: `cv2.Canny(rgb, 100, 200)`.
    """
    return cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), low, high).astype(np.uint8, copy=False)
