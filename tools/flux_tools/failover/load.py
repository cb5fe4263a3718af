"""Callers who ask for a small image, and then for the next, until they are told to end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

from flux_client import FluxClient, FluxError, ImageResult, RetryPolicy

_SETTINGS: dict[str, Any] = {"height": 64, "width": 64, "num_inference_steps": 8}


class CallerRequest(NamedTuple):
    """started: on `time.monotonic`. error: what the caller was told instead of an image."""

    started: float
    seconds: float
    error: str | None


class CallerLoad:
    """A context manager; half of its callers ask by streams."""

    def __init__(self, url: str, images: Sequence[bytes], callers: int, retry: RetryPolicy) -> None:
        self.calls: list[CallerRequest] = []
        self._client = FluxClient(url, timeout_s=120, retry=retry)
        self._images = images
        self._ended = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._callers = callers

    def __enter__(self) -> CallerLoad:
        for number in range(self._callers):
            self._pool.submit(self._ask, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._pool.shutdown()
        self._client.close()

    def _ask(self, number: int) -> None:
        count = 0
        while not self._ended.is_set():
            image = self._images[(number + count) % len(self._images)]
            count += 1
            started, error = time.monotonic(), None
            try:
                if number % 2:
                    made = self._client.redux(image, seed=count, **_SETTINGS)
                else:
                    events = self._client.stream(image, seed=count, **_SETTINGS)
                    made = [event for event in events if isinstance(event, ImageResult)]
                assert [variation.seed for variation in made] == [count]
            except FluxError as refusal:
                error = f"{type(refusal).__name__}: {refusal}"
            except Exception as mistake:
                error = repr(mistake)
            self.calls.append(CallerRequest(started, time.monotonic() - started, error))
