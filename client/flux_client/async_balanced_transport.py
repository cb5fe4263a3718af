"""The asynchronous version of `balanced_transport`."""

from __future__ import annotations

import asyncio

from flux_client.addresses import Addresses
from flux_client.grpc_transport import AsyncGrpcTransport
from flux_client.request import Request
from flux_client.server_pool import LOAD, READING_TIMEOUT_S, TICK_S, PoolCall, ServerPool
from flux_client.transport import Answer, AsyncAnswers
from flux_contract.errors import FluxError


class AsyncBalancedTransport:
    """Transport to several servers. Bound to the event loop that first calls it.

    While the transport is in use, a task reads the load of the servers.
    """

    def __init__(self, addresses: Addresses) -> None:
        """Raises NotConnected: none of several names resolves."""
        self._pool = ServerPool(addresses, lambda address: AsyncGrpcTransport(address, addresses.label(address)))
        self._is_closed = False
        self._watch: asyncio.Task[None] | None = None
        self._readings: set[asyncio.Task[None]] = set()

    async def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        with self._pool.call(request) as transport:
            self._watch_if_needed()
            return await transport.infer(request, timeout_s, request_id)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> AsyncAnswers:
        call = self._pool.begin(request)
        self._watch_if_needed()
        with call.ends_by_error():
            return _AsyncBalancedAnswers(call, call.transport.stream(request, timeout_s, request_id))

    async def is_ready(self, model: str, timeout_s: float) -> bool:
        with self._pool.call() as transport:
            self._watch_if_needed()
            return await transport.is_ready(model, timeout_s)

    async def close(self) -> None:
        """Close all connections, as `AsyncGrpcTransport.close` does."""
        self._is_closed = True
        tasks = [task for task in (self._watch, *self._readings) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(transport.close() for transport in self._pool.all_transports()))

    def _watch_if_needed(self) -> None:
        if not self._is_closed and self._pool.needs_watch():
            self._watch = asyncio.get_running_loop().create_task(self._watch_load())

    async def _watch_load(self) -> None:
        """Runs until the pool is no longer in use."""
        while not self._pool.watch_ends():
            for server, transport in self._pool.readings_due():
                reading = asyncio.create_task(self._read(server, transport))
                self._readings.add(reading)
                reading.add_done_callback(self._readings.discard)
            self._pool.resolve_if_due()
            for transport in self._pool.retired():
                await transport.close()
            await asyncio.sleep(TICK_S)

    async def _read(self, server: str, transport: AsyncGrpcTransport) -> None:
        outcome: Answer | FluxError
        try:
            outcome = await transport.infer(LOAD, READING_TIMEOUT_S, request_id="")
        except FluxError as error:
            outcome = error
        self._pool.took(server, outcome)


class _AsyncBalancedAnswers:
    """The responses of one server. The call ends with the last one."""

    def __init__(self, call: PoolCall[AsyncGrpcTransport], answers: AsyncAnswers) -> None:
        self._call = call
        self._answers = answers

    async def __anext__(self) -> Answer:
        with self._call.ends_by_error():
            return await self._answers.__anext__()

    def cancel(self) -> None:
        # Errors after this are not failures of the server.
        self._call.end()
        self._answers.cancel()
