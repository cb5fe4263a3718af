"""What a tensor is: name, type, shape, meaning, bounds; and the check that every side runs on a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from flux_serving.errors import InvalidRequest


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
    multiple_of: int = 1

    def __str__(self) -> str:
        text = f"{self.low:g}..{self.high:g}" if self.high < 2**62 else f"{self.low:g}..2^63-1"
        return text if self.multiple_of == 1 else f"a multiple of {self.multiple_of} in {text}"

    def allow(self, value: float) -> bool:
        return math.isfinite(value) and self.low <= value <= self.high and value % self.multiple_of == 0


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model, without Triton's batch dimension.

    shape: -1 is any length. default: what an absent optional input means; None where the checkpoint or the
    presence of other inputs decides, as `meaning` says.
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

    def check(self, model: str, values: np.ndarray) -> None:
        """Check values of this tensor, without the batch dimension.

        Raises InvalidRequest: wrong shape, more than `max_length` values, out of bounds, or not a number.
        """
        if values.ndim != len(self.shape) or any(w not in (-1, g) for w, g in zip(self.shape, values.shape, strict=True)):
            raise InvalidRequest(f"{model}: {self.name} has shape {list(values.shape)}, expected {list(self.shape)}")
        if self.max_length is not None and not 1 <= len(values) <= self.max_length:
            raise InvalidRequest(f"{model}: {self.name} has {len(values)} values, expected 1..{self.max_length}")
        if self.bounds is not None:
            for value in values.ravel():
                if not self.bounds.allow(value.item()):
                    raise InvalidRequest(f"{model}: {self.name}={value.item():g}, expected {self.bounds}")

    def array(self, values: Any) -> np.ndarray:
        """Values as an array of this tensor's type; a single value becomes an array of one."""
        if self.dtype is DType.BYTES:
            items = [values] if isinstance(values, (bytes, str)) else list(values)
            array = np.empty(len(items), dtype=np.object_)
            array[:] = [item.encode() if isinstance(item, str) else item for item in items]
            return array
        return np.atleast_1d(np.asarray(values)).astype(self.dtype.numpy_type, casting="same_kind")


def scalar(name: str, dtype: DType, meaning: str, **rest: Any) -> Tensor:
    """An optional input of one value."""
    return Tensor(name, dtype, (1,), meaning, optional=True, **rest)
