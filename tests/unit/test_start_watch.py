"""A start is hung if Triton is not ready long after all models have loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flux_contract.environment import LOADED_PREFIX
from flux_serving.launch.start_watch import HUNG_AFTER_S, StartWatch


class Start:
    """A start of two models. processes: model by process id."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.processes: dict[int, str] = {}
        self.folder = folder
        self.watch = StartWatch(folder, 2, self._found, lambda: self.now)

    def _found(self) -> list[Any]:
        return [SimpleNamespace(model=model, process=SimpleNamespace(pid=pid)) for pid, model in self.processes.items()]

    def load(self, pid: int) -> None:
        (self.folder / f"{LOADED_PREFIX}{pid}").touch()

    def is_hung_after(self, seconds: float) -> bool:
        end = self.now + seconds
        while self.now < end:
            self.now += 1.0
            if self.watch.is_hung():
                return True
        return False


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def test_start_is_hung_some_time_after_all_models_have_loaded(start: Start) -> None:
    start.processes = {10: "flux_base", 11: "flux_base", 12: "image_encode"}
    for pid in start.processes:
        start.load(pid)
    assert not start.is_hung_after(HUNG_AFTER_S - 5)
    assert start.is_hung_after(10)


def test_start_that_is_still_loading_is_not_hung(start: Start) -> None:
    start.processes = {10: "flux_base"}
    start.load(10)
    assert not start.is_hung_after(3 * HUNG_AFTER_S), "a model has no process yet"
    start.processes[11] = "image_encode"
    assert not start.is_hung_after(3 * HUNG_AFTER_S), "a process still loads"
    start.load(11)
    start.processes[12] = "flux_base"
    assert not start.is_hung_after(3 * HUNG_AFTER_S), "another instance loads"
    start.load(12)
    assert start.is_hung_after(HUNG_AFTER_S + 5)
