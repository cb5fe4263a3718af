"""The models and ensembles of the repository, and the tensors they exchange.

In an ensemble, tensors of the same name are the same tensor. That is why an output never has the name of an input:
Triton's ensemble scheduler would answer with the input (tried on 2.51).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from flux_serving.contract import limits
from flux_serving.contract.knobs import (
    CONDITION,
    DENOISING_KNOBS,
    END_STEP,
    OUTPUT_FORMAT,
    PREVIEW_KNOBS,
    START_STEP,
)
from flux_serving.contract.tensors import Bounds, DType, Tensor, scalar

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
# What callers get.
OUTPUT_IMAGE = Tensor("OUTPUT_IMAGE", DType.BYTES, (-1,), "One encoded picture for each image wanted", unit="bytes")
OUTPUT_SEED = Tensor("OUTPUT_SEED", DType.INT64, (-1,), "The seed that each image used")
PROGRESS = Tensor("PROGRESS", DType.INT32, (3,), "Which image, counted from 0; steps done; steps in all")
PREVIEW = Tensor("PREVIEW", DType.BYTES, (1,), "The image as it stands after these steps, as JPEG", unit="bytes")

_REDUX_INPUTS = (*CONDITION, *DENOISING_KNOBS, OUTPUT_FORMAT, *PREVIEW_KNOBS)


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
    inputs=CONDITION,
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
        *DENOISING_KNOBS,
        START_STEP,
        END_STEP,
        INITIAL_LATENTS,
        OUTPUT_FORMAT,
        PROGRESS_ADDRESS,
        *PREVIEW_KNOBS,
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
