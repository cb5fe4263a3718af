"""The engine: every job ends exactly once, whatever happens to it or to other jobs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from flux_contract.errors import Cancelled, FluxError, GenerationFailed, Overloaded
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.observer import Observer
from flux_serving.scheduling.scheduler import EngineLoad, Limits, Scheduler


class Letters:
    """A runner that appends a letter to the work at each step.

    Work named `bad` makes its step fail, `nan` fails alone, and `unfinishable` has no result. room: maximum number of
    works in one step. gate, finishing: while cleared, steps and results wait. steps: names of the works of each step.
    """

    def __init__(self, room: int = 99) -> None:
        self.room = room
        self.steps: list[list[str]] = []
        self.result_calls = 0
        self.gate, self.finishing = threading.Event(), threading.Event()
        self.gate.set()
        self.finishing.set()

    def step(self, batch: Sequence[list[str]]) -> list[FluxError | None]:
        assert self.gate.wait(10)
        self.steps.append([work[0] for work in batch])
        if len(batch) > self.room:
            raise MemoryError("no room")
        if any(work[0] == "bad" for work in batch):
            raise ValueError("no")
        for work in batch:
            work.append("x")
        return [GenerationFailed("not a number") if work[0] == "nan" else None for work in batch]

    def tokens(self, batch: Sequence[list[str]]) -> int:
        return len(batch) * max(len(work[0]) for work in batch)

    def results(self, works: Sequence[list[str]]) -> list[str]:
        self.result_calls += 1
        assert self.finishing.wait(10)
        if any(work[0] == "unfinishable" for work in works):
            raise ValueError("no")
        return ["".join(work) for work in works]

    def results_at_once(self, work: list[str]) -> int:
        return 4

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


class Answers:
    """Creates jobs and collects their outcomes."""

    def __init__(self, expected: int) -> None:
        self.outcomes: list[tuple[str, object]] = []
        self._left = expected
        self._done = threading.Event()

    def job(self, name: str, steps: int = 2, **more: object) -> Job[list[str], str]:
        def finish(outcome: object) -> None:
            self.outcomes.append((name, outcome))
            self._left -= 1
            if self._left == 0:
                self._done.set()

        return Job([name], steps, finish, **more)  # type: ignore[arg-type]

    def wait(self) -> dict[str, object]:
        assert self._done.wait(10)
        assert len(dict(self.outcomes)) == len(self.outcomes), "a job ended twice"
        return dict(self.outcomes)


def test_each_job_gets_its_own_result() -> None:
    answers = Answers(2)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job("a", 1), answers.job("b", 3)])
    assert answers.wait() == {"a": "ax", "b": "bxxx"}
    engine.close()


@pytest.mark.parametrize("bad", ["bad", "unfinishable", "nan"])
def test_failing_job_does_not_affect_other_jobs(bad: str) -> None:
    answers = Answers(3)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8, max_rows=1)))
    engine.submit([answers.job("a"), answers.job(bad), answers.job("b")])
    outcomes = answers.wait()
    assert outcomes["a"] == "axx"
    assert outcomes["b"] == "bxx"
    assert isinstance(outcomes[bad], GenerationFailed)
    engine.close()


def test_out_of_memory_step_is_retried_job_by_job_and_later_steps_are_smaller() -> None:
    runner, answers = Letters(room=2), Answers(4)
    runner.gate.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8, step_tokens=4)))
    engine.submit([answers.job(name, 3) for name in "abcd"])
    runner.gate.set()
    assert answers.wait() == {name: f"{name}xxx" for name in "abcd"}
    assert [len(step) for step in runner.steps].count(4) == 1
    engine.close()


def test_steps_continue_while_a_finished_job_waits_for_its_result() -> None:
    runner, answers = Letters(), Answers(2)
    runner.finishing.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job("a", 1), answers.job("b", 50)])
    for _ in range(1000):
        if sum("b" in step for step in runner.steps) == 50:
            break
        threading.Event().wait(0.01)
    assert answers.outcomes == []
    assert sum("b" in step for step in runner.steps) == 50
    runner.finishing.set()
    assert len(answers.wait()) == 2
    engine.close()


def test_errands_run_during_steps_and_are_rejected_over_the_limit() -> None:
    runner, answers = Letters(), Answers(1)
    runner.finishing.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))
    ran = threading.Semaphore(0)
    engine.run_aside(lambda: runner.finishing.wait(10))
    accepted = [engine.run_aside(ran.release) for _ in range(20)]
    assert True in accepted
    assert False in accepted
    engine.submit([answers.job("a", 3)])
    runner.finishing.set()
    assert answers.wait() == {"a": "axxx"}
    for _ in range(sum(accepted)):
        assert ran.acquire(timeout=10)
    engine.close()
    assert not engine.run_aside(ran.release)


def test_finished_job_waits_at_most_for_the_running_errand() -> None:
    """Four jobs queue an errand at every step, as VAE previews do, next to a job with one step."""
    runner, answers = Letters(), Answers(5)
    events: list[str] = []
    began, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def errand() -> None:
        began.release()
        assert may_end.acquire(timeout=10)
        events.append("errand")

    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))

    def queue_errand() -> None:
        engine.run_aside(errand)

    queue_errand()
    assert began.acquire(timeout=10)
    short = answers.job("short", 1)
    answer = short.finish
    short.finish = lambda outcome: (events.append("answer"), answer(outcome))  # type: ignore[assignment]
    engine.submit([short, *(answers.job(name, 30, on_step=queue_errand) for name in "abcd")])
    # One errand runs, the errand queue is full, and the short job has been waiting for its result since the first step.
    for _ in range(1000):
        if len(runner.steps) == 30:
            break
        threading.Event().wait(0.01)
    assert events == []
    may_end.release(200)
    answers.wait()
    engine.close()
    assert events[:2] == ["errand", "answer"]


def test_failure_other_than_out_of_memory_does_not_shrink_steps() -> None:
    runner, answers = Letters(), Answers(3)
    runner.gate.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job(name) for name in ("bad", "a", "b")])
    runner.gate.set()
    answers.wait()
    assert runner.steps[-1] == ["a", "b"]
    engine.close()


def test_closing_still_finishes_jobs_without_steps_left() -> None:
    runner, answers = Letters(), Answers(2)
    runner.finishing.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job("a", 1)])
    while not runner.result_calls:
        threading.Event().wait(0.01)
    engine.submit([answers.job("b", 1, group="another")])
    while len(runner.steps) < 2:
        threading.Event().wait(0.01)
    closer = threading.Thread(target=engine.close)
    closer.start()
    runner.finishing.set()
    closer.join(10)
    assert answers.wait() == {"a": "ax", "b": "bx"}


def test_on_accepted_is_called_before_the_first_step() -> None:
    runner, answers = Letters(), Answers(2)
    engine = Engine(runner, Scheduler(Limits(max_jobs=2)))
    steps_at_calls: list[int] = []
    runner.gate.clear()
    engine.submit([answers.job("a"), answers.job("b")], on_accepted=lambda: steps_at_calls.append(len(runner.steps)))
    with pytest.raises(Overloaded):
        engine.submit([Job(["c"], 1, print)], on_accepted=lambda: steps_at_calls.append(-1))
    runner.gate.set()
    answers.wait()
    assert steps_at_calls == [0]
    engine.close()


def test_load_is_reported_before_the_first_step_ends() -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.loads: list[EngineLoad] = []

        def queued(self, load: EngineLoad) -> None:
            self.loads.append(load)

    runner, answers, recorder = Letters(), Answers(1), Recorder()
    runner.gate.clear()
    engine = Engine(runner, Scheduler(), recorder)
    engine.submit([answers.job("a", 2, tokens=5)])
    assert [load[:4] for load in recorder.loads] == [(0, 1, 0, 5)]
    runner.gate.set()
    answers.wait()
    engine.close()
    assert [load[:4] for load in recorder.loads[1:]] == [(1, 0, 5, 0), (0, 0, 0, 0)]


def test_step_tokens_are_reported_as_counted_by_the_runner() -> None:
    class Recorder(Observer):
        def __init__(self) -> None:
            self.steps: list[tuple[int, int]] = []

        def stepped(self, rows: int, tokens: int, step_s: float) -> None:
            self.steps.append((rows, tokens))

    runner, answers, recorder = Letters(), Answers(3), Recorder()
    runner.gate.clear()
    engine = Engine(runner, Scheduler(), recorder)
    engine.submit([answers.job("a", 2), answers.job("b", 1), answers.job("long", 1)])
    runner.gate.set()
    answers.wait()
    engine.close()
    assert recorder.steps == [(3, 12), (1, 1)]


def test_failing_callback_does_not_end_the_thread() -> None:
    answers = Answers(1)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)))

    def broken(outcome: object) -> None:
        raise RuntimeError("gone")

    engine.submit([Job(["a"], 1, broken), answers.job("b")])
    assert answers.wait() == {"b": "bxx"}
    engine.close()


def test_closing_cancels_all_jobs_and_rejects_new_ones() -> None:
    runner, answers = Letters(), Answers(3)
    runner.gate.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job(name, 50) for name in "abc"])
    closer = threading.Thread(target=engine.close)
    closer.start()
    runner.gate.set()
    closer.join(10)
    assert all(isinstance(outcome, Cancelled) for outcome in answers.wait().values())
    with pytest.raises(Cancelled):
        engine.submit([answers.job("d")])


def test_full_engine_rejects_jobs_immediately() -> None:
    runner, answers = Letters(), Answers(2)
    runner.gate.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=2)))
    engine.submit([answers.job("a"), answers.job("b")])
    with pytest.raises(Overloaded):
        engine.submit([answers.job("c")])
    runner.gate.set()
    assert answers.wait() == {"a": "axx", "b": "bxx"}
    engine.close()


def test_timed_out_or_cancelled_image_is_not_decoded() -> None:
    """Its last step has run, but it times out or is cancelled before its result is computed."""
    now, wanted = 0.0, True
    answers, runner = Answers(3), Letters()
    engine = Engine(runner, Scheduler(Limits(max_jobs=8)), clock=lambda: now)
    begun, errands = threading.Event(), threading.Event()
    engine.run_aside(lambda: (begun.set(), errands.wait(10)))
    assert begun.wait(10)
    taken = threading.Semaphore(0)
    engine.submit(
        [
            answers.job("late", 1, deadline=4.0, on_step=lambda _: taken.release()),
            answers.job("left", 1, is_wanted=lambda: wanted, on_step=lambda _: taken.release()),
            answers.job("b", 1, on_step=lambda _: taken.release()),
        ]
    )
    for _ in range(3):
        assert taken.acquire(timeout=10)
    now, wanted = 5.0, False
    errands.set()
    outcomes = answers.wait()
    assert outcomes["b"] == "bx"
    assert "timed out after 1 of 1 steps" in str(outcomes["late"])
    assert "cancelled by the client" in str(outcomes["left"])
    engine.close()


def test_job_past_its_deadline_ends_with_an_error() -> None:
    answers = Answers(2)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)), clock=lambda: 5.0)
    engine.submit([answers.job("late", deadline=4.0), answers.job("b")])
    outcomes = answers.wait()
    assert outcomes["b"] == "bxx"
    assert "timed out" in str(outcomes["late"])
    engine.close()
