"""Converts PIL images and arrays to PIL images that PNG can store.

The server reads the result as it reads the original file: 16 bits are scaled, not clipped, and transparency is kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from flux_contract.errors import InvalidRequest

#: PIL modes that PNG can store.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
#: PIL modes with transparency that PNG cannot store, and equivalent modes that it can.
_WITH_ALPHA = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}
_WHITE = {"I": (65535,), "F": (1, 255, 65535)}


def from_array(pixels: npt.NDArray[Any]) -> Image.Image:
    """Convert an array to a PIL image.

    pixels: (height, width), or (height, width, channels) with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels.
    Types: bool; uint8; uint16 with white 65535; floats 0..1; int32 of (height, width), which is PIL's mode I.
    Raises InvalidRequest: unsupported shape or type, or floats that are outside 0..1 or not finite.
    """
    grey = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    grey = grey.astype(grey.dtype.newbyteorder("="), copy=False)
    if grey.size == 0 or not (grey.ndim == 2 or (grey.ndim == 3 and grey.shape[2] in (2, 3, 4))):
        raise _no_image(pixels)
    if grey.dtype == np.int32 and grey.ndim == 2:
        return Image.fromarray(_grey_of_wide(grey, _WHITE["I"]))
    if grey.dtype == np.uint16:
        # PIL, and therefore the server, keeps the upper 8 bits of 16-bit colour, but scales 16-bit grey.
        return Image.fromarray(np.ascontiguousarray(grey if grey.ndim == 2 else (grey >> 8).astype(np.uint8)))
    return Image.fromarray(np.ascontiguousarray(_8_bits(grey)))


def in_png_mode(image: Image.Image) -> Image.Image:
    """Convert the image to a mode that PNG can store.

    Raises ValueError: PIL cannot convert its mode. Raises InvalidRequest: pixels are not finite.
    """
    if image.mode in _PNG_MODES:
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in _WHITE:
        values = np.asarray(image)
        if not np.isfinite(values).all():
            raise InvalidRequest(f"a PIL image of mode {image.mode} has pixels that are not finite numbers")
        grey = Image.fromarray(_grey_of_wide(values, _WHITE[image.mode]))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
        return grey
    return image.convert(_WITH_ALPHA.get(image.mode, "RGB"))


def with_transparent_value_of_8_bits(image: Image.Image) -> Image.Image:
    """Scale the transparent colour of a PNG as PIL scales its pixels.

    PIL keeps the colour at the file's bit depth, but reads 2-bit and 4-bit pixels as 0..255, and the upper 8 bits of
    16-bit colour.
    """
    value, tile = image.info.get("transparency"), getattr(image, "tile", None)
    depth = tile[0].args if tile else None
    scaled: int | tuple[int, ...]
    if depth in ("L;2", "L;4") and isinstance(value, int):
        scaled = value * (85 if depth == "L;2" else 17)
    elif depth == "RGB;16B" and isinstance(value, tuple):
        scaled = tuple(channel >> 8 for channel in value)
    else:
        return image
    changed = image.copy()
    changed.info["transparency"] = scaled
    return changed


def _8_bits(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.bool_:
        return np.where(pixels, 255, 0).astype(np.uint8)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype.kind != "f":
        raise _no_image(pixels)
    least, most = float(pixels.min()), float(pixels.max())
    if not 0 <= least <= most <= 1:  # NaN neither
        raise InvalidRequest(
            f"an array of {pixels.dtype} has values {least:g}..{most:g}, expected 0..1; for 0..255, convert it to uint8"
        )
    scaled: npt.NDArray[np.uint8] = np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)
    return scaled


def _grey_of_wide(values: npt.NDArray[Any], whites: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Convert values without a defined white to 8 bits, as the server does.

    White is the smallest of `whites` that is not below any value. If no white fits, or if values are negative, the
    smallest and the largest value become black and white.
    """
    scaled = values.astype(np.float32)
    black, white = float(scaled.min()), float(scaled.max())
    if black >= 0 and white <= whites[-1]:
        black, white = 0, next(usual for usual in whites if white <= usual)
    scaled -= black
    scaled *= 255 / max(white - black, 1e-30)
    grey: npt.NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return grey


def _no_image(pixels: npt.NDArray[Any]) -> InvalidRequest:
    return InvalidRequest(
        f"an array of {pixels.dtype} and shape {list(pixels.shape)} is not an image, expected uint8, uint16, bool or "
        "floats 0..1 of [height, width], or [height, width, channels] with 1 to 4 channels, or int32 of [height, "
        "width]; pass several images as a list"
    )
