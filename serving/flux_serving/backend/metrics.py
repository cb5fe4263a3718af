"""What `flux_base` publishes of its engine on Triton's metrics port; docs/metrics.md says what each answers.

Triton takes some 30 microseconds for each value, which is not the denoising thread's to spend: a thread of its own
publishes.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

from flux_serving.contract.metrics import (
    DECODE_SECONDS,
    FORWARD_SECONDS,
    HEARTBEAT,
    JOB_SECONDS,
    JOBS,
    JOBS_RUNNING,
    JOBS_WAITING,
    QUEUE_SECONDS,
    ROWS_PER_STEP,
    SHARED_MEMORY,
    STEP_SECONDS,
    TOKENS,
    TOKENS_RUNNING,
    TOKENS_WAITING,
    Kind,
    Metric,
)
from flux_serving.errors import Cancelled, DeadlineExceeded, FluxError, Overloaded
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.scheduler import Load

_KINDS = {
    Kind.COUNTER: pb_utils.MetricFamily.COUNTER,
    Kind.GAUGE: pb_utils.MetricFamily.GAUGE,
    Kind.HISTOGRAM: pb_utils.MetricFamily.HISTOGRAM,
}
_OUTCOMES: dict[type[FluxError], str] = {
    Overloaded: "refused",
    Cancelled: "cancelled",
    DeadlineExceeded: "timed_out",
}
_WELL, _FAILED = "done", "failed"
#: Seconds between two heartbeats.
_HEARTBEAT_S = 1.0

log = logging.getLogger(__name__)


class EngineMetrics(Observer):
    """Of one instance of the model. forward_s: seconds spent in the transformer so far."""

    def __init__(self, model: str, instance: str, forward_s: Callable[[], float]) -> None:
        self._labels = {"model": model, "instance": instance}
        self._forward_s = forward_s
        self._forward_published_s = 0.0
        # A family that nobody holds is taken back with all its values (2.51).
        self._families: list[Any] = []
        self._steps = self._metric(STEP_SECONDS)
        self._forwards = self._metric(FORWARD_SECONDS)
        self._rows = self._metric(ROWS_PER_STEP)
        self._tokens = self._metric(TOKENS)
        #: In the order of Load's fields.
        self._load = [self._metric(metric) for metric in (JOBS_RUNNING, JOBS_WAITING, TOKENS_RUNNING, TOKENS_WAITING)]
        self._queue_s = self._metric(QUEUE_SECONDS)
        self._job_s = self._metric(JOB_SECONDS)
        self._decode_s = self._metric(DECODE_SECONDS)
        self._heartbeat = self._metric(HEARTBEAT)
        self._jobs = self._metrics(JOBS, (_WELL, _FAILED, *_OUTCOMES.values()))
        self._shared_memory = self._metrics(SHARED_MEMORY, ("size", "used"))
        self._latest: Load | None = None
        self._due: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._publish, name="metrics", daemon=True)
        self._thread.start()
        self._closed = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._heart.start()
        self.queued(Load())

    def close(self) -> None:
        """Publish what is due, and end."""
        self._closed.set()
        self._heart.join()
        self._due.put(None)
        self._thread.join()

    def refused(self, jobs: int) -> None:
        """So many jobs found no room."""
        self._due.put(lambda: self._jobs[_OUTCOMES[Overloaded]].increment(jobs))

    def queued(self, load: Load) -> None:
        if self._latest == load:
            return
        self._latest = load

        def publish() -> None:
            for metric, value in zip(self._load, load, strict=True):
                metric.set(value)

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

    def decoded(self, pictures: int, decode_s: float) -> None:
        self._due.put(lambda: self._decode_s.observe(decode_s))

    def ended(self, job: Job[Any, Any], outcome: FluxError | None, total_s: float) -> None:
        def publish() -> None:
            self._jobs[_WELL if outcome is None else _OUTCOMES.get(type(outcome), _FAILED)].increment(1)
            if outcome is None:
                self._job_s.observe(total_s)

        self._due.put(publish)

    def _family(self, metric: Metric) -> Any:
        family = pb_utils.MetricFamily(name=metric.name, description=metric.meaning, kind=_KINDS[metric.kind])
        self._families.append(family)
        return family

    def _metric(self, metric: Metric) -> Any:
        buckets = {"buckets": list(metric.buckets)} if metric.kind is Kind.HISTOGRAM else {}
        return self._family(metric).Metric(labels=self._labels, **buckets)

    def _metrics(self, metric: Metric, values: Iterable[str]) -> dict[str, Any]:
        """One for each value of the metric's own label."""
        family = self._family(metric)
        return {value: family.Metric(labels=self._labels | {metric.label: value}) for value in values}

    def _beat(self) -> None:
        """Through the publishing thread, so that the heart stops with it."""

        def publish() -> None:
            self._heartbeat.set(time.time())
            memory = os.statvfs("/dev/shm")
            self._shared_memory["size"].set(memory.f_blocks * memory.f_frsize)
            self._shared_memory["used"].set((memory.f_blocks - memory.f_bfree) * memory.f_frsize)

        while True:
            self._due.put(publish)
            if self._closed.wait(_HEARTBEAT_S):
                return

    def _publish(self) -> None:
        while (publish := self._due.get()) is not None:
            try:
                publish()
            except Exception:
                log.exception("a metric was not published")
