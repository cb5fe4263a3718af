"""Starts servers as child processes, waits until they are ready, and stops them with all of their processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flux_serving.launch.processes import free_ports
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.launch.urls import fetch
from flux_tools.bench.checkpoint import CHECKPOINTS, ROOT

#: Timeouts in seconds for a server to become ready and to stop.
START_S, STOP_S = 300.0, 20.0

_MODULES = {"fastapi": "fastapi_server", "litserve": "litserve_server", "pytriton": "pytriton_server"}
_READY = {"fastapi": "/health", "litserve": "/health", "pytriton": "/v2/models/flux/ready"}


@dataclass(frozen=True)
class Running:
    """A running server.

    http, grpc: host:port. pid: leader of the server's process group. metrics_url: None for servers other than
    flux-triton.
    """

    http: str
    grpc: str
    pid: int
    metrics_url: str | None = None

    def address(self, caller: str) -> str:
        return self.grpc if caller in ("pytriton", "flux-grpc", "raw-grpc") else self.http


class ServerFailed(Exception):
    """A server did not start; its log has the reason."""


@contextmanager
def running(server: str, batch: int | None, logs: Path) -> Iterator[Running | None]:
    """Run a server within the context.

    server: the server of a system; "" for the loop, which has none. batch: maximum batch size, for servers that batch.
    Raises ServerFailed, CannotStart.
    """
    if not server:
        yield None
        return
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{server}.log").open("ab") as log:
        if server == "ours":
            http, grpc, metrics = free_ports()
            options = ServerOptions(
                ROOT / "model_repository", CHECKPOINTS, http_port=http, grpc_port=grpc, metrics_port=metrics
            )
            with TritonServer(options, log) as ours:
                ours.wait_until_ready(START_S)
                yield Running(
                    ours.http_url, ours.grpc_url, ours.pid, f"http://127.0.0.1:{options.metrics_port}/metrics"
                )
            return
        http, grpc, metrics = free_ports()
        command = [sys.executable, "-m", f"flux_tools.bench.servers.{_MODULES[server]}", f"--port={http}"]
        command += [f"--grpc-port={grpc}", f"--metrics-port={metrics}", f"--batch={batch or 1}"]
        child = subprocess.Popen(
            command,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_until_ready(child, f"http://127.0.0.1:{http}{_READY[server]}")
            yield Running(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", child.pid)
        finally:
            _end(child)


def _environment() -> dict[str, str]:
    """Return the environment in which PyTriton's stub loads the libpython of this interpreter."""
    folders = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}


def _wait_until_ready(child: subprocess.Popen[bytes], url: str) -> None:
    limit = time.monotonic() + START_S
    while time.monotonic() < limit:
        if child.poll() is not None:
            raise ServerFailed(f"{child.args!r} ended with exit status {child.returncode}")
        with contextlib.suppress(OSError):
            fetch(url, 5)
            return
        time.sleep(0.2)
    raise ServerFailed(f"{child.args!r} was not ready after {START_S:g} s")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to the server, wait for it, then kill its process group."""
    child.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(STOP_S)
    # Its child processes may still be shutting down.
    with contextlib.suppress(ProcessLookupError):
        for _ in range(20):
            os.killpg(child.pid, 0)
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
