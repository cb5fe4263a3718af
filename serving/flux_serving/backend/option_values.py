"""Reads options from a request's tensors: declared fields, and values that several models share.

A field of an options class declares its input as `Annotated[type, tensor]`. In every function, values are the tensors
that are present, by name, already checked against the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import HEIGHT, OUTPUT_FORMAT, WIDTH
from flux_contract.tensors import Array, DType, Tensor
from flux_serving.conditioning.span import Span
from flux_serving.images.image_encoding import OutputFormat, parse_format
from flux_serving.images.image_size import Sides
from flux_serving.images.resizing import SizedImage


def read_declared(values: Mapping[str, Array], options: type) -> dict[str, Any]:
    """Returns the declared fields of an options class, as keywords. Raises InvalidRequest: a text is not UTF-8."""
    return {
        name: kind(read_text(values, tensor) if tensor.dtype is DType.BYTES else tensor.value_in(values))
        for name, (kind, tensor) in _declared(options).items()
    }


def read_declared_each(values: Mapping[str, Array], options: type, count: int) -> list[dict[str, Any]]:
    """Returns the declared fields for each of `count` images.

    Raises InvalidRequest: a tensor does not have one value for each image.
    """
    columns = {name: map(kind, tensor.values_in(values, count)) for name, (kind, tensor) in _declared(options).items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@cache
def _declared(options: type) -> dict[str, tuple[Callable[[Any], Any], Tensor]]:
    """Returns the type and the input of each declared field."""
    hints = get_type_hints(options, include_extras=True)
    return {name: get_args(hint)[:2] for name, hint in hints.items() if get_origin(hint) is Annotated}


def read_text(values: Mapping[str, Array], tensor: Tensor) -> str:
    """Returns the text of a one-element BYTES input, or its default. Raises InvalidRequest: it is not UTF-8."""
    if tensor.name not in values:
        return str(tensor.default)
    item = values[tensor.name][0]
    try:
        return item if isinstance(item, str) else bytes(item).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{tensor.name} is not UTF-8") from None


def read_format(values: Mapping[str, Array]) -> OutputFormat:
    """Returns the output format. Raises InvalidRequest: the format is unknown."""
    return parse_format(read_text(values, OUTPUT_FORMAT))


def read_size(values: Mapping[str, Array], sides: Sides) -> tuple[int, int]:
    """Returns height and width in pixels. sides: of the checkpoint. Raises InvalidRequest: a side is invalid."""
    height, width = (sides.check(tensor, int(tensor.value_in(values, sides.native))) for tensor in (HEIGHT, WIDTH))
    return height, width


def read_sized_image(values: Mapping[str, Array], tensor: Tensor, sides: Sides) -> SizedImage:
    """Returns the first image of this tensor with its size. Raises InvalidRequest as `read_size` does."""
    height, width = read_size(values, sides)
    return SizedImage(values[tensor.name][0], height, width, **read_declared(values, SizedImage))


def read_spans(values: Mapping[str, Array], start: Tensor, end: Tensor, count: int) -> list[Span]:
    """Returns `count` spans.

    Raises InvalidRequest: a tensor has the wrong number of values, or a span ends before it starts.
    """
    spans = [Span(*pair) for pair in zip(start.values_in(values, count), end.values_in(values, count), strict=True)]
    for span in spans:
        if span.start >= span.end:
            raise InvalidRequest(f"{start.name}={span.start:g}, expected less than {end.name}={span.end:g}")
    return spans
