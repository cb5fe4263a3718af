"""The sizes of generated images that a checkpoint supports."""

from __future__ import annotations

from dataclasses import dataclass

from flux_contract.errors import InvalidRequest
from flux_contract.tensors import Tensor


@dataclass(frozen=True)
class Sides:
    """The sides of a checkpoint's images in pixels. native: the default. multiple: every side is a multiple of it."""

    native: int
    multiple: int

    def check(self, tensor: Tensor, side: int) -> int:
        """Returns the side. tensor: named in the error.

        Raises InvalidRequest: the side is not a multiple of `multiple`.
        """
        if side % self.multiple:
            below = side // self.multiple * self.multiple
            nearest = f"{below} or {below + self.multiple}" if below else str(self.multiple)
            raise InvalidRequest(f"{tensor.name}={side}, expected a multiple of {self.multiple}; nearest: {nearest}")
        return side
