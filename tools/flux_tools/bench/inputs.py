"""Inputs of a flux-triton request in any mode, equivalent to the stock pipelines of `stock`."""

from __future__ import annotations

from typing import Any

from flux_contract.modes import BY_NAME, REDUX
from flux_contract.parameter import Parameter
from flux_contract.parameters import (
    CONTROL_IMAGE,
    FIT,
    GUIDANCE_SCALE,
    HEIGHT,
    IMAGE,
    IMAGE_STRENGTH,
    IMG2IMG_IMAGE,
    MASK_IMAGE,
    NUM_INFERENCE_STEPS,
    PROMPT,
    SEED,
    SOURCE_IMAGE,
    WIDTH,
)
from flux_contract.parameters import STRENGTH as STRENGTH_PARAMETER
from flux_tools.bench.images import mask_of
from flux_tools.bench.plan import GUIDANCE, STRENGTH, ImageOptions


def inputs_of(image: bytes, job: ImageOptions) -> dict[Parameter, Any]:
    """Return the input values by parameter.

    As in the stock pipelines, only the image guides redux, only the prompt guides the other modes, and images of
    another aspect ratio are stretched.
    """
    mode = BY_NAME[job.mode]
    values: dict[str, Any] = {
        IMAGE.name: image,
        CONTROL_IMAGE.name: image,
        SOURCE_IMAGE.name: image,
        MASK_IMAGE.name: mask_of(image),
        PROMPT.name: job.prompt,
        STRENGTH_PARAMETER.name: STRENGTH,
        FIT.name: "stretch",
        HEIGHT.name: job.side,
        WIDTH.name: job.side,
        NUM_INFERENCE_STEPS.name: job.steps,
        GUIDANCE_SCALE.name: GUIDANCE,
        SEED.name: job.seed,
    }
    if IMG2IMG_IMAGE in mode.subjects:
        values[IMAGE_STRENGTH.name] = 0.0
    unused = PROMPT.name if mode == REDUX else ""
    return {
        parameter: values[parameter.name]
        for parameter in mode.parameters
        if parameter.name in values
        and parameter.name != unused
        # An optional image would guide the result.
        and not (parameter.name == IMAGE.name and parameter.optional)
    }
