"""FLUX's transformer, as the engine runs it: stock weights, and all that is the same at every step done once.

What depends on a job alone is computed when the job begins: its embedded context, and what modulates every block at
each of its steps. What depends on the size alone, the rotary table, is kept. A step is then projections, attention and
little else, in fewer and larger operations than diffusers' own `forward` takes.

Source: diffusers, `FluxTransformer2DModel` and its blocks; black-forest-labs/flux, `modules/layers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, rms_norm

from flux_serving.stages.attention import Attention
from flux_serving.stages.latents import Grid

_EPS = 1e-6
_GELU = 2 * math.sqrt(2 / math.pi)
#: Modulating vectors: shift, scale and gate of attention and then of the feed-forward; a single block has one set of
#: three; the output layer has scale and shift.
_DOUBLE, _SINGLE, _OUT = 6, 3, 2
#: Where the scales are among them.
_SCALES = {_DOUBLE: (1, 4), _SINGLE: (1,), _OUT: (0,)}


@dataclass(frozen=True)
class _Linear:
    """Several projections of the same input as one."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x.contiguous(), self.weight, self.bias)


def _fused(layers: Sequence[nn.Linear]) -> _Linear:
    """The layers become views of the fused weight, so that memory holds it once."""
    weight = torch.cat([layer.weight for layer in layers])
    bias = torch.cat([layer.bias for layer in layers])
    start = 0
    for layer in layers:
        end = start + layer.out_features
        layer.weight.data, layer.bias.data = weight[start:end], bias[start:end]
        start = end
    return _Linear(weight, bias)


