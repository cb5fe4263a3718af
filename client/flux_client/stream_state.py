"""What the synchronous and the asynchronous stream share: where the call stands. Nothing here waits."""

from __future__ import annotations

from collections import deque

from flux_client.events import Event, read_events
from flux_client.image_result import ImageResult
from flux_client.retry import RetryBudget
from flux_client.transport import Answer
from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, GenerationFailed
from flux_contract.models import FLUX_STREAM

#: Seconds between two looks at whether a stream that waits for its next attempt was cancelled.
LOOK_S = 0.1


class StreamState:
    """One stream from its first attempt to its end.

    It may be sent again until its first event is there, from when on the server has taken it; with a policy that
    restarts, until an image is there.
    """

    def __init__(self, budget: RetryBudget) -> None:
        self.ended = False
        self._budget = budget
        self._failure: FluxError | None = None
        self._told: deque[Event] = deque()
        self._begun = False
        self._has_variations = False

    def left_s(self) -> float:
        """Seconds that the next attempt may take. Raises DeadlineExceeded, or why the stream ended already."""
        self._check()
        try:
            return self._budget.left_s()
        except DeadlineExceeded as error:
            raise self._failed(error) from None

    def next_event(self) -> Event | None:
        """The next event that is there. Raises why the stream ended early: again each time, so that nobody waits."""
        self._check()
        return self._told.popleft() if self._told else None

    def take(self, answer: Answer) -> None:
        events = read_events(answer)
        self._told.extend(events)
        self._begun = self._begun or bool(events)
        self._has_variations = self._has_variations or any(isinstance(event, ImageResult) for event in events)

    def end(self) -> None:
        """The server has no more answers. Raises GenerationFailed: it has made no image."""
        if not self._has_variations:
            raise self._failed(GenerationFailed(f"{FLUX_STREAM.name}: the stream ended without an image"))
        self.ended = True

    def cancel(self) -> bool:
        """Whether there may still be a call to end: one that failed here may go on at the server."""
        if not self.ended and self._failure is None:
            self._failure = Cancelled("the stream was cancelled by its caller")
        return not self.ended

    def pauses_after(self, error: FluxError) -> list[float]:
        """Seconds to sleep before the next attempt, in parts: a cancelled stream need not sleep them all.

        Raises the error itself: the stream ends here; or Cancelled, if that is why there was an error.
        """
        self._check()
        if self._has_variations:
            raise self._failed(error)
        try:
            pause_s = self._budget.pause_after(error, self._begun)
        except FluxError:
            self._failed(error)
            raise
        looks = int(pause_s / LOOK_S)
        return [LOOK_S] * looks + [pause_s - looks * LOOK_S]

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _failed(self, error: FluxError) -> FluxError:
        self._failure = error
        return error
