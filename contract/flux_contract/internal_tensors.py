"""Tensors that models exchange, and the outputs of a request."""

from __future__ import annotations

from dataclasses import replace

from flux_contract import limits
from flux_contract.tensors import Bounds, DType, Tensor, scalar

PROGRESS_ADDRESS = scalar(
    "PROGRESS_ADDRESS",
    DType.BYTES,
    "Address at which `flux_stream` receives progress. Only `flux_stream` creates valid addresses; others are rejected",
    default="",
)
#: Request parameter with the same address. Triton passes it to every model of an ensemble, which can then check whether
#: the client of the stream is still connected.
PROGRESS_PARAMETER = "flux_progress_address"
CONTEXT = Tensor("CONTEXT", DType.FP32, (-1, -1), "Context tokens: of the text, then of the images in order")
CONTEXT_WEIGHTS = Tensor(
    "CONTEXT_WEIGHTS",
    DType.FP32,
    (-1,),
    "Weight of each context token: w acts as w equal tokens, by log(w) on the attention logit; 0 means absent",
    bounds=Bounds(0, 2**20),
    max_length=limits.MAX_CONTEXT_TOKENS,
)
CONTEXT_SPANS = Tensor(
    "CONTEXT_SPANS",
    DType.FP32,
    (-1, 2),
    "For each context token, the fractions of the steps after which it is used, and after which it is no longer used",
    bounds=Bounds(0, 1),
    max_length=limits.MAX_CONTEXT_TOKENS,
)
POOLED_PROJECTION = Tensor("POOLED_PROJECTION", DType.FP32, (-1,), "Pooled text embedding; zeros without a prompt")
POOLED_SPAN = Tensor(
    "POOLED_SPAN",
    DType.FP32,
    (2,),
    "The same fractions for the pooled text embedding, which is zeros at other steps",
    bounds=Bounds(0, 1),
)
NEGATIVE_CONTEXT = replace(CONTEXT, name="NEGATIVE_CONTEXT", meaning="Context tokens of the negative prompt")
NEGATIVE_CONTEXT_WEIGHTS = replace(
    CONTEXT_WEIGHTS,
    name="NEGATIVE_CONTEXT_WEIGHTS",
    meaning="Weight of each of these tokens. All 0 means that there is no negative prompt",
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
    "Why the images or the prompt are rejected, with Triton's code in brackets; empty if they are valid. `flux_base` "
    "responds with this error. The model itself does not fail, because Triton's response cache stores an error as an "
    "empty response, and because an ensemble with a failed parallel step never ends inside Triton (tested on 2.51)",
    default="",
)
SOURCE_REFUSAL = replace(
    REFUSAL,
    name="SOURCE_REFUSAL",
    meaning="The same for the image to change. If this output is not requested, the model itself fails",
)
CONTROL_REFUSAL = replace(SOURCE_REFUSAL, name="CONTROL_REFUSAL", meaning="The same for the control image")
#: In order: the first that is not empty is the error of the request.
REFUSALS = (CONTROL_REFUSAL, SOURCE_REFUSAL, REFUSAL)
PIXELS = Tensor("PIXELS", DType.UINT8, (-1, -1, -1, 3), "Images: number, height, width, RGB", unit="0..255")
LATENTS = Tensor(
    "LATENTS", DType.FP32, (-1, -1, -1), "Final packed latents: number, image tokens, channels", unit="VAE-scaled"
)
RECIPE = Tensor(
    "RECIPE",
    DType.BYTES,
    (-1,),
    "How and where each image was generated, as JSON: seed, steps, guidance, size, model, instance, device",
)

