"""PIL images and arrays: the server reads the same pixels from them as from the same file."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from flux_client import InvalidRequest
from flux_client.images import encode_images
from flux_serving.images.image_decoding import decode_image

RAMP = np.linspace(0, 1, 48).reshape(6, 8)


def read(image: object) -> np.ndarray:
    """Returns the pixels that the server reads."""
    [data] = encode_images(image)  # type: ignore[arg-type]
    return np.asarray(decode_image(data))


def file_of(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def grey16() -> bytes:
    return file_of(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG")


def grey16_transparent() -> bytes:
    return file_of(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG", transparency=0)


def grey16_big_endian() -> bytes:
    """Returns a big-endian TIFF."""
    return file_of(Image.fromarray((RAMP * 65535).astype(np.uint16)).convert("I;16B"), "TIFF")


def integers() -> bytes:
    return file_of(Image.fromarray((RAMP * 40000).astype(np.int32)), "TIFF")


def negative_integers() -> bytes:
    return file_of(Image.fromarray((RAMP * 90000 - 20000).astype(np.int32)), "TIFF")


def floats(white: float) -> bytes:
    return file_of(Image.fromarray((RAMP * white).astype(np.float32)), "TIFF")


def palette() -> bytes:
    image = Image.fromarray((RAMP * 47).astype(np.uint8)).convert("P")
    return file_of(image, "PNG", transparency=bytes(range(0, 240, 5)))


def grey_of_4_bits() -> bytes:
    """Written by hand, because PIL cannot write a transparent value at 4 bits."""
    image = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8), (4, 1)))
    image = image.convert("L")
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([0x01, 0x23, 0x45, 0x67]) for _ in range(4))
    header = struct.pack(">IIBBBBB", 8, 4, 4, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", header),
            chunk(b"tRNS", struct.pack(">H", 3)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        ]
    )


def colour_with_alpha() -> bytes:
    rgba = np.stack([RAMP, RAMP[::-1], 1 - RAMP, RAMP], -1)
    return file_of(Image.fromarray((rgba * 255).astype(np.uint8)), "PNG")


FILES: dict[str, Callable[[], bytes]] = {
    "16 bits": grey16,
    "16 bits, transparent": grey16_transparent,
    "16 bits, big endian": grey16_big_endian,
    "integers": integers,
    "integers below 0": negative_integers,
    "floats to 1": lambda: floats(1),
    "floats to 255": lambda: floats(255),
    "palette with alpha": palette,
    "4 bits with a transparent value": grey_of_4_bits,
    "RGBA": colour_with_alpha,
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_pil_image_is_read_like_its_file(name: str) -> None:
    content = FILES[name]()
    expected = np.asarray(decode_image(content))
    assert expected.min() < expected.max()
    np.testing.assert_array_equal(read(Image.open(BytesIO(content))), expected)


@pytest.mark.parametrize(
    "name", ["16 bits", "16 bits, big endian", "integers", "integers below 0", "floats to 1", "RGBA"]
)
def test_an_array_is_read_like_its_file(name: str) -> None:
    content = FILES[name]()
    pixels = np.asarray(Image.open(BytesIO(content)))
    np.testing.assert_array_equal(read(pixels), np.asarray(decode_image(content)))


@pytest.mark.parametrize(("mode", "premultiplied"), [("RGBA", "RGBa"), ("LA", "La")])
def test_premultiplied_alpha_is_read_like_straight_alpha(mode: str, premultiplied: str) -> None:
    straight = Image.open(BytesIO(colour_with_alpha())).convert(mode)
    difference = np.abs(read(straight.convert(premultiplied)).astype(int) - read(straight))
    assert difference.max() <= 2


CHANNELS = [(), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, ">u2", np.float16, np.float32, np.float64])
def test_black_grey_and_white_depend_on_the_type(dtype: object, channels: tuple[int, ...]) -> None:
    kind = np.dtype(dtype)  # type: ignore[call-overload]
    white = np.iinfo(kind).max if kind.kind == "u" else 1
    shades = np.array([[0, 1], [1, 0]], float) if kind.kind == "b" else np.array([[0, 0.5], [0.25, 1]])
    values = np.broadcast_to(shades.reshape(2, 2, *(1 for _ in channels)), (2, 2, *channels))
    pixels = np.rint(values * white).astype(kind) if kind.kind == "u" else values.astype(kind)
    if channels and channels[0] in (2, 4):
        pixels = pixels.copy()
        pixels[..., -1] = white
    shown = read(pixels)
    assert shown.shape == (2, 2, 3)
    assert np.abs(shown[..., 1] / 255 - shades).max() < 0.005
    assert (shown[..., :1] == shown).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.5, 255.0])
def test_floats_outside_0_to_1_are_rejected_instead_of_clipped(value: float) -> None:
    pixels = np.full((4, 4, 3), 0.5, np.float32)
    pixels[1, 2, 0] = value
    with pytest.raises(InvalidRequest, match=r"expected 0\.\.1; for 0\.\.255, convert it to uint8"):
        encode_images(pixels)


def test_rejects_a_pil_image_with_pixels_that_are_not_finite() -> None:
    with pytest.raises(InvalidRequest, match="mode F has pixels that are not finite"):
        encode_images(Image.fromarray(np.full((2, 2), np.nan, np.float32)))


def test_accepts_arrays_that_are_not_contiguous_or_writable() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    np.testing.assert_array_equal(read(pixels[::2, ::-1]), pixels[::2, ::-1])
    pixels.flags.writeable = False
    np.testing.assert_array_equal(read(pixels), pixels)


@pytest.mark.parametrize("shape", [(3, 4, 4), (20, 4, 3)])
def test_a_tensor_raises_a_type_error_that_names_the_conversion(shape: tuple[int, ...]) -> None:
    with pytest.raises(TypeError, match=r"Tensor is not an image.*convert a tensor to a NumPy array of \[height"):
        encode_images(torch.zeros(shape))  # type: ignore[arg-type]
