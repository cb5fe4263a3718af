"""Event loop on a virtual clock: each request arrives, is routed to a GPU, and is either finished or rejected."""

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
    """Return the index of the first GPU with the fewest waiting and running requests."""
    return min(range(len(gpus)), key=lambda index: len(gpus[index]))


def round_robin() -> Route:
    """Return a route that uses the GPUs in turn, regardless of their load."""
    turn = count()
    return lambda gpus, request: next(turn) % len(gpus)


@dataclass
class SimulationOutcome:
    """Result of a simulation run."""

    #: Finished requests and the time at which each finished, in this order.
    finished: list[tuple[SimulatedRequest, float]] = field(default_factory=list)
    refused: list[SimulatedRequest] = field(default_factory=list)
    #: Number of steps or whole batches that the GPUs ran.
    slices: int = 0
    #: Time spent in them, in seconds, summed over the GPUs.
    busy_seconds: float = 0.0


@dataclass(frozen=True)
class Clock:
    """Calls `tick` with the virtual time and the outcome so far, every `interval_s` and before each request."""

    interval_s: float
    tick: Callable[[float, SimulationOutcome], None]


def simulate(
    requests: Iterable[SimulatedRequest],
    gpus: Sequence[Gpu],
    route: Route = least_loaded,
    is_shared: bool = False,
    clock: Clock | None = None,
) -> SimulationOutcome:
    """Run until every request has ended. A request that arrives exactly at the end of a slice can join the next one.

    is_shared: the GPUs share one queue, so a request that is added or a slice that ends may give work to any GPU.
    """
    outcome = SimulationOutcome()
    #: (end, GPU, slice number). A slice whose number is not in `current` is a wait that an arrival cut short.
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
