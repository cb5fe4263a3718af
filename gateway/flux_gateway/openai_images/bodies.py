"""Common parts of OpenAI's responses and events."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from flux_client import ImageResult, Preview
from flux_gateway import images
from flux_gateway.refusals import Refusal


class ErrorDetails(BaseModel):
    """Details of an error. param: the field that caused it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Body of an error response."""

    error: ErrorDetails


class ImageDatum(BaseModel):
    """One image, as base64 or as a URL."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesAnswer(BaseModel):
    """Images of a response. created: Unix time in seconds. Fields that are None are omitted."""

    created: int
    data: list[ImageDatum]
    size: str
    output_format: str
    background: str = "opaque"


def size_of(image: ImageResult | Preview) -> str:
    """Return the size in OpenAI's format, such as `1024x1024`."""
    width, height = images.size_of(image.data)
    return f"{width}x{height}"


def error_details(refusal: Refusal) -> ErrorDetails:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return ErrorDetails(message=refusal.words, type=kind, param=refusal.field, code=refusal.code)


def error_body(refusal: Refusal) -> dict[str, Any]:
    return ErrorAnswer(error=error_details(refusal)).model_dump()
