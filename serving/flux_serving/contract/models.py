"""The models and ensembles of the repository, and the tensors they exchange.

In an ensemble, tensors of the same name are the same tensor. That is why an output never has the name of an input:
Triton's ensemble scheduler would answer with the input (tried on 2.51).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flux_serving.contract import limits
from flux_serving.contract.tensors import Bounds, DType, Tensor, scalar

# What callers give.
IMAGE = Tensor(
    "IMAGE",
    DType.BYTES,
    (-1,),
    "Encoded pictures (PNG, JPEG, WebP, GIF, BMP, TIFF), or the same as base64 or a data URL",
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
IMAGE_DETAIL_FILTER = scalar(
    "IMAGE_DETAIL_FILTER",
    DType.BYTES,
    "How they are pooled: `area`, the mean over a cell, or `triangle`, a smoother mean over twice its width",
    default=limits.DETAIL_FILTERS[0],
    choices=limits.DETAIL_FILTERS,
)
IMAGE_DETAIL_WEIGHT = scalar(
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
    "Encoded pictures of the sizes of `IMAGE`, white where the picture counts, or empty for all of it: one for each "
    "picture, or one that serves all. What is black is never seen, and a token weighs the share of it that is white",
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
    "Text beside the pictures, UTF-8; needs a base checkpoint with text encoders",
    unit=f"at most {limits.MAX_PROMPT_CHARACTERS} characters",
    default="",
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
    "Denoising steps",
    unit="steps",
    bounds=Bounds(1, limits.MAX_STEPS),
    default=limits.DEFAULT_STEPS,
)
GUIDANCE_SCALE = scalar(
    "GUIDANCE_SCALE",
    DType.FP32,
    "Distilled guidance; ignored by checkpoints without a guidance embedding",
    bounds=Bounds(0, limits.MAX_GUIDANCE),
    default=limits.DEFAULT_GUIDANCE,
)
NUM_IMAGES = scalar(
    "NUM_IMAGES",
    DType.INT32,
    "Variations wanted; the i-th has seed SEED + i",
    unit="images",
    bounds=Bounds(1, limits.MAX_IMAGES),
    default=limits.DEFAULT_IMAGES,
)
SEED = scalar(
    "SEED",
    DType.INT64,
    "Seed of the first variation's noise; -1 picks a random one",
    bounds=Bounds(limits.RANDOM_SEED, limits.MAX_SEED),
    default=limits.DEFAULT_SEED,
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

# What the models hand to each other.
PROGRESS_ADDRESS = scalar(
    "PROGRESS_ADDRESS",
    DType.BYTES,
    "Where `flux_stream` listens for progress; only it can make one, any other is refused",
    default="",
)
CONTEXT = Tensor("CONTEXT", DType.FP32, (-1, -1), "Context tokens: text, then the pictures in order")
CONTEXT_WEIGHTS = Tensor(
    "CONTEXT_WEIGHTS",
    DType.FP32,
    (-1,),
    "Weight of each context token: w equal tokens, or log(w) on its attention logit; 0: the token is not there",
    bounds=Bounds(0, 2**20),
    max_length=limits.MAX_CONTEXT_TOKENS,
)
CONTEXT_SPANS = Tensor(
    "CONTEXT_SPANS",
    DType.FP32,
    (-1, 2),
    "For each context token the fraction of the steps after which it comes in, and after which it goes",
    bounds=Bounds(0, 1),
    max_length=limits.MAX_CONTEXT_TOKENS,
)
POOLED_PROJECTION = Tensor("POOLED_PROJECTION", DType.FP32, (-1,), "Pooled text embedding; zeros without a prompt")
POOLED_SPAN = Tensor(
    "POOLED_SPAN",
    DType.FP32,
    (2,),
    "The same fractions for the pooled text embedding, which is zeros before and after",
    bounds=Bounds(0, 1),
)
REFUSAL = Tensor(
    "REFUSAL",
    DType.BYTES,
    (1,),
    "Why the pictures or the prompt are refused, empty if they are not; `flux_base` answers with it as INVALID_ARG. "
    "It is no error of the prior, because Triton's response cache keeps an error as an empty answer (tried on 2.51)",
    default="",
)
PIXELS = Tensor("PIXELS", DType.UINT8, (-1, -1, -1, 3), "Pictures: number, height, width, RGB", unit="0..255")
LATENTS = Tensor(
    "LATENTS", DType.FP32, (-1, -1, -1), "Final packed latents: number, image tokens, channels", unit="VAE-scaled"
)
RECIPE = Tensor("RECIPE", DType.BYTES, (-1,), "How each picture was made, as JSON: seed, steps, guidance, size, model")

INITIAL_LATENTS = replace(
    LATENTS,
    name="INITIAL_LATENTS",
    meaning="Packed latents to begin with at START_STEP instead of noise: number, image tokens, channels",
    optional=True,
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

# What callers get.
OUTPUT_IMAGE = Tensor("OUTPUT_IMAGE", DType.BYTES, (-1,), "One encoded picture for each image wanted", unit="bytes")
OUTPUT_SEED = Tensor("OUTPUT_SEED", DType.INT64, (-1,), "The seed that each image used")
PROGRESS = Tensor("PROGRESS", DType.INT32, (3,), "Which image, counted from 0; steps done; steps in all")
PREVIEW = Tensor("PREVIEW", DType.BYTES, (1,), "The image as it stands after these steps, as JPEG", unit="bytes")

_DENOISING_KNOBS = (HEIGHT, WIDTH, NUM_INFERENCE_STEPS, GUIDANCE_SCALE, NUM_IMAGES, SEED, PRIORITY)
_PREVIEW_KNOBS = (PREVIEW_STEPS, PREVIEW_METHOD)
_PICTURE_KNOBS = (
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
_PROMPT_KNOBS = (PROMPT, PROMPT_STRENGTH, PROMPT_START, PROMPT_END)
_CONDITION = (IMAGE, *_PICTURE_KNOBS, *_PROMPT_KNOBS)
_REDUX_INPUTS = (*_CONDITION, *_DENOISING_KNOBS, OUTPUT_FORMAT, *_PREVIEW_KNOBS)


@dataclass(frozen=True)
class Parameter:
    """A start-up setting of one model, a `parameters` entry of its `config.pbtxt`."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Model:
    """One Python-backend model. needs_gpu: instances are pinned to GPUs where there are any."""

    name: str
    purpose: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    needs_gpu: bool
    max_batch_size: int = 1
    cpu_instances: int = 1
    dynamic_batching: bool = False
    response_cache: bool = False
    #: Any number of answers to one request; then only gRPC streams and `generate_stream` reach it.
    decoupled: bool = False
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True)
class Ensemble:
    """Models in a row, wired by tensor name."""

    name: str
    purpose: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Model, ...]
    max_batch_size: int = 1

    def inputs_of(self, step: Model) -> tuple[Tensor, ...]:
        """Inputs of one step that the ensemble or an earlier step gives; an optional one may be left out."""
        given = {tensor.name for tensor in self.inputs}
        given |= {tensor.name for model in self.steps[: self.steps.index(step)] for tensor in model.outputs}
        return tuple(tensor for tensor in step.inputs if tensor.name in given or not tensor.optional)

    def outputs_of(self, step: Model) -> tuple[Tensor, ...]:
        """Outputs of one step that the ensemble uses; all of them where a response cache needs them all."""
        wanted = {tensor.name for tensor in self.outputs}
        wanted |= {tensor.name for model in self.steps for tensor in self.inputs_of(model)}
        return tuple(tensor for tensor in step.outputs if step.response_cache or tensor.name in wanted)


