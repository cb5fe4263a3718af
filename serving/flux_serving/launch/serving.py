"""Triton and, beside it, the gateway: started, supervised, and ended together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

from flux_serving.launch.gateway import START_S, Gateway
from flux_serving.launch.ports import reserved
from flux_serving.launch.processes import Terminated
from flux_serving.launch.server import ServerOptions, TritonServer
from flux_serving.launch.state import LauncherState, StateFile
from flux_serving.launch.supervisor import RestartPolicy, State, Supervised, all_ready, supervise


class Serving:
    """A context manager: everything is started on entry and ended on exit; by SIGTERM, when Triton is idle.

    What the probe looks at is kept in this launcher's state file.
    """

    def __init__(
        self,
        options: ServerOptions,
        make_gateway: Callable[[], Gateway] | None,
        policy: RestartPolicy,
        say: Callable[[str], None],
        output: IO[bytes] | None = None,
    ) -> None:
        """make_gateway: a gateway that is not started; None where there is none. say: takes a line for the log.

        output: where Triton's log goes; None: where this process writes its own errors.
        """
        self._options = options
        self._make_gateway = make_gateway
        #: Holds the reserved ports from before the start until everything has ended.
        self._reserved = ExitStack()
        self._say = say
        self.triton = Supervised("Triton", lambda: TritonServer(options, output), policy, say)
        gateway_policy = replace(policy, start_timeout_s=START_S)
        self.gateway = make_gateway and Supervised("the gateway", make_gateway, gateway_policy, say)
        self._services: list[Supervised[Any]] = [self.triton, *([self.gateway] if self.gateway else [])]
        self._state = LauncherState(triton=f"{options.host}:{options.http_port}")
        self._state_file: StateFile | None = StateFile()

    def wait_until_ready(self) -> None:
        """Raises CannotStart: a service failed before it was ready. Raises ServiceFailed."""
        supervise(self._services, lambda: all_ready(self._services), self._after_look)

    def run(self) -> None:
        """Serve until an exception, such as a signal's. Raises ServiceFailed: one failed and is not restarted."""
        supervise(self._services, lambda: False, self._after_look)

    def __enter__(self) -> Serving:
        """Raises CannotStart."""
        try:
            self._check()
            for service in self._services:
                service.start()
        except BaseException:
            self._kill()
            raise
        if self.gateway is not None and self.gateway.service is not None:
            self._state = replace(self._state, gateway=self.gateway.service.address)
        self._write_state()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, (SystemExit, KeyboardInterrupt)):
                self._stop(drained=kind is not None and issubclass(kind, Terminated))
        finally:
            self._kill()

    def _check(self) -> None:
        """Reserve the ports and check the gateway, before anything starts. Raises CannotStart."""
        options = self._options
        gateway = self._make_gateway() if self._make_gateway else None
        ports = [options.http_port, options.grpc_port, options.metrics_port, *([gateway.port] if gateway else [])]
        self._reserved.enter_context(reserved(ports))
        if gateway is not None:
            gateway.check()

    def _stop(self, drained: bool) -> None:
        running = (
            f"running requests have {self._options.exit_timeout_s} s" if drained else "without waiting for requests"
        )
        self._say(f"stopping: {running}")
        if self.gateway is not None and self.gateway.service is not None:
            self.gateway.service.stop()
        server = self.triton.service
        if server is not None:
            if drained:
                server.drain()
            server.stop()

    def _kill(self) -> None:
        for service in reversed(self._services):
            service.kill()
        if self._state_file is not None:
            self._state_file.remove()
        self._reserved.close()

    def _after_look(self) -> None:
        self._write_state()
        if self.triton.service is not None:
            try:
                if self.triton.service.replace_guardian():
                    self._say("the guardian of Triton has ended; started another one")
            except OSError as error:
                self._say(f"the guardian of Triton has ended, and another one cannot be started: {error}")

    def _write_state(self) -> None:
        if not (self.triton.was_ready and self.triton.state is not State.READY):
            self._state = replace(self._state, restarting_since=0.0)
        elif not self._state.restarting_since:
            self._state = replace(self._state, restarting_since=time.time())
        try:
            if self._state_file is not None:
                self._state_file.write(self._state)
        except OSError as error:
            self._say(f"the probe needs --host and --http-port, as its file cannot be written: {error}")
            self._state_file = None
