"""What OpenAI's bodies and events are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from flux_client import ImageResult, Preview
from flux_gateway import images
from flux_gateway.refusals import Refusal


class ErrorDetails(BaseModel):
    """param: the field that it is about."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """A refusal's body."""

    error: ErrorDetails


class ImageDatum(BaseModel):
    """One image: in base64, or its URL."""

    b64_json: str | None = None
    url: str | None = None
    seed: int


class ImagesAnswer(BaseModel):
    """created: seconds since 1970. What is None is left out."""

    created: int
    data: list[ImageDatum]
    size: str
    output_format: str
    background: str = "opaque"


def size_of(image: ImageResult | Preview) -> str:
    """As OpenAI's `size`."""
    width, height = images.size_of(image.data)
    return f"{width}x{height}"


def error_details(refusal: Refusal) -> ErrorDetails:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    return ErrorDetails(message=refusal.words, type=kind, param=refusal.field, code=refusal.code)


def error_body(refusal: Refusal) -> dict[str, Any]:
    return ErrorAnswer(error=error_details(refusal)).model_dump()
