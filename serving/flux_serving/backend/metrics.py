"""Publishes the metrics of the `flux_base` engine on Triton's metrics port; docs/metrics.md explains each.

Publishing a value takes Triton about 30 microseconds, so a separate thread does it instead of the denoising thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, Overloaded
from flux_contract.metrics import (
    DECODE_SECONDS,
    FORWARD_SECONDS,
    HANDED_OVER,
    JOB_SECONDS,
    JOBS,
    JOBS_RUNNING,
    JOBS_WAITING,
    QUEUE_SECONDS,
    ROWS_PER_STEP,
    SECONDS_LEFT,
    STEP_SECONDS,
    TOKENS,
    TOKENS_RUNNING,
    TOKENS_WAITING,
)
from flux_serving.backend.publishing import Published
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.scheduler import EngineLoad

_OUTCOMES: dict[type[FluxError], str] = {
    Overloaded: "refused",
    Cancelled: "cancelled",
    DeadlineExceeded: "timed_out",
}
_WELL, _FAILED = "done", "failed"

#: Seconds between two publications of the load while the numbers of jobs and tokens stay the same.
_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class EngineMetrics(Observer):
    """The metrics of one instance of the model."""

    def __init__(
        self, model: str, instance: str, forward_s: Callable[[], float], seconds_left: Callable[[], float]
    ) -> None:
        """forward_s: returns the seconds spent in the transformer so far. seconds_left: of the engine's work."""
        self._forward_s = forward_s
        self._seconds_of_work_left = seconds_left
        self._forward_published_s = 0.0
        published = Published(model, instance)
        self._published = published
        self._steps = published.one(STEP_SECONDS)
        self._forwards = published.one(FORWARD_SECONDS)
        self._rows = published.one(ROWS_PER_STEP)
        self._tokens = published.one(TOKENS)
        #: In the order of Load's first fields.
        self._load = [published.one(metric) for metric in (JOBS_RUNNING, JOBS_WAITING, TOKENS_RUNNING, TOKENS_WAITING)]
        self._seconds_left = published.one(SECONDS_LEFT)
        self._handed_over = published.one(HANDED_OVER)
        self._queue_s = published.one(QUEUE_SECONDS)
        self._job_s = published.one(JOB_SECONDS)
        self._decode_s = published.one(DECODE_SECONDS)
        self._jobs = published.each(JOBS, (_WELL, _FAILED, *_OUTCOMES.values()))
        self._counts: tuple[Any, ...] = ()
        self._counts_published = 0.0
        self._due: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._publish, name="metrics", daemon=True)
        self._thread.start()
        self.queued(EngineLoad())

    def close(self) -> None:
        """Publish the pending values and end the thread."""
        self._due.put(None)
        self._thread.join()

    def refused(self, jobs: int) -> None:
        """Count jobs that were rejected because there was no room."""
        self._due.put(lambda: self._jobs[_OUTCOMES[Overloaded]].increment(jobs))

    def handed_over(self, images: int) -> None:
        """Count images that another instance has generated for requests of this one."""
        self._due.put(lambda: self._handed_over.increment(images))

    def queued(self, load: EngineLoad) -> None:
        counts = load[: len(self._load)]
        now = time.monotonic()
        # The seconds left change with every step and need not be published that often.
        if counts == self._counts and now - self._counts_published < _PAUSE_S:
            return
        self._counts, self._counts_published = counts, now
        seconds_left = self._seconds_of_work_left()

        def publish() -> None:
            for metric, value in zip(self._load, counts, strict=True):
                metric.set(value)
            self._seconds_left.set(seconds_left)

        self._due.put(publish)

    def began(self, job: Job[Any, Any], queue_s: float) -> None:
        self._due.put(lambda: self._queue_s.observe(queue_s))

    def stepped(self, rows: int, tokens: int, step_s: float) -> None:
        forward_s = self._forward_s()

        def publish() -> None:
            self._steps.observe(step_s)
            self._rows.observe(rows)
            self._tokens.increment(tokens)
            self._forwards.increment(forward_s - self._forward_published_s)
            self._forward_published_s = forward_s

        self._due.put(publish)

    def decoded(self, images: int, decode_s: float) -> None:
        self._due.put(lambda: self._decode_s.observe(decode_s))

    def ended(self, job: Job[Any, Any], outcome: FluxError | None, total_s: float) -> None:
        def publish() -> None:
            self._jobs[_WELL if outcome is None else _OUTCOMES.get(type(outcome), _FAILED)].increment(1)
            if outcome is None:
                self._job_s.observe(total_s)

        self._due.put(publish)

    def _publish(self) -> None:
        while (publish := self._due.get()) is not None:
            try:
                publish()
            except Exception:
                log.exception("a metric was not published")
