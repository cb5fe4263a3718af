"""Schema of GenServe's request and its conversion to a request to Triton."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from flux_contract import limits
from flux_contract.modes import MODES, TEXT2IMG, Mode
from flux_contract.parameters import (
    CONTROL_IMAGE,
    CONTROL_KIND,
    IMAGE,
    IMAGE_MASK,
    IMAGE_STRENGTH,
    LORA,
    LORA_SCALE,
    MASK_IMAGE,
    OUTPUT_FORMAT,
    PRIORITY,
    PROMPT,
    SOURCE_IMAGE,
    STRENGTH,
)
from flux_contract.tensors import Bounds
from flux_gateway.generation import GenerationRequest
from flux_gateway.image_fields import ImageBytes, ImageList, OptionalImages
from flux_gateway.parameter_fields import (
    ParameterBody,
    ParameterField,
    Value,
    parameters_of_any,
    requires,
    takes,
    with_fields,
)
from flux_gateway.parsing import json_value
from flux_gateway.refusals import Refusal
from flux_gateway.request_body import RequestBody

CONTROLNET_TYPE = "canny"
#: Field of the image that a mode requires.
IMAGE_FIELD = "input_image"
#: The field of the mask of inpainting.
MASK_FIELD = "mask_image"
#: The field of several images, and of a mask for each of them.
IMAGES_FIELD, MASKS_FIELD = "input_images", "image_mask"
#: GenServe's range of an adapter's weight, narrower than the contract's.
LORA_WEIGHTS = Bounds(0, 2)
#: A black image of 16x16 pixels, for the description.
_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAADElEQVR4nGNgIA0AAAAwAAEWiZrRAAAAAElFTkSuQmCC"
#: Maximum characters of `loras` in a form.
_LORAS_CHARACTERS = 16_384
#: Redux weight of the image to change if there is a prompt. As in diffusers, only the prompt then guides the result.
WEIGHT_WITH_PROMPT = 0.0
_Request = TypeVar("_Request", bound="GenerateRequest")


class LoraWeight(RequestBody):
    """An adapter that `GET /loras` lists, and its weight."""

    name: str
    weight: float = Field(1.0, ge=LORA_WEIGHTS.low, le=LORA_WEIGHTS.high)


def _loras_of(value: object) -> object:
    """Parse a list, or its JSON text in a form. Raises ValueError: the text is not JSON, or too long."""
    if isinstance(value, list):
        return [_parse_json(each) for each in value]
    parsed = _parse_json(value)
    return [] if parsed is None else parsed


def _parse_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    if len(value) > _LORAS_CHARACTERS:
        raise ValueError(f"{len(value)} characters, expected at most {_LORAS_CHARACTERS}")
    return json_value(value)


def for_modes(modes: Sequence[Mode]) -> Callable[[type[_Request]], type[_Request]]:
    """Decorator: adds `mode` with GenServe's names of these modes, and a field for each of their exposed parameters."""
    exposed = [
        ParameterField(parameter, parameter.genserve)
        for parameter in parameters_of_any(modes)
        if parameter.genserve is not None
    ]
    fields = [replace(field, default_note=_default_note(field, modes)) for field in exposed]
    kind: Any = Literal[tuple(mode.genserve for mode in modes)]
    description = f"Default: the mode of `model_id`, or `{TEXT2IMG.genserve}`"

    def derive(request: type[_Request]) -> type[_Request]:
        derived = with_fields(request, fields, {"mode": (kind, Field(None, description=description))})
        derived.modes = {mode.genserve: mode for mode in modes}
        return derived

    return derive


def max_images(mode: Mode) -> int:
    """Number of input images that a request of the mode may have."""
    return limits.MAX_INPUT_IMAGES if requires(mode, IMAGE) and not takes(mode, STRENGTH) else 1


def changes_redux_image(mode: Mode) -> bool:
    """Whether the image to change is also a Redux image."""
    return takes(mode, STRENGTH) and requires(mode, IMAGE)


def _default_note(field: ParameterField, modes: Sequence[Mode]) -> str:
    """Describe how the default depends on the request; empty if it does not."""
    parameter = field.parameter
    if parameter.name == CONTROL_KIND.name:
        return "Default: `edges` for `control_image`, `photo` for `input_image`"
    if parameter.name == IMAGE_STRENGTH.name:
        changing = " and ".join(f"`{mode.genserve}`" for mode in modes if changes_redux_image(mode))
        return f"Default: {IMAGE_STRENGTH.default:g}, but {WEIGHT_WITH_PROMPT:g} for {changing} with a prompt"
    if not any(parameter.name in mode.genserve_defaults for mode in modes):
        return ""
    by_value: dict[Value | None, list[str]] = {}
    for mode in modes:
        if takes(mode, parameter):
            value = mode.genserve_defaults.get(parameter.name, field.default)
            by_value.setdefault(value, []).append(f"`{mode.genserve}`")
    return "Default: " + "; ".join(f"{value} for {', '.join(names)}" for value, names in by_value.items())


