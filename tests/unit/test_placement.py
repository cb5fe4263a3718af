"""Placement: the choice of an instance for a request, by the cost of the request and the delay of other jobs."""

from __future__ import annotations

import pytest

from flux_serving.scheduling.job import JobLeft
from flux_serving.scheduling.placement import Backlog, added_delay_s, choose_instance, seconds_left
from flux_serving.scheduling.scheduler import Limits
from flux_serving.scheduling.step_costs import Costs, StepCosts

LIMITS = Limits(max_rows=16, step_tokens=8192)
#: The overhead equals the cost of 1000 tokens.
COSTS = Costs(overhead_s=1.0, token_s=0.001)
SMALL, LARGE = 1, 2


def small(steps: int = 10) -> JobLeft:
    return JobLeft(SMALL, tokens=10, steps=steps)


def large(steps: int = 10) -> JobLeft:
    return JobLeft(LARGE, tokens=5000, steps=steps)


def backlog(*jobs: JobLeft, room: int = 64, costs: Costs | None = COSTS) -> Backlog:
    return Backlog(jobs, costs, room)


def chosen(new: JobLeft, images: int = 1, **backlogs: Backlog) -> str:
    """Returns the instance that `a` chooses."""
    return choose_instance("a", backlogs, [new] * images, LIMITS)


def test_idle_instance_gets_a_large_image() -> None:
    assert chosen(large(), a=backlog(large()), b=backlog()) == "b"
    assert chosen(large(), a=backlog(), b=backlog(large())) == "a"


def test_request_stays_if_instances_are_equal() -> None:
    assert chosen(large(), a=backlog(), b=backlog()) == "a"
    assert chosen(small(), a=backlog(small()), b=backlog(small())) == "a"


def test_small_image_joins_its_group_rather_than_delay_others() -> None:
    other_size = JobLeft(3, tokens=12, steps=10)
    assert chosen(small(), a=backlog(other_size), b=backlog(small())) == "b"
    assert chosen(small(), a=backlog(large()), b=backlog(small(), small())) == "b"


def test_large_image_avoids_a_longer_queue_of_its_group() -> None:
    assert chosen(large(), a=backlog(large(), large()), b=backlog(JobLeft(3, 5000, 10))) == "b"


def test_slow_instance_gets_less_work() -> None:
    slow = Costs(3.0, 0.003)
    assert chosen(large(), a=backlog(costs=slow), b=backlog()) == "b"
    assert chosen(large(), a=backlog(costs=slow), b=backlog(large())) == "b"
    assert chosen(large(), a=backlog(costs=slow), b=backlog(*[large()] * 3)) == "a"


def test_instances_with_similar_costs_count_as_equally_fast() -> None:
    slower = Costs(1.3, 0.0013)
    assert chosen(large(), a=backlog(large()), b=backlog(costs=slower)) == "b"
    assert chosen(small(), a=backlog(small()), b=backlog(costs=slower)) == "b"


def test_instance_without_steps_counts_as_equally_fast() -> None:
    much_faster_than_assumed = Costs(1e-4, 1e-7)
    assert chosen(large(), a=backlog(large(), costs=much_faster_than_assumed), b=backlog(costs=None)) == "b"
    assert chosen(large(), a=backlog(large(), costs=None), b=backlog(costs=None)) == "b"


def test_costs_are_unknown_without_recent_steps() -> None:
    costs = StepCosts()
    assert costs.latest is None
    costs.observe(1000, 0.25)
    assert costs.latest is not None
    costs.forget()
    assert costs.latest is None


def test_instance_without_room_for_the_whole_request_is_excluded() -> None:
    assert chosen(large(), images=4, a=backlog(*[large()] * 3), b=backlog(room=3)) == "a"
    assert chosen(large(), images=3, a=backlog(*[large()] * 3), b=backlog(room=3)) == "b"
    assert chosen(large(), a=backlog(room=0), b=backlog(*[large()] * 9, room=1)) == "b"


def test_request_stays_if_no_instance_has_room() -> None:
    assert chosen(large(), a=backlog(room=0), b=backlog(room=0)) == "a"


def test_delay_includes_the_new_job_and_all_other_jobs() -> None:
    new = small(steps=10)
    alone_s = 10 * (1.0 + 0.01)
    assert added_delay_s(backlog(), new, LIMITS) == pytest.approx(alone_s)
    # A job of the same group: each makes ten steps of the other longer by ten tokens.
    assert added_delay_s(backlog(small(steps=30)), new, LIMITS) == pytest.approx(alone_s + 10 * 0.001 * 20)
    # A longer job of another group waits for the new job. The new job waits for a shorter one.
    assert added_delay_s(backlog(large()), new, LIMITS) == pytest.approx(2 * alone_s)
    shorter = JobLeft(3, tokens=10, steps=2)
    assert added_delay_s(backlog(shorter), new, LIMITS) == pytest.approx(alone_s + 2 * 1.01)


def test_job_with_higher_priority_goes_first() -> None:
    urgent = JobLeft(LARGE, 5000, 10, priority=1)
    assert urgent.goes_before(small())
    assert added_delay_s(backlog(urgent), small(), LIMITS) == pytest.approx(10 * 1.01 + 10 * (1 + 5))


def test_remaining_work_counts_shared_steps_once() -> None:
    assert seconds_left([], COSTS, LIMITS) == 0
    assert seconds_left([small(10), small(5)], COSTS, LIMITS) == pytest.approx(10 + 0.15)
    assert seconds_left([small(10), large(10)], COSTS, LIMITS) == pytest.approx(20 + 0.1 + 50)
    # 32 rows fill two steps of 16.
    assert seconds_left([small(10)] * 32, COSTS, LIMITS) == pytest.approx(20 + 3.2)


def test_costs_are_learned_from_steps_of_different_sizes() -> None:
    costs = StepCosts()
    for tokens in (50, 500, 4000) * 40:
        costs.observe(tokens, 0.02 + 3e-5 * tokens)
    assert costs.latest is not None
    assert costs.latest.overhead_s == pytest.approx(0.02, rel=0.05)
    assert costs.latest.token_s == pytest.approx(3e-5, rel=0.05)


def test_costs_fitted_to_equal_steps_predict_them() -> None:
    costs = StepCosts()
    for _ in range(50):
        costs.observe(1000, 0.25)
    assert costs.latest is not None
    overhead_s, token_s = costs.latest
    assert overhead_s + 1000 * token_s == pytest.approx(0.25, rel=0.02)
    assert overhead_s > 0


def test_costs_adapt_when_the_machine_becomes_slower() -> None:
    costs = StepCosts()
    for seconds in [0.1] * 300 + [0.4] * 300:
        costs.observe(1000, seconds)
    assert costs.latest is not None
    overhead_s, token_s = costs.latest
    assert overhead_s + 1000 * token_s == pytest.approx(0.4, rel=0.05)


def test_costs_are_never_negative() -> None:
    costs = StepCosts()
    for tokens, seconds in [(4000, 0.01), (50, 0.5)] * 20:
        costs.observe(tokens, seconds)
    assert min(costs.latest) > 0
