"""Context tokens with weights: what the prior hands to the transformer.

A token of weight w acts as w equal tokens would: attention adds log(w) to its logit. So the 512 equal zero tokens that
diffusers feeds for "no prompt" are one token of weight 512, a picture's strength is the weight of its tokens, and a
token of weight 0 is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_serving.contract.limits import EMPTY_PROMPT_TOKENS


@dataclass(frozen=True)
class Text:
    """An encoded prompt. tokens: (count, width). weight: of each token. pooled: (pooled width,)."""

    tokens: Tensor
    weight: float
    pooled: Tensor


@dataclass(frozen=True)
class Context:
    """tokens: (count, width). weights: (count,) float32, at least 0. pooled: (pooled width,)."""

    tokens: Tensor
    weights: Tensor
    pooled: Tensor

    def condensed(self) -> Context:
        """The same for attention, with the fewest tokens: none of weight 0, equal ones as one of their summed weight.

        Context tokens have no position, so equal ones need not be neighbours, and the order is free: by weight, the
        tokens of weight 1 last, where the image's tokens follow with the same weight.
        """
        present = self.weights > 0
        tokens, weights = _merge_equal(self.tokens[present], self.weights[present])
        order = torch.argsort(torch.where(weights == 1, -1.0, weights), descending=True, stable=True)
        return Context(tokens[order], weights[order], self.pooled)


def _merge_equal(tokens: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Equal rows of tokens become one, with the sum of their weights; first appearances stay in order."""
    # Equal rows have equal projections; whether rows of equal projections are equal is then looked up.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(tokens.shape[1], dtype=torch.float64, generator=generator).to(tokens.device)
    _, group = torch.unique((tokens * direction).sum(1), return_inverse=True)
    index = torch.arange(len(tokens), device=tokens.device)
    first = torch.full_like(index, len(tokens)).scatter_reduce(0, group, index, "amin")[group]
    first = torch.where((tokens[first] == tokens).all(1), first, index)
    summed = torch.zeros_like(weights).index_add(0, first, weights)
    kept = first == index
    return tokens[kept], summed[kept]


def no_text(width: int, pooled_width: int, like: Tensor) -> Text:
    """What FLUX Redux reads where there is no prompt. like: gives device and dtype."""
    return Text(like.new_zeros(1, width), EMPTY_PROMPT_TOKENS, like.new_zeros(pooled_width))


def assemble(text: Text, pictures: Sequence[Tensor], strengths: Sequence[float]) -> Context:
    """Text first, then the pictures in order, as diffusers orders them.

    pictures: (count, width) each. strengths: the weight of each picture's tokens.
    """
    weights = [torch.full((len(text.tokens),), text.weight)]
    weights += [torch.full((len(p),), s) for p, s in zip(pictures, strengths, strict=True)]
    return Context(torch.cat([text.tokens, *pictures]), torch.cat(weights), text.pooled)
