"""Weighted attention: the mask and the merge give the same result as repeated tokens."""

from __future__ import annotations

import math

import pytest
import torch

from flux_serving.network import attention_ops
from flux_serving.network.attention import MaskedAttention, MergedAttention, weighted_attention
from tiny import device

IMAGE_TOKENS = 5


def queries_keys_values(batch: int, tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    query, key, value = torch.randn(3, batch, 2, tokens, 8, generator=generator).to(device())
    return query, key, value


WEIGHTS = {
    "one heavy token": [[512.0, 1, 1, 1]],
    "counts": [[3.0, 1, 2, 1], [1, 4, 4, 2]],
    "rows of different length": [[512.0, 1, 1, 1], [512, 1, 0, 0], [7, 0, 0, 0]],
    "absent tokens in between": [[0.0, 2, 0, 1]],
}


@pytest.mark.parametrize("way", ["mask", "merge"])
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS.keys())
def test_token_of_weight_w_acts_like_w_equal_tokens(way: str, weights: list[list[float]]) -> None:
    """Compared with softmax attention over repeated tokens."""
    rows = torch.tensor(weights, device=device())
    query, key, value = queries_keys_values(len(rows), rows.shape[1] + IMAGE_TOKENS)
    actual = weighted_attention(rows, IMAGE_TOKENS, torch.float32, way)(query, key, value)
    for row, counts in enumerate(rows):
        counts = torch.cat([counts, counts.new_ones(IMAGE_TOKENS)]).long()
        keys, values = (t[row].repeat_interleave(counts, dim=1) for t in (key, value))
        expected = (query[row] @ keys.mT / math.sqrt(8)).softmax(-1) @ values
        assert torch.allclose(actual[row], expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [3, 40])
def test_mask_and_merge_agree_for_fractional_weights(tokens: int) -> None:
    weights = (torch.rand(3, tokens, generator=torch.Generator().manual_seed(1)) * 3).to(device())
    inputs = queries_keys_values(3, tokens + IMAGE_TOKENS)
    masked = MaskedAttention(weights, IMAGE_TOKENS, torch.float32)(*inputs)
    assert torch.allclose(MergedAttention(weights, IMAGE_TOKENS, torch.float32)(*inputs), masked, atol=1e-5)


def test_only_the_merge_keeps_the_exact_weight_in_bfloat16() -> None:
    """In bfloat16, log(512) is rounded to 6.25, which corresponds to a weight of 518."""
    weights = torch.tensor([[512.0, 1, 1, 1]])
    attention = weighted_attention(weights, IMAGE_TOKENS, torch.bfloat16)
    assert isinstance(attention, MergedAttention)
    assert attention.log_weights.flatten().exp().tolist() == pytest.approx([512, 1])
    many = torch.tensor([[512.0, 2, 1.5, 0.5, 3, 0.25]])
    assert isinstance(weighted_attention(many, IMAGE_TOKENS, torch.bfloat16), MergedAttention)
    assert isinstance(weighted_attention(many, IMAGE_TOKENS, torch.float32), MaskedAttention)


def test_weights_of_one_need_neither_mask_nor_merge() -> None:
    plain = weighted_attention(torch.ones(2, 7), IMAGE_TOKENS, torch.float32)
    assert plain is torch.nn.functional.scaled_dot_product_attention


def test_new_run_begins_only_where_a_weight_changes() -> None:
    merged = MergedAttention(torch.tensor([[512.0, 1, 1, 1], [512, 1, 1, 0]]), IMAGE_TOKENS, torch.float32)
    assert list(zip(merged.starts, merged.ends, strict=True)) == [(0, 1), (1, 3), (3, 4), (4, 9)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_mask_needs_few_kernel_calls_and_keeps_the_heavy_token_exact(dtype: torch.dtype) -> None:
    """With a soft-edged mask, every token has a different weight."""
    soft = torch.rand(2, 60, generator=torch.Generator().manual_seed(2)).sort(descending=True).values.to(device())
    weights = torch.cat([torch.full_like(soft[:, :1], 512.0), soft], dim=1)
    query, key, value = (tensor.to(dtype) for tensor in queries_keys_values(2, 61 + IMAGE_TOKENS))
    attention = MergedAttention(weights, IMAGE_TOKENS, dtype, max_runs=4)
    assert len(attention.starts) == 4
    assert attention.bias is not None
    assert attention.bias.stride(0) % 8 == 0, "the efficient GPU kernel requires this stride"
    bias = torch.nn.functional.pad(weights.log(), (0, IMAGE_TOKENS))[:, None, None]
    logits = query.float() @ key.float().mT / math.sqrt(8) + bias
    expected = logits.softmax(-1) @ value.float()
    assert torch.allclose(attention(query, key, value).float(), expected, atol=1e-5 if dtype is torch.float32 else 4e-2)
    assert isinstance(weighted_attention(weights, IMAGE_TOKENS, torch.bfloat16), MergedAttention)
    light = MergedAttention(soft, IMAGE_TOKENS, torch.float32, max_runs=4)
    assert len(light.starts) == 4
    query, key, value = queries_keys_values(2, 60 + IMAGE_TOKENS)
    masked = MaskedAttention(soft, IMAGE_TOKENS, torch.float32)(query, key, value)
    assert torch.allclose(light(query, key, value), masked, atol=1e-5)


def test_error_names_an_operator_that_torch_lacks() -> None:
    with pytest.raises(ImportError, match=r"torch .* has no operator aten::_no_such_attention, expected torch 2\.6 to"):
        attention_ops._operator("_no_such_attention")


@pytest.mark.parametrize("has_bias", [False, True])
def test_log_sum_is_the_log_sum_exp_of_the_logits(has_bias: bool) -> None:
    query, key, value = queries_keys_values(2, 9)
    bias = torch.linspace(-1, 1, 16, device=device()).expand(2, 1, 1, 16)[..., :9] if has_bias else None
    logits = query @ key.mT / math.sqrt(8) + (0 if bias is None else bias)
    attended, log_sum = attention_ops.attention_with_log_sum(query, key, value, bias)
    assert torch.allclose(attended, logits.softmax(-1) @ value, atol=1e-5)
    assert torch.allclose(log_sum, logits.logsumexp(-1), atol=1e-5)
