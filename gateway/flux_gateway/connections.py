"""Limits HTTP connections: their number, and the time that one may be open without a request."""

from __future__ import annotations

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from flux_gateway.refusals import RETRY_AFTER_S

#: Maximum seconds without a request in progress. The head of the next request, or the rest of a rejected body, must
#: have arrived by then.
HEAD_S = 15.0
#: Maximum bytes of a request's head.
HEAD_BYTES = 16 * 2**10
#: Bytes passed to h11 at once, and the maximum number of chunks in them: h11 needs about 15 us for each chunk.
_SLICE_BYTES, _SLICE_CHUNKS = 16 * 2**10, 320
#: Seconds between two reads of a rejected body.
_DRAIN_PAUSE_S = 0.1
#: Files that the process opens besides connections.
_OTHER_FILES = 128


@dataclass(frozen=True)
class Connections:
    """The open connections by address, and their limits.

    most, most_each: maximum connections, in total and of one address. is_proxy: whether an address is exempt from the
    second limit. head_s: maximum seconds without a request in progress.
    """

    most: int
    most_each: int
    is_proxy: Callable[[str], bool]
    head_s: float = HEAD_S
    _counts: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count a connection. Returns whether it is within the limits."""
        self._counts[address] += 1
        is_one_too_many = self._counts[address] > self.most_each and not self.is_proxy(address)
        return self._counts.total() <= self.most and not is_one_too_many

    def leave(self, address: str) -> None:
        self._counts[address] -= 1
        if not self._counts[address]:
            del self._counts[address]


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol with limits on the number of connections and on their idle time."""

    limits: ClassVar[Connections]

    _address = ""
    _timer: asyncio.TimerHandle | None = None
    _seen: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if not self.limits.enter(self._address):
            transport.write(_FULL)
            transport.close()
        self._timer = self.loop.call_later(self.limits.head_s, self._look)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE_BYTES):
            if self.transport.is_closing():
                return
            part = data[start : start + _SLICE_BYTES]
            if self._has_tiny_chunks(part):
                self._refuse()
                return
            super().data_received(part)
        if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            # The rest of a rejected body is read slowly, so that the client gets to read the response.
            self.flow.pause_reading()
            self.loop.call_later(_DRAIN_PAUSE_S, self.flow.resume_reading)

    def send_400_response(self, msg: str) -> None:
        """Overrides uvicorn's: if a response has already started, only close the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.leave(self._address)
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _has_tiny_chunks(self, data: bytes) -> bool:
        if self.conn.their_state is not h11.SEND_BODY or (b"transfer-encoding", b"chunked") not in self.headers:
            return False
        # Each chunk has two line ends: after its length and after its content.
        return data.count(b"\r\n") > 2 * _SLICE_CHUNKS

    def _refuse(self) -> None:
        """Answer 400 instead of the application, to which the client appears to have disconnected."""
        if not self.cycle.response_started and not self.transport.is_closing():
            self.transport.write(_TINY_CHUNKS)
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self.transport.close()

    def _look(self) -> None:
        """Close the connection unless a request is in progress or has started since the last check."""
        is_idle = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing() or (is_idle and self.cycle is self._seen):
            self.transport.abort()
            return
        self._seen = self.cycle
        self._timer = self.loop.call_later(self.limits.head_s, self._look)


def bounded_protocol(connections: Connections) -> type[H11Protocol]:
    """Return a protocol for `uvicorn.run(http=...)` that closes connections above the limits."""
    return type("LimitedProtocol", (BoundedProtocol,), {"limits": connections})


def allow_files(connections: int) -> None:
    """Raise the soft limit of open files for this number of connections, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _answer(status: str, words: str, *headers: str) -> bytes:
    body = json.dumps({"success": False, "error": words, "detail": words})
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", body)).encode()


_FULL = _answer("503 Service Unavailable", "too many connections", f"Retry-After: {RETRY_AFTER_S}")
_TINY_CHUNKS = _answer("400 Bad Request", "the body's chunks are too small, expected 64 bytes or more")
