"""The models and ensembles of the model repository.

In an ensemble, tensors with the same name are the same tensor. No output has the name of an input, because Triton's
ensemble scheduler would then return the input (tested on 2.51).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from flux_contract import limits
from flux_contract.internal_tensors import (
    CANCEL,
    CANVAS,
    CANVAS_BOX,
    CANVAS_WEIGHTS,
    CONTEXT_SPANS,
    CONTROL_LATENTS,
    CONTROL_REFUSAL,
    DEVICE,
    EDGE_IMAGE,
    EDGES,
    INITIAL_LATENTS,
    INSTANCE,
    JOBS,
    LATENTS,
    NEGATIVE,
    OUTPUT_IMAGE,
    OUTPUT_SEED,
    PIXELS,
    POOLED_SPAN,
    POSITIVE,
    PREVIEW,
    PROGRESS,
    PROGRESS_ADDRESS,
    QUERY,
    RECIPE,
    REFUSAL,
    REFUSALS,
    ROOM,
    SECONDS_LEFT,
    SOURCE_LATENTS,
    SOURCE_MASK,
    SOURCE_PIXELS,
    SOURCE_REFUSAL,
    STREAM_TOKEN,
)
from flux_contract.parameters import (
    CONTROL_IMAGE,
    CONTROL_PARAMETERS,
    EDGE_PARAMETERS,
    END_STEP,
    IMAGE,
    IMAGE_PARAMETERS,
    IMG2IMG_IMAGE,
    IMG2IMG_PARAMETERS,
    MASK_IMAGE,
    MASK_PARAMETERS,
    OUTPUT_FORMAT,
    PREVIEW_PARAMETERS,
    PROMPT,
    PROMPT_PARAMETERS,
    SAMPLING_PARAMETERS,
    SIZE,
    SOURCE_IMAGE,
    START_SIGMA,
    START_STEP,
    STRENGTH,
)
from flux_contract.tensors import DType, Tensor, scalar


@dataclass(frozen=True)
class ModelParameter:
    """A setting of one model: an entry of `parameters` in its `config.pbtxt`, read at start."""

    name: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Model:
    """A model of Triton's Python backend. needs_gpu: if there are GPUs, its instances run on them."""

    name: str
    purpose: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    needs_gpu: bool
    max_batch_size: int = 1
    cpu_instances: int = 1
    dynamic_batching: bool = False
    response_cache: bool = False
    #: One request has any number of responses. Clients then need gRPC streams or `generate_stream`.
    decoupled: bool = False
    #: Outputs that a request has only together with an optional input, by the name of this input.
    outputs_with: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    parameters: tuple[ModelParameter, ...] = ()


@dataclass(frozen=True)
class Step:
    """A model in an ensemble. names: the ensemble's names of tensors, by the model's names, if they differ."""

    model: Model
    names: Mapping[str, str] = field(default_factory=dict)

    def name_of(self, tensor: Tensor) -> str:
        """Return the ensemble's name of a tensor of the model."""
        return self.names.get(tensor.name, tensor.name)


@dataclass(frozen=True)
class Ensemble:
    """Models that are connected by tensor names. Each runs as soon as it has its inputs."""

    name: str
    purpose: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    max_batch_size: int = 1

    def inputs_of(self, step: Step) -> tuple[Tensor, ...]:
        """Return the inputs of a step that the ensemble or an earlier step provides, and its required inputs."""
        given = {tensor.name for tensor in self.inputs}
        for earlier in self.steps[: self.steps.index(step)]:
            given |= set(map(earlier.name_of, self._outputs(earlier)))
        return tuple(tensor for tensor in step.model.inputs if step.name_of(tensor) in given or not tensor.optional)

    def outputs_of(self, step: Step) -> tuple[Tensor, ...]:
        """Return the outputs of a step that the ensemble uses; all of them if the model has a response cache."""
        wanted = {tensor.name for tensor in self.outputs}
        wanted |= {other.name_of(tensor) for other in self.steps for tensor in self.inputs_of(other)}
        return tuple(
            tensor for tensor in self._outputs(step) if step.model.response_cache or step.name_of(tensor) in wanted
        )

    def _outputs(self, step: Step) -> tuple[Tensor, ...]:
        """Outputs that one step has with the inputs that it gets here."""
        given = {tensor.name for tensor in self.inputs_of(step)}
        absent = [
            tensor for name, tensors in step.model.outputs_with.items() if name not in given for tensor in tensors
        ]
        return tuple(tensor for tensor in step.model.outputs if tensor not in absent)


