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

    def without_absent(self) -> Context:
        """The same context without the tokens of weight 0."""
        present = self.weights > 0
        return Context(self.tokens[present], self.weights[present], self.pooled)


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
