"""The inputs of the networks during one phase of the steps, computed once for all images of a request.

`prepare` computes and keeps the tensors of a class, on the device of its network. Call it before the properties that
return these tensors; a second call computes nothing. There is no lock: either the thread that begins a request prepares
it before other threads see it, or the stepping thread does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flux_serving.conditioning.context import Context, Phase
from flux_serving.network.backbone import TransformerBackbone
from flux_serving.network.controlnet import ControlNet
from flux_serving.network.latents import Grid
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.noise_schedule import NoiseSchedule


class Embedding:
    """The context of a request. Its tokens are embedded once for all images and phases of the request.

    context: on the CPU, condensed. Cache: the embedded tokens, after `prepare`.
    """

    def __init__(self, network: TransformerBackbone, context: Context) -> None:
        self.network = network
        self.context = context
        self._tokens: Tensor | None = None

    def prepare(self) -> None:
        if self._tokens is None:
            self._tokens = self.network.embed_context(self.network.hold(self.context.tokens))

    @property
    def tokens(self) -> Tensor:
        """(tokens, width), embedded. Needs `prepare`."""
        assert self._tokens is not None
        return self._tokens


class Conditioning:
    """The inputs of one network during one phase of the steps, shared by the images of a request.

    changes: (steps of the phase,) float32, on the CPU: the factor of the velocity at each step. Source: diffusers,
    `FlowMatchEulerDiscreteScheduler.step`. Cache: the modulation, after `prepare`.
    """

    def __init__(
        self, embedding: Embedding, phase: Phase, guidance: float, grid: Grid, schedule: NoiseSchedule
    ) -> None:
        self.grid = grid
        self.first_step, self.end_step = phase.first_step, phase.end_step
        self.weights = embedding.context.weights[phase.index]
        self.sigmas: list[float] = schedule.sigmas.tolist()
        self.changes = schedule.sigmas.diff()[phase.first_step : phase.end_step]
        self._network = embedding.network
        self._embedding = embedding
        self._phase = phase
        self._guidance = guidance
        self._timesteps = schedule.timesteps[phase.first_step : phase.end_step]
        self._modulation: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Context and image tokens of one row."""
        return len(self.weights) + self.grid.tokens

    @property
    def prepared_bytes(self) -> int:
        """Size of the modulation in bytes, the larger part of the tensors that `prepare` computes."""
        return len(self._timesteps) * self._network.modulation_size * self._network.dtype.itemsize

    def prepare(self) -> None:
        self._embedding.prepare()
        if self._modulation is None:
            pooled = self._network.hold(self._embedding.context.pooled)
            self._modulation = self._network.modulate(
                self._timesteps.to(pooled.device),
                self._guidance,
                pooled if self._phase.is_pooled else torch.zeros_like(pooled),
            )

    @property
    def context(self) -> Tensor:
        """(tokens, width), embedded. Needs `prepare`."""
        tokens = self._embedding.tokens
        return tokens if len(self.weights) == len(tokens) else tokens[self._phase.index.to(tokens.device)]

    @property
    def modulation(self) -> Tensor:
        """(steps of the phase, vectors, width). Needs `prepare`."""
        assert self._modulation is not None
        return self._modulation


class ControlImage:
    """A control image for a ControlNet. latents: (image tokens, channels), on the CPU.

    Cache: the embedded tokens, after `prepare`.
    """

    def __init__(self, network: ControlNet, latents: Tensor) -> None:
        self.network = network
        self._latents = latents
        self._tokens: Tensor | None = None

    def prepare(self) -> None:
        if self._tokens is None:
            self._tokens = self.network.embed_control(self.network.hold(self._latents))

    @property
    def tokens(self) -> Tensor:
        """(image tokens, width), embedded. Needs `prepare`."""
        assert self._tokens is not None
        return self._tokens


@dataclass(frozen=True)
class NegativeConditioning:
    """The negative prompt of true classifier-free guidance, and its scale."""

    conditioning: Conditioning
    scale: float


@dataclass(frozen=True)
class ControlConditioning:
    """The input of a ControlNet, its control image, and the scale of its residuals."""

    conditioning: Conditioning
    image: ControlImage
    scale: float


@dataclass(frozen=True, eq=False)
class Steering:
    """All conditions of an image during one phase."""

    transformer: Transformer
    condition: Conditioning
    negative: NegativeConditioning | None = None
    control: ControlConditioning | None = None

    @property
    def _all(self) -> list[Conditioning]:
        return [self.condition, *(part.conditioning for part in (self.negative, self.control) if part is not None)]

    @property
    def first_step(self) -> int:
        return self.condition.first_step

    @property
    def end_step(self) -> int:
        return self.condition.end_step

    @property
    def rows(self) -> int:
        """Rows in all networks: 1, or 2 with true CFG, and 1 more with a ControlNet."""
        return len(self._all)

    @property
    def row_tokens(self) -> int:
        """Tokens of the longest row."""
        return max(conditioning.tokens for conditioning in self._all)

    @property
    def prepared_bytes(self) -> int:
        return sum(conditioning.prepared_bytes for conditioning in self._all)

    def prepare(self) -> None:
        for conditioning in self._all:
            conditioning.prepare()
        if self.control is not None:
            self.control.image.prepare()
