"""Reads the options of a request to `flux_base` from its tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch

from flux_contract.codes import error_of
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import (
    CONTEXT_SPANS,
    CONTROL_LATENTS,
    INITIAL_LATENTS,
    NEGATIVE,
    NEGATIVE_CONTEXT_WEIGHTS,
    POOLED_SPAN,
    POSITIVE,
    PROGRESS_ADDRESS,
    REFUSALS,
    SOURCE_LATENTS,
    SOURCE_MASK,
    SOURCE_PIXELS,
)
from flux_contract.parameters import PRIORITY
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.option_values import read_declared, read_format, read_text
from flux_serving.backend.sampling_options import read_sampling_parameters
from flux_serving.conditioning.context import Context
from flux_serving.conditioning.span import ALWAYS, Span
from flux_serving.images.image_size import Sides
from flux_serving.sampling.preview import PreviewOptions
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.scheduling.job import JobLeft


@dataclass(frozen=True)
class UnchangedImage:
    """A source image that is returned unchanged.

    pixels: (height, width, 3) uint8. latents: (image tokens, channels); (1, 1) if the image is not encoded.
    """

    pixels: Array
    latents: Array


@dataclass(frozen=True)
class BaseOptions:
    """The options of a request to `flux_base`, as copies that outlive `execute`.

    token_side: pixels of an image token's side. progress_address: where `flux_stream` listens; empty for none.
    """

    parameters: SamplingParameters
    inputs: SamplerInputs | UnchangedImage
    token_side: int
    preview: PreviewOptions
    priority: Annotated[int, PRIORITY]
    progress_address: Annotated[str, PROGRESS_ADDRESS]

    def planned_jobs(self) -> list[JobLeft]:
        """Returns the request's jobs, as placement needs them; empty if the request runs no step.

        With START_SIGMA, the jobs may run fewer steps. Raises InvalidRequest: STRENGTH needs more steps.
        """
        inputs, parameters = self.inputs, self.parameters
        if isinstance(inputs, UnchangedImage):
            return []
        image_tokens = parameters.height * parameters.width // self.token_side**2
        contexts = [context for context in (inputs.context, inputs.negative) if context is not None]
        rows = len(contexts) + (inputs.control_latents is not None)
        tokens = rows * (image_tokens + max(int(context.weights.count_nonzero()) for context in contexts))
        job = JobLeft(group_hash(parameters), tokens, max(1, parameters.steps_to_run), self.priority)
        return [job] * len(parameters.seeds)


def group_hash(parameters: SamplingParameters) -> int:
    """Returns a 64-bit hash that is equal for jobs that can share steps: those with the same size and adapters."""
    alike = (parameters.height, parameters.width, [(lora.name, lora.scale) for lora in parameters.loras])
    return int.from_bytes(hashlib.blake2b(repr(alike).encode(), digest_size=8).digest(), "little")


def read_base_options(values: Mapping[str, Array], sides: Sides, default_steps: int) -> BaseOptions:
    """Read the options. values: the tensors that are present, by name, already checked against the contract.

    sides, default_steps: of the checkpoint.
    Raises FluxError: another model has rejected a part of the request. Raises InvalidRequest: as
    `read_sampling_parameters` does, or a required input is missing or has the wrong shape.
    """
    for tensor in REFUSALS:
        if refused := read_text(values, tensor):
            # The server's models always add a code; a text without one comes from the caller.
            raise error_of(refused, without=InvalidRequest)
    # image_encode uses the format. It is also checked here, so that an invalid format costs no denoising steps.
    read_format(values)
    values = _without_placeholders(values)
    parameters = read_sampling_parameters(values, sides, default_steps)
    return BaseOptions(
        parameters=parameters,
        inputs=_read_unchanged(values, parameters) if parameters.is_unchanged else _read_inputs(values),
        token_side=sides.multiple,
        preview=PreviewOptions(**read_declared(values, PreviewOptions)),
        **read_declared(values, BaseOptions),
    )


def _without_placeholders(values: Mapping[str, Array]) -> Mapping[str, Array]:
    """Remove the negative prompt if all its weights are 0: `flux_prior_redux` always returns all of its outputs."""
    weights = values.get(NEGATIVE_CONTEXT_WEIGHTS.name)
    absent = {tensor.name for tensor in NEGATIVE} if weights is not None and not weights.any() else set()
    return {name: array for name, array in values.items() if name not in absent}


def _read_inputs(values: Mapping[str, Array]) -> SamplerInputs:
    """Read the context and latents. Raises InvalidRequest: a part of the negative prompt is missing."""
    spans, pooled_span = values.get(CONTEXT_SPANS.name), values.get(POOLED_SPAN.name)
    context = replace(
        _read_context(values, POSITIVE),
        spans=None if spans is None else torch.tensor(spans),
        pooled_span=ALWAYS if pooled_span is None else Span(*pooled_span.tolist()),
    )
    negative = None
    if given := {tensor.name for tensor in NEGATIVE} & values.keys():
        if missing := [tensor.name for tensor in NEGATIVE if tensor.name not in given]:
            raise InvalidRequest(f"{missing[0]} is missing")
        negative = _read_context(values, NEGATIVE)
    latents = (
        np.array(values[tensor.name]) if tensor.name in values else None
        for tensor in (INITIAL_LATENTS, SOURCE_LATENTS, CONTROL_LATENTS, SOURCE_MASK)
    )
    return SamplerInputs(context, negative, *latents)


def _read_context(values: Mapping[str, Array], tensors: Sequence[Tensor]) -> Context:
    tokens, weights, pooled = (torch.tensor(values[tensor.name]) for tensor in tensors)
    return Context(tokens, weights, pooled)


def _read_unchanged(values: Mapping[str, Array], parameters: SamplingParameters) -> UnchangedImage:
    """Read the unchanged image. Raises InvalidRequest: the pixels are missing, or have the wrong size."""
    if SOURCE_PIXELS.name not in values:
        raise InvalidRequest(f"{SOURCE_PIXELS.name} is missing; it is required for an image that stays unchanged")
    pixels, expected = np.array(values[SOURCE_PIXELS.name]), (parameters.height, parameters.width, 3)
    if pixels.shape != expected:
        raise InvalidRequest(f"{SOURCE_PIXELS.name} has shape {list(pixels.shape)}, expected {list(expected)}")
    return UnchangedImage(pixels, np.array(values[SOURCE_LATENTS.name]))
