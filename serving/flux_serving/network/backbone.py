"""The common base of FLUX's transformer and its ControlNets: their blocks, and inputs that are computed only once.

The embedded context and the modulation of every block at each step depend only on the job, so they are computed when
the job begins. The rotary tables depend only on the image size and the number of context tokens, so they are cached.
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

#: Positions of the scales among the modulation vectors of a norm, by the number of vectors: one stream (image or
#: context) of a double block, a single block, and the output layer with its scale and shift.
_SCALES = {DOUBLE // 2: (1, 4), SINGLE: (1,), 2: (0,)}


class TransformerBackbone:
    """The blocks of a stock diffusers network.

    The weights of the stock network become views of fused weights; its own `forward` still works.
    """

    def __init__(self, stock: Any, project: Projections, rotary: RotaryTables | None = None) -> None:
        """rotary: the tables of another backbone of the same stock network, to share them; None: create new tables."""
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
        #: Number of values that modulate one step.
        self.modulation_size: int = start * stock.inner_dim
        self._rotary = rotary or RotaryTables(stock.pos_embed, self.device, self.dtype)

    def hold(self, values: Tensor) -> Tensor:
        """Return these values on this network's device, in its dtype."""
        return values.to(self.device, self.dtype)

    @torch.inference_mode()
    def embed_context(self, tokens: Tensor) -> Tensor:
        """Embed context tokens: (tokens, context width) to (tokens, width)."""
        return self._embed_context(tokens)

    @torch.inference_mode()
    def modulate(self, timesteps: Tensor, guidance: float, pooled: Tensor) -> Tensor:
        """Compute the modulation vectors of all blocks at each of these timesteps.

        timesteps: (steps,), 0..1000. pooled: (pooled width,). Returns (steps, vectors, width).
        """
        stock, steps = self.stock, len(timesteps)
        # FluxPipeline divides the timesteps by 1000 and the transformer multiplies them again. Do both, for the same
        # rounding in bfloat16.
        conditions = [(timesteps.to(pooled) / 1000) * 1000]
        if stock.config.guidance_embeds:
            conditions.append(torch.full((steps,), guidance, device=pooled.device).to(pooled.dtype) * 1000)
        embedded = stock.time_text_embed(*conditions, pooled.expand(steps, -1))
        active = torch.nn.functional.silu(embedded)
        table = torch.cat([layer(active).view(steps, -1, stock.inner_dim) for layer in self._modulations], 1)
        table[:, self._scales] += 1
        return table


def vectors_of(modulation: Tensor) -> Iterator[Tensor]:
    """Yield each modulation vector, (batch, 1, width), of a modulation of shape (batch, vectors, width)."""
    return iter(modulation.transpose(0, 1).unsqueeze(2).unbind(0))


def take(vectors: Iterator[Tensor], count: int) -> list[Tensor]:
    """Returns the next `count` vectors."""
    return list(islice(vectors, count))
