"""How much is let in: generations at once, of all and of each caller, and how often one may begin."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux_gateway.keys import Caller
from flux_gateway.refusals import RETRY_AFTER_S, Refusal

#: Callers whose pace is remembered; beyond it those that may begin at full pace again are forgotten.
_MOST_REMEMBERED = 10_000


class Admission:
    """For one event loop."""

    def __init__(self, at_once: int, at_once_each: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.at_once = at_once
        self._at_once_each = at_once_each
        self._clock = clock
        self._running: Counter[str] = Counter()
        #: When each caller will have paid for what it began, in the clock's seconds.
        self._paid: dict[str, float] = {}

    @property
    def running(self) -> int:
        return self._running.total()

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Raises Refusal: 429, the caller's own limits; 503, those of all."""
        if self._running[caller.name] >= self._at_once_each:
            raise Refusal(429, f"{self._at_once_each} requests at once are a caller's most", None, RETRY_AFTER_S)
        if self.running >= self.at_once:
            raise Refusal(503, f"full: {self.at_once} requests are in work", None, RETRY_AFTER_S)
        self._pace(caller)
        self._running[caller.name] += 1
        try:
            yield
        finally:
            self._running[caller.name] -= 1
            if not self._running[caller.name]:
                del self._running[caller.name]

    def _pace(self, caller: Caller) -> None:
        """So many a minute on average, of which as many may come in a row. Source: the generic cell rate algorithm."""
        if not caller.per_minute:
            return
        now, each_s = self._clock(), 60.0 / caller.per_minute
        paid = max(self._paid.get(caller.name, now), now)
        wait_s = paid + each_s - now - max(60.0, each_s)
        if wait_s > 0:
            raise Refusal(429, f"{caller.per_minute:g} requests a minute are this key's most", None, math.ceil(wait_s))
        self._paid[caller.name] = paid + each_s
        if len(self._paid) > _MOST_REMEMBERED:
            self._paid = {name: until for name, until in self._paid.items() if until > now}
