"""Chooses the server for the next request. This is only the policy; it opens no connections and starts no threads.

A request goes to the server with the least load, and servers of equal load take turns. A server's load is what it last
reported, minus the time since then, plus the requests that this client has sent to it since then. If the load of no
server is known, they take turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Seconds between two readings of one server.
READING_INTERVAL_S = 1.0
#: Servers are read until so many seconds after the last choice.
IN_USE_S = 30.0
#: Seconds after which a reading is too old to use.
READING_LIFE_S = 5.0
#: Seconds until a server that does not support readings, such as an older version, is asked again.
UNSUPPORTED_S = 60.0
#: Seconds for which a server that refused a request is left out.
REFUSED_S = 0.25
#: Seconds for which a server that failed is left out: the first value and the largest. Each failure doubles it.
FIRST_FAILURE_S, MAX_FAILURE_S = 0.5, 8.0
#: Assumed seconds for one image before the first reading.
FALLBACK_JOB_S = 1.0
#: Weight of the newest reading in the mean seconds of an image.
_NEWEST = 0.3


class Reading(NamedTuple):
    """Work of one server.

    seconds_left: of its instance that ends first, of those with room. instances: those with room. room: images that
    it would accept. job_s: mean seconds of an image; 0 where it had none.
    """

    seconds_left: float
    room: int
    instances: int = 1
    job_s: float = 0.0

    @classmethod
    def of_instances(cls, seconds_left: Sequence[float], jobs: Sequence[int], room: Sequence[int]) -> Reading:
        """One value for each instance. A server without a living instance has no room."""
        with_room = [left for left, places in zip(seconds_left, room, strict=True) if places > 0]
        return cls(
            min(with_room, default=0.0),
            sum(places for places in room if places > 0),
            len(with_room),
            sum(seconds_left) / max(1, sum(jobs)),
        )


class RequestInFlight(NamedTuple):
    """A request in work: what `Balancer.began` returns and `Balancer.ended` takes."""

    server: str
    began_s: float
    jobs: int


@dataclass(slots=True)
class _Server:
    name: str
    reading: Reading | None = None
    #: When `reading` was asked for; when the newest one was, which may have no answer yet; when the next one may be.
    read_s: float = float("-inf")
    asked_s: float = float("-inf")
    next_s: float = float("-inf")
    #: Images that were sent since `read_s` and since `asked_s`, and have not ended.
    sent: int = 0
    sent_since_asked: int = 0
    #: Mean seconds of an image; 0: not known.
    job_s: float = 0.0
    supports_readings: bool = True
    #: The server is left out until this time.
    out_until_s: float = float("-inf")
    #: Whether the server is left out until it gives a reading.
    must_report: bool = False
    failed_s: float = float("-inf")
    failures: int = 0
    #: Number of the last choice that selected this server; negative before the first one.
    turn: float = 0


class _Load(NamedTuple):
    """seconds: of the server's work, until its first instance is idle."""

    has_room: bool
    seconds: float


