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
    """Iterator over `Progress` events and one `ImageResult` for each image. One thread may iterate.

    The request is cancelled on the server by `cancel` and `close`, on leaving the `with` block, and when the stream is
    deleted.
    """

    def __init__(self, send: Callable[[float], Answers], budget: RetryBudget, sleep: Callable[[float], None]) -> None:
        """send: starts one attempt, with a timeout in seconds."""
        self._send = send
        self._sleep = sleep
        self._state = StreamState(budget)
        #: Held while an attempt starts, so that `cancel` finds either no attempt or a complete one. Reentrant, because
        #: a signal handler may call `cancel` while its own thread holds the lock.
        self._lock = threading.RLock()
        self._answers = send(self._state.left_s())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Return the next event. Raises Cancelled: `cancel` was called. Raises other errors as `FluxClient.redux`."""
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
        """Cancel the request on the server, from any thread; iteration then raises Cancelled.

        Does nothing after the last event.
        """
        with self._lock:
            if self._state.cancel():
                self._answers.cancel()

    def close(self) -> None:
        """Same as `cancel`."""
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
