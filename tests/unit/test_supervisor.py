"""Restarts of failing services, with a clock that the test controls."""

from __future__ import annotations

import pytest

from flux_contract.errors import CannotStart
from flux_serving.launch.supervisor import (
    NEVER,
    RestartPolicy,
    ServiceFailed,
    State,
    Supervised,
    all_ready,
    supervise,
)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeService:
    """A service that is ready after one check, until the test lets it fail."""

    def __init__(self, cannot_start: str = "") -> None:
        self.reason: str | None = None
        self.looks = 0
        self.hung = False
        self.is_killed = False
        self._cannot_start = cannot_start

    def start(self) -> None:
        if self._cannot_start:
            raise CannotStart(self._cannot_start)

    def is_ready(self) -> bool:
        self.looks += 1
        return self.looks > 1

    def is_hung(self) -> bool:
        return self.hung

    def failure(self) -> str | None:
        return self.reason

    def kill(self) -> None:
        self.is_killed = True


class Bench:
    """A supervised service with its runs so far, its log and its clock."""

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        self.clock = Clock()
        self.log: list[str] = []
        self.runs: list[FakeService] = []
        self.cannot_start = ""
        self.supervised = Supervised("Triton", self._make, policy or RestartPolicy(), self.log.append, self.clock)

    def _make(self) -> FakeService:
        self.runs.append(FakeService(self.cannot_start))
        return self.runs[-1]

    def pass_time(self, seconds: float) -> None:
        for _ in range(4):
            self.clock.now += seconds / 4
            self.supervised.look()

    def started(self) -> Bench:
        self.supervised.start()
        self.pass_time(1)
        return self


def test_restarts_failed_service() -> None:
    bench = Bench().started()
    bench.runs[0].reason = "Triton ended with signal 11 (SIGSEGV)"
    bench.supervised.look()
    assert bench.runs[0].is_killed
    assert bench.supervised.state is State.WAITING
    bench.pass_time(2)
    assert bench.supervised.state is State.READY
    assert len(bench.runs) == 2
    assert bench.log[0] == "Triton ended with signal 11 (SIGSEGV); restarting it in 0.5 s (attempt 1 of 5)"
    assert bench.log[1].startswith("Triton is ready again after")


def test_delay_grows_with_failures_until_last_attempt() -> None:
    bench = Bench(RestartPolicy(attempts=3, first_delay_s=1, max_delay_s=3)).started()
    delays = []
    for _ in range(3):
        bench.runs[-1].reason = "it broke"
        bench.supervised.look()
        failed_at, runs = bench.clock.now, len(bench.runs)
        while len(bench.runs) == runs:
            bench.clock.now += 0.125
            bench.supervised.look()
        delays.append(bench.clock.now - failed_at)
    assert delays == [1, 2, 3]
    bench.runs[-1].reason = "it broke"
    with pytest.raises(ServiceFailed, match="it broke; gave up after 4 failures in a row"):
        bench.supervised.look()


def test_failure_count_resets_after_stable_service() -> None:
    bench = Bench(RestartPolicy(attempts=1, stable_s=60)).started()
    for _ in range(3):
        bench.pass_time(61)
        bench.runs[-1].reason = "it broke"
        bench.supervised.look()
        bench.pass_time(2)
    assert bench.supervised.state is State.READY
    assert len(bench.runs) == 4


def test_failed_first_start_is_not_repeated() -> None:
    bench = Bench()
    bench.supervised.start()
    bench.runs[0].reason = "Triton ended with exit status 1"
    with pytest.raises(CannotStart, match="Triton ended with exit status 1 before it was ready"):
        bench.supervised.look()


@pytest.mark.parametrize("policy", [RestartPolicy(), NEVER])
def test_hung_first_start_is_repeated(policy: RestartPolicy) -> None:
    bench = Bench(policy)
    bench.supervised.start()
    bench.runs[0].looks = -1000
    bench.runs[0].hung = True
    bench.pass_time(4)
    assert bench.runs[0].is_killed
    assert bench.supervised.state is State.READY
    assert "Triton hangs during start-up; restarting it" in bench.log[0]


def test_without_restarts_second_hung_start_fails() -> None:
    bench = Bench(NEVER)
    bench.supervised.start()
    for run in range(2):
        bench.runs[run].looks = -1000
        bench.runs[run].hung = True
        if run == 0:
            bench.supervised.look()
            bench.clock.now += 1
            bench.supervised.look()
    with pytest.raises(ServiceFailed, match="hangs during start-up; gave up after 2 failures in a row"):
        bench.supervised.look()


def test_restart_that_cannot_start_counts_as_failure() -> None:
    bench = Bench(RestartPolicy(attempts=2)).started()
    bench.runs[0].reason = "it broke"
    bench.cannot_start = "cannot listen on port 8000 of 127.0.0.1"
    with pytest.raises(ServiceFailed, match=r"cannot listen on port 8000 of 127.0.0.1; gave up after 3 failures"):
        bench.pass_time(30)
    assert len(bench.runs) == 3


def test_restarts_service_that_is_not_ready_in_time() -> None:
    bench = Bench(RestartPolicy(start_timeout_s=10)).started()
    bench.runs[0].reason = "it broke"
    bench.pass_time(1)
    bench.runs[1].looks = -1000
    bench.pass_time(20)
    assert bench.runs[1].is_killed
    assert any("Triton was not ready after" in line for line in bench.log)


def test_without_restarts_first_failure_is_final() -> None:
    bench = Bench(NEVER).started()
    bench.runs[0].reason = "Triton ended with signal 11 (SIGSEGV)"
    with pytest.raises(ServiceFailed, match=r"^Triton ended with signal 11 \(SIGSEGV\)$"):
        bench.supervised.look()


def test_supervises_all_services_until_all_are_ready() -> None:
    benches = [Bench(), Bench()]
    for bench in benches:
        bench.supervised.start()
    services = [bench.supervised for bench in benches]
    looks: list[None] = []
    supervise(services, lambda: all_ready(services), lambda: looks.append(None), sleep=lambda seconds: None)
    assert len(looks) == 2
