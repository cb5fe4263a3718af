"""What scripts/perf sends to perf_analyzer, reads from it, and works out."""

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
    """The BYTES elements that perf_analyzer would find in a tensor of an entry."""
    raw, elements = base64.b64decode(entry["content"]["b64"]), []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return elements


def test_the_file_holds_as_many_distinct_images_as_it_has_requests(tmp_path: Path) -> None:
    file = inputs.write(tmp_path / "data.json", inputs.of_images(FEWEST_IMAGES, "x", WORK))
    entries = json.loads(file.read_text())["data"]
    images = [element for entry in entries for element in elements_of(entry["IMAGE"])]
    assert len(entries) == len(set(images)) == FEWEST_IMAGES
    assert len({Image.open(io.BytesIO(image)).tobytes() for image in images}) == FEWEST_IMAGES
    assert len({entry["SEED"]["content"][0] for entry in entries}) == FEWEST_IMAGES
    assert {entry["NUM_INFERENCE_STEPS"]["content"][0] for entry in entries} == {8}


def test_another_run_has_other_images() -> None:
    one, other = (inputs.of_images(4, occasion, WORK) for occasion in ("one", "other"))
    assert not {elements_of(entry["IMAGE"])[0] for entry in one} & {elements_of(entry["IMAGE"])[0] for entry in other}


def test_for_shared_memory_no_input_is_left_out_and_each_is_allowed() -> None:
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


def test_context_tokens_come_back_as_they_were() -> None:
    context = np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    entry = inputs.entry_of(CONTEXT, context)
    assert entry["shape"] == [3, 5]
    decoded = np.frombuffer(base64.b64decode(entry["content"]["b64"]), np.float32).reshape(entry["shape"])
    np.testing.assert_array_equal(decoded, context)


def test_an_export_of_a_stream_has_its_requests_times_and_images() -> None:
    """Recorded from perf_analyzer 2.51 on flux_stream; three of its requests, the images cut short."""
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


def test_throughput_is_from_the_first_sending_to_the_last_answer(tmp_path: Path) -> None:
    """perf_analyzer would say 2 a second: it rounds the 1.6 seconds up."""
    summary = summed_up(read_export(export(tmp_path, *(request(400 * n, 400 * n + 400) for n in range(4)))))
    assert summary == Summary(4, 4, *(pytest.approx(value) for value in (2.5, 0.4, 0.4, 0.4, 0.4)), first_s=None)


def test_what_has_no_answer_or_no_image_is_not_counted_as_one(tmp_path: Path) -> None:
    file = export(tmp_path, request(0, 100), request(100, 200, image=""), request(200))
    summary = summed_up(read_export(file))
    assert (summary.requests, summary.images) == (2, 1)
    assert measured(summary=summary, asked=3).failed == 2


def test_an_empty_export_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.touch()
    with pytest.raises(ValueError, match=r"empty\.json is no export"):
        read_export(empty)


def test_with_shared_memory_what_is_printed_counts() -> None:
    """Recorded from perf_analyzer 2.51; the averages of the server and of the inner models, further down, don't."""
    summary = printed((RECORDED / "shared-memory.txt").read_text(), concurrency=1)
    assert summary.requests == 12
    assert summary.mean_s == pytest.approx(0.528725)
    assert (summary.p50_s, summary.p90_s, summary.p99_s) == pytest.approx((0.528776, 0.611632, 0.702939))
    assert summary.images_per_s == pytest.approx(1 / 0.528725)
    with pytest.raises(ValueError, match="Request count"):
        printed("error: no model", concurrency=1)


def test_percentiles_are_values_that_there_were() -> None:
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


def test_the_share_of_the_inner_models_is_what_grew() -> None:
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
    return replace(Measured(name, "1 at a time", round, 30, summary, quiet), **changed)