def _condition(image: Tensor, prompt: Tensor = PROMPT) -> tuple[Tensor, ...]:
    return (image, *IMAGE_PARAMETERS, prompt, *PROMPT_PARAMETERS)


_DTYPE = ModelParameter(
    "DTYPE",
    "auto",
    "Data type of weights and computation: float32, bfloat16, or auto (bfloat16 on a GPU, float32 on a CPU)",
)

_MAX_PENDING = ModelParameter(
    "MAX_PENDING",
    str(limits.DEFAULT_PENDING),
    "Maximum number of requests that wait or run in one instance. Further requests are rejected as UNAVAILABLE",
)
_DECODING = (
    _MAX_PENDING,
    ModelParameter(
        "WORKERS",
        "2",
        "Number of processes that decode images, one request each. An additional process decodes large images",
    ),
    ModelParameter(
        "DECODE_SECONDS",
        str(limits.DEFAULT_DECODE_SECONDS),
        "Maximum CPU time to decode the images of one request, in seconds. Longer requests are rejected as INVALID_ARG",
    ),
)

FLUX_PRIOR_REDUX = Model(
    name="flux_prior_redux",
    purpose="Encodes images with SigLIP and the Redux embedder, and prompts with the text encoders, as context tokens",
    inputs=_condition(replace(IMAGE, optional=True)),
    outputs=(*POSITIVE, CONTEXT_SPANS, POOLED_SPAN, *NEGATIVE, REFUSAL),
    needs_gpu=True,
    max_batch_size=8,
    dynamic_batching=True,
    response_cache=True,
    parameters=(_DTYPE, *_DECODING),
)
FLUX_BASE = Model(
    name="flux_base",
    purpose="Generates images from context tokens: noise, denoising steps, VAE decoder",
    inputs=(
        *POSITIVE,
        replace(CONTEXT_SPANS, optional=True),
        replace(POOLED_SPAN, optional=True),
        *(replace(tensor, optional=True) for tensor in NEGATIVE),
        *(replace(tensor, optional=True) for tensor in REFUSALS),
        *SAMPLING_PARAMETERS,
        replace(SOURCE_LATENTS, optional=True),
        replace(SOURCE_PIXELS, optional=True),
        replace(SOURCE_MASK, optional=True),
        STRENGTH,
        START_SIGMA,
        replace(CONTROL_LATENTS, optional=True),
        *CONTROL_PARAMETERS,
        START_STEP,
        END_STEP,
        INITIAL_LATENTS,
        OUTPUT_FORMAT,
        PROGRESS_ADDRESS,
        *PREVIEW_PARAMETERS,
    ),
    outputs=(PIXELS, OUTPUT_SEED, RECIPE, LATENTS),
    needs_gpu=True,
    parameters=(
        _DTYPE,
        ModelParameter(
            "MAX_WAITING",
            "64",
            "Maximum number of images that wait or run in one instance. Further images are rejected as UNAVAILABLE",
        ),
        ModelParameter("MAX_ROWS", "16", "Maximum number of images in one denoising step"),
        ModelParameter(
            "STEP_TOKENS",
            "auto",
            "Maximum number of tokens in one denoising step, of images, contexts and padding, or auto: 8192 on a GPU, "
            "2048 on a CPU. An image with more tokens does not share steps",
        ),
        ModelParameter(
            "DEFAULT_STEPS",
            "auto",
            "Default of NUM_INFERENCE_STEPS, or auto: from the checkpoint's configuration",
        ),
        ModelParameter("MAX_ADAPTERS", "8", "Number of unused LoRA adapters that stay in memory"),
        ModelParameter(
            "ATTENTION",
            "auto",
            "How attention applies token weights: mask, merge, or auto, which selects the faster one",
        ),
    ),
)
IMAGE_ENCODE = Model(
    name="image_encode",
    purpose="Encodes RGB images as PNG, JPEG or WebP, with the recipe and IPTC's marker of AI media as metadata; with "
    "a mask, pastes them into the source image first",
    inputs=(
        PIXELS,
        replace(RECIPE, optional=True),
        *(replace(tensor, optional=True) for tensor in (CANVAS, CANVAS_WEIGHTS, CANVAS_BOX)),
        OUTPUT_FORMAT,
    ),
    outputs=(OUTPUT_IMAGE,),
    needs_gpu=False,
    cpu_instances=2,
    parameters=(
        _MAX_PENDING,
        ModelParameter("WORKERS", "1", "Number of requests whose images one instance encodes in parallel"),
    ),
)
FLUX_VAE_ENCODER = Model(
    name="flux_vae_encoder",
    purpose="Resizes an image and its mask and encodes the image as latents; large images in tiles",
    inputs=(IMAGE, replace(MASK_IMAGE, optional=True), *MASK_PARAMETERS, *SIZE, *IMG2IMG_PARAMETERS),
    outputs=(SOURCE_LATENTS, SOURCE_PIXELS, SOURCE_MASK, CANVAS, CANVAS_WEIGHTS, CANVAS_BOX, SOURCE_REFUSAL),
    outputs_with={MASK_IMAGE.name: (SOURCE_MASK, CANVAS, CANVAS_WEIGHTS, CANVAS_BOX)},
    needs_gpu=True,
    parameters=(_DTYPE, *_DECODING),
)
CANNY_EDGES = Model(
    name="canny_edges",
    purpose="Resizes an image and detects its edges with OpenCV",
    inputs=(CONTROL_IMAGE, *SIZE, *EDGE_PARAMETERS, OUTPUT_FORMAT),
    outputs=(EDGES, EDGE_IMAGE, CONTROL_REFUSAL),
    needs_gpu=False,
    parameters=_DECODING,
)
_ANSWER = (OUTPUT_IMAGE, OUTPUT_SEED)
_FROM_CONDITION = (Step(FLUX_PRIOR_REDUX), Step(FLUX_BASE), Step(IMAGE_ENCODE))
_SAMPLING = (*SAMPLING_PARAMETERS, OUTPUT_FORMAT, *PREVIEW_PARAMETERS, PROGRESS_ADDRESS)

