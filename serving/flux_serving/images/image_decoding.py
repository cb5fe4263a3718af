"""Decodes untrusted bytes to RGB pixels."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import struct
import threading
import warnings
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import STRIPBYTECOUNTS, STRIPOFFSETS, TILEBYTECOUNTS, TILEOFFSETS, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_contract.tensors import Tensor
from flux_serving.images.image_files import (
    GIF_SIGNATURE,
    JPEG_SIGNATURE,
    MAX_PARTS,
    PNG_SIGNATURE,
    EncodedImage,
    without_metadata,
)

#: The supported formats in words, for error messages.
_FORMATS = " or ".join((", ".join(limits.INPUT_FORMATS[:-1]), limits.INPUT_FORMATS[-1]))


class _MeteredFile(io.BytesIO):
    """A file that raises InvalidRequest after a maximum number of reads or bytes.

    Pillow reads the parts of a file in Python, and Pillow 11.3 lets each of 65535 TIFF tags read the whole file.
    Without this limit, 32 MiB of empty PNG chunks took 30 seconds, and 32 MiB of such tags used all memory.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.size = len(content)
        self.reads_left = 3 * MAX_PARTS  # a PNG chunk needs 3
        self.bytes_left = 4 * len(content) + 2**16

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.reads_left -= 1
        self.bytes_left -= len(content)
        if min(self.reads_left, self.bytes_left) < 0:
            raise InvalidRequest("image has too many parts")
        return content


class _MeteredTiff(TiffImageFile):
    """A TIFF reader that checks strips and tiles before Pillow lists them: 3.5 million took 30 seconds and 2 GB.

    libtiff reads each strip and tile separately. Strips that share bytes, and tiles that extend beyond the image, would
    cost more than the file's size and the image's number of pixels suggest.
    """

    def _setup(self) -> None:
        for offsets, byte_counts in ((STRIPOFFSETS, STRIPBYTECOUNTS), (TILEOFFSETS, TILEBYTECOUNTS)):
            parts = len(self.tag_v2.get(offsets, ()))
            if parts > MAX_PARTS:
                raise InvalidRequest("image has too many parts")
            assert isinstance(self.fp, _MeteredFile)
            if parts > 1 and sum(self.tag_v2.get(byte_counts, ())) > 4 * self.fp.size:
                raise InvalidRequest("image has overlapping parts")
        tiles = len(self.tag_v2.get(TILEOFFSETS, ()))
        pixels = tiles * int(self.tag_v2.get(_TILE_WIDTH, 0)) * int(self.tag_v2.get(_TILE_LENGTH, 0))
        if pixels > 2 * limits.MAX_IMAGE_PIXELS:
            raise InvalidRequest(
                f"image has {pixels} pixels in its tiles, expected at most {2 * limits.MAX_IMAGE_PIXELS}"
            )
        super()._setup()


# The readers are used directly, because `Image.open` warns about or rejects large images by its own limit before it
# returns their size, and opens a JPEG that contains several images as another format.
_READERS: dict[re.Pattern[bytes], type[ImageFile]] = {
    re.compile(re.escape(PNG_SIGNATURE)): PngImageFile,
    re.compile(re.escape(JPEG_SIGNATURE)): JpegImageFile,
    re.compile(rb"RIFF....WEBP", re.DOTALL): WebPImageFile,
    GIF_SIGNATURE: GifImageFile,
    re.compile(rb"BM"): BmpImageFile,
    re.compile(rb"II[*+]\0|MM\0[*+]"): _MeteredTiff,
}

