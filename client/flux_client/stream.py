"""The synchronous stream of one request's events."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from flux_client.events import Event
from flux_client.retry import RetryBudget
from flux_client.stream_state import StreamState
from flux_client.transport import Answers
from flux_contract.errors import FluxError

if TYPE_CHECKING:
    from typing_extensions import Self


class Stream:
    """Iterate for `Progress`, and at the end one `ImageResult` for each image; one thread at a time iterates.

    Leaving its `with` block, `close`, and dropping it end the call at the server, as `cancel` does.
    """

    def __init__(self, send: Callable[[float], Answers], budget: RetryBudget, sleep: Callable[[float], None]) -> None:
        """send: makes one attempt, which has so many seconds."""
        self._send = send
        self._sleep = sleep
        self._state = StreamState(budget)
        #: Held while an attempt begins, so that cancelling meets either none or one that it can end. A signal handler
        #: that cancels may come while its own thread has it.
        self._lock = threading.RLock()
        self._answers = send(self._state.left_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Raises Cancelled: `cancel` was called. Raises the other errors of `FluxClient.redux`."""
        while (event := self._state.next_event()) is None:
            if self._state.ended:
                raise StopIteration
            try:
                self._state.take(next(self._answers))
            except StopIteration:
                self._state.end()
            except FluxError as error:
                self._send_again(self._state.pauses_after(error))
        return event

    def cancel(self) -> None:
        """End the call at the server, from any thread; iterating then raises Cancelled. After the end: nothing."""
        with self._lock:
            if self._state.cancel():
                self._answers.cancel()

    def close(self) -> None:
        """`cancel`."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_answers"):
            self.cancel()

    def _send_again(self, pauses_s: list[float]) -> None:
        for pause_s in pauses_s:
            self._sleep(pause_s)
            self._state.left_s()
        with self._lock:
            self._answers = self._send(self._state.left_s())
