"""Polls Triton's ready modes, native size and load every second, so that `/health` responds at once."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import get_args

from PIL import Image

from flux_client import AsyncFluxClient, FluxError, InstanceLoad, ModeName, Unreachable
from flux_contract import limits
from flux_gateway.refusals import RETRY_AFTER_S, Refusal

#: Seconds between two polls, and the timeout of each request of a poll.
PAUSE_S, LOOK_S = 1.0, 2.0
#: Number of latest polls that count. Several servers take turns, and one that stops or starts must not decide alone.
LOOKS = 3
LOADING, AWAY = "the models are loading", "the model server is not reachable"


class ServerMonitor:
    """State of the model server.

    modes: those that are ready. reason: why none is ready. native_side: pixels of a side of an image without a
    requested size; FLUX.1's unless `knows_native_side`. instances: load of each instance; empty if the server does not
    report it; with several servers, that of one of them.
    """

    def __init__(self, client: AsyncFluxClient) -> None:
        self.modes: list[ModeName] = []
        self.reason: str | None = LOADING
        self.instances: list[InstanceLoad] = []
        self.native_side = limits.FLUX_SIDE
        self.knows_native_side = False
        self._client = client
        self._looks: deque[list[ModeName]] = deque(maxlen=LOOKS)

    async def look(self) -> None:
        reason = LOADING
        try:
            self._looks.append(await self._client.ready_modes(LOOK_S))
        except FluxError as error:
            self._looks.append([])
            is_away = isinstance(error, Unreachable)
            reason = AWAY if is_away else "the model server does not respond"
        self.modes = [mode for mode in get_args(ModeName) if any(mode in look for look in self._looks)]
        self.reason = None if self.modes else reason
        if not self._looks[-1]:
            # The server may restart with another checkpoint.
            self.knows_native_side = False
        elif not self.knows_native_side:
            await self._learn_native_side()
        self.instances = await self._instances() if self._looks[-1] else []

    async def _instances(self) -> list[InstanceLoad]:
        with suppress(FluxError):
            return await self._client.instances(LOOK_S)
        return []

    async def _learn_native_side(self) -> None:
        """Read the native size from an edge map, which has it by default. The contract has no query for it."""
        with suppress(FluxError):
            edges = await self._client.edges(_small_image(), timeout_s=LOOK_S)
            self.native_side = max(edges.size)
            self.knows_native_side = True

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Poll while the block runs."""

        async def poll() -> None:
            while True:
                await self.look()
                await asyncio.sleep(PAUSE_S)

        task = asyncio.create_task(poll())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def check_any(self) -> None:
        """Raises Refusal: 503, no mode is ready."""
        if self.reason is not None:
            raise Refusal(503, self.reason, retry_after_s=RETRY_AFTER_S)

    def check(self, mode: str) -> None:
        """Raises Refusal: 503, no mode is ready; 400, this mode is not ready."""
        self.check_any()
        if mode not in self.modes:
            raise Refusal(400, f"mode {mode} is not available; available: {', '.join(self.modes)}", "mode")


@cache
def _small_image() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (limits.MIN_SIDE, limits.MIN_SIDE)).save(buffer, "PNG")
    return buffer.getvalue()
