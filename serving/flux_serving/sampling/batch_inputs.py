"""Rows that go through a network together: their contexts, and what modulates their next steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from flux_serving.network.attention import weighted_attention
from flux_serving.network.controlnet import Residuals
from flux_serving.sampling.conditioning import Conditioning, ControlConditioning


class BatchInputs:
    """Rows of one network. Contexts of different length are padded with tokens of weight 0."""

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
        """Line up so many steps, for each row from its own of `steps` on: (rows, steps, vectors, width)."""
        self.modulation = torch.stack(
            [c.modulation[step - c.first_step :][:count] for c, step in zip(self._conditionings, steps, strict=True)]
        )


class ControlInputs:
    """The members of a batch that a ControlNet steers. With true CFG both rows of a member get the same from it.

    Source: diffusers, `FluxControlNetPipeline.__call__`.
    """

    def __init__(
        self, controls: Sequence[tuple[int, ControlConditioning]], owners: Sequence[int], attention: str
    ) -> None:
        """controls: of which members. owners: the member of each row of the transformer."""
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
        """steps: of all members."""
        self._inputs.look_ahead([steps[member] for member in self._members], count)

    def residuals(self, latents: Tensor, ahead: int) -> Residuals:
        """latents: of all members."""
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
