"""Splits the steps of a request into phases in which its conditions do not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from torch import Tensor

from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import CONTEXT_WEIGHTS
from flux_serving.conditioning.context import Context, Phase
from flux_serving.conditioning.span import Span
from flux_serving.network.controlnet import ControlNet
from flux_serving.network.latents import Grid
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.conditioning import (
    Conditioning,
    ControlConditioning,
    ControlImage,
    Embedding,
    NegativeConditioning,
    Steering,
)
from flux_serving.sampling.noise_schedule import NoiseSchedule
from flux_serving.sampling.sampling_parameters import SamplingParameters


def steer(
    transformer: Transformer,
    parameters: SamplingParameters,
    context: Context,
    negative: Context | None,
    control: tuple[ControlNet, Tensor] | None,
    steps: range,
    grid: Grid,
    schedule: NoiseSchedule,
) -> list[Steering]:
    """Returns the conditions of each phase of these steps. control: the ControlNet, and the control image's latents.

    Raises InvalidRequest: at some step, no context token is used.
    """

    def conditioning(embedding: Embedding, phase: Phase) -> Conditioning:
        return Conditioning(embedding, phase, parameters.guidance, grid, schedule)

    embedding = Embedding(transformer, context.condensed())
    negative_embedding = None if negative is None else Embedding(transformer, negative.condensed())
    control_image, controlled = None, range(0)
    if control is not None:
        network, latents = control
        control_image, control_embedding = ControlImage(network, latents), Embedding(network, embedding.context)
        controlled = control_steps(parameters.control_span, parameters.steps)
    phases = [
        phase
        for phase in _split(embedding.context.phases(parameters.steps), controlled)
        # A run that begins or ends within a phase uses the whole phase, so that splitting a run in two changes nothing.
        if phase.first_step < steps.stop and steps.start < phase.end_step
    ]
    _check_phases(phases)
    return [
        Steering(
            transformer,
            conditioning(embedding, phase),
            None
            if negative_embedding is None
            else NegativeConditioning(
                conditioning(negative_embedding, _whole(negative_embedding, phase)), parameters.true_cfg_scale
            ),
            ControlConditioning(conditioning(control_embedding, phase), control_image, parameters.control_scale)
            if control_image is not None and phase.first_step in controlled
            else None,
        )
        for phase in phases
    ]


def control_steps(span: Span, steps: int) -> range:
    """Returns the steps that use a ControlNet. Source: diffusers, `FluxControlNetPipeline.__call__`, step 6."""
    kept = [step for step in range(steps) if step / steps >= span.start and (step + 1) / steps <= span.end]
    return range(kept[0], kept[-1] + 1) if kept else range(0)


def _split(phases: Sequence[Phase], controlled: range) -> list[Phase]:
    """Split phases where the ControlNet starts or ends."""
    parts = []
    for phase in phases:
        cuts = {phase.first_step, phase.end_step}
        cuts |= {step for step in (controlled.start, controlled.stop) if phase.first_step < step < phase.end_step}
        parts += [replace(phase, first_step=first, end_step=end) for first, end in pairwise(sorted(cuts))]
    return parts


def _whole(embedding: Embedding, phase: Phase) -> Phase:
    """Returns a phase with the same steps that uses the whole context of the embedding."""
    (always,) = embedding.context.phases(1)
    return replace(always, first_step=phase.first_step, end_step=phase.end_step)


def _check_phases(phases: Sequence[Phase]) -> None:
    """Raises InvalidRequest: a phase has no context token, because of spans and weights of 0."""
    for phase in phases:
        if not len(phase.index):
            raise InvalidRequest(
                f"{CONTEXT_WEIGHTS.name} are all 0 at step {phase.first_step}, expected at least one above 0"
            )
