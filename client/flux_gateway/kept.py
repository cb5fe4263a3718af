"""Pictures that are kept for a while, in memory, each under a name that nobody can guess."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple


class _Picture(NamedTuple):
    data: bytes
    kind: str
    until: float


class Kept:
    """At most so many bytes, the oldest go first, and none longer than so many seconds."""

    def __init__(self, most_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_bytes = most_bytes
        self._seconds = seconds
        self._clock = clock
        self._pictures: OrderedDict[str, _Picture] = OrderedDict()
        self._bytes = 0

    def put(self, data: bytes, kind: str) -> str:
        """Its name. kind: its media type."""
        name = secrets.token_urlsafe(24)
        self._pictures[name] = _Picture(data, kind, self._clock() + self._seconds)
        self._bytes += len(data)
        self._forget()
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        self._forget()
        found = self._pictures.get(name)
        return None if found is None else (found.data, found.kind)

    def _forget(self) -> None:
        """They came in the order in which they go."""
        now = self._clock()
        while self._pictures:
            oldest = next(iter(self._pictures.values()))
            if self._bytes <= self._most_bytes and oldest.until > now:
                return
            self._pictures.popitem(last=False)
            self._bytes -= len(oldest.data)
