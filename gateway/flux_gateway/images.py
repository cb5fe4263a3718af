"""What answers tell of an image, without decoding it."""

from __future__ import annotations

import base64
import io

from PIL import Image

#: Bytes of a file beside its pixels: the recipe in its EXIF, at most one segment of a JPEG, and other metadata.
_METADATA_BYTES = 80 * 2**10


def as_text(data: bytes) -> str:
    """In base64."""
    return base64.b64encode(data).decode()


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height, out of the file's first bytes."""
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def max_encoded_bytes(width: int, height: int) -> int:
    """Bytes that an image of this size may have as PNG, JPEG or WebP: those of pixels that cannot be compressed."""
    pixels = 3 * width * height + height
    return pixels + pixels // 64 + _METADATA_BYTES
