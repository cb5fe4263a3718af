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
HEAD_BYTES = 16 * 2**10
#: Bytes that h11 is given at once, and chunks of a chunked body that may be in them: h11 takes about 15 us for each.
_SLICE_BYTES, _SLICE_CHUNKS = 16 * 2**10, 320
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
            for start in range(0, len(data), _SLICE_BYTES):
                if self.transport.is_closing():
                    return
                part = data[start : start + _SLICE_BYTES]
                if self._has_tiny_chunks(part):
                    self._refuse()
                    return
                super().data_received(part)
            if self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
                # The rest of a body that was refused: it is read slowly, so that the client comes to read the answer.
                self.flow.pause_reading()
                self.loop.call_later(_DRAIN_PAUSE_S, self.flow.resume_reading)

        def send_400_response(self, msg: str) -> None:
            """Overrides uvicorn's: if a response has already started, only close the connection."""
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                super().send_400_response(msg)
            else:
                self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            counts[self._address] -= 1
            if not counts[self._address]:
                del counts[self._address]
            if self._timer is not None:
                self._timer.cancel()
            super().connection_lost(exc)

        def _has_tiny_chunks(self, data: bytes) -> bool:
            if self.conn.their_state is not h11.SEND_BODY or (b"transfer-encoding", b"chunked") not in self.headers:
                return False
            # Of each chunk, its length and its content end a line.
            return data.count(b"\r\n") > 2 * _SLICE_CHUNKS

        def _refuse(self) -> None:
            """Answer 400 in place of the application, for which the client has disconnected."""
            if not self.cycle.response_started and not self.transport.is_closing():
                self.transport.write(_TINY_CHUNKS)
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self.transport.close()

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


def _answer(status: str, words: str, *headers: str) -> bytes:
    body = json.dumps({"success": False, "error": words, "detail": words})
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close", *headers)
    return "\r\n".join((f"HTTP/1.1 {status}", *fields, "", body)).encode()


_FULL = _answer("503 Service Unavailable", "full: too many connections", f"Retry-After: {RETRY_AFTER_S}")
_TINY_CHUNKS = _answer("400 Bad Request", "the body's chunks are too small, expected 64 bytes or more")
