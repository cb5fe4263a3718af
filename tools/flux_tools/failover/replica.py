"""A server as a child process, which can be restarted on the same ports."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import psutil

from flux_contract.metrics import JOBS
from flux_serving.launch.processes import free_ports
from flux_serving.settings import Checkpoints
from flux_tools.metrics import read_samples

#: Seconds that requests in flight have after SIGTERM.
EXIT_TIMEOUT_S = 5


class Replica:
    """A server, run like `scripts/serve`. log: receives its output."""

    def __init__(self, repository: Path, checkpoints: Checkpoints, log: IO[bytes]) -> None:
        self.http_port, self.grpc_port, self.metrics_port = free_ports()
        self._repository = repository
        self._environment = {**os.environ, **checkpoints.as_environment()}
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._started: set[psutil.Process] = set()
        self._regions: set[Path] = set()

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def triton_pid(self) -> int:
        """The process id of Triton, a child of the launcher."""
        assert self._process is not None
        children = psutil.Process(self._process.pid).children()
        (triton,) = (child for child in children if child.name() == "tritonserver")
        return triton.pid

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "flux_serving.launch", f"--model-repository={self._repository}"),
                *(f"--{name}-port={port}" for name, port in ports.items()),
                f"--exit-timeout={EXIT_TIMEOUT_S}",
                # `play` restarts the server.
                "--restart=never",
            ],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith(b"ready"):
            raise RuntimeError(f"a replica did not start: exit status {self._process.wait()}")
        threading.Thread(target=_read_to_the_end, args=(self._process.stdout,), daemon=True).start()
        children = psutil.Process(self._process.pid).children(recursive=True)
        self._started.update(children)
        maps = (Path(each.path) for child in children for each in child.memory_maps())
        self._regions.update(path for path in maps if path.is_relative_to("/dev/shm"))

    def stop(self) -> None:
        """Send SIGTERM and wait until the server has ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def kill_triton(self) -> None:
        """Send SIGKILL to Triton and wait until the launcher has cleaned up and ended."""
        assert self._process is not None
        psutil.Process(self.triton_pid).kill()
        self._process.wait()

    def left(self) -> list[str]:
        """Return the processes and shared memory regions of all starts that still exist."""
        running = [f"{process.pid} {process.name()}" for process in self._started if process.is_running()]
        return running + [str(region) for region in self._regions if region.exists()]

    def done(self) -> float:
        """Return the number of images generated since the start."""
        try:
            samples = read_samples(f"http://127.0.0.1:{self.metrics_port}/metrics")
        except OSError:  # Triton is ready a moment before it publishes its metrics.
            return 0
        return sum(each.value for each in samples if each.name == JOBS.name and each.labels["outcome"] == "done")

    def wait_for_traffic(self, timeout_s: float) -> float:
        """Wait until the server has generated an image, and return the seconds until then."""
        started = time.monotonic()
        while not self.done():
            if time.monotonic() > started + timeout_s:
                raise RuntimeError(f"the replica received no traffic within {timeout_s:g} s")
            time.sleep(0.05)
        return time.monotonic() - started


def _read_to_the_end(pipe: IO[bytes]) -> None:
    with pipe:
        pipe.read()
