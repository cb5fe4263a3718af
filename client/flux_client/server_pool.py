"""A pool of servers: chooses a server for each call, and keeps a transport for each address.

The synchronous and the asynchronous transport share it. They read the load of the servers and close the transports.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from flux_client.addresses import Addresses
from flux_client.balancing import Balancer, Reading, RequestInFlight
from flux_client.instance_load import load_request, read_instances
from flux_client.request import Request
from flux_client.transport import Answer
from flux_contract.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    GenerationFailed,
    NotConnected,
    Overloaded,
    Unreachable,
)
from flux_contract.models import CANNY_EDGES
from flux_contract.parameters import NUM_IMAGES, SEED

_T = TypeVar("_T")

#: Seconds between two checks for due readings and resolutions.
TICK_S = 0.1
#: Timeout of a reading in seconds.
READING_TIMEOUT_S = 1.0
#: Seconds between two resolutions of names, and after a failure.
RESOLVE_INTERVAL_S, RESOLVE_AFTER_FAILURE_S = 30.0, 2.0

#: The request that reads the load of a server.
LOAD = load_request()


class PoolCall(Generic[_T]):
    """One call to one server."""

    def __init__(self, pool: ServerPool[_T], sent: RequestInFlight, transport: _T) -> None:
        self.transport = transport
        self._pool = pool
        self._sent: RequestInFlight | None = sent

    def end(self, error: FluxError | None = None) -> None:
        """End the call; later calls do nothing. error: the error that ended it, from the server or the connection."""
        sent, self._sent = self._sent, None
        if sent is not None:
            self._pool.ended(sent, error)

    @contextmanager
    def ends_by_error(self) -> Iterator[None]:
        """End the call if the block raises, as it does at the end of a stream."""
        try:
            yield
        except BaseException as error:
            self.end(error if isinstance(error, FluxError) else None)
            raise


class ServerPool(Generic[_T]):
    """Servers and their transports. Thread-safe; its lock is held for microseconds.

    connect: creates the transport of an address, which is kept as long as the address is.
    """

    def __init__(self, addresses: Addresses, connect: Callable[[str], _T]) -> None:
        """Raises NotConnected: none of several names resolves."""
        self._addresses = addresses
        self._connect = connect
        self._lock = threading.Lock()
        self._balancer = Balancer(addresses.first(), time.monotonic, random.Random())
        self._transports: dict[str, _T] = {}
        #: Running calls, by address.
        self._open: dict[str, int] = {}
        self._is_watched = False
        self._resolver: threading.Thread | None = None
        #: When to resolve next. A single name has not been resolved yet.
        self._resolve_s = float("-inf") if len(self._balancer.servers) == 1 else self._next_resolution()

    def begin(self, request: Request) -> PoolCall[_T]:
        """Start a call. The caller must call its `end`."""
        with self._lock:
            return self._opened(self._balancer.choose(), _jobs_of(request))

    @contextmanager
    def call(self, request: Request | None = None) -> Iterator[_T]:
        """Provide the transport of one call. The block may await.

        request: None for a readiness check, for which the servers take turns.
        """
        if request is None:
            with self._lock:
                call = self._opened(self._balancer.choose_in_turn(), 0)
        else:
            call = self.begin(request)
        with call.ends_by_error():
            yield call.transport
        call.end()

    def ended(self, sent: RequestInFlight, error: FluxError | None) -> None:
        with self._lock:
            self._open[sent.server] -= 1
            if isinstance(error, Unreachable):
                self._failed(sent.server)
            elif isinstance(error, (Overloaded, Cancelled)):
                self._balancer.refused(sent.server)
            self._balancer.ended(sent, not isinstance(error, (Unreachable, DeadlineExceeded)))

    def needs_watch(self) -> bool:
        """Whether the caller must start a watch, which calls `readings_due` until `watch_ends`."""
        with self._lock:
            begins = not self._is_watched
            self._is_watched = True
            return begins

    def watch_ends(self) -> bool:
        """Whether the watch must end because the pool is no longer in use."""
        with self._lock:
            self._is_watched = self._balancer.is_in_use
            return not self._is_watched

    def readings_due(self) -> list[tuple[str, _T]]:
        """Return the servers to which to send LOAD now. Pass the outcome of each to `took`."""
        with self._lock:
            servers = [server for server in self._balancer.servers if self._balancer.wants_reading(server)]
            return [(server, self._transport(server)) for server in servers]

    def took(self, server: str, outcome: Answer | FluxError) -> None:
        with self._lock:
            if isinstance(outcome, (Unreachable, DeadlineExceeded, Overloaded, Cancelled)):
                self._failed(server)
            elif isinstance(outcome, FluxError) or (reading := _reading_of(outcome)) is None:
                # An older server version does not have the model.
                self._balancer.unsupported(server)
            else:
                self._balancer.reported(server, reading)

    def resolve_if_due(self) -> None:
        """Resolve the names in a thread, because DNS may take many seconds."""
        with self._lock:
            is_resolving = self._resolver is not None and self._resolver.is_alive()
            if is_resolving or not self._addresses.may_change or time.monotonic() < self._resolve_s:
                return
            self._resolve_s = self._next_resolution()
            self._resolver = threading.Thread(target=self._resolve, name="name resolution", daemon=True)
            self._resolver.start()

    def retired(self) -> list[_T]:
        """Remove and return transports to close: those of removed addresses without running calls."""
        with self._lock:
            servers = self._balancer.servers
            gone = [server for server, calls in self._open.items() if server not in servers and not calls]
            for server in gone:
                del self._open[server]
            return [self._transports.pop(server) for server in gone]

    def all_transports(self) -> list[_T]:
        with self._lock:
            return list(self._transports.values())

    def _opened(self, server: str, jobs: int) -> PoolCall[_T]:
        transport = self._transport(server)
        self._open[server] += 1
        return PoolCall(self, self._balancer.began(server, jobs), transport)

    def _transport(self, server: str) -> _T:
        if server not in self._transports:
            self._transports[server] = self._connect(server)
            self._open[server] = 0
        return self._transports[server]

    def _failed(self, server: str) -> None:
        self._balancer.failed(server)
        self._resolve_s = min(self._resolve_s, time.monotonic() + RESOLVE_AFTER_FAILURE_S)

    def _resolve(self) -> None:
        try:
            servers = self._addresses.resolve()
        except NotConnected:
            return
        with self._lock:
            self._balancer.update(servers)

    @staticmethod
    def _next_resolution() -> float:
        return time.monotonic() + RESOLVE_INTERVAL_S


def _jobs_of(request: Request) -> int:
    """Return the number of images: NUM_IMAGES, or the number of seeds."""
    if request.model == CANNY_EDGES.name:
        return 0
    if NUM_IMAGES.name in request.inputs:
        return int(request.inputs[NUM_IMAGES.name].item())
    return request.inputs[SEED.name].size if SEED.name in request.inputs else 1


def _reading_of(answer: Answer) -> Reading | None:
    """Convert a response to a reading, or return None if it is not one of flux_status."""
    try:
        instances = read_instances(answer)
    except GenerationFailed:
        return None
    loads = [(instance.seconds_left, instance.jobs, instance.room) for instance in instances]
    return Reading.of_instances(*zip(*loads, strict=True)) if loads else Reading.of_instances((), (), ())
