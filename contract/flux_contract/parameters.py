"""The parameters of a request, each declared once.

A `Parameter` is an input tensor together with its names outside Triton: the client's keyword, the flags of the command
line, the fields of the two REST APIs, and whether the web page has a control for it. Triton's configurations, the
client's keyword types, the command line, the REST schemas, the page's controls and the tables of the documentation are
derived from it or rendered from it. CONTRIBUTING.md says how to add one.

The first sentence of a `meaning` is the help text of the command line.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flux_contract import limits
from flux_contract.parameter import PER_IMAGE, Parameter, RestField
from flux_contract.tensors import Bounds, DType


def _value(name: str, dtype: DType, meaning: str, **rest: Any) -> Parameter:
    """Return an optional parameter with one value."""
    return Parameter(name, dtype, (1,), meaning, optional=True, **rest)


def _per_image(name: str, dtype: DType, meaning: str, **rest: Any) -> Parameter:
    """Return an optional parameter with one value for all input images, or one for each."""
    meaning += PER_IMAGE
    return Parameter(
        name, dtype, (-1,), meaning, optional=True, max_length=limits.MAX_INPUT_IMAGES, per_image=True, **rest
    )


_FRACTION = Bounds(0, 1)
_START = "Fraction of the denoising steps after which {} is used"
_END = "Fraction of the denoising steps, above the start, after which {} is no longer used"

# Redux images.
IMAGE = Parameter(
    "IMAGE",
    DType.BYTES,
    (-1,),
    f"Encoded images ({', '.join(limits.INPUT_FORMATS)}), as bytes, base64 or a data URL",
    unit="bytes",
    max_length=limits.MAX_INPUT_IMAGES,
    keyword="images",
    flags=None,
)
IMAGE_STRENGTH = _per_image(
    "IMAGE_STRENGTH",
    DType.FP32,
    "Weight of an image's tokens in attention: 1 is the same as diffusers, 0 leaves the image out",
    bounds=Bounds(0, limits.MAX_STRENGTH),
    default=limits.DEFAULT_STRENGTH,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
SIMILARITY = _per_image(
    "SIMILARITY",
    DType.FP32,
    "Calibrated alternative to IMAGE_STRENGTH: 0 leaves the image out, 0.5 is half of its full effect, 1 is the full "
    "effect. The client converts it to IMAGE_STRENGTH",
    bounds=_FRACTION,
)
IMAGE_BLEND = _value(
    "IMAGE_BLEND",
    DType.BYTES,
    "How several images are combined: `concat` uses all of their tokens, `sum` is diffusers' weighted sum of their "
    "tokens. With `sum`, IMAGE_STRENGTH is diffusers' `prompt_embeds_scale` and `pooled_prompt_embeds_scale`",
    flags=("--sum",),
    default=limits.BLENDS[0],
    choices=limits.BLENDS,
)
IMAGE_DETAIL = _per_image(
    "IMAGE_DETAIL",
    DType.INT32,
    "Number of Redux tokens that are pooled into one along each side of the token grid: 1 keeps all detail, higher "
    "values keep only the composition and the mood. The side of the pooled grid is the side of the full grid divided "
    "by this value, rounded down, and at least 1",
    flags=("--detail",),
    bounds=Bounds(1, limits.MAX_DETAIL),
    default=1,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
IMAGE_DETAIL_FILTER = _per_image(
    "IMAGE_DETAIL_FILTER",
    DType.BYTES,
    "Filter of the pooling: `area` is the mean of a cell, `triangle` is a smoother mean of twice its width",
    flags=("--detail-filter",),
    default=limits.DETAIL_FILTERS[0],
    choices=limits.DETAIL_FILTERS,
)
IMAGE_DETAIL_WEIGHT = _per_image(
    "IMAGE_DETAIL_WEIGHT",
    DType.BYTES,
    "Weight of a pooled token: with `one`, less detail also gives the prompt more influence; with `all`, the weight is "
    "the number of pooled tokens, so the image keeps its influence",
    flags=("--detail-weight",),
    default=limits.DETAIL_WEIGHTS[0],
    choices=limits.DETAIL_WEIGHTS,
)
IMAGE_MASK = _per_image(
    "IMAGE_MASK",
    DType.BYTES,
    "Encoded masks, each of the size of its image, white where the image is used; empty for an image without a mask. "
    "The vision encoder does not see black and transparent parts, and the weight of a token is the white share of its "
    "area",
    flags=("--mask",),
)
IMAGE_MASK_INVERT = _per_image(
    "IMAGE_MASK_INVERT",
    DType.INT32,
    "1 inverts the mask first: the image is used where the mask is black",
    flags=("--invert-mask",),
    bounds=Bounds(0, 1),
    default=0,
)
IMAGE_MASK_CROP = _per_image(
    "IMAGE_MASK_CROP",
    DType.INT32,
    "1 crops the image to the bounding box of its mask first",
    flags=("--crop",),
    bounds=Bounds(0, 1),
    default=0,
)
IMAGE_FIT = _per_image(
    "IMAGE_FIT",
    DType.BYTES,
    "How an image is made square for the vision encoder: `stretch` changes its aspect ratio, as diffusers does; "
    "`cover` crops it to the middle; `contain` pads it with tokens of weight 0; `tiles` uses a row of squares that "
    "share the weight of one image",
    default=limits.FITS[0],
    choices=limits.FITS,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
IMAGE_START = _per_image(
    "IMAGE_START",
    DType.FP32,
    _START.format("the image"),
    flags=("--start",),
    bounds=_FRACTION,
    default=0.0,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
IMAGE_END = _per_image(
    "IMAGE_END",
    DType.FP32,
    _END.format("the image"),
    flags=("--end",),
    bounds=_FRACTION,
    default=1.0,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)

# Prompts.
PROMPT = _value(
    "PROMPT",
    DType.BYTES,
    "Text prompt. It requires a base checkpoint with text encoders. With images, an empty prompt is the same as none",
    unit=f"at most {limits.MAX_PROMPT_CHARACTERS} characters, UTF-8",
    max_characters=limits.MAX_PROMPT_CHARACTERS,
    default="",
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
NEGATIVE_PROMPT = _value(
    "NEGATIVE_PROMPT",
    DType.BYTES,
    "Prompt from which TRUE_CFG_SCALE moves the image away. A TRUE_CFG_SCALE above 1 requires it. It may be empty",
    unit=f"at most {limits.MAX_PROMPT_CHARACTERS} characters, UTF-8",
    max_characters=limits.MAX_PROMPT_CHARACTERS,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
PROMPT_STRENGTH = _value(
    "PROMPT_STRENGTH",
    DType.FP32,
    "Weight of the prompt's tokens in attention, including its padding; without a prompt, weight of the empty prompt's "
    "tokens",
    bounds=Bounds(0, limits.MAX_STRENGTH),
    default=limits.DEFAULT_STRENGTH,
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
PROMPT_START = _value("PROMPT_START", DType.FP32, _START.format("the prompt"), bounds=_FRACTION, default=0.0)
PROMPT_END = _value(
    "PROMPT_END",
    DType.FP32,
    _END.format("the prompt") + ". At other steps the prompt is empty",
    bounds=_FRACTION,
    default=1.0,
)

# Sampling.
_SIDE = Bounds(limits.MIN_SIDE, limits.MAX_SIDE)
_SIDE_MEANING = f"of the generated image, a multiple of {limits.SIDE_MULTIPLE}; default: the checkpoint's native size"
HEIGHT = _value(
    "HEIGHT",
    DType.INT32,
    f"Height {_SIDE_MEANING}",
    unit="pixels",
    bounds=_SIDE,
    multiple_of=limits.SIDE_MULTIPLE,
    genserve=RestField(),
    on_page=True,
)
WIDTH = _value(
    "WIDTH",
    DType.INT32,
    f"Width {_SIDE_MEANING}",
    unit="pixels",
    bounds=_SIDE,
    multiple_of=limits.SIDE_MULTIPLE,
    genserve=RestField(),
    on_page=True,
)
NUM_INFERENCE_STEPS = _value(
    "NUM_INFERENCE_STEPS",
    DType.INT32,
    f"Number of denoising steps; default: {limits.DEFAULT_STEPS}, or {limits.DEFAULT_FEW_STEPS} for a checkpoint that "
    "is distilled for few steps",
    unit="steps",
    bounds=Bounds(1, limits.MAX_STEPS),
    flags=("--steps",),
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
)
GUIDANCE_SCALE = _value(
    "GUIDANCE_SCALE",
    DType.FP32,
    "Distilled guidance. Checkpoints without a guidance embedding ignore it",
    bounds=Bounds(0, limits.MAX_GUIDANCE),
    default=limits.DEFAULT_GUIDANCE,
    flags=("--guidance",),
    genserve=RestField("cfg", aliases=("guidance_scale",)),
    openai=RestField(),
    on_page=True,
)
TRUE_CFG_SCALE = _value(
    "TRUE_CFG_SCALE",
    DType.FP32,
    "Classifier-free guidance away from NEGATIVE_PROMPT; 1 disables it. Above 1, each step computes a second row, "
    "without the images",
    bounds=Bounds(1, limits.MAX_GUIDANCE),
    default=1.0,
    flags=("--true-cfg",),
    genserve=RestField(),
    openai=RestField(),
    on_page=True,
    page_default=2.0,
)
NUM_IMAGES = _value(
    "NUM_IMAGES",
    DType.INT32,
    "Number of images to generate; default: the number of seeds, or 1",
    unit="images",
    bounds=Bounds(1, limits.MAX_IMAGES),
    flags=("-n", "--number"),
    openai=RestField("n", default=limits.DEFAULT_IMAGES, meaning="Number of images to generate"),
    on_page=True,
)
#: The REST APIs accept one seed.
_ONE_SEED = "Seed of the first image, image i uses SEED + i. -1 picks a random seed"
SEED = Parameter(
    "SEED",
    DType.INT64,
    (-1,),
    "Seed of the first image, image i uses SEED + i; or one seed for each image. -1 picks a random seed",
    optional=True,
    bounds=Bounds(limits.RANDOM_SEED, limits.MAX_SEED),
    default=limits.DEFAULT_SEED,
    max_length=limits.MAX_IMAGES,
    genserve=RestField(default=limits.DEFAULT_SEED, meaning=_ONE_SEED),
    openai=RestField(default=limits.RANDOM_SEED, meaning=_ONE_SEED),
    on_page=True,
)
LORA = Parameter(
    "LORA",
    DType.BYTES,
    (-1,),
    "Names of LoRA adapters to apply: files of the server's adapter folder, without `.safetensors`",
    optional=True,
    max_length=limits.MAX_LORAS,
    flags=("--lora",),
)
LORA_SCALE = Parameter(
    "LORA_SCALE",
    DType.FP32,
    (-1,),
    "Scale of each adapter. One value for all adapters, or one for each",
    optional=True,
    bounds=Bounds(-limits.MAX_LORA_SCALE, limits.MAX_LORA_SCALE),
    default=1.0,
    max_length=limits.MAX_LORAS,
    flags=None,
)
OUTPUT_FORMAT = _value(
    "OUTPUT_FORMAT",
    DType.BYTES,
    f"Format of the generated images: {', '.join(limits.FORMATS)}. With `{limits.BASE64_SUFFIX}` appended, the image "
    "is returned as base64 text",
    default=limits.DEFAULT_FORMAT,
    client_choices=limits.FORMATS,
    flags=("--format",),
    openai=RestField(default=limits.DEFAULT_FORMAT, choices=limits.FORMATS, meaning="Format of the generated images"),
)
PRIORITY = _value(
    "PRIORITY",
    DType.INT32,
    f"Scheduling priority: {limits.MIN_PRIORITY} background, {limits.DEFAULT_PRIORITY} normal, {limits.MAX_PRIORITY} "
    "interactive. Waiting images gain priority with age",
    bounds=Bounds(limits.MIN_PRIORITY, limits.MAX_PRIORITY),
    default=limits.DEFAULT_PRIORITY,
)
PREVIEW_STEPS = _value(
    "PREVIEW_STEPS",
    DType.INT32,
    "Number of steps between two previews; 0 disables previews. The last step has no preview",
    unit="steps",
    bounds=Bounds(0, limits.MAX_STEPS),
    default=0,
    flags=("--preview-steps",),
)
PREVIEW_METHOD = _value(
    "PREVIEW_METHOD",
    DType.BYTES,
    "How previews are generated: `latent2rgb` is a linear map from latents to colours, an eighth of the size; `vae` "
    "decodes the latents, which takes longer, so a preview can come some steps later or be left out",
    default=limits.DEFAULT_PREVIEW_METHOD,
    choices=limits.PREVIEW_METHODS,
)
START_STEP = _value(
    "START_STEP",
    DType.INT32,
    "First denoising step to run, counted from 0. Above 0 it requires INITIAL_LATENTS",
    unit="steps",
    bounds=Bounds(0, limits.MAX_STEPS - 1),
    default=0,
)
END_STEP = _value(
    "END_STEP",
    DType.INT32,
    "Step to stop before; default: NUM_INFERENCE_STEPS, which is the maximum. Below it, LATENTS still contain noise",
    unit="steps",
    bounds=Bounds(1, limits.MAX_STEPS),
)

# Image-to-image.
FIT = _value(
    "FIT",
    DType.BYTES,
    "How an image is resized to the generated image: `cover` crops, `contain` pads with white (edge maps "
    "with black), `stretch` resizes as diffusers does",
    default=limits.SIZE_FITS[0],
    choices=limits.SIZE_FITS,
)
IMG2IMG_IMAGE = replace(
    IMAGE,
    meaning=f"{IMAGE.meaning}. The first image is the one to change. All of them, including the first, are also Redux "
    "images with the weight IMAGE_STRENGTH",
)
STRENGTH = _value(
    "STRENGTH",
    DType.FP32,
    "How much the image is changed, as diffusers' `strength`: 0 returns it unchanged, 1 starts from noise only. Below "
    "1, at least the first step is skipped",
    bounds=_FRACTION,
    default=limits.DEFAULT_IMG2IMG_STRENGTH,
    genserve=RestField(default=0.8),
    openai=RestField(),
    on_page=True,
)
START_SIGMA = _value(
    "START_SIGMA",
    DType.FP32,
    "Share of noise to start with, instead of STRENGTH. A value makes the same change at every size",
    bounds=_FRACTION,
)

# Inpainting.
SOURCE_IMAGE = replace(
    IMAGE,
    name="SOURCE_IMAGE",
    shape=(1,),
    max_length=None,
    meaning="Encoded image to inpaint",
    keyword="",
)
MASK_IMAGE = replace(
    SOURCE_IMAGE,
    name="MASK_IMAGE",
    meaning="Encoded mask of the same size as SOURCE_IMAGE, white where the image is changed. Pixels outside the mask "
    "are returned unchanged",
    flags=("--mask-image",),
)
MASK_CHANNEL = _value(
    "MASK_CHANNEL",
    DType.BYTES,
    "How the mask is read: `luminance`, white is changed and transparent parts count as black, or `alpha`, transparent "
    "parts are changed",
    default=limits.MASK_CHANNELS[0],
    choices=limits.MASK_CHANNELS,
)
MASK_INVERT = _value(
    "MASK_INVERT",
    DType.INT32,
    "1 inverts the mask first",
    bounds=Bounds(0, 1),
    default=0,
    genserve=RestField(),
)
MASK_SOFT = _value(
    "MASK_SOFT",
    DType.INT32,
    "1 uses grey values of the mask as blending weights. By default, as in diffusers, values from half are white and "
    "others are black",
    bounds=Bounds(0, 1),
    default=0,
    genserve=RestField(),
)
MASK_FEATHER = _value(
    "MASK_FEATHER",
    DType.INT32,
    "Width of the transition between the generated part and the image, inside the mask. 0 is a hard edge",
    unit="pixels",
    bounds=Bounds(0, limits.MAX_MASK_FEATHER),
    default=0,
    genserve=RestField(),
)
PADDING_MASK_CROP = _value(
    "PADDING_MASK_CROP",
    DType.INT32,
    "Generates only the bounding box of the mask with a margin of this width, at the size of the generated image, and "
    "pastes it into the image, as diffusers' `padding_mask_crop`. The result has the size of SOURCE_IMAGE. By default, "
    "the whole image is generated",
    unit="pixels",
    flags=("--only-masked",),
    bounds=Bounds(0, limits.MAX_SIDE),
)

# Edge control.
CONTROL_IMAGE = replace(
    SOURCE_IMAGE,
    name="CONTROL_IMAGE",
    meaning="Encoded image whose edges the generated image follows, or an edge map; CONTROL_KIND selects which",
)
CONTROL_KIND = _value(
    "CONTROL_KIND",
    DType.BYTES,
    "`photo`: edges are detected in the image; `edges`: the image is an edge map, white on black",
    flags=("--edges-ready",),
    default=limits.CONTROL_KINDS[0],
    choices=limits.CONTROL_KINDS,
    genserve=RestField(),
)
_THRESHOLD = Bounds(0, limits.MAX_CANNY_THRESHOLD)
CANNY_LOW = _value(
    "CANNY_LOW",
    DType.FP32,
    "Canny's lower threshold: gradients above it continue an edge",
    bounds=_THRESHOLD,
    default=limits.DEFAULT_CANNY_LOW,
)
CANNY_HIGH = _value(
    "CANNY_HIGH",
    DType.FP32,
    "Canny's upper threshold: gradients above it start an edge. It must be at least CANNY_LOW",
    bounds=_THRESHOLD,
    default=limits.DEFAULT_CANNY_HIGH,
)
CONTROL_SCALE = _value(
    "CONTROL_SCALE",
    DType.FP32,
    "Scale of the ControlNet, as diffusers' `controlnet_conditioning_scale`",
    bounds=Bounds(0, limits.MAX_CONTROL_SCALE),
    default=1.0,
    genserve=RestField("controlnet_conditioning_scale"),
)
CONTROL_START = _value(
    "CONTROL_START",
    DType.FP32,
    _START.format("the ControlNet") + ", as diffusers' `control_guidance_start`",
    bounds=_FRACTION,
    default=0.0,
    genserve=RestField("control_guidance_start"),
)
CONTROL_END = _value(
    "CONTROL_END",
    DType.FP32,
    _END.format("the ControlNet") + ", as diffusers' `control_guidance_end`",
    bounds=_FRACTION,
    default=1.0,
    genserve=RestField("control_guidance_end"),
)

SIZE = (HEIGHT, WIDTH)
SAMPLING_PARAMETERS = (
    *SIZE,
    NUM_INFERENCE_STEPS,
    GUIDANCE_SCALE,
    TRUE_CFG_SCALE,
    NUM_IMAGES,
    SEED,
    LORA,
    LORA_SCALE,
    PRIORITY,
)
PREVIEW_PARAMETERS = (PREVIEW_STEPS, PREVIEW_METHOD)
IMAGE_PARAMETERS = (
    IMAGE_STRENGTH,
    IMAGE_DETAIL,
    IMAGE_DETAIL_FILTER,
    IMAGE_DETAIL_WEIGHT,
    IMAGE_BLEND,
    IMAGE_MASK,
    IMAGE_MASK_INVERT,
    IMAGE_MASK_CROP,
    IMAGE_FIT,
    IMAGE_START,
    IMAGE_END,
)
PROMPT_PARAMETERS = (PROMPT_STRENGTH, PROMPT_START, PROMPT_END, NEGATIVE_PROMPT)
#: Parameters that are one encoded image each.
SINGLE_IMAGES = (SOURCE_IMAGE, MASK_IMAGE, CONTROL_IMAGE)
IMG2IMG_PARAMETERS = (STRENGTH, START_SIGMA, FIT)
MASK_PARAMETERS = (MASK_CHANNEL, MASK_INVERT, MASK_SOFT, MASK_FEATHER, PADDING_MASK_CROP)
EDGE_PARAMETERS = (CONTROL_KIND, CANNY_LOW, CANNY_HIGH, FIT)
CONTROL_PARAMETERS = (CONTROL_SCALE, CONTROL_START, CONTROL_END)
