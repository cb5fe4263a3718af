"""Limits request bodies: their size, their memory and the time until they have arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from flux_gateway.admission import Slot
from flux_gateway.refusals import Refusal

#: Bytes of memory per byte of a body until its request ends: the body, the image decoded from it, and the message to
#: Triton, of which gRPC holds two copies. Measured by tests/live/test_rest_hostile.py.
COPIES = 4
#: Maximum seconds between two parts of a body.
STALL_S = 10.0


class LimitedBody:
    """An ASGI `receive` that raises Refusal while it reads a body.

    413: the body is larger than `most` bytes. 408: it takes longer than `timeout_s`, or pauses for longer than STALL_S.
    429 or 503: it exceeds a memory limit.
    """

    def __init__(
        self,
        receive: Receive,
        headers: Headers,
        slot: Slot,
        most: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receive = receive
        self._slot = slot
        self._most = most
        self._timeout_s = timeout_s
        self._clock = clock
        announced = headers.get("content-length", "")
        self._announced = int(announced) if announced.isascii() and announced.isdigit() else 0
        self._until: float | None = None
        self._read = self._reserved = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._until is None:
            self._until = self._clock() + self._timeout_s
            self._account(self._announced)
        try:
            message = await asyncio.wait_for(self._receive(), min(STALL_S, self._until - self._clock()))
        except asyncio.TimeoutError:
            raise Refusal(
                408, f"the body did not arrive within {self._timeout_s:g} s, or paused for {STALL_S:g} s"
            ) from None
        self._read += len(message.get("body", b""))
        self._account(self._read)
        self._complete = not message.get("more_body", False)
        return message

    def _account(self, size: int) -> None:
        if size > self._most:
            raise Refusal(413, f"the body is too large, expected at most {self._most} bytes")
        if size > self._reserved:
            self._slot.reserve(COPIES * (size - self._reserved))
            self._reserved = size
