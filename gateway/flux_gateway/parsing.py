"""Bodies to fields: JSON, multipart and URL-encoded forms, with bounds on what a parser builds of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from flux_gateway.refusals import Refusal

#: Values, keys and brackets of a JSON body. Commas and brackets in its texts count, too: a prompt has at most 4096
#: characters.
MAX_JSON_ELEMENTS = 20_000
MAX_JSON_DEPTH = 64
#: Fields and files of one form.
MAX_PARTS = 100
#: Escapes such as %2B of a URL-encoded form, and bytes of memory that each takes while it is decoded. An image has one
#: for every 32 characters of its base64.
MAX_ESCAPES, ESCAPE_BYTES = 500_000, 256
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
#: Bytes of memory that parsing takes for each byte of a body, beyond those that are reserved: text that has one
#: character outside the Basic Multilingual Plane takes four for each character, twice.
PARSING_COPIES = 8


def json_value(text: str | bytes | bytearray) -> Any:
    """The value of a JSON text. Raises ValueError: it is no JSON, or has too many elements or levels."""
    _check_complexity(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check_complexity(text: bytes | bytearray) -> None:
    """Before anything is built. Marks within its strings count, too."""
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
    """Raises Refusal: 400, it is no JSON, or too complex; 422, it is no object."""
    try:
        fields = json_value(body)
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {error}"[:300]) from None
    if not isinstance(fields, dict):
        raise Refusal(422, "the body is no JSON object")
    return fields


def urlencoded_items(body: bytes | bytearray) -> list[tuple[str, str]]:
    """Raises Refusal: 400, it is no form, or has too many fields or escapes."""
    if body.count(b"%") > MAX_ESCAPES:
        raise Refusal(400, f"expected at most {MAX_ESCAPES} escapes in a form; send images as multipart/form-data")
    try:
        return parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_PARTS)
    except ValueError as error:
        raise Refusal(400, f"the body is no URL-encoded form: {error}"[:300]) from None


async def multipart_items(
    content_type: str, stream: AsyncGenerator[bytes, None], max_field_bytes: int
) -> list[tuple[str, str | bytes]]:
    """Fields as text, files as bytes, in memory alone.

    Raises Refusal: 400, it is no multipart form, or incomplete, or a field is not UTF-8; 422, a file is empty.
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
            # For a file field without a selection, a browser sends an empty file without a name.
            if value.filename and not content:
                raise Refusal(422, f"{name[:80]}: the file is empty", name[:80])
            items.append((name, content))
        else:
            items.append((name, value))
    return items


class _InMemoryParser(MultiPartParser):
    """Starlette's, without temporary files: a body is bounded, and its images are needed in memory anyway.

    Fields must be UTF-8: Starlette reads others as Latin-1.
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
    """Fields are UTF-8: the charset is any of Python's codecs, of which some take quadratic time."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"").decode("latin-1")
    if '"' in boundary or "\\" in boundary:
        raise Refusal(400, "invalid boundary in multipart")
    parameter = f'; boundary="{boundary}"' if boundary else ""
    return Headers({"content-type": f"multipart/form-data{parameter}"})
