"""Generates the images of requests, from noise to pixels. The engine drives it."""

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

#: Maximum number of pixels that the VAE decodes in one batch of images. Small images are faster in a batch. Larger ones
#: are not, and images of one batch wait for each other (docs/performance.md).
MAX_DECODED_PIXELS = 512 * 512

#: Up to this many bytes, the tensors that are computed once per request are computed when it begins, in parallel with
#: the steps of other requests. Larger ones (106 MB for 50 steps of FLUX.1) are computed before the first step, so that
#: waiting requests need little memory.
MAX_PREPARED_BYTES = 4 * 2**20
#: Number of tokens of a step from which more than one CPU thread is faster.
MANY_THREADS_FROM_TOKENS = 256


@dataclass(frozen=True)
class GeneratedImage:
    """A generated image.

    latents: packed, (tokens, channels) float32. rgb: decoded, (height, width, 3) uint8; None if only latents are
    requested.
    """

    latents: Array
    rgb: Array | None


class Sampler:
    """Runs the base checkpoint. Only one thread may call `step`; other threads may begin requests and compute results.

    Cache: the current batch, until its members change.
    """

    def __init__(self, base: BaseWeights, attention: str = "auto") -> None:
        """attention: as `way` of `weighted_attention`."""
        self.base = base
        #: Total seconds that `step` has spent on forward passes of the networks and on preparing their inputs.
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
        """Begin a request. Returns one unit of work for each seed.

        transformer: this sampler's, with adapters; None: without adapters. is_decoded: whether the results contain
        pixels or only latents.
        Raises InvalidRequest: the inputs do not fit the checkpoint or the size.
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
        """Returns each image's latents before its first step, (image tokens, channels), and its source for inpainting.

        sigma: of the first step.
        """
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
        """Run one step for every member. Returns for each member the error that ended it, or None.

        If it raises, no member has changed.
        """
        with cpu_threads(self.base.device, is_small=self.tokens(batch) < MANY_THREADS_FROM_TOKENS):
            if self._batch is None or not self._batch.goes_on_with(batch):
                started = time.perf_counter()
                for work in batch:
                    work.steering.prepare()
                self.forward_s += time.perf_counter() - started
                self._batch = Batch(batch, self._attention)
            started = time.perf_counter()
            are_finite = self._batch.step()
            self.forward_s += time.perf_counter() - started
        if not all(work.steps_left for work in batch):
            # This batch is done; free the tensors that were prepared for its members.
            self._batch = None
        return [None if is_finite else GenerationFailed("the latents are not finite") for is_finite in are_finite]

    def tokens(self, batch: Sequence[Denoising]) -> int:
        """Returns the number of tokens that the next step of this batch computes, padding included."""
        return tokens_of_step(batch)

    def results(self, works: Sequence[Denoising]) -> list[GeneratedImage]:
        """Returns the images of finished work with the same grid. Those that need pixels are decoded in one batch."""
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
        """Returns the recipe of each image, with JSON-compatible values."""
        has_guidance = self.base.transformer.config.guidance_embeds
        return [
            {"model": self.base.name, "seed": seed} | parameters.as_recipe(has_guidance) for seed in parameters.seeds
        ]
