"""FLUX's double and single blocks with stock weights, in fewer and larger operations than diffusers' own `forward`.

Source: diffusers, `FluxTransformerBlock` and `FluxSingleTransformerBlock`; black-forest-labs/flux, `modules/layers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, rms_norm

from flux_serving.network.attention import Attention
from flux_serving.network.projections import Projections

_EPS = 1e-6
_GELU = 2 * math.sqrt(2 / math.pi)
#: Number of vectors that modulate a block. A double block has shift, scale and gate for the attention and then for the
#: feed-forward, each for image and context. A single block has one shift, scale and gate.
DOUBLE, SINGLE = 12, 3


class DoubleBlock:
    """A block in which context and image have separate weights and joint attention."""

    def __init__(self, attention: Any, project: Projections, name: str, heads: int) -> None:
        """attention: the stock block's attention module. name: the block's module name in its network."""
        of_attention = f"{name}.attn"
        self.image_qkv = project(*(f"{of_attention}.{part}" for part in ("to_q", "to_k", "to_v")))
        self.context_qkv = project(*(f"{of_attention}.{part}" for part in ("add_q_proj", "add_k_proj", "add_v_proj")))
        self.image_heads = _Heads(heads, attention.norm_q, attention.norm_k)
        self.context_heads = _Heads(heads, attention.norm_added_q, attention.norm_added_k)
        self.image_out, self.context_out = project(f"{of_attention}.to_out.0"), project(f"{of_attention}.to_add_out")
        self.image_up, self.image_down = project(f"{name}.ff.net.0.proj"), project(f"{name}.ff.net.2")
        self.context_up, self.context_down = (
            project(f"{name}.ff_context.net.0.proj"),
            project(f"{name}.ff_context.net.2"),
        )

    def __call__(
        self, context: Tensor, image: Tensor, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention
    ) -> tuple[Tensor, Tensor]:
        of_image, of_context = modulation[: DOUBLE // 2], modulation[DOUBLE // 2 :]
        context_qk, context_v = self.context_heads(self.context_qkv(modulated(context, *of_context[:2])))
        image_qk, image_v = self.image_heads(self.image_qkv(modulated(image, *of_image[:2])))
        attended = _attended(
            torch.cat([context_qk, image_qk], 1), torch.cat([context_v, image_v], 1), rotary, attention
        )
        length = context.shape[1]
        # Contiguous, because for a non-contiguous input `linear` copies the weights once per row.
        context = torch.addcmul(context, of_context[2], self.context_out(attended[:, :length].contiguous()))
        image = torch.addcmul(image, of_image[2], self.image_out(attended[:, length:].contiguous()))
        up = _gelu(self.context_up(modulated(context, *of_context[3:5])))
        context = torch.addcmul(context, of_context[5], self.context_down(up))
        up = _gelu(self.image_up(modulated(image, *of_image[3:5])))
        return context, torch.addcmul(image, of_image[5], self.image_down(up))


class SingleBlock:
    """A block that treats context and image as one sequence, with attention and feed-forward in parallel."""

    def __init__(self, attention: Any, project: Projections, name: str, heads: int) -> None:
        parts = (f"{name}.attn.to_q", f"{name}.attn.to_k", f"{name}.attn.to_v", f"{name}.proj_mlp")
        self.project = project(*parts)
        self.heads = _Heads(heads, attention.norm_q, attention.norm_k)
        self.qkv_width: int = 3 * attention.inner_dim
        self.qkv = self.project.first(self.qkv_width)
        self.out = project(f"{name}.proj_out")

    def __call__(self, x: Tensor, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention) -> Tensor:
        shift, scale, gate = modulation
        projected = self.project(modulated(x, shift, scale))
        attended = _attended(*self.heads(projected[..., : self.qkv_width]), rotary, attention)
        up = _gelu(projected[..., self.qkv_width :])
        return torch.addcmul(x, gate, self.out(torch.cat([attended, up], -1)))

    def of_image(
        self, x: Tensor, context_tokens: int, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention
    ) -> Tensor:
        """Compute only the image tokens. For the last block, whose context output is unused."""
        shift, scale, gate = modulation
        normed = modulated(x, shift, scale)
        # Contiguous, because for a non-contiguous input `linear` copies the weights once per row.
        of_context = self.qkv(normed[:, :context_tokens].contiguous())
        projected = self.project(normed[:, context_tokens:].contiguous())
        qkv = torch.cat([of_context, projected[..., : self.qkv_width]], 1)
        attended = _attended(*self.heads(qkv), rotary, attention, first_query=context_tokens)
        up = _gelu(projected[..., self.qkv_width :])
        return torch.addcmul(x[:, context_tokens:], gate, self.out(torch.cat([attended, up], -1)))


class _Heads:
    """Splits the projected query, key and value of one stream into heads, and normalises query and key per head."""

    def __init__(self, heads: int, norm_q: nn.RMSNorm, norm_k: nn.RMSNorm) -> None:
        self.heads = heads
        # (2, 1, head width): the norm weights of query and key.
        self.weight = torch.stack([norm_q.weight, norm_k.weight])[:, None]

    def __call__(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """projected: (batch, tokens, 3 * width).

        Returns query and key in one tensor, (batch, tokens, 2, heads, head width), and the value, (batch, tokens,
        heads, head width).
        """
        split = projected.view(*projected.shape[:2], 3, self.heads, -1)
        return rms_norm(split[:, :, :2], split.shape[-1:], eps=_EPS) * self.weight, split[:, :, 2]


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm with shift and scale. scale: with 1 already added."""
    return torch.addcmul(shift, layer_norm(x, x.shape[-1:], eps=_EPS), scale)


def _gelu(x: Tensor) -> Tensor:
    """GELU in its tanh approximation, which equals x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3))."""
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return gelu(x, approximate="tanh")
    # torch 2.13's CPU kernel takes twice as long as these operations.
    y = x * x
    return y.mul_(_GELU * 0.044715).add_(_GELU).mul_(x).sigmoid_().mul_(x)


def _attended(query_key: Tensor, value: Tensor, rotary: Tensor, attention: Attention, first_query: int = 0) -> Tensor:
    """Apply the rotary embedding, then attention.

    query_key: (batch, tokens, 2, heads, head width). value: (batch, tokens, heads, head width).
    Returns (batch, tokens from first_query on, heads * head width).
    """
    pairs = torch.view_as_complex(query_key.float().view(*query_key.shape[:-1], -1, 2))
    turned = torch.view_as_real(pairs * rotary).flatten(-2).to(value.dtype)
    query, key = turned.permute(2, 0, 3, 1, 4)
    return attention(query[:, :, first_query:], key, value.transpose(1, 2)).transpose(1, 2).flatten(2)
