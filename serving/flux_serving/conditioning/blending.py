"""Combines several input images into one condition: all of their tokens, or diffusers' weighted sum of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import IMAGE_BLEND
from flux_serving.conditioning.context import ContextPart, EncodedPrompt


def concatenated(parts: Sequence[ContextPart], strengths: Sequence[float]) -> list[ContextPart]:
    """Multiply the weights of each image's tokens by the image's strength."""
    return [replace(part, weights=part.weights * strength) for part, strength in zip(parts, strengths, strict=True)]


def summed(
    parts: Sequence[ContextPart], strengths: Sequence[float], text: EncodedPrompt
) -> tuple[list[ContextPart], EncodedPrompt]:
    """Sum the images as diffusers does: scale each image's tokens by its strength, and the prompt by their sum.

    diffusers encodes the prompt once per image, with the image's strength, which is why the strengths add up.
    Source: diffusers, `FluxPriorReduxPipeline.__call__`, with `prompt_embeds_scale` and `pooled_prompt_embeds_scale`.
    Raises InvalidRequest: the images' tokens cannot be added, because their weights or spans differ.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.span != first.span or not torch.equal(part.weights, first.weights):
            raise InvalidRequest(
                f"{IMAGE_BLEND.name}='sum' requires the same detail, fit, mask, start and end for all images, so that "
                "they have the same number of tokens with the same weights at the same steps"
            )
    tokens = torch.stack([part.tokens * strength for part, strength in zip(parts, strengths, strict=True)]).sum(0)
    scale = sum(strengths)
    return [replace(first, tokens=tokens)], replace(text, tokens=text.tokens * scale, pooled=text.pooled * scale)
