"""The engine: one thread runs the denoising steps, and another finishes the jobs that have no step left.

Finishing (decoding and responding) has its own thread because it takes as long as several steps; see
docs/performance.md for measurements.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from flux_contract.errors import Cancelled, FluxError, GenerationFailed
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.scheduler import Scheduler, reason_to_drop, tokens_of_step

log = logging.getLogger(__name__)

#: Maximum number of jobs that wait to be finished. At this number, the engine pauses the steps.
MAX_UNFINISHED = 32
#: Maximum number of errands that wait for the finishing thread. More are rejected.
MAX_ERRANDS = 8

Work = TypeVar("Work")
WorkIn = TypeVar("WorkIn", contravariant=True)
Outcome = TypeVar("Outcome")
Result = TypeVar("Result", covariant=True)


class Runner(Protocol[WorkIn, Result]):
    """Runs steps and computes results for the engine. One thread calls `step`, another `results`."""

    def step(self, batch: Sequence[WorkIn]) -> Sequence[FluxError | None]:
        """Run one step for every member. Returns for each member the error that ended it, or None.

        If it raises, no member has changed.
        """

    def tokens(self, batch: Sequence[WorkIn]) -> int:
        """Returns the number of tokens that the next step of this batch computes, padding included."""

    def results(self, works: Sequence[WorkIn]) -> Sequence[Result]:
        """Returns the results of finished work of one group."""

    def results_at_once(self, work: WorkIn) -> int:
        """Returns the best number of works of this group for one call of `results`."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether the error means that memory ran out, so that a smaller step could succeed."""


