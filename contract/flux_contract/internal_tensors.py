"""What the models hand to each other, and what callers get."""

from __future__ import annotations

from dataclasses import replace

from flux_contract import limits
from flux_contract.tensors import Bounds, DType, Tensor, scalar

PROGRESS_ADDRESS = scalar(
    "PROGRESS_ADDRESS",
    DType.BYTES,
    "Where `flux_stream` listens for progress; only it can make one, any other is refused",
    default="",
)
#: Parameter of a request with the same address, which Triton hands to every model of an ensemble: by it each of them
#: knows whether the stream's client is still there.
PROGRESS_PARAMETER = "flux_progress_address"
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
NEGATIVE_CONTEXT = replace(CONTEXT, name="NEGATIVE_CONTEXT", meaning="Context tokens of the negative prompt")
NEGATIVE_CONTEXT_WEIGHTS = replace(
    CONTEXT_WEIGHTS,
    name="NEGATIVE_CONTEXT_WEIGHTS",
    meaning="Weight of each of them; where all are 0 there is no negative prompt",
)
NEGATIVE_POOLED_PROJECTION = replace(
    POOLED_PROJECTION,
    name="NEGATIVE_POOLED_PROJECTION",
    meaning="Pooled text embedding of the negative prompt",
)
POSITIVE = (CONTEXT, CONTEXT_WEIGHTS, POOLED_PROJECTION)
NEGATIVE = (NEGATIVE_CONTEXT, NEGATIVE_CONTEXT_WEIGHTS, NEGATIVE_POOLED_PROJECTION)
REFUSAL = Tensor(
    "REFUSAL",
    DType.BYTES,
    (1,),
    "Why the pictures or the prompt are refused, with Triton's code in brackets, or empty; `flux_base` answers with "
    "it. It is no error of the model itself, because Triton's response cache keeps an error as an empty answer, and "
    "because an ensemble one of whose parallel steps fails never ends inside Triton (tried on 2.51)",
    default="",
)
SOURCE_REFUSAL = replace(
    REFUSAL,
    name="SOURCE_REFUSAL",
    meaning="The same of the picture to change. Where it is not asked for, the model answers with the error itself",
)
CONTROL_REFUSAL = replace(SOURCE_REFUSAL, name="CONTROL_REFUSAL", meaning="The same of the picture to follow")
#: In the order in which they count.
REFUSALS = (CONTROL_REFUSAL, SOURCE_REFUSAL, REFUSAL)
PIXELS = Tensor("PIXELS", DType.UINT8, (-1, -1, -1, 3), "Pictures: number, height, width, RGB", unit="0..255")
LATENTS = Tensor(
    "LATENTS", DType.FP32, (-1, -1, -1), "Final packed latents: number, image tokens, channels", unit="VAE-scaled"
)
RECIPE = Tensor(
    "RECIPE",
    DType.BYTES,
    (-1,),
    "How and where each picture was made, as JSON: seed, steps, guidance, size, model, instance, device",
)

INITIAL_LATENTS = replace(
    LATENTS,
    name="INITIAL_LATENTS",
    meaning="Packed latents to begin with at START_STEP instead of noise: number, image tokens, channels",
    optional=True,
)
SOURCE_LATENTS = Tensor(
    "SOURCE_LATENTS",
    DType.FP32,
    (-1, -1),
    "The picture as packed latents, without noise: image tokens, channels; one token of one channel where STRENGTH or "
    "START_SIGMA is 0, and nothing is to be encoded",
    unit="VAE-scaled",
)
SOURCE_PIXELS = Tensor(
    "SOURCE_PIXELS",
    DType.UINT8,
    (-1, -1, 3),
    "The picture at the size asked for where STRENGTH or START_SIGMA is 0, or else one pixel: height, width, RGB",
    unit="0..255",
)
CONTROL_LATENTS = replace(
    SOURCE_LATENTS, name="CONTROL_LATENTS", meaning="The edges to follow, as packed latents: image tokens, channels"
)

# What callers get.
OUTPUT_IMAGE = Tensor("OUTPUT_IMAGE", DType.BYTES, (-1,), "One encoded picture for each image wanted", unit="bytes")
OUTPUT_SEED = Tensor("OUTPUT_SEED", DType.INT64, (-1,), "The seed that each image used")
EDGES = Tensor("EDGES", DType.BYTES, (1,), "Edges, white on black, as PNG at the size asked for")
EDGE_IMAGE = replace(
    EDGES,
    name="EDGE_IMAGE",
    meaning="The same for callers. It is an output of its own because a step with a single output, which a caller does "
    "not ask for, is left out even where the next step needs it (2.51)",
)
STREAM_TOKEN = scalar(
    "STREAM_TOKEN",
    DType.BYTES,
    "A name for this stream by which CANCEL ends it: 22 to 64 letters, digits, `-` and `_`, which the client draws at "
    "random for each request and keeps to itself",
)
CANCEL = scalar(
    "CANCEL",
    DType.BYTES,
    "The STREAM_TOKEN of a running stream: that stream ends with its last answer, CANCELLED, and this request with an "
    "empty one. It is the only input of its request. INVALID_ARG if no running stream has this token",
)
PROGRESS = Tensor("PROGRESS", DType.INT32, (3,), "Which image, counted from 0; steps done; steps in all")
PREVIEW = Tensor("PREVIEW", DType.BYTES, (1,), "The image as it stands after these steps, as JPEG", unit="bytes")

# Outputs of flux_status. All have the instances in the same order.
QUERY = Tensor("QUERY", DType.BYTES, (1,), "What is asked. Triton refuses a request without inputs", choices=("load",))
INSTANCE = Tensor("INSTANCE", DType.BYTES, (-1,), "Name of each instance of `flux_base` that is alive")
DEVICE = Tensor("DEVICE", DType.BYTES, (-1,), "Device of each instance, such as `cuda:7` or `cpu`")
SECONDS_LEFT = Tensor(
    "SECONDS_LEFT",
    DType.FP32,
    (-1,),
    "Time until every image of the instance has taken its last step, at the step times measured so far",
    unit="seconds",
)
JOBS = Tensor("JOBS", DType.INT32, (-1,), "Images that wait or run in each instance")
ROOM = Tensor("ROOM", DType.INT32, (-1,), "Images that each instance would accept now")