#: IMAGE is optional. PROMPT is required, because Triton rejects a step without inputs.
_BESIDE_ANOTHER_IMAGE = _condition(replace(IMAGE, optional=True), replace(PROMPT, optional=False))

_OF_EDGES = {
    IMAGE.name: EDGES.name,
    SOURCE_LATENTS.name: CONTROL_LATENTS.name,
    SOURCE_PIXELS.name: "CONTROL_PIXELS",  # unused
}

FLUX_REDUX = Ensemble(
    name="flux_redux",
    purpose="Generates variations of images",
    inputs=(*_condition(IMAGE), *_SAMPLING),
    outputs=_ANSWER,
    steps=_FROM_CONDITION,
)
FLUX_IMG2IMG = Ensemble(
    name="flux_img2img",
    purpose="Changes an image: denoises its latents with some noise, guided by images and a prompt",
    inputs=(*_condition(IMG2IMG_IMAGE), *IMG2IMG_PARAMETERS, *_SAMPLING),
    outputs=_ANSWER,
    steps=(Step(FLUX_VAE_ENCODER), *_FROM_CONDITION),
)
FLUX_INPAINT = Ensemble(
    name="flux_inpaint",
    purpose="Changes the masked part of an image, guided by images and a prompt",
    inputs=(
        SOURCE_IMAGE,
        MASK_IMAGE,
        *MASK_PARAMETERS,
        *IMG2IMG_PARAMETERS,
        *_BESIDE_ANOTHER_IMAGE,
        *_SAMPLING,
    ),
    outputs=_ANSWER,
    steps=(Step(FLUX_VAE_ENCODER, {IMAGE.name: SOURCE_IMAGE.name}), *_FROM_CONDITION),
)
FLUX_TEXT2IMG = Ensemble(
    name="flux_text2img",
    purpose="Generates images from a prompt",
    inputs=(replace(PROMPT, optional=False, default=None), *PROMPT_PARAMETERS, *_SAMPLING),
    outputs=_ANSWER,
    steps=_FROM_CONDITION,
)
FLUX_CANNY = Ensemble(
    name="flux_canny",
    purpose="Generates images that follow the edges of an image, guided by images and a prompt",
    inputs=(
        CONTROL_IMAGE,
        *EDGE_PARAMETERS,
        *CONTROL_PARAMETERS,
        *_BESIDE_ANOTHER_IMAGE,
        *_SAMPLING,
    ),
    outputs=(*_ANSWER, EDGE_IMAGE),
    steps=(
        Step(CANNY_EDGES),
        Step(FLUX_VAE_ENCODER, _OF_EDGES),
        *_FROM_CONDITION,
    ),
)
ENSEMBLES: tuple[Ensemble, ...] = (FLUX_REDUX, FLUX_IMG2IMG, FLUX_INPAINT, FLUX_TEXT2IMG, FLUX_CANNY)


