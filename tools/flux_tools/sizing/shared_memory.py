"""Bytes of /dev/shm, which holds every tensor that a Python model reads or writes while the call lasts.

A region never shrinks, so the result is the sum of the maximum of every process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract import limits
from flux_contract.internal_tensors import (
    CANVAS,
    CANVAS_WEIGHTS,
    CONTEXT,
    CONTROL_LATENTS,
    EDGE_IMAGE,
    EDGES,
    INITIAL_LATENTS,
    LATENTS,
    NEGATIVE_CONTEXT,
    OUTPUT_IMAGE,
    PIXELS,
    PREVIEW,
    SOURCE_LATENTS,
    SOURCE_MASK,
    SOURCE_PIXELS,
)
from flux_contract.models import FLUX_BASE, FLUX_STREAM, MODELS, Model
from flux_contract.parameters import IMAGE, IMAGE_MASK, SINGLE_IMAGES
from flux_contract.tensors import Tensor

#: Characters of base64 per byte.
_BASE64 = 4 / 3
#: FLUX.1's width of a context token and of a latent token, which is 16x16 pixels. Both are FP32.
_CONTEXT_WIDTH, _LATENT_WIDTH = 4096, 64


@dataclass(frozen=True)
class Largest:
    """Sizes of the largest possible request."""

    #: Bytes of all images as sent, and of all masks.
    image_bytes: float = _BASE64 * limits.MAX_INPUT_IMAGES * limits.MAX_IMAGE_BYTES
    mask_bytes: float = _BASE64 * limits.MAX_INPUT_IMAGES * limits.MAX_IMAGE_BYTES
    control_bytes: float = _BASE64 * limits.MAX_IMAGE_BYTES
    #: Number of requested images, and pixels of each.
    images: int = limits.MAX_IMAGES
    pixels: int = limits.MAX_SIDE**2
    context_tokens: int = limits.MAX_CONTEXT_TOKENS

    def sizes(self) -> Mapping[str, float]:
        """Return the bytes of each large tensor by name. The other tensors of a call have less than 1 MiB together."""
        rgb = 3 * self.pixels
        latents = self.pixels / 256 * _LATENT_WIDTH * 4
        context = self.context_tokens * _CONTEXT_WIDTH * 4
        return {
            IMAGE.name: self.image_bytes,
            IMAGE_MASK.name: self.mask_bytes,
            **dict.fromkeys((parameter.name for parameter in SINGLE_IMAGES), self.control_bytes),
            CONTEXT.name: context,
            NEGATIVE_CONTEXT.name: context,
            INITIAL_LATENTS.name: self.images * latents,
            LATENTS.name: self.images * latents,
            SOURCE_LATENTS.name: latents,
            CONTROL_LATENTS.name: latents,
            SOURCE_PIXELS.name: rgb,
            SOURCE_MASK.name: self.pixels / 64 * 4,
            CANVAS.name: rgb,
            CANVAS_WEIGHTS.name: self.pixels,
            PIXELS.name: self.images * rgb,
            # An incompressible image is as large as its pixels.
            OUTPUT_IMAGE.name: self.images * rgb * _BASE64,
            EDGES.name: self.pixels,
            EDGE_IMAGE.name: self.pixels * _BASE64,
            PREVIEW.name: rgb,
        }


#: The largest requests that the contract allows, and that a gateway with its default limits passes on.
BY_CONTRACT = Largest()
BY_GATEWAY = Largest(image_bytes=64 * 2**20, mask_bytes=0, control_bytes=0, pixels=2048 * 2048)

_REST = 2**20


def shared_memory_bytes(gpus: int, largest: Largest = BY_CONTRACT) -> int:
    """Return the bytes of /dev/shm of a server. gpus: 0 for a CPU, with one instance of each GPU model."""
    return sum(_instances(model, gpus) * _calls(model) * _call_bytes(model, largest) for model in MODELS)


def shared_memory_gibibytes(gpus: int, largest: Largest = BY_CONTRACT) -> int:
    """Return `shared_memory_bytes` in GiB, rounded up."""
    return math.ceil(shared_memory_bytes(gpus, largest) / 2**30)


def _instances(model: Model, gpus: int) -> int:
    return max(1, gpus) if model.needs_gpu else model.cpu_instances


def _calls(model: Model) -> int:
    """Return the number of calls whose tensors one instance holds at a time."""
    if model is FLUX_STREAM:
        # The running streams, which call the ensembles, and one that is being accepted.
        return limits.MAX_STREAMS + 1
    if model is FLUX_BASE:
        # One request is being read, after which its tensors are released, and one response is being sent.
        return 2
    return model.max_batch_size


def _call_bytes(model: Model, largest: Largest) -> int:
    sizes = largest.sizes()
    tensors: tuple[Tensor, ...] = (*model.inputs, *model.outputs)
    return math.ceil(sum(sizes.get(tensor.name, 0) for tensor in tensors)) + _REST
