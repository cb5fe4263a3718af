"""Several images as one condition: all of their tokens, or diffusers' weighted sum of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import IMAGE_BLEND
from flux_serving.conditioning.context import ContextPart, EncodedPrompt


def concatenated(parts: Sequence[ContextPart], strengths: Sequence[float]) -> list[ContextPart]:
    """Each image's tokens weigh its strength."""
    return [replace(part, weights=part.weights * strength) for part, strength in zip(parts, strengths, strict=True)]


def summed(
    parts: Sequence[ContextPart], strengths: Sequence[float], text: EncodedPrompt
) -> tuple[list[ContextPart], EncodedPrompt]:
    """diffusers scales each image's tokens by its strength, and a prompt's by all of them, since each has its own.

    Source: diffusers, `FluxPriorReduxPipeline.__call__`, with `prompt_embeds_scale` and `pooled_prompt_embeds_scale`.
    Raises InvalidRequest: the images' tokens do not weigh the same at the same times, so they cannot be added.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.span != first.span or not torch.equal(part.weights, first.weights):
            raise InvalidRequest(
                f"{IMAGE_BLEND.name}='sum' needs images of the same number of tokens, with the same weights at the "
                "same steps: the same detail, fit, mask, start and end"
            )
    tokens = torch.stack([part.tokens * strength for part, strength in zip(parts, strengths, strict=True)]).sum(0)
    scale = sum(strengths)
    return [replace(first, tokens=tokens)], replace(text, tokens=text.tokens * scale, pooled=text.pooled * scale)
