"""The scheduler, with a clock that the tests control."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from flux_contract.errors import Cancelled, DeadlineExceeded, Overloaded
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import EngineLoad, Limits, Scheduler, tokens_of_step

AnyJob = Job[str, str]


def job(steps: int = 2, **more: object) -> AnyJob:
    return Job(work="work", steps=steps, finish=lambda outcome: None, **more)  # type: ignore[arg-type]


def steps_of(scheduler: Scheduler) -> Iterator[tuple[AnyJob, ...]]:
    """Run steps until no job is left. Yields the jobs of each step."""
    while len(scheduler):
        run = scheduler.schedule(now=0).run
        yield run
        scheduler.complete(run)


def one_row(**more: int) -> Scheduler:
    return Scheduler(Limits(max_rows=1, **more))


# Order of jobs


def test_equal_jobs_run_in_order_of_arrival() -> None:
    scheduler = one_row()
    first, second = job(steps=2), job(steps=2)
    scheduler.add([first])
    scheduler.add([second])
    assert list(steps_of(scheduler)) == [(first,), (first,), (second,), (second,)]


def test_short_job_goes_before_a_long_running_one() -> None:
    scheduler = one_row()
    long, short = job(steps=5), job(steps=2)
    scheduler.add([long])
    scheduler.complete(scheduler.schedule(0).run)
    scheduler.add([short])
    assert list(steps_of(scheduler)) == [(short,)] * 2 + [(long,)] * 4


def test_nearly_finished_job_is_not_interrupted_by_a_longer_one() -> None:
    scheduler = one_row()
    running, other = job(steps=5), job(steps=3)
    scheduler.add([running])
    for _ in range(3):
        scheduler.complete(scheduler.schedule(0).run)
    scheduler.add([other])
    assert list(steps_of(scheduler)) == [(running,)] * 2 + [(other,)] * 3


def test_smaller_job_goes_first_if_remaining_work_is_equal() -> None:
    scheduler = one_row()
    long, short = job(steps=5), job(steps=4)
    scheduler.add([long])
    scheduler.complete(scheduler.schedule(0).run)
    scheduler.add([short])
    assert scheduler.schedule(0).run == (short,)


def test_work_is_steps_times_tokens() -> None:
    scheduler = one_row()
    large, small = job(steps=2, tokens=4000), job(steps=5, tokens=1000)
    scheduler.add([large, small])
    assert scheduler.schedule(0).run == (small,)


def test_higher_priority_goes_first_whatever_the_remaining_work() -> None:
    scheduler = one_row()
    background, usual, interactive = job(1, priority=-1), job(2, priority=0), job(3, priority=1)
    scheduler.add([background, usual, interactive])
    assert list(steps_of(scheduler)) == [(interactive,)] * 3 + [(usual,)] * 2 + [(background,)]


def test_job_rises_each_time_others_got_patience_times_its_work() -> None:
    scheduler = one_row(patience=3)
    waiting = job(steps=2, priority=0)
    scheduler.add([waiting])
    ran = []
    while waiting.steps_done == 0:
        if len(scheduler) == 1:
            scheduler.add([job(steps=1, priority=1)])
        (first,) = scheduler.schedule(0).run
        scheduler.complete([first])
        ran.append(first)
    # After 3 * 2 steps for others, its rank equals theirs, but they are shorter. After 6 more, its rank is higher.
    assert ran.index(waiting) == 12


def test_risen_job_is_not_overtaken_by_later_jobs() -> None:
    scheduler = one_row(patience=4)
    waiting = job(steps=4, priority=0)
    scheduler.add([waiting])
    while waiting.steps_done == 0:
        if len(scheduler) == 1:
            scheduler.add([job(steps=2, priority=1)])
        scheduler.complete(scheduler.schedule(0).run)
    for _ in range(3):
        scheduler.add([job(steps=2, priority=1)])
        assert scheduler.schedule(0).run == (waiting,)
        scheduler.complete([waiting])


# Jobs in one step


def test_jobs_of_one_group_share_a_step_at_their_own_step() -> None:
    scheduler = Scheduler()
    first, second = job(steps=3, group="512"), job(steps=4, group="512")
    scheduler.add([first])
    scheduler.complete(scheduler.schedule(0).run)
    scheduler.add([second])
    assert scheduler.schedule(0).run == (first, second)


def test_jobs_of_different_groups_do_not_share_a_step() -> None:
    scheduler = Scheduler()
    small, large = job(steps=2, group="512"), job(steps=3, group="1024")
    scheduler.add([large, small])
    assert list(steps_of(scheduler)) == [(small,)] * 2 + [(large,)] * 3


def test_rows_and_tokens_of_a_step_are_limited() -> None:
    few_rows = Scheduler(Limits(max_rows=2))
    few_rows.add([job() for _ in range(3)])
    assert len(few_rows.schedule(0).run) == 2
    few_tokens = Scheduler(Limits(step_tokens=2500))
    few_tokens.add([job(tokens=1000) for _ in range(3)])
    assert len(few_tokens.schedule(0).run) == 2


def test_job_larger_than_the_step_limit_runs_alone() -> None:
    scheduler = Scheduler(Limits(step_tokens=2000))
    large, small = job(steps=1, tokens=3000), job(steps=4, tokens=1000)
    scheduler.add([large, small])
    assert scheduler.schedule(0).run == (large,)


def test_job_that_does_not_fit_is_skipped_for_one_that_does() -> None:
    scheduler = Scheduler(Limits(step_tokens=3000))
    first, wide, narrow = job(1, tokens=1500), job(1, tokens=1800), job(5, tokens=1000)
    scheduler.add([first, wide, narrow])
    assert scheduler.schedule(0).run == (first, narrow)


def test_step_tokens_include_padding_to_the_longest_row() -> None:
    scheduler = Scheduler(Limits(step_tokens=4000))
    long, *short = job(1, tokens=1300), *(job(5, tokens=1000) for _ in range(4))
    scheduler.add([long, *short])
    assert scheduler.schedule(0).run == (long, *short[:2])
    assert tokens_of_step(scheduler.schedule(0).run) == 3900


def test_longer_job_does_not_join_if_padding_exceeds_the_limit() -> None:
    scheduler = Scheduler(Limits(step_tokens=4000))
    short, long = [job(1, tokens=1000) for _ in range(3)], job(5, tokens=1300)
    scheduler.add([*short, long])
    assert list(steps_of(scheduler)) == [tuple(short)] + [(long,)] * 5


def test_short_jobs_are_not_padded_to_a_long_context() -> None:
    """One context of 6,000 tokens and seven short ones, which would need 50,048 tokens in a shared step."""
    scheduler = Scheduler(Limits(step_tokens=60_000))
    long, *short = job(2, tokens=6256), *(job(2, tokens=265) for _ in range(7))
    scheduler.add([long, *short])
    assert list(steps_of(scheduler)) == [tuple(short)] * 2 + [(long,)] * 2


def test_both_rows_of_a_job_are_counted_with_padding() -> None:
    scheduler = Scheduler(Limits(step_tokens=4000))
    guided, plain = job(1, tokens=2 * 900, rows=2), [job(5, tokens=1100) for _ in range(3)]
    scheduler.add([guided, *plain])
    # Three rows of 1,100 tokens. Four rows would have 4,400.
    assert scheduler.schedule(0).run == (guided, plain[0])
    assert tokens_of_step(scheduler.schedule(0).run) == 3300


def test_jobs_in_a_step_stay_together_until_one_is_done() -> None:
    scheduler = Scheduler(Limits(max_rows=2))
    jobs = [job(steps=3) for _ in range(4)]
    scheduler.add(jobs)
    assert list(steps_of(scheduler)) == [tuple(jobs[:2])] * 3 + [tuple(jobs[2:])] * 3


def test_step_that_ran_out_of_memory_is_halved_down_to_one_row() -> None:
    scheduler = Scheduler(Limits(step_tokens=8000))
    scheduler.add([job(tokens=1000) for _ in range(8)])
    assert len(scheduler.schedule(0).run) == 8
    for expected in (4, 2, 1, 1, 1):
        scheduler.shrink_step(sum(member.tokens for member in scheduler.schedule(0).run))
        assert len(scheduler.schedule(0).run) == expected


def test_shrunk_step_grows_back_slowly() -> None:
    scheduler = Scheduler(Limits(step_tokens=8000))
    assert scheduler.shrink_step(4000) == 2000
    assert scheduler.shrink_step(6000) == 2000
    scheduler.add([job(steps=1000, tokens=1000) for _ in range(9)])
    rows = []
    for _ in range(500):
        run = scheduler.schedule(0).run
        rows.append(len(run))
        scheduler.complete(run)
    assert rows[:10] == [2] * 10
    assert rows == sorted(rows)
    assert rows[-1] == 8


# Leaving


def test_job_leaves_after_its_last_step() -> None:
    scheduler = Scheduler()
    only = job(steps=2)
    scheduler.add([only])
    assert scheduler.complete(scheduler.schedule(0).run) == []
    assert scheduler.complete(scheduler.schedule(0).run) == [only]
    assert len(scheduler) == 0


def test_jobs_over_the_limit_are_all_rejected() -> None:
    scheduler = Scheduler(Limits(max_jobs=3))
    scheduler.add([job(), job()])
    with pytest.raises(Overloaded, match=r"no room for 2 more images: 2 are waiting or running \(limit 3\)"):
        scheduler.add([job(), job()])
    assert len(scheduler) == 2


def test_jobs_over_the_token_limit_are_all_rejected() -> None:
    scheduler = Scheduler(Limits(max_tokens=3000))
    scheduler.add([job(tokens=2000)])
    with pytest.raises(
        Overloaded, match=r"with 1200 tokens: images with 2000 tokens are waiting or running \(limit 3000\)"
    ):
        scheduler.add([job(tokens=600), job(tokens=600)])
    for _ in steps_of(scheduler):
        pass
    scheduler.add([job(tokens=1500), job(tokens=1500)])
    assert len(scheduler) == 2


def test_waiting_and_running_jobs_and_their_tokens_are_counted() -> None:
    scheduler = one_row()
    scheduler.add([job(tokens=10), job(tokens=20), job(tokens=40)])
    assert scheduler.load[:4] == (0, 3, 0, 70)
    scheduler.complete(scheduler.schedule(0).run)
    assert scheduler.load[:4] == (1, 2, 10, 60)


def test_job_past_its_deadline_is_dropped_before_its_next_step() -> None:
    scheduler = Scheduler()
    late, other = job(deadline=10.0), job()
    scheduler.add([late, other])
    assert late in scheduler.schedule(now=9.9).run
    plan = scheduler.schedule(now=10.0)
    assert plan.run == (other,)
    ((dropped, reason),) = plan.dropped
    assert dropped is late
    assert isinstance(reason, DeadlineExceeded)


def test_deadline_also_applies_to_waiting_jobs() -> None:
    scheduler = one_row()
    running, waiting = job(steps=2), job(steps=9, deadline=1.0)
    scheduler.add([running, waiting])
    plan = scheduler.schedule(now=1.0)
    assert [dropped for dropped, _ in plan.dropped] == [waiting]


def test_cancelled_job_is_dropped() -> None:
    scheduler = Scheduler()
    scheduler.add([job(is_wanted=lambda: False)])
    plan = scheduler.schedule(now=0)
    assert plan.run == ()
    assert isinstance(plan.dropped[0][1], Cancelled)
    assert len(scheduler) == 0


def test_draining_returns_every_job() -> None:
    scheduler = Scheduler(Limits(max_tokens=3))
    jobs = [job(), job(), job()]
    scheduler.add(jobs)
    assert scheduler.drain() == jobs
    assert len(scheduler) == 0
    scheduler.add(jobs)


# Invariants


@pytest.mark.parametrize("seed", range(20))
def test_every_job_ends_once_and_every_step_respects_the_limits(seed: int) -> None:
    chance = random.Random(seed)
    limits = Limits(max_jobs=12, max_tokens=16000, max_rows=chance.choice([1, 3, 16]), step_tokens=2500, patience=4)
    scheduler = Scheduler(limits)
    accepted: list[AnyJob] = []
    ended: list[AnyJob] = []
    gone: set[AnyJob] = set()

    def arrive(now: float) -> None:
        new = [
            job(
                steps=chance.randint(1, 9),
                group=chance.choice("abc"),
                tokens=chance.choice([300, 700, 1100, 3000]) * (rows := chance.choice([1, 1, 1, 2])),
                rows=rows,
                priority=chance.randint(-1, 1),
                deadline=None if chance.random() < 0.8 else now + chance.randint(1, 40),
            )
            for _ in range(chance.randint(1, 4))
        ]
        for member in new:
            member.is_wanted = lambda member=member: member not in gone  # type: ignore[misc]
        before = len(scheduler)
        try:
            scheduler.add(new)
        except Overloaded:
            assert len(scheduler) == before
        else:
            accepted.extend(new)

    for now in range(3000):
        if now < 2000 and chance.random() < 0.4:
            arrive(now)
        plan = scheduler.schedule(now)
        ended += [dropped for dropped, _ in plan.dropped]
        assert len(plan.run) == 1 or sum(member.tokens for member in plan.run) <= limits.step_tokens
        rows = [member.row_tokens for member in plan.run for _ in range(member.rows)]
        if len(plan.run) > 1:
            assert len(rows) * max(rows) <= limits.step_tokens
            assert max(rows) - min(rows) <= limits.max_padding
        assert len(plan.run) <= limits.max_rows
        assert len({member.group for member in plan.run}) <= 1
        assert len(set(plan.run)) == len(plan.run)
        assert plan.run or not len(scheduler), "the machine idles while jobs wait"
        assert len(scheduler) <= limits.max_jobs
        fate = chance.random()
        if fate < 0.02:
            scheduler.remove(plan.run)
            ended += plan.run
        else:
            if fate < 0.06 and plan.run:
                gone.add(chance.choice(plan.run))
            ended += scheduler.complete(plan.run)
        if fate > 0.999:
            ended += scheduler.drain()
    assert len(scheduler) == 0
    assert scheduler.load == EngineLoad(room=scheduler.load.room)
    assert len(accepted) > 100
    assert len(ended) == len(set(ended))
    assert set(ended) == set(accepted)


def steps_until_done(scheduler: Scheduler, job: AnyJob, top_up: Callable[[], None]) -> int:
    """Run until the job is done. Returns the work of other jobs in tokens."""
    others = 0
    while True:
        top_up()
        run = scheduler.schedule(0).run
        others += sum(member.tokens for member in run if member is not job)
        if job in scheduler.complete(run):
            return others


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rows", [1, 4])
def test_no_job_starves_under_an_endless_stream_of_short_urgent_jobs(rows: int, seed: int) -> None:
    chance = random.Random(seed)
    limits = Limits(max_jobs=8, max_rows=rows, patience=4)
    scheduler = Scheduler(limits)
    scheduler.add([job(chance.randint(1, 20), priority=1) for _ in range(7)])
    queued = sum(other.steps for other in scheduler.drain())
    patient = job(steps=20, priority=-1)
    scheduler.add([patient])

    def keep_the_queue_full() -> None:
        while len(scheduler) < limits.max_jobs:
            scheduler.add([job(chance.choice([1, 1, 2, 4]), priority=1)])

    others = steps_until_done(scheduler, patient, keep_the_queue_full)
    bound = 2 * (limits.patience * 3 + 2 * limits.max_jobs * rows) * patient.steps + 2 * rows * queued
    assert others <= bound


@pytest.mark.parametrize("tokens", [265, 900, 6256])
@pytest.mark.parametrize("seed", range(4))
def test_no_context_length_starves_among_urgent_jobs_of_other_lengths(tokens: int, seed: int) -> None:
    """All jobs are of one group. Jobs that are much longer or shorter than the first of a step never join it."""
    chance = random.Random(seed)
    limits = Limits(max_jobs=8, max_tokens=10**6, max_rows=4, patience=4)
    scheduler = Scheduler(limits)
    lengths = [265, 400, 900, 6256]
    scheduler.add([job(chance.randint(1, 20), priority=1, tokens=chance.choice(lengths)) for _ in range(7)])
    queued = sum(other.steps * other.tokens for other in scheduler.drain())
    patient = job(steps=20, priority=-1, tokens=tokens)
    scheduler.add([patient])

    def keep_the_queue_full() -> None:
        while len(scheduler) < limits.max_jobs:
            scheduler.add([job(chance.choice([1, 1, 2, 4]), priority=1, tokens=chance.choice(lengths))])

    others = steps_until_done(scheduler, patient, keep_the_queue_full)
    r = limits.max_rows * (1 + limits.max_padding / min(lengths))
    work = patient.steps * patient.tokens
    assert others <= 2 * (limits.patience * 3 + 2 * limits.max_jobs * r) * work + 2 * r * queued


def test_single_urgent_jobs_delay_a_job_by_patience_times_its_work() -> None:
    scheduler = one_row(patience=5)
    patient = job(steps=6, priority=0)
    scheduler.add([patient])

    def keep_one_urgent_job() -> None:
        if len(scheduler) == 1:
            scheduler.add([job(2, priority=1)])

    # After one rise, its rank equals theirs, but they are shorter. After the second, it goes first.
    assert steps_until_done(scheduler, patient, keep_one_urgent_job) == 2 * 5 * 6


@pytest.mark.parametrize(
    ("rows", "step_seconds"), [(1, lambda rows: rows), (2, lambda rows: rows), (16, lambda rows: 1)]
)
def test_short_job_among_long_ones_takes_at_most_four_times_its_own_time(
    rows: int, step_seconds: Callable[[int], float]
) -> None:
    """Eight jobs with 50 steps, and one with 4 steps that arrives just after one of their steps began."""
    moments = 0
    for steps_before in range(8 * 50):
        scheduler = Scheduler(Limits(max_rows=rows))
        scheduler.add([job(steps=50) for _ in range(8)])
        for _ in range(steps_before):
            scheduler.complete(scheduler.schedule(0).run)
        if not len(scheduler):
            break
        moments += 1
        short = job(steps=4)
        running = scheduler.schedule(0).run
        scheduler.add([short])
        seconds = step_seconds(len(running))
        scheduler.complete(running)
        while short.steps_done < 4:
            run = scheduler.schedule(0).run
            seconds += step_seconds(len(run))
            scheduler.complete(run)
        assert seconds <= 4 * 4 * step_seconds(1), f"after {steps_before} steps"
    assert moments == 400 / min(rows, 8)
