"""A request's pictures from noise to pixels: begin, step, result. This is what the engine drives."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from flux_serving.contract.models import (
    CONTEXT,
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    INITIAL_LATENTS,
    POOLED_PROJECTION,
)
from flux_serving.contract.tensors import Array
from flux_serving.errors import FluxError, GenerationFailed, InvalidRequest
from flux_serving.stages.context import Context, Phase
from flux_serving.stages.cpu_threads import cpu_threads
from flux_serving.stages.decoding import decode_latents
from flux_serving.stages.denoising import Batch, Conditioning, Denoising, Embedding
from flux_serving.stages.latents import Grid, initial_noise
from flux_serving.stages.noise_schedule import make_schedule
from flux_serving.stages.sampling_parameters import SamplingParameters
from flux_serving.stages.transformer import Transformer
from flux_serving.weights import BaseWeights

#: Pixels that go through the VAE's decoder at once, if there are several pictures. Small pictures gain from company; a
#: larger one gains nothing, and the others would only wait for their answers (docs/performance.md).
MAX_DECODED_PIXELS = 512 * 512

#: Bytes of what is computed once for a request, up to which it is computed at once, beside the steps of others. More is
#: computed when the first step is due, so that what waits holds little memory (106 MB for 50 steps of FLUX.1).
MAX_PREPARED_BYTES = 4 * 2**20
#: Tokens of a step from which on more than one thread of a CPU is worth it.
MANY_THREADS_FROM_TOKENS = 256


@dataclass(frozen=True)
class Picture:
    """latents: packed, (tokens, channels) float32. rgb: (height, width, 3) uint8, decoded from them, where wanted."""

    latents: Array
    rgb: Array | None


class Sampler:
    """The base checkpoint at work. Only one thread may step; others may begin and take results meanwhile."""

    def __init__(self, base: BaseWeights, attention: str = "auto") -> None:
        """attention: how token weights reach it, as for `weighted_attention`."""
        self.base = base
        #: Seconds that `step` has spent so far in the transformer: in its forwards, and in preparing them.
        self.forward_s = 0.0
        self._attention = attention
        self._transformer = Transformer(base.transformer)
        self._batch: Batch | None = None

    def begin(
        self,
        parameters: SamplingParameters,
        context: Context,
        initial_latents: Array | None = None,
        is_decoded: bool = True,
    ) -> list[Denoising]:
        """One piece of work for each seed. context: float32, on the CPU.

        initial_latents: (images, image tokens, channels) as they are before the first step; None for noise.
        is_decoded: whether pixels are wanted in the end, or latents alone.
        Raises InvalidRequest: the context or the latents don't fit the checkpoint or the size.
        """
        base = self.base
        config = base.transformer.config
        _check_context(context, config.joint_attention_dim, config.pooled_projection_dim)
        context = context.condensed()
        # Whole phases, also where a run begins or ends within one, so that a run cut in two computes the same.
        first, end = parameters.first_step, parameters.end_step
        phases = [p for p in context.phases(parameters.steps) if p.first_step < end and first < p.end_step]
        _check_phases(phases)
        grid = Grid(parameters.height // base.token_side, parameters.width // base.token_side)
        schedule = make_schedule(base.scheduler_config, parameters.steps, grid.tokens)
        embedding = Embedding(self._transformer, context)
        conditionings = [
            Conditioning(self._transformer, embedding, phase, parameters.guidance, grid, schedule) for phase in phases
        ]
        if initial_latents is None:
            channels = config.in_channels // 4
            latents = [initial_noise(seed, grid, channels, base.dtype) for seed in parameters.seeds]
        else:
            _check_latents(initial_latents, (len(parameters.seeds), grid.tokens, config.in_channels))
            latents = list(torch.tensor(initial_latents).to(base.dtype))
        if sum(conditioning.prepared_bytes for conditioning in conditionings) <= MAX_PREPARED_BYTES:
            with cpu_threads(base.device, is_small=True):
                for conditioning in conditionings:
                    conditioning.prepare()
        return [Denoising(start, conditionings, parameters.first_step, is_decoded) for start in latents]

    def step(self, batch: Sequence[Denoising]) -> list[FluxError | None]:
        """Take every member one step further. Returns what ended a member, None for each that goes on.

        Where this raises, none has moved.
        """
        tokens = sum(work.conditioning.tokens for work in batch)
        with cpu_threads(self.base.device, is_small=tokens < MANY_THREADS_FROM_TOKENS):
            if self._batch is None or not self._batch.goes_on_with(batch):
                started = time.perf_counter()
                for work in batch:
                    work.conditioning.prepare()
                self.forward_s += time.perf_counter() - started
                self._batch = Batch(self._transformer, batch, self._attention)
            started = time.perf_counter()
            sound = self._batch.step()
            self.forward_s += time.perf_counter() - started
        return [None if row else GenerationFailed("the latents are not finite") for row in sound]

    def results(self, works: Sequence[Denoising]) -> list[Picture]:
        """The pictures of finished work of one grid; those that are wanted as pixels are decoded together."""
        decoded = [work for work in works if work.is_decoded]
        pixels: list[Array] = []
        if decoded:
            latents = torch.stack([work.latents for work in decoded])
            pixels.extend(decode_latents(self.base, latents, decoded[0].grid))
        rgb = dict(zip(decoded, pixels, strict=True))
        return [Picture(work.latents.float().cpu().numpy(), rgb.get(work)) for work in works]

    def results_at_once(self, work: Denoising) -> int:
        return max(1, MAX_DECODED_PIXELS // (work.grid.tokens * self.base.token_side**2))

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, (MemoryError, torch.OutOfMemoryError))

    def recipes(self, parameters: SamplingParameters) -> list[str]:
        """How each picture is made, as JSON."""
        has_guidance = self.base.transformer.config.guidance_embeds
        return [
            json.dumps(
                {
                    "model": self.base.name,
                    "seed": seed,
                    "steps": parameters.steps,
                    "guidance": round(parameters.guidance, 6) if has_guidance else None,
                    "width": parameters.width,
                    "height": parameters.height,
                }
            )
            for seed in parameters.seeds
        ]


def _check_latents(latents: Array, expected: tuple[int, int, int]) -> None:
    if latents.shape != expected:
        raise InvalidRequest(f"{INITIAL_LATENTS.name} has shape {list(latents.shape)}, expected {list(expected)}")
    if not np.isfinite(latents).all():
        raise InvalidRequest(f"{INITIAL_LATENTS.name} must be finite")


def _check_context(context: Context, width: int, pooled_width: int) -> None:
    if context.tokens.shape[1] != width:
        raise InvalidRequest(f"{CONTEXT.name} has tokens of width {context.tokens.shape[1]}, expected {width}")
    if len(context.tokens) != len(context.weights):
        raise InvalidRequest(
            f"{CONTEXT.name} has {len(context.tokens)} tokens, {CONTEXT_WEIGHTS.name} {len(context.weights)} values"
        )
    if len(context.pooled) != pooled_width:
        raise InvalidRequest(f"{POOLED_PROJECTION.name} has {len(context.pooled)} values, expected {pooled_width}")
    if context.spans is not None and len(context.spans) != len(context.tokens):
        raise InvalidRequest(
            f"{CONTEXT.name} has {len(context.tokens)} tokens, {CONTEXT_SPANS.name} {len(context.spans)} rows"
        )
    if not bool(torch.isfinite(context.tokens).all() and torch.isfinite(context.pooled).all()):
        raise InvalidRequest(f"{CONTEXT.name} and {POOLED_PROJECTION.name} must be finite")


def _check_phases(phases: Sequence[Phase]) -> None:
    """What nothing steers is not a variation of anything; strengths of 0 and spans can leave nothing."""
    for phase in phases:
        if not len(phase.index):
            raise InvalidRequest(
                f"{CONTEXT_WEIGHTS.name} are all 0 at step {phase.first_step}, at least one token must be there"
            )