class Engine(Generic[Work, Outcome]):
    """Runs jobs in batches, in two threads. A lock guards the queues.

    Every accepted job ends exactly once. If a batch fails, its jobs are retried one by one, and only those that fail
    again end with an error.
    """

    def __init__(
        self,
        runner: Runner[Work, Outcome],
        scheduler: Scheduler,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_broken: Callable[[], object] = lambda: None,
    ) -> None:
        """on_broken: called after one of the engine's threads has failed. From then on no job can succeed."""
        self.clock = clock
        self._runner = runner
        self._scheduler = scheduler
        self._observer = observer or Observer()
        #: Jobs that have not ended, with the time of their submission.
        self._submitted: dict[Job[Work, Outcome], float] = {}
        self._finishing: deque[Job[Work, Outcome]] = deque()
        self._errands: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._stepping = True
        self._on_broken = on_broken
        self._stepper = threading.Thread(
            target=self._guarded, args=[self._take_steps], name="denoising steps", daemon=True
        )
        self._finisher = threading.Thread(target=self._guarded, args=[self._finish_jobs], name="finishing", daemon=True)
        self._stepper.start()
        self._finisher.start()

    def submit(self, jobs: Sequence[Job[Work, Outcome]], on_accepted: Callable[[], object] | None = None) -> None:
        """Add jobs to the queue.

        on_accepted: called before any of the jobs runs a step. It must not block.
        Raises Overloaded: there is no room for the jobs. Raises Cancelled: the engine is closed.
        """
        with self._changed:
            if self._closing:
                raise Cancelled("the server is stopping")
            self._scheduler.add(jobs)
            self._submitted.update(dict.fromkeys(jobs, self.clock()))
            self._observer.queued(self._scheduler.load)
            if on_accepted is not None:
                _call(on_accepted)
            self._changed.notify_all()

    def run_aside(self, errand: Callable[[], object]) -> bool:
        """Run a function on the finishing thread as soon as no job waits to be finished.

        Returns False if MAX_ERRANDS already wait or the engine is closed. Waiting errands do not run after `close`.
        """
        with self._changed:
            if len(self._errands) >= MAX_ERRANDS or not self._stepping:
                return False
            self._errands.append(errand)
            self._changed.notify_all()
        return True

    def close(self, reason: FluxError | None = None) -> None:
        """Finish the current step and the jobs that have no step left, end all other jobs, and stop the threads.

        reason: the error of the other jobs. The default is Cancelled.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._stepper.join()
        for job in self._scheduler.drain():
            self._end(job, reason or Cancelled("the server is stopping"))
        self._finisher.join()

    def _guarded(self, run: Callable[[], object]) -> None:
        """Run one of the threads. If it raises anything, end every job with an error and accept no more."""
        try:
            run()
        except BaseException as error:
            log.critical("an engine thread failed", exc_info=error)
            failure = GenerationFailed.unexpected(error)
            with self._changed:
                self._closing, self._stepping = True, False
                self._changed.notify_all()
                jobs = list(self._submitted)
            for job in jobs:
                self._end(job, failure)
            _call(self._on_broken)

    def _take_steps(self) -> None:
        while self._take_step():
            pass

    def _take_step(self) -> bool:
        """Wait for jobs and run one step. Returns False when the engine closes.

        This is a separate function so that a waiting thread keeps no ended job in its local variables.
        """
        with self._changed:
            self._changed.wait_for(self._may_step)
            if self._closing:
                self._stepping = False
                self._changed.notify_all()
                return False
            plan = self._scheduler.schedule(self.clock())
        for job, reason in plan.dropped:
            self._end(job, reason)
        if plan.run:
            self._step(plan.run)
        self._observer.queued(self._scheduler.load)
        return True

    def _may_step(self) -> bool:
        return self._closing or (len(self._scheduler) > 0 and len(self._finishing) < MAX_UNFINISHED)

    def _step(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        started = self.clock()
        for job in jobs:
            if job.steps_done == 0:
                self._observer.began(job, started - self._submitted[job])
        tokens = self._runner.tokens([job.work for job in jobs])
        failures = self._run(jobs)
        self._observer.stepped(len(jobs), tokens, self.clock() - started)
        failed = {job: failure for job, failure in zip(jobs, failures, strict=True) if failure is not None}
        going_on = [job for job in jobs if job not in failed]
        with self._changed:
            self._scheduler.remove(failed)
            finished = self._scheduler.complete(going_on)
        for job in going_on:
            _call(partial(job.on_step, job))
        if finished:
            with self._changed:
                self._finishing.extend(finished)
                self._changed.notify_all()
        for job, failure in failed.items():
            self._end(job, failure)

    def _run(self, jobs: Sequence[Job[Work, Outcome]]) -> Sequence[FluxError | None]:
        """Run one step of these jobs together. If it fails, run each job alone, so that only the failing jobs end."""
        try:
            return self._runner.step([job.work for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                return [_as_failure(error)]
            log.warning("a step of %d jobs failed, retrying each alone: %s: %s", len(jobs), type(error).__name__, error)
            if self._runner.is_out_of_memory(error):
                with self._changed:
                    room = self._scheduler.shrink_step(tokens_of_step(jobs))
                log.warning("out of memory: steps are limited to %d tokens; the limit grows back slowly", room)
        return [self._run([job])[0] for job in jobs]

    def _finish_jobs(self) -> None:
        while task := self._next_task():
            task()
            # Otherwise the task's jobs would stay in memory until the next task.
            del task

    def _next_task(self) -> Callable[[], object] | None:
        """Wait for jobs to finish together, or for an errand. Returns None when the engine closes.

        Jobs go first, because an errand computes a preview, which may be late or skipped.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._finishing or self._errands or not self._stepping)
            if not self._finishing:
                return partial(_call, self._errands.popleft()) if self._errands and self._stepping else None
            first = self._finishing[0]
            count = self._runner.results_at_once(first.work)
            jobs = [job for job in self._finishing if job.group == first.group][:count]
            for job in jobs:
                self._finishing.remove(job)
            self._changed.notify_all()
        return partial(self._finish, jobs)

    def _finish(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        """Finish these jobs. If it fails, end each of them with the error."""
        try:
            self._finish_together(jobs)
        except BaseException as error:
            failure = _as_failure(error)
            for job in jobs:
                self._end(job, failure)

    def _finish_together(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        """Finish these jobs together. If it fails, finish each alone, so that only the failing jobs end."""
        started = self.clock()
        dropped = {job: reason for job in jobs if (reason := reason_to_drop(job, started)) is not None}
        for job, reason in dropped.items():
            self._end(job, reason)
        jobs = [job for job in jobs if job not in dropped]
        if not jobs:
            return
        outcomes: Sequence[Outcome | FluxError]
        try:
            outcomes = self._runner.results([job.work for job in jobs])
        except Exception as error:
            outcomes = [_as_failure(error)] if len(jobs) == 1 else []
            if not outcomes:
                log.warning("finishing %d jobs failed, retrying each alone: %s", len(jobs), error)
        # Not inside `except`, where the error's traceback would keep the memory of the failed attempt.
        if not outcomes:
            for job in jobs:
                self._finish([job])
            return
        self._observer.decoded(len(jobs), self.clock() - started)
        for job, outcome in zip(jobs, outcomes, strict=True):
            self._end(job, outcome)

    def _end(self, job: Job[Work, Outcome], outcome: Outcome | FluxError) -> None:
        with self._changed:
            submitted = self._submitted.pop(job, None)
        # The job may already have ended because an engine thread failed.
        if submitted is None:
            return
        try:
            failure = outcome if isinstance(outcome, FluxError) else None
            self._observer.ended(job, failure, self.clock() - submitted)
        except BaseException:
            log.exception("an observer of the engine failed at the end of a job")
        try:
            job.finish(outcome)
        except BaseException as error:
            log.exception("the callback for a job's result failed")
            callback_failure = _as_failure(error)
            _call(lambda: job.finish(callback_failure))


def _as_failure(error: BaseException) -> FluxError:
    if isinstance(error, FluxError):
        return error
    log.error("a job failed", exc_info=error)
    return GenerationFailed.unexpected(error)


def _call(callback: Callable[[], Any]) -> None:
    """Call one job's callback. An exception is logged, because it must not end the thread that serves all jobs."""
    try:
        callback()
    except BaseException:
        log.exception("a job's callback failed")
