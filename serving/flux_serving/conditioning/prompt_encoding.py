"""Encodes a prompt to text tokens (T5) and a pooled embedding (CLIP)."""

from __future__ import annotations

import torch
from diffusers import FluxPriorReduxPipeline

from flux_contract.errors import InvalidRequest
from flux_contract.limits import EMPTY_PROMPT_TOKENS, MAX_PROMPT_CHARACTERS
from flux_contract.tensors import Tensor as Input
from flux_serving.conditioning.context import Context, ContextPart, EncodedPrompt, no_text
from flux_serving.conditioning.redux_prior import context_width
from flux_serving.conditioning.span import Span

#: CLIP's pooled width, hard-coded in diffusers' FluxPriorReduxPipeline.
POOLED_WIDTH = 768


def check_prompt(prior: FluxPriorReduxPipeline, tensor: Input, prompt: str | None) -> None:
    """Raises InvalidRequest: the prompt is too long, or there are no text encoders. tensor: named in the error."""
    if prompt is None:
        return
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(f"{tensor.name} has {len(prompt)} characters, expected at most {MAX_PROMPT_CHARACTERS}")
    if prior.text_encoder is None:
        raise InvalidRequest(f"{tensor.name} is given, but the base checkpoint has no text encoders; omit it")


@torch.inference_mode()
def encode_prompt(prior: FluxPriorReduxPipeline, prompt: str | None) -> EncodedPrompt:
    """Encode a prompt. For None, return the zeros of diffusers' Redux without a prompt, as one weighted token."""
    if prompt is None:
        return no_text(context_width(prior), POOLED_WIDTH, like=next(prior.image_embedder.parameters()))
    tokens, pooled, _ = prior.encode_prompt(
        prompt, device=prior.image_encoder.device, max_sequence_length=EMPTY_PROMPT_TOKENS
    )
    return EncodedPrompt(tokens[0], 1.0, pooled[0])


def as_context(text: EncodedPrompt) -> Context:
    """Returns a context that contains only this prompt."""
    return Context(text.tokens, torch.full((len(text.tokens),), text.weight), text.pooled)


def text_parts(text: EncodedPrompt, span: Span, strength: float) -> list[ContextPart]:
    """Returns the prompt's part for its span, and the part without a prompt for the steps before and after."""
    parts = [ContextPart(text.tokens, torch.full((len(text.tokens),), text.weight * strength), span)]
    none = no_text(text.tokens.shape[1], len(text.pooled), like=text.tokens)
    absences = [absence for absence in (Span(0.0, span.start), Span(span.end, 1.0)) if absence.start < absence.end]
    return parts + [ContextPart(none.tokens, torch.full((1,), float(none.weight)), absence) for absence in absences]
