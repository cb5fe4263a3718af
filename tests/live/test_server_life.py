"""Starting, stopping and dying: nothing hangs, nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import DEMO, ROOT, start_server
from flux_client import FluxClient, FluxError, NotConnected, RetryPolicy, Unreachable
from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import TritonServer
from pictures import drawn_picture
from raw import engine_metrics

pytestmark = pytest.mark.live


def processes_of_group(group: int) -> list[int]:
    alive = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                alive.append(int(entry.name))
    return alive


def wait_until_denoising(server: TritonServer) -> None:
    """Until flux_base has taken a step, with many to go."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if engine_metrics(server)["flux_step_seconds_count"] > 0:
            return
        time.sleep(0.1)
    raise AssertionError("no request came")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_killing_the_server_under_a_request_gives_an_error_and_no_hang(
    mortal_server: TritonServer, protocol: str
) -> None:
    url = mortal_server.grpc_url if protocol == "grpc" else mortal_server.http_url
    outcomes: list[tuple[Exception, float]] = []

    def call() -> None:
        with FluxClient(url, protocol=protocol) as client:  # type: ignore[arg-type]
            try:
                client.redux(drawn_picture(1), height=512, width=512, num_inference_steps=100, timeout_s=120)
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


def test_stopping_under_a_request_answers_it_and_leaves_nothing(tmp_path: Path) -> None:
    outcomes: list[object] = []
    before = set(Path("/dev/shm").iterdir())
    for server in start_server(DEMO, tmp_path / "triton.log"):
        # A Triton that stops refuses the ensemble's next model; the client would ask again for half a minute.
        def call(url: str = server.grpc_url) -> None:
            with FluxClient(url, retry=RetryPolicy(attempts=1)) as client:
                try:
                    outcomes.append(client.redux(drawn_picture(1), num_inference_steps=100, timeout_s=60))
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


def test_serve_says_which_checkpoint_is_not_named() -> None:
    with serve() as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip() == (
        "scripts/serve: not set: FLUX_MODEL_PATH, FLUX_REDUX_MODEL_PATH; "
        "each names a checkpoint folder in diffusers layout"
    )


def test_serve_says_what_is_missing_of_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
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


@pytest.fixture
def served() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`scripts/serve` once it is ready, and the process group of its Triton."""
    ports = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), free_ports(), strict=True)]
    with serve(*ports, FLUX_MODEL_PATH=str(DEMO.base), FLUX_REDUX_MODEL_PATH=str(DEMO.redux)) as process:
        assert process.stderr is not None
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: http 127.0.0.1:")
        (triton,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
        yield process, triton
        process.kill()
        drain.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_serve_ends_by_a_signal_with_all_it_started(
    served: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, triton = served
    process.send_signal(number)
    assert process.wait(60) == 0
    assert processes_of_group(triton) == []


def test_triton_ends_when_serve_is_killed(served: tuple[subprocess.Popen[str], int]) -> None:
    process, triton = served
    process.kill()
    limit = time.monotonic() + 60
    while processes_of_group(triton) and time.monotonic() < limit:
        time.sleep(0.2)
    assert processes_of_group(triton) == []


def test_serve_ends_when_a_model_dies_under_it(served: tuple[subprocess.Popen[str], int]) -> None:
    """Triton 2.51 would stay ready and refuse every request of that model."""
    process, triton = served
    stub = next(p for p in processes_of_group(triton) if "flux_base" in Path(f"/proc/{p}/cmdline").read_text())
    os.kill(stub, signal.SIGKILL)
    assert process.wait(90) == 1
    assert processes_of_group(triton) == []
