"""The options of one input image, and their effect on the weights of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from flux_contract.parameters import (
    IMAGE_DETAIL,
    IMAGE_DETAIL_FILTER,
    IMAGE_DETAIL_WEIGHT,
    IMAGE_FIT,
    IMAGE_MASK_CROP,
    IMAGE_MASK_INVERT,
    IMAGE_STRENGTH,
)
from flux_serving.conditioning.context import ContextPart
from flux_serving.conditioning.detail import pooled
from flux_serving.conditioning.framing import View
from flux_serving.conditioning.span import Span


@dataclass(frozen=True)
class ImageControl:
    """The options of one input image. span: IMAGE_START and IMAGE_END."""

    strength: Annotated[float, IMAGE_STRENGTH]
    detail: Annotated[int, IMAGE_DETAIL]
    detail_filter: Annotated[str, IMAGE_DETAIL_FILTER]
    detail_weight: Annotated[str, IMAGE_DETAIL_WEIGHT]
    fit: Annotated[str, IMAGE_FIT]
    is_mask_inverted: Annotated[bool, IMAGE_MASK_INVERT]
    is_cropped: Annotated[bool, IMAGE_MASK_CROP]
    span: Span


def image_part(views: Sequence[View], tokens: Sequence[Tensor], control: ImageControl) -> ContextPart:
    """Returns the tokens of one image, with their weights for strength 1.

    tokens: (tokens, width) of each of its views, on a square grid. Several views share the weight of one view.
    """
    parts = [_of_view(view, own, control) for view, own in zip(views, tokens, strict=True)]
    weights = torch.cat([weights for _, weights in parts]) / len(views)
    return ContextPart(torch.cat([own for own, _ in parts]), weights, control.span)


def _of_view(view: View, tokens: Tensor, control: ImageControl) -> tuple[Tensor, Tensor]:
    fewer, weights = pooled(tokens, view.coverage, control.detail, control.detail_filter)
    return fewer, weights * (len(tokens) / len(fewer)) if control.detail_weight == "all" else weights
