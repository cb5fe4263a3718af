"""Input data, exports, reports and binaries of scripts/perf."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from flux_contract.internal_tensors import CONTEXT
from flux_contract.models import FLUX_BASE, FLUX_REDUX
from flux_contract.tensors import DType
from flux_serving.launch.processes import free_ports
from flux_serving.settings import ModelSettings
from flux_tools.metrics import growth, parse_counters
from flux_tools.perf import __main__ as command
from flux_tools.perf import binary, inputs, report
from flux_tools.perf.binary import Binary, NoBinary, Source
from flux_tools.perf.cases import BASE, GRPC, OPEN_THREADS, SEEN, closed, opened
from flux_tools.perf.counters import Inside, inside
from flux_tools.perf.export import PerfRequest, Summary, printed, read_export, summed_up
from flux_tools.perf.inputs import Work
from flux_tools.perf.options import FEWEST_IMAGES
from flux_tools.perf.runs import Measured, PerfResults
from flux_tools.perf.servers import NoServer, Server, check

RECORDED = Path(__file__).resolve().parent / "recorded"
MODEL_ANALYZER = Path(__file__).resolve().parents[2] / "deploy" / "model-analyzer" / "config.yaml"
WORK = Work(side=64, steps=8)


def elements_of(entry: Any) -> list[bytes]:
    """Return the BYTES elements of a tensor as perf_analyzer reads them."""
    raw, elements = base64.b64decode(entry["content"]["b64"]), []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return elements


def test_every_request_in_the_file_has_its_own_image(tmp_path: Path) -> None:
    file = inputs.write(tmp_path / "data.json", inputs.of_images(FEWEST_IMAGES, "x", WORK))
    entries = json.loads(file.read_text())["data"]
    images = [element for entry in entries for element in elements_of(entry["IMAGE"])]
    assert len(entries) == len(set(images)) == FEWEST_IMAGES
    assert len({Image.open(io.BytesIO(image)).tobytes() for image in images}) == FEWEST_IMAGES
    assert len({entry["SEED"]["content"][0] for entry in entries}) == FEWEST_IMAGES
    assert {entry["NUM_INFERENCE_STEPS"]["content"][0] for entry in entries} == {8}


def test_runs_have_different_images() -> None:
    one, other = (inputs.of_images(4, occasion, WORK) for occasion in ("one", "other"))
    assert not {elements_of(entry["IMAGE"])[0] for entry in one} & {elements_of(entry["IMAGE"])[0] for entry in other}


def test_requests_for_shared_memory_have_a_valid_value_for_every_input() -> None:
    (entry,) = inputs.of_every_input(1, "x", WORK, adapter="greyscale")
    assert set(entry) == {tensor.name for tensor in FLUX_REDUX.inputs}
    for tensor in FLUX_REDUX.inputs:
        content, shape = entry[tensor.name]["content"], entry[tensor.name]["shape"]
        if isinstance(content, list):
            values = tensor.array(content)
        elif tensor.dtype is DType.BYTES:
            values = tensor.array(elements_of(entry[tensor.name]))
        else:
            values = np.frombuffer(base64.b64decode(content["b64"]), tensor.dtype.numpy_type)
        tensor.check("flux_redux", values.reshape(shape))
    assert elements_of(entry["LORA"]) == [b"greyscale"]
    assert elements_of(entry["IMAGE_MASK"]) == [b""]


def test_context_tokens_survive_encoding() -> None:
    context = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    entry = inputs.entry_of(CONTEXT, context)
    assert entry["shape"] == [3, 5]
    decoded = np.frombuffer(base64.b64decode(entry["content"]["b64"]), np.float32).reshape(entry["shape"])
    np.testing.assert_array_equal(decoded, context)


def test_reads_times_and_images_from_export_of_a_stream() -> None:
    """Recorded with perf_analyzer 2.51 on flux_stream: three requests, with truncated images."""
    requests = read_export(RECORDED / "stream.export.json")
    raw = json.loads((RECORDED / "stream.export.json").read_text(encoding="latin-1"))["experiments"][0]["requests"]
    assert len(requests) == 3
    for request, one in zip(requests, sorted(raw, key=lambda one: one["timestamp"]), strict=True):
        assert request.has_image
        stamps = one["response_timestamps"]
        assert len(stamps) == 10  # the start, eight steps, the image
        assert request.latency_s == pytest.approx(1e-9 * (stamps[-1] - one["timestamp"]), abs=1e-9)
        assert request.first_s - request.sent_s == pytest.approx(1e-9 * (stamps[0] - one["timestamp"]), abs=1e-9)
    summary = summed_up(requests)
    assert summary.images == 3
    assert summary.first_s is not None
    assert summary.first_s < summary.p50_s


def export(tmp_path: Path, *requests: dict[str, Any]) -> Path:
    file = tmp_path / "x.export.json"
    file.write_text(json.dumps({"experiments": [{"requests": requests}]}))
    return file


def request(sent_ms: int, *answers_ms: int, image: str = "PNG") -> dict[str, Any]:
    start = 1_795_732_957_000_000_000
    stamps = [start + 1_000_000 * at for at in answers_ms]
    outputs = [{"OUTPUT_IMAGE": image} for _ in answers_ms]
    return {"timestamp": start + 1_000_000 * sent_ms, "response_timestamps": stamps, "response_outputs": outputs}


def test_throughput_counts_from_first_sending_to_last_response(tmp_path: Path) -> None:
    """perf_analyzer would report 2 per second, because it rounds the 1.6 seconds up."""
    summary = summed_up(read_export(export(tmp_path, *(request(400 * n, 400 * n + 400) for n in range(4)))))
    assert summary == Summary(4, 4, *(pytest.approx(value) for value in (2.5, 0.4, 0.4, 0.4, 0.4)), first_s=None)


def test_requests_without_response_or_image_count_as_failed(tmp_path: Path) -> None:
    file = export(tmp_path, request(0, 100), request(100, 200, image=""), request(200))
    summary = summed_up(read_export(file))
    assert (summary.requests, summary.images) == (2, 1)
    assert measured(summary=summary, asked=3).failed == 2


def test_rejects_empty_export(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.json is not an export"):
        read_export(empty)


def test_reads_printed_output_for_shared_memory() -> None:
    """Recorded with perf_analyzer 2.51. The averages of the server and of its models, further down, are ignored."""
    summary = printed((RECORDED / "shared-memory.txt").read_text(), concurrency=1)
    assert summary.requests == 12
    assert summary.mean_s == pytest.approx(0.528725)
    assert (summary.p50_s, summary.p90_s, summary.p99_s) == pytest.approx((0.528776, 0.611632, 0.702939))
    assert summary.images_per_s == pytest.approx(1 / 0.528725)
    with pytest.raises(ValueError, match="Request count"):
        printed("error: no model", concurrency=1)


def test_percentiles_are_measured_latencies() -> None:
    ten = summed_up([PerfRequest(0.0, float(end), float(end), True) for end in range(1, 11)])
    assert (ten.p50_s, ten.p90_s, ten.p99_s) == (5, 9, 10)
    assert summed_up([PerfRequest(0.0, 7.0, 7.0, True)]).p50_s == 7


PAGE = """
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="flux_prior_redux",version="1"} %d
nv_inference_request_duration_us{model="flux_prior_redux",version="1"} %d
nv_inference_request_success{model="image_encode",version="1"} %d
nv_inference_request_duration_us{model="image_encode",version="1"} %d
nv_inference_request_failure{model="flux_redux",reason="OTHER",version="1"} %d
nv_inference_request_failure{model="flux_redux",reason="BACKEND",version="1"} 0
nv_cache_num_misses_per_model{model="flux_prior_redux",version="1"} %d
flux_queue_seconds_bucket{model="flux_base",instance="0",le="0.01"} 99
flux_queue_seconds_sum{model="flux_base",instance="0"} %f
flux_queue_seconds_count{model="flux_base",instance="0"} %d
flux_job_seconds_sum{model="flux_base",instance="0"} %f
flux_job_seconds_count{model="flux_base",instance="0"} %d
flux_decode_seconds_sum{model="flux_base",instance="0"} %f
flux_decode_seconds_count{model="flux_base",instance="0"} %d
"""


def test_time_in_models_is_the_increase_of_their_counters() -> None:
    before = parse_counters(PAGE % (10, 999, 10, 999, 3, 7, 5.0, 10, 50.0, 10, 1.0, 10))
    after = parse_counters(PAGE % (14, 999 + 4 * 45_000, 14, 999 + 4 * 4_000, 4, 11, 5.04, 14, 50.4, 14, 1.04, 12))
    grown = inside(growth(before, after), "flux_redux")
    assert (grown.failed, grown.cache_misses, grown.cache_hits) == (1, 4, 0)
    assert grown.prior_s == pytest.approx(0.045)
    assert grown.queue_s == pytest.approx(0.01)
    assert grown.decode_s == pytest.approx(0.02)
    assert grown.denoise_s == pytest.approx(0.07)  # of 0.1 in the engine
    assert grown.encode_s == pytest.approx(0.004)
    assert inside({}, "flux_redux") == Inside(0, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


def measured(name: str = GRPC.name, round: int = 0, p50_s: float = 0.1, **changed: Any) -> Measured:
    summary = Summary(30, 30, 1 / p50_s, p50_s, p50_s, p50_s, p50_s)
    quiet = Inside(0, 0, 30, 0.04, 0.0, 0.04, 0.01, 0.005)
    return replace(Measured(name, "concurrency 1", round, 30, summary, quiet), **changed)


def test_overhead_is_median_difference_over_rounds() -> None:
    turns = [
        *(measured(BASE.name, number, p50_s) for number, p50_s in enumerate((0.10, 0.20, 0.10))),
        *(measured(GRPC.name, number, p50_s) for number, p50_s in enumerate((0.15, 0.26, 0.19))),
    ]
    found = report.overhead(turns, GRPC.name)
    assert found is not None
    assert found.seconds == pytest.approx((0.05, 0.06, 0.09))
    assert found.shares == pytest.approx((0.5, 0.3, 0.9))
    assert str(found) == "60.0 ms, 50 % (50.0 to 90.0 ms)"


def test_overhead_ignores_round_without_flux_base() -> None:
    turns = [measured(BASE.name, 0, 0.1), measured(GRPC.name, 0, 0.15), measured(GRPC.name, 1, 0.9)]
    turns.append(measured(BASE.name, 1, summary=None, error="exit status 99"))
    found = report.overhead(turns, GRPC.name)
    assert found is not None
    assert found.seconds == pytest.approx((0.05,))
    assert report.overhead(turns[:1], GRPC.name) is None


def test_report_lists_failed_requests_and_missing_results() -> None:
    results = PerfResults({}, [measured(), measured(summary=None, error="exit status 99: no model")])
    found = report.sections(results)
    assert found["errors"] == f"- {GRPC.name}, concurrency 1: 30 failed. exit status 99: no model"
    assert "| – |" in found["runs"]
    assert report.sections(PerfResults({}, [measured()]))["errors"] == "None in 30 requests."


def test_shares_add_up_to_latency() -> None:
    row = report.shares_table([measured(p50_s=0.1)]).splitlines()[-1]
    assert row.endswith("| 40.0 (40 %) | 0.0 (0 %) | 40.0 (40 %) | 10.0 (10 %) | 5.0 (5 %) | 5.0 (5 %) |")


def test_results_survive_saving_and_loading(tmp_path: Path) -> None:
    results = PerfResults({"a": "b"}, [measured(summary=None, error="x")], [measured(SEEN.name, 3)])
    results.save(tmp_path / "results.json")
    assert PerfResults.load(tmp_path / "results.json") == results


def test_every_interface_is_measured_at_concurrency_1_and_4() -> None:
    cases = closed()
    assert {case.concurrency for case in cases} == {1, 4}
    assert {case.protocol for case in cases} == {"grpc", "http"}
    assert any(case.streaming for case in cases)
    assert any(case.shared_memory for case in cases)
    assert not any(case.shared_memory for case in closed(has_adapter=False))
    assert not any(case.protocol == "http" for case in closed(has_http=False))


def test_open_loop_may_have_more_than_four_requests_in_flight() -> None:
    (slow, fast) = opened(10.0)
    assert (slow.rate, fast.rate) == (4.0, 7.0)
    arguments = fast.arguments("localhost:1", Path("data"), 60, Path("export"), 1)
    assert {"--request-rate-range=7.000", "--request-distribution=poisson", f"--max-threads={OPEN_THREADS}"} <= set(
        arguments
    )
    assert not any(argument.startswith("--concurrency-range") for argument in arguments)


def stand_in(folder: Path, says: str, status: int = 0) -> Path:
    """Write a fake perf_analyzer that prints a text and exits with a status."""
    file = folder / "perf_analyzer"
    file.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    file.chmod(0o755)
    return file


def test_accepts_only_binary_that_reports_its_version(tmp_path: Path) -> None:
    said = "Perf Analyzer Version 2.51.0 (commit unknown)"
    assert binary.tried(stand_in(tmp_path, said)) == Binary(tmp_path / "perf_analyzer", "2.51.0")
    with pytest.raises(NoBinary, match="exit status 127"):
        binary.tried(stand_in(tmp_path, said, status=127))
    with pytest.raises(NoBinary, match="No such file"):
        binary.tried(tmp_path / "missing")


def test_error_for_missing_library_names_its_package(tmp_path: Path) -> None:
    said = "error while loading shared libraries: libb64.so.0d: cannot open shared object file"
    with pytest.raises(NoBinary, match=r"libb64\.so\.0d.*; install libb64-0d"):
        binary.tried(stand_in(tmp_path, said, status=127))


def test_rejects_script_on_path_and_old_glibc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "Perf Analyzer Version 0.1.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "glibc_version", lambda: (2, 31))
    with pytest.raises(NoBinary) as caught:
        binary.find_binary(tmp_path / "folder")
    assert "is a script that drops the exit status" in str(caught.value)
    assert "perf-analyzer-2.60.0 needs glibc 2.38, this machine has 2.31" in str(caught.value)
    assert "tritonclient-2.51.0 needs glibc 2.34, this machine has 2.31" in str(caught.value)


def test_reuses_unpacked_binary(tmp_path: Path) -> None:
    source = Source("some-1.0", "1.0", (2, 34), ("some==1.0",), "bin/perf_analyzer", ("lib",))
    (tmp_path / "some-1.0" / "bin").mkdir(parents=True)
    file = stand_in(tmp_path / "some-1.0" / "bin", "Perf Analyzer Version 0.0.0 (commit 3a49a23)")
    found = binary.from_wheels(source, tmp_path)
    assert found == Binary(file, "1.0", (tmp_path / "some-1.0" / "lib",))
    assert found.environment["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "some-1.0" / "lib")


def test_wheel_version_overrides_version_of_binary(tmp_path: Path) -> None:
    """The binary of perf-analyzer 2.60.0 reports 0.0.0, so a binary on PATH is only identified by its commit."""
    said = "Perf Analyzer Version 0.0.0 (commit 3a49a23)"
    assert binary.tried(stand_in(tmp_path, said)).version == "0.0.0 (commit 3a49a23)"
    (tmp_path / "some-2.60.0").mkdir()
    stand_in(tmp_path / "some-2.60.0", said)
    source = Source("some-2.60.0", "2.60.0", (2, 38), ("some==2.60.0",), "perf_analyzer")
    assert binary.from_wheels(source, tmp_path).version == "2.60.0"


def test_newest_wheel_comes_first() -> None:
    assert [source.glibc for source in binary.SOURCES] == [(2, 38), (2, 34)]
    assert binary.parsed("2.36") == (2, 36) < binary.SOURCES[0].glibc
    assert binary.parsed("2.9.1") == (2, 9)


def test_removes_only_files_of_an_earlier_run(tmp_path: Path) -> None:
    theirs = ["thesis.txt", "2026-flux.txt", "x.export.json", "src/report.md"]
    ours = ["07-flux_redux.export.json", "107-flux_base.txt", "contexts.json", "images.json", "results.json"]
    (tmp_path / "src").mkdir()
    for name in theirs + ours:
        (tmp_path / name).touch()
    command.cleared(tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(theirs)


def test_unreachable_server_is_reported_in_one_line_and_old_report_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (port,) = free_ports(1)
    (tmp_path / "report.md").touch()
    monkeypatch.setattr(command, "find_binary", lambda: Binary(tmp_path / "perf_analyzer", "2.51.0"))
    monkeypatch.setattr(command, "end_on_signals", lambda: None)
    monkeypatch.setattr("sys.argv", ["scripts/perf", "--url", f"127.0.0.1:{port}", "--output", str(tmp_path)])
    assert command.main() == 1
    said = capsys.readouterr().err
    assert said.startswith(f"scripts/perf: gRPC at 127.0.0.1:{port}: ")
    assert "Traceback" not in said
    assert (tmp_path / "report.md").exists()


def test_rejects_address_without_port() -> None:
    with pytest.raises(NoServer, match="gRPC at nonsense"):
        check(Server("nonsense", None, "http://:8002/metrics"))


def test_model_analyzer_searches_only_valid_parameters_of_flux_base() -> None:
    """Each name is a parameter of its config.pbtxt, and the engine accepts each value."""
    config = yaml.safe_load(MODEL_ANALYZER.read_text())
    (searched,) = config["profile_models"].items()
    assert searched[0] == FLUX_BASE.name
    parameters = searched[1]["model_config_parameters"]["parameters"]
    assert parameters
    for name, values in parameters.items():
        for value in values["string_value"]:
            ModelSettings.from_config(FLUX_BASE, {"parameters": {name: {"string_value": value}}})
