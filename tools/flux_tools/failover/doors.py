"""Doors, the routes to the replicas: the client's balancing, HAProxy and Envoy.

Each is a context manager that yields the url for the client.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flux_serving.launch.processes import free_ports
from flux_tools.failover.options import NAMES
from flux_tools.failover.replica import Replica

Door = Callable[[Sequence[Replica], Path], AbstractContextManager[str]]

_PROXIES = Path(__file__).resolve().parents[3] / "deploy/proxy"


@contextmanager
def client(replicas: Sequence[Replica], folder: Path) -> Iterator[str]:
    yield ",".join(replica.grpc_url for replica in replicas)


@contextmanager
def haproxy(replicas: Sequence[Replica], folder: Path) -> Iterator[str]:
    grpc, http = free_ports(2)
    text = (_PROXIES / "haproxy.cfg").read_text()
    for number, replica in enumerate(replicas, 1):
        for line, port in (("grpc", replica.grpc_port), ("http", replica.http_port)):
            here = f"127.0.0.1:{port} check port {replica.http_port}"
            text = text.replace(f"triton-{number}:{8001 if line == 'grpc' else 8000}", here)
    text = text.replace("bind :8001", f"bind 127.0.0.1:{grpc}").replace("bind :8000", f"bind 127.0.0.1:{http}")
    with _running(["haproxy", "-f"], folder / "haproxy.cfg", text, grpc) as url:
        yield url


@contextmanager
def envoy(replicas: Sequence[Replica], folder: Path) -> Iterator[str]:
    (grpc,) = free_ports(1)
    text = (_PROXIES / "envoy.yaml").read_text().replace("address: 0.0.0.0, port_value: 8001", _at(grpc))
    for number, replica in enumerate(replicas, 1):
        text = text.replace(f"address: triton-{number}, port_value: 8001", _at(replica.grpc_port))
        text = text.replace("{port_value: 8000}", f"{{port_value: {replica.http_port}}}", 1)
    with _running(
        ["envoy", "--log-level", "error", "--disable-hot-restart", "-c"], folder / "envoy.yaml", text, grpc
    ) as url:
        yield url


DOORS: dict[str, Door] = dict(zip(NAMES, (client, haproxy, envoy), strict=True))


def _at(port: int) -> str:
    return f"address: 127.0.0.1, port_value: {port}"


@contextmanager
def _running(command: list[str], config: Path, text: str, port: int) -> Iterator[str]:
    """Run a proxy with this configuration within the context, once it listens."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not on PATH")
    config.write_text(text)
    process = subprocess.Popen([*command, str(config)])
    try:
        while True:
            if (status := process.poll()) is not None:
                raise RuntimeError(f"{command[0]} ended with exit status {status}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
