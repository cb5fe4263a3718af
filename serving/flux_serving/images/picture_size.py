"""How large the picture asked for is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flux_contract.errors import InvalidRequest
from flux_contract.parameters import HEIGHT, WIDTH
from flux_contract.tensors import Array, Tensor


@dataclass(frozen=True)
class Sides:
    """Of a checkpoint's pictures, in pixels. native: where a request says nothing. multiple: of what a side must be."""

    native: int
    multiple: int

    def asked_in(self, values: Mapping[str, Array]) -> tuple[int, int]:
        """Height and width. values: the tensors that are present, by name.

        Raises InvalidRequest: one is no such multiple.
        """
        return self._side(HEIGHT, values), self._side(WIDTH, values)

    def _side(self, tensor: Tensor, values: Mapping[str, Array]) -> int:
        side = int(tensor.value_in(values, default=self.native))
        if side % self.multiple:
            below = side // self.multiple * self.multiple
            nearest = f"{below} or {below + self.multiple}" if below else str(self.multiple)
            raise InvalidRequest(f"{tensor.name}={side}, expected a multiple of {self.multiple}; nearest: {nearest}")
        return side
