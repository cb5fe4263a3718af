"""The virtual clock: requests arrive, are routed to a GPU, and end exactly once, finished or refused."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

from flux_tools.simulation.policies import Gpu, Slice
from flux_tools.simulation.workload import SimulatedRequest

#: Chooses a GPU for a request.
Route = Callable[[Sequence[Gpu], SimulatedRequest], int]


def least_loaded(gpus: Sequence[Gpu], request: SimulatedRequest) -> int:
    """The GPU with the fewest requests waiting or running; the first of several."""
    return min(range(len(gpus)), key=lambda index: len(gpus[index]))


def round_robin() -> Route:
    """One after another, whatever they have to do."""
    turn = count()
    return lambda gpus, request: next(turn) % len(gpus)


@dataclass
class SimulationOutcome:
    """How every request ended."""

    #: Requests that were answered, and when, in the order in which they were.
    finished: list[tuple[SimulatedRequest, float]] = field(default_factory=list)
    refused: list[SimulatedRequest] = field(default_factory=list)
    #: Steps, or whole batches, that the GPUs ran.
    slices: int = 0
    #: Seconds that the GPUs ran them, all together.
    busy_seconds: float = 0.0


@dataclass(frozen=True)
class Clock:
    """Calls `tick` with the virtual time and what has happened so far: every `interval_s`, and before each request."""

    interval_s: float
    tick: Callable[[float, SimulationOutcome], None]


def simulate(
    requests: Iterable[SimulatedRequest],
    gpus: Sequence[Gpu],
    route: Route = least_loaded,
    is_shared: bool = False,
    clock: Clock | None = None,
) -> SimulationOutcome:
    """Run until every request has ended. An arrival at the very end of a slice is seen by the next one.

    is_shared: the GPUs have one queue, so that what one offers or ends may be work for each of them.
    """
    outcome = SimulationOutcome()
    #: (end, GPU, number); a number that is no longer the GPU's own is a wait that an arrival cut short.
    ends: list[tuple[float, int, int]] = []
    current: list[tuple[int, Slice] | None] = [None] * len(gpus)
    numbers = count()

    def begin(index: int, now: float) -> None:
        task = gpus[index].begin(now)
        if task is None:
            current[index] = None
            return
        number = next(numbers)
        current[index] = number, task
        heapq.heappush(ends, (now + task.seconds, index, number))

    def begin_idle(now: float) -> None:
        for index, running in enumerate(current):
            if running is None:
                begin(index, now)

    def run_until(time: float) -> None:
        while ends and ends[0][0] < time:
            now, index, number = heapq.heappop(ends)
            running = current[index]
            if running is None or running[0] != number:
                continue
            task = running[1]
            if task.members:
                outcome.slices += 1
                outcome.busy_seconds += task.seconds
                outcome.finished.extend((request, now) for request in gpus[index].end(task))
            begin(index, now)
            if is_shared:
                begin_idle(now)

    ticked = 0.0
    for request in requests:
        while clock is not None and ticked + clock.interval_s < request.arrival:
            ticked += clock.interval_s
            run_until(ticked)
            clock.tick(ticked, outcome)
        run_until(request.arrival)
        if clock is not None:
            clock.tick(request.arrival, outcome)
        index = route(gpus, request)
        if not gpus[index].offer(request):
            outcome.refused.append(request)
            continue
        running = current[index]
        if is_shared:
            begin_idle(request.arrival)
        elif running is None or not running[1].members:
            begin(index, request.arrival)
    run_until(float("inf"))
    return outcome
