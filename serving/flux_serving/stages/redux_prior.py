"""Pictures to Redux tokens, many pictures in one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import FluxPriorReduxPipeline
from PIL import Image
from torch import Tensor

#: Pictures that go through SigLIP at once; more are encoded in several goes, to bound memory.
MAX_BATCH = 16


@torch.inference_mode()
def encode_pictures(prior: FluxPriorReduxPipeline, pictures: Sequence[Image.Image]) -> list[Tensor]:
    """SigLIP, then the Redux embedder. pictures: RGB, of any size; SigLIP sees each squashed to its own square.

    Returns one (tokens, context width) per picture, in the prior's dtype.
    Source: diffusers, `FluxPriorReduxPipeline.__call__`, which sums its pictures and so can't batch requests.
    """
    tokens: list[Tensor] = []
    for start in range(0, len(pictures), MAX_BATCH):
        hidden = prior.encode_image(list(pictures[start : start + MAX_BATCH]), prior.image_encoder.device, 1)
        tokens.extend(prior.image_embedder(hidden).image_embeds)
    return tokens


def context_width(prior: FluxPriorReduxPipeline) -> int:
    width: int = prior.image_embedder.config.txt_in_features
    return width
