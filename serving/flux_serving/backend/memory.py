"""Measures the private memory of a model's process, and returns freed memory to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

_STATUS = Path("/proc/self/status")


def private_bytes() -> int:
    """Returns the bytes of resident memory that are not shared with files or other processes (Linux' RssAnon)."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def return_free_memory() -> None:
    """Return freed memory to the system. Does nothing if the C library is not glibc.

    By itself, glibc returns only free memory at the end of its heap, so a live tensor there keeps the memory of an
    earlier peak. Other threads continue to run meanwhile.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
