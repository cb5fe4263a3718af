"""State of a stream, shared by the synchronous and the asynchronous stream. Nothing here blocks."""

from __future__ import annotations

from collections import deque

from flux_client.events import Event, read_events
from flux_client.image_result import ImageResult
from flux_client.retry import RetryBudget
from flux_client.transport import Answer
from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, GenerationFailed
from flux_contract.models import FLUX_STREAM

#: Seconds between two checks whether a stream that waits for its next attempt was cancelled.
LOOK_S = 0.1


class StreamState:
    """State of one stream, from its first attempt to its end.

    The request may be retried until the first event arrives, which shows that the server accepted it. With a retry
    policy that restarts, it may be retried until an image arrives.
    """

    def __init__(self, budget: RetryBudget) -> None:
        self.ended = False
        self._budget = budget
        self._failure: FluxError | None = None
        self._events: deque[Event] = deque()
        self._begun = False
        self._has_image = False

    def left_s(self) -> float:
        """Return the seconds left for the next attempt. Raises DeadlineExceeded, or the error that ended the stream."""
        self._check()
        try:
            return self._budget.left_s()
        except DeadlineExceeded as error:
            raise self._failed(error) from None

    def next_event(self) -> Event | None:
        """Return the next event that has arrived, if any. Each call raises the error that ended the stream, if any."""
        self._check()
        return self._events.popleft() if self._events else None

    def take(self, answer: Answer) -> None:
        events = read_events(answer)
        self._events.extend(events)
        self._begun = self._begun or bool(events)
        self._has_image = self._has_image or any(isinstance(event, ImageResult) for event in events)

    def end(self) -> None:
        """Record that the server sent its last response. Raises GenerationFailed: it sent no image."""
        if not self._has_image:
            raise self._failed(GenerationFailed(f"{FLUX_STREAM.name}: the stream ended without an image"))
        self.ended = True

    def cancel(self) -> bool:
        """Mark the stream as cancelled. Returns whether its call may still run on the server."""
        if not self.ended and self._failure is None:
            self._failure = Cancelled("the caller cancelled the stream")
        return not self.ended

    def pauses_after(self, error: FluxError) -> list[float]:
        """Return the seconds to sleep before the next attempt, in parts, so that a cancelled stream wakes up early.

        Raises the error itself if it is final, or Cancelled if the cancellation caused the error.
        """
        self._check()
        if self._has_image:
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
