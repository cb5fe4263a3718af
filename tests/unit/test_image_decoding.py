"""Decoding of valid, damaged and malicious images."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_serving.images.image_decoding import decode_image

WHITE = [255, 255, 255]
NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}


def encode(image: Image.Image | np.ndarray, name: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, name, **options)
    return file.getvalue()


def pixels(encoded: bytes) -> list[list[int]]:
    image = decode_image(encoded)
    assert image.mode == "RGB"
    return np.asarray(image).reshape(-1, 3).tolist()


def error_of(encoded: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode_image(encoded)
    return str(caught.value)


def attempt(encoded: bytes) -> None:
    """Decode to an image or reject the file. Both are correct."""
    with contextlib.suppress(InvalidRequest):
        assert decode_image(encoded).mode == "RGB"


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, bits: int, colour_type: int, row: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + content + chunk(b"IEND", b"")


def tiff(width: int, height: int, tags: list[tuple[int, int, int, int]], rest: bytes) -> bytes:
    grey = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    entries = [struct.pack("<HHII", *tag) for tag in sorted(grey + tags)]
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4) + rest


VALID = {
    **{name: encode(NOISE, name, **options) for name, options in LOSSLESS.items()},
    "JPEG": encode(NOISE, "JPEG", quality=95),
    "GIF": encode(Image.fromarray(NOISE).quantize(), "GIF"),
    "lossy WEBP": encode(NOISE, "WEBP"),
    "LZW TIFF": encode(NOISE, "TIFF", compression="tiff_lzw"),
    "16-bit PNG": encode(np.arange(240, dtype=np.uint16).reshape(12, 20) * 273),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_rgb_pixels_are_unchanged(name: str) -> None:
    np.testing.assert_array_equal(np.asarray(decode_image(VALID[name])), NOISE)


@pytest.mark.parametrize("name", ["JPEG", "GIF"])
def test_lossy_formats_are_decoded_as_by_pillow(name: str) -> None:
    as_pillow_reads = Image.open(io.BytesIO(VALID[name])).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_image(VALID[name])), np.asarray(as_pillow_reads))


PLAIN = base64.b64encode(VALID["PNG"])


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        PLAIN.rstrip(b"="),
        base64.urlsafe_b64encode(VALID["PNG"]),
        base64.encodebytes(VALID["PNG"]).replace(b"\n", b"\r\n"),
        b"data:image/png;base64," + PLAIN,
        b"\n DATA:image/PNG; charset=utf-8 ;Base64,\n" + base64.encodebytes(VALID["PNG"]),
        b"data:image/jpeg;base64," + PLAIN,
    ],
    ids=["plain", "unpadded", "url-safe", "line breaks", "data URL", "data URL with options", "data URL, other type"],
)
def test_base64_is_decoded(text: bytes) -> None:
    np.testing.assert_array_equal(np.asarray(decode_image(text)), NOISE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation_turns_the_image_upright(name: str, orientation: int) -> None:
    upright = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE, -1),
        7: NOISE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(NOISE),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(np.asarray(decode_image(encode(NOISE, name, **LOSSLESS[name], exif=exif))), upright)


def test_broken_exif_does_not_affect_the_pixels() -> None:
    encoded = encode(NOISE, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    np.testing.assert_array_equal(np.asarray(decode_image(encoded)), NOISE)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_blended_with_white(name: str) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 128]]], np.uint8)
    assert pixels(encode(rgba, name, **LOSSLESS[name])) == [[10, 20, 30], WHITE, [127, 127, 127]]


PALETTE = chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (png(2, 1, 8, 4, bytes([90, 255, 90, 0])), [[90] * 3, WHITE]),
        (png(2, 1, 16, 4, bytes([90, 0, 255, 255, 90, 0, 0, 0])), [[90] * 3, WHITE]),
        (png(2, 1, 8, 3, bytes([0, 1]), PALETTE), [[10, 20, 30], [40, 50, 60]]),
        (png(2, 1, 8, 3, bytes([0, 1]), PALETTE, chunk(b"tRNS", bytes([0, 255]))), [WHITE, [40, 50, 60]]),
        (png(2, 1, 8, 3, bytes([0, 1]), PALETTE, chunk(b"tRNS", bytes([0, 128]))), [WHITE, [147, 152, 157]]),
        (png(2, 1, 8, 2, bytes([1, 2, 3, 4, 5, 6]), chunk(b"tRNS", bytes([0, 1, 0, 2, 0, 3]))), [WHITE, [4, 5, 6]]),
        (png(2, 1, 16, 2, bytes([9, 0] * 3 + [8, 1] * 3), chunk(b"tRNS", bytes([9, 0] * 3))), [WHITE, [8] * 3]),
        (png(2, 1, 8, 0, bytes([5, 7]), chunk(b"tRNS", bytes([0, 5]))), [WHITE, [7] * 3]),
        (png(2, 1, 4, 0, bytes([0x5A]), chunk(b"tRNS", bytes([0, 5]))), [WHITE, [170] * 3]),
        (png(4, 1, 2, 0, bytes([0b00011011]), chunk(b"tRNS", bytes([0, 0]))), [WHITE, [85] * 3, [170] * 3, WHITE]),
        (png(2, 1, 1, 0, bytes([0b01000000]), chunk(b"tRNS", bytes([0, 0]))), [WHITE, WHITE]),
        (png(2, 1, 16, 0, bytes([9, 9, 8, 8]), chunk(b"tRNS", bytes([9, 9]))), [WHITE, [8] * 3]),
    ],
    ids=["LA", "LA 16", "P", "P clear", "P half", "RGB", "RGB 16", "L", "L 4", "L 2", "1", "L 16"],
)
def test_every_kind_of_png_transparency_is_blended_with_white(encoded: bytes, expected: list[list[int]]) -> None:
    assert pixels(encoded) == expected


def test_one_bit_pixels_are_black_and_white() -> None:
    assert pixels(png(2, 1, 1, 0, bytes([0b01000000]))) == [[0, 0, 0], WHITE]


def test_sixteen_bits_per_channel_keep_the_upper_eight() -> None:
    assert pixels(png(1, 1, 16, 2, bytes([255, 255, 128, 0, 1, 2]))) == [[255, 128, 1]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32896, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[0, 32896, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[0, 32896, 65535]], np.float32), [0, 128, 255]),
        (np.array([[0, np.nan, 1]], np.float32), [0, 0, 255]),
        (np.array([[7e4, 7e4]], np.float32), [0, 0]),
        (np.array([[-3e38, 3e38]], np.float32), [0, 255]),
    ],
)
def test_deep_greyscale_is_scaled_and_not_clipped(values: np.ndarray, expected: list[int]) -> None:
    assert pixels(encode(values, "TIFF")) == [[grey] * 3 for grey in expected]


def test_sixteen_bit_png_is_scaled() -> None:
    assert pixels(encode(np.array([[0, 32896, 65535]], np.uint16))) == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("name", ["JPEG", "TIFF"])
def test_cmyk_is_converted_to_rgb(name: str) -> None:
    [red] = pixels(encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), name))
    np.testing.assert_allclose(red, [255, 0, 0], atol=3)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_is_decoded_to_its_first_frame(name: str) -> None:
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    lossless = LOSSLESS.get(name, {})
    assert pixels(encode(first, name, save_all=True, append_images=[second], **lossless)) == [[255, 0, 0]] * 16


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (b"", "empty image"),
        (b" \n", "empty image"),
        (b"data:image/png;base64,", "empty image"),
        (b"hello", "not an image: starts with 'hello'; expected PNG, JPEG, WebP, GIF, BMP or TIFF"),
        (b"\x00\xff", r"not an image: starts with '\x00\xff'; expected PNG, JPEG, WebP, GIF, BMP or TIFF"),
        (
            base64.b64encode(b"hello"),
            "not an image: starts with 'aGVsbG8='; expected PNG, JPEG, WebP, GIF, BMP or TIFF",
        ),
        (b"data:text/html;base64," + PLAIN, "not an image: the data URL has type 'text/html'"),
        (b"data:image/svg+xml,%3Csvg/%3E", "not an image: the data URL has no ;base64"),
        (b"<svg/>", "not an image: starts with '<svg/>'; expected PNG, JPEG, WebP, GIF, BMP or TIFF"),
        (
            b"%!PS-Adobe-3.0 EPSF",
            "not an image: starts with '%!PS-Adobe-3.0 EPSF'; expected PNG, JPEG, WebP, GIF, BMP or TIFF",
        ),
        (
            b"\0\0\0\x20ftypavif",
            r"not an image: starts with '\x00\x00\x00 ftypavif'; expected PNG, JPEG, WebP, GIF, BMP or TIFF",
        ),
        (png(30000, 30000, 8, 2, b""), "image has 30000x30000 pixels, expected at most 67108864"),
        (png(0, 1, 8, 2, b""), "image has no pixels or an unknown pixel type"),
        (VALID["GIF"][:9], "image is truncated"),
        (VALID["BMP"][:18] + bytes(4) + VALID["BMP"][22:], "image has no pixels or an unknown pixel type"),
    ],
)
def test_error_says_what_is_wrong(encoded: bytes, message: str) -> None:
    assert error_of(encoded) == message


@pytest.mark.parametrize("name", ["PNG", "JPEG", "GIF", "BMP", "TIFF"])
def test_half_a_file_is_reported_as_truncated(name: str) -> None:
    assert error_of(VALID[name][: len(VALID[name]) // 2]).startswith("image is truncated")


@pytest.mark.parametrize("name", VALID)
def test_truncated_file_raises_only_invalid_request(name: str) -> None:
    for length in range(1, len(VALID[name]), 7):
        attempt(VALID[name][:length])


def test_wrong_checksum_of_pixels_is_detected() -> None:
    encoded = bytearray(VALID["PNG"])
    encoded[-13] ^= 1  # the checksum of IDAT, followed by IEND's 12 bytes
    assert "bad header checksum in b'IDAT'" in error_of(bytes(encoded))


def test_size_of_bytes_and_base64_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(VALID["PNG"])
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", count)
    assert decode_image(VALID["PNG"]).size == decode_image(PLAIN).size == (20, 12)
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", count - 1)
    assert error_of(VALID["PNG"]) == f"image has {count} bytes, expected at most {count - 1}"
    assert error_of(PLAIN) == f"image has {count} bytes, expected at most {count - 1}"
    assert error_of(b"A" * 3 * count) == f"image has {3 * count} bytes, expected at most {2 * (count - 1)}"


def test_number_of_pixels_is_limited() -> None:
    for encoded in VALID.values():
        with pytest.raises(InvalidRequest, match="image has 20x12 pixels, expected at most 239"):
            decode_image(encoded, max_pixels=239)


OFFSETS_AT = 8 + 2 + 8 * 12 + 4


@pytest.mark.parametrize(
    "encoded",
    [
        png(1, 1, 8, 0, b"\0", *[chunk(b"abCd", b"")] * 100_000),
        b"\xff\xd8" + b"\xff\xfe\0\2" * 300_000,
        b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe\0" * 300_000,
        tiff(1, 70_000, [(278, 4, 1, 1), (273, 4, 70_000, OFFSETS_AT)], bytes(4 * 70_000)),
    ],
    ids=["PNG chunks", "JPEG segments", "GIF comments", "TIFF strips"],
)
def test_rejects_image_with_too_many_parts(encoded: bytes) -> None:
    assert error_of(encoded) == "image has too many parts"


@pytest.mark.parametrize(
    "encoded",
    [
        tiff(2, 2, [(20_000 + i, 1, 100_000, 8) for i in range(300)], bytes(100_000)),
        b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\1\0\0;",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\x3f\0" * 2,
    ],
    ids=["TIFF tags", "GIF frame", "WebP canvas"],
)
def test_rejects_decompression_bomb(encoded: bytes) -> None:
    assert error_of(encoded)


@pytest.mark.parametrize("name", VALID)
def test_corrupted_image_is_decoded_or_rejected(name: str) -> None:
    chance = random.Random(name)
    for _ in range(300):
        encoded = bytearray(VALID[name])
        for _ in range(chance.choice((1, 3, 20))):
            place = chance.randrange(chance.choice((len(encoded), 64)))
            width = chance.choice((1, 1, 1, 4))
            damage = chance.choice((chance.randbytes(width), b"\xff" * width, bytes(width), b""))
            encoded[place : place + width] = damage
        attempt(bytes(encoded))


def test_random_bytes_are_decoded_or_rejected() -> None:
    chance = random.Random(0)
    starts = [encoded[:12] for encoded in VALID.values()] + [b"", b"data:image/png;base64,", b"data:"]
    for _ in range(1000):
        attempt(chance.choice(starts) + chance.randbytes(chance.randrange(200)))


def test_warning_filters_of_the_caller_do_not_change() -> None:
    before = list(warnings.filters)
    decode_image(VALID["PNG"])
    assert warnings.filters == before