class Balancer:
    """Chooses servers. Not thread-safe.

    clock: seconds, from any beginning. rng: draws the order of new servers, so that clients do not all begin with the
    same one.
    """

    def __init__(self, servers: Iterable[str], clock: Callable[[], float], rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._servers: dict[str, _Server] = {}
        self._turn = 0
        self._used_s = float("-inf")
        #: Mean seconds of an image over all servers, used for servers that have not reported theirs.
        self._job_s = 0.0
        self.update(servers)

    @property
    def servers(self) -> list[str]:
        return list(self._servers)

    @property
    def is_in_use(self) -> bool:
        """Whether a server was chosen within the last IN_USE_S seconds."""
        return self._clock() <= self._used_s + IN_USE_S

    def update(self, servers: Iterable[str]) -> None:
        """Choose among these from now on; what is known of those that stay is kept. Raises ValueError: no servers."""
        known = self._servers
        self._servers = {name: known.get(name) or _Server(name, turn=-self._rng.random()) for name in servers}
        if not self._servers:
            raise ValueError("no servers, expected at least one")

    def choose(self) -> str:
        """The server for the next request."""
        now = self._used_s = self._clock()
        return self._take(self._by_load(self._able(now), now))

    def choose_in_turn(self) -> str:
        """The server for the next readiness check. Load does not matter for that."""
        now = self._used_s = self._clock()
        return self._take(min(self._able(now), key=_turn))

    def began(self, server: str, jobs: int = 1) -> RequestInFlight:
        """A request of so many images is on its way."""
        if known := self._servers.get(server):
            known.sent += jobs
            known.sent_since_asked += jobs
        return RequestInFlight(server, self._clock(), jobs)

    def ended(self, sent: RequestInFlight, succeeded: bool = True) -> None:
        """succeeded: the server answered; a refusal of an invalid request counts as an answer."""
        server = self._servers.get(sent.server)
        if server is None:
            return
        if sent.began_s >= server.read_s:
            server.sent = max(0, server.sent - sent.jobs)
        if sent.began_s >= server.asked_s:
            server.sent_since_asked = max(0, server.sent_since_asked - sent.jobs)
        if succeeded:
            server.failures = 0

    def failed(self, name: str) -> None:
        """The server was not reached, broke a connection, or did not answer a reading in time.

        It is left out, for longer after each failure, and then until it gives a reading, unless it has none.
        """
        if (server := self._servers.get(name)) is None:
            return
        server.failed_s = self._clock()
        if server.failed_s < server.out_until_s and server.failures:
            return  # One failure of a server breaks many requests at once.
        server.failures += 1
        server.out_until_s = server.failed_s + min(FIRST_FAILURE_S * 2 ** (server.failures - 1), MAX_FAILURE_S)
        server.must_report = server.supports_readings
        server.next_s = server.out_until_s

    def refused(self, name: str) -> None:
        """The server had no room. It is left out for REFUSED_S."""
        if server := self._servers.get(name):
            server.failed_s = self._clock()
            server.out_until_s = max(server.out_until_s, server.failed_s + REFUSED_S)

    def wants_reading(self, name: str) -> bool:
        """Whether to read this server now. If it returns True, the caller must read it.

        False while the client is not in use, where there is no choice, and for a server that has just been asked.
        """
        now = self._clock()
        server = self._servers.get(name)
        if server is None or now < server.next_s or len(self._servers) < 2 or not self.is_in_use:
            return False
        server.asked_s, server.next_s = now, now + READING_INTERVAL_S
        server.sent_since_asked = 0
        return True

    def reported(self, name: str, reading: Reading) -> None:
        """Record the answer to the latest reading that `wants_reading` allowed."""
        server = self._servers.get(name)
        # A reading from before a failure does not say that the server is back.
        if server is None or (server.must_report and server.asked_s <= server.failed_s):
            return
        server.reading, server.read_s, server.sent = reading, server.asked_s, server.sent_since_asked
        server.supports_readings, server.must_report = True, False
        if reading.job_s > 0:
            server.job_s = _mean(server.job_s, reading.job_s)
            self._job_s = _mean(self._job_s, reading.job_s)

    def unsupported(self, name: str) -> None:
        """The server has no readings. It is asked again after UNSUPPORTED_S."""
        if server := self._servers.get(name):
            server.reading, server.supports_readings, server.must_report = None, False, False
            server.next_s = self._clock() + UNSUPPORTED_S

    def _able(self, now: float) -> list[_Server]:
        """Servers that are not left out, or if all are, the one that failed first."""
        servers = self._servers.values()
        able = [server for server in servers if not server.must_report and now >= server.out_until_s]
        return able or [min(servers, key=lambda server: (server.must_report, server.failed_s, server.turn))]

    def _take(self, server: _Server) -> str:
        self._turn += 1
        server.turn = self._turn
        return server.name

    def _by_load(self, able: list[_Server], now: float) -> _Server:
        loads = {server.name: self._load(server, now) for server in able}
        with_room = [server for server in able if (load := loads[server.name]) is None or load.has_room] or able
        unknown = [server for server in with_room if loads[server.name] is None]
        known = [
            (load.seconds, server.turn, server) for server in with_room if (load := loads[server.name]) is not None
        ]
        if not known:
            return min(unknown, key=_turn)
        # Each server with an unknown load gets one request of as many as there are servers.
        if unknown and (next_one := min(unknown, key=_turn)).turn <= self._turn - (len(with_room) - 1):
            return next_one
        return min(known)[-1]

    def _load(self, server: _Server, now: float) -> _Load | None:
        """None: unknown."""
        age_s = now - server.read_s
        if server.reading is None or age_s > READING_LIFE_S:
            return None
        reading = server.reading
        job_s = server.job_s or self._job_s or FALLBACK_JOB_S
        sent_s = server.sent * job_s / max(1, reading.instances)
        return _Load(reading.room > server.sent, max(0.0, reading.seconds_left - age_s) + sent_s)


def _turn(server: _Server) -> float:
    return server.turn


def _mean(mean: float, newest: float) -> float:
    return newest if mean == 0 else mean + _NEWEST * (newest - mean)
