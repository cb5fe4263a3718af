"""Edge images, as a ControlNet for Canny edges reads them."""

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
    """low, high: thresholds, as for `edges`. is_photo: edges are detected in the image; else it is an edge map."""

    image: SizedImage
    low: Annotated[float, CANNY_LOW]
    high: Annotated[float, CANNY_HIGH]
    is_photo: bool


def draw_edges(options: EdgeOptions, decode: Decode) -> Image.Image:
    """Returns an RGB image, white on black. Raises InvalidRequest: the file is not an image."""
    decoded = decode_named(decode, CONTROL_IMAGE, 0, options.image.encoded)

    def detected(photo: Image.Image) -> Image.Image:
        return Image.fromarray(edges(np.asarray(photo), options.low, options.high)).convert("RGB")

    placed = options.image.placement(decoded)
    return resized(decoded, placed, around="black", change=detected if options.is_photo else None)


def edges(rgb: NDArray[np.uint8], low: float, high: float) -> NDArray[np.uint8]:
    """Canny's edges of the luminance. rgb: (height, width, 3). Returns (height, width), 255 on an edge, 0 elsewhere.

    low, high: an edge is a ridge of the gradient that exceeds `high` somewhere and nowhere falls below `low`. OpenCV
    takes the gradient by 3x3 Sobel filters, |dx| + |dy|, of an image that is not blurred before. Of RGB it would take
    the channel with the steepest gradient at each pixel, as diffusers' guides do: `cv2.Canny(rgb, 100, 200)`.
    """
    return cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), low, high).astype(np.uint8, copy=False)
