"""The engine: every job ends exactly once, whatever happens to it or to its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from flux_serving.errors import Cancelled, GenerationFailed, Overloaded
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Limits, Scheduler


class Letters:
    """A runner that adds a letter at each step; it raises on work called `bad`, and waits where it is told to."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def step(self, batch: Sequence[list[str]]) -> None:
        assert self.gate.wait(10)
        for work in batch:
            if work[0] == "bad":
                raise ValueError("no")
            work.append("x")

    def result(self, work: list[str]) -> str:
        if work[0] == "unfinishable":
            raise ValueError("no")
        return "".join(work)


class Answers:
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


def test_jobs_get_their_own_results() -> None:
    answers = Answers(2)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)))
    engine.submit([answers.job("a", 1), answers.job("b", 3)])
    assert answers.wait() == {"a": "ax", "b": "bxxx"}
    engine.close()


@pytest.mark.parametrize("bad", ["bad", "unfinishable"])
def test_a_job_that_fails_harms_no_other(bad: str) -> None:
    answers = Answers(3)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8, max_rows=1)))
    engine.submit([answers.job("a"), answers.job(bad), answers.job("b")])
    outcomes = answers.wait()
    assert outcomes["a"] == "axx"
    assert outcomes["b"] == "bxx"
    assert isinstance(outcomes[bad], GenerationFailed)
    assert "no" not in str(outcomes[bad]).split()[0]
    engine.close()


def test_a_caller_that_breaks_does_not_end_the_thread() -> None:
    answers = Answers(1)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)))

    def broken(outcome: object) -> None:
        raise RuntimeError("gone")

    engine.submit([Job(["a"], 1, broken), answers.job("b")])
    assert answers.wait() == {"b": "bxx"}
    engine.close()


def test_closing_ends_every_job_as_cancelled_and_refuses_new_ones() -> None:
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


def test_a_full_engine_refuses_at_once() -> None:
    runner, answers = Letters(), Answers(2)
    runner.gate.clear()
    engine = Engine(runner, Scheduler(Limits(max_jobs=2)))
    engine.submit([answers.job("a"), answers.job("b")])
    with pytest.raises(Overloaded):
        engine.submit([answers.job("c")])
    runner.gate.set()
    assert answers.wait() == {"a": "axx", "b": "bxx"}
    engine.close()


def test_a_job_past_its_deadline_ends_without_a_result() -> None:
    answers = Answers(2)
    engine = Engine(Letters(), Scheduler(Limits(max_jobs=8)), clock=lambda: 5.0)
    engine.submit([answers.job("late", deadline=4.0), answers.job("b")])
    outcomes = answers.wait()
    assert outcomes["b"] == "bxx"
    assert "time ran out" in str(outcomes["late"])
    engine.close()
