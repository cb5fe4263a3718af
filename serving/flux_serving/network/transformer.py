"""FLUX's transformer as the engine runs it.

Source: diffusers, `FluxTransformer2DModel.forward`.
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from flux_serving.network.attention import Attention
from flux_serving.network.backbone import TransformerBackbone, take, vectors_of
from flux_serving.network.blocks import DOUBLE, SINGLE, modulated
from flux_serving.network.controlnet import Residuals
from flux_serving.network.latents import Grid
from flux_serving.network.projections import Additions, Projections
from flux_serving.network.rotary import RotaryTables


class Transformer(TransformerBackbone):
    """A stock FluxTransformer2DModel, with or without LoRA adapters."""

    def __init__(
        self, stock: FluxTransformer2DModel, project: Projections | None = None, rotary: RotaryTables | None = None
    ) -> None:
        """project: the projections of this stock network; None: without adapters. rotary: as for the base class."""
        self._project = project or Projections(stock)
        super().__init__(stock, self._project, rotary)
        self._out = self._project("proj_out")

    @property
    def layers(self) -> frozenset[str]:
        """Names of the linear layers that adapters can change."""
        return frozenset(self._project)

    def adapted(self, additions: Additions) -> Transformer:
        """Returns a transformer with the same weights and these additions.

        additions: for names in `layers`, on this transformer's device and in its dtype.
        """
        return Transformer(self.stock, self._project.with_additions(additions), self._rotary)

    @torch.inference_mode()
    def velocity(
        self,
        latents: Tensor,
        context: Tensor,
        modulation: Tensor,
        grid: Grid,
        attention: Attention,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Run one forward pass. latents: (batch, image tokens, channels). context: (batch, tokens, width), embedded.

        modulation: (batch, vectors, width), for each row one row of the result of `modulate`. residuals: of a
        ControlNet. Returns the velocity, in the shape of latents.
        """
        vectors = vectors_of(modulation)
        length = context.shape[1]
        rotary = self._rotary(grid, length)
        image = self._embed_image(latents)
        for index, double in enumerate(self._double):
            context, image = double(context, image, take(vectors, DOUBLE), rotary, attention)
            if residuals is not None:
                residuals.add_after_double(image, index, len(self._double))
        joint = torch.cat([context, image], 1)
        for index, single in enumerate(self._single[:-1]):
            joint = single(joint, take(vectors, SINGLE), rotary, attention)
            if residuals is not None:
                residuals.add_after_single(joint[:, length:], index, len(self._single))
        image = self._single[-1].of_image(joint, length, take(vectors, SINGLE), rotary, attention)
        if residuals is not None:
            residuals.add_after_single(image, len(self._single) - 1, len(self._single))
        scale, shift = take(vectors, 2)
        return self._out(modulated(image, shift, scale))
