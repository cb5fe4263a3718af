"""Edges of a picture, as a ControlNet for Canny edges is shown them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def edges(rgb: NDArray[np.uint8], low: float, high: float) -> NDArray[np.uint8]:
    """Canny's edges of the luminance. rgb: (height, width, 3). Returns (height, width), 255 on an edge, 0 elsewhere.

    low, high: an edge is a ridge of the gradient that exceeds `high` somewhere and nowhere falls below `low`. OpenCV
    takes the gradient by 3x3 Sobel filters, |dx| + |dy|, of a picture that is not blurred before. Of RGB it would take
    the channel with the steepest gradient at each pixel, as diffusers' guides do: `cv2.Canny(rgb, 100, 200)`.
    """
    return cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), low, high).astype(np.uint8, copy=False)
