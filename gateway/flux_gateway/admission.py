"""Admission control: limits the requests in flight and their memory, in total and for each caller."""

# The rate limit does not use the package `limits`. Its strategies count requests in windows, whereas the generic cell
# rate algorithm has 10 lines and returns the exact time to wait. Its memory storage starts timer threads, reads the
# system clock, which a test cannot set, and does not limit the number of callers. It does not limit concurrency and
# memory, which the rest of this module does.

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from flux_gateway.keys import Caller
from flux_gateway.refusals import RETRY_AFTER_S, Refusal

#: Maximum callers whose rate is stored. Above it, callers that may use their full rate again are removed.
_MAX_REMEMBERED = 10_000


class Memory(NamedTuple):
    """Bytes that the requests in flight may hold, in total and for one caller."""

    all: float = math.inf
    each: float = math.inf


class Admission:
    """Admits requests before their body is read. For one event loop."""

    def __init__(
        self,
        at_once: int,
        at_once_each: int,
        clock: Callable[[], float] = time.monotonic,
        memory: Memory = Memory(),  # noqa: B008 (immutable)
    ) -> None:
        """at_once, at_once_each: maximum requests in flight, in total and for one caller."""
        self.at_once = at_once
        self._at_once_each = at_once_each
        self._clock = clock
        self._memory = memory
        self._running: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        #: Time at which each caller's started requests are used up at its rate (the theoretical arrival time).
        self._paid: dict[str, float] = {}

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def bytes_in_flight(self) -> int:
        return self._bytes.total()

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[Slot]:
        """Hold a slot for the block. Raises Refusal: 429, a limit of the caller; 503, a limit of the gateway."""
        if self._running[caller.name] >= self._at_once_each:
            raise Refusal(429, f"concurrency limit exceeded ({self._at_once_each} per caller)", None, RETRY_AFTER_S)
        if self.running >= self.at_once:
            raise Refusal(503, f"concurrency limit exceeded ({self.at_once} requests)", None, RETRY_AFTER_S)
        self._limit_rate(caller)
        with Slot(self, caller, 1).held() as slot:
            yield slot

    def accounted(self, caller: Caller) -> AbstractContextManager[Slot]:
        """Return a slot for a request that generates no image. It may reserve memory, and does not count as running."""
        return Slot(self, caller, 0).held()

    def add(self, name: str, requests: int, count: int) -> None:
        """Add requests and bytes to a caller's counts; negative numbers are subtracted."""
        for counter, change in ((self._running, requests), (self._bytes, count)):
            counter[name] += change
            if not counter[name]:
                del counter[name]

    def reserve(self, name: str, count: int) -> None:
        """Reserve memory. Raises Refusal: 429, the caller's limit is exceeded; 503, the gateway's limit is."""
        if self._bytes[name] + count > self._memory.each:
            raise Refusal(
                429, f"memory limit exceeded ({_mebibytes(self._memory.each)} per caller)", None, RETRY_AFTER_S
            )
        if self._bytes.total() + count > self._memory.all:
            raise Refusal(503, f"memory limit exceeded ({_mebibytes(self._memory.all)})", None, RETRY_AFTER_S)
        self.add(name, 0, count)

    def _limit_rate(self, caller: Caller) -> None:
        """Limit the average rate per minute; a burst may have one minute's requests (generic cell rate algorithm)."""
        if not caller.per_minute:
            return
        now, each_s = self._clock(), 60.0 / caller.per_minute
        paid = max(self._paid.get(caller.name, now), now)
        wait_s = paid + each_s - now - max(60.0, each_s)
        if wait_s > 0:
            raise Refusal(
                429,
                f"rate limit exceeded ({caller.per_minute:g} requests per minute for this key)",
                None,
                math.ceil(wait_s),
            )
        self._paid[caller.name] = paid + each_s
        if len(self._paid) > _MAX_REMEMBERED:
            self._paid = {name: until for name, until in self._paid.items() if until > now}


class Slot:
    """A request in flight: its caller and its reserved memory.

    It is free again when its last holder has left: the request, or the generation, which outlives the request of a job.
    """

    def __init__(self, admission: Admission, caller: Caller, running: int) -> None:
        """running: number of running requests that the slot counts as."""
        self.caller = caller
        self._admission = admission
        self._running = running
        self._holders = 0
        self._bytes = 0
        self._callbacks: list[Callable[[], None]] = []

    @contextmanager
    def held(self) -> Iterator[Slot]:
        if not self._holders:
            self._admission.add(self.caller.name, self._running, 0)
        self._holders += 1
        try:
            yield self
        finally:
            self._holders -= 1
            if not self._holders:
                self._admission.add(self.caller.name, -self._running, -self._bytes)
                self._bytes = 0
                while self._callbacks:
                    self._callbacks.pop()()

    def when_free(self, callback: Callable[[], None]) -> None:
        """Call the function when the slot is free."""
        self._callbacks.append(callback)

    def reserve(self, count: float) -> None:
        """Reserve bytes until the slot is free. Raises Refusal: 429 or 503."""
        self._admission.reserve(self.caller.name, math.ceil(count))
        self._bytes += math.ceil(count)


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:.0f} MiB"