_DATA_URL = re.compile(rb"data:([^,;]{0,100})((?:;[^,;]{0,100}){0,8}),", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\v\f"
_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")

#: TIFF tags that Pillow has no names for.
_TILE_WIDTH, _TILE_LENGTH = 322, 323

#: The transposition that turns an image upright, by EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_GREY_OF_16_BITS = np.rint(np.arange(2**16) / 257).astype(np.uint8)

# Python's warning filters are global, so only one thread at a time may change them.
_warnings_are_off = threading.Lock()


class TooMuchWork(Exception):
    """Decoding the image would take more work than max_work allows."""


def decode_image(
    encoded: bytes,
    max_pixels: int = limits.MAX_IMAGE_PIXELS,
    behind: str = "white",
    max_work: float = float("inf"),
) -> Image.Image:
    """Decode the first frame of an image and turn it upright.

    encoded: the file, or its base64 (standard or url-safe) with or without the prefix `data:image/...;base64,`.
    behind: colour of transparent areas. max_work: in pixels, times `EncodedImage.work_factor`.
    Returns an image of mode RGB with 8 bits per channel. RGB pixels with 8 bits are unchanged. Colour profiles are not
    applied.
    Raises InvalidRequest: the bytes are empty, damaged, not an image in a supported format or more than
    `limits.MAX_IMAGE_BYTES`, or the header states more than `max_pixels` pixels. Raises TooMuchWork: the image exceeds
    max_work according to its header.
    """
    if not encoded or encoded.isspace():
        raise InvalidRequest("empty image")
    reader = _reader_of(encoded)
    if reader is None:
        content = _bytes_of_text(encoded)
        reader = _reader_of(content)
        if reader is None:
            raise _not_an_image(encoded)
    else:
        content = encoded
    _check_bytes(len(content), limits.MAX_IMAGE_BYTES)
    with _warnings_are_off, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return _read(reader, without_metadata(content), max_pixels, behind, max_work)
        except (InvalidRequest, TooMuchWork):
            raise
        except Image.DecompressionBombError as error:  # GIF and WebP allocate memory before their size is available
            raise InvalidRequest(f"image has more than {limits.MAX_IMAGE_PIXELS} pixels") from error
        except MemoryError as error:
            raise InvalidRequest("decoding the image needs too much memory") from error
        except Exception as error:  # Pillow has no common base class: OSError, SyntaxError, ValueError, zlib.error, ...
            raise InvalidRequest(_complaint(error)) from error


class Decode(Protocol):
    """A function that decodes as `decode_image` does, in this process or another."""

    def __call__(self, encoded: bytes, max_pixels: int = ..., behind: str = ...) -> Image.Image: ...


def decode_named(
    decode: Decode,
    tensor: Tensor,
    index: int,
    encoded: bytes,
    max_pixels: int = limits.MAX_IMAGE_PIXELS,
    behind: str = "white",
) -> Image.Image:
    """Decode one of a tensor's images. Error messages begin with the tensor's name and the index."""
    try:
        return decode(encoded, max_pixels, behind)
    except InvalidRequest as error:
        raise InvalidRequest(f"{tensor.name}[{index}]: {error}") from None


def _reader_of(content: bytes) -> type[ImageFile] | None:
    return next((reader for pattern, reader in _READERS.items() if pattern.match(content)), None)


def _bytes_of_text(text: bytes) -> bytes:
    """Decode base64, or a data URL with base64.

    Raises InvalidRequest: the text is neither of them, a data URL of a type other than image, too long or empty.
    """
    # Base64 is a third longer than the bytes; the rest allows for line breaks and the head of a data URL.
    _check_bytes(len(text), 2 * limits.MAX_IMAGE_BYTES)
    stripped = text.translate(_URL_SAFE_TO_STANDARD, delete=_WHITESPACE)
    url = _DATA_URL.match(text.lstrip())
    if url:
        media_type, options = url[1].strip(), url[2].translate(None, delete=_WHITESPACE)
        if not media_type.lower().startswith(b"image/"):
            raise InvalidRequest(f"not an image: the data URL has type {_quoted(media_type)}")
        if not options.lower().endswith(b";base64"):
            raise InvalidRequest("not an image: the data URL has no ;base64")
        stripped = stripped[stripped.index(b",") + 1 :]
    digits = stripped.rstrip(b"=")
    if not digits:
        raise InvalidRequest("empty image")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except ValueError as error:
        raise _not_an_image(text) from error


def _check_bytes(count: int, allowed: int) -> None:
    if count > allowed:
        raise InvalidRequest(f"image has {count} bytes, expected at most {allowed}")


def _not_an_image(content: bytes) -> InvalidRequest:
    return InvalidRequest(f"not an image: starts with {_quoted(content)}; expected {_FORMATS}")


def _quoted(content: bytes) -> str:
    return repr(content[:24]).removeprefix("b")


def _complaint(error: Exception) -> str:
    """Returns an error message for Pillow's exception."""
    ran_out = (EOFError, IndexError, struct.error)
    if isinstance(error, ran_out) or isinstance(error.__cause__, ran_out) or "truncated" in str(error).lower():
        return "image is truncated"
    if str(error) == "not identified by this driver":  # Pillow's message for a side of 0 and for an unknown pixel type
        return "image has no pixels or an unknown pixel type"
    return f"image is truncated or damaged: {str(error)[:200] or type(error).__name__}"


def _read(reader: type[ImageFile], file: EncodedImage, max_pixels: int, behind: str, max_work: float) -> Image.Image:
    header = reader(_MeteredFile(file.content))
    width, height = header.size
    if width * height > max_pixels:
        raise InvalidRequest(f"image has {width}x{height} pixels, expected at most {max_pixels}")
    if width * height * file.work_factor > max_work:
        raise TooMuchWork
    header.verify()  # checks a PNG's checksums, which loading ignores; afterwards the image must be opened again
    image = reader(_MeteredFile(file.content))
    transparent = _transparent_value(image)
    if transparent is not None:
        image.info["transparency"] = transparent
    image.load()
    return _flatten(_to_8_bits(_upright(image, file)), behind)


def _upright(image: ImageFile, file: EncodedImage) -> Image.Image:
    if isinstance(image, TiffImageFile):
        with contextlib.suppress(Exception):  # ignore EXIF that cannot be read
            ImageOps.exif_transpose(image, in_place=True)
        return image
    if isinstance(image, WebPImageFile):
        file = EncodedImage(file.content, image.info.get("exif", b""), image.info.get("xmp", b""))
    turn = _UPRIGHT.get(file.orientation())
    if turn is None:
        return image
    # In place, because a transposed copy has no `info` and so loses the transparency.
    image.im = image.im.transpose(turn)
    image._size = image.im.size
    return image


def _transparent_value(image: ImageFile) -> int | tuple[int, ...] | None:
    """Returns the transparent colour of a PNG in the value range of the decoded pixels.

    Pillow keeps it at the file's bit depth, but scales pixels of 2 and 4 bits to 0..255 and reads the upper 8 of 16
    bits.
    """
    value = image.info.get("transparency")
    raw_mode = image.tile[0].args if image.tile else None
    if raw_mode == "L;2" and isinstance(value, int):
        return value * 85
    if raw_mode == "L;4" and isinstance(value, int):
        return value * 17
    if raw_mode == "RGB;16B" and isinstance(value, tuple):
        return tuple(channel >> 8 for channel in value)
    return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale greyscale images of 16 bits, 32 bits or floats to 8 bits. Other images are returned unchanged.

    Pillow's own conversion clips. For 16 bits, black and white are the type's limits. Wider types have no agreed white:
    here it is the smallest of 1 (floats), 255 (floats) and 65535 that no value exceeds. If there is none, or a value is
    negative, the image's own range is stretched to 0..255.
    """
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if values.dtype.itemsize == 2:
        grey = _GREY_OF_16_BITS[values]
    else:
        scaled = np.nan_to_num(values.astype(np.float32), nan=0, posinf=0, neginf=0)
        black, white = float(scaled.min()), float(scaled.max())
        usual_whites = (1, 255, 65535) if image.mode == "F" else (65535,)
        if black >= 0 and white <= usual_whites[-1]:
            black, white = 0, next(usual for usual in usual_whites if white <= usual)
        scaled -= black
        scaled *= 255 / max(white - black, 1e-30)
        grey = np.rint(scaled).clip(0, 255).astype(np.uint8)
    in_8_bits = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        in_8_bits.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return in_8_bits


def _flatten(image: Image.Image, behind: str) -> Image.Image:
    """Convert to RGB, with this colour behind transparent pixels."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    flat = Image.new("RGB", image.size, behind)
    flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return flat
