"""Plans, load generator, statistics and tables of the benchmark, without a server or diffusers."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from flux_contract.modes import BY_NAME
from flux_tools.bench import figures, images, load, memory_report, report
from flux_tools.bench.engine_metrics import SHARES, StepShare, parse_shares, rows_per_step, share_of
from flux_tools.bench.memory_report import Loaded, MemoryPart
from flux_tools.bench.perf_input import request
from flux_tools.bench.plan import (
    WORKLOAD_NAMES,
    ImageOptions,
    Workload,
    WorkloadKind,
    poisson_arrivals_s,
    respelled,
    rotated,
    warm_up,
)
from flux_tools.bench.processes import model_in, resident_in
from flux_tools.bench.results import BenchResults, Ceiling, Cell, Fairness, RequestOutcome, merged
from flux_tools.bench.storages import bytes_in, bytes_of
from flux_tools.bench.workloads import WORKLOADS
from flux_tools.documents import replaced, table
from flux_tools.metrics import growth

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "performance.md"


def cell(
    system: str, *latencies_s: float, round: int = 1, concurrency: int = 1, workload: str = "demo", mode: str = "closed"
) -> Cell:
    """Return a measurement with consecutive requests of these latencies."""
    ends = np.cumsum(latencies_s).tolist()
    outcomes = tuple(
        RequestOutcome(index, end - taken, end, difference=1)
        for index, (end, taken) in enumerate(zip(ends, latencies_s, strict=True))
    )
    rate = 0.5 if mode == "open" else None
    batch = 8 if system == "litserve" else None
    return Cell(round, workload, system, mode, concurrency, batch, outcomes, rate)


def test_workload_is_deterministic_and_longer_lists_start_alike() -> None:
    mixed = WORKLOADS["mixed"]
    assert mixed.jobs(8) == mixed.jobs(40)[:8]
    assert [job.index for job in mixed.jobs(40)] == list(range(40))
    assert len({job.seed for job in mixed.jobs(40)}) == 40


def test_command_line_names_every_workload() -> None:
    assert tuple(WORKLOADS) == WORKLOAD_NAMES


def test_mix_has_every_kind_equally_often() -> None:
    mixed = WORKLOADS["mixed"]
    assert Counter(job.kind for job in mixed.jobs(50)) == dict.fromkeys(mixed.kinds, 5)
    assert {job.kind for job in mixed.jobs(10)} == set(mixed.kinds)  # the jobs with reference images


def test_mix_has_every_mode_in_both_sizes_and_step_counts() -> None:
    kinds = WORKLOADS["mixed"].kinds
    for values in zip(*kinds, strict=True):
        assert len(set(Counter(values).values())) == 1
    assert {kind.mode for kind in kinds} == set(BY_NAME)
    for mode in BY_NAME:
        assert {(kind.side, kind.steps) for kind in kinds if kind.mode == mode} in (
            {(64, 4), (256, 50)},
            {(64, 50), (256, 4)},
        )


def test_other_workloads_have_only_redux() -> None:
    for name in ("demo", "grid512"):
        assert {job.mode for job in WORKLOADS[name].jobs(10)} == {"redux"}


@pytest.mark.parametrize("concurrency", [1, 2, 3, 4, 8, 16])
def test_block_size_is_a_multiple_of_clients_and_kinds(concurrency: int) -> None:
    workload = Workload("w", (WorkloadKind(64, 4), WorkloadKind(256, 4)), (1,), requests=12, requests_per_client=3)
    count = workload.count(concurrency)
    assert count >= max(12, 3 * concurrency)
    assert count % concurrency == count % 2 == 0


def test_warm_up_has_every_kind_with_few_steps() -> None:
    jobs = WORKLOADS["mixed"].jobs(40)
    assert [job.index for job in warm_up(jobs, 4)] == list(range(10))
    assert {(job.mode, job.side) for job in warm_up(jobs, 4)} == {(w.mode, w.side) for w in jobs}
    assert {job.steps for job in warm_up(jobs, 4)} == {3}
    assert [job.index for job in warm_up(WORKLOADS["demo"].jobs(40), 4)] == list(range(4))


def test_prompts_differ_in_bytes_but_not_in_words() -> None:
    jobs = WORKLOADS["mixed"].jobs(8)
    one, other = respelled(jobs, "round 1"), respelled(jobs, "round 2")
    assert len({job.prompt for job in one + other}) == 16
    assert {" ".join(job.prompt.split()) for job in one + other} == {"red apple"}
    assert [job.kind for job in one] == [job.kind for job in jobs]
    assert respelled(jobs, "round 1") == one


def test_arrivals_follow_seed_and_rate() -> None:
    arrivals = poisson_arrivals_s(4.0, 4000, seed=3)
    assert arrivals == poisson_arrivals_s(4.0, 4000, seed=3)
    assert arrivals != poisson_arrivals_s(4.0, 4000, seed=4)
    assert arrivals == sorted(arrivals)
    gaps = np.diff(arrivals)
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(0.25, rel=0.1)  # an exponential distribution
    with pytest.raises(ValueError, match="rate_per_s=0"):
        poisson_arrivals_s(0, 1, seed=1)


def test_every_system_is_first_in_some_round() -> None:
    assert [rotated(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert sorted(rotated(["a", "b", "c"], 7)) == ["a", "b", "c"]


def test_every_number_has_its_own_image() -> None:
    assert len({images.image(number).tobytes() for number in range(40)}) == 40
    assert images.image(3).tobytes() == images.image(3).tobytes()


def test_occasion_changes_bytes_but_not_pixels() -> None:
    one, other = images.encoded(5, "round 1"), images.encoded(5, "round 2")
    assert one != other
    assert Image.open(io.BytesIO(one)).tobytes() == Image.open(io.BytesIO(other)).tobytes()


def test_perf_input_has_length_before_bytes() -> None:
    entry = request(3, side=64, steps=20, occasion="x")
    element = base64.b64decode(entry["IMAGE"]["content"]["b64"])
    assert int.from_bytes(element[:4], "little") == len(element) - 4
    assert element[4:] == images.encoded(3, "x")
    assert entry["NUM_INFERENCE_STEPS"] == {"content": [20], "shape": [1]}


def jobs(count: int) -> list[ImageOptions]:
    return [ImageOptions(index, 64, 4, 1000 + index) for index in range(count)]


def test_closed_loop_has_one_request_in_flight_per_client() -> None:
    running, most, counting = 0, 0, threading.Lock()

    def caller(_image: bytes, _job: ImageOptions) -> bytes:
        nonlocal running, most
        with counting:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with counting:
            running -= 1
        return b"image"

    answers = load.closed_loop(caller, jobs(12), [b""] * 12, concurrency=3)
    assert most == 3
    assert sorted(answer.outcome.index for answer in answers) == list(range(12))


def test_closed_loop_ends_after_a_whole_block_when_its_time_is_up() -> None:
    def caller(_image: bytes, _job: ImageOptions) -> bytes:
        time.sleep(0.01)
        return b"image"

    def answered(seconds: float) -> int:
        return len(load.closed_loop(caller, jobs(40), [b""] * 40, concurrency=2, block=4, seconds=seconds))

    assert answered(0.0) == 4
    assert answered(0.05) in range(4, 44, 4)
    assert answered(60.0) == 40


def test_open_loop_latency_counts_from_due_time() -> None:
    one_at_a_time = threading.Lock()

    def caller(_image: bytes, _job: ImageOptions) -> bytes:
        with one_at_a_time:
            time.sleep(0.1)
        return b"image"

    answers = load.open_loop(caller, jobs(3), [b""] * 3, [0.0, 0.01, 0.02])
    due = [answer.outcome.due_s for answer in answers]
    assert due == pytest.approx([0.0, 0.01, 0.02], abs=1e-6)
    # All three wait for one lock and may get it in any order.
    assert sorted(answer.outcome.ended_s for answer in answers)[2] >= 0.3


def test_error_of_one_request_does_not_stop_the_loop() -> None:
    def caller(_image: bytes, job: ImageOptions) -> bytes:
        if job.index == 1:
            raise TimeoutError("too slow")
        return b"image"

    answers = load.closed_loop(caller, jobs(3), [b""] * 3, concurrency=1)
    assert [answer.outcome.error for answer in answers] == [None, "TimeoutError: too slow", None]


def test_merged_runs_have_consecutive_rounds() -> None:
    def part(workload: str, rounds: int) -> BenchResults:
        cells = [cell("loop", 1.0, round=number, workload=workload) for number in range(1, rounds + 1)]
        return BenchResults({}, {}, {"workloads": [{"name": workload}]}, cells=cells)

    whole = merged([part("demo", 1), part("grid512", 2), part("demo", 2)])
    assert [workload["name"] for workload in whole.options["workloads"]] == ["demo", "grid512"]
    assert list(figures.closed(whole.cells, "demo", "loop", 1)) == [1, 4, 5]
    assert list(figures.closed(whole.cells, "grid512", "loop", 1)) == [2, 3]
    assert "3 of demo, 2 of grid512" in report.machine(whole)


def test_image_is_compared_with_stock_diffusers(tmp_path: Path) -> None:
    expected = np.full((4, 4, 3), 100, np.int16)
    np.save(tmp_path / "0.npy", expected)
    buffer = io.BytesIO()
    Image.fromarray((expected + 2).astype(np.uint8)).save(buffer, "PNG")

    def compared(data: bytes, index: int = 0) -> RequestOutcome:
        return load.compared(load.Answer(RequestOutcome(index, 0.0, 1.0), data), tmp_path)

    assert compared(buffer.getvalue()).difference == 2
    assert compared(buffer.getvalue(), index=9).difference is None
    assert "not an image" in (compared(b"nonsense").error or "")


def test_short_job_is_timed_alone_and_with_long_jobs() -> None:
    one_at_a_time = threading.Lock()

    def caller(_image: bytes, job: ImageOptions) -> bytes:
        with one_at_a_time:
            time.sleep(0.01 * job.steps)
        return b""

    orders = [ImageOptions(0, 64, 50, 0), *(ImageOptions(index, 64, 1, 0) for index in range(1, 5))]
    found = load.short_beside_long(caller, orders, [b""] * 5)
    assert found["errors"] == []
    assert found["solo_s"] == pytest.approx(0.01, abs=0.02)
    assert found["beside_s"] > 0.1


def test_ratios_are_computed_within_a_round() -> None:
    """A machine that is twice as slow in round 2 changes no ratio."""
    spread = figures.ratio({1: 6.0, 2: 3.0, 3: 8.0}, {1: 2.0, 2: 1.0, 3: 2.0})
    assert spread == figures.Spread(median=3.0, least=3.0, greatest=4.0)
    assert figures.ratio({1: 6.0}, {2: 2.0}) is None
    assert figures.ratio({1: 6.0}, {1: 0.0}) is None


def test_best_is_chosen_in_each_round() -> None:
    assert figures.best_of([{1: 1.0, 2: 5.0}, {1: 2.0, 2: 4.0, 3: 1.0}]) == {1: 2.0, 2: 5.0, 3: 1.0}


def test_loop_result_is_used_for_every_concurrency() -> None:
    cells = [cell("loop", 1.0), cell("fastapi", 1.0, concurrency=8)]
    assert figures.closed(cells, "demo", "loop", 8) == {1: cells[0]}
    assert figures.closed(cells, "demo", "fastapi", 1) == {}


def test_failed_requests_count_neither_as_images_nor_as_latencies() -> None:
    good = cell("fastapi", 1.0, 1.0)
    bad = Cell(1, "demo", "fastapi", "closed", 1, None, (*good.outcomes, RequestOutcome(2, 2.0, 4.0, "HTTP 500")))
    assert bad.images_per_s == pytest.approx(0.5)
    times = figures.latency([bad])
    assert times is not None
    assert (times.p50_s, times.p99_s, times.failed, times.asked) == (1.0, 1.0, 1, 3)
    assert figures.agreement([bad]) == figures.Agreement(compared=2, worst=1, failed=1, asked=3)
    nothing = Cell(1, "demo", "fastapi", "closed", 1, None, (RequestOutcome(0, 0.0, 1.0, "HTTP 500"),))
    assert figures.latency([nothing]) is None


def test_counters_of_all_instances_are_summed_and_missing_ones_reported() -> None:
    before = parse_shares('flux_forward_seconds_total{model="flux_base",instance="0"} 1.5\n')
    after = parse_shares(
        "# TYPE flux_forward_seconds_total counter\n"
        'flux_forward_seconds_total{model="flux_base",instance="0"} 4\n'
        'flux_forward_seconds_total{model="flux_base",instance="1"} 3.5\n'
        'flux_rows_per_step_sum{model="flux_base"} 30\n'
        'flux_rows_per_step_count{model="flux_base"} 4\n'
        'nv_inference_compute_infer_duration_us{model="image_encode",version="1"} 2e6\n'
        'nv_inference_compute_infer_duration_us{model="flux_base",version="1"} 99\n'
    )
    metrics = growth(before, after)
    forward, encode = SHARES[0], next(share for share in SHARES if share.model == "image_encode")
    assert share_of(metrics, forward, wall_s=12.0) == "50 %"
    assert share_of(metrics, encode, wall_s=10.0) == "20 %"
    assert share_of(metrics, StepShare("", "flux_unknown"), wall_s=10.0) == "not published"
    assert rows_per_step(metrics) == "7.5"
    assert rows_per_step({}) == "not published"


def some_results() -> BenchResults:
    options = {
        "workloads": [{"name": "demo", "kinds": [[64, 20]], "concurrency": [1, 4]}],
        "rounds": 2,
        "long_jobs": 8,
        "long_steps": 50,
        "short_steps": 4,
    }
    results = BenchResults({"CPU cores": "2"}, {"torch": "2.13.0"}, options)
    for number in (1, 2):
        results.cells += [cell("loop", 1.0, 1.0, round=number)]
        for clients in (1, 4):
            results.cells += [
                cell("litserve", 0.8, 0.8, round=number, concurrency=clients),
                cell("ours-grpc", 0.2, 0.2, round=number, concurrency=clients),
            ]
        results.cells += [cell("ours-grpc", 0.3, round=number, concurrency=0, mode="open")]
        results.fairness += [Fairness(number, "ours-grpc", None, 0.2, 0.5, 9.0)]
        results.ceiling += [Ceiling(number, "ours", 64, 8, 0.05), Ceiling(number, "stock", 64, 8, 0.5)]
    results.calibration += [cell("litserve", 0.8, 0.8, round=0, concurrency=4)]
    results.failures.append("round 2, demo, pytriton: ended with exit status 1")
    return results


def test_tables_have_the_results() -> None:
    text = report.sections(some_results())
    assert "| diffusers in a loop | 1.00 | 1.00 |" in text["throughput"]
    assert "| LitServe + diffusers | 4.00 | 4.00 |" in text["ratios"]
    assert report.spread_text(figures.Spread(2.0, 1.0, 3.0)) == "2.00 (1.00 to 3.00)"
    assert "| **best alternative** | 4.00 | 4.00 |" in text["ratios"]
    assert "| diffusers in a loop | 1.00 / 1.00 / 1.00 | – |" in text["latency"]
    assert "0.50 requests/s" in text["open"]
    assert "| flux-triton, gRPC | 0.20 | 0.50 | 2.50 |" in text["fairness"]
    assert "| 64x64 | none | 8 | 50 | 500 | 10.00 |" in text["ceiling"]
    assert "8: 1.25" in text["batching"]
    assert "not published" in text["time"]
    assert "not measured: round 2, demo, pytriton" in text["agreement"]


def test_workload_description_lists_modes() -> None:
    assert report.kinds([[64, 20]]) == report.kinds([WorkloadKind(64, 20)]) == "64x64 with 20 steps"
    assert report.kinds([[64, 4], [256, 4]]) == "64x64 with 4 steps; 256x256 with 4 steps"
    text = report.kinds([[64, 4, "redux"], [64, 4, "canny"], [256, 50, "canny"]])
    assert text.startswith("redux 64x64 with 4 steps; canny 64x64 with 4 steps, 256x256 with 50 steps. ")
    assert "`red apple`" in text


def test_results_survive_saving_and_loading(tmp_path: Path) -> None:
    results = some_results()
    results.save(tmp_path / "bench.json")
    assert BenchResults.load(tmp_path / "bench.json") == results


def test_page_has_markers_for_every_table() -> None:
    page = replaced(PAGE.read_text(), report.sections(some_results()))
    assert "| diffusers in a loop | 1.00 | 1.00 |" in page


def test_text_around_a_rendered_table_stays() -> None:
    page = "before\n<!-- made:begin x -->\nold\n<!-- made:end x -->\nafter\n"
    assert replaced(page, {"x": r"new \1"}) == (
        "before\n<!-- made:begin x -->\n\nnew \\1\n\n<!-- made:end x -->\nafter\n"
    )
    with pytest.raises(ValueError, match="made:begin y"):
        replaced(page, {"y": "new"})


def test_table_is_markdown() -> None:
    assert table(["", "a"], [["row", "1"]]) == "|  | a |\n|---|---:|\n| row | 1 |"


def test_bytes_of_counts_each_storage_once() -> None:
    layer = torch.nn.Linear(3, 4)
    assert bytes_of(layer) == 4 * (12 + 4)
    assert bytes_of([layer, layer.weight[:2], {"again": layer}]) == bytes_of(layer)
    assert bytes_of([layer, layer.weight.clone()]) == bytes_of(layer) + 4 * 12
    assert bytes_of(torch.nn.Linear(3, 4, device="meta", dtype=torch.bfloat16)) == 2 * (12 + 4)
    assert bytes_of(None) == 0


def test_bytes_in_counts_tensors_with_the_prefix(tmp_path: Path) -> None:
    save_file({"encoder.a": torch.zeros(3), "decoder.a": torch.zeros(5)}, tmp_path / "vae.safetensors")
    assert bytes_in([tmp_path]) == 4 * 8
    assert bytes_in([tmp_path], "encoder.") == 4 * 3


@pytest.mark.parametrize(("weights", "is_once"), [(1000, True), (1009, True), (1100, False), (2000, False)])
def test_weights_loaded_twice_are_detected(weights: int, is_once: bool) -> None:
    assert Loaded("flux_base", weights, files=1000).is_loaded_once is is_once


def test_process_is_identified_by_its_model() -> None:
    command = "/opt/triton_python_backend_stub\0/tmp/x/model_repository/flux_base/1/model.py\0flux-triton-1_\0"
    assert model_in(command) == "flux_base"
    assert resident_in("Name:\ttriton\nVmHWM:\t   9 kB\nVmRSS:\t   5 kB\n") == 5 * 1024


def some_memory() -> dict[str, str]:
    demo = [MemoryPart("flux_prior_redux", "T5", 73_100_000), MemoryPart("flux_base", "transformer", 24_500_000)]
    dev = [MemoryPart("flux_prior_redux", "T5", 9_520_000_000), MemoryPart("flux_base", "transformer", 23_800_000_000)]
    resident = {"flux_base": [520_000_000], "image_encode": [46_000_000, 47_000_000]}
    return memory_report.sections(demo, dev, [Loaded("flux_base", 54_100_000, 54_000_000)], resident)


def test_memory_tables_have_the_sizes() -> None:
    text = some_memory()
    assert "| prompts, as in text2img | CLIP, T5 | 73.1 MB | 9.52 GB |" in text["modes"]
    assert "| `flux_base` | transformer | 24.5 MB | 23.80 GB | 520 MB |" in text["processes"]
    assert "| `image_encode` | none | – | – | 2 x 47 MB |" in text["processes"]
    assert "| `flux_base` | 54.1 MB | 54.0 MB |" in text["files"]


def test_memory_page_has_markers_for_every_table() -> None:
    assert "73.1 MB" in replaced(PAGE.with_name("memory.md").read_text(), some_memory())
