"""Reads `ConditionOptions` from a request's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import FluxPriorReduxPipeline

from flux_contract import parameters
from flux_contract.tensors import Array
from flux_serving.backend.option_values import read_declared, read_declared_each, read_spans, read_text
from flux_serving.conditioning.condition import ConditionOptions
from flux_serving.conditioning.image_control import ImageControl
from flux_serving.conditioning.prompt_encoding import check_prompt
from flux_serving.conditioning.showing import ConditionImage


def read_condition_options(values: Mapping[str, Array], prior: FluxPriorReduxPipeline) -> ConditionOptions:
    """Read the options. values: the tensors that are present, by name, already checked against the contract.

    Raises InvalidRequest: a prompt is too long or cannot be encoded here, a tensor does not have one value for each
    image, or a span ends before it starts.
    """
    encoded = values[parameters.IMAGE.name].tolist() if parameters.IMAGE.name in values else []
    prompt, negative_prompt = (
        read_text(values, tensor) if tensor.name in values else None
        for tensor in (parameters.PROMPT, parameters.NEGATIVE_PROMPT)
    )
    if not prompt and (encoded or prior.text_encoder is None):
        # With images, diffusers' Redux treats an empty prompt as no prompt. Without images, it encodes the empty text.
        prompt = None
    check_prompt(prior, parameters.PROMPT, prompt)
    check_prompt(prior, parameters.NEGATIVE_PROMPT, negative_prompt)
    controls = read_image_controls(values, len(encoded))
    (prompt_span,) = read_spans(values, parameters.PROMPT_START, parameters.PROMPT_END, 1)
    masks = parameters.IMAGE_MASK.values_in(values, len(encoded))
    return ConditionOptions(
        images=[ConditionImage(*of_one) for of_one in zip(encoded, masks, controls, strict=True)],
        prompt=prompt,
        negative_prompt=negative_prompt,
        prompt_span=prompt_span,
        **read_declared(values, ConditionOptions),
    )


def read_image_controls(values: Mapping[str, Array], count: int) -> list[ImageControl]:
    """Read the controls of `count` images.

    Raises InvalidRequest: a tensor does not have one value for each image, or a span ends before it starts.
    """
    spans = read_spans(values, parameters.IMAGE_START, parameters.IMAGE_END, count)
    declared = read_declared_each(values, ImageControl, count)
    return [ImageControl(span=span, **of_one) for span, of_one in zip(spans, declared, strict=True)]
