"""Transport to several Triton servers over gRPC. Each request goes to a server with little load."""

from __future__ import annotations

import threading
import weakref
from functools import partial

from flux_client.addresses import Addresses
from flux_client.grpc_transport import GrpcTransport
from flux_client.request import Request
from flux_client.server_pool import LOAD, READING_TIMEOUT_S, TICK_S, PoolCall, ServerPool
from flux_client.transport import Answer, Answers


class BalancedTransport:
    """Transport to several servers. Thread-safe.

    While the transport is in use, a daemon thread reads the load of the servers.
    """

    def __init__(self, addresses: Addresses) -> None:
        """Raises NotConnected: none of several names resolves."""
        self._pool = ServerPool(addresses, lambda address: GrpcTransport(address, addresses.label(address)))
        self._closed = threading.Event()
        self._watch: threading.Thread | None = None
        # Do not start a reading while Python exits.
        weakref.finalize(self, self._closed.set)

    def infer(self, request: Request, timeout_s: float, request_id: str) -> Answer:
        with self._pool.call(request) as transport:
            self._watch_if_needed()
            return transport.infer(request, timeout_s, request_id)

    def stream(self, request: Request, timeout_s: float, request_id: str) -> Answers:
        call = self._pool.begin(request)
        self._watch_if_needed()
        with call.ends_by_error():
            return _BalancedAnswers(call, call.transport.stream(request, timeout_s, request_id))

    def is_ready(self, model: str, timeout_s: float) -> bool:
        with self._pool.call() as transport:
            self._watch_if_needed()
            return transport.is_ready(model, timeout_s)

    def close(self) -> None:
        """Close all connections, as `GrpcTransport.close` does."""
        self._closed.set()
        if self._watch is not None:
            self._watch.join()
        transports = self._pool.all_transports()
        for transport in transports:
            transport.cancel_streams()
        for transport in transports:
            transport.close()

    def _watch_if_needed(self) -> None:
        if not self._closed.is_set() and self._pool.needs_watch():
            self._watch = threading.Thread(
                target=_watch, args=(self._pool, self._closed), name="servers' load", daemon=True
            )
            self._watch.start()


def _watch(pool: ServerPool[GrpcTransport], closed: threading.Event) -> None:
    """Runs until the pool is closed or no longer in use."""
    while not closed.is_set() and not pool.watch_ends():
        for server, transport in pool.readings_due():
            transport.infer_later(LOAD, READING_TIMEOUT_S, partial(pool.took, server))
        pool.resolve_if_due()
        for transport in pool.retired():
            transport.close()
        closed.wait(TICK_S)


class _BalancedAnswers:
    """The responses of one server. The call ends with the last one."""

    def __init__(self, call: PoolCall[GrpcTransport], answers: Answers) -> None:
        self._call = call
        self._answers = answers

    def __next__(self) -> Answer:
        with self._call.ends_by_error():
            return next(self._answers)

    def cancel(self) -> None:
        # Errors after this are not failures of the server.
        self._call.end()
        self._answers.cancel()
