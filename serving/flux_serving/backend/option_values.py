"""Reads values that the options of several models have in common.

values: the tensors of a request by name, already checked against the contract.
"""

from __future__ import annotations

from collections.abc import Mapping

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import FIT, HEIGHT, OUTPUT_FORMAT, WIDTH
from flux_contract.tensors import Array, Tensor
from flux_serving.conditioning.context import Span
from flux_serving.images.picture_encoding import OutputFormat, parse_format
from flux_serving.images.picture_size import Sides
from flux_serving.images.resizing import SizedImage


def read_text(values: Mapping[str, Array], tensor: Tensor) -> str:
    """The text of a one-element BYTES input, or its default. Raises InvalidRequest: it is not UTF-8."""
    if tensor.name not in values:
        return str(tensor.default)
    item = values[tensor.name][0]
    try:
        return item if isinstance(item, str) else bytes(item).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{tensor.name} is not UTF-8") from None


def read_format(values: Mapping[str, Array]) -> OutputFormat:
    """Raises InvalidRequest: unknown format."""
    return parse_format(read_text(values, OUTPUT_FORMAT))


def read_size(values: Mapping[str, Array], sides: Sides) -> tuple[int, int]:
    """Height and width in pixels. sides: of the checkpoint. Raises InvalidRequest: one is not a valid multiple."""
    height, width = (sides.check(tensor, int(tensor.value_in(values, sides.native))) for tensor in (HEIGHT, WIDTH))
    return height, width


def read_sized_image(values: Mapping[str, Array], tensor: Tensor, sides: Sides) -> SizedImage:
    """The first image of this tensor, and its size. Raises InvalidRequest as `read_size`."""
    height, width = read_size(values, sides)
    return SizedImage(values[tensor.name][0], height, width, read_text(values, FIT))


def read_spans(values: Mapping[str, Array], start: Tensor, end: Tensor, count: int) -> list[Span]:
    """One span for each of `count` things.

    Raises InvalidRequest: a tensor has another number of values, or a span ends before it starts.
    """
    spans = [Span(*pair) for pair in zip(start.values_in(values, count), end.values_in(values, count), strict=True)]
    for span in spans:
        if span.start >= span.end:
            raise InvalidRequest(f"{start.name}={span.start:g}, expected less than {end.name}={span.end:g}")
    return spans
