"""The thread that takes one step after another: schedule, run, complete."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from flux_serving.errors import Cancelled, FluxError, GenerationFailed
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Scheduler

log = logging.getLogger(__name__)

Work = TypeVar("Work")
WorkIn = TypeVar("WorkIn", contravariant=True)
Result = TypeVar("Result", covariant=True)
Outcome = TypeVar("Outcome")


class Runner(Protocol[WorkIn, Result]):
    """What the engine drives."""

    def step(self, batch: Sequence[WorkIn]) -> None:
        """Take every member of the batch one step further."""

    def result(self, work: WorkIn) -> Result:
        """What a finished piece of work gives."""


class Engine(Generic[Work, Outcome]):
    """Runs jobs on a thread of its own. Every job that was accepted ends exactly once.

    A step that raises ends the jobs of that step and no others.
    """

    def __init__(
        self, runner: Runner[Work, Outcome], scheduler: Scheduler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self._runner = runner
        self._scheduler = scheduler
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="denoising engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        """Raises Overloaded: there is no room. Raises Cancelled: the engine is closed."""
        with self._changed:
            if self._closing:
                raise Cancelled("the server is stopping")
            self._scheduler.add(jobs)
            self._changed.notify()

    def close(self) -> None:
        """Finish the step that runs, end every job as cancelled, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for job in self._scheduler.drain():
            _finish(job, Cancelled("the server is stopping"))

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._scheduler) > 0)
                if self._closing:
                    return
                plan = self._scheduler.schedule(self.clock())
            for job, reason in plan.dropped:
                _finish(job, reason)
            if plan.run:
                self._step(plan.run)

    def _step(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        try:
            self._runner.step([job.work for job in jobs])
        except Exception as error:
            with self._changed:
                self._scheduler.remove(jobs)
            for job in jobs:
                _finish(job, _as_failure(error))
            return
        with self._changed:
            finished = self._scheduler.complete(jobs)
        for job in finished:
            try:
                outcome: Outcome | FluxError = self._runner.result(job.work)
            except Exception as error:
                outcome = _as_failure(error)
            _finish(job, outcome)


def _as_failure(error: Exception) -> FluxError:
    if isinstance(error, FluxError):
        return error
    log.error("a step failed", exc_info=error)
    return GenerationFailed.unexpected(error)


def _finish(job: Job[Any, Any], outcome: Any) -> None:
    """One caller's trouble in taking its answer must not end the thread that serves all the others."""
    try:
        job.finish(outcome)
    except Exception:
        log.exception("an answer could not be delivered")
