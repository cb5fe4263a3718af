"""The launcher with a stand-in `tritonserver`: checks before it serves, and how it stops."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread

import psutil
import pytest

from flux_contract.errors import CannotStart
from flux_serving.launch import ending, gateway, guardian
from flux_serving.launch.gateway import Gateway
from flux_serving.launch.processes import Terminated, free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.launch.serving import Serving
from flux_serving.launch.supervisor import NEVER, RestartPolicy, State, supervise
from stand_in_triton import StandInTriton
from stub_checkpoints import stub_checkpoints
from waiting import within

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent
#: Seconds within which processes start on a busy machine.
START_S = 60.0


@pytest.fixture
def triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandInTriton:
    stand_in = StandInTriton(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(stand_in.folder), prepend=":")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return stand_in


@pytest.fixture
def options(tmp_path: Path) -> ServerOptions:
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free_ports(), strict=True))
    return ServerOptions(ROOT / "model_repository", stub_checkpoints(tmp_path), exit_timeout_s=5, **ports)


class Launcher:
    """The parts of a launcher. log: the lines that it wrote."""

    def __init__(self, options: ServerOptions, policy: RestartPolicy = NEVER) -> None:
        self.options = options
        self.log: list[str] = []
        self._policy = policy

    def serving(self, make_gateway: Callable[[], Gateway] | None = None) -> Serving:
        return Serving(self.options, make_gateway, self._policy, self.log.append)


def test_server_is_ready_with_all_model_processes(triton: StandInTriton, options: ServerOptions) -> None:
    launcher = Launcher(options)
    with launcher.serving() as serving:
        serving.wait_until_ready()
        assert serving.triton.state is State.READY


@pytest.mark.parametrize(("model", "alive"), [("flux_base", "1 of 2"), ("flux_stream", "0 of 1")])
def test_launcher_ends_if_model_process_ends_during_first_start(
    triton: StandInTriton, options: ServerOptions, model: str, alive: str
) -> None:
    triton.lose({0: model})
    said = rf"a model's process has ended \({model}: {alive} processes are alive\) before it was ready"
    with pytest.raises(CannotStart, match=said), Launcher(options).serving() as serving:
        serving.wait_until_ready()
    assert not list(ending.members(triton.pids[0]))


def test_restarts_again_if_model_process_ends_during_restart(triton: StandInTriton, options: ServerOptions) -> None:
    triton.lose({1: "flux_stream"})
    launcher = Launcher(options, RestartPolicy(first_delay_s=0.1))
    with launcher.serving() as serving:
        serving.wait_until_ready()
        ending.kill_group(triton.pids[0])
        assert within(START_S, lambda: serving.triton.look() or len(triton.pids) == 3)
        assert within(START_S, lambda: serving.triton.look() or serving.triton.state is State.READY)
    assert any("flux_stream: 0 of 1 processes are alive" in line for line in launcher.log)


def test_server_names_model_process_that_ended_before_it_was_ready(
    triton: StandInTriton, options: ServerOptions
) -> None:
    triton.lose({0: "flux_stream"})
    with TritonServer(options) as server, pytest.raises(CannotStart, match="flux_stream: 0 of 1 processes are alive"):
        server.wait_until_ready(START_S)


def stop_when_ready(serving: Serving, signalled: SystemExit) -> None:
    serving.wait_until_ready()
    raise signalled


def test_sigterm_reports_the_images_that_the_stop_waits_for(triton: StandInTriton, options: ServerOptions) -> None:
    launcher = Launcher(replace(options, exit_timeout_s=1))
    triton.report_metrics('flux_jobs_waiting{model="flux_base"} 2\nflux_jobs_running{model="flux_base"} 1\n')
    with pytest.raises(Terminated), launcher.serving() as serving:
        stop_when_ready(serving, Terminated(0))
    expected = "stopping: waiting up to 1 s for running requests (3 images in progress)"
    assert launcher.log == [expected, "stopped"]


@pytest.mark.parametrize(
    ("has_gateway", "expected"),
    [
        (False, "stopping without waiting for running requests (1 image in progress); SIGTERM waits for them"),
        (
            True,
            "stopping: waiting up to 5 s for requests to the gateway, but not for requests sent to Triton directly "
            "(1 image in progress)",
        ),
    ],
)
def test_ctrl_c_says_which_requests_the_stop_waits_for(
    triton: StandInTriton, options: ServerOptions, has_gateway: bool, expected: str
) -> None:
    launcher = Launcher(options)
    triton.report_metrics('flux_jobs_running{model="flux_base"} 1\n')
    make_gateway = partial(Gateway, options.grpc_url, "127.0.0.1", free_ports(1)[0]) if has_gateway else None
    with pytest.raises(SystemExit), launcher.serving(make_gateway) as serving:
        stop_when_ready(serving, SystemExit(0))
    assert launcher.log == [expected, "stopped"]


def test_rejects_second_launcher_while_first_is_loading(triton: StandInTriton, options: ServerOptions) -> None:
    triton.load_for(600)
    with Launcher(options).serving():
        with (
            pytest.raises(CannotStart, match=f"port {options.http_port} is reserved by another launcher"),
            Launcher(options).serving(),
        ):
            pass
        others = dict(zip(("http_port", "metrics_port"), free_ports(2), strict=True))
        with (
            pytest.raises(CannotStart, match=f"port {options.grpc_port} is reserved by another launcher"),
            Launcher(replace(options, **others)).serving(),
        ):
            pass
        assert len(triton.pids) <= 1
    with Launcher(options).serving():
        """The ports are free again."""


def test_failed_launcher_releases_its_ports(triton: StandInTriton, options: ServerOptions) -> None:
    for _ in range(2):
        with (
            pytest.raises(CannotStart, match="cannot listen on"),
            Launcher(options).serving(lambda: Gateway(options.grpc_url, "999.1.1.1", 12411)),
        ):
            pass
    assert triton.pids == []


def test_replaces_guardian_that_ends(
    triton: StandInTriton, options: ServerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardian, "_REPLACE_S", 0.5)
    launcher = Launcher(options)
    with launcher.serving() as serving:
        serving.wait_until_ready()
        first = guardian_of(triton.pids[0])
        os.kill(first, signal.SIGKILL)
        replaced = "Triton's guardian process has ended; started a new one"
        supervise([serving.triton], lambda: replaced in launcher.log, serving._after_look)
        second = guardian_of(triton.pids[0])
        assert second != first
        # A stopped guardian does not keep the launcher from ending.
        monkeypatch.setattr(guardian, "_DISMISS_S", 0.5)
        os.kill(second, signal.SIGSTOP)
    assert not ending.is_running(second)


def guardian_of(group: int) -> int:
    """Returns the process id of the guardian of this group."""
    for child in psutil.Process().children():
        # Another test may have left a process that has ended.
        words = [] if child.status() == psutil.STATUS_ZOMBIE else child.cmdline()
        if ending.__file__ in words and words[-4] == str(group):
            return child.pid
    raise AssertionError("no guardian")


class HungGateway:
    """Accepts connections and answers only the first `good` of them."""

    def __init__(self, good: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._good = good
        self._thread = Thread(target=self._answer)

    def _answer(self) -> None:
        for _ in range(self._good):
            connection, _ = self._listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    def __enter__(self) -> HungGateway:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def waiting() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_gateway_fails_after_consecutive_timeouts(
    waiting: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "_ASK_PAUSE_S", 0.0)
    monkeypatch.setattr(gateway, "_ASK_S", 0.2)
    with HungGateway(good=3) as hung:
        run = Gateway("127.0.0.1:1", "127.0.0.1", hung.port)
        run._process = waiting
        assert run.failure() is None, "it does not listen yet"
        assert run.is_ready()
        # 503 is an answer.
        assert [run.failure() for _ in range(4)] == [None] * 4
        assert run.failure() == "the gateway hangs: it does not answer /health"


def test_gateway_that_closes_connections_is_not_hung(
    waiting: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway at its connection limit does so; a restart would end its running requests."""
    monkeypatch.setattr(gateway, "_ASK_PAUSE_S", 0.0)
    with HungGateway(good=1) as hung:
        run = Gateway("127.0.0.1:1", "127.0.0.1", hung.port)
        run._process = waiting
        assert run.is_ready()
    assert [run.failure() for _ in range(5)] == [None] * 5
