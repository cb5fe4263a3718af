"""Fused attention that also returns the log-sum-exp of its logits, with private operators of torch.

torch's public API offers no replacement:

- `scaled_dot_product_attention` does not return the log-sum-exp.
- `flex_attention` returns it on a GPU only. Compiled for a CPU, it raises "`return_lse` is not supported yet" (torch
  2.13); without compilation it is not fused and holds all logits in memory.
- `varlen_attn` (torch 2.10 and newer) runs flash attention on a GPU only, without float32 and without a bias.

Tested with torch 2.13 on a CPU and torch 2.11 on an H100. torch 2.6, the oldest version that `pyproject.toml` allows,
declares the same inputs and the same first two outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _operator(name: str) -> Any:
    """Return a private operator of torch. Raises ImportError: this version of torch does not have it."""
    try:
        return getattr(torch.ops.aten, name).default
    except AttributeError as error:
        raise ImportError(
            f"torch {torch.__version__} has no operator aten::{name}, expected torch 2.6 to 2.13; "
            "install torch from requirements/torch-cpu.lock or requirements/torch-gpu.lock"
        ) from error


_CPU_ATTENTION = _operator("_scaled_dot_product_flash_attention_for_cpu")
_EFFICIENT_ATTENTION = _operator("_scaled_dot_product_efficient_attention")
_FLASH_ATTENTION = _operator("_scaled_dot_product_flash_attention")


def attention_with_log_sum(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute attention and the log-sum-exp of its logits.

    query, key, value: (batch, heads, tokens, head width). bias: (batch, 1, 1, keys), added to the logits.
    Returns the attention output, in the shape of query, and the log-sum-exp, (batch, heads, queries), float32.
    """
    if query.device.type == "cpu":
        attended, log_sum = _CPU_ATTENTION(query, key, value, attn_mask=bias)
    elif query.dtype is torch.float32 or bias is not None:
        if bias is not None:
            bias = bias.expand(-1, query.shape[1], query.shape[2], -1)
        attended, log_sum = _EFFICIENT_ATTENTION(query, key, value, bias, True)[:2]
    else:
        attended, log_sum = _FLASH_ATTENTION(query, key, value)[:2]
    # The efficient kernel pads the log-sum-exp to a rounded-up number of queries.
    return attended, log_sum[:, :, : query.shape[2]]
