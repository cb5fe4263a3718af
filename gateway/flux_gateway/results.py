"""Stores results that callers fetch later: jobs, and images returned as URLs."""

# The store does not use `cachetools.TTLCache`. A full TTLCache evicts its oldest entries, but these were promised to a
# caller, so the store rejects new ones instead. A TTLCache has no reservations and no limits per caller, and it frees
# expired entries only when it is modified, not when they expire.

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from flux_gateway.refusals import RETRY_AFTER_S, Refusal

_T = TypeVar("_T")


@dataclass(frozen=True)
class ResultLimits:
    """Maximum results and bytes of all callers and of one caller, and the seconds for which a result is kept."""

    count: int
    count_per_caller: int
    bytes: int
    bytes_per_caller: int
    seconds: float


class Reservation:
    """Space for one result of one caller. `ResultStore.reserve` creates it.

    size: bytes; the maximum until the result is complete. expires_at: time of the event loop's clock; None until the
    result is complete.
    """

    def __init__(self, store: ResultStore, owner: str, size: int) -> None:
        self.owner = owner
        self.size = size
        self.expires_at: float | None = None
        self.content: object = None
        self._store = store
        self._name: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def publish(self, name: str, content: object) -> None:
        """Make the result available under its name."""
        self._name, self.content = name, content
        self._store.add(name, self)

    def keep(self, size: int) -> None:
        """Keep the complete result, which has this size, until it expires."""
        loop, seconds = asyncio.get_running_loop(), self._store.limits.seconds
        self.size, self.expires_at = size, loop.time() + seconds
        self._timer = loop.call_later(seconds, self.release)

    def release(self) -> None:
        """Delete the result and free its space. Later calls do nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._store.discard(self, self._name)


class ResultStore:
    """Results in memory, each with a name and an owner. For one event loop.

    Space is reserved before a result is generated, and results are never evicted: each is kept until it expires or its
    owner deletes it. Each caller's share is limited, so that none can fill the store alone.
    """

    def __init__(self, limits: ResultLimits) -> None:
        self.limits = limits
        self._reservations: set[Reservation] = set()
        self._by_name: dict[str, Reservation] = {}

    @property
    def size(self) -> int:
        """Bytes used or reserved."""
        return sum(each.size for each in self._reservations)

    def count(self, kind: type[object]) -> int:
        """Return the number of published results of this type."""
        return sum(isinstance(each.content, kind) for each in self._by_name.values())

    def reserve(self, owner: str, count: int, size: int) -> list[Reservation]:
        """Reserve space for several results. size: maximum bytes of each.

        Raises Refusal: 422, they exceed a caller's share of an empty store; 429, the caller's share is full; 503, the
        store is full.
        """
        limits = self.limits
        _check_share("results", count, min(limits.count_per_caller, limits.count))
        _check_share("bytes of results", count * size, min(limits.bytes_per_caller, limits.bytes))
        own = [each for each in self._reservations if each.owner == owner]
        if _is_full(own, count, count * size, limits.count_per_caller, limits.bytes_per_caller):
            words = "the limit of stored results per caller is reached"
            raise Refusal(429, f"{words}; delete some, or retry when they expire", None, _seconds_until_room(own))
        if _is_full(self._reservations, count, count * size, limits.count, limits.bytes):
            words = "the result store is full"
            raise Refusal(503, words, None, _seconds_until_room(self._reservations))
        made = [Reservation(self, owner, size) for _ in range(count)]
        self._reservations.update(made)
        return made

    def get(self, name: str, kind: type[_T]) -> tuple[_T, Reservation] | None:
        """Return the result of this name and type, and its reservation."""
        found = self._by_name.get(name)
        return (found.content, found) if found is not None and isinstance(found.content, kind) else None

    def add(self, name: str, reservation: Reservation) -> None:
        """Add a result. Only `Reservation` calls this."""
        self._by_name[name] = reservation

    def discard(self, reservation: Reservation, name: str | None) -> None:
        """Remove a result. Only `Reservation` calls this."""
        self._reservations.discard(reservation)
        if name is not None:
            self._by_name.pop(name, None)

    def close(self) -> None:
        """Delete all results."""
        for each in list(self._reservations):
            each.release()


def _check_share(what: str, needed: int, share: int) -> None:
    """Raises Refusal: 422."""
    if needed > share:
        words = f"the images may need {needed} {what}, and the limit per caller is {share}"
        raise Refusal(422, f"{words}; request fewer or smaller images")


def _is_full(held: Sequence[Reservation] | set[Reservation], count: int, size: int, most: int, most_bytes: int) -> bool:
    return len(held) + count > most or sum(each.size for each in held) + size > most_bytes


def _seconds_until_room(held: Sequence[Reservation] | set[Reservation]) -> int:
    """Return the seconds until the first result expires, at least RETRY_AFTER_S. Its space may not be sufficient."""
    now = asyncio.get_running_loop().time()
    ends = [each.expires_at for each in held if each.expires_at is not None]
    return max(RETRY_AFTER_S, math.ceil(min(ends) - now)) if ends else RETRY_AFTER_S
