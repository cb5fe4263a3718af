"""Weighted context tokens, which the prior passes to the transformer.

A token of weight w acts like w equal tokens: attention adds log(w) to its logit. So one token of weight 512 replaces
the 512 equal zero tokens that diffusers uses without a prompt, an image's strength is the weight of its tokens, and a
token of weight 0 is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flux_contract.limits import EMPTY_PROMPT_TOKENS
from flux_serving.conditioning.span import ALWAYS, Span

#: Tolerance for the start and end of a span, in steps. It is much larger than the float32 error of a fraction of 100
#: steps, and much smaller than a step.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class EncodedPrompt:
    """An encoded prompt. tokens: (count, width). weight: of every token. pooled: (pooled width,)."""

    tokens: Tensor
    weight: float
    pooled: Tensor


@dataclass(frozen=True)
class ContextPart:
    """Tokens with the same span. tokens: (count, width). weights: (count,) float32, at least 0."""

    tokens: Tensor
    weights: Tensor
    span: Span = ALWAYS


@dataclass(frozen=True)
class Context:
    """The context of a request. tokens: (count, width). weights: (count,) float32, at least 0. pooled: (pooled width,).

    spans: (count, 2) float32, start and end of each token's `Span`; None: all tokens are used at all steps.
    pooled_span: span of `pooled`; outside it, zeros are used.
    """

    tokens: Tensor
    weights: Tensor
    pooled: Tensor
    spans: Tensor | None = None
    pooled_span: Span = ALWAYS

    @property
    def all_spans(self) -> Tensor:
        """Start and end of each token's span, (count, 2) float32."""
        return _rows_of(ALWAYS, len(self.tokens)) if self.spans is None else self.spans

    def condensed(self) -> Context:
        """Returns an equivalent context with the fewest tokens.

        Tokens of weight 0 are removed, and equal tokens are merged into one with the sum of their weights. Context
        tokens have no position, so equal tokens need not be adjacent and the order is free. The tokens are sorted by
        weight, heaviest first, except that those of weight 1 come last: the image tokens, which follow, weigh 1 too.
        """
        present = self.weights > 0
        tokens, weights, spans = self.tokens[present], self.weights[present], self.all_spans[present]
        kept, weights = _merge_equal(torch.cat([tokens, spans], dim=1), weights)
        order = kept[torch.argsort(torch.where(weights[kept] == 1, -1.0, weights[kept]), descending=True, stable=True)]
        return Context(tokens[order], weights[order], self.pooled, spans[order], self.pooled_span)

    def phases(self, steps: int) -> list[Phase]:
        """Split the steps into phases in which the same tokens are used. Consecutive phases differ."""
        spans = torch.cat([_rows_of(self.pooled_span, 1), self.all_spans])
        begins, ends = (spans * steps - _ROUNDING).ceil().long().unbind(1)
        phases: list[Phase] = []
        for start, stop in pairwise(sorted({0, steps, *begins.tolist(), *ends.tolist()})):
            is_pooled, *_ = is_there = (begins <= start) & (start < ends)
            index = is_there[1:].nonzero().flatten()
            if phases and torch.equal(phases[-1].index, index) and phases[-1].is_pooled == bool(is_pooled):
                start = phases.pop().first_step
            phases.append(Phase(start, stop, index, bool(is_pooled)))
        return phases


@dataclass(frozen=True)
class Phase:
    """A range of steps, first_step <= step < end_step, in which the same tokens are used.

    index: (count,), indices of the context's tokens that are used. is_pooled: whether the pooled embedding is used.
    """

    first_step: int
    end_step: int
    index: Tensor
    is_pooled: bool


def _merge_equal(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the indices of the distinct rows, in order, and the weights, summed over equal rows at these indices."""
    # Group rows by their projection on a random direction, then compare each row with the first one of its group.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], dtype=torch.float64, generator=generator).to(rows.device)
    _, group = torch.unique((rows * direction).sum(1), return_inverse=True)
    index = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(index, len(rows)).scatter_reduce(0, group, index, "amin")[group]
    first = torch.where((rows[first] == rows).all(1), first, index)
    summed = torch.zeros_like(weights).index_add(0, first, weights)
    return (first == index).nonzero().flatten(), summed


def no_text(width: int, pooled_width: int, like: Tensor) -> EncodedPrompt:
    """Returns the context that FLUX Redux uses without a prompt. like: a tensor whose device and dtype are used."""
    return EncodedPrompt(like.new_zeros(1, width), EMPTY_PROMPT_TOKENS, like.new_zeros(pooled_width))


def assemble(parts: Sequence[ContextPart], pooled: Tensor, pooled_span: Span = ALWAYS) -> Context:
    """Concatenate the parts, in diffusers' order: text first, then images."""
    tokens, weights = torch.cat([part.tokens for part in parts]), torch.cat([part.weights for part in parts])
    spans = torch.cat([_rows_of(part.span, len(part.tokens)) for part in parts])
    return Context(tokens, weights, pooled, spans, pooled_span)


def _rows_of(span: Span, count: int) -> Tensor:
    """Returns a span repeated `count` times, (count, 2) float32."""
    return torch.tensor([[span.start, span.end]]).expand(count, 2)
