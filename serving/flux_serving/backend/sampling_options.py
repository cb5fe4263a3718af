"""Reads `SamplingParameters` from a request's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from flux_contract import parameters
from flux_contract.errors import InvalidRequest
from flux_contract.internal_tensors import INITIAL_LATENTS, NEGATIVE_CONTEXT, SOURCE_LATENTS, SOURCE_MASK
from flux_contract.seeds import image_seeds
from flux_contract.tensors import Array
from flux_serving.backend.option_values import read_declared, read_size, read_spans
from flux_serving.conditioning.span import Span
from flux_serving.images.image_size import Sides
from flux_serving.sampling.sampling_parameters import Lora, SamplingParameters


def read_sampling_parameters(values: Mapping[str, Array], sides: Sides, default_steps: int) -> SamplingParameters:
    """Read the parameters. values: the tensors that are present, by name, already checked against the contract.

    sides, default_steps: of the checkpoint. Random seeds differ between calls.
    Raises InvalidRequest: a side is not a valid multiple, a seed exceeds the largest one, no step is left to run, or an
    input requires or excludes another one.
    """
    height, width = read_size(values, sides)
    steps = int(parameters.NUM_INFERENCE_STEPS.value_in(values, default_steps))
    first_step = int(parameters.START_STEP.value_in(values))
    end_step = int(parameters.END_STEP.value_in(values, steps))
    _check_steps(first_step, end_step, steps, has_latents=INITIAL_LATENTS.name in values)
    strength, start_sigma = _read_source_change(values)
    (control_span,) = read_spans(values, parameters.CONTROL_START, parameters.CONTROL_END, 1)
    declared = read_declared(values, SamplingParameters)
    _check_true_cfg(declared["true_cfg_scale"], has_negative=NEGATIVE_CONTEXT.name in values)
    return SamplingParameters(
        height=height,
        width=width,
        steps=steps,
        first_step=first_step,
        end_step=end_step,
        seeds=image_seeds(values),
        strength=strength,
        start_sigma=start_sigma,
        # Rounded like the strength: 0.1 in float32 is above 0.1, so the span would start a step later.
        control_span=Span(round(control_span.start, 6), round(control_span.end, 6)),
        loras=_read_loras(values),
        **declared,
    )


def read_change(values: Mapping[str, Array]) -> tuple[float | None, float | None]:
    """Returns STRENGTH and START_SIGMA of a source image, one of them None. Raises InvalidRequest: both are given."""
    if parameters.START_SIGMA.name not in values:
        # 0.6 in float32 is 0.60000002, which would begin a step earlier than diffusers does.
        return round(float(parameters.STRENGTH.value_in(values)), 6), None
    if parameters.STRENGTH.name in values:
        raise InvalidRequest(
            f"{parameters.STRENGTH.name} and {parameters.START_SIGMA.name} set the same thing on different scales, "
            "expected one of them"
        )
    return None, round(float(parameters.START_SIGMA.value_in(values)), 6)


def _read_source_change(values: Mapping[str, Array]) -> tuple[float | None, float | None]:
    """Returns the same as `read_change`; both None without a source image."""
    need_source = (parameters.STRENGTH, parameters.START_SIGMA, SOURCE_MASK)
    given = [tensor.name for tensor in need_source if tensor.name in values]
    if SOURCE_LATENTS.name not in values:
        if given:
            raise InvalidRequest(f"{given[0]} needs {SOURCE_LATENTS.name}")
        return None, None
    if INITIAL_LATENTS.name in values:
        raise InvalidRequest(f"{SOURCE_LATENTS.name} and {INITIAL_LATENTS.name} are given, expected one of them")
    return read_change(values)


def _read_loras(values: Mapping[str, Array]) -> tuple[Lora, ...]:
    if parameters.LORA.name not in values:
        if parameters.LORA_SCALE.name in values:
            raise InvalidRequest(f"{parameters.LORA_SCALE.name} needs {parameters.LORA.name}")
        return ()
    names = parameters.LORA.texts_in(values)
    if len(set(names)) < len(names):
        raise InvalidRequest(f"{parameters.LORA.name} names an adapter twice")
    scales = parameters.LORA_SCALE.values_in(values, len(names), "adapters")
    return tuple(Lora(name, float(scale)) for name, scale in zip(names, scales, strict=True))


def _check_steps(first: int, end: int, steps: int, has_latents: bool) -> None:
    """Check START_STEP and END_STEP. has_latents: whether INITIAL_LATENTS is given."""
    if end > steps:
        raise InvalidRequest(f"{parameters.END_STEP.name}={end}, expected at most {steps} steps")
    if first >= end:
        raise InvalidRequest(
            f"{parameters.START_STEP.name}={first}, expected 0..{end - 1}: {end} is where the run ends"
        )
    if first and not has_latents:
        raise InvalidRequest(f"{parameters.START_STEP.name}={first} needs {INITIAL_LATENTS.name}")


def _check_true_cfg(scale: float, has_negative: bool) -> None:
    """Check that TRUE_CFG_SCALE and NEGATIVE_PROMPT are used together: neither has an effect without the other."""
    if scale != 1 and not has_negative:
        raise InvalidRequest(
            f"{parameters.TRUE_CFG_SCALE.name}={scale:g} needs {parameters.NEGATIVE_PROMPT.name}, which may be empty"
        )
    if scale == 1 and has_negative:
        raise InvalidRequest(f"{parameters.NEGATIVE_PROMPT.name} needs {parameters.TRUE_CFG_SCALE.name} above 1")
