"""The page's part of the contract, as JSON: modes and parameters, with their bounds and the defaults of `/v1/jobs`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flux_contract import limits
from flux_contract.modes import MODES, Mode
from flux_contract.parameters import (
    CONTROL_IMAGE,
    IMAGE,
    IMAGE_MASK,
    IMAGE_STRENGTH,
    LORA_SCALE,
    MASK_IMAGE,
    NEGATIVE_PROMPT,
    NUM_INFERENCE_STEPS,
    PROMPT,
    PROMPT_STRENGTH,
    SEED,
    SOURCE_IMAGE,
    TRUE_CFG_SCALE,
)
from flux_gateway.genserve.schema import (
    IMAGE_FIELD,
    IMAGES_FIELD,
    LORA_WEIGHTS,
    MASK_FIELD,
    MASKS_FIELD,
    WEIGHT_WITH_PROMPT,
    changes_redux_image,
    max_images,
)
from flux_gateway.jobs.schema import JobRequest
from flux_gateway.parameter_fields import ParameterField, Value, requires, takes

#: The largest whole number that JavaScript represents exactly.
MAX_JSON_INTEGER = 2**53 - 1
#: By kind of checkpoint; the gateway does not know which is served.
_DEFAULT_STEPS = {"steps": limits.DEFAULT_STEPS, "few": limits.DEFAULT_FEW_STEPS}
_TYPE_NAMES = {int: "integer", float: "number", str: "text"}


def page_contract(modes: Sequence[Mode] = MODES, request: type[JobRequest] = JobRequest) -> dict[str, Any]:
    """Returns the answer of `GET /page/contract.json`.

    A parameter has `min`, `max`, `step`, `multiple` and `max_length`, null where there is no limit, and
    `default`: the API's default in each mode, null if the server or other fields decide;
    `value`: the first value of the control, if it is not the default;
    `empty`: the value that an empty control stands for, null if the field is then left out;
    `default_with_prompt`: where the default differs with a prompt, by mode;
    `default_values`: the values of which the server chooses its default, by name;
    `requires`: the field without which the parameter has no effect;
    `per_image`: whether each image has its own value.
    A mode has `image`: the field of its image, null if it accepts none; `images`: the field of several images, null if
    it accepts at most one; `max_images`; `mask`: the field of the masks of its images, null if it accepts none;
    `needs_mask`: whether it requires one; and `required`: fields that must not be empty.
    """
    fields = [field for field in request.parameter_fields if field.parameter.on_page]
    names = {field.parameter.name: field.name for field in fields}
    requirements = {
        TRUE_CFG_SCALE.name: names.get(NEGATIVE_PROMPT.name),
        PROMPT_STRENGTH.name: names.get(PROMPT.name),
    }
    return {
        "parameters": [_parameter(field, modes, requirements.get(field.parameter.name)) for field in fields],
        "modes": [_mode(mode, fields) for mode in modes],
        "lora_weight": {"min": LORA_WEIGHTS.low, "max": LORA_WEIGHTS.high, "default": LORA_SCALE.default},
    }


def _parameter(field: ParameterField, modes: Sequence[Mode], requirement: str | None) -> dict[str, Any]:
    parameter = field.parameter
    low, high = _limits(field)
    return {
        "name": field.name,
        "type": "choice" if field.choices else _TYPE_NAMES[field.value_type],
        "min": low,
        "max": high,
        "step": parameter.multiple_of if field.value_type is int else None,
        "multiple": parameter.multiple_of if parameter.multiple_of > 1 else None,
        "max_length": parameter.max_characters,
        "choices": list(field.choices),
        "default": {mode.genserve: _default(field, mode) for mode in modes if takes(mode, parameter)},
        "default_with_prompt": _defaults_with_prompt(field, modes),
        "default_values": _DEFAULT_STEPS if parameter.name == NUM_INFERENCE_STEPS.name else {},
        "value": parameter.page_default,
        "empty": limits.RANDOM_SEED if parameter.name == SEED.name else None,
        "requires": requirement,
        "per_image": parameter.per_image,
    }


def _limits(field: ParameterField) -> tuple[Value | None, Value | None]:
    """Lowest and highest value of a number."""
    if field.bounds is None:
        return None, None
    low, high = field.value_type(field.bounds.low), field.value_type(field.bounds.high)
    return low, min(high, MAX_JSON_INTEGER) if isinstance(high, int) else high


def _default(field: ParameterField, mode: Mode) -> Value | None:
    return mode.genserve_defaults.get(field.parameter.name, field.default)


def _defaults_with_prompt(field: ParameterField, modes: Sequence[Mode]) -> dict[str, Value]:
    if field.parameter.name != IMAGE_STRENGTH.name:
        return {}
    return {mode.genserve: WEIGHT_WITH_PROMPT for mode in modes if changes_redux_image(mode)}


def _is_shown(field: ParameterField, mode: Mode) -> bool:
    """Whether the mode has a control for the parameter: the prompt's weight balances it against Redux images."""
    return takes(mode, field.parameter) and (field.parameter.name != PROMPT_STRENGTH.name or requires(mode, IMAGE))


def _mode(mode: Mode, fields: Sequence[ParameterField]) -> dict[str, Any]:
    takes_image = requires(mode, IMAGE) or takes(mode, CONTROL_IMAGE) or takes(mode, SOURCE_IMAGE)
    needs_mask = requires(mode, MASK_IMAGE)
    masks_field = MASKS_FIELD if takes(mode, IMAGE_MASK) else None
    return {
        "name": mode.name,
        "genserve": mode.genserve,
        "purpose": mode.purpose,
        "parameters": [field.name for field in fields if _is_shown(field, mode)],
        "image": IMAGE_FIELD if takes_image else None,
        "images": IMAGES_FIELD if max_images(mode) > 1 else None,
        "max_images": max_images(mode) if takes_image else 0,
        "mask": MASK_FIELD if needs_mask else masks_field,
        "needs_mask": needs_mask,
        "required": [] if takes_image else [field.name for field in fields if field.parameter.name == PROMPT.name],
    }