def test_the_overhead_is_the_median_over_rounds_of_what_the_ensemble_takes_more() -> None:
    turns = [
        *(measured(BASE.name, number, p50_s) for number, p50_s in enumerate((0.10, 0.20, 0.10))),
        *(measured(GRPC.name, number, p50_s) for number, p50_s in enumerate((0.15, 0.26, 0.19))),
    ]
    found = report.overhead(turns, GRPC.name)
    assert found is not None
    assert found.seconds == pytest.approx((0.05, 0.06, 0.09))
    assert found.shares == pytest.approx((0.5, 0.3, 0.9))
    assert str(found) == "60.0 ms, 50 % (50.0 to 90.0 ms)"


def test_a_round_without_flux_base_counts_for_nothing() -> None:
    turns = [measured(BASE.name, 0, 0.1), measured(GRPC.name, 0, 0.15), measured(GRPC.name, 1, 0.9)]
    turns.append(measured(BASE.name, 1, summary=None, error="exit status 99"))
    found = report.overhead(turns, GRPC.name)
    assert found is not None
    assert found.seconds == pytest.approx((0.05,))
    assert report.overhead(turns[:1], GRPC.name) is None


def test_what_failed_is_told_and_what_is_missing_too() -> None:
    results = PerfResults({}, [measured(), measured(summary=None, error="exit status 99: no model")])
    told = report.sections(results)
    assert told["errors"] == f"- {GRPC.name}, 1 at a time: 30 failed. exit status 99: no model"
    assert "| – |" in told["runs"]
    assert report.sections(PerfResults({}, [measured()]))["errors"] == "None in 30 requests."


def test_the_shares_add_up_to_the_latency() -> None:
    row = report.shares_table([measured(p50_s=0.1)]).splitlines()[-1]
    assert row.endswith("| 40.0 (40 %) | 0.0 (0 %) | 40.0 (40 %) | 10.0 (10 %) | 5.0 (5 %) | 5.0 (5 %) |")


def test_results_come_back_from_their_file(tmp_path: Path) -> None:
    results = PerfResults({"a": "b"}, [measured(summary=None, error="x")], [measured(SEEN.name, 3)])
    results.save(tmp_path / "results.json")
    assert PerfResults.load(tmp_path / "results.json") == results


def test_every_way_is_asked_by_one_and_by_four() -> None:
    cases = closed()
    assert {case.concurrency for case in cases} == {1, 4}
    assert {case.protocol for case in cases} == {"grpc", "http"}
    assert any(case.streaming for case in cases)
    assert any(case.shared_memory for case in cases)
    assert not any(case.shared_memory for case in closed(has_adapter=False))
    assert not any(case.protocol == "http" for case in closed(has_http=False))


def test_an_open_loop_may_have_more_under_way_than_perf_analyzers_four() -> None:
    (slow, fast) = opened(10.0)
    assert (slow.rate, fast.rate) == (4.0, 7.0)
    arguments = fast.arguments("localhost:1", Path("data"), 60, Path("export"), 1)
    assert {"--request-rate-range=7.000", "--request-distribution=poisson", f"--max-threads={OPEN_THREADS}"} <= set(
        arguments
    )
    assert not any(argument.startswith("--concurrency-range") for argument in arguments)


def stand_in(folder: Path, says: str, status: int = 0) -> Path:
    """An executable of this name, for what is done about the ways in which one may not work."""
    file = folder / "perf_analyzer"
    file.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    file.chmod(0o755)
    return file


def test_a_binary_is_taken_only_once_it_has_told_its_version(tmp_path: Path) -> None:
    said = "Perf Analyzer Version 2.51.0 (commit unknown)"
    assert binary.tried(stand_in(tmp_path, said)) == Binary(tmp_path / "perf_analyzer", "2.51.0")
    with pytest.raises(NoBinary, match="exit status 127"):
        binary.tried(stand_in(tmp_path, said, status=127))
    with pytest.raises(NoBinary, match="No such file"):
        binary.tried(tmp_path / "missing")


