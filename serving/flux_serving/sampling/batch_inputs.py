"""The inputs of a network for the rows of one batch: their contexts, and the modulation of their next steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from flux_serving.network.attention import weighted_attention
from flux_serving.network.controlnet import Residuals
from flux_serving.sampling.conditioning import Conditioning, ControlConditioning


class BatchInputs:
    """The inputs of one network for a batch. Contexts of different lengths are padded with tokens of weight 0."""

    def __init__(self, conditionings: Sequence[Conditioning], attention: str) -> None:
        """attention: as for `weighted_attention`."""
        self._conditionings = conditionings
        self.grid = conditionings[0].grid
        length = max(len(conditioning.weights) for conditioning in conditionings)
        self.context = torch.stack([pad(c.context, (0, 0, 0, length - len(c.weights))) for c in conditionings])
        weights = torch.stack([pad(c.weights, (0, length - len(c.weights))) for c in conditionings])
        weights = weights.to(self.context.device)
        self.attention = weighted_attention(weights, self.grid.tokens, self.context.dtype, attention)

    def look_ahead(self, steps: Sequence[int], count: int) -> None:
        """Collect the modulation of the next `count` steps: (rows, count, vectors, width). steps: next step per row."""
        self.modulation = torch.stack(
            [c.modulation[step - c.first_step :][:count] for c, step in zip(self._conditionings, steps, strict=True)]
        )


class ControlInputs:
    """The ControlNet inputs of the members of a batch that use one.

    With true CFG, both rows of a member get the same residuals. Source: diffusers, `FluxControlNetPipeline.__call__`.
    """

    def __init__(
        self, controls: Sequence[tuple[int, ControlConditioning]], owners: Sequence[int], attention: str
    ) -> None:
        """controls: each with the index of its member. owners: for each row of the transformer, its member's index."""
        first = controls[0][1]
        self._network = first.image.network
        self._inputs = BatchInputs([control.conditioning for _, control in controls], attention)
        self._images = torch.stack([control.image.tokens for _, control in controls])
        self._scales = torch.tensor([control.scale for _, control in controls])[:, None, None].to(self._images)
        self._members = [member for member, _ in controls]
        place = {member: index for index, member in enumerate(self._members)}
        device = self._images.device
        self._rows = torch.tensor([row for row, owner in enumerate(owners) if owner in place], device=device)
        self._sources = torch.tensor([place[owner] for owner in owners if owner in place], device=device)

    def look_ahead(self, steps: Sequence[int], count: int) -> None:
        """As `BatchInputs.look_ahead`. steps: next step of each member of the batch."""
        self._inputs.look_ahead([steps[member] for member in self._members], count)

    def residuals(self, latents: Tensor, ahead: int) -> Residuals:
        """Compute the residuals of one step. latents: of all members. ahead: index of the step since `look_ahead`."""
        inputs = self._inputs
        double, single = self._network.residuals(
            latents[self._members],
            self._images,
            self._scales,
            inputs.context,
            inputs.modulation[:, ahead],
            inputs.grid,
            inputs.attention,
        )
        return Residuals(
            self._rows, [after[self._sources] for after in double], [after[self._sources] for after in single]
        )
