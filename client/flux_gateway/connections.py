"""HTTP connections: how many, and that none is held open without a request."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from flux_gateway.refusals import RETRY_AFTER_S

#: Seconds that a connection may stay without a request that is being answered: the head of one must have come by then,
#: and the rest of a body that was refused.
HEAD_S = 15.0
#: Bytes of a request's head.
HEAD_BYTES = 32 * 2**10
#: Seconds between two reads of a body that was refused.
_DRAIN_PAUSE_S = 0.1
#: Files that the process opens beside connections.
_OTHER_FILES = 128


def bounded_protocol(
    most: int, most_each: int, is_proxy: Callable[[str], bool], head_s: float = HEAD_S
) -> type[H11Protocol]:
    """A protocol for `uvicorn.run(http=...)`, with which connections beyond the bounds are closed.

    most, most_each: connections, of all and of one address. is_proxy: of an address that the second does not bind.
    """
    counts: Counter[str] = Counter()

    class BoundedProtocol(H11Protocol):
        """uvicorn's, with a bound on connections and on the time that one may be idle."""

        _address = ""
        _timer: asyncio.TimerHandle | None = None
        _seen: Any = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            counts[self._address] += 1
            if counts.total() > most or (counts[self._address] > most_each and not is_proxy(self._address)):
                transport.write(_FULL)
                transport.close()
            self._timer = self.loop.call_later(head_s, self._look)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
                # The rest of a body that was refused: it is read slowly, so that the client comes to read the answer.
                self.flow.pause_reading()
                self.loop.call_later(_DRAIN_PAUSE_S, self.flow.resume_reading)

        def connection_lost(self, exc: Exception | None) -> None:
            counts[self._address] -= 1
            if not counts[self._address]:
                del counts[self._address]
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Drop the connection unless a request is being answered, or began since the last look."""
            is_idle = self.cycle is None or self.cycle.response_complete
            if self.transport.is_closing() or (is_idle and self.cycle is self._seen):
                self.transport.abort()
                return
            self._seen = self.cycle
            self._timer = self.loop.call_later(head_s, self._look)

    return BoundedProtocol


def allow_files(connections: int) -> None:
    """Raise the soft limit of open files to what so many connections take, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


_BODY = json.dumps({"success": False, "error": "full: too many connections", "detail": "full: too many connections"})
_FULL = (
    f"HTTP/1.1 503 Service Unavailable\r\nRetry-After: {RETRY_AFTER_S}\r\nConnection: close\r\n"
    f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n{_BODY}"
).encode()
