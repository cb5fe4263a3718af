"""The options of one input image, and how they change the weights of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_serving.conditioning.context import ContextPart, Span
from flux_serving.conditioning.detail import pooled
from flux_serving.conditioning.framing import View


@dataclass(frozen=True)
class PictureControl:
    """The options of one input image. strength, detail, fit, span: as the contract's `IMAGE_...` parameters."""

    strength: float
    detail: int
    detail_filter: str
    detail_weight: str
    fit: str
    is_cropped: bool
    span: Span


def picture_part(views: Sequence[View], tokens: Sequence[Tensor], control: PictureControl) -> ContextPart:
    """The tokens of one picture, which weigh as if its strength were 1.

    tokens: (tokens, width) of each of its views, on a square grid. Several views share the weight of one.
    """
    parts = [_of_view(view, own, control) for view, own in zip(views, tokens, strict=True)]
    weights = torch.cat([weights for _, weights in parts]) / len(views)
    return ContextPart(torch.cat([own for own, _ in parts]), weights, control.span)


def _of_view(view: View, tokens: Tensor, control: PictureControl) -> tuple[Tensor, Tensor]:
    fewer, weights = pooled(tokens, view.coverage, control.detail, control.detail_filter)
    return fewer, weights * (len(tokens) / len(fewer)) if control.detail_weight == "all" else weights
