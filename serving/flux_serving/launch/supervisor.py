"""Starts services and restarts those that fail, with back-off and a limited number of attempts in a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from flux_contract.errors import CannotStart

#: Seconds between two checks of the services.
LOOK_S = 0.2


class Service(Protocol):
    """One run of a service; a restart creates another object."""

    def start(self) -> None:
        """Start the processes. Raises CannotStart."""

    def is_ready(self) -> bool:
        """Whether the service is ready. Returns within seconds."""

    def is_hung(self) -> bool:
        """Whether start-up hangs, so that another start may succeed."""

    def failure(self) -> str | None:
        """Returns why the service has failed, for the log; None if it has not."""

    def kill(self) -> None:
        """Kill every process of the service, and remove their temporary files."""


S = TypeVar("S", bound=Service)


class ServiceFailed(Exception):
    """A service failed and is not restarted."""


@dataclass(frozen=True)
class RestartPolicy:
    """How often a failed service is restarted, and after what delays."""

    #: Maximum restarts in a row; 0 disables restarts.
    attempts: int = 5
    #: Seconds before the first restart; each further delay doubles, up to max_delay_s.
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0
    #: Seconds of uninterrupted service after which the count of failures starts again.
    stable_s: float = 60.0
    #: Seconds that a start may take.
    start_timeout_s: float = 1800.0

    def delay_s(self, attempt: int) -> float:
        """Returns the seconds to wait before this attempt. Attempts count from 1."""
        return min(self.first_delay_s * 2.0 ** (attempt - 1), self.max_delay_s)


NEVER = RestartPolicy(attempts=0)


class State(Enum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    #: The service failed and waits for the delay before the next attempt.
    WAITING = "waiting"


class Supervised(Generic[S]):
    """One service and its restarts. Not thread-safe."""

    def __init__(
        self,
        name: str,
        make: Callable[[], S],
        policy: RestartPolicy,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """name: for the log. make: creates another run of the service, not started. say: writes a line to the log."""
        self.name = name
        self.state = State.STOPPED
        self.service: S | None = None
        self.was_ready = False
        self._make = make
        self._policy = policy
        self._say = say
        self._clock = clock
        #: When the current state began.
        self._since = clock()
        self._delay_s = 0.0
        #: Failures in a row.
        self._failures = 0

    def start(self) -> None:
        """Start a new run of the service. Raises CannotStart."""
        self.service = self._make()
        self._enter(State.STARTING)
        self.service.start()

    def look(self) -> None:
        """Check the service once, and restart it if its delay has passed.

        Raises CannotStart: the first start failed. Raises ServiceFailed: the service failed and is not restarted.
        """
        if self.state is State.WAITING:
            if self._clock() - self._since >= self._delay_s:
                self._restart()
        elif self.service is not None:
            if (reason := self.service.failure()) is not None:
                self._fail(reason)
            elif self.state is State.STARTING:
                self._look_at_start(self.service)

    def kill(self) -> None:
        """End the service at once."""
        if self.service is not None:
            self.service.kill()
        self.service = None
        self._enter(State.STOPPED)

    def _look_at_start(self, service: S) -> None:
        seconds = self._clock() - self._since
        if service.is_ready():
            self._enter(State.READY)
            if self.was_ready:
                self._say(f"{self.name} is ready again after {seconds:.0f} s")
            self.was_ready = True
        elif service.is_hung():
            self._fail(f"{self.name} hangs during start-up", repeats_first=True)
        elif seconds > self._policy.start_timeout_s:
            self._fail(f"{self.name} was not ready after {seconds:.0f} s")

    def _restart(self) -> None:
        try:
            self.start()
        except CannotStart as error:
            self._fail(str(error))

    def _fail(self, reason: str, repeats_first: bool = False) -> None:
        """Kill the service and schedule a restart. repeats_first: repeat even a first start, at least once."""
        if not (self.was_ready or repeats_first):
            raise CannotStart(f"{reason} before it was ready; its log says why")
        if self.state is State.READY and self._clock() - self._since >= self._policy.stable_s:
            self._failures = 0
        self._failures += 1
        attempts = max(1, self._policy.attempts) if repeats_first else self._policy.attempts
        if self._failures > attempts:
            failures = f"; gave up after {self._failures} failures in a row" if attempts else ""
            raise ServiceFailed(f"{reason}{failures}")
        self.kill()
        self._delay_s = self._policy.delay_s(self._failures)
        self._say(f"{reason}; restarting it in {self._delay_s:g} s (attempt {self._failures} of {attempts})")
        self._enter(State.WAITING)

    def _enter(self, state: State) -> None:
        self.state = state
        self._since = self._clock()


def supervise(
    services: Sequence[Supervised[Any]],
    until: Callable[[], bool],
    on_look: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Check the services repeatedly until `until()` returns true. on_look: called after each round of checks.

    Raises CannotStart or ServiceFailed, as `Supervised.look` does.
    """
    while not until():
        for service in services:
            service.look()
        on_look()
        sleep(LOOK_S)


def all_ready(services: Sequence[Supervised[Any]]) -> bool:
    return all(service.state is State.READY for service in services)
