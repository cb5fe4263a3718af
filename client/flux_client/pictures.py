"""Pictures as callers have them, to encoded bytes as Triton takes them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from flux_client.pixels import from_array, in_png_mode, with_transparent_value_of_8_bits
from flux_contract import limits
from flux_contract.errors import InvalidRequest

#: A file, its bytes, a PIL image of any mode, or an array as `from_array` takes it.
Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
#: One picture, or several for one request.
Pictures: TypeAlias = "Picture | Sequence[Picture]"

#: One picture for all, or one each; None where there is none.
Masks: TypeAlias = "Picture | Sequence[Picture | None]"

_ONE_PICTURE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)


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
        return _sized(_png(from_array(picture)), "an array as PNG")
    raise _not_a_picture(picture)


def encode_masks(masks: Masks) -> list[bytes]:
    """The same of masks, nothing for None."""
    return [b"" if mask is None else encode_picture(mask) for mask in _listed(masks)]


def _listed(images: object) -> list[object]:
    pictures: list[object]
    if isinstance(images, _ONE_PICTURE):
        pictures = [images]
    elif isinstance(images, Iterable) and not isinstance(images, Mapping) and not _is_single(images):
        pictures = list(images)
    else:
        raise _not_a_picture(images, ", or a list of these")
    if not 1 <= len(pictures) <= limits.MAX_PICTURES:
        raise InvalidRequest(f"{len(pictures)} pictures in one request, expected 1..{limits.MAX_PICTURES}")
    return pictures


def _is_single(value: object) -> bool:
    """Whether it is one thing although it can be iterated: an open file, or a tensor of another library."""
    return hasattr(value, "read") or hasattr(value, "__array__")


def _read(path: Path) -> bytes:
    """No more than is allowed: a wrong path may name something enormous, or a device without an end.

    Raises InvalidRequest: a pipe or a device, which may block forever.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InvalidRequest(f"{path} is not a regular file")
    with path.open("rb") as file:
        return file.read(limits.MAX_PICTURE_BYTES + 1)


def _sized(data: bytes, name: str) -> bytes:
    if not data:
        raise InvalidRequest(f"{name} is empty")
    if len(data) > limits.MAX_PICTURE_BYTES:
        raise InvalidRequest(f"{name} has more bytes than allowed, expected at most {limits.MAX_PICTURE_BYTES}")
    return data


def _png(image: Image.Image) -> bytes:
    """Fast rather than small, since it travels once; upright, since PNG loses the camera's orientation."""
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(with_transparent_value_of_8_bits(image))
        in_png_mode(upright).save(buffer, format="PNG", compress_level=1)
    except (OSError, ValueError, SystemError) as error:
        raise InvalidRequest(
            f"a PIL image of mode {image.mode} and size {image.size} cannot become PNG: {error}"
        ) from error
    return buffer.getvalue()


def _not_a_picture(value: object, or_else: str = "") -> TypeError:
    hint = "; convert a tensor to a NumPy array of [height, width, channels]" if hasattr(value, "__array__") else ""
    return TypeError(
        f"{type(value).__name__} is no picture, expected a path, encoded bytes, a PIL image or a NumPy array{or_else}"
        f"{hint}"
    )
