"""One denoising step over a batch of pictures, each at its own step, with its own guidance, seed and context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from flux_serving.stages.attention import weighted_attention
from flux_serving.stages.context import Context, Phase
from flux_serving.stages.latents import Grid
from flux_serving.stages.noise_schedule import NoiseSchedule
from flux_serving.stages.transformer import Transformer

#: Steps whose modulation a batch lines up ahead. More cost memory, fewer cost time; a batch rarely lasts longer.
_LOOK_AHEAD = 4


class Embedding:
    """The context of a request, whose tokens are embedded once for all of its pictures and phases.

    context: on the CPU, condensed. What is computed from it is on the transformer's device.
    """

    def __init__(self, transformer: Transformer, context: Context) -> None:
        self.context = context
        self._transformer = transformer

    @cached_property
    def tokens(self) -> Tensor:
        """(tokens, width)."""
        return self._transformer.embed_context(self._transformer.hold(self.context.tokens))


class Conditioning:
    """What steers a picture through one phase of its steps, computed once; the pictures of one request share it.

    Source of the changes: diffusers, `FlowMatchEulerDiscreteScheduler.step`.
    """

    def __init__(
        self,
        transformer: Transformer,
        embedding: Embedding,
        phase: Phase,
        guidance: float,
        grid: Grid,
        schedule: NoiseSchedule,
    ) -> None:
        self.grid = grid
        self.first_step, self.end_step = phase.first_step, phase.end_step
        self.weights = embedding.context.weights[phase.index]
        self.sigmas: list[float] = schedule.sigmas.tolist()
        self._transformer = transformer
        self._embedding = embedding
        self._phase = phase
        self._guidance = guidance
        self._schedule = schedule

    @property
    def tokens(self) -> int:
        """Tokens that one step runs over, of context and image."""
        return len(self.weights) + self.grid.tokens

    @property
    def prepared_bytes(self) -> int:
        """Memory of `modulation`, the larger part of what is computed once."""
        steps = self.end_step - self.first_step
        return steps * self._transformer.modulation_size * self._transformer.dtype.itemsize

    def prepare(self) -> None:
        """Compute what is computed once, if it isn't yet."""
        self._embedding.tokens  # noqa: B018
        self.modulation  # noqa: B018

    @property
    def context(self) -> Tensor:
        """(tokens, width), embedded."""
        tokens = self._embedding.tokens
        return tokens if len(self.weights) == len(tokens) else tokens[self._phase.index.to(tokens.device)]

    @cached_property
    def modulation(self) -> Tensor:
        """(steps of the phase, vectors, width)."""
        pooled = self._transformer.hold(self._embedding.context.pooled)
        timesteps = self._schedule.timesteps[self.first_step : self.end_step].to(pooled.device)
        return self._transformer.modulate(
            timesteps, self._guidance, pooled if self._phase.is_pooled else torch.zeros_like(pooled)
        )

    @cached_property
    def changes(self) -> Tensor:
        """(steps of the phase,) float32, on the CPU: how far each step goes along the velocity."""
        return self._schedule.sigmas.diff()[self.first_step : self.end_step]


@dataclass(eq=False)
class _Rows:
    """Pictures that take their steps together. latents, velocity: (rows, image tokens, channels)."""

    latents: Tensor
    velocity: Tensor | None = None
    steps: int = 0


