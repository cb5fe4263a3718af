"""The tensors that other models hand to `flux_base`, as the sampler takes them. Everything is copied."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import (
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    CONTROL_LATENTS,
    INITIAL_LATENTS,
    LATENTS,
    NEGATIVE,
    NEGATIVE_CONTEXT_WEIGHTS,
    POOLED_SPAN,
    POSITIVE,
    SOURCE_LATENTS,
    SOURCE_PIXELS,
)
from flux_contract.parameters import PRIORITY
from flux_contract.tensors import Array, Tensor
from flux_serving.backend.accepted_request import AcceptedRequest
from flux_serving.conditioning.context import ALWAYS, Context, Span
from flux_serving.sampling.sampler import GeneratedImage
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.sampling.sampling_parameters import SamplingParameters
from flux_serving.scheduling.job import JobLeft


def without_placeholders(values: Mapping[str, Array]) -> dict[str, Array]:
    """Without the negative prompt where it is none: `flux_prior_redux` answers with all of its outputs."""
    weights = values.get(NEGATIVE_CONTEXT_WEIGHTS.name)
    absent = {tensor.name for tensor in NEGATIVE} if weights is not None and not weights.any() else set()
    return {name: array for name, array in values.items() if name not in absent}


def read_sampler_inputs(values: Mapping[str, Array]) -> SamplerInputs:
    """Raises InvalidRequest: a part of the negative prompt is missing."""
    spans, pooled_span = values.get(CONTEXT_SPANS.name), values.get(POOLED_SPAN.name)
    context = replace(
        _context(values, POSITIVE),
        spans=None if spans is None else torch.tensor(spans),
        pooled_span=ALWAYS if pooled_span is None else Span(*pooled_span.tolist()),
    )
    negative = None
    if given := {tensor.name for tensor in NEGATIVE} & values.keys():
        if missing := [tensor.name for tensor in NEGATIVE if tensor.name not in given]:
            raise InvalidRequest(f"{missing[0]} is missing")
        negative = _context(values, NEGATIVE)
    latents = (values.get(tensor.name) for tensor in (INITIAL_LATENTS, SOURCE_LATENTS, CONTROL_LATENTS))
    return SamplerInputs(context, negative, *latents)


def _context(values: Mapping[str, Array], names: Sequence[Tensor]) -> Context:
    tokens, weights, pooled = (torch.tensor(values[tensor.name]) for tensor in names)
    return Context(tokens, weights, pooled)


def unchanged(
    values: Mapping[str, Array], parameters: SamplingParameters, accepted: AcceptedRequest
) -> list[GeneratedImage]:
    """The picture itself, as often as it is wanted. Raises InvalidRequest: it is not there, or of another size."""
    pixels = _of_shape(SOURCE_PIXELS, values, (parameters.height, parameters.width, 3))
    latents = np.zeros((1, 1), np.float32)
    if accepted.wants(LATENTS):
        latents = values[SOURCE_LATENTS.name]
        if latents.size == 1:
            raise InvalidRequest(f"{LATENTS.name} are wanted, but a picture that stays as it is, is not encoded")
    return [GeneratedImage(latents, pixels)] * len(parameters.seeds)


def _of_shape(tensor: Tensor, values: Mapping[str, Array], shape: tuple[int, ...]) -> Array:
    if tensor.name not in values:
        raise InvalidRequest(f"{tensor.name} is missing, which is to stay as it is")
    array = values[tensor.name]
    if array.shape != shape:
        raise InvalidRequest(f"{tensor.name} has shape {list(array.shape)}, expected {list(shape)}")
    return np.array(array)


def planned_jobs(parameters: SamplingParameters, values: Mapping[str, Array], token_side: int) -> list[JobLeft]:
    """The jobs of a request, estimated before its material is read. token_side: pixels of an image token.

    values: without placeholders. Empty if the request takes no step. With START_SIGMA there may be fewer steps.
    """
    if parameters.is_unchanged:
        return []
    image_tokens = parameters.height * parameters.width // token_side**2
    contexts = [values[tensor.name] for tensor in (CONTEXT_WEIGHTS, NEGATIVE_CONTEXT_WEIGHTS) if tensor.name in values]
    rows = len(contexts) + (CONTROL_LATENTS.name in values)
    tokens = rows * (image_tokens + max(int(np.count_nonzero(weights)) for weights in contexts))
    job = JobLeft(group_hash(parameters), tokens, max(1, parameters.steps_to_run), int(PRIORITY.value_in(values)))
    return [job] * len(parameters.seeds)


def group_hash(parameters: SamplingParameters) -> int:
    """A 64-bit hash that is equal for jobs that can share steps: the same size and the same adapters."""
    alike = (parameters.height, parameters.width, [(lora.name, lora.scale) for lora in parameters.loras])
    return int.from_bytes(hashlib.blake2b(repr(alike).encode(), digest_size=8).digest(), "little")
