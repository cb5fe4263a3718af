"""Private memory of a model's process: its size, and the return of freed memory to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

_STATUS = Path("/proc/self/status")


def private_bytes() -> int:
    """Resident memory that the process shares with no file and no other process, which Linux calls RssAnon."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def return_free_memory() -> None:
    """Give the system back what the process has freed. Does nothing where the C library is not glibc.

    By itself glibc returns only free memory at the end of its heap. Below a tensor that still lives it keeps what a
    moment with many requests needed. Other threads run meanwhile.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