class _Heads:
    """Query, key and value of one stream: projected by the caller, then normed by head."""

    def __init__(self, heads: int, norm_q: nn.RMSNorm, norm_k: nn.RMSNorm) -> None:
        self.heads = heads
        # (2, 1, head width): of query and key.
        self.weight = torch.stack([norm_q.weight, norm_k.weight])[:, None]

    def __call__(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """projected: (batch, tokens, 3 * width).

        Returns query with key, (batch, tokens, 2, heads, head width), and value, (batch, tokens, heads, head width).
        """
        split = projected.view(*projected.shape[:2], 3, self.heads, -1)
        return rms_norm(split[:, :, :2], split.shape[-1:], eps=_EPS) * self.weight, split[:, :, 2]


class _DoubleBlock:
    def __init__(self, stock: Any, heads: int) -> None:
        attention = stock.attn
        self.image_qkv = _fused([attention.to_q, attention.to_k, attention.to_v])
        self.context_qkv = _fused([attention.add_q_proj, attention.add_k_proj, attention.add_v_proj])
        self.image_heads = _Heads(heads, attention.norm_q, attention.norm_k)
        self.context_heads = _Heads(heads, attention.norm_added_q, attention.norm_added_k)
        self.image_out, self.context_out = attention.to_out[0], attention.to_add_out
        self.image_up, self.image_down = stock.ff.net[0].proj, stock.ff.net[2]
        self.context_up, self.context_down = stock.ff_context.net[0].proj, stock.ff_context.net[2]

    def __call__(
        self, context: Tensor, image: Tensor, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention
    ) -> tuple[Tensor, Tensor]:
        of_image, of_context = modulation[:_DOUBLE], modulation[_DOUBLE:]
        context_qk, context_v = self.context_heads(self.context_qkv(_modulated(context, *of_context[:2])))
        image_qk, image_v = self.image_heads(self.image_qkv(_modulated(image, *of_image[:2])))
        attended = _attended(
            torch.cat([context_qk, image_qk], 1), torch.cat([context_v, image_v], 1), rotary, attention
        )
        length = context.shape[1]
        # Contiguous, because `linear` copies the weights for each row of what is not.
        context = torch.addcmul(context, of_context[2], self.context_out(attended[:, :length].contiguous()))
        image = torch.addcmul(image, of_image[2], self.image_out(attended[:, length:].contiguous()))
        up = _gelu(self.context_up(_modulated(context, *of_context[3:5])))
        context = torch.addcmul(context, of_context[5], self.context_down(up))
        up = _gelu(self.image_up(_modulated(image, *of_image[3:5])))
        return context, torch.addcmul(image, of_image[5], self.image_down(up))


class _SingleBlock:
    def __init__(self, stock: Any, heads: int) -> None:
        attention = stock.attn
        self.project = _fused([attention.to_q, attention.to_k, attention.to_v, stock.proj_mlp])
        self.heads = _Heads(heads, attention.norm_q, attention.norm_k)
        self.qkv_width = 3 * attention.inner_dim
        self.qkv = _Linear(self.project.weight[: self.qkv_width], self.project.bias[: self.qkv_width])
        self.out = stock.proj_out

    def __call__(self, x: Tensor, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention) -> Tensor:
        shift, scale, gate = modulation
        projected = self.project(_modulated(x, shift, scale))
        attended = _attended(*self.heads(projected[..., : self.qkv_width]), rotary, attention)
        up = _gelu(projected[..., self.qkv_width :])
        return torch.addcmul(x, gate, self.out(torch.cat([attended, up], -1)))

    def of_image(
        self, x: Tensor, context_tokens: int, modulation: Sequence[Tensor], rotary: Tensor, attention: Attention
    ) -> Tensor:
        """The rows of image tokens alone, for the last block: what becomes of the context, nobody reads."""
        shift, scale, gate = modulation
        modulated = _modulated(x, shift, scale)
        of_context = self.qkv(modulated[:, :context_tokens])
        projected = self.project(modulated[:, context_tokens:])
        qkv = torch.cat([of_context, projected[..., : self.qkv_width]], 1)
        attended = _attended(*self.heads(qkv), rotary, attention, first_query=context_tokens)
        up = _gelu(projected[..., self.qkv_width :])
        return torch.addcmul(x[:, context_tokens:], gate, self.out(torch.cat([attended, up], -1)))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """scale: with the 1 already added."""
    return torch.addcmul(shift, layer_norm(x, x.shape[-1:], eps=_EPS), scale)


def _gelu(x: Tensor) -> Tensor:
    """GELU by the tangent's formula, which is x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3))."""
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        return gelu(x, approximate="tanh")
    # torch 2.13's kernel for CPUs takes twice as long as these passes.
    y = x * x
    return y.mul_(_GELU * 0.044715).add_(_GELU).mul_(x).sigmoid_().mul_(x)


def _attended(query_key: Tensor, value: Tensor, rotary: Tensor, attention: Attention, first_query: int = 0) -> Tensor:
    """query_key: (batch, tokens, 2, heads, head width). value: (batch, tokens, heads, head width).

    Returns (batch, tokens from first_query on, heads * head width).
    """
    pairs = torch.view_as_complex(query_key.float().view(*query_key.shape[:-1], -1, 2))
    turned = torch.view_as_real(pairs * rotary).flatten(-2).to(value.dtype)
    query, key = turned.permute(2, 0, 3, 1, 4)
    return attention(query[:, :, first_query:], key, value.transpose(1, 2)).transpose(1, 2).flatten(2)


class Transformer:
    """A stock FluxTransformer2DModel, whose projections become views of fused ones; it still runs by itself."""

    def __init__(self, stock: FluxTransformer2DModel) -> None:
        self.stock = stock
        self.device: torch.device = stock.device
        self.dtype: torch.dtype = stock.dtype
        heads = stock.config.num_attention_heads
        self._double = [_DoubleBlock(block, heads) for block in stock.transformer_blocks]
        self._single = [_SingleBlock(block, heads) for block in stock.single_transformer_blocks]
        norms = [norm for block in stock.transformer_blocks for norm in (block.norm1, block.norm1_context)]
        norms += [block.norm for block in stock.single_transformer_blocks]
        self._modulations = [norm.linear for norm in (*norms, stock.norm_out)]
        self._scales: list[int] = []
        start = 0
        for layer in self._modulations:
            count = layer.out_features // stock.inner_dim
            self._scales += [start + offset for offset in _SCALES[count]]
            start += count
        #: Numbers that modulate one step.
        self.modulation_size: int = start * stock.inner_dim
        self._rotary = lru_cache(maxsize=64)(self._rotary_table)

    def hold(self, values: Tensor) -> Tensor:
        """On this transformer's device, in its dtype."""
        return values.to(self.device, self.dtype)

    @torch.inference_mode()
    def embed_context(self, tokens: Tensor) -> Tensor:
        """(tokens, context width) to (tokens, width)."""
        embedded: Tensor = self.stock.context_embedder(tokens)
        return embedded

    @torch.inference_mode()
    def modulate(self, timesteps: Tensor, guidance: float, pooled: Tensor) -> Tensor:
        """What modulates every block at each of these timesteps.

        timesteps: (steps,), 0..1000. pooled: (pooled width,). Returns (steps, vectors, width).
        """
        stock, steps = self.stock, len(timesteps)
        # In and out of 0..1 as FluxPipeline and the transformer hand them on, for the same rounding in bfloat16.
        conditions = [(timesteps.to(pooled) / 1000) * 1000]
        if stock.config.guidance_embeds:
            conditions.append(torch.full((steps,), guidance, device=pooled.device).to(pooled.dtype) * 1000)
        embedded = stock.time_text_embed(*conditions, pooled.expand(steps, -1))
        active = torch.nn.functional.silu(embedded)
        table = torch.cat([layer(active).unflatten(-1, (-1, stock.inner_dim)) for layer in self._modulations], 1)
        table[:, self._scales] += 1
        return table

    @torch.inference_mode()
    def velocity(
        self, latents: Tensor, context: Tensor, modulation: Tensor, grid: Grid, attention: Attention
    ) -> Tensor:
        """One forward. latents: (batch, image tokens, channels). context: (batch, tokens, width), embedded.

        modulation: (batch, vectors, width), a row of `modulate` for each row. Returns the shape of latents.
        """
        vectors = iter(modulation.transpose(0, 1).unsqueeze(2).unbind(0))
        length = context.shape[1]
        rotary = self._rotary(grid, length)
        image = self.stock.x_embedder(latents)
        for double in self._double:
            context, image = double(context, image, _take(vectors, 2 * _DOUBLE), rotary, attention)
        joint = torch.cat([context, image], 1)
        for single in self._single[:-1]:
            joint = single(joint, _take(vectors, _SINGLE), rotary, attention)
        image = self._single[-1].of_image(joint, length, _take(vectors, _SINGLE), rotary, attention)
        scale, shift = _take(vectors, _OUT)
        velocity: Tensor = self.stock.proj_out(_modulated(image, shift, scale))
        return velocity

    def _rotary_table(self, grid: Grid, context_tokens: int) -> Tensor:
        """(tokens, 1, 1, head width / 2) complex; context tokens are not turned."""
        ids = grid.position_ids(self.device, self.dtype)
        cosine, sine = self.stock.pos_embed(torch.cat([ids.new_zeros(context_tokens, 3), ids]))
        return torch.complex(cosine[:, ::2], sine[:, ::2])[:, None, None]


def _take(vectors: Iterator[Tensor], count: int) -> list[Tensor]:
    return list(islice(vectors, count))
