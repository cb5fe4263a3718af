"""What callers may ask for: every input of the ensembles, and which steps `flux_base` by itself is to run."""

from __future__ import annotations

from typing import Any

from flux_contract import limits
from flux_contract.tensors import Bounds, DType, Tensor, scalar

IMAGE = Tensor(
    "IMAGE",
    DType.BYTES,
    (-1,),
    f"Encoded pictures ({', '.join(limits.PICTURE_FORMATS)}), or the same as base64 or a data URL",
    unit="bytes",
    max_length=limits.MAX_PICTURES,
)


def _of_each_picture(name: str, dtype: DType, meaning: str, **rest: Any) -> Tensor:
    """An optional input of one value for all pictures, or one each."""
    meaning = f"{meaning}. One value for all pictures, or one each"
    return Tensor(name, dtype, (-1,), meaning, optional=True, max_length=limits.MAX_PICTURES, **rest)


IMAGE_STRENGTH = _of_each_picture(
    "IMAGE_STRENGTH",
    DType.FP32,
    "Weight of a picture's tokens in attention: 1 is diffusers' picture, 0 leaves it out",
    bounds=Bounds(0, limits.MAX_STRENGTH),
    default=limits.DEFAULT_STRENGTH,
)
IMAGE_BLEND = scalar(
    "IMAGE_BLEND",
    DType.BYTES,
    "How several pictures become one condition: `concat`, all of their tokens; `sum`, diffusers' sum of their tokens, "
    "each scaled by its picture's IMAGE_STRENGTH, as `prompt_embeds_scale` and `pooled_prompt_embeds_scale` do",
    default=limits.BLENDS[0],
    choices=limits.BLENDS,
)
IMAGE_DETAIL = _of_each_picture(
    "IMAGE_DETAIL",
    DType.INT32,
    "Redux tokens that are pooled into one along each side of their grid: 1 is all there is to see, more leaves the "
    "mood; the grid has a k-th of its side, rounded down, and at least one token",
    bounds=Bounds(1, limits.MAX_DETAIL),
    default=1,
)
IMAGE_DETAIL_FILTER = _of_each_picture(
    "IMAGE_DETAIL_FILTER",
    DType.BYTES,
    "How they are pooled: `area`, the mean over a cell, or `triangle`, a smoother mean over twice its width",
    default=limits.DETAIL_FILTERS[0],
    choices=limits.DETAIL_FILTERS,
)
IMAGE_DETAIL_WEIGHT = _of_each_picture(
    "IMAGE_DETAIL_WEIGHT",
    DType.BYTES,
    "What a pooled token weighs: `one`, so that less detail also leaves more to the prompt, or `all` that it stands "
    "for, so that the picture counts as before",
    default=limits.DETAIL_WEIGHTS[0],
    choices=limits.DETAIL_WEIGHTS,
)
IMAGE_MASK = _of_each_picture(
    "IMAGE_MASK",
    DType.BYTES,
    "Encoded pictures of the sizes of `IMAGE`, white where the picture counts, or empty for all of it. What is black "
    "or transparent is never seen, and a token weighs the share of it that is white",
)
IMAGE_MASK_CROP = _of_each_picture(
    "IMAGE_MASK_CROP",
    DType.INT32,
    "1: the picture is first cut to the box around what its mask leaves",
    bounds=Bounds(0, 1),
    default=0,
)
IMAGE_FIT = _of_each_picture(
    "IMAGE_FIT",
    DType.BYTES,
    "How a picture that is no square is shown to the vision tower: `stretch` squashes it, as diffusers does; `cover` "
    "cuts the middle out; `contain` shows all of it beside padding that weighs nothing; `tiles` shows it as a row of "
    "squares that share the weight of one picture",
    default=limits.FITS[0],
    choices=limits.FITS,
)
_START = "Fraction of the denoising steps that are over when {} comes in"
_END = "Fraction of the denoising steps that are over when {} goes; after its start"
IMAGE_START = _of_each_picture("IMAGE_START", DType.FP32, _START.format("a picture"), bounds=Bounds(0, 1), default=0.0)
IMAGE_END = _of_each_picture("IMAGE_END", DType.FP32, _END.format("a picture"), bounds=Bounds(0, 1), default=1.0)
PROMPT = scalar(
    "PROMPT",
    DType.BYTES,
    "Text, UTF-8; needs a base checkpoint with text encoders. An empty one beside pictures is none",
    unit=f"at most {limits.MAX_PROMPT_CHARACTERS} characters",
    default="",
)
NEGATIVE_PROMPT = scalar(
    "NEGATIVE_PROMPT",
    DType.BYTES,
    "What the picture is to move away from, by TRUE_CFG_SCALE, beside which it must be given; it may be empty",
    unit=f"at most {limits.MAX_PROMPT_CHARACTERS} characters",
)
PROMPT_STRENGTH = scalar(
    "PROMPT_STRENGTH",
    DType.FP32,
    "Weight of the prompt's tokens, its padding among them; without a prompt, of the empty ones that stand for it",
    bounds=Bounds(0, limits.MAX_STRENGTH),
    default=limits.DEFAULT_STRENGTH,
)
PROMPT_START = scalar("PROMPT_START", DType.FP32, _START.format("the prompt"), bounds=Bounds(0, 1), default=0.0)
PROMPT_END = scalar(
    "PROMPT_END",
    DType.FP32,
    _END.format("the prompt") + "; before and after, it is as if there were none",
    bounds=Bounds(0, 1),
    default=1.0,
)
_SIDE = Bounds(limits.MIN_SIDE, limits.MAX_SIDE)
_SIDE_MEANING = "of the picture asked for, a multiple of 16; absent: the checkpoint's own size"
HEIGHT = scalar("HEIGHT", DType.INT32, f"Height {_SIDE_MEANING}", unit="pixels", bounds=_SIDE)
WIDTH = scalar("WIDTH", DType.INT32, f"Width {_SIDE_MEANING}", unit="pixels", bounds=_SIDE)
NUM_INFERENCE_STEPS = scalar(
    "NUM_INFERENCE_STEPS",
    DType.INT32,
    f"Denoising steps; absent: {limits.DEFAULT_STEPS}, or {limits.DEFAULT_FEW_STEPS} where the checkpoint is made for "
    "few",
    unit="steps",
    bounds=Bounds(1, limits.MAX_STEPS),
)
GUIDANCE_SCALE = scalar(
    "GUIDANCE_SCALE",
    DType.FP32,
    "Distilled guidance; ignored by checkpoints without a guidance embedding",
    bounds=Bounds(0, limits.MAX_GUIDANCE),
    default=limits.DEFAULT_GUIDANCE,
)
TRUE_CFG_SCALE = scalar(
    "TRUE_CFG_SCALE",
    DType.FP32,
    "Classifier-free guidance: how far from NEGATIVE_PROMPT, without the pictures, to PROMPT and the pictures and "
    "beyond; each step then computes two rows. 1 is off",
    bounds=Bounds(1, limits.MAX_GUIDANCE),
    default=1.0,
)
NUM_IMAGES = scalar(
    "NUM_IMAGES",
    DType.INT32,
    "Images wanted; absent: as many as there are seeds, or one",
    unit="images",
    bounds=Bounds(1, limits.MAX_IMAGES),
)
SEED = Tensor(
    "SEED",
    DType.INT64,
    (-1,),
    "Seed of the first image's noise, the i-th has SEED + i; or one for each image. -1 picks a random one",
    optional=True,
    bounds=Bounds(limits.RANDOM_SEED, limits.MAX_SEED),
    default=limits.DEFAULT_SEED,
    max_length=limits.MAX_IMAGES,
)
LORA = Tensor(
    "LORA",
    DType.BYTES,
    (-1,),
    "Names of LoRA adapters to add up: files of the server's folder of them, without `.safetensors`",
    optional=True,
    max_length=limits.MAX_LORAS,
)
LORA_SCALE = Tensor(
    "LORA_SCALE",
    DType.FP32,
    (-1,),
    "How much of each adapter. One value for all, or one each",
    optional=True,
    bounds=Bounds(-limits.MAX_LORA_SCALE, limits.MAX_LORA_SCALE),
    default=1.0,
    max_length=limits.MAX_LORAS,
)
OUTPUT_FORMAT = scalar(
    "OUTPUT_FORMAT",
    DType.BYTES,
    "png, jpeg or webp; with `;base64` behind it the picture comes as text",
    default=limits.DEFAULT_FORMAT,
)

