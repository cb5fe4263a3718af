"""How many of a CPU's threads a computation takes.

On small tensors threads spend their time waiting for each other, and the models of one server share the cores: the
demo checkpoint's pictures cost a quarter less of two cores where small computations keep to one.
"""

from __future__ import annotations

from functools import cache

import torch


def use_cpu_threads(device: torch.device, *, is_small: bool) -> None:
    """From here on, in the calling thread: one thread, or all that the process was started with.

    device: where the computation runs; on a GPU nothing changes.
    """
    if device.type == "cpu":
        available = _available()
        torch.set_num_threads(1 if is_small else available)


@cache
def _available() -> int:
    return torch.get_num_threads()