INITIAL_LATENTS = replace(
    LATENTS,
    name="INITIAL_LATENTS",
    meaning="Packed latents to start with at START_STEP instead of noise: number, image tokens, channels",
    optional=True,
)
SOURCE_LATENTS = Tensor(
    "SOURCE_LATENTS",
    DType.FP32,
    (-1, -1),
    "The image as packed latents without noise: image tokens, channels. One token of one channel if STRENGTH or "
    "START_SIGMA is 0, because the image is then returned unchanged",
    unit="VAE-scaled",
)
SOURCE_MASK = Tensor(
    "SOURCE_MASK",
    DType.FP32,
    (-1, -1),
    "For each latent of the image to change, 1 if it is changed, 0 if it is kept, or a value between: rows, columns",
    bounds=Bounds(0, 1),
)
SOURCE_PIXELS = Tensor(
    "SOURCE_PIXELS",
    DType.UINT8,
    (-1, -1, 3),
    "The resized image if STRENGTH or START_SIGMA is 0, else one pixel: height, width, RGB",
    unit="0..255",
)
CANVAS = Tensor(
    "CANVAS",
    DType.UINT8,
    (-1, -1, 3),
    "The image into which `image_encode` pastes the generated image: height, width, RGB",
    unit="0..255",
)
CANVAS_WEIGHTS = Tensor(
    "CANVAS_WEIGHTS",
    DType.UINT8,
    (-1, -1),
    "Share of the generated image in each pixel of CANVAS, 255 is all: height, width",
    unit="0..255",
)
CANVAS_BOX = Tensor(
    "CANVAS_BOX",
    DType.INT32,
    (4,),
    "The part of CANVAS that the generated image covers: left, top, right, bottom",
    unit="pixels",
)
CONTROL_LATENTS = replace(
    SOURCE_LATENTS, name="CONTROL_LATENTS", meaning="The edge map as packed latents: image tokens, channels"
)

# Outputs of a request.
OUTPUT_IMAGE = Tensor("OUTPUT_IMAGE", DType.BYTES, (-1,), "The generated images, encoded", unit="bytes")
OUTPUT_SEED = Tensor("OUTPUT_SEED", DType.INT64, (-1,), "Seed of each image")
EDGES = Tensor("EDGES", DType.BYTES, (1,), "Edge map, white on black, as PNG at the size of the generated image")
EDGE_IMAGE = replace(
    EDGES,
    name="EDGE_IMAGE",
    meaning="The same as EDGES, for clients. It is a separate output because Triton skips a step if its only output is "
    "not requested, even if the next step needs it (2.51)",
)
STREAM_TOKEN = scalar(
    "STREAM_TOKEN",
    DType.BYTES,
    "Secret name of this stream, for CANCEL: 22 to 64 letters, digits, `-` and `_`. The client generates a random "
    "token for each request",
)
CANCEL = scalar(
    "CANCEL",
    DType.BYTES,
    "STREAM_TOKEN of a running stream to cancel. That stream ends with the error CANCELLED, and this request with an "
    "empty response. A request with CANCEL has no other input. INVALID_ARG if no running stream has this token",
)
PROGRESS = Tensor("PROGRESS", DType.INT32, (3,), "Index of the image from 0, completed steps, total steps")
PREVIEW = Tensor("PREVIEW", DType.BYTES, (1,), "Preview of the image after these steps, as JPEG", unit="bytes")

# Tensors of flux_status. All outputs have the same order of instances.
QUERY = Tensor(
    "QUERY",
    DType.BYTES,
    (1,),
    "Kind of status. It is required because Triton rejects a request without inputs",
    choices=("load",),
)
INSTANCE = Tensor("INSTANCE", DType.BYTES, (-1,), "Name of each live instance of `flux_base`")
DEVICE = Tensor("DEVICE", DType.BYTES, (-1,), "Device of each instance, such as `cuda:7` or `cpu`")
SECONDS_LEFT = Tensor(
    "SECONDS_LEFT",
    DType.FP32,
    (-1,),
    "Estimated time until the instance has completed the steps of all its images, from measured step times",
    unit="seconds",
)
JOBS = Tensor("JOBS", DType.INT32, (-1,), "Number of images that wait or run in each instance")
ROOM = Tensor("ROOM", DType.INT32, (-1,), "Number of images that each instance would accept now")
