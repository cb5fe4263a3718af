"""Properties of encoded images, without decoding them."""

from __future__ import annotations

import base64
import io

from PIL import Image

#: Maximum bytes of a file besides its pixels: the recipe in EXIF, up to one JPEG segment, and other metadata.
_METADATA_BYTES = 80 * 2**10


def as_text(data: bytes) -> str:
    """Encode as base64."""
    return base64.b64encode(data).decode()


def size_of(data: bytes) -> tuple[int, int]:
    """Return width and height, from the file's first bytes."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def max_encoded_bytes(width: int, height: int) -> int:
    """Return the maximum bytes of an image as PNG, JPEG or WebP, which is the size of incompressible pixels."""
    pixels = 3 * width * height + height
    return pixels + pixels // 64 + _METADATA_BYTES
