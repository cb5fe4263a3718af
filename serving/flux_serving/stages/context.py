"""Context tokens with weights: what the prior hands to the transformer.

A token of weight w acts as w equal tokens would: attention adds log(w) to its logit. So the 512 equal zero tokens that
diffusers feeds for "no prompt" are one token of weight 512, a picture's strength is the weight of its tokens, and a
token of weight 0 is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flux_serving.contract.limits import EMPTY_PROMPT_TOKENS

#: Of a step: far more than float32 loses of a fraction of 100 steps, far less than anybody means.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Span:
    """From when to when something is there, in fractions of the steps: at step i of n where start <= i / n < end."""

    start: float = 0.0
    end: float = 1.0


ALWAYS = Span()


@dataclass(frozen=True)
class Text:
    """An encoded prompt. tokens: (count, width). weight: of each token. pooled: (pooled width,)."""

    tokens: Tensor
    weight: float
    pooled: Tensor


@dataclass(frozen=True)
class Part:
    """Tokens that come and go together. tokens: (count, width). weights: (count,) float32, at least 0."""

    tokens: Tensor
    weights: Tensor
    span: Span = ALWAYS


@dataclass(frozen=True)
class Context:
    """tokens: (count, width). weights: (count,) float32, at least 0. pooled: (pooled width,).

    spans: (count, 2) float32, start and end of each token's `Span`; None: all are always there. pooled_span: of
    `pooled`, which is zeros before and after.
    """

    tokens: Tensor
    weights: Tensor
    pooled: Tensor
    spans: Tensor | None = None
    pooled_span: Span = ALWAYS

    @property
    def all_spans(self) -> Tensor:
        """(count, 2) float32."""
        return _rows_of(ALWAYS, len(self.tokens)) if self.spans is None else self.spans

    def phases(self, steps: int) -> list[Phase]:
        """What is there at each of the steps, in order: as few phases as there are, each without spans."""
        spans = torch.cat([_rows_of(self.pooled_span, 1), self.all_spans])
        first, end = (spans * steps - _ROUNDING).ceil().long().unbind(1)
        bounds = sorted({0, steps, *first.tolist(), *end.tolist()})
        phases = []
        for start, stop in pairwise(bounds):
            is_there = (first <= start) & (start < end)
            pooled = self.pooled if is_there[0] else torch.zeros_like(self.pooled)
            phases.append(Phase(start, stop, Context(self.tokens, self.weights * is_there[1:], pooled)))
        return phases

    def condensed(self) -> Context:
        """The same for attention, with the fewest tokens: none of weight 0, equal ones as one of their summed weight.

        It has no spans. Context tokens have no position, so equal ones need not be neighbours, and the order is free:
        by weight, the tokens of weight 1 last, where the image's tokens follow with the same weight.
        """
        present = self.weights > 0
        tokens, weights = _merge_equal(self.tokens[present], self.weights[present])
        order = torch.argsort(torch.where(weights == 1, -1.0, weights), descending=True, stable=True)
        return Context(tokens[order], weights[order], self.pooled)


@dataclass(frozen=True)
class Phase:
    """Steps from first_step on, and before end_step, through which the context stays the same."""

    first_step: int
    end_step: int
    context: Context


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


def assemble(parts: Sequence[Part], pooled: Tensor, pooled_span: Span = ALWAYS) -> Context:
    """All tokens in the order of the parts: text first, then the pictures, as diffusers orders them."""
    tokens, weights = torch.cat([part.tokens for part in parts]), torch.cat([part.weights for part in parts])
    spans = torch.cat([_rows_of(part.span, len(part.tokens)) for part in parts])
    return Context(tokens, weights, pooled, spans, pooled_span)


def _rows_of(span: Span, count: int) -> Tensor:
    """(count, 2) float32."""
    return torch.tensor([[span.start, span.end]]).expand(count, 2)
