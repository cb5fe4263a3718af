"""OpenAI's requests for images, by their own names, to what is wanted of Triton.

Beside OpenAI's fields these take some of ours, which the `openai` package sends by `extra_body`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flux_gateway.generation import Wanted
from flux_gateway.reading import PictureList
from flux_gateway.refusals import Refusal
from flux_serving.contract import limits

#: Partial images that a stream may have, as OpenAI's.
MOST_PARTIAL = 3
#: How much an edit with a prompt changes, where it is not said.
_EDIT_STRENGTH = 0.8
_SIZE_FIELD = "size"


def _size(value: object) -> object:
    """`WxH` to (width, height)."""
    if value in (None, "auto"):
        return None
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("expected WIDTHxHEIGHT, such as 1024x1024, or auto")
    return int(found[1]), int(found[2])


_Side = Annotated[int, Field(ge=limits.MIN_SIDE, le=limits.MAX_SIDE)]


class ImagesRequest(BaseModel):
    """What all three have. Unknown fields, and what only OpenAI's models have, such as `quality`, are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str | None = None
    n: int = Field(1, ge=1, le=limits.MAX_IMAGES)
    size: Annotated[tuple[_Side, _Side] | None, BeforeValidator(_size)] = Field(
        None, json_schema_extra={"type": "string", "examples": ["1024x1024", "auto"]}
    )
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=MOST_PARTIAL)
    user: str | None = None
    seed: int = Field(limits.RANDOM_SEED, ge=limits.RANDOM_SEED, le=limits.MAX_SEED)
    num_inference_steps: int | None = Field(None, ge=1, le=limits.MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=limits.MAX_GUIDANCE)
    negative_prompt: str | None = Field(None, max_length=limits.MAX_PROMPT_CHARACTERS)
    true_cfg_scale: float | None = Field(None, ge=1, le=limits.MAX_GUIDANCE)

    @model_validator(mode="after")
    def _one_way_back(self) -> ImagesRequest:
        if self.stream and self.response_format == "url":
            raise ValueError("stream has its images in its events; response_format=url goes without it")
        return self

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
            "negative_prompt": self.negative_prompt or None,
            "true_cfg_scale": self.true_cfg_scale,
        }

    def wanted(self) -> Wanted:
        raise NotImplementedError


class GenerationsRequest(ImagesRequest):
    """`POST /v1/images/generations`."""

    prompt: str = Field(min_length=1, max_length=limits.MAX_PROMPT_CHARACTERS)

    def wanted(self) -> Wanted:
        return Wanted("text2img", (), {**self.knobs(), "prompt": self.prompt}, _SIZE_FIELD)


class VariationsRequest(ImagesRequest):
    """`POST /v1/images/variations`: what Redux is for."""

    image: PictureList = Field(min_length=1, max_length=limits.MAX_PICTURES)

    def wanted(self) -> Wanted:
        return Wanted("redux", self.image, self.knobs(), _SIZE_FIELD)


class EditsRequest(ImagesRequest):
    """`POST /v1/images/edits`: the first picture is changed, the others steer."""

    image: PictureList = Field(min_length=1, max_length=limits.MAX_PICTURES)
    mask: object = None
    prompt: str = Field(min_length=1, max_length=limits.MAX_PROMPT_CHARACTERS)
    #: high: what the pictures show counts beside the prompt; low: of the first only what is not changed.
    input_fidelity: Literal["high", "low"] = "low"
    strength: float = Field(_EDIT_STRENGTH, ge=0, le=1)

    def wanted(self) -> Wanted:
        """Raises Refusal: 400, with a mask."""
        if self.mask is not None:
            raise Refusal(400, "mask: filling a masked part is not served here", "mask")
        first = 1.0 if self.input_fidelity == "high" else 0.0
        steering = [first, *(1.0 for _ in self.image[1:])]
        return Wanted(
            "img2img",
            self.image,
            {**self.knobs(), "prompt": self.prompt, "strength": self.strength, "image_strength": steering},
            _SIZE_FIELD,
        )
