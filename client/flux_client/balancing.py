"""Policy that chooses the server for the next request. It opens no connections and starts no threads.

A request goes to the server with the least load, and servers of equal load take turns. A server's load is what it last
reported, minus the time since then, plus the requests that this client has sent to it since then. If no server has
reported its load, the servers take turns.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Seconds between two readings of one server.
READING_INTERVAL_S = 1.0
#: Seconds after the last choice for which servers are still read.
IN_USE_S = 30.0
#: Seconds after which a reading is too old to use.
READING_LIFE_S = 5.0
#: Seconds until the next attempt to read a server that does not support readings, such as an older version.
UNSUPPORTED_S = 60.0
#: Seconds for which a server that rejected a request is left out.
REFUSED_S = 0.25
#: Seconds for which a server that failed is left out: the first value and the largest. Each failure doubles it.
FIRST_FAILURE_S, MAX_FAILURE_S = 0.5, 8.0
#: Assumed seconds for one image before the first reading.
FALLBACK_JOB_S = 1.0
#: Weight of the newest reading in the mean seconds of an image.
_NEWEST = 0.3


class Reading(NamedTuple):
    """Load of one server.

    seconds_left: work left on the instance that ends first, of the instances with room. room: number of images that
    the server would accept. instances: number of instances with room. job_s: mean seconds of an image; 0 if there are
    no jobs.
    """

    seconds_left: float
    room: int
    instances: int = 1
    job_s: float = 0.0

    @classmethod
    def of_instances(cls, seconds_left: Sequence[float], jobs: Sequence[int], room: Sequence[int]) -> Reading:
        """Arguments: one value for each instance. A server without a running instance has no room."""
        with_room = [left for left, places in zip(seconds_left, room, strict=True) if places > 0]
        return cls(
            min(with_room, default=0.0),
            sum(places for places in room if places > 0),
            len(with_room),
            sum(seconds_left) / max(1, sum(jobs)),
        )


class RequestInFlight(NamedTuple):
    """A request in flight. `Balancer.began` returns it, and `Balancer.ended` accepts it."""

    server: str
    began_s: float
    jobs: int


@dataclass(slots=True)
class _Server:
    name: str
    reading: Reading | None = None
    #: Times at which `reading` was requested, at which the newest reading was requested, which may still be in flight,
    #: and from which the next one may be requested.
    read_s: float = float("-inf")
    asked_s: float = float("-inf")
    next_s: float = float("-inf")
    #: Images in flight that were sent since `read_s` and since `asked_s`.
    sent: int = 0
    sent_since_asked: int = 0
    #: Mean seconds of an image; 0 if unknown.
    job_s: float = 0.0
    supports_readings: bool = True
    #: The server is left out until this time.
    out_until_s: float = float("-inf")
    #: Whether the server is left out until it reports its load.
    must_report: bool = False
    failed_s: float = float("-inf")
    failures: int = 0
    #: Number of the last choice that selected this server; negative before the first one.
    turn: float = 0


class _Load(NamedTuple):
    """Load of a server. seconds: time until its first instance is idle."""

    has_room: bool
    seconds: float


class Balancer:
    """Chooses servers. Not thread-safe.

    clock: returns seconds since any fixed time. rng: shuffles new servers, so that clients do not all start with the
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
        """Replace the servers, and keep the state of those that remain. Raises ValueError: no servers."""
        known = self._servers
        self._servers = {name: known.get(name) or _Server(name, turn=-self._rng.random()) for name in servers}
        if not self._servers:
            raise ValueError("no servers, expected at least one")

    def choose(self) -> str:
        """Return the server for the next request."""
        now = self._used_s = self._clock()
        return self._take(self._by_load(self._able(now), now))

    def choose_in_turn(self) -> str:
        """Return the server for the next readiness check, whatever its load."""
        now = self._used_s = self._clock()
        return self._take(min(self._able(now), key=_turn))

    def began(self, server: str, jobs: int = 1) -> RequestInFlight:
        """Record that a request for this number of images was sent."""
        if known := self._servers.get(server):
            known.sent += jobs
            known.sent_since_asked += jobs
        return RequestInFlight(server, self._clock(), jobs)

    def ended(self, sent: RequestInFlight, succeeded: bool = True) -> None:
        """Record the end of a request. succeeded: the server responded, even if it rejected an invalid request."""
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
        """Record that the server was unreachable, broke a connection, or did not respond to a reading in time.

        The server is left out, for longer after each failure, and then until it reports its load, if it supports that.
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
        """Record that the server had no room. It is left out for REFUSED_S."""
        if server := self._servers.get(name):
            server.failed_s = self._clock()
            server.out_until_s = max(server.out_until_s, server.failed_s + REFUSED_S)

    def wants_reading(self, name: str) -> bool:
        """Whether to read this server now. If it returns True, the caller must read it.

        False if the client is not in use, if there is only one server, or if the server has just been read.
        """
        now = self._clock()
        server = self._servers.get(name)
        if server is None or now < server.next_s or len(self._servers) < 2 or not self.is_in_use:
            return False
        server.asked_s, server.next_s = now, now + READING_INTERVAL_S
        server.sent_since_asked = 0
        return True

    def reported(self, name: str, reading: Reading) -> None:
        """Record the latest reading that `wants_reading` allowed."""
        server = self._servers.get(name)
        # A reading requested before a failure does not show that the server is back.
        if server is None or (server.must_report and server.asked_s <= server.failed_s):
            return
        server.reading, server.read_s, server.sent = reading, server.asked_s, server.sent_since_asked
        server.supports_readings, server.must_report = True, False
        if reading.job_s > 0:
            server.job_s = _mean(server.job_s, reading.job_s)
            self._job_s = _mean(self._job_s, reading.job_s)

    def unsupported(self, name: str) -> None:
        """Record that the server does not support readings. The next attempt is after UNSUPPORTED_S."""
        if server := self._servers.get(name):
            server.reading, server.supports_readings, server.must_report = None, False, False
            server.next_s = self._clock() + UNSUPPORTED_S

    def _able(self, now: float) -> list[_Server]:
        """Return the servers that are not left out, or if all are, the one that failed first."""
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
        # Each of n servers gets every nth request while its load is unknown.
        if unknown and (next_one := min(unknown, key=_turn)).turn <= self._turn - (len(with_room) - 1):
            return next_one
        return min(known)[-1]

    def _load(self, server: _Server, now: float) -> _Load | None:
        """Return the load, or None if it is unknown."""
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
