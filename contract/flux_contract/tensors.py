"""Tensors: name, type, shape, meaning and bounds, and the check of values that client and server share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_contract.errors import InvalidRequest

#: A numpy array of any type.
Array = NDArray[Any]


class DType(Enum):
    """Triton's type name, its name in `config.pbtxt`, and the numpy type."""

    BYTES = ("BYTES", "TYPE_STRING", np.object_)
    UINT8 = ("UINT8", "TYPE_UINT8", np.uint8)
    INT32 = ("INT32", "TYPE_INT32", np.int32)
    INT64 = ("INT64", "TYPE_INT64", np.int64)
    FP32 = ("FP32", "TYPE_FP32", np.float32)

    def __init__(self, wire_name: str, config_name: str, numpy_type: type[np.generic]) -> None:
        self.wire_name = wire_name
        self.config_name = config_name
        self.numpy_type = numpy_type


@dataclass(frozen=True)
class Bounds:
    """Allowed values, both ends included."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}" if self.high < 2**62 else f"{self.low:g}..2^63-1"

    def broken_by(self, values: Array) -> Array:
        """Return the values that are out of bounds or not numbers."""
        broken: Array = values[~((values >= self.low) & (values <= self.high))]
        return broken


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, without Triton's batch dimension.

    shape: -1 is any length. default: of an optional input; None if it depends on the checkpoint or other inputs, as
    `meaning` says. choices: allowed texts; empty for any text.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    meaning: str
    unit: str = ""
    optional: bool = False
    bounds: Bounds | None = None
    default: int | float | str | None = None
    max_length: int | None = None
    choices: tuple[str, ...] = ()

    def check(self, model: str, values: Array) -> None:
        """Check values of this tensor, without the batch dimension.

        Raises InvalidRequest: wrong shape, more than `max_length` values, out of bounds, not a number, or not one of
        the choices.
        """
        if values.ndim != len(self.shape) or any(
            w not in (-1, g) for w, g in zip(self.shape, values.shape, strict=True)
        ):
            raise InvalidRequest(f"{model}: {self.name} has shape {list(values.shape)}, expected {list(self.shape)}")
        if self.max_length is not None and not 1 <= len(values) <= self.max_length:
            raise InvalidRequest(f"{model}: {self.name} has {len(values)} values, expected 1..{self.max_length}")
        if self.bounds is not None and len(broken := self.bounds.broken_by(values)):
            raise InvalidRequest(f"{model}: {self.name}={_shown(broken[0].item())}, expected {self.bounds}")
        if self.choices:
            for value in values.tolist():
                if (text := _text(value)) not in self.choices:
                    raise InvalidRequest(
                        f"{model}: {self.name}={text[:40]!r}, expected one of: {', '.join(self.choices)}"
                    )

    def value_in(self, values: Mapping[str, Array], default: float | None = None) -> Any:
        """Return the value of this tensor; if it is missing, `default`, or else the contract's default."""
        if self.name in values:
            return values[self.name].item()
        return self.default if default is None else default

    def texts_in(self, values: Mapping[str, Array]) -> list[str]:
        """Return the texts of this tensor. Raises KeyError: the tensor is missing."""
        return list(map(_text, values[self.name].tolist()))

    def values_in(self, values: Mapping[str, Array], count: int, of_what: str = "images") -> list[Any]:
        """Return `count` values of this tensor. Values of a tensor with choices are str.

        A single value is repeated. If the tensor is missing, the contract's default is repeated.
        of_what: plural noun for the error message.
        Raises InvalidRequest: there are several values, but not `count`.
        """
        if self.name not in values:
            return [self.default] * count
        given: list[Any] = self.texts_in(values) if self.choices else values[self.name].tolist()
        if len(given) == 1:
            return given * count
        if len(given) != count:
            raise InvalidRequest(
                f"{self.name} has {len(given)} values for {count} {of_what}, expected one, or one each"
            )
        return given

    def array(self, values: Any) -> Array:
        """Return values as an array of this tensor's type. A single value becomes an array of one value."""
        if self.dtype is DType.BYTES:
            items = [values] if isinstance(values, (bytes, str)) else list(values)
            texts = np.empty(len(items), dtype=np.object_)
            texts[:] = [item.encode() if isinstance(item, str) else item for item in items]
            return texts
        array: Array = np.atleast_1d(np.asarray(values))
        # An empty list becomes float64.
        return array.astype(self.dtype.numpy_type, casting="same_kind" if array.size else "unsafe")


def scalar(name: str, dtype: DType, meaning: str, **rest: Any) -> Tensor:
    """Return an optional input with one value."""
    return Tensor(name, dtype, (1,), meaning, optional=True, **rest)


def _text(value: Any) -> Any:
    """Decode bytes as UTF-8; invalid bytes are escaped."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _shown(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
