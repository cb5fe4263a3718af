"""NVIDIA's perf_analyzer on the real server, as scripts/perf runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flux_serving.launch.server import TritonServer
from flux_tools.perf import inputs
from flux_tools.perf.binary import SOURCES, Binary, NoBinary, find_binary, glibc_version
from flux_tools.perf.cases import BASE, GRPC, SEEN, Case, Data
from flux_tools.perf.inputs import Work
from flux_tools.perf.options import FEWEST_IMAGES
from flux_tools.perf.runs import PerfRunner
from flux_tools.perf.servers import NoServer, Server, check

pytestmark = pytest.mark.live

STREAM = Case("stream", "flux_stream", concurrency=4, streaming=True, parts=2)
SHARED = Case("shared memory", "flux_redux", Data.EVERY_INPUT, shared_memory=True, parts=5)


@pytest.fixture(scope="module")
def perf_analyzer() -> Binary:
    try:
        return find_binary()
    except NoBinary as error:
        if glibc_version() < SOURCES[-1].glibc or "libb64" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture
def runner(perf_analyzer: Binary, demo_server: TritonServer, tmp_path: Path) -> PerfRunner:
    return runner_of(perf_analyzer, demo_server, tmp_path, Work(side=64, steps=2))


def server_of(server: TritonServer) -> Server:
    metrics = f"http://127.0.0.1:{server.options.metrics_port}/metrics"
    return Server(server.grpc_url, server.http_url, metrics, adapter="greyscale", key=server.options.api_key)


def runner_of(perf_analyzer: Binary, server: TritonServer, folder: Path, work: Work) -> PerfRunner:
    return PerfRunner(perf_analyzer, server_of(server), folder, FEWEST_IMAGES, work)


def test_generates_fifty_images_without_cache_hits(runner: PerfRunner, tmp_path: Path) -> None:
    measured = runner.measure(replace(GRPC, concurrency=4))
    assert measured.error == ""
    assert measured.summary is not None
    assert measured.summary.requests == measured.summary.images == FEWEST_IMAGES
    assert measured.failed == 0
    assert (measured.inside.cache_misses, measured.inside.cache_hits) == (FEWEST_IMAGES, 0)
    sent = json.loads((tmp_path / "images.json").read_text())["data"]
    assert len({entry["IMAGE"]["content"]["b64"] for entry in sent}) == FEWEST_IMAGES

    inside = measured.inside
    assert 0 < inside.prior_s < measured.summary.mean_s
    assert 0 < inside.denoise_s + inside.decode_s < measured.summary.mean_s

    again = runner.measure(replace(SEEN, concurrency=4))
    assert (again.inside.cache_misses, again.inside.cache_hits, again.failed) == (0, FEWEST_IMAGES, 0)


@pytest.mark.parametrize(
    "case", [replace(GRPC, protocol="http", parts=5), replace(GRPC, rate=5.0, parts=5), STREAM, SHARED, BASE]
)
def test_every_protocol_returns_images(runner: PerfRunner, case: Case) -> None:
    measured = runner.measure(case)
    assert (measured.error, measured.failed) == ("", 0)
    assert measured.summary is not None
    assert measured.summary.images == measured.asked >= FEWEST_IMAGES // case.parts
    assert (measured.summary.first_s is not None) == case.streaming
    assert measured.inside.denoise_s > 0


def test_reports_requests_that_the_server_rejects(
    perf_analyzer: Binary, demo_server: TritonServer, tmp_path: Path
) -> None:
    measured = runner_of(perf_analyzer, demo_server, tmp_path, Work(side=63, steps=2)).measure(GRPC)
    assert "HEIGHT=63" in measured.error
    assert measured.summary is None
    assert measured.failed == FEWEST_IMAGES


def test_contexts_as_large_as_flux1s_are_few_and_are_not_exported(
    runner: PerfRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = inputs.of_contexts(1, "x", Work(side=64, steps=2), runner.server.grpc)
    monkeypatch.setattr(inputs, "LARGEST_FILE", 3 * inputs.size_of(entry))
    monkeypatch.setattr(inputs, "LARGEST_EXPORTED", inputs.size_of(entry) - 1)
    measured = runner.measure(replace(BASE, parts=5))
    assert (measured.error, measured.failed) == ("", 0)
    assert measured.summary is not None
    assert measured.summary.requests == measured.asked == FEWEST_IMAGES // 5
    assert 0 < measured.inside.denoise_s < measured.summary.mean_s
    assert len(json.loads((tmp_path / "contexts.json").read_text())["data"]) == 3
    assert not list(tmp_path.glob("*.export.json"))


def test_checks_every_protocol_before_measuring(demo_server: TritonServer) -> None:
    server = server_of(demo_server)
    check(server)
    with pytest.raises(NoServer, match=f"http://{server.grpc}/v2/health/ready: "):
        check(replace(server, http=server.grpc))
    with pytest.raises(NoServer, match="no metrics of Triton"):
        check(replace(server, metrics_url=f"http://{server.http}/v2"))
