"""Schemas of OpenAI's images API and their conversion to requests to Triton.

Besides OpenAI's fields, they have fields of this server, which the `openai` package sends in `extra_body`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from flux_contract import limits
from flux_contract.modes import IMG2IMG, INPAINT, REDUX, TEXT2IMG, Mode
from flux_contract.parameter import Parameter
from flux_contract.parameters import (
    HEIGHT,
    IMAGE_STRENGTH,
    MASK_CHANNEL,
    MASK_IMAGE,
    PROMPT,
    SOURCE_IMAGE,
    STRENGTH,
    WIDTH,
)
from flux_gateway.generation import GenerationRequest
from flux_gateway.image_fields import ImageBytes, ImageList
from flux_gateway.parameter_fields import ParameterBody, ParameterField, parameters_of, requires, with_fields
from flux_gateway.refusals import Refusal

#: Maximum partial images in a stream, as in OpenAI's API.
MOST_PARTIAL = 3
_SIZE_FIELD = "size"
_Request = TypeVar("_Request", bound="ImagesRequest")


def _size(value: object) -> object:
    """Parse `WxH` to (width, height)."""
    if value == "auto":
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected WIDTHxHEIGHT, such as 1024x1024, or auto")
    sides = int(found[1]), int(found[2])
    if not all(limits.MIN_SIDE <= side <= limits.MAX_SIDE for side in sides):
        raise ValueError(f"{value}, expected sides of {limits.MIN_SIDE}..{limits.MAX_SIDE} pixels")
    return sides


_SIZE_SCHEMA: dict[str, Any] = {"type": "string", "examples": ["1024x1024", "auto"]}


def for_mode(mode: Mode, required: tuple[Parameter, ...] = ()) -> Callable[[type[_Request]], type[_Request]]:
    """Decorator: sets the mode, and adds a field for each of its exposed parameters.

    required: parameters that the API requires although the mode does not.
    """
    names = {parameter.name for parameter in required}
    fields = [
        ParameterField(parameter, parameter.openai, parameter.name in names or requires(mode, parameter))
        for parameter in parameters_of(mode)
        if parameter.openai is not None
    ]

    def derive(request: type[_Request]) -> type[_Request]:
        derived = with_fields(request, fields)
        derived.mode = mode
        return derived

    return derive


class ImagesRequest(ParameterBody):
    """Common fields. Unknown fields and fields of OpenAI's models, such as `quality`, are ignored."""

    #: Mode of the endpoint; `for_mode` sets it.
    mode: ClassVar[Mode]

    model: str | None = None
    size: Annotated[tuple[int, int] | None, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)] = None
    stream: bool = False
    response_format: Literal["b64_json", "url"] = "b64_json"
    partial_images: int = Field(0, ge=0, le=MOST_PARTIAL)
    user: str | None = None

    @field_validator("response_format")
    @classmethod
    def _check_response_format(cls, value: str, info: ValidationInfo) -> str:
        if value == "url" and info.data.get("stream"):
            raise ValueError("url is not supported with stream, expected b64_json")
        return value

    def wanted(self) -> GenerationRequest:
        """Convert to a request to Triton. Raises Refusal: 400, unsupported field; 422, invalid or missing value."""
        keywords = self.keywords(self.mode)
        if self.size is not None:
            keywords[WIDTH.python_name], keywords[HEIGHT.python_name] = self.size
        return GenerationRequest(self.mode, self.all_images(), keywords, _SIZE_FIELD)

    def all_images(self) -> list[bytes]:
        """Return the images of the request."""
        return []


@for_mode(TEXT2IMG)
class GenerationsRequest(ImagesRequest):
    """`POST /v1/images/generations`."""


class ImagesOfImagesRequest(ImagesRequest):
    """Fields of variations and edits: images in `image` or, as in OpenAI's JSON, in `images`."""

    image: ImageList = Field([])
    images: ImageList = Field([])

    def all_images(self) -> list[bytes]:
        """Return the images of the request. Raises Refusal: 422, no image or too many."""
        found = [*self.image, *self.images]
        if not 1 <= len(found) <= limits.MAX_INPUT_IMAGES:
            raise Refusal(422, f"image: {len(found)} images, expected 1..{limits.MAX_INPUT_IMAGES}", "image")
        return found


@for_mode(REDUX)
class VariationsRequest(ImagesOfImagesRequest):
    """`POST /v1/images/variations`: Redux variations of images."""


@for_mode(IMG2IMG, required=(PROMPT,))
class EditsRequest(ImagesOfImagesRequest):
    """`POST /v1/images/edits`: change the first image; the others are Redux images.

    With a mask, only the transparent parts of the mask are changed.
    """

    mask: ImageBytes | None = None
    markup: object = None
    input_fidelity: Literal["high", "low"] = Field(
        "low", description="`high`: the first image is also a Redux image; `low`: only the other images are"
    )

    def wanted(self) -> GenerationRequest:
        """Convert to a request to Triton. Raises Refusal: 400, markup; 422, no image."""
        if self.markup not in (None, ""):
            raise Refusal(400, "markup: changing marked parts is not supported, only parts of a mask", "markup")
        wanted = super().wanted()
        if self.mask:
            return self._inpainting(wanted, self.mask)
        if IMAGE_STRENGTH.python_name in wanted.keywords:
            return wanted
        first = 1.0 if self.input_fidelity == "high" else 0.0
        weights = [first, *(1.0 for _ in wanted.images[1:])]
        return wanted.with_keyword(IMAGE_STRENGTH.python_name, weights)

    def _inpainting(self, wanted: GenerationRequest, mask: bytes) -> GenerationRequest:
        """The first image is not a Redux image here, whatever `input_fidelity` says."""
        source, *references = wanted.images
        keywords = {
            STRENGTH.python_name: limits.DEFAULT_INPAINT_STRENGTH,
            **wanted.keywords,
            SOURCE_IMAGE.python_name: source,
            MASK_IMAGE.python_name: mask,
            MASK_CHANNEL.python_name: "alpha",
        }
        return replace(wanted, mode=INPAINT, images=references, keywords=keywords)


#: Requests of the endpoints.
REQUESTS: tuple[type[ImagesRequest], ...] = (GenerationsRequest, EditsRequest, VariationsRequest)
