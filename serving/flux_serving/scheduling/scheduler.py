"""Step scheduler: decides which jobs run in the next denoising step. No torch, no threads; the clock is passed in.

Work is counted in tokens: one step of a job counts its tokens, and its total work is steps times tokens.

All rows of a batch are padded to the longest row, so a step computes the number of rows times the longest row.
`Limits.step_tokens` bounds this product. Jobs whose rows differ by more than `Limits.max_padding` do not share a step:
a separate step costs a short job less than the padding. Padding does not count as a job's work; it adds at most
`max_padding` tokens per row.

Jobs run in this order: higher rank, then less remaining work, then less total work, then earlier arrival. A job's rank
starts at its priority and never falls. It rises by 1 each time the machine has done `Limits.patience` times the job's
total work for other jobs since it arrived. The remaining work of a running job only falls, so the set of jobs in a step
changes only when a job arrives, leaves or rises in rank.

No job starves. A later job can overtake a job whose rank has risen only if its own rank has risen too, that is, after
waiting in a queue of bounded length. The first job in the order always runs, whichever jobs share its step. Let
p = `patience`, d = the largest amount by which the priority of others is higher, n = `max_jobs`, and r = the largest
work of a step, as a multiple of the work of its first job. Until a job is done, the machine does at most
2 * (p * (d + 1) + 2 * n * r) times that job's total work for others, plus 2 * r times the work left in the queue when
it arrived. While no other job rises, that is, while the queue is short, it is only p * (d + 1) times, plus the queue.
If rows have equal lengths, r is at most the number of rows. If not, a row is at most `max_padding` longer than the
first job's rows, so r is bounded as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from flux_contract.errors import Cancelled, DeadlineExceeded, FluxError, Overloaded
from flux_serving.scheduling.job import Job, JobLeft

AnyJob = Job[Any, Any]


@dataclass(frozen=True)
class Limits:
    """Limits of the queue and of a step."""

    #: Maximum number of waiting and running jobs. More are rejected.
    max_jobs: int = 64
    #: Maximum number of tokens of all waiting and running jobs. More are rejected.
    max_tokens: int = 64 * 8192
    #: Maximum number of jobs in one step.
    max_rows: int = 16
    #: Maximum number of tokens computed in one step, padding included. A job with more tokens runs its steps alone.
    step_tokens: int = 8192
    #: Maximum difference between the rows of a step in tokens. The overhead of a step is as large as 420 to 460 tokens
    #: (tools/flux_tools/simulation/machine.py, for an H100 and a CPU), so more padding costs more than another step.
    max_padding: int = 512
    #: A job rises by one rank each time the machine has done this multiple of its total work for others.
    patience: int = 16


DEFAULT_LIMITS = Limits()
#: Number of steps in which the limit on step tokens grows from 0 back to `Limits.step_tokens`.
RECOVERY = 512


@dataclass(frozen=True)
class Plan:
    """The next step. run: jobs of one group that run it together. dropped: jobs that end now, each with its error."""

    run: tuple[AnyJob, ...]
    dropped: tuple[tuple[AnyJob, FluxError], ...]


class EngineLoad(NamedTuple):
    """The number of running jobs (at least one step done) and waiting jobs (no step done), and their tokens.

    jobs: the remaining work of each. room: number of further jobs that would be accepted, if they had few tokens.
    """

    running: int = 0
    waiting: int = 0
    tokens_running: int = 0
    tokens_waiting: int = 0
    jobs: tuple[JobLeft, ...] = ()
    room: int = 0


class _Place:
    """A job's place in the order. The job with the smallest `key` runs first."""

    __slots__ = ("arrival", "job", "key", "patience", "rank", "rises_at")

    def __init__(self, job: AnyJob, arrival: int, work_done: int, patience: int) -> None:
        """work_done: the machine's work so far. patience: work for other jobs until the rank rises. Both in tokens."""
        self.job = job
        self.arrival = arrival
        self.patience = patience
        self.rank = job.priority
        #: Value of the machine's work at which the rank rises next. The job's own steps postpone it.
        self.rises_at = work_done + patience
        self.rekey()

    def rise(self, work_done: int) -> None:
        risen = 1 + (work_done - self.rises_at) // self.patience
        self.rank += risen
        self.rises_at += risen * self.patience
        self.rekey()

    def rekey(self) -> None:
        job = self.job
        work_left = (job.steps - job.steps_done) * job.tokens
        self.key = (-self.rank, work_left, job.steps * job.tokens, self.arrival)


_key = attrgetter("key")


