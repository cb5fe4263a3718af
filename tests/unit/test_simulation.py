"""The simulation: every request ends once, the cost model matches its timings, and the policies differ as expected."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flux_serving.scheduling.scheduler import Limits
from flux_tools.simulation import figures
from flux_tools.simulation.instances import IN_TURN, LEAST_WORK, OURS, SMALL_SITE, run_route
from flux_tools.simulation.machine import H100_COMPILED, H100_EAGER, H100_FP8
from flux_tools.simulation.merit import judge
from flux_tools.simulation.policies import POLICIES, OneByOne, Policy, StepBatching
from flux_tools.simulation.simulation import SimulationOutcome, round_robin, simulate
from flux_tools.simulation.workload import Mix, SimulatedRequest, arrivals

pytestmark = pytest.mark.slow

MIX = Mix()


def run(policy: Policy, load: float, gpus: int = 1, count: int = 1000, **more: object) -> SimulationOutcome:
    """Simulate `count` requests. load: 1 is the highest rate that these GPUs can sustain one by one."""
    rate = load * gpus / MIX.mean_solo_seconds(H100_EAGER)
    fleet = [policy(H100_EAGER, Limits()) for _ in range(gpus)]
    return simulate(arrivals(MIX, rate, count, seed=3), fleet, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("load", "gpus"), [(0.5, 1), (1.5, 1), (0.9, 3)])
def test_every_request_ends_once(policy: Policy, load: float, gpus: int) -> None:
    outcome = run(policy, load, gpus)
    ended = [id(request) for request, _ in outcome.finished] + [id(request) for request in outcome.refused]
    assert len(ended) == len(set(ended)) == 1000
    assert all(end > request.arrival for request, end in outcome.finished)
    assert bool(outcome.refused) == (load > 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_request_on_idle_gpu_takes_its_solo_time(policy: Policy) -> None:
    batch_delay = getattr(policy, "delay_seconds", 0.0)
    for request, end in run(policy, load=1e-5).finished:
        solo = request.kind.solo_seconds(H100_EAGER)
        assert solo - 1e-6 <= end - request.arrival <= solo + batch_delay + 1e-6


def test_step_batching_halves_median_latency_at_high_load() -> None:
    by_steps = judge(run(StepBatching, load=0.9), H100_EAGER, gpus=1)
    one_by_one = judge(run(OneByOne, load=0.9), H100_EAGER, gpus=1)
    assert by_steps.p50 < one_by_one.p50 / 2
    assert by_steps.p99_slowdown < one_by_one.p99_slowdown / 4


def test_same_seed_gives_same_outcome() -> None:
    first, second = (judge(run(StepBatching, load=0.9, gpus=2), H100_EAGER, gpus=2) for _ in range(2))
    assert first == second


def test_round_robin_gives_every_gpu_the_same_number_of_requests() -> None:
    rate = 0.9 * 2 / MIX.mean_solo_seconds(H100_EAGER)
    fleet = [OneByOne(H100_EAGER, Limits(max_jobs=10_000)) for _ in range(2)]
    taken = [0, 0]
    route = round_robin()

    def counting(gpus: object, request: SimulatedRequest) -> int:
        index = route(fleet, request)
        taken[index] += 1
        return index

    simulate(arrivals(MIX, rate, 1000, seed=3), fleet, counting)
    assert taken == [500, 500]


def test_placement_beats_least_work_for_small_images_of_many_shapes() -> None:
    slowdown = {
        route: run_route(replace(SMALL_SITE, gpus=2), route, load=1.5, requests=600)["mean_slowdown"]
        for route in (IN_TURN, LEAST_WORK, OURS)
    }
    assert slowdown[OURS] < 0.85 * slowdown[LEAST_WORK] < slowdown[IN_TURN]


@pytest.mark.parametrize(
    ("machine", "timing"),
    [
        (H100_EAGER, figures.H100_EAGER),
        (H100_EAGER, figures.H100_EAGER_OF_8),
        (H100_COMPILED, figures.H100_COMPILED),
        (H100_FP8, figures.H100_FP8),
    ],
)
def test_cost_model_reproduces_its_timings(machine: object, timing: figures.Timing) -> None:
    seconds = machine.step_seconds([timing.tokens] * timing.rows)  # type: ignore[attr-defined]
    assert seconds == pytest.approx(timing.step_seconds)
