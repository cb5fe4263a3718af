"""A FLUX ControlNet as the engine runs it, and the residuals that it adds to the transformer's image tokens.

Source: diffusers, `FluxControlNetModel.forward`, and `FluxTransformer2DModel.forward` for where they are added.
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
    """The output of a ControlNet at one step.

    rows: index of the transformer's rows to add it to. after_double, after_single: residuals for the outputs of the
    transformer's double and single blocks, (rows, image tokens, width) each.
    """

    rows: Tensor
    after_double: Sequence[Tensor]
    after_single: Sequence[Tensor]

    def add_after_double(self, image: Tensor, block: int, blocks: int) -> None:
        """Add in place. image: the output of a double block, (batch, image tokens, width), or a view of it."""
        self._add(image, self.after_double, block, blocks)

    def add_after_single(self, image: Tensor, block: int, blocks: int) -> None:
        self._add(image, self.after_single, block, blocks)

    def _add(self, image: Tensor, residuals: Sequence[Tensor], block: int, blocks: int) -> None:
        """If there are fewer residuals than blocks, neighbouring blocks share one."""
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
        """Embed the latents of the control image: (image tokens, channels) to (image tokens, width)."""
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
        """Run one forward pass. latents, context, modulation: as for `Transformer.velocity`.

        control: the embedded control images, (batch, image tokens, width). scales: of the residuals, (batch, 1, 1).
        Returns the residuals of the double blocks and of the single blocks.
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
