"""What answers tell of a picture, without decoding it."""

from __future__ import annotations

import base64
import io

from PIL import Image


def as_text(data: bytes) -> str:
    """In base64."""
    return base64.b64encode(data).decode()


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height, out of the file's first bytes."""
    with Image.open(io.BytesIO(data)) as picture:
        return picture.size
