"""Observers of a server under attack or load: a normal client, a health check, and the memory of every process."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import psutil

from flux_client import FluxClient, Overloaded
from flux_serving.launch.server import TritonServer
from images import drawn_image, encoded

_IMAGE = encoded(drawn_image(1))


class HonestClient(threading.Thread):
    """Requests the same image repeatedly; every result must equal the first one."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.images = 0
        self.overloaded = 0
        self.failures: list[str] = []
        self._url = url
        self._asked = 0
        self._ended = threading.Event()

    def run(self) -> None:
        with FluxClient(self._url) as client:
            expected = self._image(client)
            while not self._ended.wait(0.1):
                try:
                    image = self._image(client)
                except Overloaded:
                    self.overloaded += 1
                    continue
                except Exception as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                    continue
                self.images += 1
                if (difference := int(np.abs(image - expected).max())) > 1:
                    self.failures.append(f"an image differs by {difference} levels")

    def end(self) -> None:
        self._ended.set()
        self.join(120)
        assert not self.is_alive(), "the honest client hangs"

    def _image(self, client: FluxClient) -> npt.NDArray[Any]:
        # Bytes after the end of the file do not change the image, but bypass the response cache.
        self._asked += 1
        image = _IMAGE + self._asked.to_bytes(4, "little")
        (variation,) = client.redux(image, num_inference_steps=3, seed=7, height=64, width=64)
        return np.asarray(variation.image).astype(int)


class Pulse(threading.Thread):
    """Requests `/health` ten times a second, in its own thread."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[int, float]] = []
        self._url = url
        self._ended = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as http:
            while not self._ended.wait(0.1):
                started = time.monotonic()
                status = http.get("/health").status_code
                self.answers.append((status, time.monotonic() - started))

    def end(self) -> None:
        self._ended.set()
        self.join()


def resident(pid: int) -> int:
    """Bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def private_memory(server: TritonServer, *others: int) -> dict[str, int]:
    """Bytes of anonymous memory (RssAnon) of Triton, its models, and the processes with these ids."""
    found: dict[str, int] = {}
    for process in [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]:
        command = process.cmdline()
        name = command[1].split("/")[-3] if "stub" in command[0] else process.name()
        found[name] = found.get(name, 0) + _anonymous(process.pid)
    return found | {psutil.Process(pid).cmdline()[-1]: _anonymous(pid) for pid in others}


def _anonymous(pid: int) -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
