"""Three ways to run a GPU: a lock, batches of whole requests, and the scheduler that serves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flux_contract.errors import Overloaded
from flux_serving.scheduling.job import Job, JobLeft
from flux_serving.scheduling.placement import Backlog
from flux_serving.scheduling.scheduler import Limits, Plan, Scheduler
from flux_serving.scheduling.step_costs import StepCosts
from flux_tools.simulation.machine import Machine
from flux_tools.simulation.workload import ImageKind, SimulatedRequest


@dataclass(frozen=True)
class Slice:
    """What a GPU does next without looking up. No members: it waits for more requests."""

    members: Sequence[Any]
    seconds: float


class Gpu(Protocol):
    """One GPU and its queue."""

    def __len__(self) -> int:
        """Requests that wait or run."""

    def offer(self, request: SimulatedRequest) -> bool:
        """Whether there is room for it."""

    def begin(self, now: float) -> Slice | None:
        """None: there is nothing to do."""

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        """The requests that are finished with this slice."""


class _Queued:
    """A server that keeps its waiting requests in the order of their arrival."""

    def __init__(self, machine: Machine, limits: Limits) -> None:
        self._machine = machine
        self._limits = limits
        self._queue: deque[SimulatedRequest] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def offer(self, request: SimulatedRequest) -> bool:
        if len(self) >= self._limits.max_jobs:
            return False
        self._queue.append(request)
        return True


class OneByOne(_Queued):
    """First come, first served, one image at a time: what a lock around the pipeline gives."""

    name = "one by one"

    def begin(self, now: float) -> Slice | None:
        if not self._queue:
            return None
        return Slice((self._queue[0],), self._queue[0].kind.solo_seconds(self._machine))

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        return (self._queue.popleft(),)


class WholeRequests(_Queued):
    """Dynamic batching: requests of one size and step count start together and run to their end.

    The oldest of the highest priority chooses; others like it join from anywhere in the queue, up to a step's rows and
    tokens. A batch that is not full waits until its oldest member has waited for `delay_seconds`.
    """

    name = "whole requests"
    delay_seconds = 0.1

    def __init__(self, machine: Machine, limits: Limits) -> None:
        super().__init__(machine, limits)
        self._running = 0

    def __len__(self) -> int:
        return len(self._queue) + self._running

    def begin(self, now: float) -> Slice | None:
        if not self._queue:
            return None
        first = min(self._queue, key=lambda request: (-request.kind.priority, request.arrival))
        kind = first.kind
        alike = [r for r in self._queue if r.kind.grid == kind.grid and r.kind.steps == kind.steps and r is not first]
        room = max(1, min(self._limits.max_rows, self._limits.step_tokens // kind.tokens))
        batch = [first, *alike[: room - 1]]
        patience = min(request.arrival for request in batch) + self.delay_seconds - now
        if len(batch) < room and patience > 0:
            return Slice((), patience)
        for request in batch:
            self._queue.remove(request)
        self._running = len(batch)
        return Slice(batch, kind.steps * self._machine.step_seconds([kind.tokens] * len(batch)))

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        self._running = 0
        return list(done.members)


class StepBatching:
    """The scheduler of `flux_serving`: a new choice before every step."""

    name = "steps"

    def __init__(self, machine: Machine, limits: Limits, scheduler: Scheduler | None = None) -> None:
        """scheduler: to share between several GPUs; by default each GPU has its own."""
        self._machine = machine
        self._limits = limits
        self._row_seconds: dict[ImageKind, float] = {}
        self._scheduler = Scheduler(limits) if scheduler is None else scheduler
        self._costs = StepCosts()

    def __len__(self) -> int:
        return len(self._scheduler)

    @property
    def backlog(self) -> Backlog:
        """The work of this instance, as it publishes it to the others."""
        load = self._scheduler.load
        return Backlog(load.jobs, self._costs.latest, load.room)

    def offer(self, request: SimulatedRequest) -> bool:
        left = job_left(request.kind)
        job: Job[SimulatedRequest, None] = Job(
            request,
            left.steps,
            _ignore,
            group=left.group,
            group_hash=left.group,
            tokens=left.tokens,
            priority=left.priority,
        )
        try:
            self._scheduler.add([job])
        except Overloaded:
            return False
        return True

    def begin(self, now: float) -> Slice | None:
        run = self._scheduler.schedule(now).run
        if not run:
            return None
        seconds = self._machine.overhead
        for job in run:
            seconds += self._row(job.work.kind)
        self._costs.observe(sum(job.tokens for job in run), seconds)
        return Slice(run, seconds)

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        return [job.work for job in self._scheduler.complete(done.members)]

    def _row(self, kind: ImageKind) -> float:
        if kind not in self._row_seconds:
            self._row_seconds[kind] = self._machine.row_seconds(kind.tokens)
        return self._row_seconds[kind]


class OneQueue(Scheduler):
    """One queue for several GPUs: the ideal case. At every step a GPU takes jobs that no other GPU is running, so jobs
    move between GPUs at no cost.
    """

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._away: dict[Job[Any, Any], Any] = {}

    def __len__(self) -> int:
        return len(self._places) + len(self._away)

    def schedule(self, now: float) -> Plan:
        plan = super().schedule(now)
        self._away.update((job, self._places.pop(job)) for job in plan.run)
        return plan

    def complete(self, ran: Sequence[Job[Any, Any]]) -> list[Job[Any, Any]]:
        self._places.update((job, self._away.pop(job)) for job in ran)
        return super().complete(ran)


def job_left(kind: ImageKind) -> JobLeft:
    return JobLeft(hash(kind.grid) & 0xFFFF_FFFF, kind.tokens, kind.steps, kind.priority)


def _ignore(outcome: object) -> None:
    """The simulation reads what finished from `complete`."""


Policy = type[OneByOne] | type[WholeRequests] | type[StepBatching]
POLICIES: tuple[Policy, ...] = (OneByOne, WholeRequests, StepBatching)
