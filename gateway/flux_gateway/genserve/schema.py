"""GenServe's request, by its own names, to what is wanted of Triton."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from flux_client import ModeName
from flux_contract import limits
from flux_gateway.generation import GenerationRequest
from flux_gateway.image_fields import ImageBytes
from flux_gateway.negative_prompts import negative_knobs
from flux_gateway.parsing import json_value
from flux_gateway.refusals import Refusal
from flux_gateway.request_body import RequestBody

#: By GenServe's name of a mode: ours, and the model that stands for it.
MODES: dict[str, tuple[ModeName, str]] = {
    "redux": ("redux", "flux1-redux-dev"),
    "img2img": ("img2img", "flux1-dev"),
    "text2img": ("text2img", "flux1-dev"),
    "controlnet": ("canny", "flux1-canny-dev"),
}
#: The mode of a request that names a model alone.
_MODE_OF_MODEL = {"flux1-redux-dev": "redux", "flux1-dev": "text2img", "flux1-canny-dev": "controlnet"}
CONTROLNET_TYPE = "canny"
#: A black picture of 16x16 pixels, for the description.
_EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAADElEQVR4nGNgIA0AAAAwAAEWiZrRAAAAAElFTkSuQmCC"
#: Of a form's text for `loras`.
_LORAS_CHARACTERS = 16_384
#: Distilled guidance where none is asked for.
_CFG, _REDUX_CFG = 3.5, limits.DEFAULT_GUIDANCE


_Side = Annotated[
    # Triton refuses what is no multiple.
    int | None,
    Field(ge=limits.MIN_SIDE, le=limits.MAX_SIDE, json_schema_extra={"multipleOf": limits.SIDE_MULTIPLE}),
]


class LoraWeight(RequestBody):
    """An adapter of `GET /loras`, and how much of it."""

    name: str
    weight: float = Field(1.0, ge=0, le=2)


def _loras_of(value: object) -> object:
    """A list, which a form has as JSON text. Raises ValueError: the text is no JSON, or too long."""
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


class GenerateRequest(RequestBody):
    """Fields of `POST /generate` and, in a form, of `POST /generate/upload`; unknown ones are ignored.

    Left out, height and width are the checkpoint's own size, and num_inference_steps is what it is made for.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"mode": "text2img", "prompt": "red apple", "num_inference_steps": 20, "seed": 7},
                {"mode": "redux", "input_image": _EXAMPLE, "cfg": 2.5, "num_inference_steps": 20},
            ]
        },
    )

    mode: Literal["text2img", "img2img", "redux", "controlnet"] | None = None
    model_id: str | None = None
    prompt: str | None = Field(None, max_length=limits.MAX_PROMPT_CHARACTERS)
    negative_prompt: str | None = Field(None, max_length=limits.MAX_PROMPT_CHARACTERS)
    height: _Side = None
    width: _Side = None
    num_inference_steps: int | None = Field(None, ge=1, le=limits.MAX_STEPS)
    cfg: float | None = Field(
        None, ge=0, le=limits.MAX_GUIDANCE, validation_alias=AliasChoices("cfg", "guidance_scale")
    )
    #: With negative_prompt: how far from it.
    true_cfg_scale: float | None = Field(None, ge=1, le=limits.MAX_GUIDANCE)
    seed: int = Field(limits.DEFAULT_SEED, ge=limits.RANDOM_SEED, le=limits.MAX_SEED)
    #: Lower goes first.
    priority: int = 0
    strength: float = Field(0.8, ge=0, le=1)
    input_image: ImageBytes | None = Field(None, validation_alias=AliasChoices("input_image", "image"))
    mask_image: ImageBytes | None = None
    control_image: ImageBytes | None = None
    #: By default edges where control_image is given, and photo where only input_image is.
    control_kind: Literal[limits.CONTROL_KINDS] | None = None  # type: ignore[valid-type]
    controlnet_type: str | None = None
    controlnet_conditioning_scale: float = Field(1.0, ge=0, le=limits.MAX_CONTROL_SCALE)
    control_guidance_start: float = Field(0.0, ge=0, le=1)
    control_guidance_end: float = Field(1.0, ge=0, le=1)
    loras: Annotated[list[LoraWeight], BeforeValidator(_loras_of)] = Field([], max_length=limits.MAX_LORAS)

    @property
    def mode_name(self) -> str:
        return self.mode or _MODE_OF_MODEL.get(self.model_id or "", "text2img")

    @property
    def model_name(self) -> str:
        return self.model_id or MODES[self.mode_name][1]

    def wanted(self) -> GenerationRequest:
        """Raises Refusal: 400 or 422, this server has no such mode, or the mode needs or excludes a field."""
        if self.model_id is not None and self.model_id not in _MODE_OF_MODEL:
            raise Refusal(
                422, f"model_id: {self.model_id[:80]!r}, expected one of: {', '.join(_MODE_OF_MODEL)}", "model_id"
            )
        if self.mask_image:
            raise Refusal(400, "mask_image: filling a masked part is not served here", "mask_image")
        mode, _ = MODES[self.mode_name]
        knobs: dict[str, Any] = {
            "height": self.height,
            "width": self.width,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self._guidance(mode),
            "seed": self.seed,
            "priority": max(limits.MIN_PRIORITY, min(limits.MAX_PRIORITY, -self.priority)),
            "prompt": self.prompt or None,
            "output_format": "png",
        }
        knobs |= negative_knobs(self.negative_prompt, self.true_cfg_scale)
        if self.loras:
            knobs |= {
                "lora": [lora.name for lora in self.loras],
                "lora_scale": [lora.weight for lora in self.loras],
            }
        images: list[bytes] = []
        if mode == "canny":
            knobs |= self._control()
        elif mode == "text2img":
            self._need("prompt")
        else:
            self._need("input_image")
            images = [self.input_image or b""]
        if mode == "img2img":
            # As diffusers: with a prompt, the prompt alone says what the picture becomes.
            knobs |= {"strength": self.strength, "image_strength": 0.0 if self.prompt else None}
        return GenerationRequest(mode, images, knobs)

    def _guidance(self, mode: ModeName) -> float:
        if self.cfg is not None:
            return self.cfg
        return _REDUX_CFG if mode == "redux" else _CFG

    def _control(self) -> dict[str, Any]:
        if self.controlnet_type not in (None, CONTROLNET_TYPE):
            raise Refusal(
                400,
                f"controlnet_type: {self.controlnet_type!r} is not served here; served: {CONTROLNET_TYPE}",
                "controlnet_type",
            )
        picture = self.control_image or self.input_image
        if not picture:
            raise Refusal(422, "control_image: mode 'controlnet' needs it, or a photo in input_image", "control_image")
        return {
            "control_image": picture,
            "control_kind": self.control_kind or ("edges" if self.control_image else "photo"),
            "control_scale": self.controlnet_conditioning_scale,
            "control_start": self.control_guidance_start,
            "control_end": self.control_guidance_end,
            # The contract wants one, which may be empty.
            "prompt": self.prompt or "",
        }

    def _need(self, field: str) -> None:
        if not getattr(self, field):
            raise Refusal(422, f"{field}: mode {self.mode_name!r} needs it", field)


class GenerateAnswer(BaseModel):
    """GenServe's nine keys, always all of them, and three more. image_base64: a PNG."""

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
    #: Of an error only: the same words, where FastAPI puts them.
    detail: str | None = Field(None, exclude_if=lambda value: value is None)
