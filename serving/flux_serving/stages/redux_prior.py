"""Pictures to Redux tokens, many pictures in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FluxPriorReduxPipeline
from PIL import Image
from torch import Tensor

from flux_serving.stages.cpu_threads import cpu_threads

#: Pictures that go through SigLIP at once; more are encoded in several goes, to bound memory.
MAX_BATCH = 16
#: Image tokens from which on more than one thread of a CPU is worth it.
MANY_THREADS_FROM_TOKENS = 1024


@torch.inference_mode()
def encode_pictures(prior: FluxPriorReduxPipeline, pictures: Sequence[Image.Image]) -> list[Tensor]:
    """SigLIP, then the Redux embedder. pictures: RGB, of any size; SigLIP sees each squashed to its own square.

    Returns one (tokens, context width) per picture, in the prior's dtype.
    Source: diffusers, `FluxPriorReduxPipeline.__call__`, which sums its pictures and so can't batch requests.
    """
    device = prior.image_encoder.device
    vision = prior.image_encoder.config
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens: list[Tensor] = []
    with cpu_threads(device, is_small=len(pictures) * patches < MANY_THREADS_FROM_TOKENS):
        for start in range(0, len(pictures), MAX_BATCH):
            hidden = prior.encode_image(list(pictures[start : start + MAX_BATCH]), device, 1)
            tokens.extend(prior.image_embedder(hidden).image_embeds)
    return tokens


def context_width(prior: FluxPriorReduxPipeline) -> int:
    width: int = prior.image_embedder.config.txt_in_features
    return width
