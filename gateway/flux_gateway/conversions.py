"""Conversions between bytes and values that are too large for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

#: Bytes from which a conversion runs in a thread.
INLINE_BYTES = 64 * 2**10
#: Conversions that run at once in threads: their steps hold Python's lock, so more would only take more memory.
CONVERSIONS = 1

_T = TypeVar("_T")
_THREADS = ThreadPoolExecutor(CONVERSIONS, "conversion")


async def converted(size: int, convert: Callable[[], _T]) -> _T:
    """What `convert` returns; of large bodies and answers, it runs in a thread.

    size: bytes of what is read or made.
    """
    if size <= INLINE_BYTES:
        return convert()
    return await asyncio.get_running_loop().run_in_executor(_THREADS, convert)