_DTYPE = Parameter("DTYPE", "auto", "Weights and arithmetic: float32, bfloat16, or auto (bfloat16 on a GPU)")

FLUX_PRIOR_REDUX = Model(
    name="flux_prior_redux",
    purpose="Pictures, and a prompt, to context tokens: SigLIP and the Redux embedder",
    inputs=_CONDITION,
    outputs=(CONTEXT, CONTEXT_WEIGHTS, CONTEXT_SPANS, POOLED_PROJECTION, POOLED_SPAN, REFUSAL),
    needs_gpu=True,
    max_batch_size=8,
    dynamic_batching=True,
    response_cache=True,
    parameters=(_DTYPE,),
)
FLUX_BASE = Model(
    name="flux_base",
    purpose="Context tokens to pictures: noise, denoising steps, decoding",
    inputs=(
        CONTEXT,
        CONTEXT_WEIGHTS,
        replace(CONTEXT_SPANS, optional=True),
        POOLED_PROJECTION,
        replace(POOLED_SPAN, optional=True),
        replace(REFUSAL, optional=True),
        *_DENOISING_KNOBS,
        START_STEP,
        END_STEP,
        INITIAL_LATENTS,
        OUTPUT_FORMAT,
        PROGRESS_ADDRESS,
        *_PREVIEW_KNOBS,
    ),
    outputs=(PIXELS, OUTPUT_SEED, RECIPE, LATENTS),
    needs_gpu=True,
    parameters=(
        _DTYPE,
        Parameter("MAX_WAITING", "64", "Images that may wait or run in one instance; more are refused as UNAVAILABLE"),
        Parameter("MAX_ROWS", "16", "Images that share one denoising step at most"),
        Parameter(
            "STEP_TOKENS",
            "auto",
            "Tokens, of images and contexts, that share one denoising step at most, or auto: 8192 on a GPU, 2048 on a "
            "CPU; an image that has more takes its steps alone",
        ),
        Parameter("ATTENTION", "auto", "How token weights reach attention: mask, merge, or auto, the faster one"),
    ),
)
IMAGE_ENCODE = Model(
    name="image_encode",
    purpose="RGB to PNG, JPEG or WebP, with the recipe and the mark of AI-made media in its metadata",
    inputs=(PIXELS, replace(RECIPE, optional=True), OUTPUT_FORMAT),
    outputs=(OUTPUT_IMAGE,),
    needs_gpu=False,
    cpu_instances=2,
)
FLUX_REDUX = Ensemble(
    name="flux_redux",
    purpose="Pictures to variations of them",
    inputs=(*_REDUX_INPUTS, PROGRESS_ADDRESS),
    outputs=(OUTPUT_IMAGE, OUTPUT_SEED),
    steps=(FLUX_PRIOR_REDUX, FLUX_BASE, IMAGE_ENCODE),
)
FLUX_STREAM = Model(
    name="flux_stream",
    purpose="What `flux_redux` does, with progress, previews and cancellation; it calls the ensemble itself",
    inputs=_REDUX_INPUTS,
    outputs=(PROGRESS, PREVIEW, OUTPUT_IMAGE, OUTPUT_SEED),
    needs_gpu=False,
    decoupled=True,
)

MODELS: tuple[Model, ...] = (FLUX_PRIOR_REDUX, FLUX_BASE, IMAGE_ENCODE, FLUX_STREAM)
ENSEMBLES: tuple[Ensemble, ...] = (FLUX_REDUX,)
