"""Removes metadata from encoded images before they are decoded, and reads the orientation.

When Pillow opens a file, it inflates text and colour profiles, concatenates comments and parses all of EXIF. None of
this changes a pixel, but it can take unlimited time and memory, or fail. Only the orientation matters, and it is read
here.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from flux_contract import limits
from flux_contract.errors import InvalidRequest

#: Maximum number of chunks, segments, blocks, strips or tiles of one file, as in 8192 x 8192 pixels with tiles of
#: 32 x 32.
MAX_PARTS = 2**16
#: Maximum size of an inflated EXIF chunk in bytes. The orientation is near the start.
_MAX_INFLATED_BYTES = 2**20

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
GIF_SIGNATURE = re.compile(rb"GIF8[79]a")

_EXIF_HEADER = b"Exif\0\0"
_XMP_HEADER = b"http://ns.adobe.com/xap/1.0/\0"
_ORIENTATION_TAG = 0x0112
#: Integer types of EXIF values: BYTE, SHORT and LONG.
_WHOLE_NUMBERS = {1: "B", 3: "H", 4: "I"}
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

# JPEG markers, ITU-T T.81, table B.1.
_START_OF_SCAN, _END_OF_IMAGE, _COMMENT = 0xDA, 0xD9, 0xFE
#: Without APP0 (JFIF) and APP14 (Adobe), which define the meaning of the channels.
_APPLICATION_DATA = {*range(0xE1, 0xF0)} - {0xEE}
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
#: Within a scan, 0xFF before 0 is data, and restart markers are part of the scan.
_NEXT_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")

_GIF_IMAGE, _GIF_EXTENSION, _GIF_GRAPHIC_CONTROL = 0x2C, 0x21, 0xF9


@dataclass(frozen=True)
class EncodedImage:
    """An encoded image without its metadata.

    content: the file that remains. exif: a TIFF structure. xmp: XML. scans: number of scans of a JPEG.
    """

    content: bytes
    exif: bytes = b""
    xmp: bytes = b""
    scans: int = 1

    @property
    def work_factor(self) -> float:
        """Upper bound of the decoding time, relative to the same number of pixels in one scan."""
        return max(1.0, self.scans / 4)

    def orientation(self) -> int:
        """Returns the orientation, 1..8 as EXIF defines it, from EXIF or else XMP. 1 means upright or unknown."""
        orientation = _exif_orientation(self.exif)
        if orientation is None and (found := _XMP_ORIENTATION.search(self.xmp)):
            orientation = int(found[1])
        return orientation if orientation is not None and 1 <= orientation <= 8 else 1


def without_metadata(content: bytes) -> EncodedImage:
    """Separate the metadata from a PNG, JPEG or GIF. Other formats, and the bytes after a damaged part, stay unchanged.

    Raises InvalidRequest: the file has more than MAX_PARTS parts, or more JPEG scans than `limits.MAX_JPEG_SCANS`.
    """
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(JPEG_SIGNATURE):
        return _jpeg(content)
    if GIF_SIGNATURE.match(content):
        return EncodedImage(_gif(content))
    return EncodedImage(content)


class Parts:
    """Counts the parts of a file."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, count: int = 1) -> None:
        """Raises InvalidRequest: there are more than MAX_PARTS."""
        self._count += count
        if self._count > MAX_PARTS:
            raise InvalidRequest("image has too many parts")


def _png(content: bytes) -> EncodedImage:
    """Keep critical chunks and transparency."""
    kept = [PNG_SIGNATURE]
    exif = profile = xmp = b""
    parts = Parts()
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(content):
        parts.add()
        length = int.from_bytes(content[at : at + 4], "big")
        name = content[at + 4 : at + 8]
        body, end = at + 8, at + 12 + length
        is_ancillary = bool(name[0] & 0x20) and name != b"tRNS"
        if end > len(content) or not name.isalnum():
            if not is_ancillary:
                kept.append(content[at:])
            break
        if not is_ancillary:
            kept.append(content[at:end])
        elif name == b"eXIf":
            exif = exif or content[body : end - 4]
        elif name in (b"tEXt", b"zTXt") and content.startswith(b"Raw profile type exif\0", body):
            profile = profile or content[body : end - 4]
        elif name == b"iTXt" and content.startswith(b"XML:com.adobe.xmp\0", body):
            xmp = xmp or _itxt_text(content[body : end - 4])
        at = end
        if name == b"IEND":
            break
    return EncodedImage(b"".join(kept), exif or _profile_exif(profile), xmp)


