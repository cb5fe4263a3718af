"""The tensors of a request for the sampler, and checks of their shapes and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import (
    CONTEXT,
    CONTEXT_SPANS,
    CONTEXT_WEIGHTS,
    CONTROL_LATENTS,
    INITIAL_LATENTS,
    NEGATIVE_CONTEXT,
    NEGATIVE_CONTEXT_WEIGHTS,
    NEGATIVE_POOLED_PROJECTION,
    POOLED_PROJECTION,
    SOURCE_LATENTS,
    SOURCE_MASK,
)
from flux_contract.tensors import Array
from flux_contract.tensors import Tensor as Input
from flux_serving.conditioning.context import Context
from flux_serving.network.latents import Grid


@dataclass(frozen=True)
class SamplerInputs:
    """The tensors of a request for the sampler.

    context, negative: float32, on the CPU. negative: None without a negative prompt. initial_latents: latents before
    the first step, (images, image tokens, channels); None for noise. source_latents: (image tokens, channels) of the
    image to change. control_latents: (image tokens, channels) of the control image. source_mask: (rows, columns) of
    latents, 0..1, 1 where the source image is changed; it requires source_latents.
    """

    context: Context
    negative: Context | None = None
    initial_latents: Array | None = None
    source_latents: Array | None = None
    control_latents: Array | None = None
    source_mask: Array | None = None

    def check(self, images: int, grid: Grid, channels: int, context_width: int, pooled_width: int) -> None:
        """Raises InvalidRequest: a tensor has a wrong shape or non-finite values."""
        _check_context(self.context, context_width, pooled_width, (CONTEXT, CONTEXT_WEIGHTS, POOLED_PROJECTION))
        if self.negative is not None:
            negative = (NEGATIVE_CONTEXT, NEGATIVE_CONTEXT_WEIGHTS, NEGATIVE_POOLED_PROJECTION)
            _check_context(self.negative, context_width, pooled_width, negative)
        of_one = (grid.tokens, channels)
        _check_latents(INITIAL_LATENTS, self.initial_latents, (images, *of_one))
        _check_latents(SOURCE_LATENTS, self.source_latents, of_one)
        _check_latents(CONTROL_LATENTS, self.control_latents, of_one)
        _check_latents(SOURCE_MASK, self.source_mask, (2 * grid.rows, 2 * grid.columns))


def as_latents(latents: Array, dtype: torch.dtype) -> Tensor:
    """Copy to a tensor."""
    return torch.tensor(latents).to(dtype)


def _check_latents(tensor: Input, latents: Array | None, expected: tuple[int, ...]) -> None:
    if latents is None:
        return
    if latents.shape != expected:
        raise InvalidRequest(f"{tensor.name} has shape {list(latents.shape)}, expected {list(expected)}")
    if not np.isfinite(latents).all():
        raise InvalidRequest(f"{tensor.name} has non-finite values")


def _check_context(context: Context, width: int, pooled_width: int, names: tuple[Input, Input, Input]) -> None:
    tokens, weights, pooled = (tensor.name for tensor in names)
    if context.tokens.shape[1] != width:
        raise InvalidRequest(f"{tokens} has tokens of width {context.tokens.shape[1]}, expected {width}")
    if len(context.tokens) != len(context.weights):
        raise InvalidRequest(
            f"{tokens} has {len(context.tokens)} tokens, but {weights} has {len(context.weights)} values, "
            "expected one per token"
        )
    if len(context.pooled) != pooled_width:
        raise InvalidRequest(f"{pooled} has {len(context.pooled)} values, expected {pooled_width}")
    if context.spans is not None and len(context.spans) != len(context.tokens):
        raise InvalidRequest(
            f"{tokens} has {len(context.tokens)} tokens, but {CONTEXT_SPANS.name} has {len(context.spans)} rows, "
            "expected one per token"
        )
    if not bool(torch.isfinite(context.tokens).all() and torch.isfinite(context.pooled).all()):
        raise InvalidRequest(f"{tokens} or {pooled} has non-finite values")
