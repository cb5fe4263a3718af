"""Load of callers that request small images one after another until they are stopped."""

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
    """Outcome of a request. started: time of `time.monotonic`. error: None if the caller received its image."""

    started: float
    seconds: float
    error: str | None


class CallerLoad:
    """Runs the callers within its context. Half of them use streams."""

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
                    results = self._client.redux(image, seed=count, **_SETTINGS)
                else:
                    events = self._client.stream(image, seed=count, **_SETTINGS)
                    results = [event for event in events if isinstance(event, ImageResult)]
                assert [result.seed for result in results] == [count]
            except FluxError as failure:
                error = f"{type(failure).__name__}: {failure}"
            except Exception as unexpected:
                error = repr(unexpected)
            self.calls.append(CallerRequest(started, time.monotonic() - started, error))
