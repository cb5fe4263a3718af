"""One denoising step over a batch of images, each at its own step, with its own guidance, seed and context."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_serving.network.latents import Grid
from flux_serving.sampling.batch_inputs import BatchInputs, ControlInputs
from flux_serving.sampling.conditioning import Steering
from flux_serving.sampling.inpainting import KeptSource, KeptSources

#: Number of steps for which a batch collects the modulation in advance. More steps cost memory, fewer cost time. A
#: batch rarely lasts longer.
_LOOK_AHEAD = 4


@dataclass(eq=False)
class _Rows:
    """The tensors of images that step together. latents, velocity: (rows, image tokens, channels)."""

    latents: Tensor
    velocity: Tensor | None = None
    steps: int = 0


class Denoising:
    """An image being generated. Its latents are a row of the batch in which it last took a step."""

    def __init__(
        self,
        latents: Tensor,
        phases: Sequence[Steering],
        first_step: int,
        end_step: int,
        is_decoded: bool = True,
        kept: KeptSource | None = None,
    ) -> None:
        """latents: (image tokens, channels), before first_step, on the CPU. phases: in order, of all steps to run.

        is_decoded: whether the result is decoded to pixels. kept: the source image, if the image is inpainted.
        """
        self._phases = phases
        self.kept = kept
        self.end_step = end_step
        self.is_decoded = is_decoded
        self._rows = _Rows(latents[None])
        self._row = 0
        self._first_step = first_step

    @property
    def steering(self) -> Steering:
        """The conditions of the next step, or of the last step when all steps are done."""
        step = self.step
        return next((phase for phase in self._phases if step < phase.end_step), self._phases[-1])

    @property
    def grid(self) -> Grid:
        return self._phases[0].condition.grid

    @property
    def group(self) -> Hashable:
        """Images with the same grid and the same transformer, including its adapters, can step together."""
        return self.grid, self._phases[0].transformer

    @property
    def most_rows(self) -> int:
        """Maximum number of rows in all networks over all phases."""
        return max(phase.rows for phase in self._phases)

    @property
    def most_tokens(self) -> int:
        """Maximum number of tokens that a step of this image alone computes: its rows, padded to the longest."""
        return self.most_rows * max(phase.row_tokens for phase in self._phases)

    @property
    def step(self) -> int:
        """The next step, counted from 0."""
        return self._first_step + self._rows.steps

    @property
    def steps_left(self) -> int:
        return self.end_step - self.step

    @property
    def latents(self) -> Tensor:
        """(image tokens, channels)."""
        return self._rows.latents[self._row]

    @property
    def estimate(self) -> Tensor:
        """Latents of the image that the last step predicted, (image tokens, channels). Before any step, the latents."""
        if self._rows.velocity is None:
            return self.latents
        estimate = self.latents - self.steering.condition.sigmas[self.step] * self._rows.velocity[self._row]
        return estimate if self.kept is None else self.kept.blend(estimate)

    def join(self, rows: _Rows, row: int) -> None:
        """Move to a row of another batch."""
        self._first_step, self._rows, self._row = self.step, rows, row


def tokens_of_step(members: Sequence[Denoising]) -> int:
    """Returns the number of tokens that the next joint step of these images computes.

    The rows of each network are padded to its longest row.
    """
    steering = [member.steering for member in members]
    rows = [s.condition for s in steering] + [s.negative.conditioning for s in steering if s.negative is not None]
    controls = [s.control.conditioning for s in steering if s.control is not None]
    return sum(len(network) * max((row.tokens for row in network), default=0) for network in (rows, controls))


class Batch:
    """Images of one grid that step together until one of them leaves, another joins, or a phase ends.

    An image is one row of the transformer, or two with true CFG. An image with a ControlNet is also one row of the
    ControlNet. A step does not loop over rows.
    """

    def __init__(self, members: Sequence[Denoising], attention: str = "auto") -> None:
        """attention: as for `weighted_attention`."""
        self.members = tuple(members)
        self._steering = [member.steering for member in members]
        self._transformer = self._steering[0].transformer
        conditions = [steering.condition for steering in self._steering]
        negatives = [(row, s.negative) for row, s in enumerate(self._steering) if s.negative is not None]
        controls = [(row, s.control) for row, s in enumerate(self._steering) if s.control is not None]
        # New members are copied to the device here, on the stepping thread. On another thread, the copy would wait for
        # running steps.
        self._rows = _Rows(torch.stack([self._transformer.hold(member.latents) for member in members]))
        self._inputs = BatchInputs([*conditions, *(negative.conditioning for _, negative in negatives)], attention)
        #: For each row of the transformer, its member.
        self._owners = [*range(len(members)), *(row for row, _ in negatives)]
        self._control = ControlInputs(controls, self._owners, attention) if controls else None
        self._guided = torch.tensor([row for row, _ in negatives], dtype=torch.long, device=self._rows.latents.device)
        self._scales = torch.tensor([negative.scale for _, negative in negatives])[:, None, None].to(self._rows.latents)
        kept = [(row, member.kept) for row, member in enumerate(members) if member.kept is not None]
        self._kept = KeptSources(kept, self._rows.latents) if kept else None
        self._look_ahead([member.step for member in members])
        for row, member in enumerate(members):
            member.join(self._rows, row)

    def goes_on_with(self, members: Sequence[Denoising]) -> bool:
        """Whether these are the batch's members, in order, and each is still in the phase in which it joined."""
        return self.members == tuple(members) and self._steering == [member.steering for member in members]

    @torch.inference_mode()
    def step(self) -> list[bool]:
        """Run one Euler step. Returns for each member whether its values are finite.

        If it raises, no member has changed. Source: diffusers, `FluxPipeline.__call__`, step 6, and
        `FlowMatchEulerDiscreteScheduler.step`.
        """
        rows = self._rows
        if self._ahead == self._changes.shape[1]:
            self._look_ahead([member.step for member in self.members])
        velocity = self._velocity(rows.latents)
        moved = rows.latents.float() + self._changes[:, self._ahead, None, None] * velocity
        are_finite: list[bool] = torch.isfinite(velocity).flatten(1).all(1).tolist()
        moved = moved.to(velocity.dtype)
        if self._kept is not None:
            moved = self._kept.blend(moved, self._sigmas[:, self._ahead])
        rows.latents, rows.velocity = moved, velocity
        rows.steps += 1
        self._ahead += 1
        return are_finite

    def _velocity(self, latents: Tensor) -> Tensor:
        """Returns the velocity of each member, after true CFG. latents: (members, image tokens, channels)."""
        residuals = None if self._control is None else self._control.residuals(latents, self._ahead)
        inputs, guided = self._inputs, self._guided
        rows = self._transformer.velocity(
            torch.cat([latents, latents[guided]]) if len(guided) else latents,
            inputs.context,
            inputs.modulation[:, self._ahead],
            inputs.grid,
            inputs.attention,
            residuals,
        )
        if not len(guided):
            return rows
        velocity, negative = rows[: len(latents)], rows[len(latents) :]
        return velocity.index_copy(0, guided, negative + self._scales * (velocity[guided] - negative))

    def _look_ahead(self, steps: Sequence[int]) -> None:
        """Collect the inputs of the next steps of all rows. steps: next step of each member."""
        count = min(_LOOK_AHEAD, *(s.end_step - step for s, step in zip(self._steering, steps, strict=True)))
        changes = [
            s.condition.changes[step - s.first_step :][:count] for s, step in zip(self._steering, steps, strict=True)
        ]
        self._changes = torch.stack(changes).to(self._rows.latents.device)
        if self._kept is not None:
            sigmas = [
                s.condition.sigmas[step + 1 : step + 1 + count] for s, step in zip(self._steering, steps, strict=True)
            ]
            self._sigmas = torch.tensor(sigmas, device=self._rows.latents.device)
        self._inputs.look_ahead([steps[owner] for owner in self._owners], count)
        if self._control is not None:
            self._control.look_ahead(steps, count)
        self._ahead = 0
