"""Runs large conversions between bytes and values in a thread, so that they do not block the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Maximum bytes of a conversion on the event loop.
INLINE_BYTES = 64 * 2**10
#: Concurrent conversions in threads. They hold Python's global lock, so more of them would only use more memory.
CONVERSIONS = 1

_T = TypeVar("_T")
_THREADS = ThreadPoolExecutor(CONVERSIONS, "conversion")


async def converted(size: int, convert: Callable[[], _T]) -> _T:
    """Return the result of `convert`, which runs in a thread if size, the bytes to read or write, is large."""
    if size <= INLINE_BYTES:
        return convert()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, convert)
