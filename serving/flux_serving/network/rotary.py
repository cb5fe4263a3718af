"""Tables of the rotary position embedding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from flux_serving.network.latents import Grid

#: Maximum size of a network's cached tables in bytes. FLUX.1 needs 2.4 MB for 1024 x 1024 pixels, 9 MB for 2048 x 2048.
MAX_BYTES = 64 * 2**20


class RotaryTables:
    """The rotary tables of a stock network, by image grid and number of context tokens.

    Cache: the most recently used tables, up to max_bytes. Not thread-safe. The tables hold no reference to the network
    that uses them: with a reference cycle, an adapted network that is no longer in use would keep its memory until the
    garbage collector's next full run.
    """

    def __init__(
        self,
        embed_positions: Callable[[Tensor], tuple[Tensor, Tensor]],
        device: torch.device,
        dtype: torch.dtype,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """embed_positions: maps position ids, (tokens, 3), to cosines and sines, (tokens, head width) each."""
        self._embed_positions = embed_positions
        self._device = device
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._tables: OrderedDict[tuple[Grid, int], Tensor] = OrderedDict()
        #: Size of the cached tables in bytes.
        self.bytes = 0

    def __call__(self, grid: Grid, context_tokens: int) -> Tensor:
        """Returns the table, (tokens, 1, 1, head width / 2) complex, which does not rotate the context tokens."""
        key = grid, context_tokens
        if key in self._tables:
            self._tables.move_to_end(key)
            return self._tables[key]
        table = self._tables[key] = self._make(grid, context_tokens)
        self.bytes += table.nbytes
        while self.bytes > self._max_bytes and len(self._tables) > 1:
            self.bytes -= self._tables.popitem(last=False)[1].nbytes
        return table

    def _make(self, grid: Grid, context_tokens: int) -> Tensor:
        ids = grid.position_ids(self._device, self._dtype)
        cosine, sine = self._embed_positions(torch.cat([ids.new_zeros(context_tokens, 3), ids]))
        return torch.complex(cosine[:, ::2], sine[:, ::2])[:, None, None]
