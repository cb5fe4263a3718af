"""Pictures as callers have them, to encoded bytes as Triton takes them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from flux_serving.contract import limits
from flux_serving.errors import InvalidRequest

#: A file, its bytes, a PIL image, or uint8 pixels of shape (height, width), (height, width, 3) or (height, width, 4).
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"
#: One picture, or several for one request.
Pictures: TypeAlias = "Picture | Sequence[Picture]"

#: One picture for all, or one each; None where there is none.
Masks: TypeAlias = "Picture | Sequence[Picture | None]"

_ONE_PICTURE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
#: Modes of PIL that PNG keeps; others become RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def encode_pictures(images: Pictures) -> list[bytes]:
    """Encoded bytes of one picture or several, in order; files and bytes pass unchanged, the others become PNG.

    Raises InvalidRequest: none or more than MAX_PICTURES, an empty one, one of more than MAX_PICTURE_BYTES, or an array
    that is no picture. Raises TypeError: not a kind of picture. Raises OSError: the file cannot be read.
    """
    return [encode_picture(picture) for picture in _listed(images)]


def encode_picture(picture: object) -> bytes:
    """The same of one picture."""
    if isinstance(picture, (str, os.PathLike)):
        return _sized(_read(Path(picture)), str(picture))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _sized(bytes(picture), "a picture")
    if isinstance(picture, Image.Image):
        return _sized(_png(picture), "a PIL image as PNG")
    if isinstance(picture, np.ndarray):
        return _sized(_png(_from_array(picture)), "an array as PNG")
    raise _not_a_picture(picture)


def encode_masks(masks: Masks) -> list[bytes]:
    """The same of masks, nothing for None."""
    return [b"" if mask is None else encode_picture(mask) for mask in _listed(masks)]


def _listed(images: object) -> list[object]:
    pictures: list[object]
    if isinstance(images, _ONE_PICTURE):
        pictures = [images]
    elif isinstance(images, Iterable) and not isinstance(images, Mapping) and not hasattr(images, "read"):
        pictures = list(images)
    else:
        raise _not_a_picture(images, ", or a list of these")
    if not 1 <= len(pictures) <= limits.MAX_PICTURES:
        raise InvalidRequest(f"{len(pictures)} pictures in one request, expected 1..{limits.MAX_PICTURES}")
    return pictures


def _read(path: Path) -> bytes:
    """No more than is allowed: a wrong path may name something enormous, or a device without an end."""
    with path.open("rb") as file:
        return file.read(limits.MAX_PICTURE_BYTES + 1)


def _sized(data: bytes, name: str) -> bytes:
    if not data:
        raise InvalidRequest(f"{name} is empty")
    if len(data) > limits.MAX_PICTURE_BYTES:
        raise InvalidRequest(f"{name} has more bytes than allowed, expected at most {limits.MAX_PICTURE_BYTES}")
    return data


def _from_array(pixels: npt.NDArray[Any]) -> Image.Image:
    is_picture = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not is_picture or pixels.size == 0:
        raise InvalidRequest(
            f"an array of {pixels.dtype} and shape {list(pixels.shape)} is no picture, expected uint8 and "
            "[height, width], [height, width, 3] or [height, width, 4]; several pictures go as a list"
        )
    return Image.fromarray(pixels)


def _png(image: Image.Image) -> bytes:
    """Fast rather than small, since it travels once; upright, since PNG loses the camera's orientation."""
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _PNG_MODES:
            upright = upright.convert("RGB")
        upright.save(buffer, format="PNG", compress_level=1)
    except (OSError, ValueError, SystemError) as error:
        raise InvalidRequest(
            f"a PIL image of mode {image.mode} and size {image.size} cannot become PNG: {error}"
        ) from error
    return buffer.getvalue()


def _not_a_picture(value: object, or_else: str = "") -> TypeError:
    return TypeError(
        f"{type(value).__name__} is no picture, expected a path, encoded bytes, a PIL image or a uint8 array{or_else}"
    )
