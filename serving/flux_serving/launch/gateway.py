"""Runs the REST gateway as a child process beside Triton."""

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
#: Health checks of a running gateway: seconds between two checks, their timeout in seconds, and the number of
#: consecutive timeouts after which it counts as hung. Each check adds a line to the gateway's log.
_ASK_PAUSE_S, _ASK_S, _UNANSWERED = 10.0, 5.0, 3
#: Prefix of the gateway's own messages.
_SAYS = "flux-gateway: "


class Gateway:
    """One run of the gateway.

    A context manager: the gateway listens from entry on, and returns 503 until Triton is ready. Its settings are
    environment variables.
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
        """triton: host:port of Triton's gRPC.

        output: file of the gateway's log; None: this process's stdout and stderr. exit_timeout_s: seconds that running
        requests have when the gateway ends. loras: the folder of Triton's adapters; None: the environment's.
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

        Raises CannotStart: a setting is wrong, the port is in use, or the gateway is not installed.
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
        """Start the process. Raises CannotStart: the port is in use."""
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
        """Whether the gateway listens, even if it answers with an error because Triton is not ready. Checks once."""
        if not answers(self._health_url, 2):
            return False
        self._asked = time.monotonic()
        return True

    def is_hung(self) -> bool:
        """Returns False: a gateway that does not start in time has failed."""
        return False

    def failure(self) -> str | None:
        """Returns why the gateway no longer serves; None while it does. Checks its health at intervals."""
        if self._process is None:
            return None
        if (status := self._process.poll()) is not None:
            return f"the gateway ended with {exit_reason(status)}"
        if self._asked is not None and time.monotonic() - self._asked > _ASK_PAUSE_S:
            self._unanswered = self._unanswered + 1 if is_silent(self._health_url, _ASK_S) else 0
            self._asked = time.monotonic()
        return "the gateway hangs: it does not answer /health" if self._unanswered >= _UNANSWERED else None

    def stop(self) -> None:
        """End the gateway. Running requests have the exit timeout to complete."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self._exit_timeout_s + 10)
        self.kill()

    def kill(self) -> None:
        """End the gateway at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Gateway:
        """Raises CannotStart: the port is in use, a setting is wrong, or `flux-triton[gateway]` is not installed."""
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
