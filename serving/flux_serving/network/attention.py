"""Attention with token weights, in two exact implementations.

A context token of weight w counts as w equal tokens: log(w) is added to its logit. `MaskedAttention` adds it with a
float mask, which flash attention on a GPU does not accept. `MergedAttention` needs no mask: the plain fused kernel
attends to each run of equally weighted tokens separately, and the results are averaged, weighted by the log-sum-exp of
their logits plus log(w). Source of the merge: Dao et al. 2022, FlashAttention, section 3.1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from flux_serving.network.attention_ops import attention_with_log_sum

#: Number of context and image tokens from which the merge is faster, measured on a CPU (docs/performance.md). Not
#: measured on a GPU: there the merge is always used, because a float mask rules out flash attention.
MERGE_FROM_TOKENS = {"cpu": 512, "cuda": 0}
#: Maximum number of runs of equal weight for the merge. With more, a mask is used, as each run costs a kernel call.
MAX_RUNS = 4


class Attention(Protocol):
    """An attention function.

    query, key, value: (batch, heads, tokens, head width), context tokens first. Returns a tensor of query's shape.
    """

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class MaskedAttention:
    """Attention that adds the token weights as a float mask."""

    def __init__(self, weights: Tensor, image_tokens: int, dtype: torch.dtype) -> None:
        """weights: (batch, context tokens), at least 0, with at least one weight above 0 in each row."""
        self.bias = _bias(weights, image_tokens, dtype)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=self.bias)


class MergedAttention:
    """Attention without a mask: one kernel call for each run of columns in which no row's weight changes.

    If there are more than max_runs runs, the first ones, with the heaviest tokens, stay separate, and all remaining
    columns form one run with a mask.
    """

    def __init__(self, weights: Tensor, image_tokens: int, dtype: torch.dtype, max_runs: int | None = None) -> None:
        """weights: as for `MaskedAttention`, the heaviest first. max_runs: maximum number of runs; None: no limit."""
        columns = pad(weights, (0, 1), value=1.0)
        changes = (columns[:, 1:] != columns[:, :-1]).any(0).nonzero().flatten().tolist()
        starts = [0, *(column + 1 for column in changes)]
        self.bias: Tensor | None = None
        if max_runs is not None and len(starts) > max_runs:
            starts = starts[:max_runs]
            heavy = starts[-1]
            self.bias = _bias(weights[:, heavy:], image_tokens, dtype)
            columns[:, heavy:] = 1
        self.ends = [*starts[1:], weights.shape[1] + image_tokens]
        self.starts = starts
        # (runs, batch, 1, 1), added to each run's log-sum-exp of shape (batch, heads, tokens).
        self.log_weights = columns[:, starts].log().T[:, :, None, None]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts, sums = [], []
        for start, end in zip(self.starts, self.ends, strict=True):
            bias = self.bias if start == self.starts[-1] else None
            part, log_sum = attention_with_log_sum(query, key[:, :, start:end], value[:, :, start:end], bias)
            parts.append(part)
            sums.append(log_sum)
        shares = torch.softmax(torch.stack(sums) + self.log_weights, dim=0).to(value.dtype)[..., None]
        merged = parts[0] * shares[0]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            merged = torch.addcmul(merged, part, share)
        return merged


def weighted_attention(weights: Tensor, image_tokens: int, dtype: torch.dtype, way: str = "auto") -> Attention:
    """Return the attention function for a batch whose context tokens have these weights.

    weights: (batch, context tokens), float32. If all are 1, neither a mask nor a merge is needed.
    way: `mask`, `merge`, or `auto` for the faster one. Below float32 precision, `auto` always merges, because a mask
    would round the heavy tokens' weights; if there would be more than MAX_RUNS runs, the lighter tokens use a mask.
    """
    if bool((weights == 1).all()):
        return scaled_dot_product_attention
    if way == "mask":
        return MaskedAttention(weights, image_tokens, dtype)
    if way == "merge":
        return MergedAttention(weights, image_tokens, dtype)
    if dtype is not torch.float32:
        return MergedAttention(weights, image_tokens, dtype, MAX_RUNS)
    merged = MergedAttention(weights, image_tokens, dtype)
    is_long = weights.shape[1] + image_tokens >= MERGE_FROM_TOKENS.get(weights.device.type, 0)
    return merged if is_long and len(merged.starts) <= MAX_RUNS else MaskedAttention(weights, image_tokens, dtype)


def _bias(weights: Tensor, image_tokens: int, dtype: torch.dtype) -> Tensor:
    """Returns the bias to add to the logits: (batch, 1, 1, context tokens + image tokens).

    The stride between rows is a multiple of 8, which efficient attention on a GPU requires.
    """
    tokens = weights.shape[1] + image_tokens
    return pad(weights.log(), (0, image_tokens + -tokens % 8)).to(dtype)[:, None, None, :tokens]
