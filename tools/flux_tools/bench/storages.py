"""Memory use of tensors. Views of one storage count once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch
from safetensors import safe_open


def bytes_of(root: Any) -> int:
    """Return the bytes of all storages of the tensors reachable from this object, each counted once."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            storage = item.untyped_storage()
            # Identify the storage by its object, because storages on `meta` have no data address.
            found[storage._cdata] = storage.nbytes()
        elif isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, (list, tuple, set, frozenset)):
            left += item
        elif hasattr(item, "__dict__"):
            left += vars(item).values()
    return sum(found.values())


def bytes_in(folders: Iterable[Path], prefix: str = "") -> int:
    """Return the bytes of the tensors in the folders' files whose names start with the prefix."""
    total = 0
    for file in (file for folder in folders for file in folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names = [name for name in tensors.keys() if name.startswith(prefix)]  # noqa: SIM118, it has no other
            total += sum(tensors.get_tensor(name).nbytes for name in names)
    return total
