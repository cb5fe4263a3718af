"""Metadata of any size neither makes a valid image fail nor costs much time or memory."""

from __future__ import annotations

import contextlib
import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from flux_contract import limits
from flux_contract.errors import InvalidRequest
from flux_serving.images.image_decoding import decode_image
from flux_serving.images.image_files import without_metadata

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3)).astype(np.uint8)
#: 64 MiB of zeros.
BOMB = zlib.compress(bytes(2**26))
BIG = bytes(range(256)) * 2**14  # 4 MiB


def encode(name: str, image: np.ndarray = NOISE, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, name, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(*chunks: bytes) -> bytes:
    """Returns NOISE as a PNG with these chunks after the header."""
    plain = encode("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments: bytes) -> bytes:
    """Returns NOISE as a JPEG with these segments after the first marker."""
    plain = encode("JPEG")
    return plain[:2] + b"".join(segments) + plain[2:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Returns NOISE as a WebP with these chunks after the image."""
    image = encode("WEBP", lossless=True)[12:]
    size = b"\x2c\0\0\0" + (19).to_bytes(3, "little") + (11).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(size)) + size + image
    for name, content in chunks:
        body += name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif(*extensions: bytes) -> bytes:
    plain = encode("GIF")
    palette_end = 13 + 3 * 2 ** ((plain[10] & 7) + 1)
    return plain[:palette_end] + b"".join(extensions) + plain[palette_end:]


def exif_of_orientation(orientation: int) -> bytes:
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)


def exif_bomb() -> bytes:
    """Returns EXIF with 5,000 tags that all have the same 4 MiB as their value."""
    tags = b"".join(struct.pack("<HHII", 1000 + index, 1, len(BIG), 8) for index in range(5000))
    return b"II*\0" + struct.pack("<IH", 8, 5000) + tags + bytes(4) + BIG


def xmp_of_orientation(orientation: int) -> bytes:
    return b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>' % orientation


COMMENT = b"!\xfe" + (b"\xff" + b"x" * 255) * 8000 + b"\0"
LARGE = {
    "PNG zTXt bomb": png(chunk(b"zTXt", b"k\0\0" + BOMB)),
    "PNG iTXt bomb": png(chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)),
    "PNG XMP bomb": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB)),
    "PNG EXIF profile bomb": png(chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB)),
    "PNG ICC profile bomb": png(chunk(b"iCCP", b"k\0\0" + BOMB)),
    "PNG ICC profile": png(chunk(b"iCCP", b"k\0\0" + zlib.compress(BIG))),
    "PNG many zTXt": png(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**20)))] * 80),
    "PNG tEXt": png(chunk(b"tEXt", b"k\0" + b"x" * 2**24)),
    "PNG EXIF bomb": png(chunk(b"eXIf", exif_bomb())),
    "PNG damaged text": png(chunk(b"zTXt", b"k\0\0damaged")),
    "PNG text with wrong checksum": png(chunk(b"tEXt", b"k\0text")[:-1] + b"!"),
    "JPEG comments": jpeg(*[segment(0xFE, b"x" * 65000)] * 300),
    "JPEG ICC profile": jpeg(*[segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xda" * 32000)] * 100),
    "JPEG EXIF bomb": jpeg(
        *(segment(0xE1, b"Exif\0\0" + exif_bomb()[start : start + 65000]) for start in range(0, 2**22, 65000))
    ),
    "JPEG XMP": jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"x" * 65000)),
    "WEBP ICC profile": riff((b"ICCP", BIG)),
    "WEBP EXIF bomb": riff((b"EXIF", exif_bomb())),
    "WEBP XMP": riff((b"XMP ", BIG)),
    "GIF comment": gif(COMMENT),
    "GIF many comments": gif(*[b"!\xfe\1x\0"] * 20_000),
    "TIFF ICC profile": encode("TIFF", icc_profile=BIG),
    "TIFF text": encode("TIFF", tiffinfo={270: "x" * 2**22}),
}


@pytest.mark.parametrize("name", LARGE)
def test_metadata_of_any_size_does_not_change_the_image(name: str) -> None:
    started = time.process_time()
    found = np.asarray(decode_image(LARGE[name]))
    assert time.process_time() - started < 5
    plain = encode(name.split()[0], **({"lossless": True} if name.startswith("WEBP") else {}))
    np.testing.assert_array_equal(found, np.asarray(decode_image(plain)))


def as_text_profile(exif: bytes) -> bytes:
    return b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_as_by_pillow_wherever_it_is_stored(orientation: int) -> None:
    exif, xmp = exif_of_orientation(orientation), xmp_of_orientation(orientation)
    big_endian = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    profile = as_text_profile(exif)
    key, text = profile.split(b"\0", 1)
    for encoded in (
        png(chunk(b"eXIf", exif)),
        png(chunk(b"eXIf", big_endian)),
        png(chunk(b"tEXt", profile)),
        png(chunk(b"zTXt", key + b"\0\0" + zlib.compress(text))),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)),
        png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))),
        jpeg(segment(0xE1, b"Exif\0\0" + exif)),
        jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)),
        riff((b"EXIF", exif)),
        riff((b"EXIF", b"Exif\0\0" + big_endian)),
        riff((b"XMP ", xmp)),
        encode("TIFF", tiffinfo={0x0112: orientation}),
    ):
        expected = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB")
        np.testing.assert_array_equal(np.asarray(decode_image(encoded)), np.asarray(expected))


def test_exif_takes_precedence_over_xmp() -> None:
    both = png(
        chunk(b"eXIf", exif_of_orientation(1)), chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of_orientation(3))
    )
    np.testing.assert_array_equal(np.asarray(decode_image(both)), NOISE)


def progressive(scans: int) -> bytes:
    """Returns a valid progressive JPEG of 10 scans, with further scans that change nothing."""
    file = encode("JPEG", progressive=True)
    return file[:-2] + b"\xff\xda\0\x08\1\1\0\1\x3f\0\0\0" * (scans - 10) + file[-2:]


def test_jpeg_with_too_many_scans_is_rejected_before_decoding() -> None:
    assert without_metadata(progressive(10)).scans == 10
    assert decode_image(progressive(limits.MAX_JPEG_SCANS)).size == (20, 12)
    with pytest.raises(InvalidRequest, match="image has more than 100 JPEG scans"):
        decode_image(progressive(limits.MAX_JPEG_SCANS + 1))


def test_scans_are_counted_whatever_is_between_them() -> None:
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0\0\0"
    for between in (b"", b"garbage", b"\xff\xff\xff", b"\xff\xd0", segment(0xFE, b"comment"), b"\xff\0"):
        file = encode("JPEG", progressive=True)[:-2] + (between + scan) * 7
        assert without_metadata(file).scans == 17


def test_scans_of_thumbnails_are_not_counted() -> None:
    file = jpeg(*[segment(0xE1, b"Exif\0\0" + exif_of_orientation(1) + encode("JPEG") * 20)] * 10)
    assert without_metadata(file).scans == 1


def tiff(tags: dict[int, list[int]], content: bytes) -> bytes:
    """Returns a grey TIFF with deflated strips or tiles. tags: additional LONGs. content: begins at byte 8."""
    usual = {258: [8], 259: [8], 262: [1], 277: [1]}
    entries, values = b"", content
    for tag, numbers in sorted((usual | tags).items()):
        entries += struct.pack("<HHI", tag, 4, len(numbers))
        if len(numbers) == 1:
            entries += struct.pack("<I", numbers[0])
        else:
            entries += struct.pack("<I", 8 + len(values))
            values += struct.pack(f"<{len(numbers)}I", *numbers)
    count = len(usual | tags)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + struct.pack("<H", count) + entries + bytes(4)


def test_rejects_tiff_strips_that_share_bytes() -> None:
    """libtiff would inflate 30 MB of empty blocks for each of 60,000 strips, which would take hours."""
    empty = b"\x78\x01" + b"\0\0\0\xff\xff" * 6000
    strips = {256: [8], 257: [60_000], 278: [1], 273: [8] * 60_000, 279: [len(empty)] * 60_000}
    with pytest.raises(InvalidRequest, match="image has overlapping parts"):
        decode_image(tiff(strips, empty))


def test_rejects_tiff_tiles_that_extend_far_beyond_the_image() -> None:
    tile = {256: [16], 257: [16], 322: [65536], 323: [65536], 324: [8], 325: [100]}
    with pytest.raises(InvalidRequest, match="image has 4294967296 pixels in its tiles"):
        decode_image(tiff(tile, bytes(100)))


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\xd0", b"\xff\0", b"\xff\xfe\0\2", b"\xff\xd8"], ids=repr)
def test_jpeg_with_megabytes_of_markers_is_decoded_in_linear_time(filling: bytes) -> None:
    started = time.process_time()
    with contextlib.suppress(InvalidRequest):
        decode_image(encode("JPEG")[:-2] + filling * (2**24 // len(filling)))
    assert time.process_time() - started < 2
