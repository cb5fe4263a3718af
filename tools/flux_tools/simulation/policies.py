"""Three ways to run a GPU: one request at a time, batches of whole requests, and this server's scheduler."""

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
    """Uninterruptible work of a GPU. Without members, the GPU waits for more requests."""

    members: Sequence[Any]
    seconds: float


class Gpu(Protocol):
    """One GPU and its queue."""

    def __len__(self) -> int:
        """Return the number of requests that wait or run."""

    def offer(self, request: SimulatedRequest) -> bool:
        """Queue the request. Return False if the queue is full."""

    def begin(self, now: float) -> Slice | None:
        """Return the next slice, or None if there is no work."""

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        """Return the requests that this slice finished."""


class _Queued:
    """Base of the policies that queue requests in the order of arrival."""

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
    """First come, first served, one image at a time, as with a lock around a pipeline."""

    name = "one by one"

    def begin(self, now: float) -> Slice | None:
        if not self._queue:
            return None
        return Slice((self._queue[0],), self._queue[0].kind.solo_seconds(self._machine))

    def end(self, done: Slice) -> Sequence[SimulatedRequest]:
        return (self._queue.popleft(),)


class WholeRequests(_Queued):
    """Dynamic batching: requests of the same size and step count start together and run to the end.

    A batch starts with the oldest request of the highest priority. Requests of the same kind join from anywhere in the
    queue, up to a step's maximum rows and tokens. A batch that is not full waits until its oldest member has waited for
    `delay_seconds`.
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
    """The scheduler of `flux_serving`, which chooses the rows of every step."""

    name = "steps"

    def __init__(self, machine: Machine, limits: Limits, scheduler: Scheduler | None = None) -> None:
        """scheduler: shared between several GPUs; by default each GPU has its own."""
        self._machine = machine
        self._limits = limits
        self._row_seconds: dict[ImageKind, float] = {}
        self._scheduler = Scheduler(limits) if scheduler is None else scheduler
        self._costs = StepCosts()

    def __len__(self) -> int:
        return len(self._scheduler)

    @property
    def backlog(self) -> Backlog:
        """The remaining work of this instance, as it publishes it to the others."""
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
    """One queue for several GPUs: the ideal case, in which jobs move between GPUs at no cost.

    At every step a GPU runs jobs that no other GPU is running.
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
    """Ignore the outcome: the simulation gets finished jobs from `complete`."""


Policy = type[OneByOne] | type[WholeRequests] | type[StepBatching]
POLICIES: tuple[Policy, ...] = (OneByOne, WholeRequests, StepBatching)
