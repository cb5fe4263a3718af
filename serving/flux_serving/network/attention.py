"""Attention with token weights, two exact ways.

A context token of weight w counts as w equal tokens: log(w) is added to its logit. The mask adds it there, in a kernel
that takes a float mask, which flash attention on a GPU does not. The merge never shows it to the kernel: runs of
equally weighted tokens are attended to apart, each by the plain fused kernel, and the parts are weighed by the
log-sum-exp of their logits plus log(w). Source of the merge: Dao et al. 2022, FlashAttention, section 3.1.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from flux_serving.network.attention_ops import attention_with_log_sum

#: Tokens, of context and image, from which on the merge is the faster way; measured on a CPU (docs/performance.md).
#: On a GPU nothing was measured: the merge, because a float mask shuts flash attention out there.
MERGE_FROM_TOKENS = {"cpu": 512, "cuda": 0}
#: Runs of equal weight beyond which a mask is taken all the same: each costs a kernel call of its own.
MAX_RUNS = 4


class Attention(Protocol):
    """query, key, value: (batch, heads, tokens, head width), context tokens first. Returns the shape of query."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor: ...


class MaskedAttention:
    """weights: (batch, context tokens), at least 0, at least one of each row above 0."""

    def __init__(self, weights: Tensor, image_tokens: int, dtype: torch.dtype) -> None:
        self.bias = _bias(weights, image_tokens, dtype)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return scaled_dot_product_attention(query, key, value, attn_mask=self.bias)


class MergedAttention:
    """The same without a mask. One kernel call for each run of columns where no row's weight changes.

    Where these are too many, the heaviest keep theirs, and the rest is one run with a mask.
    """

    def __init__(self, weights: Tensor, image_tokens: int, dtype: torch.dtype, max_runs: int | None = None) -> None:
        """weights: as for `MaskedAttention`, the heavy ones first. max_runs: how many are too many; None: none are."""
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
        # (runs, batch, 1, 1): to add to each run's log-sum-exp of shape (batch, heads, tokens).
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
    """Attention for a batch whose context tokens have these weights: (batch, context tokens), float32.

    way: `mask`, `merge`, or `auto` for the faster one. Weights of 1 need neither. In less than float32 `auto` is always
    the merge, because of the heavy tokens, with a mask for the light ones where there would be many runs.
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
    """What is added to the logits: (batch, 1, 1, context tokens + image tokens).

    A row is a multiple of 8 numbers from the next, or efficient attention on a GPU refuses it.
    """
    tokens = weights.shape[1] + image_tokens
    return pad(weights.log(), (0, image_tokens + -tokens % 8)).to(dtype)[:, None, None, :tokens]
