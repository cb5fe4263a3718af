"""Parses bodies: JSON, multipart and URL-encoded forms, with limits on their complexity."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from flux_gateway.refusals import Refusal

#: Maximum values, keys and brackets of a JSON body. Commas and brackets in strings count, too; a prompt has at most
#: 4096 characters.
MAX_JSON_ELEMENTS = 20_000
MAX_JSON_DEPTH = 64
#: Maximum fields and files of one form.
MAX_PARTS = 100
#: Maximum escapes such as %2B in a URL-encoded form, and bytes of memory for each while it is decoded. An image has one
#: for every 32 characters of its base64.
MAX_ESCAPES, ESCAPE_BYTES = 500_000, 256
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
#: Bytes of memory for each byte of a body while it is parsed, in addition to those reserved: text with a character
#: outside the Basic Multilingual Plane needs four bytes per character, twice.
PARSING_COPIES = 8


def json_value(text: str | bytes | bytearray) -> Any:
    """Parse JSON. Raises ValueError: invalid JSON, or too many elements or levels."""
    _check_complexity(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_complexity(text: bytes | bytearray) -> None:
    """Check the number of elements and levels before parsing. Brackets and commas in strings count, too."""
    opened, closed = (sum(text.count(mark) for mark in marks) for marks in ((b"[", b"{"), (b"]", b"}")))
    if max(opened + text.count(b","), closed) > MAX_JSON_ELEMENTS:
        raise ValueError(f"expected at most {MAX_JSON_ELEMENTS} elements")
    if opened <= MAX_JSON_DEPTH:
        return
    depth = 0
    for mark in text.translate(None, _NO_BRACKETS):
        depth += 1 if mark in b"[{" else -1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested too deeply, expected at most {MAX_JSON_DEPTH} levels")


def json_fields(body: bytes | bytearray) -> dict[str, Any]:
    """Parse a JSON body. Raises Refusal: 400, invalid or too complex JSON; 422, not an object."""
    try:
        fields = json_value(body)
    except ValueError as error:
        raise Refusal(400, f"the body is not valid JSON: {error}"[:300]) from None
    if not isinstance(fields, dict):
        raise Refusal(422, "the body is not a JSON object")
    return fields


def urlencoded_items(body: bytes | bytearray) -> list[tuple[str, str]]:
    """Parse a URL-encoded form. Raises Refusal: 400, an invalid form, or too many fields or escapes."""
    if body.count(b"%") > MAX_ESCAPES:
        raise Refusal(400, f"expected at most {MAX_ESCAPES} escapes in a form; send images as multipart/form-data")
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS)
    except ValueError as error:
        raise Refusal(400, f"the body is not a valid URL-encoded form: {error}"[:300]) from None


async def multipart_items(
    content_type: str, stream: AsyncGenerator[bytes, None], max_field_bytes: int
) -> list[tuple[str, str | bytes]]:
    """Parse a multipart form in memory. Returns fields as text and files as bytes.

    Raises Refusal: 400, an invalid or incomplete form, or a field that is not UTF-8; 422, an empty file.
    """
    parser = _InMemoryParser(
        _without_charset(content_type), stream, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=max_field_bytes
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(400, error.message) from None
    if not parser.is_complete:
        raise Refusal(400, "the multipart body is incomplete: it does not end with its boundary and --")
    items: list[tuple[str, str | bytes]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            content = await value.read()
            await value.close()
            # A browser sends an empty file without a name if no file is selected.
            if value.filename and not content:
                raise Refusal(422, f"{name[:80]}: the file is empty", name[:80])
            items.append((name, content))
        else:
            items.append((name, value))
    return items


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without temporary files, because bodies are limited and images are needed in memory anyway.

    Rejects fields that are not UTF-8, which Starlette would read as Latin-1.
    """

    spool_max_size = 2**62
    #: Whether the last boundary was read.
    is_complete = False

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is not None:
            super().on_part_end()
            return
        try:
            self.items.append((part.field_name, part.data.decode()))
        except UnicodeDecodeError as error:
            raise MultiPartException(f"{part.field_name[:80]!r} is not UTF-8: {error.reason}") from None

    def on_end(self) -> None:
        self.is_complete = True


def _without_charset(content_type: str) -> Headers:
    """Remove the charset: a caller could choose any of Python's codecs, some of which need quadratic time."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"").decode("latin-1")
    if '"' in boundary or "\\" in boundary:
        raise Refusal(400, "invalid boundary in multipart")
    parameter = f'; boundary="{boundary}"' if boundary else ""
    return Headers({"content-type": f"multipart/form-data{parameter}"})
