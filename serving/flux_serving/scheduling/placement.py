"""Which instance takes the next request. Triton gives it to any that is not in `execute`, whatever its work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Backlog(NamedTuple):
    """Of one instance. seconds_left: until all of its jobs have taken their last step. room: jobs it still accepts."""

    seconds_left: float = 0.0
    room: int = 0


def should_hold(own: Backlog, siblings: Iterable[Backlog]) -> bool:
    """Whether this instance leaves the next request to another one: one that has room, and less work left or room
    where this one has none. The one with the least work never holds, so a request always finds an instance.
    """
    return any(sibling.room > 0 and (own.room <= 0 or sibling.seconds_left < own.seconds_left) for sibling in siblings)