def mode_tensor(ensembles: Sequence[Ensemble]) -> Tensor:
    """Return the input of flux_stream that selects one of the ensembles."""
    names = tuple(mode_name(ensemble) for ensemble in ensembles)
    return scalar(
        "MODE",
        DType.BYTES,
        "Mode: the name of the ensemble to run, without `flux_`",
        default=names[0],
        choices=names,
    )


def mode_name(ensemble: Ensemble) -> str:
    """Return the name of the client's method, of the command, and of `MODE`."""
    return ensemble.name.removeprefix("flux_")


def stream_model(ensembles: Sequence[Ensemble]) -> Model:
    """Return flux_stream, with the inputs of all ensembles. They are optional, because modes have different inputs."""
    found = {tensor.name: tensor for ensemble in ensembles for tensor in ensemble.inputs if tensor != PROGRESS_ADDRESS}
    inputs = (replace(tensor, optional=True) for tensor in found.values())
    return Model(
        name="flux_stream",
        purpose="Runs an ensemble and streams progress and previews of its images; a client can cancel it",
        inputs=(mode_tensor(ensembles), *inputs, STREAM_TOKEN, CANCEL),
        outputs=(PROGRESS, PREVIEW, *_ANSWER, EDGE_IMAGE),
        needs_gpu=False,
        decoupled=True,
    )


MODE = mode_tensor(ENSEMBLES)
FLUX_STREAM = stream_model(ENSEMBLES)

FLUX_STATUS = Model(
    name="flux_status",
    purpose="Reports the remaining work of each instance of `flux_base`, so that clients can choose a server",
    inputs=(QUERY,),
    outputs=(INSTANCE, DEVICE, SECONDS_LEFT, JOBS, ROOM),
    needs_gpu=False,
)

MODELS: tuple[Model, ...] = (
    FLUX_PRIOR_REDUX,
    FLUX_VAE_ENCODER,
    CANNY_EDGES,
    FLUX_BASE,
    IMAGE_ENCODE,
    FLUX_STREAM,
    FLUX_STATUS,
)
