"""Runs a real Prometheus for tests, on its own port."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from flux_serving.launch.processes import end_with_parent, free_ports


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=10).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def value(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def wait_for(self, what: Callable[[], object]) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                if what():
                    return
            except (httpx.TransportError, json.JSONDecodeError):  # while it starts
                pass
            time.sleep(0.2)
        raise AssertionError("it did not come")


@contextmanager
def scraping(folder: Path, config: Mapping[str, Any], targets: int) -> Iterator[Prometheus]:
    """Yields Prometheus once this number of targets was scraped. folder: empty, for its files."""
    (port,) = free_ports(1)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(dict(config)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent,
        )
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        server.wait_for(lambda: len(server.value("up == 1")) == targets)
        yield server
    finally:
        process.terminate()
        process.wait(10)
