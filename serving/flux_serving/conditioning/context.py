"""Context tokens with weights: what the prior hands to the transformer.

A token of weight w acts as w equal tokens would: attention adds log(w) to its logit. So the 512 equal zero tokens that
diffusers feeds for "no prompt" are one token of weight 512, an image's strength is the weight of its tokens, and a
token of weight 0 is not there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flux_contract.limits import EMPTY_PROMPT_TOKENS
from flux_serving.conditioning.span import ALWAYS, Span

#: Of a step: far more than float32 loses of a fraction of 100 steps, far less than anybody means.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class EncodedPrompt:
    """An encoded prompt. tokens: (count, width). weight: of each token. pooled: (pooled width,)."""

    tokens: Tensor
    weight: float
    pooled: Tensor


@dataclass(frozen=True)
class ContextPart:
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

    def condensed(self) -> Context:
        """The same for attention, with the fewest tokens: none of weight 0, equal ones as one of their summed weight.

        Context tokens have no position, so equal ones need not be neighbours, and the order is free: by weight, the
        tokens of weight 1 last, where the image's tokens follow with the same weight.
        """
        present = self.weights > 0
        tokens, weights, spans = self.tokens[present], self.weights[present], self.all_spans[present]
        kept, weights = _merge_equal(torch.cat([tokens, spans], dim=1), weights)
        order = kept[torch.argsort(torch.where(weights[kept] == 1, -1.0, weights[kept]), descending=True, stable=True)]
        return Context(tokens[order], weights[order], self.pooled, spans[order], self.pooled_span)

    def phases(self, steps: int) -> list[Phase]:
        """What is there at each of the steps, in order; no two in a row are alike."""
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
    """Steps from first_step on, and before end_step, through which the same tokens are there.

    index: (count,) of the context's tokens. is_pooled: whether the pooled embedding is there.
    """

    first_step: int
    end_step: int
    index: Tensor
    is_pooled: bool


def _merge_equal(rows: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each row's first appearance, in order, and the weights, with those of equal rows summed there."""
    # Equal rows have equal projections; whether rows of equal projections are equal is then looked up.
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], dtype=torch.float64, generator=generator).to(rows.device)
    _, group = torch.unique((rows * direction).sum(1), return_inverse=True)
    index = torch.arange(len(rows), device=rows.device)
    first = torch.full_like(index, len(rows)).scatter_reduce(0, group, index, "amin")[group]
    first = torch.where((rows[first] == rows).all(1), first, index)
    summed = torch.zeros_like(weights).index_add(0, first, weights)
    return (first == index).nonzero().flatten(), summed


def no_text(width: int, pooled_width: int, like: Tensor) -> EncodedPrompt:
    """What FLUX Redux reads where there is no prompt. like: gives device and dtype."""
    return EncodedPrompt(like.new_zeros(1, width), EMPTY_PROMPT_TOKENS, like.new_zeros(pooled_width))


def assemble(parts: Sequence[ContextPart], pooled: Tensor, pooled_span: Span = ALWAYS) -> Context:
    """All tokens in the order of the parts: text first, then the images, as diffusers orders them."""
    tokens, weights = torch.cat([part.tokens for part in parts]), torch.cat([part.weights for part in parts])
    spans = torch.cat([_rows_of(part.span, len(part.tokens)) for part in parts])
    return Context(tokens, weights, pooled, spans, pooled_span)


def _rows_of(span: Span, count: int) -> Tensor:
    """(count, 2) float32."""
    return torch.tensor([[span.start, span.end]]).expand(count, 2)
