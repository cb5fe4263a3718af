"""Failure of a model's process: fatal errors, readiness, and exit after the last responses."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from flux_contract.errors import (
    DeviceLost,
    FluxError,
    GenerationFailed,
    InvalidRequest,
    Overloaded,
    is_device_lost,
)
from flux_serving.backend.health import EXIT_STATUS, ProcessHealth, WatchedRunner
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Limits, Scheduler

FATAL = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: misaligned address",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: unknown error",
    "CUDA error: device lost",
    "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system to recover this GPU",
]
SURVIVED = [
    "CUDA out of memory. Tried to allocate 2.00 GiB",
    "CUDA error: out of memory",
    "CUDA error: invalid argument",
]


@pytest.mark.parametrize("words", FATAL)
def test_error_that_breaks_the_device_is_fatal(words: str) -> None:
    kinds: list[type[RuntimeError]] = [RuntimeError]
    if hasattr(torch, "AcceleratorError"):
        kinds.append(torch.AcceleratorError)
    for kind in kinds:
        error = kind(f"{words}\nCUDA kernel errors might be asynchronously reported at some other API call")
        assert is_device_lost(error)
        assert type(GenerationFailed.unexpected(error)) is DeviceLost


@pytest.mark.parametrize("error", [*map(RuntimeError, SURVIVED), torch.OutOfMemoryError("CUDA out of memory")])
def test_running_out_of_memory_is_not_fatal(error: Exception) -> None:
    assert not is_device_lost(error)
    assert type(GenerationFailed.unexpected(error)) is GenerationFailed


def test_a_caller_s_text_is_not_fatal() -> None:
    assert not is_device_lost(InvalidRequest(f"LORA={FATAL[0]!r}"))
    assert not is_device_lost(ValueError(FATAL[0]))


def test_process_answers_open_requests_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_serving.backend.health._ANSWER_S", 0.05)
    happened: list[object] = []
    ended = threading.Event()

    def exit_process(status: int) -> None:
        happened.append(status)
        ended.set()

    health = ProcessHealth(exit_process)
    health.watch(lambda: None, close=lambda: happened.append("answered"))
    assert health.is_ready()
    health.check()
    health.end("the GPU can no longer be used by this process")
    health.end("again")
    assert not health.is_ready()
    with pytest.raises(Overloaded, match="the GPU can no longer be used"):
        health.check()
    assert ended.wait(10)
    assert happened == ["answered", EXIT_STATUS]


def test_a_process_ends_even_if_its_last_answers_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_serving.backend.health._ANSWER_S", 0.05)
    monkeypatch.setattr("flux_serving.backend.health._CLOSE_S", 0.1)
    ended, never = threading.Event(), threading.Event()
    health = ProcessHealth(lambda status: ended.set())
    health.watch(lambda: None, close=never.wait)
    health.end("a thread of the engine has failed")
    assert ended.wait(10)
    never.set()


class Runner:
    """A runner whose steps take `step_s` and raise `fault`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 1.0
        self.fault: BaseException | None = None
        self.blocked = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def step(self, batch: list[int]) -> list[FluxError | None]:
        if self.fault is not None:
            raise self.fault
        self.blocked.set()
        assert self.go_on.wait(30)
        self.now_s += self.step_s
        return [None] * len(batch)

    def results(self, works: list[int]) -> list[str]:
        return ["done"] * len(works)

    def tokens(self, batch: list[int]) -> int:
        return len(batch)

    def results_at_once(self, work: int) -> int:
        return 1

    def is_out_of_memory(self, error: Exception) -> bool:
        return False


def test_a_step_that_runs_far_longer_than_any_before_makes_the_model_unready() -> None:
    runner = Runner()
    watched: WatchedRunner[int, str] = WatchedRunner(runner, clock=lambda: runner.now_s)
    runner.step_s = 100.0
    watched.step([1])
    assert watched.stuck() is None
    runner.go_on.clear()
    runner.blocked.clear()
    thread = threading.Thread(target=watched.step, args=[[1]])
    thread.start()
    assert runner.blocked.wait(10)
    runner.now_s += 1900
    assert watched.stuck() is None
    runner.now_s += 200
    assert watched.stuck() == "a step has run for 2100 s; the longest one before took 100.0 s"
    runner.go_on.set()
    thread.join()
    assert watched.stuck() is None


def test_readiness_check_returns_while_step_is_stuck() -> None:
    runner = Runner()
    watched: WatchedRunner[int, str] = WatchedRunner(runner, clock=lambda: runner.now_s)
    runner.go_on.clear()
    health = ProcessHealth(lambda status: None)
    health.watch(watched.stuck, close=lambda: None)
    thread = threading.Thread(target=watched.step, args=[[1]])
    thread.start()
    assert runner.blocked.wait(10)
    assert health.is_ready()
    runner.now_s += 301
    started = time.monotonic()
    assert not health.is_ready()
    assert time.monotonic() - started < 5
    runner.go_on.set()
    thread.join()


class Interruption(BaseException):
    """Not an Exception, so that no handler of the engine catches it."""


def test_failed_engine_thread_ends_every_job_with_error() -> None:
    runner, broken = Runner(), threading.Event()
    outcomes: list[object] = []
    ended = threading.Semaphore(0)

    def finish(outcome: object) -> None:
        outcomes.append(outcome)
        ended.release()

    engine: Engine[int, str] = Engine(runner, Scheduler(Limits(max_jobs=8)), on_broken=broken.set)
    runner.fault = Interruption()
    engine.submit([Job(work, 3, finish) for work in range(4)])
    for _ in range(4):
        assert ended.acquire(timeout=10)
    assert broken.wait(10)
    assert {type(outcome) for outcome in outcomes} == {GenerationFailed}
    with pytest.raises(FluxError):
        engine.submit([Job(5, 3, finish)])
    engine.close()
    assert len(outcomes) == 4


def test_lost_gpu_is_the_error_of_its_jobs() -> None:
    runner = Runner()
    outcomes: list[object] = []
    ended = threading.Event()

    def finish(outcome: object) -> None:
        outcomes.append(outcome)
        ended.set()

    runner.fault = RuntimeError(FATAL[0])
    engine: Engine[int, str] = Engine(runner, Scheduler(Limits(max_jobs=8)))
    engine.submit([Job(1, 3, finish)])
    assert ended.wait(10)
    assert type(outcomes[0]) is DeviceLost
    engine.close(Overloaded("this model's process ends"))