def _itxt_text(chunk: bytes) -> bytes:
    """Returns the text of an iTXt chunk.

    Layout: keyword, 0, two bytes for the compression, language, 0, translated keyword, 0, text.
    """
    _, _, rest = chunk.partition(b"\0")
    parts = rest[2:].split(b"\0", 2)
    if len(parts) < 3:
        return b""
    return _inflated(parts[2]) if rest[0] else parts[2]


def _profile_exif(chunk: bytes) -> bytes:
    """Returns EXIF that ImageMagick wrote as text: a line with a name, one with a length, then hexadecimal digits."""
    _, _, text = chunk.partition(b"\0")
    if text.startswith(b"\0"):  # zTXt: the compression method
        text = _inflated(text[1:])
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _inflated(compressed: bytes) -> bytes:
    """Returns at most the first _MAX_INFLATED_BYTES of the inflated data, or no bytes if it is damaged."""
    try:
        return zlib.decompressobj().decompress(compressed, _MAX_INFLATED_BYTES)
    except zlib.error:
        return b""


def _jpeg(content: bytes) -> EncodedImage:
    """Remove application data, comments, and any bytes after the image. A run of 0xFF counts as one part per byte."""
    kept: list[bytes] = []
    exif = xmp = b""
    parts = Parts()
    scans = kept_from = 0
    at = 2
    while (found := _NEXT_MARKER.search(content, at)) is not None:
        parts.add()
        marker, start, at = found[1][0], found.start(), found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in _WITHOUT_LENGTH:
            continue
        body, at = at + 2, at + max(2, int.from_bytes(content[at : at + 2], "big"))
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > limits.MAX_JPEG_SCANS:
                raise InvalidRequest(f"image has more than {limits.MAX_JPEG_SCANS} JPEG scans")
        elif (marker in _APPLICATION_DATA or marker == _COMMENT) and at <= len(content):
            kept.append(content[kept_from:start])
            kept_from = at
            if content.startswith(_EXIF_HEADER, body):
                exif += content[body + len(_EXIF_HEADER) : at]
            elif content.startswith(_XMP_HEADER, body):
                xmp = xmp or content[body + len(_XMP_HEADER) : at]
    else:
        at = len(content)
    kept.append(content[kept_from:at])
    lean = b"".join(kept)
    if b"\xff" * MAX_PARTS in lean:  # Pillow and libjpeg scan such a run repeatedly
        raise InvalidRequest("image has too many parts")
    return EncodedImage(lean, exif, xmp, scans)


def _gif(content: bytes) -> bytes:
    """Remove the extensions before the first frame, except the one with its transparency."""
    has_palette, palette_bits = content[10:11] >= b"\x80", content[10:11] or b"\0"
    at = 13 + (3 * 2 ** ((palette_bits[0] & 7) + 1) if has_palette else 0)
    kept = [content[:at]]
    parts = Parts()
    while at + 2 < len(content) and content[at] == _GIF_EXTENSION:
        start, is_kept = at, content[at + 1] == _GIF_GRAPHIC_CONTROL
        at += 2
        while True:
            parts.add()
            size = content[at] if at < len(content) else 0
            at += 1 + size
            if size == 0:
                break
        if is_kept:
            kept.append(content[start:at])
    kept.append(content[at:])
    return b"".join(kept)


def _exif_orientation(exif: bytes) -> int | None:
    """Returns the orientation in the first directory of a TIFF structure, or None if it is missing or damaged."""
    while exif.startswith(_EXIF_HEADER):
        exif = exif[len(_EXIF_HEADER) :]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return None
    orientation: int | None = None
    try:
        (directory,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, directory)
        for index in range(count):
            at = directory + 2 + 12 * index
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, at)
            if tag == _ORIENTATION_TAG and kind in _WHOLE_NUMBERS and values == 1:
                (orientation,) = struct.unpack_from(order + _WHOLE_NUMBERS[kind], exif, at + 8)
    except struct.error:
        pass
    return orientation
