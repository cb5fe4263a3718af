"""What a request asks of each of its pictures, and what becomes of the pictures' tokens by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flux_contract import parameters
from flux_contract.errors import InvalidRequest
from flux_contract.tensors import Array
from flux_contract.tensors import Tensor as Input
from flux_serving.conditioning.context import ContextPart, Span
from flux_serving.conditioning.detail import pooled
from flux_serving.conditioning.framing import View


@dataclass(frozen=True)
class PictureControl:
    """Of one picture, as the contract's tensors of these names say."""

    strength: float
    detail: int
    detail_filter: str
    detail_weight: str
    fit: str
    is_cropped: bool
    span: Span

    @classmethod
    def of_each(cls, values: Mapping[str, Array], count: int) -> list[PictureControl]:
        """values: the tensors that are present, by name, each within the contract's bounds. count: of pictures.

        Raises InvalidRequest: a tensor has another number of values, or a span ends before it starts.
        """
        each = zip(
            parameters.IMAGE_STRENGTH.values_in(values, count),
            parameters.IMAGE_DETAIL.values_in(values, count),
            parameters.IMAGE_DETAIL_FILTER.values_in(values, count),
            parameters.IMAGE_DETAIL_WEIGHT.values_in(values, count),
            parameters.IMAGE_FIT.values_in(values, count),
            map(bool, parameters.IMAGE_MASK_CROP.values_in(values, count)),
            spans_in(values, parameters.IMAGE_START, parameters.IMAGE_END, count),
            strict=True,
        )
        return [cls(*of_one) for of_one in each]


def spans_in(values: Mapping[str, Array], start: Input, end: Input, count: int) -> list[Span]:
    """Raises InvalidRequest: another number of values, or one ends before it starts."""
    spans = [Span(*pair) for pair in zip(start.values_in(values, count), end.values_in(values, count), strict=True)]
    for span in spans:
        if span.start >= span.end:
            raise InvalidRequest(f"{start.name}={span.start:g}, expected less than {end.name}={span.end:g}")
    return spans


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
