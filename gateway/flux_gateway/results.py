"""Results that callers fetch later: jobs, and images that are given by a URL."""

# The store does not use `cachetools.TTLCache`: a full TTLCache evicts its oldest entries, but here they were promised
# to a caller, and new ones are rejected instead. A TTLCache has no reservations and no share per caller, and it frees
# expired entries only when it is changed, not when their time is over.

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
    """Results and bytes of all callers and of one, and the seconds for which each result is kept."""

    count: int
    count_per_caller: int
    bytes: int
    bytes_per_caller: int
    seconds: float


class Reservation:
    """Room for one result of one caller. Made by `ResultStore.reserve`.

    size: bytes; before the result is complete the most that it may have. expires_at: by the event loop's clock; None:
    the result is not complete.
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
        """Hold the result, which is complete and has this size, for the store's seconds."""
        loop, seconds = asyncio.get_running_loop(), self._store.limits.seconds
        self.size, self.expires_at = size, loop.time() + seconds
        self._timer = loop.call_later(seconds, self.release)

    def release(self) -> None:
        """Free the room and forget the result. Later calls do nothing."""
        if self._timer is not None:
            self._timer.cancel()
        self._store.discard(self, self._name)


class ResultStore:
    """Results in memory, each with a name and an owner. For one event loop.

    Room is reserved before a result is made, and a result that was promised is never evicted: it stays until its time
    is over or its owner removes it. Each caller has a share, so that none can fill the store alone.
    """

    def __init__(self, limits: ResultLimits) -> None:
        self.limits = limits
        self._reservations: set[Reservation] = set()
        self._by_name: dict[str, Reservation] = {}

    @property
    def size(self) -> int:
        """Bytes that are kept or reserved."""
        return sum(each.size for each in self._reservations)

    def count(self, kind: type[object]) -> int:
        """Published results of this type."""
        return sum(isinstance(each.content, kind) for each in self._by_name.values())

    def reserve(self, owner: str, count: int, size: int) -> list[Reservation]:
        """Reserve room for several results. size: bytes that each may have at most.

        Raises Refusal: 422, they exceed a caller's share even of an empty store; 429, the caller's share is full; 503,
        the store is.
        """
        limits = self.limits
        _check_share("results", count, min(limits.count_per_caller, limits.count))
        _check_share("bytes of results", count * size, min(limits.bytes_per_caller, limits.bytes))
        own = [each for each in self._reservations if each.owner == owner]
        if _is_full(own, count, count * size, limits.count_per_caller, limits.bytes_per_caller):
            words = "your share of the results that are kept is full"
            raise Refusal(429, f"{words}; delete some, or retry when they expire", None, _seconds_until_room(own))
        if _is_full(self._reservations, count, count * size, limits.count, limits.bytes):
            words = "the store of results is full"
            raise Refusal(503, words, None, _seconds_until_room(self._reservations))
        made = [Reservation(self, owner, size) for _ in range(count)]
        self._reservations.update(made)
        return made

    def get(self, name: str, kind: type[_T]) -> tuple[_T, Reservation] | None:
        """The result of this name and type, and its reservation."""
        found = self._by_name.get(name)
        return (found.content, found) if found is not None and isinstance(found.content, kind) else None

    def add(self, name: str, reservation: Reservation) -> None:
        """Of a reservation alone."""
        self._by_name[name] = reservation

    def discard(self, reservation: Reservation, name: str | None) -> None:
        """Of a reservation alone."""
        self._reservations.discard(reservation)
        if name is not None:
            self._by_name.pop(name, None)

    def close(self) -> None:
        """Forget all."""
        for each in list(self._reservations):
            each.release()


def _check_share(what: str, needed: int, share: int) -> None:
    """Raises Refusal: 422."""
    if needed > share:
        words = f"the images may take {needed} {what}, and one caller has at most {share}"
        raise Refusal(422, f"{words}; ask for fewer or smaller images")


def _is_full(held: Sequence[Reservation] | set[Reservation], count: int, size: int, most: int, most_bytes: int) -> bool:
    return len(held) + count > most or sum(each.size for each in held) + size > most_bytes


def _seconds_until_room(held: Sequence[Reservation] | set[Reservation]) -> int:
    """Seconds until the first result expires, at least RETRY_AFTER_S. It may be too small for the next."""
    now = asyncio.get_running_loop().time()
    ends = [each.expires_at for each in held if each.expires_at is not None]
    return max(RETRY_AFTER_S, math.ceil(min(ends) - now)) if ends else RETRY_AFTER_S
