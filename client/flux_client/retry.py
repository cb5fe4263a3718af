"""When to try again, and for how long. Pure: whoever drives it brings the clock and does the sleeping."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flux_contract.errors import (
    Cancelled,
    DeadlineExceeded,
    FluxError,
    InvalidRequest,
    NotConnected,
    Overloaded,
    Unreachable,
)

#: Seconds for one call where nobody says otherwise: 8 images of 50 steps on a busy GPU.
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off: each delay is twice the one before, up to a ceiling, less a random part.

    By default it tries again only where no work was done: the server had no room, or no connection was made. A
    connection that broke under a request is left to the caller, since the server may still be making that image;
    with several servers it is better asked of another: `FAIL_OVER`.
    """

    #: Times that one call may be sent; 1 is no retry.
    attempts: int = 10
    #: Seconds before the second attempt.
    first_delay_s: float = 0.25
    #: Seconds that a delay never exceeds.
    max_delay_s: float = 8.0
    #: Share of each delay that is random, 0..1, so that refused clients do not come back all at once.
    jitter: float = 0.5
    #: Errors after which the call is sent again.
    retried: tuple[type[FluxError], ...] = (Overloaded, NotConnected)
    #: Whether a stream that told of progress, but has no image yet, is begun again, too: progress then starts anew.
    restarts: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}, expected 1 or more")
        if not 0 <= self.first_delay_s <= self.max_delay_s:
            raise ValueError(f"first_delay_s={self.first_delay_s}, expected 0..max_delay_s={self.max_delay_s}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter}, expected 0..1")

    def delays_s(self) -> Iterator[float]:
        """Seconds to wait before the second attempt, the third, and so on."""
        delay_s = self.first_delay_s
        for _ in range(self.attempts - 1):
            yield delay_s * (1 - self.jitter * random.random())
            delay_s = min(2 * delay_s, self.max_delay_s)


#: For several servers: what one of them loses or refuses, or cancels because it stops, another does. Ten attempts take
#: some 20 seconds.
FAIL_OVER = RetryPolicy(first_delay_s=0.05, retried=(Overloaded, Unreachable, Cancelled), restarts=True)

#: Seconds, thirty years; gRPC fails at numbers that are much larger.
MAX_TIMEOUT_S = 1e9


class RetryBudget:
    """What one call has left: of its time, across all attempts, and of its attempts."""

    def __init__(self, policy: RetryPolicy, timeout_s: float, clock: Callable[[], float]) -> None:
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise InvalidRequest(f"timeout_s={timeout_s}, expected more than 0 seconds and at most {MAX_TIMEOUT_S:g}")
        self._policy = policy
        self._delays_s = policy.delays_s()
        self._timeout_s = timeout_s
        self._clock = clock
        self._deadline = clock() + timeout_s
        self._attempt = 1

    def left_s(self) -> float:
        """Seconds until the deadline. Raises DeadlineExceeded: it has passed."""
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded(f"timeout_s={self._timeout_s:g} is over")
        return left_s

    def pause_after(self, error: FluxError, begun: bool = False) -> float:
        """Seconds to sleep before the next attempt. Raises the error itself: the call ends here.

        Of a DeadlineExceeded in a later attempt, which tells the time of that attempt, one that tells the whole.
        begun: the server had told of progress.
        """
        again = isinstance(error, self._policy.retried) and (self._policy.restarts or not begun)
        delay_s = next(self._delays_s, None) if again else None
        if delay_s is None or self._clock() + delay_s >= self._deadline:
            if isinstance(error, DeadlineExceeded) and self._attempt > 1:
                raise DeadlineExceeded(
                    f"{error} of attempt {self._attempt}; timeout_s={self._timeout_s:g} is over"
                ) from error
            raise error
        self._attempt += 1
        return delay_s
