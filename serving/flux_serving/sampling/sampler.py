"""A request's images from noise to pixels: begin, step, result. This is what the engine drives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flux_contract.errors import FluxError, GenerationFailed, InvalidRequest
from flux_contract.internal_tensors import CONTROL_LATENTS
from flux_contract.tensors import Array
from flux_serving.network.controlnet import ControlNet
from flux_serving.network.cpu_threads import cpu_threads
from flux_serving.network.decoding import decode_latents
from flux_serving.network.latents import Grid, initial_noise, pack_mask
from flux_serving.network.transformer import Transformer
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.denoising import Batch, Denoising, tokens_of_step
from flux_serving.sampling.inpainting import KeptSource
from flux_serving.sampling.noise_schedule import make_schedule
from flux_serving.sampling.sampler_inputs import SamplerInputs, as_latents
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.sampling.starting import noised
from flux_serving.sampling.steering import steer
from flux_serving.settings import NO_CONTROLNET

#: Pixels that go through the VAE's decoder at once, if there are several images. Small images gain from company; a
#: larger one gains nothing, and the others would only wait for their answers (docs/performance.md).
MAX_DECODED_PIXELS = 512 * 512

#: Bytes of what is computed once for a request, up to which it is computed at once, beside the steps of others. More is
#: computed when the first step is due, so that what waits holds little memory (106 MB for 50 steps of FLUX.1).
MAX_PREPARED_BYTES = 4 * 2**20
#: Tokens of a step from which on more than one thread of a CPU is worth it.
MANY_THREADS_FROM_TOKENS = 256


@dataclass(frozen=True)
class GeneratedImage:
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
        self.transformer = Transformer(base.transformer)
        self._controlnet = None if base.controlnet is None else ControlNet(base.controlnet)
        self._batch: Batch | None = None

    def begin(
        self,
        parameters: SamplingParameters,
        sampler_inputs: SamplerInputs,
        transformer: Transformer | None = None,
        is_decoded: bool = True,
    ) -> list[Denoising]:
        """One piece of work for each seed. transformer: this one, adapted; None: as it is.

        is_decoded: whether pixels are wanted in the end, or latents alone.
        Raises InvalidRequest: the material doesn't fit the checkpoint or the size.
        """
        base, config = self.base, self.base.transformer.config
        grid = Grid(parameters.height // base.token_side, parameters.width // base.token_side)
        sampler_inputs.check(
            len(parameters.seeds),
            grid,
            config.in_channels,
            config.joint_attention_dim,
            config.pooled_projection_dim,
        )
        schedule, first_step = parameters.begin(make_schedule(base.scheduler_config, parameters.steps, grid.tokens))
        phases = steer(
            transformer or self.transformer,
            parameters,
            sampler_inputs.context,
            sampler_inputs.negative,
            self._control(sampler_inputs),
            range(first_step, parameters.end_step),
            grid,
            schedule,
        )
        if sum(phase.prepared_bytes for phase in phases) <= MAX_PREPARED_BYTES:
            with cpu_threads(base.device, is_small=True):
                for phase in phases:
                    phase.prepare()
        return [
            Denoising(start, phases, first_step, parameters.end_step, is_decoded, kept)
            for start, kept in self._starts(parameters, sampler_inputs, grid, schedule.sigmas[first_step])
        ]

    def _control(self, sampler_inputs: SamplerInputs) -> tuple[ControlNet, Tensor] | None:
        if sampler_inputs.control_latents is None:
            return None
        if self._controlnet is None:
            raise InvalidRequest(f"{CONTROL_LATENTS.name} is given, but {NO_CONTROLNET}")
        return self._controlnet, as_latents(sampler_inputs.control_latents, self.base.dtype)

    def _starts(
        self, parameters: SamplingParameters, sampler_inputs: SamplerInputs, grid: Grid, sigma: Tensor
    ) -> list[tuple[Tensor, KeptSource | None]]:
        """The latents of each image, (image tokens, channels), before its first step. sigma: of that step."""
        dtype = self.base.dtype
        if sampler_inputs.initial_latents is not None:
            return [(latents, None) for latents in as_latents(sampler_inputs.initial_latents, dtype)]
        channels = self.base.transformer.config.in_channels // 4
        noises = [initial_noise(seed, grid, channels, dtype) for seed in parameters.seeds]
        if sampler_inputs.source_latents is None:
            return [(noise, None) for noise in noises]
        source = as_latents(sampler_inputs.source_latents, dtype)
        starts = [noised(source, noise, sigma) for noise in noises]
        if sampler_inputs.source_mask is None:
            return [(start, None) for start in starts]
        mask = pack_mask(torch.tensor(sampler_inputs.source_mask).to(dtype), channels)
        return [(start, KeptSource(source, noise, mask)) for start, noise in zip(starts, noises, strict=True)]

    def step(self, batch: Sequence[Denoising]) -> list[FluxError | None]:
        """Take every member one step further. Returns what ended a member, None for each that goes on.

        Where this raises, none has moved.
        """
        with cpu_threads(self.base.device, is_small=self.tokens(batch) < MANY_THREADS_FROM_TOKENS):
            if self._batch is None or not self._batch.goes_on_with(batch):
                started = time.perf_counter()
                for work in batch:
                    work.steering.prepare()
                self.forward_s += time.perf_counter() - started
                self._batch = Batch(batch, self._attention)
            started = time.perf_counter()
            sound = self._batch.step()
            self.forward_s += time.perf_counter() - started
        if not all(work.steps_left for work in batch):
            # It does not go on, and would hold what was prepared for its members.
            self._batch = None
        return [None if row else GenerationFailed("the latents are not finite") for row in sound]

    def tokens(self, batch: Sequence[Denoising]) -> int:
        """Tokens that the next step of this batch computes, padding included."""
        return tokens_of_step(batch)

    def results(self, works: Sequence[Denoising]) -> list[GeneratedImage]:
        """The images of finished work of one grid; those that are wanted as pixels are decoded together."""
        decoded = [work for work in works if work.is_decoded]
        pixels: list[Array] = []
        if decoded:
            latents = torch.stack([work.latents for work in decoded])
            pixels.extend(decode_latents(self.base, latents, decoded[0].grid))
        rgb = dict(zip(decoded, pixels, strict=True))
        return [GeneratedImage(work.latents.float().cpu().numpy(), rgb.get(work)) for work in works]

    def results_at_once(self, work: Denoising) -> int:
        return max(1, MAX_DECODED_PIXELS // (work.grid.tokens * self.base.token_side**2))

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, (MemoryError, torch.OutOfMemoryError))

    def recipes(self, parameters: SamplingParameters) -> list[dict[str, Any]]:
        """How each image is made; values that JSON can hold."""
        has_guidance = self.base.transformer.config.guidance_embeds
        return [
            {"model": self.base.name, "seed": seed} | parameters.as_recipe(has_guidance) for seed in parameters.seeds
        ]
