"""The order of work: add jobs, schedule a step, complete it. No torch, no threads; the clock is passed in.

Work is counted in tokens: a step of a job is as much as it has tokens, its whole work is steps times tokens.

Rows of a batch are padded to its longest, so a step computes rows times longest: that is what `Limits.step_tokens`
bounds. Jobs whose rows differ by more than `Limits.max_padding` do not share a step: a step of its own costs a short
job less than the padding would. Padding is not counted as work of a job; it adds at most `max_padding` for each row.

Higher rank goes first, then the job with the least work left, then the one with the least work in all, then the one
that came first. A job's rank is its priority, and one more each time the machine has done `Limits.patience` times the
job's whole work for others since it came; it never falls. A job that runs has ever less work left, so which jobs share
a step changes only when a job comes, leaves or rises.

Why nothing starves: a job that came later can pass a risen one only by having risen itself, so it must have sat in a
queue of bounded length. The first job of the order always runs, whatever shares its step. With p = `patience`, d = the
most by which others' priority is higher, n = `max_jobs` and r = the most work of a step, as a multiple of that of the
first job in it, the machine does for others, before a job is done, at most 2 * (p * (d + 1) + 2 * n * r) times that
job's whole work, and 2 * r times the work that was left in the queue when it came. While others do not rise, which is
as long as the queue is short, it is p * (d + 1) times, and the queue. Where rows have equal lengths, r is at most the
number of rows; where they differ, a row is at most `max_padding` longer than the first job's, so r is bounded as well.
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
    """How much may wait, and how much may share a step."""

    #: Jobs that may wait or run; more are refused.
    max_jobs: int = 64
    #: Tokens of all jobs that may wait or run; more are refused.
    max_tokens: int = 64 * 8192
    #: Jobs that share one step at most.
    max_rows: int = 16
    #: Tokens that one step computes at most, padding included; a job that has more takes its steps alone.
    step_tokens: int = 8192
    #: Tokens by which the rows of a step may differ. A step costs as much as 420 to 460 tokens before it has any row
    #: (tools/flux_tools/simulation/machine.py, of an H100 and of a CPU), so more padding costs more than another step.
    max_padding: int = 512
    #: A job rises by one priority each time the machine has done this many times its whole work for others.
    patience: int = 16


DEFAULT_LIMITS = Limits()
#: Steps after which one that had shrunk to nothing is as large as `Limits.step_tokens` again.
RECOVERY = 512


@dataclass(frozen=True)
class Plan:
    """run: jobs of one group that take their next step together. dropped: jobs that end now, each with its reason."""

    run: tuple[AnyJob, ...]
    dropped: tuple[tuple[AnyJob, FluxError], ...]


class EngineLoad(NamedTuple):
    """Jobs that have taken a step and have more to take, those that have taken none yet, and the tokens of both.

    jobs: what is left of each. room: jobs that would still be accepted, if they had few tokens.
    """

    running: int = 0
    waiting: int = 0
    tokens_running: int = 0
    tokens_waiting: int = 0
    jobs: tuple[JobLeft, ...] = ()
    room: int = 0


class _Place:
    """A job's place in the order; the least `key` goes first."""

    __slots__ = ("arrival", "job", "key", "patience", "rank", "rises_at")

    def __init__(self, job: AnyJob, arrival: int, work_done: int, patience: int) -> None:
        """work_done: tokens that the machine has stepped so far. patience: tokens for others until the rank rises."""
        self.job = job
        self.arrival = arrival
        self.patience = patience
        self.rank = job.priority
        #: The machine's work at which the rank rises next; the job's own steps postpone it.
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
    """rows: of all jobs of a batch. shortest, longest: tokens of the jobs' longest rows."""

    rows: int = 0
    shortest: int | None = None
    longest: int = 0

    @property
    def tokens(self) -> int:
        """What one step computes: every row is padded to the longest."""
        return self.rows * self.longest

    @property
    def padding(self) -> int:
        """Tokens by which rows of two jobs differ at most."""
        return 0 if self.shortest is None else self.longest - self.shortest

    def with_job(self, job: AnyJob) -> _BatchSize:
        row = job.row_tokens
        shortest = row if self.shortest is None else min(self.shortest, row)
        return _BatchSize(self.rows + job.rows, shortest, max(self.longest, row))


def tokens_of_step(jobs: Iterable[AnyJob]) -> int:
    """Tokens that a step of these jobs computes at most, padding included."""
    batch = _BatchSize()
    for job in jobs:
        batch = batch.with_job(job)
    return batch.tokens


class Scheduler:
    """Short jobs first, in steps shared by jobs of one group; see the module's text for the order."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._step_tokens: float = limits.step_tokens
        self._places: dict[AnyJob, _Place] = {}
        self._tokens = 0
        self._arrivals = 0
        #: Tokens that the machine has stepped so far, a token at each step counted.
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
        """All of them or none. Raises Overloaded: there is no room; the message has the length of the queue."""
        limits = self._limits
        if len(self._places) + len(jobs) > limits.max_jobs:
            raise Overloaded(
                f"no room for {len(jobs)} more images: {len(self._places)} are waiting or running, "
                f"at most {limits.max_jobs} may"
            )
        tokens = sum(job.tokens for job in jobs)
        if self._tokens + tokens > limits.max_tokens:
            raise Overloaded(
                f"no room for {len(jobs)} more images of {tokens} tokens: {self._tokens} tokens of "
                f"{len(self._places)} images are waiting or running, at most {limits.max_tokens} may"
            )
        self._tokens += tokens
        for job in jobs:
            patience = limits.patience * job.steps * job.tokens
            self._places[job] = _Place(job, self._arrivals, self._work_done, patience)
            self._arrivals += 1

    def schedule(self, now: float) -> Plan:
        """now: seconds, on the clock of the jobs' deadlines."""
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
        """The first job of the order, and those of its group that still fit, in order.

        A job that does not fit is passed over, because another one behind it may. It will be first itself.
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
        """Count the step that these jobs took. Returns those that have no step left, which leave."""
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
        """A step of this many tokens was too much for the machine: fill at most half of it, and slowly more again.

        Returns the tokens that the next step may have. The first job of the order always runs, so a step never falls
        below one row.
        """
        self._step_tokens = min(self._step_tokens, tokens // 2)
        return int(self._step_tokens)

    def remove(self, jobs: Iterable[AnyJob]) -> None:
        """Jobs that failed leave; those that left before are passed over."""
        for job in jobs:
            if self._places.pop(job, None) is not None:
                self._tokens -= job.tokens

    def drain(self) -> list[AnyJob]:
        """Every job leaves."""
        jobs = list(self._places)
        self.remove(jobs)
        return jobs


def reason_to_drop(job: AnyJob, now: float) -> FluxError | None:
    """Why no more work should go into it. now: as for `schedule`."""
    steps = f"after {job.steps_done} of {job.steps} steps"
    if job.deadline is not None and now >= job.deadline:
        return DeadlineExceeded(f"the request's time ran out {steps}")
    if not job.is_wanted():
        return Cancelled(f"nobody waits for the image any more, {steps}")
    return None
