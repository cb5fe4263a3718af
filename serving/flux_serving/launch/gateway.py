"""The REST gateway as a child process beside Triton: start, end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from flux_contract.errors import CannotStart
from flux_serving.launch.processes import end_with_parent, exit_reason, refuse_taken
from flux_serving.launch.urls import answers, is_silent, loopback_of

#: Seconds that the gateway has to start listening, or to check its settings.
START_S = 60.0
#: Health checks of a running gateway: seconds between two, timeout in seconds, and how many consecutive timeouts mean
#: that it hangs. Each check is a line in the gateway's log.
_ASK_PAUSE_S, _ASK_S, _UNANSWERED = 10.0, 5.0, 3
#: Prefix of its own messages.
_SAYS = "flux-gateway: "


class Gateway:
    """One run of the gateway, a context manager: it listens from entry on, and says 503 until Triton is ready.

    Its settings are variables.
    """

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
        #: Time of the last health check; None until the gateway listens.
        self._asked: float | None = None
        #: Consecutive health checks without an answer.
        self._unanswered = 0

    @property
    def address(self) -> str:
        """host:port"""
        return f"{self._address[0]}:{self._address[1]}"

    @property
    def _health_url(self) -> str:
        host, port = self._address
        return f"http://{loopback_of(host)}:{port}/health"

    @property
    def port(self) -> int:
        return self._address[1]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def check(self) -> None:
        """Run `flux-gateway check`, which reads the settings and the files that they name.

        Raises CannotStart: the settings are wrong, the port is taken, or the gateway is not installed.
        """
        refuse_taken(*self._address)
        command = [sys.executable, "-m", "flux_gateway", "check"]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=START_S,
            )
        except subprocess.TimeoutExpired as error:
            raise CannotStart(f"the gateway did not check its settings within {START_S:.0f} s") from error
        if done.returncode == 0:
            return
        said = (done.stderr.strip() or exit_reason(done.returncode)).splitlines()[-1]
        if said.startswith(_SAYS):
            raise CannotStart(said.removeprefix(_SAYS))
        raise CannotStart(f"the gateway cannot start: {said}; is flux-triton[gateway] installed?")

    def start(self) -> None:
        """Raises CannotStart: the port is taken."""
        refuse_taken(*self._address)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flux_gateway"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            preexec_fn=end_with_parent,
        )

    def is_ready(self) -> bool:
        """Whether it listens; what it answers depends on Triton. Looks once."""
        if not answers(self._health_url, 2):
            return False
        self._asked = time.monotonic()
        return True

    def is_hung(self) -> bool:
        """Never: a gateway that does not start in time has failed."""
        return False

    def failure(self) -> str | None:
        """Why the gateway no longer serves: it has ended or hangs. Checks its health at intervals."""
        if self._process is None:
            return None
        if (status := self._process.poll()) is not None:
            return f"the gateway ended with {exit_reason(status)}"
        if self._asked is not None and time.monotonic() - self._asked > _ASK_PAUSE_S:
            self._unanswered = self._unanswered + 1 if is_silent(self._health_url, _ASK_S) else 0
            self._asked = time.monotonic()
        return "the gateway hangs: it does not answer /health" if self._unanswered >= _UNANSWERED else None

    def stop(self) -> None:
        """End it; running requests have the exit timeout."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._exit_timeout_s + 10)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Gateway:
        """Raises CannotStart: the port is taken, a setting is wrong, or `flux-triton[gateway]` is not installed."""
        try:
            self.start()
            self._wait_until_listening()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_listening(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            if (reason := self.failure()) is not None:
                raise CannotStart(f"{reason}; is flux-triton[gateway] installed?")
            if self.is_ready():
                return
            time.sleep(0.1)
        raise CannotStart(f"the gateway did not listen within {START_S:.0f} s")
