"""Runs `scripts/serve` as a process, and finds the processes and files that it started or left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from conftest import DEMO, ROOT
from flux_serving.launch.processes import free_ports


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> float:
    """Returns the seconds until the condition was true."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


class Launched:
    """A launcher on the demo checkpoint, with its own temporary folder, which also isolates its probe."""

    def __init__(self, folder: Path, *arguments: str, rest: bool = True) -> None:
        self.http_port, self.grpc_port, self.metrics_port, self.rest_port = free_ports(4)
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")} | {
            "TMPDIR": str(folder),
            "FLUX_MODEL_PATH": str(DEMO.base),
            "FLUX_REDUX_MODEL_PATH": str(DEMO.redux),
            "FLUX_CONTROLNET_MODEL_PATH": str(DEMO.controlnet),
        }
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "flux_serving.launch", "--model-repository", ROOT / "model_repository"),
                *(f"--http-port={self.http_port}", f"--grpc-port={self.grpc_port}"),
                f"--metrics-port={self.metrics_port}",
                *([f"--gateway-port={self.rest_port}"] if rest else []),
                *arguments,
            ],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        #: Process groups of the Tritons that `triton` has found, and prefixes of their shared-memory regions.
        self.groups: set[int] = set()
        self.prefixes: set[str] = set()

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self.rest_port}"

    def child(self, *words: str) -> psutil.Process | None:
        """Returns the running child whose command line contains one of these words."""
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):
                line = " ".join(child.cmdline())
                if child.status() != psutil.STATUS_ZOMBIE and any(word in line for word in words):
                    return child
        return None

    def triton(self) -> int:
        """Process id of the running Triton, which is also the id of its process group."""
        wait_for(lambda: self.child("bin/tritonserver"), 60, "no tritonserver")
        child = self.child("bin/tritonserver")
        assert child is not None
        self.groups.add(child.pid)
        (prefix,) = (word.partition("prefix-name=")[2] for word in child.cmdline() if "prefix-name=" in word)
        self.prefixes.add(prefix)
        return child.pid

    def triton_or_end(self) -> int | None:
        """As `triton`, or None if the launcher has ended or has no Triton at the moment."""
        with suppress(psutil.Error, AssertionError):
            if self.child("bin/tritonserver") is not None:
                return self.triton()
        return None

    def wait_until_said(self, words: str, times: int = 1, timeout_s: float = 300) -> None:
        def said() -> bool:
            return sum(words in line for line in list(self.log)) >= times or self.process.poll() is not None

        wait_for(said, timeout_s, words)
        assert sum(words in line for line in self.log) >= times, "".join(self.log[-40:])

    def probe(self) -> str:
        """Returns the probe's error; empty if there is none."""
        command = [sys.executable, "-m", "flux_serving.launch.probe", "--timeout=10"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode != 0) == bool(done.stderr), done
        return done.stderr.strip()

    def left(self) -> list[str]:
        """Returns the remaining processes and shared-memory regions of all its Tritons."""
        processes = [f"process {pid}" for group in self.groups for pid in processes_of_group(group)]
        regions = [path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(tuple(self.prefixes))]
        return [*processes, *regions]

    def end(self) -> None:
        """Kill the launcher and every Triton that was seen."""
        self.process.kill()
        self.process.wait()
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        self._reader.join(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(line)


@contextmanager
def launched(folder: Path, *arguments: str, rest: bool = True) -> Iterator[Launched]:
    """Yields a ready launcher. Kills it at the end, with every Triton that was seen."""
    server = Launched(folder, *arguments, rest=rest)
    try:
        server.wait_until_said("ready: ")
        server.triton()
        yield server
    finally:
        server.end()


def processes_of_group(group: int) -> list[int]:
    """Returns the running processes, without zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def stub_of(model: str, group: int) -> int:
    """Returns the process id of a model's process."""
    return next(pid for pid in processes_of_group(group) if model in Path(f"/proc/{pid}/cmdline").read_text())