PRIORITY = scalar(
    "PRIORITY",
    DType.INT32,
    "Higher goes first; what is passed over for long rises, so nothing starves",
    bounds=Bounds(limits.MIN_PRIORITY, limits.MAX_PRIORITY),
    default=limits.DEFAULT_PRIORITY,
)
PREVIEW_STEPS = scalar(
    "PREVIEW_STEPS",
    DType.INT32,
    "A preview after every so many steps, but not after the last; 0: none",
    unit="steps",
    bounds=Bounds(0, limits.MAX_STEPS),
    default=0,
)
PREVIEW_METHOD = scalar(
    "PREVIEW_METHOD",
    DType.BYTES,
    "How previews are made: `latent2rgb` (a linear map from latents to colours, an eighth of the size) or `vae`, "
    "which takes its time: it may come some steps later, or be left out for the next",
    default=limits.DEFAULT_PREVIEW_METHOD,
    choices=limits.PREVIEW_METHODS,
)

START_STEP = scalar(
    "START_STEP",
    DType.INT32,
    "First step to run, counted from 0; from 1 on INITIAL_LATENTS are needed",
    unit="steps",
    bounds=Bounds(0, limits.MAX_STEPS - 1),
    default=0,
)
END_STEP = scalar(
    "END_STEP",
    DType.INT32,
    "Step to stop before, at most NUM_INFERENCE_STEPS, its default; LATENTS then still have noise in them",
    unit="steps",
    bounds=Bounds(1, limits.MAX_STEPS),
)

SIZE = (HEIGHT, WIDTH)
DENOISING_KNOBS = (
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
PREVIEW_KNOBS = (PREVIEW_STEPS, PREVIEW_METHOD)
PICTURE_KNOBS = (
    IMAGE_STRENGTH,
    IMAGE_DETAIL,
    IMAGE_DETAIL_FILTER,
    IMAGE_DETAIL_WEIGHT,
    IMAGE_BLEND,
    IMAGE_MASK,
    IMAGE_MASK_CROP,
    IMAGE_FIT,
    IMAGE_START,
    IMAGE_END,
)
PROMPT_KNOBS = (PROMPT_STRENGTH, PROMPT_START, PROMPT_END, NEGATIVE_PROMPT)
