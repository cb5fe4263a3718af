"""How many of a CPU's threads a computation takes.

On small tensors threads spend their time waiting for each other, and the models of one server share the cores: the
demo checkpoint's images cost a quarter less of two cores where small computations keep to one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def cpu_threads(device: torch.device, *, is_small: bool) -> Iterator[None]:
    """Inside, the calling thread computes with one thread, or with all that the process was started with.

    device: where the computation runs; on a GPU nothing changes.
    """
    if device.type != "cpu":
        yield
        return
    before, available = torch.get_num_threads(), _available()
    torch.set_num_threads(1 if is_small else available)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _available() -> int:
    return torch.get_num_threads()
