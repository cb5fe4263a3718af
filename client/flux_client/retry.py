"""Retry policy and time budget of a call. Pure: the caller provides the clock and sleeps."""

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

#: Default seconds for one call: enough for 8 images of 50 steps on a busy GPU.
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off: each delay is twice the previous one, up to a maximum, minus a random part.

    By default, a call is retried only if it caused no work: the server had no room, or no connection was made. A
    request whose connection broke is not retried, because the server may still be generating the image. With several
    servers, `FAIL_OVER` retries it on another one.
    """

    #: Maximum attempts of one call; 1 disables retries.
    attempts: int = 10
    #: Seconds before the second attempt.
    first_delay_s: float = 0.25
    #: Maximum seconds of a delay.
    max_delay_s: float = 8.0
    #: Random share of each delay, 0..1, so that rejected clients do not retry all at once.
    jitter: float = 0.5
    #: Errors after which the call is retried.
    retried: tuple[type[FluxError], ...] = (Overloaded, NotConnected)
    #: Whether to retry a stream that has reported progress but no image. Its progress then starts again.
    restarts: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts}, expected 1 or more")
        if not 0 <= self.first_delay_s <= self.max_delay_s:
            raise ValueError(f"first_delay_s={self.first_delay_s}, expected 0..max_delay_s={self.max_delay_s}")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter}, expected 0..1")

    def delays_s(self) -> Iterator[float]:
        """Yield the seconds to wait before the second attempt, the third, and so on."""
        delay_s = self.first_delay_s
        for _ in range(self.attempts - 1):
            yield delay_s * (1 - self.jitter * random.random())
            delay_s = min(2 * delay_s, self.max_delay_s)


#: For several servers: if one of them fails, rejects a request, or cancels it because it stops, another one gets the
#: request. Ten attempts take about 20 seconds.
FAIL_OVER = RetryPolicy(first_delay_s=0.05, retried=(Overloaded, Unreachable, Cancelled), restarts=True)

#: Maximum timeout, about thirty years. gRPC fails with much larger numbers.
MAX_TIMEOUT_S = 1e9


class RetryBudget:
    """Remaining time and attempts of one call."""

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
        """Return the seconds until the deadline. Raises DeadlineExceeded: it has passed."""
        left_s = self._deadline - self._clock()
        if left_s <= 0:
            raise DeadlineExceeded(f"timeout_s={self._timeout_s:g} has passed")
        return left_s

    def pause_after(self, error: FluxError, begun: bool = False) -> float:
        """Return the seconds to sleep before the next attempt. Raises the error itself if it is final.

        A final DeadlineExceeded of a later attempt, whose message has only that attempt's time, is raised with the
        total timeout. begun: whether the server has reported progress.
        """
        again = isinstance(error, self._policy.retried) and (self._policy.restarts or not begun)
        delay_s = next(self._delays_s, None) if again else None
        if delay_s is None or self._clock() + delay_s >= self._deadline:
            if isinstance(error, DeadlineExceeded) and self._attempt > 1:
                raise DeadlineExceeded(
                    f"{error} in attempt {self._attempt}; timeout_s={self._timeout_s:g} has passed"
                ) from error
            raise error
        self._attempt += 1
        return delay_s
