"""A FLUX ControlNet, as the engine runs it: what it adds to the transformer's image tokens at one step.

Source: diffusers, `FluxControlNetModel.forward`, and `FluxTransformer2DModel.forward` for where it is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import FluxControlNetModel
from torch import Tensor

from flux_serving.network.attention import Attention
from flux_serving.network.backbone import TransformerBackbone, take, vectors_of
from flux_serving.network.blocks import DOUBLE, SINGLE
from flux_serving.network.latents import Grid
from flux_serving.network.projections import Projections


@dataclass(frozen=True)
class Residuals:
    """What is added to the rows of this index. after_double, after_single: (rows, image tokens, width) each."""

    rows: Tensor
    after_double: Sequence[Tensor]
    after_single: Sequence[Tensor]

    def add_after_double(self, image: Tensor, block: int, blocks: int) -> None:
        """In place: image is a block's output of (batch, image tokens, width), or a view of it."""
        self._add(image, self.after_double, block, blocks)

    def add_after_single(self, image: Tensor, block: int, blocks: int) -> None:
        self._add(image, self.after_single, block, blocks)

    def _add(self, image: Tensor, residuals: Sequence[Tensor], block: int, blocks: int) -> None:
        """Neighbouring blocks share a residual where there are fewer of them."""
        if residuals:
            image.index_add_(0, self.rows, residuals[block // -(-blocks // len(residuals))])


class ControlNet(TransformerBackbone):
    """A stock FluxControlNetModel."""

    def __init__(self, stock: FluxControlNetModel) -> None:
        project = Projections(stock)
        super().__init__(stock, project)
        self._embed_control = project("controlnet_x_embedder")
        self._after_double = [project(f"controlnet_blocks.{i}") for i in range(len(stock.controlnet_blocks))]
        self._after_single = [
            project(f"controlnet_single_blocks.{i}") for i in range(len(stock.controlnet_single_blocks))
        ]

    @torch.inference_mode()
    def embed_control(self, latents: Tensor) -> Tensor:
        """(image tokens, channels) of the control image to (image tokens, width)."""
        return self._embed_control(latents)

    @torch.inference_mode()
    def residuals(
        self,
        latents: Tensor,
        control: Tensor,
        scales: Tensor,
        context: Tensor,
        modulation: Tensor,
        grid: Grid,
        attention: Attention,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """One forward. latents, context, modulation: as for the transformer. scales: (batch, 1, 1).

        control: (batch, image tokens, width), embedded. Returns what comes after double and after single blocks.
        """
        vectors = vectors_of(modulation)
        length = context.shape[1]
        rotary = self._rotary(grid, length)
        image = self._embed_image(latents) + control
        after_double, after_single = [], []
        for double, after in zip(self._double, self._after_double, strict=True):
            context, image = double(context, image, take(vectors, DOUBLE), rotary, attention)
            after_double.append(after(image) * scales)
        joint = torch.cat([context, image], 1)
        for single, after in zip(self._single, self._after_single, strict=True):
            joint = single(joint, take(vectors, SINGLE), rotary, attention)
            after_single.append(after(joint[:, length:].contiguous()) * scales)
        return after_double, after_single