def test_a_missing_library_is_told_with_the_package_that_has_it(tmp_path: Path) -> None:
    said = "error while loading shared libraries: libb64.so.0d: cannot open shared object file"
    with pytest.raises(NoBinary, match=r"libb64\.so\.0d.*; install libb64-0d"):
        binary.tried(stand_in(tmp_path, said, status=127))


def test_a_script_on_path_is_no_binary_and_an_old_glibc_has_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, "Perf Analyzer Version 0.1.0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "glibc_version", lambda: (2, 31))
    with pytest.raises(NoBinary) as caught:
        binary.find_binary(tmp_path / "folder")
    assert "is a script that drops the exit status" in str(caught.value)
    assert "perf-analyzer-2.60.0 needs glibc 2.38, this is 2.31" in str(caught.value)
    assert "tritonclient-2.51.0 needs glibc 2.34, this is 2.31" in str(caught.value)


def test_what_was_unpacked_before_is_used_again(tmp_path: Path) -> None:
    source = Source("some-1.0", "1.0", (2, 34), ("some==1.0",), "bin/perf_analyzer", ("lib",))
    (tmp_path / "some-1.0" / "bin").mkdir(parents=True)
    file = stand_in(tmp_path / "some-1.0" / "bin", "Perf Analyzer Version 0.0.0 (commit 3a49a23)")
    found = binary.from_wheels(source, tmp_path)
    assert found == Binary(file, "1.0", (tmp_path / "some-1.0" / "lib",))
    assert found.environment["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "some-1.0" / "lib")


def test_the_wheels_version_counts_where_the_binary_says_another(tmp_path: Path) -> None:
    """That of perf-analyzer 2.60.0 says 0.0.0, and so the commit is all that tells one on PATH from another."""
    said = "Perf Analyzer Version 0.0.0 (commit 3a49a23)"
    assert binary.tried(stand_in(tmp_path, said)).version == "0.0.0 (commit 3a49a23)"
    (tmp_path / "some-2.60.0").mkdir()
    stand_in(tmp_path / "some-2.60.0", said)
    source = Source("some-2.60.0", "2.60.0", (2, 38), ("some==2.60.0",), "perf_analyzer")
    assert binary.from_wheels(source, tmp_path).version == "2.60.0"


def test_the_newest_wheel_is_for_the_newest_glibc() -> None:
    assert [source.glibc for source in binary.SOURCES] == [(2, 38), (2, 34)]
    assert binary.parsed("2.36") == (2, 36) < binary.SOURCES[0].glibc
    assert binary.parsed("2.9.1") == (2, 9)


def test_of_a_folder_only_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    theirs = ["thesis.txt", "2026-flux.txt", "x.export.json", "src/report.md"]
    ours = ["07-flux_redux.export.json", "107-flux_base.txt", "contexts.json", "images.json", "results.json"]
    (tmp_path / "src").mkdir()
    for name in theirs + ours:
        (tmp_path / name).touch()
    command.cleared(tmp_path)
    assert sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()) == sorted(theirs)


def test_a_server_that_is_not_there_is_told_in_a_line_and_the_last_report_stays(
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


def test_an_address_without_a_port_is_no_server() -> None:
    with pytest.raises(NoServer, match="gRPC at nonsense"):
        check(Server("nonsense", None, "http://:8002/metrics"))


def test_model_analyzer_searches_among_what_flux_base_can_be_set_to() -> None:
    """Each name is a parameter of its config.pbtxt, and the engine reads each value."""
    config = yaml.safe_load(MODEL_ANALYZER.read_text())
    (searched,) = config["profile_models"].items()
    assert searched[0] == FLUX_BASE.name
    parameters = searched[1]["model_config_parameters"]["parameters"]
    assert parameters
    for name, values in parameters.items():
        for value in values["string_value"]:
            ModelSettings.from_config(FLUX_BASE, {"parameters": {name: {"string_value": value}}})
