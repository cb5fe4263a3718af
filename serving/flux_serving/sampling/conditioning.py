"""What steers a picture: what each network reads through a phase of the steps, and how they are put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flux_serving.conditioning.context import Context, Phase
from flux_serving.network.backbone import TransformerBackbone
from flux_serving.network.controlnet import ControlNet
from flux_serving.network.latents import Grid
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.noise_schedule import NoiseSchedule


class Embedding:
    """The context of a request, whose tokens are embedded once for all of its pictures and phases.

    context: on the CPU, condensed. What is computed from it is on the network's device.
    """

    def __init__(self, network: TransformerBackbone, context: Context) -> None:
        self.network = network
        self.context = context

    @cached_property
    def tokens(self) -> Tensor:
        """(tokens, width)."""
        return self.network.embed_context(self.network.hold(self.context.tokens))


class Conditioning:
    """What one network reads through one phase of the steps, computed once; the pictures of one request share it.

    Source of the changes: diffusers, `FlowMatchEulerDiscreteScheduler.step`.
    """

    def __init__(
        self, embedding: Embedding, phase: Phase, guidance: float, grid: Grid, schedule: NoiseSchedule
    ) -> None:
        self.grid = grid
        self.first_step, self.end_step = phase.first_step, phase.end_step
        self.weights = embedding.context.weights[phase.index]
        self.sigmas: list[float] = schedule.sigmas.tolist()
        self._network = embedding.network
        self._embedding = embedding
        self._phase = phase
        self._guidance = guidance
        self._schedule = schedule

    @property
    def tokens(self) -> int:
        """Tokens of a row, of context and image."""
        return len(self.weights) + self.grid.tokens

    @property
    def prepared_bytes(self) -> int:
        """Memory of `modulation`, the larger part of what is computed once."""
        steps = self.end_step - self.first_step
        return steps * self._network.modulation_size * self._network.dtype.itemsize

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
        pooled = self._network.hold(self._embedding.context.pooled)
        timesteps = self._schedule.timesteps[self.first_step : self.end_step].to(pooled.device)
        return self._network.modulate(
            timesteps, self._guidance, pooled if self._phase.is_pooled else torch.zeros_like(pooled)
        )

    @cached_property
    def changes(self) -> Tensor:
        """(steps of the phase,) float32, on the CPU: how far each step goes along the velocity."""
        return self._schedule.sigmas.diff()[self.first_step : self.end_step]


class ControlPicture:
    """A picture for a ControlNet to follow, embedded once. latents: (image tokens, channels), on the CPU."""

    def __init__(self, network: ControlNet, latents: Tensor) -> None:
        self.network = network
        self._latents = latents

    @cached_property
    def tokens(self) -> Tensor:
        """(image tokens, width)."""
        return self.network.embed_control(self.network.hold(self._latents))


@dataclass(frozen=True)
class ControlConditioning:
    """What a ControlNet reads, the picture that it follows, and how much it has to say."""

    conditioning: Conditioning
    picture: ControlPicture
    scale: float


@dataclass(frozen=True, eq=False)
class Steering:
    """Everything that steers a picture through one phase. negative: what true_cfg_scale leads away from."""

    transformer: Transformer
    condition: Conditioning
    negative: Conditioning | None = None
    true_cfg_scale: float = 1.0
    control: ControlConditioning | None = None

    @property
    def _all(self) -> list[Conditioning]:
        control = None if self.control is None else self.control.conditioning
        return [conditioning for conditioning in (self.condition, self.negative, control) if conditioning is not None]

    @property
    def first_step(self) -> int:
        return self.condition.first_step

    @property
    def end_step(self) -> int:
        return self.condition.end_step

    @property
    def rows(self) -> int:
        """Of all networks: 2 with true CFG, and 1 more with a ControlNet."""
        return len(self._all)

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row."""
        return max(conditioning.tokens for conditioning in self._all)

    @property
    def prepared_bytes(self) -> int:
        return sum(conditioning.prepared_bytes for conditioning in self._all)

    def prepare(self) -> None:
        """Compute what is computed once, if it isn't yet."""
        for conditioning in self._all:
            conditioning.prepare()
        if self.control is not None:
            self.control.picture.tokens  # noqa: B018
