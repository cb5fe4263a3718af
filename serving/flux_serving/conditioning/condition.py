"""The condition of a request: the options of its images and prompts, and the context composed from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.limits import EMPTY_PROMPT_TOKENS, MAX_CONTEXT_TOKENS, MAX_VIEWS
from flux_contract.parameters import IMAGE, IMAGE_BLEND, IMAGE_DETAIL, IMAGE_FIT, IMAGE_STRENGTH, PROMPT_STRENGTH
from flux_serving.conditioning.blending import concatenated, summed
from flux_serving.conditioning.context import Context, EncodedPrompt, assemble
from flux_serving.conditioning.detail import pooled_count
from flux_serving.conditioning.framing import View
from flux_serving.conditioning.image_control import image_part
from flux_serving.conditioning.prompt_encoding import text_parts
from flux_serving.conditioning.showing import ConditionImage
from flux_serving.conditioning.span import Span


@dataclass(frozen=True)
class ConditionOptions:
    """The condition that a request describes. prompt, negative_prompt: None if not given."""

    images: Sequence[ConditionImage]
    prompt: str | None
    negative_prompt: str | None
    prompt_span: Span
    prompt_strength: Annotated[float, PROMPT_STRENGTH]
    blend: Annotated[str, IMAGE_BLEND]


def check_size(images: Sequence[ConditionImage], views: Sequence[Sequence[View]], tokens_of_view: int) -> None:
    """Raises InvalidRequest: the images have too many views or context tokens. views: of each image."""
    count = sum(map(len, views))
    if count > MAX_VIEWS:
        raise InvalidRequest(
            f"{IMAGE.name} and {IMAGE_FIT.name} result in {count} squares, expected at most {MAX_VIEWS}"
        )
    tokens = EMPTY_PROMPT_TOKENS + sum(
        len(own) * pooled_count(tokens_of_view, image.control.detail) for image, own in zip(images, views, strict=True)
    )
    if tokens > MAX_CONTEXT_TOKENS:
        raise InvalidRequest(
            f"{IMAGE.name}, {IMAGE_FIT.name} and {IMAGE_DETAIL.name} result in {tokens} context tokens, "
            f"expected at most {MAX_CONTEXT_TOKENS}"
        )


def compose(
    options: ConditionOptions, views: Sequence[Sequence[View]], text: EncodedPrompt, tokens: Sequence[Tensor]
) -> Context:
    """Compose the context from encoded images and prompt.

    views: of each image. tokens: (tokens, width) of each view. text: the encoded prompt.
    Raises InvalidRequest: the images cannot be summed, or all tokens have weight 0 at some step.
    """
    rest: Iterator[Tensor] = iter(tokens)
    image_parts = [
        image_part(own, list(islice(rest, len(own))), image.control)
        for image, own in zip(options.images, views, strict=True)
    ]
    strengths = [image.control.strength for image in options.images]
    if options.blend == "sum" and image_parts:
        image_parts, text = summed(image_parts, strengths, text)
    else:
        image_parts = concatenated(image_parts, strengths)
    parts = [*text_parts(text, options.prompt_span, options.prompt_strength), *image_parts]
    there = [part.span for part in parts if bool((part.weights > 0).any())]
    for start in {0.0, *(span.end for span in there)} - {1.0}:
        if not any(span.start <= start < span.end for span in there):
            raise InvalidRequest(
                f"{IMAGE_STRENGTH.name} and {PROMPT_STRENGTH.name}: no image and no prompt applies after "
                f"{100 * start:g}% of the steps, expected at least one with a strength above 0"
            )
    return assemble(parts, text.pooled, options.prompt_span)
