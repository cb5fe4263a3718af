"""The REST gateway as a child process beside Triton: start, end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import IO

from flux_serving.errors import CannotStart
from flux_serving.launch.processes import end_with_parent, refuse_taken

#: Seconds until it listens.
START_S = 60.0


class Gateway:
    """A context manager: it listens from entry on, and says 503 until Triton is ready. Its settings are variables."""

    def __init__(
        self,
        triton: str,
        host: str,
        port: int,
        output: IO[bytes] | None = None,
        *,
        exit_timeout_s: int = 30,
        loras: Path | None = None,
    ) -> None:
        """triton: host:port of its gRPC. output: where the log goes; None: where this process writes.

        exit_timeout_s: seconds that running requests have when it ends. loras: the folder of Triton's adapters; None:
        as the environment says.
        """
        self._exit_timeout_s = exit_timeout_s
        self.url = f"http://{host}:{port}"
        self._address = host, port
        variables = {"TRITON": triton, "HOST": host, "PORT": str(port), "EXIT_TIMEOUT_S": str(exit_timeout_s)}
        if loras is not None:
            variables["LORAS"] = str(loras)
        self._environment = os.environ | {f"FLUX_GATEWAY_{name}": value for name, value in variables.items()}
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Gateway:
        """Raises CannotStart: the port is taken, a setting is wrong, or `flux-triton[gateway]` is not installed."""
        refuse_taken(*self._address)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flux_gateway"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            preexec_fn=end_with_parent,
        )
        try:
            self._wait_until_listening()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _wait_until_listening(self) -> None:
        assert self._process is not None
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if (status := self._process.poll()) is not None:
                raise CannotStart(f"the gateway ended with exit status {status}; is flux-triton[gateway] installed?")
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise CannotStart(f"the gateway did not listen within {START_S:.0f} s")

    def _end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(self._exit_timeout_s + 10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
