"""The engine: a thread that takes one step after another, and a thread that finishes what has no step left.

Finishing (decoding, answering) has a thread of its own because it takes as long as several steps: docs/performance.md
has what was measured.
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

#: Jobs that may wait for finishing; beyond them no step is taken until there is room.
MAX_UNFINISHED = 32
#: Errands that may wait; more are refused, as where results take all of the finishing thread's time.
MAX_ERRANDS = 8

Work = TypeVar("Work")
WorkIn = TypeVar("WorkIn", contravariant=True)
Outcome = TypeVar("Outcome")
Result = TypeVar("Result", covariant=True)


class Runner(Protocol[WorkIn, Result]):
    """What the engine drives. `step` is called by one thread, `results` by another."""

    def step(self, batch: Sequence[WorkIn]) -> Sequence[FluxError | None]:
        """Take every member one step further. Returns what ended a member, None for each that goes on.

        Where this raises, none has moved.
        """

    def tokens(self, batch: Sequence[WorkIn]) -> int:
        """Tokens that the next step of this batch computes, padding included."""

    def results(self, works: Sequence[WorkIn]) -> Sequence[Result]:
        """What finished work of one group gives."""

    def results_at_once(self, work: WorkIn) -> int:
        """How many works of this one's group `results` takes well together."""

    def is_out_of_memory(self, error: Exception) -> bool:
        """Whether a smaller step would have had room."""


class Engine(Generic[Work, Outcome]):
    """Every job that was accepted ends exactly once. A failure ends only the jobs that fail by themselves, too."""

    def __init__(
        self,
        runner: Runner[Work, Outcome],
        scheduler: Scheduler,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_broken: Callable[[], object] = lambda: None,
    ) -> None:
        """on_broken: called when one of the engine's threads has failed, after which no job can end well."""
        self.clock = clock
        self._runner = runner
        self._scheduler = scheduler
        self._observer = observer or Observer()
        #: When each job that has not ended was submitted.
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
        """on_accepted: called before any of the jobs takes a step; it must not wait.

        Raises Overloaded: there is no room. Raises Cancelled: the engine is closed.
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
        """Run it on the finishing thread once no finished job waits for its result.

        Returns False where MAX_ERRANDS wait already. Those that wait when the engine closes are not run.
        """
        with self._changed:
            if len(self._errands) >= MAX_ERRANDS or not self._stepping:
                return False
            self._errands.append(errand)
            self._changed.notify_all()
        return True

    def close(self, reason: FluxError | None = None) -> None:
        """Finish the step that runs and what has no step left, end every other job, end the threads.

        reason: what the other jobs end with; by default, Cancelled.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._stepper.join()
        for job in self._scheduler.drain():
            self._end(job, reason or Cancelled("the server is stopping"))
        self._finisher.join()

    def _guarded(self, run: Callable[[], object]) -> None:
        """Run one of the threads. Whatever it fails by, every job is ended and the engine takes no more."""
        try:
            run()
        except BaseException as error:
            log.critical("a thread of the engine failed", exc_info=error)
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
        """Wait for work and take one step. Returns False once the engine closes.

        A function of its own, so that a thread that waits holds no ended job in its variables.
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
        """Step them together, or, where that fails, each alone: then only those fail that must."""
        try:
            return self._runner.step([job.work for job in jobs])
        except Exception as error:
            if len(jobs) == 1:
                return [_as_failure(error)]
            log.warning("a step of %d jobs failed, each takes it alone: %s: %s", len(jobs), type(error).__name__, error)
            if self._runner.is_out_of_memory(error):
                with self._changed:
                    room = self._scheduler.shrink_step(tokens_of_step(jobs))
                log.warning("memory ran out: steps take at most %d tokens now, and slowly more again", room)
        return [self._run([job])[0] for job in jobs]

    def _finish_jobs(self) -> None:
        while task := self._next_task():
            task()
            # Otherwise its jobs would live until the next one comes.
            del task

    def _next_task(self) -> Callable[[], object] | None:
        """Wait for finished jobs whose results are made together, or, where there are none, for an errand.

        Results go first: an errand makes a preview, which may be late or left out. Returns None at the end.
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
        """Whatever fails, each of them is ended."""
        try:
            self._finish_together(jobs)
        except BaseException as error:
            failure = _as_failure(error)
            for job in jobs:
                self._end(job, failure)

    def _finish_together(self, jobs: Sequence[Job[Work, Outcome]]) -> None:
        """Together, or, where that fails, each alone: then only those fail that must."""
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
                log.warning("finishing %d jobs failed, each is finished alone: %s", len(jobs), error)
        # Not inside `except`, where the error would keep the memory of what failed.
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
        # It may have ended when a thread of the engine failed.
        if submitted is None:
            return
        try:
            failure = outcome if isinstance(outcome, FluxError) else None
            self._observer.ended(job, failure, self.clock() - submitted)
        except BaseException:
            log.exception("a job's end was not counted")
        try:
            job.finish(outcome)
        except BaseException as error:
            log.exception("a job's result was not taken")
            refused = _as_failure(error)
            _call(lambda: job.finish(refused))


def _as_failure(error: BaseException) -> FluxError:
    if isinstance(error, FluxError):
        return error
    log.error("a job failed", exc_info=error)
    return GenerationFailed.unexpected(error)


def _call(callback: Callable[[], Any]) -> None:
    """One caller's trouble in taking its answer must not end the thread that serves all the others."""
    try:
        callback()
    except BaseException:
        log.exception("a job's callback failed")
