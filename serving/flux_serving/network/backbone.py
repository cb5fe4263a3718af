"""What FLUX's transformer and its ControlNets share: blocks, and all that is the same at every step done once.

What depends on a job alone is computed when the job begins: its embedded context, and what modulates every block at
each of its steps. What depends on the size alone, the rotary table, is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from flux_serving.network.blocks import DOUBLE, SINGLE, DoubleBlock, SingleBlock
from flux_serving.network.projections import Projections
from flux_serving.network.rotary import RotaryTables

#: Where the scales are among the vectors of a norm, by their number: of one side of a double block, of a single block,
#: and of the output layer, which has scale and shift.
_SCALES = {DOUBLE // 2: (1, 4), SINGLE: (1,), 2: (0,)}


class TransformerBackbone:
    """The blocks of a stock network, whose projections become views of fused ones; it still runs by itself."""

    def __init__(self, stock: Any, project: Projections, rotary: RotaryTables | None = None) -> None:
        """rotary: tables to share with another network of the same stock network; None: its own."""
        self.stock = stock
        self.device: torch.device = stock.device
        self.dtype: torch.dtype = stock.dtype
        heads = stock.config.num_attention_heads
        doubles = [f"transformer_blocks.{i}" for i in range(len(stock.transformer_blocks))]
        singles = [f"single_transformer_blocks.{i}" for i in range(len(stock.single_transformer_blocks))]
        self._double = [
            DoubleBlock(block.attn, project, name, heads)
            for block, name in zip(stock.transformer_blocks, doubles, strict=True)
        ]
        self._single = [
            SingleBlock(block.attn, project, name, heads)
            for block, name in zip(stock.single_transformer_blocks, singles, strict=True)
        ]
        norms = [f"{name}.{norm}" for name in doubles for norm in ("norm1", "norm1_context")]
        norms += [f"{name}.norm" for name in singles]
        norms += ["norm_out"] if hasattr(stock, "norm_out") else []
        self._modulations = [project(f"{norm}.linear") for norm in norms]
        self._embed_image = project("x_embedder")
        self._embed_context = project("context_embedder")
        self._scales: list[int] = []
        start = 0
        for layer in self._modulations:
            count = layer.outputs // stock.inner_dim
            self._scales += [start + offset for offset in _SCALES[count]]
            start += count
        #: Numbers that modulate one step.
        self.modulation_size: int = start * stock.inner_dim
        self._rotary = rotary or RotaryTables(stock.pos_embed, self.device, self.dtype)

    def hold(self, values: Tensor) -> Tensor:
        """On this network's device, in its dtype."""
        return values.to(self.device, self.dtype)

    @torch.inference_mode()
    def embed_context(self, tokens: Tensor) -> Tensor:
        """(tokens, context width) to (tokens, width)."""
        return self._embed_context(tokens)

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
        table = torch.cat([layer(active).view(steps, -1, stock.inner_dim) for layer in self._modulations], 1)
        table[:, self._scales] += 1
        return table


def vectors_of(modulation: Tensor) -> Iterator[Tensor]:
    """modulation: (batch, vectors, width). Yields each vector, (batch, 1, width)."""
    return iter(modulation.transpose(0, 1).unsqueeze(2).unbind(0))


def take(vectors: Iterator[Tensor], count: int) -> list[Tensor]:
    return list(islice(vectors, count))
