"""What callers may ask for beside a condition: a picture to begin with, and edges to follow."""

from __future__ import annotations

from dataclasses import replace

from flux_contract import limits
from flux_contract.knobs import IMAGE
from flux_contract.tensors import Bounds, DType, scalar

FIT = scalar(
    "FIT",
    DType.BYTES,
    "How a picture of another shape becomes one of the size asked for: `cover` cuts off what is too long, `contain` "
    "adds white (black to edges), `stretch` squashes it, as diffusers does",
    default=limits.SIZE_FITS[0],
    choices=limits.SIZE_FITS,
)

# Image-to-image.
SOURCE_IMAGE = replace(
    IMAGE,
    meaning=f"{IMAGE.meaning}. The first is the one to change; all of them steer, by IMAGE_STRENGTH, itself too",
)
STRENGTH = scalar(
    "STRENGTH",
    DType.FP32,
    "How much of the picture is to change, as diffusers' `strength`: 0 gives it back as it is, 1 draws from noise "
    "alone. Below 1 at least the first step is left out: it begins with nothing but noise",
    bounds=Bounds(0, 1),
    default=limits.DEFAULT_IMG2IMG_STRENGTH,
)
START_SIGMA = scalar(
    "START_SIGMA",
    DType.FP32,
    "Instead of STRENGTH: the share of noise to begin with, which is the same change at every size",
    bounds=Bounds(0, 1),
)
IMG2IMG_KNOBS = (STRENGTH, START_SIGMA, FIT)

# Edge control.
CONTROL_IMAGE = replace(
    IMAGE,
    name="CONTROL_IMAGE",
    shape=(1,),
    max_length=None,
    meaning="Encoded picture whose edges are to be followed, or a map of them; CONTROL_KIND says which",
)
CONTROL_KIND = scalar(
    "CONTROL_KIND",
    DType.BYTES,
    "`photo`: its edges are looked for; `edges`: it is a map of them, white on black",
    default=limits.CONTROL_KINDS[0],
    choices=limits.CONTROL_KINDS,
)
_THRESHOLD = Bounds(0, limits.MAX_CANNY_THRESHOLD)
CANNY_LOW = scalar(
    "CANNY_LOW",
    DType.FP32,
    "Canny's lower threshold: a gradient above it continues an edge",
    bounds=_THRESHOLD,
    default=limits.DEFAULT_CANNY_LOW,
)
CANNY_HIGH = scalar(
    "CANNY_HIGH",
    DType.FP32,
    "Canny's higher threshold: a gradient above it begins an edge; at least CANNY_LOW",
    bounds=_THRESHOLD,
    default=limits.DEFAULT_CANNY_HIGH,
)
EDGE_KNOBS = (CONTROL_KIND, CANNY_LOW, CANNY_HIGH, FIT)

CONTROL_SCALE = scalar(
    "CONTROL_SCALE",
    DType.FP32,
    "How strictly edges are followed, as diffusers' `controlnet_conditioning_scale`",
    bounds=Bounds(0, limits.MAX_CONTROL_SCALE),
    default=1.0,
)
CONTROL_START = scalar(
    "CONTROL_START",
    DType.FP32,
    "Fraction of the steps that are over when the edges come in, as diffusers' `control_guidance_start`",
    bounds=Bounds(0, 1),
    default=0.0,
)
CONTROL_END = scalar(
    "CONTROL_END",
    DType.FP32,
    "Fraction of the steps that are over when they go, as diffusers' `control_guidance_end`; after their start",
    bounds=Bounds(0, 1),
    default=1.0,
)
CONTROL_KNOBS = (CONTROL_SCALE, CONTROL_START, CONTROL_END)
