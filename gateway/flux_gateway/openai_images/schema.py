"""OpenAI's requests for images, by their own names, to what is wanted of Triton.

Beside OpenAI's fields these take some of ours, which the `openai` package sends by `extra_body`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from flux_contract import limits
from flux_gateway.generation import GenerationRequest
from flux_gateway.image_fields import ImageList
from flux_gateway.negative_prompts import negative_knobs
from flux_gateway.refusals import Refusal
from flux_gateway.request_body import RequestBody

#: Partial images that a stream may have, as OpenAI's.
MOST_PARTIAL = 3
#: How much an edit with a prompt changes, where it is not said.
_EDIT_STRENGTH = 0.8
_SIZE_FIELD = "size"


def _size(value: object) -> object:
    """`WxH` to (width, height)."""
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


class ImagesRequest(RequestBody):
    """What all three have. Unknown fields, and what only OpenAI's models have, such as `quality`, are ignored."""

    model: str | None = None
    n: int = Field(1, ge=1, le=limits.MAX_IMAGES)
    size: Annotated[tuple[int, int] | None, BeforeValidator(_size), WithJsonSchema(_SIZE_SCHEMA)] = None
    stream: bool = False
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    partial_images: int = Field(0, ge=0, le=MOST_PARTIAL)
    user: str | None = None
    seed: int = Field(limits.RANDOM_SEED, ge=limits.RANDOM_SEED, le=limits.MAX_SEED)
    num_inference_steps: int | None = Field(None, ge=1, le=limits.MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=limits.MAX_GUIDANCE)
    negative_prompt: str | None = Field(None, max_length=limits.MAX_PROMPT_CHARACTERS)
    true_cfg_scale: float | None = Field(None, ge=1, le=limits.MAX_GUIDANCE)

    @field_validator("response_format")
    @classmethod
    def _check_response_format(cls, value: str, info: ValidationInfo) -> str:
        if value == "url" and info.data.get("stream"):
            raise ValueError("url is not supported with stream, expected b64_json")
        return value

    def knobs(self) -> dict[str, Any]:
        """Of every one."""
        width, height = self.size or (None, None)
        return {
            "num_images": self.n,
            "width": width,
            "height": height,
            "output_format": self.output_format,
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            **negative_knobs(self.negative_prompt, self.true_cfg_scale),
        }

    def wanted(self) -> GenerationRequest:
        raise NotImplementedError


class GenerationsRequest(ImagesRequest):
    """`POST /v1/images/generations`."""

    prompt: str = Field(min_length=1, max_length=limits.MAX_PROMPT_CHARACTERS)

    def wanted(self) -> GenerationRequest:
        return GenerationRequest("text2img", (), {**self.knobs(), "prompt": self.prompt}, _SIZE_FIELD)


class ImagesOfImagesRequest(ImagesRequest):
    """What variations and edits have: images in `image`, or, as OpenAI's JSON has them, in `images`."""

    image: ImageList = Field([])
    images: ImageList = Field([])

    def all_images(self) -> list[bytes]:
        """Raises Refusal: 422, none or too many."""
        found = [*self.image, *self.images]
        if not 1 <= len(found) <= limits.MAX_PICTURES:
            raise Refusal(422, f"image: {len(found)} images, expected 1..{limits.MAX_PICTURES}", "image")
        return found


class VariationsRequest(ImagesOfImagesRequest):
    """`POST /v1/images/variations`: what Redux is for."""

    def wanted(self) -> GenerationRequest:
        """Raises Refusal: 422, no image."""
        return GenerationRequest("redux", self.all_images(), self.knobs(), _SIZE_FIELD)


class EditsRequest(ImagesOfImagesRequest):
    """`POST /v1/images/edits`: the first picture is changed, the others steer."""

    mask: object = None
    markup: object = None
    prompt: str = Field(min_length=1, max_length=limits.MAX_PROMPT_CHARACTERS)
    #: high: what the pictures show counts beside the prompt; low: of the first only what is not changed.
    input_fidelity: Literal["high", "low"] = "low"
    strength: float = Field(_EDIT_STRENGTH, ge=0, le=1)

    def wanted(self) -> GenerationRequest:
        """Raises Refusal: 400, with a mask or markup; 422, no image."""
        for name, value in (("mask", self.mask), ("markup", self.markup)):
            if value not in (None, ""):
                raise Refusal(400, f"{name}: changing marked parts is not supported", name)
        first = 1.0 if self.input_fidelity == "high" else 0.0
        images = self.all_images()
        steering = [first, *(1.0 for _ in images[1:])]
        return GenerationRequest(
            "img2img",
            images,
            {**self.knobs(), "prompt": self.prompt, "strength": self.strength, "image_strength": steering},
            _SIZE_FIELD,
        )