class Denoising:
    """A picture in the making: a row of those it last took a step with."""

    def __init__(
        self, latents: Tensor, phases: Sequence[Conditioning], first_step: int = 0, is_decoded: bool = True
    ) -> None:
        """latents: (image tokens, channels), as they are before first_step, on the CPU. is_decoded: in the end.

        phases: through the steps to take, in order.
        """
        self._phases = phases
        self.is_decoded = is_decoded
        self._rows = _Rows(latents[None])
        self._row = 0
        self._first_step = first_step

    @property
    def conditioning(self) -> Conditioning:
        """Of the next step; once all are taken, of the last one."""
        step = self.step
        return next((phase for phase in self._phases if step < phase.end_step), self._phases[-1])

    @property
    def grid(self) -> Grid:
        return self._phases[0].grid

    @property
    def most_tokens(self) -> int:
        """Tokens that the largest of its steps runs over."""
        return max(phase.tokens for phase in self._phases)

    @property
    def step(self) -> int:
        """The next step, counted from 0."""
        return self._first_step + self._rows.steps

    @property
    def latents(self) -> Tensor:
        """(image tokens, channels)."""
        return self._rows.latents[self._row]

    @property
    def estimate(self) -> Tensor:
        """(image tokens, channels): the picture that the last step was heading for; before any step, the latents."""
        if self._rows.velocity is None:
            return self.latents
        return self.latents - self.conditioning.sigmas[self.step] * self._rows.velocity[self._row]

    def join(self, rows: _Rows, row: int) -> None:
        self._first_step, self._rows, self._row = self.step, rows, row


class Batch:
    """Pictures of one grid that take their steps together until one of them leaves, another joins, or a phase ends.

    Contexts of different length are padded with tokens of weight 0. Taking a step loops over no rows.
    """

    def __init__(self, transformer: Transformer, members: Sequence[Denoising], attention: str = "auto") -> None:
        """attention: as for `weighted_attention`."""
        self.members = tuple(members)
        self._transformer = transformer
        self._conditionings = [member.conditioning for member in members]
        self._grid = members[0].grid
        # New members come to the device here, on the stepping thread: a copy from elsewhere would wait for its steps.
        self._rows = _Rows(torch.stack([transformer.hold(member.latents) for member in members]))
        length = max(len(conditioning.weights) for conditioning in self._conditionings)
        self._context = torch.stack([pad(c.context, (0, 0, 0, length - len(c.weights))) for c in self._conditionings])
        weights = torch.stack([pad(c.weights, (0, length - len(c.weights))) for c in self._conditionings])
        weights = weights.to(self._context.device)
        self._attention = weighted_attention(weights, self._grid.tokens, self._context.dtype, attention)
        self._look_ahead([member.step for member in members])
        for row, member in enumerate(members):
            member.join(self._rows, row)

    def goes_on_with(self, members: Sequence[Denoising]) -> bool:
        """Whether these are its members, in order, each still in the phase that it joined in."""
        return self.members == tuple(members) and self._conditionings == [member.conditioning for member in members]

    @torch.inference_mode()
    def step(self) -> list[bool]:
        """Take one Euler step. Returns for each row whether its numbers are still finite.

        Where this raises, no row has moved. Source: diffusers, `FluxPipeline.__call__`, step 6, and
        `FlowMatchEulerDiscreteScheduler.step`.
        """
        rows = self._rows
        if self._ahead == self._modulation.shape[1]:
            self._look_ahead([member.step for member in self.members])
        velocity = self._transformer.velocity(
            rows.latents, self._context, self._modulation[:, self._ahead], self._grid, self._attention
        )
        moved = rows.latents.float() + self._changes[:, self._ahead, None, None] * velocity
        sound: list[bool] = torch.isfinite(velocity).flatten(1).all(1).tolist()
        rows.latents, rows.velocity = moved.to(velocity.dtype), velocity
        rows.steps += 1
        self._ahead += 1
        return sound

    def _look_ahead(self, steps: Sequence[int]) -> None:
        """Line up the next steps of all rows: (rows, steps, vectors, width) and (rows, steps)."""
        count = min(_LOOK_AHEAD, *(c.end_step - step for c, step in zip(self._conditionings, steps, strict=True)))
        due = [
            (c, slice(step - c.first_step, step - c.first_step + count))
            for c, step in zip(self._conditionings, steps, strict=True)
        ]
        self._modulation = torch.stack([c.modulation[span] for c, span in due])
        self._changes = torch.stack([c.changes[span] for c, span in due]).to(self._modulation.device)
        self._ahead = 0
