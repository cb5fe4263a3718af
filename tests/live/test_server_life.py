"""Start, stop and crash of the server: nothing hangs, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import DEMO, ROOT, start_server
from flux_client import FluxClient, FluxError, ImageResult, NotConnected, Progress, RetryPolicy, Unreachable
from flux_serving.launch.probe import Dead, look
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from flux_serving.launch.stubs import running_instances
from flux_serving.settings import Checkpoints
from images import drawn_image
from launched import processes_of_group, stub_of
from raw import engine_metrics
from stub_checkpoints import stub_component

pytestmark = pytest.mark.live


def wait_until_denoising(server: TritonServer) -> None:
    """Wait until flux_base has run a step and has many left."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if engine_metrics(server)["flux_step_seconds_count"] > 0:
            return
        time.sleep(0.1)
    raise AssertionError("no request came")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_killing_server_fails_running_request_without_hang(mortal_server: TritonServer, protocol: str) -> None:
    url = mortal_server.grpc_url if protocol == "grpc" else mortal_server.http_url
    outcomes: list[tuple[Exception, float]] = []

    def call() -> None:
        with FluxClient(url, protocol=protocol) as client:  # type: ignore[arg-type]
            try:
                client.redux(drawn_image(1), height=512, width=512, num_inference_steps=100, timeout_s=120)
            except FluxError as error:
                outcomes.append((error, time.monotonic()))

    caller = threading.Thread(target=call)
    caller.start()
    wait_until_denoising(mortal_server)
    killed = time.monotonic()
    mortal_server.kill()
    caller.join(30)
    assert not caller.is_alive()
    ((error, when),) = outcomes
    assert isinstance(error, Unreachable), repr(error)
    assert not isinstance(error, NotConnected), "the request was under way"
    assert when - killed < 20
    assert processes_of_group(mortal_server.pid) == []


def test_probe_fails_only_with_dead_stub(mortal_server: TritonServer) -> None:
    host, port = mortal_server.options.host, mortal_server.options.http_port
    look(host, port, 10)
    assert running_instances(mortal_server.pid)["image_encode"] == 2
    os.kill(stub_of("flux_base", mortal_server.pid), signal.SIGKILL)
    probe = [sys.executable, "-m", "flux_serving.launch.probe", f"--http-port={port}"]
    asked = subprocess.run(probe, capture_output=True, text=True, timeout=60)
    assert asked.returncode == 1
    assert asked.stderr.strip() == "probe: flux_base: 0 of 1 processes are alive"
    # flux_status no longer lists the instance, and still responds.
    for url, protocol in ((mortal_server.grpc_url, "grpc"), (mortal_server.http_url, "http")):
        with FluxClient(url, protocol=protocol) as client:  # type: ignore[arg-type]
            limit = time.monotonic() + 10
            while client.instances() and time.monotonic() < limit:
                time.sleep(0.2)
            assert client.instances() == []
    mortal_server.kill()
    with pytest.raises(Dead, match="does not answer"):
        look(host, port, 10)


def test_stopping_answers_running_request_and_leaves_nothing(tmp_path: Path) -> None:
    outcomes: list[object] = []
    before = set(Path("/dev/shm").iterdir())
    for server in start_server(DEMO, tmp_path / "triton.log"):
        # A stopping Triton refuses the ensemble's next model; the client would retry for half a minute.
        def call(url: str = server.grpc_url) -> None:
            with FluxClient(url, retry=RetryPolicy(attempts=1)) as client:
                try:
                    outcomes.append(client.redux(drawn_image(1), num_inference_steps=100, timeout_s=60))
                except FluxError as error:
                    outcomes.append(error)

        caller = threading.Thread(target=call)
        caller.start()
        wait_until_denoising(server)
        group = server.pid
    caller.join(30)
    assert not caller.is_alive()
    assert len(outcomes) == 1
    assert processes_of_group(group) == []
    left = {path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith("flux-triton")}
    assert left == set()


def serve(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flux_serving.launch", "--model-repository", ROOT / "model_repository", *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith("FLUX_")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_serve_names_variable_that_is_not_set() -> None:
    with serve() as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip() == (
        "scripts/serve: not set: FLUX_MODEL_PATH, FLUX_REDUX_MODEL_PATH; "
        "each names a checkpoint folder in diffusers layout"
    )


def test_serve_names_missing_files_of_checkpoint(tmp_path: Path) -> None:
    stub_component(tmp_path / "transformer", Checkpoints.BASE_PARTS["transformer"])
    with serve(FLUX_MODEL_PATH=str(tmp_path), FLUX_REDUX_MODEL_PATH=str(tmp_path / "nowhere")) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    for line in (
        f"{tmp_path} has no model_index.json",
        "has no vae",
        "has no scheduler",
        f"no folder {tmp_path}/nowhere",
    ):
        assert line in said
    assert "transformer" not in said


class Served(NamedTuple):
    """Yields `scripts/serve` once it is ready, and the process group of its Triton."""

    process: subprocess.Popen[str]
    triton: int
    grpc_url: str


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Yields a launcher with the test's arguments."""
    http, grpc, metrics = free_ports()
    ports = [f"--http-port={http}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    ports += getattr(request, "param", ())
    with serve(*ports, FLUX_MODEL_PATH=str(DEMO.base), FLUX_REDUX_MODEL_PATH=str(DEMO.redux)) as process:
        assert process.stderr is not None
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: http 127.0.0.1:")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (triton,) = (int(pid) for pid in children if "tritonserver" in Path(f"/proc/{pid}/comm").read_text())
        yield Served(process, triton, f"127.0.0.1:{grpc}")
        process.kill()
        drain.join()


def test_serve_completes_running_requests_after_sigterm(served: Served) -> None:
    once = RetryPolicy(attempts=1)
    with (
        FluxClient(served.grpc_url, retry=once) as client,
        client.stream(drawn_image(1), num_images=2, num_inference_steps=50) as events,
    ):
        assert isinstance(next(events), Progress)
        served.process.send_signal(signal.SIGTERM)
        assert sum(isinstance(event, ImageResult) for event in events) == 2
    assert served.process.wait(60) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_serve_and_all_its_processes(served: Served, number: signal.Signals) -> None:
    served.process.send_signal(number)
    assert served.process.wait(60) == 0
    assert processes_of_group(served.triton) == []


def test_triton_ends_when_serve_is_killed(served: Served) -> None:
    served.process.kill()
    limit = time.monotonic() + 60
    while processes_of_group(served.triton) and time.monotonic() < limit:
        time.sleep(0.2)
    assert processes_of_group(served.triton) == []


@pytest.mark.parametrize("served", [["--restart=never"]], indirect=True)
def test_serve_without_restarts_ends_when_model_dies(served: Served) -> None:
    """Triton 2.51 would stay ready and reject every request to that model; its stop would take 30 s."""
    os.kill(stub_of("flux_base", served.triton), signal.SIGKILL)
    assert served.process.wait(15) == 1
    assert processes_of_group(served.triton) == []
