"""Decodes image fields: base64, data URLs and files. The gateway never reads a path or fetches a URL."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from flux_contract import limits

_EXPECTED = "expected an image in base64, as a data: URL or {'image_url': 'data:...'}, or a file"
#: Maximum characters of the head of a data URL.
_HEAD_CHARACTERS = 1024
_DATA_URL = re.compile(r"\s*data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
_ANY_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\v\f"
_URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
#: Percent-encoded characters of base64 in a URL.
_PERCENT_ENCODED = {b"%2B": b"+", b"%2b": b"+", b"%2F": b"/", b"%2f": b"/", b"%3D": b"=", b"%3d": b"="}
#: First bytes of each of `limits.INPUT_FORMATS`.
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8", b"BM", b"II", b"MM")


def decode_image(value: object) -> bytes:
    """Return the encoded image of one field, which may be empty.

    value: a file's bytes, text (base64 or a data URL), or OpenAI's object with `image_url`.
    Raises ValueError: unsupported value, or an image of more than `limits.MAX_IMAGE_BYTES` bytes.
    """
    if isinstance(value, Mapping):
        value = _image_url(value)
    data = _decode_text(value) if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise ValueError(_EXPECTED)
    _check_size(len(data))
    return data


def _image_url(value: Mapping[str, object]) -> object:
    """Return the URL of OpenAI's JSON object for an image."""
    if value.get("file_id") is not None:
        raise ValueError("file_id is not supported; send image_url with a data: URL")
    return value.get("image_url")


def _decode_text(text: str) -> bytes:
    head = text[:_HEAD_CHARACTERS]
    url = _DATA_URL.match(head)
    if url is not None:
        media_type, parameters = url[1].strip().lower(), url[2].strip().lower()
        if not media_type.startswith("image/"):
            raise ValueError(f"a data: URL of type {media_type[:80]!r}, expected image/...")
        if not parameters.endswith(";base64"):
            raise ValueError("a data: URL without ;base64, expected data:image/...;base64,...")
        return _decode_base64(text[url.end() :], is_url=True)
    if _ANY_URL.match(head) is not None:
        raise ValueError(f"the server does not fetch URLs; {_EXPECTED}")
    return _decode_base64(text, is_url=False)


def _decode_base64(text: str, is_url: bool) -> bytes:
    """Decode standard or url-safe base64, with or without line breaks and padding.

    Uses about three times the memory of the text. Every step is one pass in C.
    """
    try:
        digits = text.encode("ascii").translate(_URL_SAFE_TO_STANDARD, delete=_WHITESPACE)
        if is_url and b"%" in digits:
            for encoded, character in _PERCENT_ENCODED.items():
                digits = digits.replace(encoded, character)
        is_padded = digits.endswith(b"=")
        digits = digits.rstrip(b"=")
        _check_size(len(digits) * 3 // 4)
        padding = b"=" * (-len(digits) % 4)
        data = base64.b64decode(digits + padding, validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError(_EXPECTED) from None
    # Words and paths are also valid base64 without padding.
    if padding and not is_padded and not data.startswith(_SIGNATURES):
        raise ValueError(_EXPECTED)
    return data


def _check_size(count: int) -> None:
    if count > limits.MAX_IMAGE_BYTES:
        raise ValueError(f"an image of {count} bytes, expected at most {limits.MAX_IMAGE_BYTES}")


def _decode_only_image(value: object) -> bytes:
    """Decode a field that accepts one image. A form may send it as a list of one."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"{len(value)} images, expected one; POST /v1/images/variations accepts several")
        (value,) = value
    return decode_image(value)


def _decode_listed_image(value: object) -> bytes:
    data = decode_image(value)
    if not data:
        raise ValueError("the image is empty")
    return data


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


_TEXT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "description": "base64, with or without `data:image/...;base64,`; or a file",
}
_URL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"image_url": {"type": "string", "description": "a data: URL"}},
    "required": ["image_url"],
}

#: One encoded image; empty text is an empty image.
ImageBytes = Annotated[bytes, BeforeValidator(_decode_only_image), WithJsonSchema(_TEXT_SCHEMA)]

#: Encoded images, one for each input image; an empty one leaves it out.
OptionalImages = Annotated[
    list[ImageBytes],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA}]}),
]

_LIST_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"anyOf": [_TEXT_SCHEMA, _URL_SCHEMA]},
    "maxItems": limits.MAX_INPUT_IMAGES,
}
#: One or several encoded images, none of them empty. The number of images is not checked.
ImageList = Annotated[
    list[Annotated[bytes, BeforeValidator(_decode_listed_image)]],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_TEXT_SCHEMA, _LIST_SCHEMA]}),
]
