"""Options, port checks and interruption of `scripts/demo`."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from flux_serving.launch.ports import reserved
from flux_serving.launch.processes import free_ports
from flux_tools.demo import __main__ as demo
from flux_tools.demo.options import PORTS, SERVED_PORTS, read_options, unavailable_ports
from flux_tools.demo.progress import Phase, Progress


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> argparse.Namespace:
    monkeypatch.setattr(sys, "argv", ["demo", *request.param])
    return read_options()


@pytest.mark.parametrize("options", [()], indirect=True)
def test_without_serve_no_port_is_fixed(options: argparse.Namespace) -> None:
    assert [getattr(options, name) for name in PORTS] == [None] * 4
    assert unavailable_ports(options) == []


@pytest.mark.parametrize("options", [("--serve", "--grpc-port=9001")], indirect=True)
def test_serve_has_default_ports_that_options_replace(options: argparse.Namespace) -> None:
    assert {name: getattr(options, name) for name in PORTS} == SERVED_PORTS | {"grpc_port": 9001}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--gateway-port=12411"], "--gateway-port requires --serve"),
        (["--http-port=0"], "argument --http-port: '0', expected 1..65535"),
        (["--serve", "--http-port=8001"], "--http-port and --grpc-port are both 8001, expected different ports"),
    ],
)
def test_rejects_invalid_ports(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    with pytest.raises(SystemExit):
        read_options()
    assert capsys.readouterr().err.splitlines()[-1] == f"scripts/demo: error: {reason}"


def test_every_unavailable_port_is_reported_with_its_option() -> None:
    ports = dict(zip(PORTS, free_ports(4), strict=True))
    with socket.create_server(("127.0.0.1", ports["grpc_port"])), reserved([ports["metrics_port"]]):
        listening, loading = unavailable_ports(argparse.Namespace(**ports))
    assert listening.startswith(f"cannot listen on port {ports['grpc_port']} of 127.0.0.1: ")
    assert listening.endswith(" (--grpc-port sets this port)")
    assert loading.startswith(f"port {ports['metrics_port']} is reserved by another launcher")
    assert loading.endswith(" (--metrics-port sets this port)")


@pytest.mark.parametrize(
    ("phase", "written", "status", "said"),
    [
        (Phase.PREPARING, 0, 130, "interrupted before Triton started; no images were generated"),
        (Phase.STARTING, 0, 130, "interrupted while Triton was starting; no images were generated"),
        (Phase.GENERATING, 9, 130, "interrupted while generating variations; 9 images are in {output}"),
        (Phase.STOPPING, 24, 130, "interrupted while Triton was stopping; 24 images are in {output}"),
        # The launcher says what it waits for and that it has stopped.
        (Phase.SERVING, 24, 0, ""),
    ],
    ids=lambda value: value.name if isinstance(value, Phase) else None,
)
def test_ctrl_c_says_in_one_line_what_was_interrupted(
    phase: Phase,
    written: int,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(_options: argparse.Namespace, progress: Progress) -> int:
        progress.phase, progress.written = phase, written
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setitem(sys.modules, "flux_tools.demo.run", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["demo", f"--output={tmp_path}"])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        assert demo.main() == status
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    expected = f"scripts/demo: {said.format(output=tmp_path)}\n" if said else ""
    assert capsys.readouterr().err == expected
