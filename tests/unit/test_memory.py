"""Ended jobs are freed at once by reference counting: a cycle would keep their tensors until a full garbage collection.

The collector's full runs become rare in a process with as many objects as torch has, so cycles look like a leak.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from flux_contract.errors import FluxError
from flux_serving.backend.memory import private_bytes, return_free_memory
from flux_serving.backend.progress_channel import ProgressFolder
from flux_serving.backend.progress_report import ProgressReport
from flux_serving.network.latents import Grid
from flux_serving.network.lora import summed
from flux_serving.network.projections import LowRank
from flux_serving.network.rotary import RotaryTables
from flux_serving.network.transformer import Transformer
from flux_serving.network.weights import BaseWeights
from flux_serving.sampling.preview import PreviewOptions
from flux_serving.sampling.sampler import Sampler
from flux_serving.sampling.sampler_inputs import SamplerInputs
from flux_serving.scheduling.engine import Engine
from flux_serving.scheduling.job import Job
from flux_serving.scheduling.scheduler import Scheduler
from stock import context, of_size

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Work:
    """Stands in for the tensors of a job."""


class Steps:
    """A runner whose steps do nothing."""

    def step(self, batch: Sequence[Work]) -> list[FluxError | None]:
        return [None] * len(batch)

    def results(self, works: Sequence[Work]) -> list[str]:
        return ["an image"] * len(works)

    def tokens(self, batch: Sequence[Work]) -> int:
        return len(batch)

    def results_at_once(self, work: Work) -> int:
        return 1

    def is_out_of_memory(self, error: Exception) -> bool:
        return False


def run(engine: Engine[Work, str], report: ProgressReport, is_wanted: bool) -> weakref.ref[Work]:
    """Run a job until it has ended, with its steps reported. Returns a reference to its work."""
    ended = threading.Event()
    job: Job[Work, str] = Job(Work(), 60, lambda _: ended.set(), is_wanted=lambda: is_wanted)
    engine.submit([job], on_accepted=lambda: report.follow([job]))  # type: ignore[list-item]
    assert ended.wait(10)
    return weakref.ref(job.work)


@pytest.mark.parametrize("is_wanted", [True, False], ids=["done", "cancelled"])
def test_an_ended_job_whose_steps_were_reported_is_freed(tmp_path: Path, is_wanted: bool) -> None:
    folder = ProgressFolder(tmp_path / "progress")
    folder.make()
    receiver = folder.listen()
    engine: Engine[Work, str] = Engine(Steps(), Scheduler())
    report = ProgressReport(folder.connect(receiver.address), None, PreviewOptions("", 0), engine.run_aside)  # type: ignore[arg-type]
    try:
        work = run(engine, report, is_wanted)
        # The thread that ended it may still be about to return.
        limit = time.monotonic() + 10
        while work() is not None and time.monotonic() < limit:
            time.sleep(0.01)
        assert work() is None
    finally:
        engine.close()
        report.end()
        receiver.close()


def test_unused_adapted_transformer_is_freed(tiny_base: BaseWeights) -> None:
    """Its adapters' tensors may use GPU memory, which the garbage collector does not consider."""
    network = Transformer(tiny_base.transformer)
    down, up = torch.randn(2, tiny_base.transformer.proj_out.in_features), torch.randn(16, 2)
    adapted = network.adapted(summed([({"proj_out": LowRank(down, up)}, 1.0)]))
    adapted._rotary(Grid(2, 3), 5)
    freed = weakref.ref(adapted)
    del adapted
    assert freed() is None


def test_rotary_tables_are_kept_up_to_a_number_of_bytes(tiny_base: BaseWeights) -> None:
    stock = tiny_base.transformer
    unbounded = RotaryTables(stock.pos_embed, stock.device, stock.dtype)
    most = 3 * unbounded(Grid(4, 4), 8).nbytes
    tables = RotaryTables(stock.pos_embed, stock.device, stock.dtype, most)
    first = tables(Grid(4, 4), 8)
    for context_tokens in range(8):
        tables(Grid(4, 4), context_tokens)
        assert tables(Grid(4, 4), 8) is first, "the one used last but one"
        assert tables.bytes <= most
    assert torch.equal(tables(Grid(4, 4), 3), unbounded(Grid(4, 4), 3))


def test_table_larger_than_limit_is_kept_alone(tiny_base: BaseWeights) -> None:
    stock = tiny_base.transformer
    tables = RotaryTables(stock.pos_embed, stock.device, stock.dtype, max_bytes=1)
    tables(Grid(2, 2), 1)
    table = tables(Grid(4, 4), 1)
    assert tables.bytes == table.nbytes
    assert tables(Grid(4, 4), 1) is table


def test_a_finished_image_is_freed_once_its_result_is_taken(tiny_base: BaseWeights) -> None:
    sampler = Sampler(tiny_base)
    (work,) = sampler.begin(of_size(4, 6, steps=3, seed=1), SamplerInputs(context(seed=1, count=5)))
    for _ in range(3):
        sampler.step([work])
    freed = weakref.ref(work)
    del work
    assert freed() is None


def test_freed_memory_below_live_tensors_returns_to_the_system() -> None:
    blocks = [bytearray(60_000) for _ in range(2000)]
    last = blocks.pop()
    full = private_bytes()
    blocks.clear()
    return_free_memory()
    assert full - private_bytes() > 100e6
    assert len(last) == 60_000
