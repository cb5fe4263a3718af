"""Converts images of callers to encoded bytes for Triton."""

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

#: A path, encoded bytes, a PIL image of any mode, or an array that `from_array` accepts.
ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[Any]"
#: One image or several for one request.
ImageInputs: TypeAlias = "ImageInput | Sequence[ImageInput]"

#: One mask for all images, or one for each; None for an image without a mask.
Masks: TypeAlias = "ImageInput | Sequence[ImageInput | None]"

_ONE_IMAGE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)


def encode_images(images: ImageInputs) -> list[bytes]:
    """Encode one image or several, in order. Files and bytes are not changed; PIL images and arrays become PNG.

    Raises InvalidRequest: no image, more than MAX_INPUT_IMAGES, an empty file, a file above MAX_IMAGE_BYTES, a device,
    or an array that is not an image. Raises TypeError: an unsupported type. Raises OSError: a file cannot be read.
    """
    return [encode_image(image) for image in _listed(images)]


def encode_image(image: object) -> bytes:
    """Encode one image. Raises as `encode_images`."""
    if isinstance(image, (str, os.PathLike)):
        return _sized(_read(Path(image)), str(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _sized(bytes(image), "an image")
    if isinstance(image, Image.Image):
        return _sized(_png(image), "a PIL image as PNG")
    if isinstance(image, np.ndarray):
        return _sized(_png(from_array(image)), "an array as PNG")
    raise _not_an_image(image)


def encode_masks(masks: Masks) -> list[bytes]:
    """Encode masks; None becomes empty bytes. Raises as `encode_images`."""
    return [b"" if mask is None else encode_image(mask) for mask in _listed(masks)]


def _listed(images: object) -> list[object]:
    listed: list[object]
    if isinstance(images, _ONE_IMAGE):
        listed = [images]
    elif isinstance(images, Iterable) and not isinstance(images, Mapping) and not _is_single(images):
        listed = list(images)
    else:
        raise _not_an_image(images, ", or a list of these")
    if not 1 <= len(listed) <= limits.MAX_INPUT_IMAGES:
        raise InvalidRequest(f"{len(listed)} images in one request, expected 1..{limits.MAX_INPUT_IMAGES}")
    return listed


def _is_single(value: object) -> bool:
    """Whether an iterable is a single object: an open file, or a tensor of another library."""
    return hasattr(value, "read") or hasattr(value, "__array__")


def _read(path: Path) -> bytes:
    """Read a file or a pipe, up to one byte more than the limit, because a wrong path may name a huge file.

    Raises InvalidRequest: a device or a socket, which may block forever.
    """
    mode = path.stat().st_mode
    # Opening a folder raises IsADirectoryError.
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISDIR(mode)):
        raise InvalidRequest(f"{path} is not a file or a pipe")
    with path.open("rb") as file:
        return file.read(limits.MAX_IMAGE_BYTES + 1)


def _sized(data: bytes, name: str) -> bytes:
    if not data:
        raise InvalidRequest(f"{name} is empty")
    if len(data) > limits.MAX_IMAGE_BYTES:
        raise InvalidRequest(f"{name} is too large, expected at most {limits.MAX_IMAGE_BYTES} bytes")
    return data


def _png(image: Image.Image) -> bytes:
    """Encode as PNG: quickly, because it is sent once, and upright, because PNG drops the camera's orientation."""
    buffer = BytesIO()
    try:
        upright = ImageOps.exif_transpose(with_transparent_value_of_8_bits(image))
        in_png_mode(upright).save(buffer, format="PNG", compress_level=1)
    except (OSError, ValueError, SystemError) as error:
        raise InvalidRequest(
            f"a PIL image of mode {image.mode} and size {image.size} cannot be converted to PNG: {error}"
        ) from error
    return buffer.getvalue()


def _not_an_image(value: object, or_else: str = "") -> TypeError:
    hint = "; convert a tensor to a NumPy array of [height, width, channels]" if hasattr(value, "__array__") else ""
    return TypeError(
        f"{type(value).__name__} is not an image, expected a path, encoded bytes, a PIL image or a NumPy array{or_else}"
        f"{hint}"
    )
