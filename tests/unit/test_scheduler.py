"""The scheduler, on a clock that the test turns."""

from __future__ import annotations

import pytest

from flux_serving.errors import Cancelled, DeadlineExceeded, Overloaded
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Scheduler


def job(steps: int = 2, **more: object) -> Job[str, str]:
    return Job(work="work", steps=steps, finish=lambda outcome: None, **more)  # type: ignore[arg-type]


def test_jobs_run_one_after_another_in_the_order_they_came() -> None:
    scheduler = Scheduler(capacity=8)
    first, second = job(steps=2), job(steps=1)
    scheduler.add([first])
    scheduler.add([second])
    ran = []
    while len(scheduler):
        plan = scheduler.schedule(now=0)
        ran += plan.run
        scheduler.complete(plan.run)
    assert ran == [first, first, second]


def test_a_job_leaves_after_its_last_step() -> None:
    scheduler = Scheduler(capacity=8)
    only = job(steps=2)
    scheduler.add([only])
    assert scheduler.complete(scheduler.schedule(0).run) == []
    assert scheduler.complete(scheduler.schedule(0).run) == [only]
    assert len(scheduler) == 0


def test_jobs_over_the_capacity_are_refused_all_together() -> None:
    scheduler = Scheduler(capacity=3)
    scheduler.add([job(), job()])
    with pytest.raises(Overloaded, match="no room for 2 more images: 2 are waiting or running, at most 3 may"):
        scheduler.add([job(), job()])
    assert len(scheduler) == 2


def test_a_job_whose_deadline_passed_is_dropped_before_its_next_step() -> None:
    scheduler = Scheduler(capacity=8)
    late, other = job(deadline=10.0), job()
    scheduler.add([late, other])
    assert scheduler.schedule(now=9.9).run == (late,)
    plan = scheduler.schedule(now=10.0)
    assert plan.run == (other,)
    ((dropped, reason),) = plan.dropped
    assert dropped is late
    assert isinstance(reason, DeadlineExceeded)


def test_a_job_that_nobody_wants_any_more_is_dropped() -> None:
    scheduler = Scheduler(capacity=8)
    scheduler.add([job(is_wanted=lambda: False)])
    plan = scheduler.schedule(now=0)
    assert plan.run == ()
    assert isinstance(plan.dropped[0][1], Cancelled)
    assert len(scheduler) == 0
