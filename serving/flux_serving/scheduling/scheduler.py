"""The order of work: add jobs, schedule a step, complete it. No torch, no threads; the clock is passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flux_serving.errors import Cancelled, DeadlineExceeded, FluxError, Overloaded
from flux_serving.scheduling.job import Job

AnyJob = Job[Any, Any]


@dataclass(frozen=True)
class Plan:
    """run: jobs that take their next step together. dropped: jobs that end now, each with its reason."""

    run: tuple[AnyJob, ...]
    dropped: tuple[tuple[AnyJob, FluxError], ...]


class Scheduler:
    """First come, first served, one job after another.

    capacity: jobs that may wait or run; more are refused.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._jobs: deque[AnyJob] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jobs: Sequence[AnyJob]) -> None:
        """All of them or none. Raises Overloaded: there is no room; the message has the length of the queue."""
        if len(self._jobs) + len(jobs) > self._capacity:
            raise Overloaded(
                f"no room for {len(jobs)} more images: {len(self._jobs)} are waiting or running, "
                f"at most {self._capacity} may"
            )
        self._jobs.extend(jobs)

    def schedule(self, now: float) -> Plan:
        """now: seconds, on the clock of the jobs' deadlines."""
        dropped = []
        for job in tuple(self._jobs):
            reason = _reason_to_drop(job, now)
            if reason is not None:
                dropped.append((job, reason))
                self._jobs.remove(job)
        return Plan(run=tuple(self._jobs)[:1], dropped=tuple(dropped))

    def complete(self, ran: Sequence[AnyJob]) -> list[AnyJob]:
        """Count the step that these jobs took. Returns those that have no step left, which leave."""
        finished = []
        for job in ran:
            job.steps_done += 1
            if job.steps_done == job.steps:
                self._jobs.remove(job)
                finished.append(job)
        return finished

    def remove(self, jobs: Sequence[AnyJob]) -> None:
        """Jobs that failed leave."""
        for job in jobs:
            self._jobs.remove(job)

    def drain(self) -> list[AnyJob]:
        """Every job leaves."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs


def _reason_to_drop(job: AnyJob, now: float) -> FluxError | None:
    if job.deadline is not None and now >= job.deadline:
        return DeadlineExceeded(f"the request's time ran out after {job.steps_done} of {job.steps} steps")
    if not job.is_wanted():
        return Cancelled(f"nobody waits for the picture any more, after {job.steps_done} of {job.steps} steps")
    return None
