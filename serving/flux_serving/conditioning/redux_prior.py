"""Encodes images to Redux tokens, many images in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FluxPriorReduxPipeline
from PIL import Image
from torch import Tensor

from flux_serving.network.cpu_threads import cpu_threads

#: Maximum number of images in one batch of SigLIP. More images are encoded in several batches, to limit memory.
MAX_BATCH = 16
#: Number of image tokens from which more than one CPU thread is faster.
MANY_THREADS_FROM_TOKENS = 1024


@torch.inference_mode()
def encode_images(prior: FluxPriorReduxPipeline, images: Sequence[Image.Image]) -> list[Tensor]:
    """Preprocess and encode images; see `preprocess` and `encode_squares`."""
    return encode_squares(prior, preprocess(prior, images))


@torch.inference_mode()
def preprocess(prior: FluxPriorReduxPipeline, images: Sequence[Image.Image]) -> Tensor:
    """Resize images to SigLIP's square, without keeping the aspect ratio, and normalise them.

    images: RGB, of any size. Returns (images, 3, side, side) float32 on the CPU.
    Source: diffusers, `FluxPriorReduxPipeline.encode_image`.
    """
    side = prior.image_encoder.config.image_size
    squares = torch.empty(len(images), 3, side, side)
    with cpu_threads(squares.device, is_small=True):
        for square, image in zip(squares, images, strict=True):
            features = prior.feature_extractor.preprocess(
                images=image, do_resize=True, return_tensors="pt", do_convert_rgb=True
            )
            square.copy_(features["pixel_values"][0])
    return squares


@torch.inference_mode()
def encode_squares(prior: FluxPriorReduxPipeline, squares: Tensor) -> list[Tensor]:
    """Run SigLIP, then the Redux embedder. squares: as `preprocess` returns them, any number.

    Returns a tensor for each, (tokens, context width), in the prior's dtype.
    Source: diffusers, `FluxPriorReduxPipeline.__call__`, which sums its images and so cannot batch requests.
    """
    device, dtype = prior.image_encoder.device, prior.image_encoder.dtype
    vision = prior.image_encoder.config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens: list[Tensor] = []
    with cpu_threads(device, is_small=len(squares) * patches < MANY_THREADS_FROM_TOKENS):
        for start in range(0, len(squares), MAX_BATCH):
            pixels = squares[start : start + MAX_BATCH].to(device, dtype)
            hidden = prior.image_encoder(pixel_values=pixels).last_hidden_state
            tokens.extend(prior.image_embedder(hidden).image_embeds)
    return tokens


def context_width(prior: FluxPriorReduxPipeline) -> int:
    width: int = prior.image_embedder.config.txt_in_features
    return width