class _BatchSize(NamedTuple):
    """The size of a batch. rows: of all jobs. shortest, longest: minimum and maximum of the jobs' `row_tokens`."""

    rows: int = 0
    shortest: int | None = None
    longest: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that one step computes: every row is padded to the longest."""
        return self.rows * self.longest

    @property
    def padding(self) -> int:
        """Largest difference between the rows of two jobs in tokens."""
        return 0 if self.shortest is None else self.longest - self.shortest

    def with_job(self, job: AnyJob) -> _BatchSize:
        row = job.row_tokens
        shortest = row if self.shortest is None else min(self.shortest, row)
        return _BatchSize(self.rows + job.rows, shortest, max(self.longest, row))


def tokens_of_step(jobs: Iterable[AnyJob]) -> int:
    """Returns the number of tokens that a step of these jobs computes at most, padding included."""
    batch = _BatchSize()
    for job in jobs:
        batch = batch.with_job(job)
    return batch.tokens


class Scheduler:
    """The queue of waiting and running jobs. The module's docstring describes the order."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._step_tokens: float = limits.step_tokens
        self._places: dict[AnyJob, _Place] = {}
        self._tokens = 0
        self._arrivals = 0
        #: The machine's work so far: the sum over all steps of their jobs' tokens.
        self._work_done = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def load(self) -> EngineLoad:
        jobs = tuple(self._places)
        running = [job.tokens for job in jobs if job.steps_done > 0]
        waiting = [job.tokens for job in jobs if job.steps_done == 0]
        room = 0 if self._tokens >= self._limits.max_tokens else self._limits.max_jobs - len(jobs)
        return EngineLoad(len(running), len(waiting), sum(running), sum(waiting), tuple(job.left for job in jobs), room)

    def add(self, jobs: Sequence[AnyJob]) -> None:
        """Add all of these jobs, or none. Raises Overloaded: there is no room for all of them."""
        limits = self._limits
        more = f"no room for {len(jobs)} more image{'s' * (len(jobs) != 1)}"
        if len(self._places) + len(jobs) > limits.max_jobs:
            raise Overloaded(f"{more}: {len(self._places)} are waiting or running (limit {limits.max_jobs})")
        tokens = sum(job.tokens for job in jobs)
        if self._tokens + tokens > limits.max_tokens:
            raise Overloaded(
                f"{more} with {tokens} tokens: images with {self._tokens} tokens are waiting or running "
                f"(limit {limits.max_tokens})"
            )
        self._tokens += tokens
        for job in jobs:
            patience = limits.patience * job.steps * job.tokens
            self._places[job] = _Place(job, self._arrivals, self._work_done, patience)
            self._arrivals += 1

    def schedule(self, now: float) -> Plan:
        """Choose the jobs of the next step, and drop jobs that timed out or were cancelled.

        now: seconds, on the clock of the jobs' deadlines.
        """
        work_done = self._work_done
        dropped: list[tuple[AnyJob, FluxError]] = []
        for place in self._places.values():
            job = place.job
            if (reason := reason_to_drop(job, now)) is not None:
                dropped.append((job, reason))
            elif work_done >= place.rises_at:
                place.rise(work_done)
        self.remove(job for job, _ in dropped)
        return Plan(run=self._fill_step(), dropped=tuple(dropped))

    def _fill_step(self) -> tuple[AnyJob, ...]:
        """Returns the first job in the order, and further jobs of its group that fit into the step, in order.

        If a job does not fit, later jobs can still fit. A skipped job eventually becomes the first.
        """
        if not self._places:
            return ()
        order = sorted(self._places.values(), key=_key)
        first = order[0].job
        run, batch = [first], _BatchSize().with_job(first)
        for place in order:
            if len(run) == self._limits.max_rows:
                break
            job = place.job
            if job.group == first.group and job is not first:
                larger = batch.with_job(job)
                if larger.tokens <= self._step_tokens and larger.padding <= self._limits.max_padding:
                    run.append(job)
                    batch = larger
        return tuple(run)

    def complete(self, ran: Sequence[AnyJob]) -> list[AnyJob]:
        """Count the step that these jobs ran. Removes and returns the jobs that have no step left."""
        limit = self._limits.step_tokens
        self._step_tokens = min(limit, self._step_tokens + limit / RECOVERY)
        finished = []
        for job in ran:
            self._work_done += job.tokens
            place = self._places[job]
            job.steps_done += 1
            place.rises_at += job.tokens
            place.rekey()
            if job.steps_done >= job.steps:
                finished.append(job)
        self.remove(finished)
        return finished

    def shrink_step(self, tokens: int) -> int:
        """Limit the next steps to half of this many tokens, because a step of this size ran out of memory.

        The limit grows back slowly. Returns the new limit in tokens. The first job in the order always runs, even if it
        exceeds the limit.
        """
        self._step_tokens = min(self._step_tokens, tokens // 2)
        return int(self._step_tokens)

    def remove(self, jobs: Iterable[AnyJob]) -> None:
        """Remove these jobs. Jobs that are already removed are ignored."""
        for job in jobs:
            if self._places.pop(job, None) is not None:
                self._tokens -= job.tokens

    def drain(self) -> list[AnyJob]:
        """Remove and return all jobs."""
        jobs = list(self._places)
        self.remove(jobs)
        return jobs


def reason_to_drop(job: AnyJob, now: float) -> FluxError | None:
    """Returns an error if the job timed out or was cancelled. now: as for `Scheduler.schedule`."""
    steps = f"after {job.steps_done} of {job.steps} steps"
    if job.deadline is not None and now >= job.deadline:
        return DeadlineExceeded(f"the request timed out {steps}")
    if not job.is_wanted():
        return Cancelled(f"request cancelled by the client {steps}")
    return None
