"""A liveness probe: `python3 -m flux_serving.launch.probe` ends with 1 if Triton or a model's process is dead.

Triton 2.51 says that it is live and ready while the process of a Python model is gone, and refuses that model's every
request. Run it where Triton runs: it looks at the processes.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

import psutil

from flux_serving.contract.models import MODELS
from flux_serving.launch.stubs import running_instances


class Dead(Exception):
    """Why."""


def look(host: str, port: int, timeout_s: float) -> None:
    """Raises Dead: Triton does not answer, or a Python model has fewer processes than instances."""
    try:
        _ask(f"http://{host}:{port}/v2/health/live", timeout_s)
        # Not the repository's index, an API that the launcher restricts.
        urls = [f"http://{host}:{port}/v2/models/{model.name}/config" for model in MODELS]
        configs = [config for url in urls if (config := _config(url, timeout_s)) is not None]
    except OSError as error:
        raise Dead(f"Triton at {host}:{port} does not answer: {error}") from error
    if not configs:
        raise Dead(f"Triton at {host}:{port} has none of the models")
    running = running_instances(_listener(port))
    for config in configs:
        if config.get("backend") == "python" and running[config["name"]] < (expected := _instances(config)):
            raise Dead(f"{config['name']}: {running[config['name']]} of {expected} processes are alive")


def _instances(config: dict[str, Any]) -> int:
    return sum(group.get("count", 1) * max(1, len(group.get("gpus", []))) for group in config["instance_group"])


def _listener(port: int) -> int:
    """Raises Dead: it is not to be seen from here."""
    for connection in psutil.net_connections("tcp"):
        address: Any = connection.laddr
        if connection.status == psutil.CONN_LISTEN and address.port == port:
            pid: int | None = connection.pid
            if pid and psutil.Process(pid).name() == "tritonserver":
                return pid
    raise Dead(f"no tritonserver of this user listens on port {port}")


def _config(url: str, timeout_s: float) -> dict[str, Any] | None:
    """None: there is no such model here. Raises OSError."""
    try:
        config: dict[str, Any] = _ask(url, timeout_s)
    except urllib.error.HTTPError as error:
        if error.code not in (400, 404):
            raise
        return None
    return config


def _ask(url: str, timeout_s: float) -> Any:
    """The answer, which is JSON or empty. Raises OSError."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=timeout_s) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m flux_serving.launch.probe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8000, help="Triton's; default: 8000")
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds for each question; default: 3")
    options = parser.parse_args()
    try:
        look(options.host, options.http_port, options.timeout)
    except Dead as reason:
        print(f"probe: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