@for_modes(MODES)
class GenerateRequest(ParameterBody):
    """Fields of `POST /generate` and, in a form, of `POST /generate/upload`. Unknown fields are ignored.

    The default of height and width is the checkpoint's native size.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 20, "seed": 7},
                {"mode": "redux", "input_image": _EXAMPLE, "cfg": 2.5, "num_inference_steps": 20},
            ]
        },
    )
    #: By GenServe's name; `for_modes` sets them.
    modes: ClassVar[dict[str, Mode]] = {}

    mode: str | None = None
    model_id: str | None = Field(None, description="Selects a mode if `mode` is omitted")
    priority: int = Field(0, description="Requests with lower numbers are scheduled first")
    input_image: ImageBytes | None = Field(None, validation_alias=AliasChoices(IMAGE_FIELD, "image"))
    input_images: ImageList = Field([], description="Several images of mode `redux`, instead of `input_image`")
    image_mask: OptionalImages = Field(
        [], description=f"{IMAGE_MASK.meaning.replace('IMAGE_MASK', MASKS_FIELD)}; an empty text is no mask"
    )
    mask_image: ImageBytes | None = None
    control_image: ImageBytes | None = None
    controlnet_type: str | None = None
    loras: Annotated[list[LoraWeight], BeforeValidator(_loras_of)] = Field([], max_length=limits.MAX_LORAS)

    @property
    def mode_name(self) -> str:
        """GenServe's name of the mode."""
        return self.mode or self._modes_of_models().get(self.model_id or "", TEXT2IMG.genserve)

    @property
    def model_name(self) -> str:
        return self.model_id or self.modes[self.mode_name].genserve_model

    def wanted(self) -> GenerationRequest:
        """Convert to a request to Triton.

        Raises Refusal: 400 or 422, the mode does not exist, or the mode requires or does not support a field.
        """
        models = self._modes_of_models()
        if self.model_id is not None and self.model_id not in models:
            raise Refusal(422, f"model_id: {self.model_id[:80]!r}, expected one of: {', '.join(models)}", "model_id")
        mode = self.modes[self.mode_name]
        if self.mask_image and not requires(mode, MASK_IMAGE):
            expected = " or ".join(repr(name) for name, each in self.modes.items() if requires(each, MASK_IMAGE))
            words = f"{MASK_FIELD}: not supported in mode {self.mode_name!r}, expected mode {expected}"
            raise Refusal(400, words, MASK_FIELD)
        keywords: dict[str, Any] = {
            PRIORITY.python_name: max(limits.MIN_PRIORITY, min(limits.MAX_PRIORITY, -self.priority)),
            OUTPUT_FORMAT.python_name: limits.DEFAULT_FORMAT,
            **self.keywords(mode, mode.genserve_defaults),
        }
        has_prompt = PROMPT.python_name in keywords
        if self.loras:
            keywords |= {
                LORA.python_name: [lora.name for lora in self.loras],
                LORA_SCALE.python_name: [lora.weight for lora in self.loras],
            }
        images: list[bytes] = []
        if takes(mode, CONTROL_IMAGE):
            keywords |= self._control(keywords)
        elif requires(mode, MASK_IMAGE):
            keywords |= self._inpainting(keywords)
        elif requires(mode, IMAGE):
            images = self._redux_images(mode)
            if any(self.image_mask):
                keywords[IMAGE_MASK.python_name] = [mask or None for mask in self.image_mask]
        elif not has_prompt:
            raise self._missing(self.field_of(PROMPT))
        if changes_redux_image(mode) and has_prompt:
            keywords.setdefault(IMAGE_STRENGTH.python_name, WEIGHT_WITH_PROMPT)
        return GenerationRequest(mode, images, keywords)

    @classmethod
    def _modes_of_models(cls) -> dict[str, str]:
        """Return the mode of each model, for a request without a mode. If a model has several modes, the last one."""
        return {mode.genserve_model: name for name, mode in cls.modes.items()}

    def _redux_images(self, mode: Mode) -> list[bytes]:
        """Raises Refusal: 422, there is none, or there are more than the mode accepts."""
        images = [*filter(None, [self.input_image]), *self.input_images]
        if not images:
            raise self._missing(IMAGE_FIELD)
        if len(images) > (most := max_images(mode)):
            expected = "one" if most == 1 else f"1..{most}"
            words = f"{IMAGES_FIELD}: {len(images)} images in mode {self.mode_name!r}, expected {expected}"
            raise Refusal(422, words, IMAGES_FIELD)
        return images

    def _control(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Return the control image, and the keywords whose default depends on it."""
        if self.controlnet_type not in (None, CONTROLNET_TYPE):
            raise Refusal(
                400,
                f"controlnet_type: {self.controlnet_type!r} is not supported; supported: {CONTROLNET_TYPE}",
                "controlnet_type",
            )
        image = self.control_image or self.input_image
        if not image:
            raise Refusal(
                422, f"control_image: mode {self.mode_name!r} requires it, or a photo in input_image", "control_image"
            )
        photo, edges = limits.CONTROL_KINDS
        return {
            CONTROL_IMAGE.python_name: image,
            CONTROL_KIND.python_name: keywords.get(CONTROL_KIND.python_name, edges if self.control_image else photo),
            # The prompt is required, but may be empty.
            PROMPT.python_name: keywords.get(PROMPT.python_name, ""),
        }

    def _inpainting(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """The image, its mask, and the prompt, which is required but may be empty."""
        if not self.input_image:
            raise self._missing(IMAGE_FIELD)
        if not self.mask_image:
            raise self._missing(MASK_FIELD)
        return {
            SOURCE_IMAGE.python_name: self.input_image,
            MASK_IMAGE.python_name: self.mask_image,
            PROMPT.python_name: keywords.get(PROMPT.python_name, ""),
        }

    def _missing(self, field: str) -> Refusal:
        return Refusal(422, f"{field}: mode {self.mode_name!r} requires it", field)


class GenerateAnswer(BaseModel):
    """GenServe's nine keys, which are always present, and `seed`, `width` and `height`. image_base64: a PNG."""

    model_config = ConfigDict(protected_namespaces=())

    success: bool
    task_id: str
    image_base64: str | None = None
    error: str | None = None
    elapsed_time: float = Field(description="seconds")
    gpu_id: str | None = None
    model_id: str | None = None
    mode: str | None = None
    controlnet_type: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    #: Only of an error: the message again, under the key that FastAPI uses.
    detail: str | None = Field(None, exclude_if=lambda value: value is None)
